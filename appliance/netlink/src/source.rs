//! Which source addresses of `nat` to bind, to leave for a while, and to let go: pure.
//!
//! Invariant: only host addresses (/32, /128) that carry the mark of sources are ever removed, and
//! none before flows that are idle have ended. A flow that has packets all the time may live
//! longer: where the network finds the address by this host's answers (ARP), it ends then.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::address::{HeldAddress, HeldAddresses, is_bindable};

/// The kernel's `IFA_PROTO` of source addresses, 73: another than the VIPs' (72), because they are
/// let go by another rule, also by a daemon that finds them at its start.
pub const SOURCE_PROTOCOL: u8 = 73;

/// What stands between a source address and being bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceDecision {
    /// Nothing to do, and the host has it from us.
    Bound,
    /// Nothing to do: somebody else gave it to the host, or it is a VIP.
    Foreign,
    /// It is of a kind that is never bound.
    Unbindable,
    /// Bind it.
    Add,
    /// Not configured any more, bound until then, in milliseconds.
    Lingers {
        /// When it is let go.
        until_ms: u64,
    },
    /// Nothing to do, and the host does not have it from us.
    Absent,
}

/// Since when addresses that are bound are not configured any more, in milliseconds. As many as
/// are bound.
#[derive(Clone, Debug, Default)]
pub struct Lingering {
    since: BTreeMap<IpAddr, Since>,
}

#[derive(Clone, Copy, Debug)]
struct Since {
    ms: u64,
    /// It is over: whoever lets the address go tries again in his own time.
    over: bool,
}

impl Lingering {
    /// When the next address is due to be let go.
    pub fn next_due_ms(&self, linger_ms: u64) -> Option<u64> {
        let waiting = self.since.values().filter(|since| !since.over);
        waiting.map(|since| since.ms.saturating_add(linger_ms)).min()
    }

    /// The address was let go.
    pub fn forget(&mut self, address: &IpAddr) {
        self.since.remove(address);
    }

    /// Decides about one address; `interface` is where sources are bound. Additions come before
    /// removals: an address that moves between interfaces is never gone.
    pub fn decide(
        &mut self,
        address: IpAddr,
        wanted: bool,
        place: Place<'_>,
        plan: &mut SourcePlan,
    ) -> SourceDecision {
        let here = place.held.get(&address).map(Vec::as_slice).unwrap_or_default();
        let mut ours = here.iter().filter(|held| held.is_source()).peekable();
        if !wanted {
            return self.let_go(address, ours.copied().collect(), &place, plan);
        }
        self.since.remove(&address);
        if here.iter().any(|held| !held.is_source()) {
            plan.remove.extend(ours);
            return SourceDecision::Foreign;
        }
        if !is_bindable(address) {
            return SourceDecision::Unbindable;
        }
        let decision = match here.iter().any(|held| held.interface == place.interface) {
            true => SourceDecision::Bound,
            false => {
                plan.add.push(address);
                SourceDecision::Add
            }
        };
        plan.remove.extend(ours.by_ref().filter(|held| held.interface != place.interface));
        decision
    }

    fn let_go(
        &mut self,
        address: IpAddr,
        ours: Vec<HeldAddress>,
        place: &Place<'_>,
        plan: &mut SourcePlan,
    ) -> SourceDecision {
        if ours.is_empty() {
            self.since.remove(&address);
            return SourceDecision::Absent;
        }
        let first = Since { ms: place.now_ms, over: false };
        let since = self.since.entry(address).or_insert(first);
        let until_ms = since.ms.saturating_add(place.linger_ms);
        since.over = place.now_ms >= until_ms;
        if !since.over {
            return SourceDecision::Lingers { until_ms };
        }
        plan.remove.extend(ours);
        SourceDecision::Absent
    }
}

/// What decisions are made by.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Where sources are bound.
    pub interface: u32,
    /// What the host has.
    pub held: &'a HeldAddresses,
    /// The time, in milliseconds.
    pub now_ms: u64,
    /// For how long what is not configured any more stays, in milliseconds.
    pub linger_ms: u64,
}

