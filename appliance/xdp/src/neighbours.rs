//! Keeps the next hops of the routes to backends resolved, so that the first packet of a flow
//! finds the neighbour's address.
//!
//! From kernel 5.16 on the kernel keeps a neighbour entry fresh that it is asked to manage; before,
//! it is asked to use the entry again and again. Clients are reached by whoever brought their
//! packets; a hop that is unresolved all the same is the business of the deferrals.

use std::collections::BTreeSet;

use crate::control::Hop;
use crate::netlink::Netlink;

/// Seconds between two uses of an entry: half of the time for which the kernel trusts one without
/// hearing of it (`base_reachable_time`, 30 s, of which it takes half at least).
const USE_SECS: u64 = 15;

/// Seconds after which managed entries are asked for again: an operator may have flushed them.
const MANAGE_SECS: u64 = 60;

/// Next hops that are kept resolved.
#[derive(Debug)]
pub(crate) struct Neighbours {
    managed: bool,
    kept: BTreeSet<Hop>,
    /// When all of them are asked for again.
    due: u64,
    /// Hops that the kernel refused, when they were last asked for.
    pub(crate) refused: usize,
}

impl Neighbours {
    /// None yet. `kernel` is the running release.
    pub(crate) fn new(kernel: (u32, u32)) -> Self {
        Self { managed: kernel >= (5, 16), kept: BTreeSet::new(), due: 0, refused: 0 }
    }

    /// Asks for those that are new, for all of them when it is time, and lets go of the others.
    pub(crate) fn tend(&mut self, netlink: &mut Netlink, hops: BTreeSet<Hop>, now: u64) {
        let all = now >= self.due;
        if all {
            self.due = now + if self.managed { MANAGE_SECS } else { USE_SECS };
            self.refused = 0;
        }
        for hop in &hops {
            if (all || !self.kept.contains(hop))
                && let Err(error) = netlink.resolve(hop.1, hop.0, self.managed)
            {
                // A hop without addresses of the link layer (a tunnel, loopback) needs none.
                tracing::debug!(next_hop = %hop.1, link = hop.0, %error, "not kept resolved");
                self.refused += 1;
            }
        }
        if self.managed {
            for hop in self.kept.difference(&hops) {
                // Whoever needs it meanwhile has it resolved again.
                let _ = netlink.forget(hop.1, hop.0);
            }
        }
        self.kept = hops;
    }

    /// How many are kept.
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }
}

/// Major and minor number of the running kernel.
pub(crate) fn kernel_release() -> (u32, u32) {
    let uname = rustix::system::uname();
    parse_release(&uname.release().to_string_lossy())
}

fn parse_release(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|digits| digits.parse().ok()).unwrap_or(0);
    (next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(parse_release("6.1.0-44-cloud-amd64"), (6, 1));
        assert_eq!(parse_release("5.15"), (5, 15));
        assert!(parse_release("10.0-rc1") > (5, 16));
        assert_eq!(parse_release("unheard of"), (0, 0));
    }
}
