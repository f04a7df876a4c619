//! When nodes' ports stand in for pods, which of them and for which, and that they give way again.

use super::*;
use crate::{
    BackendState, Destination, FaultReason, GateProgress, GatedPod, LabelPairs, NodeSpec, PodRef,
    Policy, StateReason, Weight,
};

const NODE_PORT: u16 = 30_080;

/// Node `n` has the address 192.168.0.`n`.
fn node(name: u8, change: impl FnOnce(&mut NodeSpec)) -> Update {
    let mut spec = NodeSpec { addresses: vec![[192, 168, 0, name].into()], ..NodeSpec::default() };
    change(&mut spec);
    let name = format!("n{name}").into();
    Update::Source(SourceUpdate::Node { source: cluster(), name, spec: Some(Box::new(spec)) })
}

fn three_nodes() -> Vec<Update> {
    (1..=3).map(|name| node(name, |_| {})).collect()
}

fn led_service(change: impl FnOnce(&mut ServiceSpec)) -> Update {
    let mut spec = service(&["192.0.2.7"]);
    spec.ports[0].node_port = Some(NODE_PORT);
    change(&mut spec);
    set_service("web", Some(spec))
}

/// Pod `p` runs on node `n` and is ready or not.
fn pods(pods: &[(u8, u8, bool)]) -> Update {
    let ready: Vec<(u8, bool)> = pods.iter().map(|(pod, _, ready)| (*pod, *ready)).collect();
    let mut slice = slice(&ready);
    for (backend, (_, node, _)) in slice.backends.iter_mut().zip(pods) {
        backend.node = Some(format!("n{node}").into());
    }
    set_slice("web", Some(slice))
}

fn pod(pod: u8) -> SocketAddr {
    ([10, 0, 0, pod], 8080).into()
}

fn port_of(node: u8) -> SocketAddr {
    ([192, 168, 0, node], NODE_PORT).into()
}

/// What the prober says about addresses that are asked.
fn answer(index: &mut Index, said: &[(SocketAddr, bool)]) {
    for (address, reached) in said {
        if let Some(asked) = index.current().reach.get(address).copied() {
            index.apply(Update::Reach { address: *address, asked, reached: *reached });
        }
    }
    index.publish(1);
}

/// Nothing reaches pods, everything reaches nodes.
fn cut_off(index: &mut Index) {
    answer(index, &(1..=9).map(|p| (pod(p), false)).collect::<Vec<_>>());
    answer(index, &(1..=9).map(|node| (port_of(node), true)).collect::<Vec<_>>());
}

fn hear(index: &mut Index, updates: impl IntoIterator<Item = Update>) {
    updates.into_iter().for_each(|update| index.apply(update));
    index.publish(1);
}

fn target() -> Target {
    let (port, protocol) = (80, crate::Protocol::Tcp);
    Target { object: object("web"), port, protocol, family: Family::V4 }
}

/// Those that take flows, with their weights.
fn active(index: &Index) -> Vec<(String, Weight)> {
    let set = index.current().targets.get(&target()).unwrap();
    let buckets = set.table.shares();
    assert!(set.active().all(|backend| buckets.contains_key(&backend.address)));
    set.active().map(|backend| (backend.address.to_string(), backend.weight)).collect()
}

fn taking(all: &[(&str, Weight)]) -> Vec<(String, Weight)> {
    all.iter().map(|(address, weight)| ((*address).to_owned(), *weight)).collect()
}

fn faults(index: &Index) -> Vec<FaultReason> {
    let report = index.current().reports.get(&object("web")).unwrap();
    report.faults.iter().map(|fault| fault.reason).collect()
}

fn message(index: &Index) -> String {
    index.current().reports.get(&object("web")).unwrap().faults[0].message.clone()
}

fn world(spec: Update, said: &[(u8, u8, bool)]) -> Index {
    index(three_nodes().into_iter().chain([spec, pods(said)]))
}

