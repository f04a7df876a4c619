//! What the machine spent: time not idle, over all cores, and packets on the client's cable.
//!
//! Packets are forwarded in soft interrupts that run on behalf of nobody, or of whoever was
//! running: no process's account holds them. So all time that the machine was not idle is
//! counted, that of client and server included; the same work over a cable without a middle
//! tells how much of it is theirs. It holds on a machine that does nothing else.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Units of /proc/stat in a second, by the kernel's interface (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// Fields of a line of /proc/stat (proc_stat(5)), after its name.
const IDLE: usize = 3;
const IOWAIT: usize = 4;
const STEAL: usize = 7;

/// Time in which some core was free, or taken by the host, since boot: summed over cores.
pub(super) fn unused() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    unused_in(&text).context("/proc/stat has another form")
}

/// Cores whose time /proc/stat counts.
pub(super) fn cores() -> Result<u32> {
    let text = fs::read_to_string("/proc/stat")?;
    let cores = text.lines().filter(|line| line.starts_with("cpu")).count();
    Ok(u32::try_from(cores.saturating_sub(1))?)
}

/// Packets that passed a device of the calling thread's namespace, both ways.
pub(super) fn packets(device: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    packets_in(&text, device).with_context(|| format!("no device {device}"))
}

fn unused_in(text: &str) -> Option<Duration> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> =
        line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let ticks = fields.get(IDLE)? + fields.get(IOWAIT)? + fields.get(STEAL)?;
    Some(Duration::from_secs(ticks) / u32::try_from(TICKS_PER_SECOND).ok()?)
}

fn packets_in(text: &str, device: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| {
        let (name, rest) = line.split_once(':')?;
        (name.trim() == device).then_some(rest)
    })?;
    // Eight columns of what was received, then of what was sent; packets are the second.
    let column = |at: usize| line.split_whitespace().nth(at)?.parse::<u64>().ok();
    Some(column(1)? + column(9)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_stolen_time_is_unused() {
        let text = "cpu  100 1 50 4000 20 3 4 7 0 0\ncpu0 100 1 50 4000 20 3 4 7 0 0\n";
        assert_eq!(unused_in(text), Some(Duration::from_millis(40_270)));
        assert_eq!(unused_in("cpu  1 2\n"), None);
    }

    #[test]
    fn packets_of_both_directions_are_summed() {
        let text = "Inter-|   Receive   |  Transmit\n face |bytes packets errs\n  \
                    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n\
                    to-x: 700 5 0 0 0 0 0 0 900 7 0 0 0 0 0 0\n";
        assert_eq!(packets_in(text, "to-x"), Some(12));
        assert_eq!(packets_in(text, "x"), None);
    }
}
