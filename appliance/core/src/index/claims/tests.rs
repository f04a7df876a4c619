use std::collections::BTreeSet;

use super::*;
use crate::{
    LabelRequirement, LabelSelector, LabelTest, ObjectRef, Pool, PoolSelector, Protocol,
    SharingNamespaces, SourceId,
};

mod effort;
mod order;

/// Claims with the policy that they are settled under.
#[derive(Default)]
struct Settled {
    claims: Claims,
    policy: Policy,
}

impl Settled {
    fn under(pools: Vec<Pool>) -> Self {
        let mut settled = Self::default();
        settled.set_pools(pools);
        settled
    }

    fn set_pools(&mut self, pools: Vec<Pool>) {
        let policy = Policy { pools, ..self.policy.clone() };
        self.claims.configure(&self.policy, &policy);
        self.policy = policy;
        self.claims.settle(true);
    }

    fn want(&mut self, name: &str, want: Want) {
        self.claims.want(&object(name), Some(want));
    }

    fn settle(&mut self) -> BTreeSet<ObjectRef> {
        self.claims.settle(true)
    }

    fn outcome(&self, name: &str) -> Outcome {
        self.claims.outcome(&object(name)).cloned().unwrap_or_default()
    }

    fn desired(&self, name: &str) -> Vec<String> {
        self.outcome(name).desired.iter().map(ToString::to_string).collect()
    }

    fn served(&self, name: &str) -> Vec<String> {
        self.outcome(name).served.iter().map(ToString::to_string).collect()
    }

    fn reasons(&self, name: &str) -> Vec<FaultReason> {
        self.outcome(name).faults.iter().map(|fault| fault.reason).collect()
    }

    fn said(&self, name: &str) -> String {
        self.outcome(name).faults.iter().map(|fault| fault.message.clone()).collect()
    }
}

fn pool(name: &str, first: &str, last: &str) -> Pool {
    Pool::new(name, vec![(ip(first), ip(last))])
}

/// Two addresses.
fn small() -> Vec<Pool> {
    vec![pool("main", "192.0.2.1", "192.0.2.2")]
}

fn object(name: &str) -> ObjectRef {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    ObjectRef::service(&SourceId::cluster("c"), namespace, name)
}

fn want(created_secs: i64) -> Want {
    Want {
        families: vec![Family::V4],
        any_family: false,
        requested: vec![],
        pool: None,
        recorded: vec![],
        created_secs,
        sharing: None,
        ports: ports(&[80]),
        labels: Labels::default(),
        fixed: false,
    }
}

fn ports(numbers: &[u16]) -> Vec<WantedPort> {
    let port = |port: &u16| WantedPort { protocol: Protocol::Tcp, port: *port, http: false };
    numbers.iter().map(port).collect()
}

fn sharing(key: &str) -> Option<Arc<Sharing>> {
    let namespaces = SharingNamespaces::Listed(BTreeSet::new());
    Some(Arc::new(Sharing { key: key.into(), namespaces, backends: None }))
}