const ON_PODS: [(&str, Weight); 2] = [("10.0.0.1:8080", 100), ("10.0.0.2:8080", 100)];
const ON_NODES: [(&str, Weight); 3] =
    [("192.168.0.1:30080", 67), ("192.168.0.2:30080", 67), ("192.168.0.3:30080", 67)];

#[test]
fn nodes_stand_in_while_no_pod_is_reached_and_give_way_when_they_are() {
    let mut index = world(led_service(|_| {}), &[(1, 1, true), (2, 2, true)]);
    assert_eq!(index.fallback(), crate::index::Fallback { targets: 0, asked: 2, waiting: 0 });
    answer(&mut index, &[(pod(1), false)]);
    // Nobody has heard of the nodes' ports yet.
    assert_eq!((active(&index), index.fallback().asked), (taking(&ON_PODS), 5));
    assert_eq!(faults(&index), []);
    answer(&mut index, &[(port_of(1), true), (port_of(2), true), (port_of(3), true)]);
    // The other pod is not known: where none is reached, that is no reason to try it.
    assert_eq!(active(&index), taking(&ON_NODES));
    assert_eq!(faults(&index), [FaultReason::PodsUnreachable]);
    answer(&mut index, &[(pod(2), false)]);
    assert_eq!((active(&index), index.fallback().targets), (taking(&ON_NODES), 1));
    assert!(message(&index).contains("stand in"), "{}", message(&index));
    let set = index.current().targets.get(&target()).unwrap();
    let replaced = set.get(&pod(1)).unwrap();
    assert_eq!(replaced.state, BackendState::Down);
    assert_eq!(replaced.reasons, [StateReason::Unreachable]);
    answer(&mut index, &[(pod(1), true), (pod(2), true)]);
    assert_eq!((active(&index), faults(&index)), (taking(&ON_PODS), vec![]));
    let after = crate::index::Fallback { targets: 0, asked: 2, waiting: 0 };
    assert_eq!(index.fallback(), after, "nodes are asked no more");
}

#[test]
fn pods_that_are_reached_keep_their_share() {
    let said = [(1, 1, true), (2, 2, true), (3, 2, true), (4, 3, true)];
    let mut index = world(led_service(|_| {}), &said);
    answer(&mut index, &[(pod(1), true), (pod(2), false), (pod(3), false)]);
    answer(&mut index, &[(port_of(1), true), (port_of(2), true)]);
    let mixed = [
        ("10.0.0.1:8080", 100),
        ("10.0.0.4:8080", 100),
        ("192.168.0.1:30080", 100),
        ("192.168.0.2:30080", 100),
    ];
    assert_eq!(active(&index), taking(&mixed), "one reached, one not known, two replaced");
}

#[test]
fn a_host_without_its_uplink_changes_nothing() {
    let mut index = world(led_service(|_| {}), &[(1, 1, true), (2, 2, true)]);
    answer(&mut index, &[(pod(1), false), (pod(2), false)]);
    answer(&mut index, &[(port_of(1), false), (port_of(2), false), (port_of(3), false)]);
    assert_eq!(active(&index), taking(&ON_PODS));
    assert!(message(&index).contains("none answers this host"), "{}", message(&index));
    // And with it gone while the nodes stand in, the pods do.
    cut_off(&mut index);
    assert_eq!(active(&index), taking(&ON_NODES));
    answer(&mut index, &(1..=3).map(|node| (port_of(node), false)).collect::<Vec<_>>());
    assert_eq!(active(&index), taking(&ON_PODS));
}

#[test]
fn a_rollout_of_unreachable_pods_stays_on_the_nodes() {
    let mut index = world(led_service(|_| {}), &[(1, 1, true)]);
    cut_off(&mut index);
    hear(&mut index, [pods(&[(1, 1, true), (2, 2, true)])]);
    assert_eq!(active(&index), taking(&ON_NODES));
    // The first one leaves: nothing known is left, so the pod is sent to until it is known.
    hear(&mut index, [pods(&[(2, 2, true)])]);
    assert_eq!(active(&index), taking(&ON_PODS[1..]));
}

