use std::collections::BTreeSet;

use ipnet::IpNet;
use proptest::prelude::*;

use super::{AdjRibOut, Batch, Delta};
use crate::model::{Family, PerFamily};

const BOTH: PerFamily<bool> = PerFamily { ipv4: true, ipv6: true };

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A peer that believes what it is told, as the oracle.
#[derive(Default)]
struct Peer(BTreeSet<IpNet>);

impl Peer {
    fn hear(&mut self, batch: &Batch) {
        for prefix in &batch.withdraw {
            assert!(self.0.remove(prefix), "{prefix} was withdrawn without having been told");
        }
        self.0.extend(&batch.announce);
    }
}

#[test]
fn a_change_that_is_taken_back_before_it_left_is_not_sent() {
    let mut rib = AdjRibOut::new(&[net("192.0.2.1/32")], BOTH);
    rib.take(10);
    rib.withdraw(net("192.0.2.1/32"));
    rib.announce(net("192.0.2.1/32"));
    rib.announce(net("192.0.2.2/32"));
    rib.withdraw(net("192.0.2.2/32"));
    assert_eq!(rib.take(10), Batch::default());
}

#[test]
fn end_of_rib_follows_the_last_prefix_once_and_only_for_sendable_families() {
    let sendable = PerFamily { ipv4: true, ipv6: false };
    let desired = [net("192.0.2.1/32"), net("192.0.2.2/32"), net("2001:db8::1/128")];
    let mut rib = AdjRibOut::new(&desired, sendable);
    assert_eq!(rib.take(1).end_of_rib, []);
    let last = rib.take(1);
    assert_eq!((last.announce.len(), last.end_of_rib), (1, vec![Family::Ipv4]));
    assert_eq!(rib.take(1), Batch::default());
    assert_eq!(rib.told(), PerFamily { ipv4: 2, ipv6: 0 });
}

#[test]
fn a_refresh_tells_a_family_again_but_not_what_is_on_its_way_out() {
    let desired = [net("192.0.2.1/32"), net("192.0.2.2/32"), net("2001:db8::1/128")];
    let mut rib = AdjRibOut::new(&desired, BOTH);
    rib.take(10);
    rib.withdraw(net("192.0.2.2/32"));
    rib.refresh(Family::Ipv4);
    let batch = rib.take(10);
    assert_eq!(batch.withdraw, [net("192.0.2.2/32")]);
    assert_eq!(batch.announce, [net("192.0.2.1/32")]);
}

#[test]
fn multicast_prefixes_are_never_told() {
    let mut rib = AdjRibOut::new(&[net("224.0.0.1/32")], BOTH);
    rib.announce(net("ff02::1/128"));
    assert_eq!(rib.take(10).announce, []);
}

#[derive(Clone, Debug)]
enum Step {
    Desire(BTreeSet<u8>),
    Take(usize),
    Refresh(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::collection::btree_set(0u8..24, 0..16).prop_map(Step::Desire),
        (1usize..8).prop_map(Step::Take),
        any::<bool>().prop_map(Step::Refresh),
    ]
}

fn prefixes(numbers: &BTreeSet<u8>) -> BTreeSet<IpNet> {
    let name = |number: u8| match number % 2 {
        0 => format!("192.0.2.{number}/32"),
        _ => format!("2001:db8::{number}/128"),
    };
    numbers.iter().map(|number| net(&name(*number))).collect()
}

proptest! {
    #[test]
    fn a_peer_that_hears_everything_holds_what_is_desired(
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let mut desired = BTreeSet::new();
        let mut rib = AdjRibOut::new(&desired, BOTH);
        let mut peer = Peer::default();
        for step in steps {
            match step {
                Step::Desire(numbers) => {
                    let new = prefixes(&numbers);
                    rib.apply(&Delta::between(&desired, &new));
                    desired = new;
                }
                Step::Take(most) => {
                    let batch = rib.take(most);
                    prop_assert!(batch.announce.len() + batch.withdraw.len() <= most);
                    peer.hear(&batch);
                }
                Step::Refresh(ipv6) => rib.refresh(if ipv6 { Family::Ipv6 } else { Family::Ipv4 }),
            }
            let told = rib.told();
            prop_assert_eq!(told.ipv4 + told.ipv6, peer.0.len());
        }
        while !rib.is_settled() {
            peer.hear(&rib.take(3));
        }
        prop_assert_eq!(peer.0, desired);
    }

    #[test]
    fn a_delta_leads_from_the_old_set_to_the_new(
        old in prop::collection::btree_set(0u8..32, 0..20),
        new in prop::collection::btree_set(0u8..32, 0..20),
    ) {
        let (old, new) = (prefixes(&old), prefixes(&new));
        let delta = Delta::between(&old, &new);
        prop_assert_eq!(&delta.announce, &new.difference(&old).copied().collect::<Vec<_>>());
        prop_assert_eq!(&delta.withdraw, &old.difference(&new).copied().collect::<Vec<_>>());
    }
}