fn shared(created_secs: i64, key: &str, port: u16) -> Want {
    Want { sharing: sharing(key), ports: ports(&[port]), ..want(created_secs) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn recorded(created_secs: i64, address: &str) -> Want {
    Want { recorded: vec![ip(address)], ..want(created_secs) }
}

fn requesting(created_secs: i64, address: &str) -> Want {
    Want { requested: vec![ip(address)], ..want(created_secs) }
}

fn label(key: &str, value: &str) -> LabelSelector {
    let test = LabelTest::In(BTreeSet::from([value.into()]));
    let requirements = vec![LabelRequirement { key: key.into(), test }];
    LabelSelector { text: format!("{key}={value}").into(), requirements }
}

fn labels(entries: &[(&str, Option<&str>)]) -> Labels {
    let entries = entries.iter().map(|(key, value)| ((*key).into(), value.map(Into::into)));
    Labels(entries.collect())
}

#[test]
fn whoever_waits_gets_a_weaker_ones_place_though_the_first_in_line_has_gone_too() {
    let mut settled = Settled::under(small());
    settled.want("shop/c", Want { recorded: vec![ip("192.0.2.1")], ..shared(0, "k", 80) });
    settled.want("shop/d", want(0));
    settled.want("shop/a", shared(1, "k", 81));
    settled.want("blog/a", want(1));
    settled.want("blog/c", want(0));
    settled.settle();
    assert_eq!(settled.desired("shop/a"), ["192.0.2.1"], "beside shop/c");
    assert_eq!(settled.desired("blog/c"), ["192.0.2.2"]);
    assert_eq!(settled.reasons("shop/d"), [FaultReason::PoolFull]);
    assert_eq!(settled.reasons("blog/a"), [FaultReason::PoolFull]);
    settled.claims.want(&object("shop/c"), None);
    settled.claims.want(&object("shop/d"), None);
    settled.settle();
    assert_eq!(settled.desired("blog/a"), ["192.0.2.1"]);
    assert_eq!(settled.reasons("shop/a"), [FaultReason::PoolFull]);
}

#[test]
fn a_free_address_is_proposed_and_not_served() {
    let mut settled = Settled::under(small());
    settled.want("a", want(1));
    settled.settle();
    assert_eq!(settled.desired("a").len(), 1);
    assert!(settled.desired("a")[0].starts_with("192.0.2."));
    assert!(settled.served("a").is_empty());
}

#[test]
fn an_object_that_comes_back_gets_its_former_address() {
    let mut settled = Settled::under(vec![pool("main", "192.0.2.0", "192.0.2.255")]);
    settled.want("a", want(1));
    settled.settle();
    let before = settled.desired("a");
    settled.claims.want(&object("a"), None);
    settled.want("b", want(2));
    settled.settle();
    settled.want("a", want(3));
    settled.settle();
    assert_eq!(settled.desired("a"), before);
    assert_ne!(settled.desired("b"), before);
}

#[test]
fn a_recorded_address_is_served_and_never_moves() {
    let mut settled = Settled::under(small());
    settled.want("a", recorded(5, "192.0.2.2"));
    settled.want("b", want(1));
    settled.settle();
    assert_eq!(settled.served("a"), ["192.0.2.2"]);
    assert_eq!(settled.desired("a"), ["192.0.2.2"]);
    assert_eq!(settled.desired("b"), ["192.0.2.1"]);
}

#[test]
fn nothing_is_proposed_before_every_source_has_listed() {
    let mut settled = Settled::under(small());
    settled.want("a", want(1));
    settled.claims.settle(false);
    assert!(settled.desired("a").is_empty() && settled.reasons("a").is_empty());
    settled.settle();
    assert_eq!(settled.desired("a").len(), 1);
}

#[test]
fn a_full_pool_is_a_reason_that_ends_when_an_address_is_freed() {
    let mut settled = Settled::under(small());
    for (name, created) in [("a", 1), ("b", 2), ("c", 3)] {
        settled.want(name, want(created));
    }
    settled.settle();
    assert_eq!(settled.reasons("c"), [FaultReason::PoolFull]);
    settled.claims.want(&object("a"), None);
    settled.settle();
    assert_eq!(settled.desired("c").len(), 1);
    assert!(settled.reasons("c").is_empty());
}

#[test]
fn of_two_that_ask_for_one_address_the_older_gets_it_in_any_order() {
    for order in [["old", "new"], ["new", "old"]] {
        let mut settled = Settled::under(small());
        for name in order {
            settled.want(name, requesting(if name == "old" { 1 } else { 2 }, "192.0.2.2"));
            settled.settle();
        }
        assert_eq!(settled.desired("old"), ["192.0.2.2"]);
        assert_eq!(settled.reasons("new"), [FaultReason::AddressTaken]);
        settled.claims.want(&object("old"), None);
        settled.settle();
        assert_eq!(settled.desired("new"), ["192.0.2.2"]);
    }
}

#[test]
fn an_address_outside_every_pool_is_refused() {
    let mut settled = Settled::under(small());
    settled.want("a", requesting(1, "203.0.113.9"));
    settled.settle();
    assert_eq!(settled.reasons("a"), [FaultReason::AddressOutsidePools]);
}

#[test]
fn a_new_request_that_cannot_be_had_leaves_the_recorded_address_in_service() {
    let mut settled = Settled::under(small());
    let asks = Want { requested: vec![ip("203.0.113.9")], ..recorded(1, "192.0.2.1") };
    settled.want("a", asks);
    settled.settle();
    assert_eq!(settled.served("a"), ["192.0.2.1"]);
    assert_eq!(settled.desired("a"), ["192.0.2.1"]);
    assert_eq!(settled.reasons("a"), [FaultReason::AddressOutsidePools]);
}

#[test]
fn a_request_moves_the_desired_address_while_the_old_one_is_served() {
    let mut settled = Settled::under(small());
    let asks = Want { requested: vec![ip("192.0.2.2")], ..recorded(1, "192.0.2.1") };
    settled.want("a", asks);
    settled.settle();
    assert_eq!(settled.served("a"), ["192.0.2.1"]);
    assert_eq!(settled.desired("a"), ["192.0.2.2"]);
}

#[test]
fn a_pool_asked_for_moves_the_object_into_it_and_a_full_one_leaves_it_where_it_is() {
    let other = pool("other", "198.51.100.1", "198.51.100.1");
    let mut settled = Settled::under([small(), vec![other]].concat());
    let asks = Want { pool: Some("other".into()), ..recorded(1, "192.0.2.1") };
    settled.want("a", asks.clone());
    settled.settle();
    assert_eq!(settled.served("a"), ["192.0.2.1"]);
    assert_eq!(settled.desired("a"), ["198.51.100.1"]);
    settled.want("b", recorded(9, "198.51.100.1"));
    settled.settle();
    assert_eq!(settled.desired("a"), ["192.0.2.1"]);
    assert_eq!(settled.reasons("a"), [FaultReason::PoolFull]);
}

#[test]
fn two_statuses_with_one_address_leave_it_with_the_older_object() {
    let mut settled = Settled::under(small());
    settled.want("young", recorded(9, "192.0.2.1"));
    settled.settle();
    settled.want("old", recorded(1, "192.0.2.1"));
    settled.settle();
    assert_eq!(settled.served("old"), ["192.0.2.1"]);
    assert!(settled.served("young").is_empty());
    assert_eq!(settled.desired("young"), ["192.0.2.2"]);
}

#[test]
fn a_pool_is_used_by_name_and_only_automatic_pools_without_one() {
    let named = Pool { auto_assign: false, ..pool("named", "192.0.2.1", "192.0.2.1") };
    let auto = pool("auto", "198.51.100.1", "198.51.100.1");
    let mut settled = Settled::under(vec![named, auto]);
    settled.want("a", want(1));
    settled.want("b", Want { pool: Some("named".into()), ..want(2) });
    settled.want("c", Want { pool: Some("absent".into()), ..want(3) });
    settled.settle();
    assert_eq!(settled.desired("a"), ["198.51.100.1"]);
    assert_eq!(settled.desired("b"), ["192.0.2.1"]);
    assert_eq!(settled.reasons("c"), [FaultReason::NoPool]);
}

#[test]
fn pools_are_tried_by_priority_then_the_one_that_selects_then_the_first() {
    let one =
        |name: &str, last: u8| pool(name, &format!("192.0.2.{last}"), &format!("192.0.2.{last}"));
    let selects =
        PoolSelector { namespaces: BTreeSet::from(["default".into()]), ..PoolSelector::default() };
    let mut settled = Settled::under(vec![
        one("first", 1),
        one("second", 2),
        Pool { selects, ..one("selects", 3) },
        Pool { priority: 10, ..one("cheap", 4) },
        Pool { priority: 200, ..one("dear", 5) },
    ]);
    for (name, created) in [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)] {
        settled.want(name, want(created));
    }
    settled.settle();
    let order = ["a", "b", "c", "d", "e"].map(|name| settled.desired(name).join(""));
    let expected = ["192.0.2.4", "192.0.2.3", "192.0.2.1", "192.0.2.2", "192.0.2.5"];
    assert_eq!(order, expected);
    // What becomes free in a better pool goes to whoever made do with a worse one.
    settled.claims.want(&object("a"), None);
    settled.settle();
    assert_eq!(settled.desired("b"), ["192.0.2.4"]);
    assert_eq!(settled.desired("e"), ["192.0.2.2"]);
}

#[test]
fn a_pool_serves_only_namespaces_and_labels_that_it_selects() {
    let selects = PoolSelector {
        namespace_labels: vec![label("team", "shop")],
        service_labels: vec![label("tier", "edge")],
        ..PoolSelector::default()
    };
    let mut settled = Settled::under(vec![Pool { selects, ..small().remove(0) }]);
    let edge = Want { labels: labels(&[("tier", Some("edge"))]), ..want(1) };
    settled.want("shop/in", edge.clone());
    settled.want("shop/inner", Want { labels: labels(&[("tier", None)]), ..want(2) });
    settled.want("blog/out", Want { requested: vec![ip("192.0.2.2")], ..edge.clone() });
    settled.want("blog/named", Want { pool: Some("main".into()), ..edge });
    settled.settle();
    // Nothing is given away before the namespace's labels are known.
    assert_eq!(settled.reasons("shop/in"), [FaultReason::LabelsUnknown]);
    for (namespace, team) in [("shop", "shop"), ("blog", "press")] {
        let labels = labels(&[("team", Some(team))]);
        settled.claims.note_namespace(&SourceId::cluster("c"), &namespace.into(), Some(labels));
    }
    settled.settle();
    assert_eq!(settled.desired("shop/in").len(), 1);
    assert_eq!(settled.reasons("shop/inner"), [FaultReason::NoPool]);
    assert_eq!(settled.reasons("blog/out"), [FaultReason::PoolForbidden]);
    assert_eq!(settled.reasons("blog/named"), [FaultReason::PoolForbidden]);
    assert!(settled.said("blog/out").contains("\"main\""), "{}", settled.said("blog/out"));
}

#[test]
fn addresses_that_a_pool_skips_are_neither_chosen_nor_given() {
    let skipping = Pool { skip_0_and_255: true, ..pool("main", "192.0.2.255", "192.0.3.1") };
    let mut settled = Settled::under(vec![skipping]);
    settled.want("a", want(1));
    settled.want("b", want(2));
    settled.want("c", requesting(3, "192.0.3.0"));
    settled.want("d", recorded(4, "192.0.2.255"));
    settled.settle();
    assert_eq!(settled.desired("a"), ["192.0.3.1"]);
    assert_eq!(settled.reasons("b"), [FaultReason::PoolFull]);
    assert_eq!(settled.reasons("c"), [FaultReason::AddressOutsidePools]);
    assert_eq!(settled.served("d"), ["192.0.2.255"]);
    assert!(settled.said("d").contains("stays in service"));
}

#[test]
fn what_is_recorded_stays_when_its_pool_shrinks_goes_or_turns_away() {
    let mut settled = Settled::under(vec![pool("main", "192.0.2.1", "192.0.2.9")]);
    settled.want("a", recorded(1, "192.0.2.7"));
    settled.settle();
    let others =
        PoolSelector { namespaces: BTreeSet::from(["other".into()]), ..PoolSelector::default() };
    let turned_away = Pool { selects: others, ..pool("main", "192.0.2.1", "192.0.2.9") };
    for (pools, reason) in [
        (small(), FaultReason::AddressOutsidePools),
        (vec![], FaultReason::AddressOutsidePools),
        (vec![turned_away], FaultReason::PoolForbidden),
    ] {
        settled.set_pools(pools);
        assert_eq!(settled.served("a"), ["192.0.2.7"]);
        assert_eq!(settled.desired("a"), ["192.0.2.7"]);
        assert_eq!(settled.reasons("a"), [reason]);
        assert!(settled.said("a").contains("stays in service"));
    }
    settled.set_pools(vec![pool("back", "192.0.2.7", "192.0.2.7")]);
    assert!(settled.reasons("a").is_empty());
}

#[test]
fn what_stayed_outside_of_the_pools_moves_when_it_is_asked_to() {
    let mut settled = Settled::under(small());
    let stale = recorded(1, "198.51.100.7");
    settled.want("a", Want { pool: Some("main".into()), ..stale });
    settled.settle();
    assert_eq!(settled.served("a"), ["198.51.100.7"]);
    assert!(settled.desired("a")[0].starts_with("192.0.2."));
}

#[test]
fn a_status_with_an_address_that_no_router_leads_here_is_not_served() {
    let mut settled = Settled::under(small());
    settled.want("a", recorded(1, "127.0.0.1"));
    settled.settle();
    assert!(settled.served("a").is_empty());
    assert_eq!(settled.reasons("a"), [FaultReason::AddressOutsidePools]);
    assert_eq!(settled.desired("a").len(), 1);
}

#[test]
fn a_pair_of_addresses_is_had_in_both_families_and_one_alone_is_completed() {
    let mut pools = vec![pool("main", "192.0.2.1", "192.0.2.3")];
    pools[0].ranges.push((ip("2001:db8::1"), ip("2001:db8::9")));
    let mut settled = Settled::under(pools);
    let both = Want { families: vec![Family::V6, Family::V4], ..want(1) };
    let pair = vec![ip("2001:db8::5"), ip("192.0.2.2")];
    settled.want("pair", Want { requested: pair, ..both.clone() });
    settled.want("half", Want { requested: vec![ip("2001:db8::6")], ..both });
    settled.want("odd", requesting(3, "2001:db8::7"));
    settled.settle();
    assert_eq!(settled.desired("pair"), ["192.0.2.2", "2001:db8::5"]);
    let half = settled.desired("half");
    assert_eq!((half.len(), &*half[1]), (2, "2001:db8::6"));
    // What it asks for it cannot have; it is served in its own family.
    assert_eq!(settled.reasons("odd"), [FaultReason::InvalidAnnotation]);
    assert_eq!(settled.desired("odd").len(), 1);
}

#[test]
fn several_addresses_of_one_family_are_had_together() {
    let mut settled = Settled::under(small());
    let two = vec![ip("192.0.2.1"), ip("192.0.2.2")];
    settled.want("a", Want { requested: two, ..want(1) });
    settled.settle();
    assert_eq!(settled.desired("a"), ["192.0.2.1", "192.0.2.2"]);
}

#[test]
fn an_object_that_takes_any_family_misses_only_one_that_no_pool_has() {
    let either = Want { families: vec![Family::V4, Family::V6], any_family: true, ..want(1) };
    let mut settled = Settled::under(small());
    settled.want("a", either.clone());
    settled.settle();
    assert_eq!(settled.desired("a").len(), 1);
    assert!(settled.reasons("a").is_empty());
    settled.set_pools(vec![]);
    assert_eq!(settled.reasons("a"), [FaultReason::NoPool]);
}

#[test]
fn an_address_and_a_pool_that_contradict_each_other_are_refused() {
    let mut settled = Settled::under(small());
    let asks = Want { pool: Some("other".into()), ..requesting(1, "192.0.2.1") };
    settled.want("a", asks);
    settled.settle();
    assert_eq!(settled.reasons("a"), [FaultReason::AddressOutsidePools]);
    assert!(settled.said("a").contains("\"other\""));
}

#[test]
fn fixed_objects_share_an_address_and_need_no_pool() {
    let mut settled = Settled::default();
    let fixed = Want { fixed: true, ..recorded(0, "127.0.0.1") };
    settled.want("a", fixed.clone());
    settled.want("b", fixed);
    settled.settle();
    for name in ["a", "b"] {
        assert_eq!(settled.served(name), ["127.0.0.1"]);
    }
}

#[test]
fn objects_with_one_key_share_an_address_as_long_as_their_ports_differ() {
    let mut settled = Settled::under(vec![pool("main", "192.0.2.0", "192.0.2.255")]);
    settled.want("http", shared(1, "web", 80));
    settled.want("https", shared(2, "web", 443));
    settled.want("again", shared(3, "web", 80));
    settled.want("other", shared(4, "mail", 25));
    settled.want("alone", want(5));
    settled.settle();
    assert_eq!(settled.desired("http"), settled.desired("https"));
    let all: BTreeSet<_> = ["http", "again", "other", "alone"].map(|n| settled.desired(n)).into();
    assert_eq!(all.len(), 4, "{all:?}");
}

#[test]
fn who_asks_to_share_an_address_and_may_not_is_told_why() {
    let asks = |want: Want| Want { requested: vec![ip("192.0.2.1")], ..want };
    let with = |change: fn(&mut Sharing), port: u16| {
        let mut terms = Sharing::clone(sharing("web").as_deref().unwrap());
        change(&mut terms);
        Want { sharing: Some(Arc::new(terms)), ..asks(shared(9, "", port)) }
    };
    let local = |terms: &mut Sharing| terms.backends = Some("app=web".into());
    let mut settled = Settled::under(small());
    settled.want("holder", Want { recorded: vec![ip("192.0.2.1")], ..shared(1, "web", 80) });
    settled.want("unshared", asks(want(9)));
    settled.want("key", asks(shared(9, "mail", 81)));
    settled.want("other/namespace", with(|_| {}, 82));
    settled.want("backends", with(local, 83));
    settled.want("port", with(|_| {}, 80));
    settled.want("fits", with(|_| {}, 84));
    settled.settle();
    for (name, reason, words) in [
        ("unshared", FaultReason::AddressTaken, "sharing key"),
        ("key", FaultReason::AddressTaken, "another sharing key"),
        ("other/namespace", FaultReason::AddressTaken, "haflinger.dev/sharing-namespaces"),
        ("backends", FaultReason::AddressTaken, "externalTrafficPolicy"),
        ("port", FaultReason::PortTaken, "80/tcp"),
    ] {
        assert_eq!(settled.reasons(name), [reason], "{name}");
        let said = settled.said(name);
        assert!(said.contains(words) && said.contains("default/holder"), "{name}: {said}");
    }
    assert_eq!(settled.desired("fits"), ["192.0.2.1"]);
}

#[test]
fn namespaces_share_when_each_lets_the_other_in() {
    let open = |namespaces: SharingNamespaces, created, port| {
        let terms = Sharing { key: "web".into(), namespaces, backends: None };
        Want { sharing: Some(Arc::new(terms)), ..shared(created, "web", port) }
    };
    let listed = |names: &[&str]| {
        SharingNamespaces::Listed(names.iter().map(|name| (*name).into()).collect())
    };
    let mut settled = Settled::under(vec![pool("main", "192.0.2.0", "192.0.2.255")]);
    settled.want("a/one", open(listed(&["b"]), 1, 80));
    settled.want("b/two", open(SharingNamespaces::Any, 2, 81));
    settled.want("c/three", open(SharingNamespaces::Any, 3, 82));
    settled.settle();
    assert_eq!(settled.desired("a/one"), settled.desired("b/two"));
    assert_ne!(settled.desired("a/one"), settled.desired("c/three"));
}

#[test]
fn who_shares_joins_where_the_group_is_recorded() {
    let mut settled = Settled::under(vec![pool("main", "192.0.2.0", "192.0.2.255")]);
    settled.want("old", Want { recorded: vec![ip("192.0.2.77")], ..shared(1, "web", 80) });
    settled.want("new", shared(2, "web", 443));
    settled.settle();
    assert_eq!(settled.desired("new"), ["192.0.2.77"]);
}

#[test]
fn a_port_changed_to_one_that_is_taken_costs_nobody_the_address() {
    let mut settled = Settled::under(small());
    let at = |want: Want| Want { recorded: vec![ip("192.0.2.1")], ..want };
    settled.want("a", at(shared(1, "web", 80)));
    settled.want("b", at(shared(2, "web", 443)));
    settled.settle();
    settled.want("b", at(shared(2, "web", 80)));
    settled.settle();
    for name in ["a", "b"] {
        assert_eq!(settled.served(name), ["192.0.2.1"]);
        assert!(settled.reasons(name).is_empty());
    }
}

#[test]
fn ingresses_share_a_port_and_a_service_does_not_share_it_with_them() {
    let http = vec![WantedPort { protocol: Protocol::Tcp, port: 80, http: true }];
    let site = |created| Want { ports: http.clone(), ..shared(created, "web", 0) };
    let mut settled = Settled::under(vec![pool("main", "192.0.2.0", "192.0.2.255")]);
    settled.want("one", site(1));
    settled.want("two", site(2));
    settled.want("service", shared(3, "web", 80));
    settled.settle();
    assert_eq!(settled.desired("one"), settled.desired("two"));
    assert_ne!(settled.desired("one"), settled.desired("service"));
}

#[test]
fn no_more_share_an_address_than_may() {
    let mut settled = Settled::under(small());
    let count = u16::try_from(SHARERS_MAX).unwrap() + 1;
    for number in 1..=count {
        let asks =
            Want { requested: vec![ip("192.0.2.1")], ..shared(number.into(), "web", number) };
        settled.want(&format!("s{number}"), asks);
    }
    settled.settle();
    assert_eq!(settled.desired(&format!("s{}", count - 1)), ["192.0.2.1"]);
    let last = format!("s{count}");
    assert_eq!(settled.reasons(&last), [FaultReason::AddressTaken]);
    assert!(settled.said(&last).contains("512 objects"), "{}", settled.said(&last));
}

#[test]
fn use_is_counted_by_pool_and_family_without_counting_to_the_end_of_ipv6() {
    let mut pools = small();
    pools[0].ranges.push((ip("2001:db8::"), ip("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")));
    let mut settled = Settled::under(pools);
    for created in 1..=3 {
        let both = Want { families: vec![Family::V4, Family::V6], ..want(created) };
        settled.want(&format!("s{created}"), both);
    }
    settled.want("stale", recorded(9, "203.0.113.1"));
    settled.settle();
    let uses = settled.claims.uses();
    let seen: Vec<_> = uses.iter().map(|u| (u.family, u.used, u.free(), u.waiting)).collect();
    assert_eq!(seen, [(Family::V4, 2, 0, 1), (Family::V6, 3, (1 << 96) - 3, 0)]);
}