fn checked(spec: &mut ServiceSpec) {
    spec.health_check = Some(HealthCheck {
        kind: HealthCheckKind::Tcp,
        port: None,
        proxy_protocol: ProxyProtocol::Off,
        interval_ms: 1000,
        timeout_ms: 500,
        rise: 1,
        fall: 1,
        ways: vec![],
    });
}

#[test]
fn a_check_that_fails_because_nothing_gets_there_neither_hides_why_nor_delays_the_return() {
    let mut index = world(led_service(checked), &[(1, 1, true)]);
    let probe = ProbeKey { object: object("web"), backend: pod(1) };
    let failed = || Update::Health { probe: probe.clone(), healthy: Some(false) };
    hear(&mut index, [failed()]);
    assert_eq!(active(&index), []);
    cut_off(&mut index);
    assert_eq!(active(&index).len(), 3);
    assert!(index.current().probes.keys().eq([&probe]), "nodes are not checked");
    answer(&mut index, &[(pod(1), true)]);
    assert_eq!(active(&index), taking(&ON_PODS[..1]));
    // A pod that is reached and fails its check is out.
    hear(&mut index, [failed()]);
    assert_eq!(active(&index), []);
}

#[test]
fn pods_that_are_not_ready_send_nobody_to_the_nodes() {
    for destination in [None, Some(Destination::Nodes)] {
        let spec = led_service(|spec| spec.destination = destination);
        let mut index = world(spec, &[(1, 1, false)]);
        cut_off(&mut index);
        assert_eq!(active(&index), []);
    }
}

#[test]
fn a_pod_that_waits_for_its_gate_has_no_share_of_a_stand_in_and_its_gate_waits_for_none() {
    let gated = Policy { gated: [cluster()].into(), ..(*policy()).clone() };
    let labels: LabelPairs = [("app".into(), "web".into())].into_iter().collect();
    let spec = GatedPod {
        uid: "u".into(),
        addresses: [pod(2).ip()].into(),
        set: false,
        labels: labels.clone(),
    };
    let name = PodRef { source: cluster(), namespace: "default".into(), name: "pod-2".into() };
    let waits = SourceUpdate::Pod { pod: name.clone(), spec: Some(Box::new(spec)) };
    let said = [(1, 1, true), (2, 2, false)];
    let mut index = world(led_service(|spec| spec.selector = labels.clone()), &said);
    hear(&mut index, [Update::Policy(Arc::new(gated)), Update::Source(waits)]);
    assert_eq!(active(&index), taking(&ON_PODS));
    cut_off(&mut index);
    let on_nodes: Vec<_> = ON_NODES.iter().map(|(node, _)| (*node, 33)).collect();
    assert_eq!(active(&index), taking(&on_nodes));
    let progress = &index.current().gates.get(&name).unwrap().progress;
    assert!(matches!(progress, GateProgress::Planned { .. }), "{progress:?}");
    // Nobody else is left: nodes know of no pod.
    hear(&mut index, [pods(&said[1..])]);
    assert_eq!(active(&index), taking(&ON_PODS[1..]));
    assert!(message(&index).contains("readiness gate"), "{}", message(&index));
}

#[test]
fn with_local_traffic_each_node_stands_in_for_its_own_pods() {
    let local = || led_service(|spec| spec.local_traffic = true);
    let said = [(1, 1, true), (2, 1, true), (3, 2, true), (4, 3, false)];
    let mut index = world(local(), &said);
    cut_off(&mut index);
    assert_eq!(active(&index), taking(&[("192.168.0.1:30080", 200), ("192.168.0.2:30080", 100)]));
    answer(&mut index, &[(pod(3), true)]);
    assert_eq!(active(&index), taking(&[("10.0.0.3:8080", 100), ("192.168.0.1:30080", 200)]));
    // A node that may take nothing leaves its pods as they are.
    hear(&mut index, [node(1, |spec| spec.excluded = true)]);
    let pods: Vec<String> = (1..=3).map(|pod| format!("10.0.0.{pod}:8080")).collect();
    assert_eq!(active(&index), pods.into_iter().map(|pod| (pod, 100)).collect::<Vec<_>>());
    assert!(message(&index).contains("no node is eligible"), "{}", message(&index));
}

