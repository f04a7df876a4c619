//! Ends flows that have been idle for long, and counts the others.
//!
//! The program itself never looks for them: a part of the records is swept every second, so that
//! each is seen every few seconds, whatever their number. The work is spread evenly.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::mapped::Mapped;
use crate::program::types;
use crate::sys;

/// Seconds in which all records are seen: well below the shortest timeout that matters (10 s for a
/// handshake), above what would keep a CPU busy with a million records.
const ROUND_SECS: u32 = 5;

/// Records that one run looks at: what the program allows.
const PART: u32 = 4096;

/// Runs in one go, while a snapshot may wait: half a millisecond.
const RUNS_PER_PART: usize = 2;

/// Phases of a flow, in the order of their numbers.
pub(crate) const PHASES: [&str; 6] =
    ["opening", "answered", "established", "closing", "closed", "datagrams"];

/// Where the sweep is, and what the last round found.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    next: u32,
    /// Records that are still looked at in this second.
    left: u32,
    counting: [u64; PHASES.len()],
    spent: Duration,
    /// Live flows by phase, of the last whole round.
    pub(crate) found: [u64; PHASES.len()],
    /// CPU time of the last whole round.
    pub(crate) took: Duration,
    /// Flows ended, ever.
    pub(crate) ended: u64,
    /// Runs that the kernel refused, ever.
    pub(crate) failed: u64,
}

impl Sweep {
    /// A second begins.
    pub(crate) fn begin_second(&mut self, flows: &Mapped<types::flow>) {
        self.left = flows.len().div_ceil(ROUND_SECS);
    }

    /// A part of this second's; whether more of it is left. `elapsed` is a clock that only runs
    /// forward.
    pub(crate) fn step(
        &mut self,
        program: Option<BorrowedFd<'_>>,
        flows: &Mapped<types::flow>,
        now: u32,
        elapsed: impl Fn() -> Duration,
    ) -> bool {
        let began = elapsed();
        for _ in 0..RUNS_PER_PART {
            let first = self.next;
            let count = PART.min(self.left).min(flows.len() - first);
            match program.map(|program| run(program, first, count, now)) {
                Some(Ok(ended)) => self.ended += u64::from(ended),
                Some(Err(_)) => self.failed += 1,
                None => {}
            }
            (first..first + count).for_each(|at| self.count(&flows.read(at)));
            self.left -= count;
            self.next = first + count;
            if self.next == flows.len() {
                (self.next, self.left) = (0, 0);
                self.found = std::mem::take(&mut self.counting);
                self.took = std::mem::take(&mut self.spent) + (elapsed().saturating_sub(began));
                return false;
            }
            if self.left == 0 {
                break;
            }
        }
        self.spent += elapsed().saturating_sub(began);
        self.left > 0
    }

    fn count(&mut self, flow: &types::flow) {
        let lives = [types::record_state::RECORD_LIVE, types::record_state::RECORD_MOVING];
        if lives.iter().any(|state| state.0 == flow.state)
            && let Some(counted) = self.counting.get_mut(usize::from(flow.phase))
        {
            *counted += 1;
        }
    }
}

fn run(program: BorrowedFd<'_>, first: u32, count: u32, now: u32) -> io::Result<u32> {
    sys::run(program, &mut types::sweep { first, count, now })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_sees_every_record_once() {
        let flows = Mapped::anonymous(10_000).unwrap();
        for at in (0..10_000).step_by(10) {
            let (state, phase) = (types::record_state::RECORD_LIVE.0, u8::from(at % 20 == 0) * 2);
            flows.write(at, &types::flow { state, phase, ..Default::default() });
        }
        let mut sweep = Sweep::default();
        for _ in 0..ROUND_SECS {
            assert_eq!(sweep.found, [0; 6]);
            sweep.begin_second(&flows);
            while sweep.step(None, &flows, 0, || Duration::ZERO) {}
        }
        assert_eq!(sweep.found, [500, 0, 500, 0, 0, 0]);
        assert_eq!(sweep.next, 0);
    }
}
