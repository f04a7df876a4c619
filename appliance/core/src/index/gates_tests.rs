use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::super::tests::{VIP, cluster, index_of, key, object, policy, service, set_service};
use super::*;
use crate::{
    BackendSlice, ForwardingMode, HealthCheck, HealthCheckKind, Policy, ProxyProtocol, SlicePort,
    SourceUpdate, StateReason, Update,
};

fn gated() -> Policy {
    Policy { gated: [cluster()].into(), ..Policy::clone(&policy()) }
}

/// Selects `app=web`.
fn web() -> crate::ServiceSpec {
    crate::ServiceSpec { selector: pairs(&[("app", "web")]), ..service(&[VIP]) }
}

fn pairs(labels: &[(&str, &str)]) -> LabelPairs {
    labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn pod(last: u8) -> PodRef {
    let (namespace, name) = ("default".into(), format!("pod-{last}").into());
    PodRef { source: cluster(), namespace, name }
}

fn spec(last: u8, set: bool) -> GatedPod {
    GatedPod {
        uid: format!("uid-{last}").into(),
        addresses: [IpAddr::from([10, 0, 0, last])].into(),
        set,
        labels: if set { LabelPairs::default() } else { pairs(&[("app", "web"), ("v", "1")]) },
    }
}

fn set_pod(last: u8, spec: Option<GatedPod>) -> Update {
    Update::Source(SourceUpdate::Pod { pod: pod(last), spec: spec.map(Box::new) })
}

fn endpoints(ready: &[(u8, bool)]) -> Option<BackendSlice> {
    Some(super::super::tests::slice(ready))
}

fn set_slice(service: &str, content: Option<BackendSlice>) -> Update {
    super::super::tests::set_slice(service, content)
}

fn states(index: &Index) -> Vec<(String, BackendState, Vec<StateReason>)> {
    let service = index.current().services.get(&key(VIP)).unwrap();
    let backends = service.backends.backends.iter();
    backends.map(|b| (b.name.to_string(), b.state, b.reasons.clone())).collect()
}

fn progress(index: &Index, last: u8) -> Option<GateProgress> {
    index.current().gates.get(&pod(last)).map(|gate| gate.progress.clone())
}

fn xdp() -> DataPaths {
    DataPaths { xdp: true, ..DataPaths::default() }
}

fn begin(updates: impl IntoIterator<Item = Update>) -> Index {
    let policy = Update::Policy(std::sync::Arc::new(gated()));
    index_of([policy].into_iter().chain(updates))
}

#[test]
fn a_pod_that_lacks_the_gate_alone_is_used_before_its_slice_calls_it_ready() {
    let mut index = begin([
        set_service("web", Some(web())),
        set_slice("web", endpoints(&[(1, true), (2, false)])),
    ]);
    assert_eq!(states(&index)[1].1, BackendState::Down);
    index.apply(set_pod(2, Some(spec(2, false))));
    index.publish(1);
    let (_, state, reasons) = states(&index).remove(1);
    assert_eq!((state, &reasons[..]), (BackendState::Active, &[StateReason::AwaitsGate][..]));
    let generation = index.current().generation;
    let services = [object("web")].into();
    let planned = GateProgress::Planned { services, by: xdp(), generation };
    assert_eq!(progress(&index, 2), Some(planned.clone()));

    // Nothing that happens to others is news for it.
    index.apply(set_slice("web", endpoints(&[(1, true), (2, false), (3, true)])));
    index.publish(2);
    assert_eq!(progress(&index, 2), Some(planned));

    // Set, but the slice lags: it stays in use, and nobody waits any more.
    index.apply(set_pod(2, Some(spec(2, true))));
    index.publish(3);
    assert_eq!(states(&index)[1].1, BackendState::Active);
    assert_eq!(progress(&index, 2), None);
    index.apply(set_slice("web", endpoints(&[(1, true), (2, true), (3, true)])));
    index.publish(4);
    assert!(states(&index)[1].2.is_empty());
}

#[test]
fn a_pod_that_lacks_more_or_goes_is_no_longer_used() {
    let mut index = begin([
        set_service("web", Some(web())),
        set_slice("web", endpoints(&[(1, true), (2, false)])),
        set_pod(2, Some(spec(2, false))),
    ]);
    index.apply(set_pod(2, None));
    index.publish(1);
    assert_eq!(states(&index)[1].2, [StateReason::NotReady]);
    assert!(index.current().gates.is_empty());
    index.apply(set_pod(2, Some(spec(2, false))));
    let mut terminating = endpoints(&[(1, true), (2, false)]).unwrap();
    terminating.backends[1].terminating = true;
    index.apply(set_slice("web", Some(terminating)));
    index.publish(2);
    assert_eq!(states(&index)[1].2, [StateReason::Terminated]);
}

#[test]
fn a_pod_of_the_same_name_with_another_address_is_another_pod() {
    let other = GatedPod { addresses: [IpAddr::from([10, 0, 0, 9])].into(), ..spec(2, false) };
    let index = begin([
        set_service("web", Some(web())),
        set_slice("web", endpoints(&[(1, true), (2, false)])),
        set_pod(2, Some(other)),
    ]);
    assert_eq!(states(&index)[1].2, [StateReason::NotReady]);
    assert_eq!(progress(&index, 2), Some(GateProgress::Lacking(object("web"))));
}

#[test]
fn a_service_whose_slice_lags_is_waited_for() {
    let mut index = begin([
        set_service("web", Some(web())),
        set_slice("web", endpoints(&[(1, true)])),
        set_pod(2, Some(spec(2, false))),
    ]);
    assert_eq!(progress(&index, 2), Some(GateProgress::Lacking(object("web"))));
    index.apply(set_slice("web", endpoints(&[(1, true), (2, false)])));
    index.publish(1);
    assert!(matches!(progress(&index, 2), Some(GateProgress::Planned { .. })));
    // A second one that selects it.
    index.apply(set_service("late", Some(crate::ServiceSpec { created_secs: 2, ..web() })));
    index.publish(2);
    // It holds no address of its own, but an Ingress might lead there at once.
    assert_eq!(progress(&index, 2), Some(GateProgress::Lacking(object("late"))));
    index.apply(set_service("late", None));
    index.publish(3);
    assert!(matches!(progress(&index, 2), Some(GateProgress::Planned { .. })));
}

#[test]
fn a_pod_that_no_service_of_ours_selects_has_nothing_to_wait_for() {
    let other = GatedPod { labels: pairs(&[("app", "batch")]), ..spec(2, false) };
    let inner =
        crate::ServiceSpec { exposure: None, selector: pairs(&[("app", "batch")]), ..service(&[]) };
    let index = begin([
        set_service("web", Some(web())),
        set_service("inner", Some(inner)),
        set_pod(2, Some(other)),
    ]);
    let services = Box::default();
    let by = DataPaths::default();
    let generation = index.current().generation;
    assert_eq!(progress(&index, 2), Some(GateProgress::Planned { services, by, generation }));
}

#[test]
fn a_pod_without_the_port_has_nothing_to_wait_for() {
    let mut without = endpoints(&[(2, false)]).unwrap();
    without.ports = vec![SlicePort { name: "other".into(), ..without.ports[0].clone() }];
    let index = begin([
        set_service("web", Some(web())),
        set_slice("web", Some(without)),
        set_pod(2, Some(spec(2, false))),
    ]);
    assert!(matches!(progress(&index, 2), Some(GateProgress::Planned { .. })));
}

#[test]
fn an_own_check_has_to_find_the_pod_healthy_first() {
    let check = HealthCheck {
        kind: HealthCheckKind::Tcp,
        port: None,
        proxy_protocol: ProxyProtocol::Off,
        interval_ms: 1000,
        timeout_ms: 500,
        rise: 1,
        fall: 1,
        ways: vec![],
    };
    let checked = crate::ServiceSpec { health_check: Some(check), ..web() };
    let mut index = begin([
        set_service("web", Some(checked)),
        set_slice("web", endpoints(&[(2, false)])),
        set_pod(2, Some(spec(2, false))),
    ]);
    let probe = ProbeKey { object: object("web"), backend: "10.0.0.2:8080".parse().unwrap() };
    assert!(index.current().probes.contains_key(&probe), "it is asked before it is ready");
    for (healthy, done) in [(None, false), (Some(false), false), (Some(true), true)] {
        index.apply(Update::Health { probe: probe.clone(), healthy });
        index.publish(1);
        let planned = matches!(progress(&index, 2), Some(GateProgress::Planned { .. }));
        assert_eq!(planned, done, "{healthy:?}");
    }
}

#[test]
fn the_rooms_that_serve_it_are_named_and_a_change_of_them_counts_anew() {
    let mut index = begin([
        set_service("web", Some(web())),
        set_slice("web", endpoints(&[(2, false)])),
        set_pod(2, Some(spec(2, false))),
    ]);
    let mut relayed = web();
    relayed.exposure.as_mut().unwrap().mode = Some(ForwardingMode::Proxy);
    index.apply(set_service("web", Some(relayed)));
    index.publish(1);
    let by = DataPaths { relay: true, ..DataPaths::default() };
    let services = [object("web")].into();
    let generation = index.current().generation;
    assert_eq!(progress(&index, 2), Some(GateProgress::Planned { services, by, generation }));
}

#[test]
fn where_no_pod_may_wait_a_known_one_changes_nothing_and_leaves_with_its_source() {
    let updates = || {
        [
            set_service("web", Some(web())),
            set_slice("web", endpoints(&[(1, true), (2, false)])),
            set_pod(2, Some(spec(2, false))),
        ]
    };
    let mut index = begin(updates());
    index.apply(Update::Policy(policy()));
    index.publish(1);
    assert_eq!(states(&index)[1].2, [StateReason::NotReady]);
    assert!(index.current().gates.is_empty());
    index.apply(Update::Policy(std::sync::Arc::new(gated())));
    index.publish(2);
    assert_eq!(states(&index)[1].2, [StateReason::AwaitsGate]);
    index.apply(Update::Retired(cluster()));
    index.publish(3);
    assert!(index.current().gates.is_empty());
    let gates = &index.gates;
    assert!(gates.pods.is_empty() && gates.waiting.is_empty() && gates.services.is_empty());
    assert!(gates.selecting.is_empty() && gates.unready.is_empty());
}

/// What one step changes.
#[derive(Clone, Debug)]
enum Step {
    Slice(u8, Vec<(u8, bool)>),
    NoSlice(u8),
    Pod(u8, Option<bool>),
    Service(u8, bool),
    Publish,
}

const NAMES: [&str; 2] = ["web", "also"];

fn step() -> impl Strategy<Value = Step> {
    let listed = prop::collection::btree_map(1u8..5, any::<bool>(), 0..4);
    prop_oneof![
        3 => (0u8..2, listed).prop_map(|(s, list)| Step::Slice(s, list.into_iter().collect())),
        1 => (0u8..2).prop_map(Step::NoSlice),
        4 => (1u8..5, any::<Option<bool>>()).prop_map(|(pod, set)| Step::Pod(pod, set)),
        1 => (0u8..2, any::<bool>()).prop_map(|(s, there)| Step::Service(s, there)),
        2 => Just(Step::Publish),
    ]
}

fn update(step: &Step) -> Option<Update> {
    let name = |at: u8| NAMES[usize::from(at)];
    Some(match step {
        Step::Slice(service, list) => set_slice(name(*service), endpoints(list)),
        Step::NoSlice(service) => set_slice(name(*service), None),
        Step::Pod(last, set) => set_pod(*last, set.map(|set| spec(*last, set))),
        Step::Service(service, there) => {
            let vip = if *service == 0 { VIP } else { "192.0.2.8" };
            let served = crate::ServiceSpec { exposure: service_at(vip), ..web() };
            set_service(name(*service), there.then_some(served))
        }
        Step::Publish => return None,
    })
}

fn service_at(vip: &str) -> Option<crate::Exposure> {
    service(&[vip]).exposure
}

/// A pod, whether it is planned, and with which services.
type Said = (PodRef, bool, BTreeSet<ObjectRef>);

/// What a snapshot says of pods, without the generations, and of backends.
fn picture(index: &Index) -> (Vec<Said>, Vec<String>) {
    let gates = index.current().gates.iter().map(|(pod, gate)| match &gate.progress {
        GateProgress::Lacking(service) => (pod.clone(), false, [service.clone()].into()),
        GateProgress::Planned { services, .. } => {
            (pod.clone(), true, services.iter().cloned().collect())
        }
    });
    let sets = index.current().targets.iter();
    let sets = sets.map(|(target, set)| format!("{target} {:?}", set.backends));
    (gates.collect(), sets.collect())
}

proptest! {
    #[test]
    fn any_order_of_events_ends_as_the_last_words_alone(
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let mut index = begin([]);
        for step in &steps {
            match update(step) {
                Some(update) => index.apply(update),
                None => drop(index.publish(1)),
            }
        }
        index.publish(2);
        // The last word of each object, in another order and all at once.
        let mut last: BTreeMap<(u8, u8), &Step> = BTreeMap::new();
        for step in &steps {
            let about = match step {
                Step::Pod(pod, _) => (0, *pod),
                Step::Slice(service, _) | Step::NoSlice(service) => (1, *service),
                Step::Service(service, _) => (2, *service),
                Step::Publish => continue,
            };
            last.insert(about, step);
        }
        let fresh = begin(last.values().filter_map(|step| update(step)));
        prop_assert_eq!(picture(&index), picture(&fresh));
        prop_assert_eq!(index.gates.waiting.len(), fresh.gates.waiting.len());
        prop_assert_eq!(&index.gates.unready, &fresh.gates.unready);
        prop_assert_eq!(&index.gates.selecting, &fresh.gates.selecting);
    }
}