#[test]
fn excluded_nodes_and_those_not_ready_are_left_out_as_they_change() {
    let mut index = world(led_service(|_| {}), &[(1, 1, true)]);
    cut_off(&mut index);
    let on = |nodes: &[u8], weight| -> Vec<(String, Weight)> {
        nodes.iter().map(|node| (format!("192.168.0.{node}:30080"), weight)).collect()
    };
    assert_eq!(active(&index), on(&[1, 2, 3], 33));
    hear(&mut index, [node(1, |spec| spec.excluded = true)]);
    assert_eq!(active(&index), on(&[2, 3], 50));
    hear(&mut index, [node(2, |spec| spec.not_ready = true)]);
    assert_eq!(active(&index), on(&[3], 100));
    // Without any that is ready, readiness says nothing.
    hear(&mut index, [node(3, |spec| spec.not_ready = true)]);
    cut_off(&mut index);
    assert_eq!(active(&index), on(&[2, 3], 50));
    hear(&mut index, [node(4, |_| {})]);
    cut_off(&mut index);
    assert_eq!(active(&index), on(&[4], 100));
}

#[test]
fn of_very_many_nodes_some_are_chosen_and_always_the_same() {
    let many = || {
        (0..=255_u8).flat_map(|third| (1..=2_u8).map(move |last| (third, last))).map(|(t, l)| {
            let spec = NodeSpec { addresses: vec![[172, 16, t, l].into()], ..NodeSpec::default() };
            let (source, name) = (cluster(), format!("m{t}-{l}").into());
            Update::Source(SourceUpdate::Node { source, name, spec: Some(Box::new(spec)) })
        })
    };
    let asked = |nodes: Vec<Update>| {
        let mut index =
            index(nodes.into_iter().chain([led_service(|_| {}), pods(&[(1, 1, true)])]));
        answer(&mut index, &[(pod(1), false)]);
        index.current().reach.keys().copied().collect::<Vec<_>>()
    };
    let forth = asked(many().collect());
    assert_eq!(forth.len(), 1 + 64);
    assert_eq!(forth, asked(many().collect::<Vec<_>>().into_iter().rev().collect()));
}

#[test]
fn without_a_node_port_nothing_is_asked() {
    let index = world(led_service(|spec| spec.ports[0].node_port = None), &[(1, 1, true)]);
    assert!(index.current().reach.is_empty());
    assert_eq!(active(&index), taking(&ON_PODS[..1]));
}

#[test]
fn the_object_and_the_configuration_choose() {
    let ask = |destination| led_service(move |spec| spec.destination = destination);
    let mut index = world(ask(Some(Destination::Pods)), &[(1, 1, true), (2, 2, true)]);
    assert!(index.current().reach.is_empty(), "nothing is asked");
    hear(&mut index, [ask(Some(Destination::Nodes))]);
    assert_eq!((active(&index), faults(&index)), (taking(&ON_NODES), vec![]));
    answer(&mut index, &[(port_of(2), false)]);
    let two = [("192.168.0.1:30080", 100), ("192.168.0.3:30080", 100)];
    assert_eq!(active(&index), taking(&two));
    answer(&mut index, &[(port_of(1), false), (port_of(3), false)]);
    assert_eq!(active(&index), taking(&ON_NODES), "what is known of all says nothing");
    hear(
        &mut index,
        [led_service(|spec| {
            (spec.destination, spec.ports[0].node_port) = (Some(Destination::Nodes), None);
        })],
    );
    assert_eq!(
        (active(&index), faults(&index)),
        (taking(&ON_PODS), vec![FaultReason::ModeUnavailable])
    );
    let off = Policy { fallback: false, ..(*policy()).clone() };
    hear(&mut index, [ask(None), Update::Policy(Arc::new(off))]);
    assert_eq!(active(&index), taking(&ON_PODS));
    assert!(index.current().reach.is_empty());
    hear(&mut index, [ask(Some(Destination::Auto))]);
    cut_off(&mut index);
    assert_eq!(active(&index), taking(&ON_NODES));
}

