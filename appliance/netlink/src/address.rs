//! Which VIPs to bind and which to let go: pure.
//!
//! Invariant: only host addresses (/32, /128) that carry our mark are ever removed. A VIP that
//! somebody else bound, on any interface, is left as it is: the host already answers for it.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// The kernel's `IFA_PROTO` of our addresses (Linux 5.18 and later), 72, the letter H. Values 1
/// to 3 belong to the kernel; iproute2 assigns no others.
pub const ADDRESS_PROTOCOL: u8 = 72;

/// An address as the kernel holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldAddress {
    /// The interface that has it.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// Prefix length in bits.
    pub prefix_len: u8,
    /// Whether it carries our mark of VIPs, or was remembered where the kernel keeps none.
    pub ours: bool,
    /// Whether it carries our mark of source addresses ([`crate::source`]), or was remembered.
    pub source: bool,
}

impl HeldAddress {
    /// Whether it is a VIP that may be removed by us.
    pub(crate) fn is_ours(&self) -> bool {
        self.ours && self.prefix_len == host_prefix_len(self.address)
    }

    /// Whether it is a source address that may be removed by us.
    pub(crate) fn is_source(&self) -> bool {
        self.source && self.prefix_len == host_prefix_len(self.address)
    }
}

/// 32 or 128.
pub fn host_prefix_len(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// All addresses of the host, by address.
pub type HeldAddresses = BTreeMap<IpAddr, Vec<HeldAddress>>;

/// What stands between an address and being bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressDecision {
    /// Nothing to do, and the host has it from us.
    Bound,
    /// Nothing to do: somebody else gave it to the host.
    Foreign,
    /// It is of a kind that is never bound.
    Unbindable,
    /// Bind it.
    Add,
    /// Nothing to do, and the host does not have it from us.
    Absent,
}

/// Operations on addresses. Additions come first: an address that moves between interfaces is
/// never gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPlan {
    /// Host addresses to add to the interface.
    pub add: Vec<IpAddr>,
    /// Addresses of ours to remove.
    pub remove: Vec<HeldAddress>,
}

/// Decides about one address; `interface` is where VIPs are bound.
pub fn decide(
    address: IpAddr,
    wanted: bool,
    interface: u32,
    held: &HeldAddresses,
    plan: &mut AddressPlan,
) -> AddressDecision {
    let here = held.get(&address).map(Vec::as_slice).unwrap_or_default();
    let foreign = here.iter().any(|held| !held.is_ours());
    let keep = wanted && !foreign && is_bindable(address);
    let is_kept = |held: &HeldAddress| keep && held.interface == interface;
    plan.remove.extend(here.iter().filter(|held| held.is_ours() && !is_kept(held)));
    if !wanted {
        AddressDecision::Absent
    } else if foreign {
        AddressDecision::Foreign
    } else if !is_bindable(address) {
        AddressDecision::Unbindable
    } else if here.iter().any(is_kept) {
        AddressDecision::Bound
    } else {
        plan.add.push(address);
        AddressDecision::Add
    }
}

/// Whether an address can be a host's own. Loopback addresses are always there already.
pub fn is_bindable(address: IpAddr) -> bool {
    let reserved = match address {
        IpAddr::V4(address) => address.is_broadcast() || address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(reserved || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// Makes the operations in a picture of the kernel, as the kernel makes them.
pub fn apply(plan: &AddressPlan, interface: u32, held: &mut HeldAddresses) {
    for &address in &plan.add {
        let prefix_len = host_prefix_len(address);
        held.entry(address).or_default().push(HeldAddress {
            interface,
            address,
            prefix_len,
            ours: true,
            source: false,
        });
    }
    for gone in &plan.remove {
        forget(gone, held);
    }
}

/// Takes one address out of a picture.
pub fn forget(gone: &HeldAddress, held: &mut HeldAddresses) {
    if let Some(here) = held.get_mut(&gone.address) {
        here.retain(|held| held != gone);
        if here.is_empty() {
            held.remove(&gone.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    const INTERFACE: u32 = 1;

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0_u8..5).prop_map(|last| IpAddr::from([192, 0, 2, last])),
            (0_u16..5).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])),
            Just(IpAddr::from([127, 0, 0, 1])),
        ]
    }

    fn any_held() -> impl Strategy<Value = HeldAddresses> {
        let one = (any_address(), 1_u32..3, any::<bool>(), any::<bool>());
        vec(one, 0..8).prop_map(|all| {
            let mut held = HeldAddresses::new();
            for (address, interface, ours, wide) in all {
                let prefix_len = if wide { 24 } else { host_prefix_len(address) };
                let here = held.entry(address).or_default();
                // The kernel holds an address once per interface.
                if here.iter().all(|held: &HeldAddress| held.interface != interface) {
                    here.push(HeldAddress { interface, address, prefix_len, ours, source: false });
                }
            }
            held
        })
    }

    fn plan_all(
        wanted: &BTreeSet<IpAddr>,
        held: &HeldAddresses,
    ) -> (AddressPlan, BTreeMap<IpAddr, AddressDecision>) {
        let mut plan = AddressPlan::default();
        let all: BTreeSet<_> = wanted.iter().chain(held.keys()).copied().collect();
        let decisions = all
            .into_iter()
            .map(|at| (at, decide(at, wanted.contains(&at), INTERFACE, held, &mut plan)))
            .collect();
        (plan, decisions)
    }

    proptest! {
        #[test]
        fn foreign_addresses_stay_and_every_other_wish_is_met_once(
            wanted in btree_set(any_address(), 0..8),
            before in any_held(),
        ) {
            let (plan, decisions) = plan_all(&wanted, &before);
            for gone in &plan.remove {
                prop_assert!(gone.ours && gone.prefix_len == host_prefix_len(gone.address));
            }
            let mut after = before.clone();
            apply(&plan, INTERFACE, &mut after);
            for (address, decision) in decisions {
                let here = after.get(&address).cloned().unwrap_or_default();
                let ours = here.iter().filter(|held| held.is_ours()).count();
                let expected = matches!(decision, AddressDecision::Add | AddressDecision::Bound);
                prop_assert_eq!(ours, usize::from(expected), "{} {:?}", address, decision);
                let foreign = |held: &HeldAddresses| -> Vec<HeldAddress> {
                    let here = held.get(&address).cloned().unwrap_or_default();
                    here.into_iter().filter(|held| !held.is_ours()).collect()
                };
                prop_assert_eq!(foreign(&before), foreign(&after));
            }
            prop_assert_eq!(plan_all(&wanted, &after).0, AddressPlan::default());
        }
    }

    #[test]
    fn loopback_and_link_local_addresses_are_never_bound() {
        for address in ["127.0.0.9", "::1", "0.0.0.0", "224.0.0.1", "169.254.1.1", "fe80::1"] {
            let mut plan = AddressPlan::default();
            let held = HeldAddresses::new();
            let decision = decide(address.parse().unwrap(), true, 1, &held, &mut plan);
            assert_eq!(decision, AddressDecision::Unbindable, "{address}");
            assert_eq!(plan, AddressPlan::default());
        }
    }
}