/// Operations on source addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourcePlan {
    /// Host addresses to add to the interface.
    pub add: Vec<IpAddr>,
    /// Addresses of ours to remove.
    pub remove: Vec<HeldAddress>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::{forget, host_prefix_len};

    const INTERFACE: u32 = 1;
    const LINGER_MS: u64 = 1000;

    fn address(last: u8) -> IpAddr {
        match last % 2 {
            0 => [198, 51, 100, last].into(),
            _ => std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
        }
    }

    fn held(address: IpAddr, interface: u32, source: bool, ours: bool) -> HeldAddress {
        let prefix_len = host_prefix_len(address);
        HeldAddress { interface, address, prefix_len, ours, source }
    }

    fn apply(plan: &SourcePlan, all: &mut HeldAddresses) {
        for added in &plan.add {
            all.entry(*added).or_default().push(held(*added, INTERFACE, true, false));
        }
        plan.remove.iter().for_each(|gone| forget(gone, all));
    }

    proptest! {
        #[test]
        fn what_is_configured_is_bound_and_what_was_stays_as_long_as_flows_may(
            steps in prop::collection::vec((0_u8..6, any::<bool>(), 0_u64..700), 1..40),
            foreign in prop::collection::btree_set(0_u8..6, 0..3),
            elsewhere in prop::collection::btree_set(6_u8..8, 0..2),
        ) {
            let (mut lingering, mut now_ms) = (Lingering::default(), 0);
            let mut all = HeldAddresses::new();
            for last in &foreign {
                all.insert(address(*last), vec![held(address(*last), 2, false, last % 3 == 0)]);
            }
            // What an earlier run bound on another interface.
            for last in &elsewhere {
                all.insert(address(*last), vec![held(address(*last), 2, true, false)]);
            }
            let mut configured = std::collections::BTreeMap::<u8, (bool, u64)>::new();
            elsewhere.iter().for_each(|last| { configured.insert(*last, (false, 0)); });
            // The first step is a look at how things are.
            for (last, wanted, passed) in std::iter::once((0, false, 0)).chain(steps) {
                now_ms += passed;
                let known = configured.entry(last).or_insert((false, 0));
                if known.0 != wanted {
                    *known = (wanted, now_ms);
                }
                for (last, (wanted, since)) in &configured {
                    let mut plan = SourcePlan::default();
                    let at = address(*last);
                    let place =
                        Place { interface: INTERFACE, held: &all, now_ms, linger_ms: LINGER_MS };
                    let before = all.get(&at).cloned().unwrap_or_default();
                    let decision = lingering.decide(at, *wanted, place, &mut plan);
                    prop_assert!(plan.remove.iter().all(HeldAddress::is_source));
                    apply(&plan, &mut all);
                    let here = all.get(&at).cloned().unwrap_or_default();
                    let bound = here.iter().any(HeldAddress::is_source);
                    let was_bound = before.iter().any(HeldAddress::is_source);
                    if foreign.contains(last) {
                        prop_assert_eq!(&here, &before);
                    } else if *wanted {
                        prop_assert_eq!(here, [held(at, INTERFACE, true, false)]);
                    } else if was_bound && now_ms < since + LINGER_MS {
                        prop_assert!(bound, "{} {:?}", at, decision);
                        let until_ms = since + LINGER_MS;
                        prop_assert_eq!(decision, SourceDecision::Lingers { until_ms });
                        prop_assert!(lingering.next_due_ms(LINGER_MS).unwrap() <= until_ms);
                    } else {
                        prop_assert!(!bound, "{} {:?}", at, decision);
                    }
                }
            }
        }
    }

    #[test]
    fn what_nobody_could_answer_to_is_not_bound() {
        let mut plan = SourcePlan::default();
        let empty = HeldAddresses::new();
        let place = Place { interface: 1, held: &empty, now_ms: 0, linger_ms: 0 };
        let decision = Lingering::default().decide([127, 0, 0, 9].into(), true, place, &mut plan);
        assert_eq!((decision, plan), (SourceDecision::Unbindable, SourcePlan::default()));
    }
}