#[test]
fn what_nobody_asks_about_is_forgotten_and_late_answers_say_nothing() {
    let mut index = world(led_service(|_| {}), &[(1, 1, true), (2, 2, true)]);
    cut_off(&mut index);
    let late = index.current().reach.get(&pod(1)).copied().unwrap();
    hear(&mut index, [pods(&[(2, 2, true)])]);
    assert!(!index.current().reach.contains_key(&pod(1)));
    hear(&mut index, [pods(&[(1, 1, true), (2, 2, true)])]);
    answer(&mut index, &[(pod(2), true)]);
    hear(&mut index, [Update::Reach { address: pod(1), asked: late, reached: false }]);
    assert_eq!(active(&index), taking(&ON_PODS));
    hear(&mut index, [set_service("web", None)]);
    assert!(index.current().reach.is_empty());
    assert_eq!(index.fallback(), crate::index::Fallback::default());
}

#[test]
fn beyond_the_bound_pods_are_not_asked_until_there_is_room() {
    const SLICES: usize = 8;
    const PODS: usize = 9000;
    let many = |number: usize, content: bool| {
        let backends = (0..PODS).map(|pod| {
            let [.., a, b] = pod.to_be_bytes();
            let mut backend = slice(&[(1, true)]).backends.remove(0);
            backend.address = IpAddr::from([10, u8::try_from(number + 1).unwrap(), a, b]);
            backend
        });
        let content = content.then(|| BackendSlice { backends: backends.collect(), ..slice(&[]) });
        set_slice(&format!("s{number}"), content)
    };
    let mut index = index([]);
    for number in 0..SLICES {
        let mut spec = service(&[]);
        spec.ports[0].node_port = Some(NODE_PORT);
        hear(&mut index, [set_service(&format!("s{number}"), Some(spec)), many(number, true)]);
    }
    let full = crate::index::Fallback { targets: 0, asked: crate::index::REACH_MAX, waiting: 1 };
    assert_eq!(index.fallback(), full);
    hear(&mut index, [many(0, false)]);
    let asked = (SLICES - 1) * PODS;
    assert_eq!(index.fallback(), crate::index::Fallback { targets: 0, asked, waiting: 0 });
}

#[test]
fn inner_services_follow_too() {
    // An Ingress may point at a Service of type NodePort.
    let inner = led_service(|spec| spec.exposure = None::<Exposure>);
    let site = set_ingress("site", Some(ingress("a.example.com", "web")));
    let mut index = world(inner, &[(1, 1, true), (2, 1, true)]);
    hear(&mut index, [site]);
    cut_off(&mut index);
    assert_eq!(active(&index), taking(&ON_NODES));
}

/// One thing that may happen.
#[derive(Clone, Debug)]
enum Event {
    Service { local: bool, node_port: bool },
    Pods(BTreeMap<u8, (u8, bool)>),
    Node { name: u8, not_ready: bool, excluded: bool },
    Way { address: SocketAddr, open: bool },
}

/// What is so, whatever came before.
#[derive(Clone, Debug, Default)]
struct Facts {
    service: (bool, bool),
    pods: BTreeMap<u8, (u8, bool)>,
    nodes: BTreeMap<u8, (bool, bool)>,
    closed: BTreeSet<SocketAddr>,
}

impl Facts {
    /// Takes an event in; what the index hears of it.
    fn take(&mut self, event: &Event) -> Option<Update> {
        match event.clone() {
            Event::Service { local, node_port } => self.service = (local, node_port),
            Event::Pods(pods) => self.pods = pods,
            Event::Node { name, not_ready, excluded } => {
                self.nodes.insert(name, (not_ready, excluded));
                return Some(self.node(name));
            }
            Event::Way { address, open } => {
                match open {
                    true => self.closed.remove(&address),
                    false => self.closed.insert(address),
                };
                return None;
            }
        }
        let is_service = matches!(event, Event::Service { .. });
        Some(if is_service { self.service() } else { self.slice() })
    }

    fn service(&self) -> Update {
        let (local, node_port) = self.service;
        led_service(|spec| {
            spec.local_traffic = local;
            spec.ports[0].node_port = node_port.then_some(NODE_PORT);
        })
    }

    fn slice(&self) -> Update {
        let said: Vec<_> = self.pods.iter().map(|(pod, (on, ready))| (*pod, *on, *ready)).collect();
        pods(&said)
    }

    fn node(&self, name: u8) -> Update {
        let (not_ready, excluded) = self.nodes[&name];
        node(name, |spec| (spec.not_ready, spec.excluded) = (not_ready, excluded))
    }

    /// Everything, as a fresh list tells it.
    fn list(&self, reverse: bool) -> Vec<Update> {
        let nodes = self.nodes.keys().map(|name| self.node(*name));
        let mut all: Vec<Update> =
            [self.service(), self.slice()].into_iter().chain(nodes).collect();
        if reverse {
            all.reverse();
        }
        all
    }

    /// Answers what is asked until nothing changes.
    fn settle(&self, index: &mut Index) {
        for _ in 0..8 {
            let asked: Vec<SocketAddr> = index.current().reach.keys().copied().collect();
            let said: Vec<_> =
                asked.iter().map(|address| (*address, !self.closed.contains(address))).collect();
            answer(index, &said);
        }
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let way = prop_oneof![(1..5_u8).prop_map(pod), (1..4_u8).prop_map(port_of)];
    prop_oneof![
        1 => any::<(bool, bool)>()
            .prop_map(|(local, port)| Event::Service { local, node_port: port }),
        2 => prop::collection::btree_map(1..5_u8, (1..4_u8, any::<bool>()), 0..4)
            .prop_map(Event::Pods),
        2 => (1..4_u8, any::<bool>(), any::<bool>())
            .prop_map(|(name, not_ready, excluded)| Event::Node { name, not_ready, excluded }),
        4 => (way, any::<bool>()).prop_map(|(address, open)| Event::Way { address, open }),
    ]
}

fn outcome(index: &Index) -> String {
    let snapshot = index.current();
    let set = snapshot.targets.get(&target()).unwrap();
    let asked: Vec<_> = snapshot.reach.keys().collect();
    format!("{:?}\n{:?}\n{asked:?}", set.backends, snapshot.reports)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// However things happen, the end is that of what is so; nobody is led where nothing is known
    /// to answer, no pod that answers is replaced, and nothing is taken away.
    #[test]
    fn any_history_of_ways_ends_as_the_ways_that_are_open(
        events in prop::collection::vec((any_event(), any::<bool>()), 1..30),
    ) {
        let mut facts = Facts::default();
        let mut lived = index(facts.list(false));
        for (event, settles) in &events {
            hear(&mut lived, facts.take(event));
            if *settles {
                facts.settle(&mut lived);
            }
        }
        facts.settle(&mut lived);
        for reverse in [false, true] {
            let mut fresh = index(facts.list(reverse));
            facts.settle(&mut fresh);
            prop_assert_eq!(outcome(&lived), outcome(&fresh));
        }
        let off = Policy { fallback: false, ..(*policy()).clone() };
        let direct = {
            let mut index = index(facts.list(false));
            hear(&mut index, [Update::Policy(Arc::new(off))]);
            active(&index)
        };
        prop_assert_eq!(active(&lived).is_empty(), direct.is_empty());
        let set = lived.current().targets.get(&target()).unwrap();
        for backend in &set.backends {
            if backend.reasons.contains(&StateReason::NodePort) {
                prop_assert!(!facts.closed.contains(&backend.address));
            }
            if backend.reasons.contains(&StateReason::Unreachable) {
                prop_assert!(facts.closed.contains(&backend.address));
            }
        }
    }
}
