use proptest::prelude::*;

use super::*;
use crate::DEFAULT_WEIGHT;

fn spec() -> ServiceSpec {
    ServiceSpec {
        ports: vec![],
        refused_ports: vec![],
        exposure: None,
        created_secs: 0,
        families: vec![Family::V4],
        algorithm: crate::Algorithm::Hash,
        limits: crate::ConnectionLimits::default(),
        timeouts: crate::TimeoutRequest::default(),
        destination: None,
        local_traffic: false,
        publish_not_ready: false,
        distribution: Distribution::Even,
        proxy_protocol: crate::ProxyProtocol::Off,
        health_check: None,
        selector: Box::default(),
        faults: vec![],
    }
}

fn port() -> ServicePort {
    ServicePort {
        name: "web".into(),
        port: 80,
        protocol: Protocol::Tcp,
        app_protocol: None,
        node_port: None,
    }
}

fn entry(last: u8, ready: bool, serving: bool, terminating: bool) -> SliceBackend {
    SliceBackend {
        address: [10, 0, 0, last].into(),
        name: format!("pod-{last}").into(),
        node: None,
        zone: None,
        for_zones: Box::default(),
        weight: DEFAULT_WEIGHT,
        ready,
        serving,
        terminating,
        backup: false,
    }
}

fn slice(port_name: &str, backends: Vec<SliceBackend>) -> BackendSlice {
    let port = crate::SlicePort { name: port_name.into(), protocol: Protocol::Tcp, port: 8080 };
    BackendSlice { family: Family::V4, ports: vec![port], backends, faults: vec![] }
}

fn gather(
    spec: &ServiceSpec,
    slices: &[BackendSlice],
    failed: impl Fn(&SocketAddr) -> bool,
) -> Gathered {
    let gathering = Gathering { spec, zone: None, backends_max: BACKENDS_MAX };
    gathering.gather(&port(), Family::V4, slices.iter(), failed, |_| false)
}

/// In the zone `here`.
fn zoned(spec: &ServiceSpec, slices: &[BackendSlice]) -> Vec<(u8, BackendState, bool)> {
    let gathering = Gathering { spec, zone: Some("here"), backends_max: BACKENDS_MAX };
    let gathered = gathering.gather(&port(), Family::V4, slices.iter(), |_| false, |_| false);
    let last = |address: SocketAddr| match address.ip() {
        std::net::IpAddr::V4(v4) => v4.octets()[3],
        std::net::IpAddr::V6(_) => panic!("{address} is not of the slices"),
    };
    let told = |b: &Backend| b.reasons == [StateReason::OtherZone];
    gathered.backends.iter().map(|b| (last(b.address), b.state, told(b))).collect()
}

fn hinted(last: u8, zones: &[&str], ready: bool) -> SliceBackend {
    let for_zones = zones.iter().map(|zone| Arc::from(*zone)).collect();
    SliceBackend { for_zones, ..entry(last, ready, ready, false) }
}

fn of_zone(last: u8, zone: &str, ready: bool) -> SliceBackend {
    SliceBackend { zone: Some(zone.into()), ..entry(last, ready, ready, false) }
}

const HERE: BackendState = BackendState::Active;
const ELSEWHERE: BackendState = BackendState::Draining;

#[test]
fn hints_for_the_zone_of_the_host_are_followed_while_every_backend_has_one() {
    let near = hinted(1, &["there", "here"], true);
    let far = hinted(2, &["there"], true);
    let followed = [(1, HERE, false), (2, ELSEWHERE, true)];
    assert_eq!(zoned(&spec(), &[slice("web", vec![near.clone(), far.clone()])]), followed);
    let without = entry(3, true, true, false);
    let all = [(1, HERE, false), (2, HERE, false), (3, HERE, false)];
    assert_eq!(zoned(&spec(), &[slice("web", vec![near, far.clone(), without])]), all);
    // One that cannot be used does not count, neither for a hint nor for the lack of one.
    let unready = hinted(1, &["here"], false);
    let states = zoned(&spec(), &[slice("web", vec![unready, far])]);
    assert_eq!(states, [(1, BackendState::Down, false), (2, HERE, false)]);
}

#[test]
fn a_service_that_prefers_its_zone_gets_it_without_hints_while_there_is_one() {
    let prefers = ServiceSpec { distribution: Distribution::SameZone, ..spec() };
    let (near, far) = (of_zone(1, "here", true), of_zone(2, "there", true));
    let both = [slice("web", vec![near, far.clone()])];
    assert_eq!(zoned(&prefers, &both), [(1, HERE, false), (2, ELSEWHERE, true)]);
    assert_eq!(zoned(&spec(), &both), [(1, HERE, false), (2, HERE, false)]);
    let lost = [slice("web", vec![of_zone(1, "here", false), far])];
    assert_eq!(zoned(&prefers, &lost), [(1, BackendState::Down, false), (2, HERE, false)]);
}

#[test]
fn a_host_without_a_zone_uses_all() {
    let prefers = ServiceSpec { distribution: Distribution::SameZone, ..spec() };
    let slices = [slice("web", vec![hinted(1, &["here"], true), of_zone(2, "there", true)])];
    let gathered = gather(&prefers, &slices, |_| false);
    assert!(gathered.backends.iter().all(|backend| backend.state == HERE));
}

#[test]
fn of_too_many_backends_the_first_by_the_order_of_slices_are_used() {
    let many =
        |from: u8| slice("web", (from..from + 3).map(|n| entry(n, true, true, false)).collect());
    let slices = [many(7), many(1)];
    let spec = spec();
    let used = |backends_max: usize| {
        let gathering = Gathering { spec: &spec, zone: None, backends_max };
        let gathered = gathering.gather(&port(), Family::V4, slices.iter(), |_| false, |_| false);
        (
            gathered.backends.iter().map(|b| b.address.ip().to_string()).collect::<Vec<_>>(),
            gathered.cut,
        )
    };
    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.7", "10.0.0.8", "10.0.0.9"];
    assert_eq!(used(6), (all.map(str::to_owned).to_vec(), false));
    let first = ["10.0.0.1", "10.0.0.7", "10.0.0.8", "10.0.0.9"];
    assert_eq!(used(4), (first.map(str::to_owned).to_vec(), true));
}

#[test]
fn ports_share_what_an_object_may_have() {
    assert_eq!((backends_max(0), backends_max(2)), (BACKENDS_MAX, BACKENDS_MAX));
    assert_eq!(backends_max(2048) * 2048, BACKENDS_OF_OBJECT_MAX);
    assert_eq!(backends_max(usize::MAX), 1);
}

#[test]
fn a_pod_that_terminates_is_last_resort_whatever_it_says_where_readiness_is_not_looked_at() {
    let careless = ServiceSpec { publish_not_ready: true, ..spec() };
    let slices = [slice("web", vec![entry(1, true, false, true)])];
    let states = |spec: &ServiceSpec| gather(spec, &slices, |_| false).backends[0].state;
    assert_eq!(states(&careless), BackendState::Active);
    assert_eq!(states(&spec()), BackendState::Down);
}

fn states(slices: &[BackendSlice]) -> Vec<(BackendState, Vec<StateReason>)> {
    let gathered = gather(&spec(), slices, |_| false);
    gathered.backends.into_iter().map(|b| (b.state, b.reasons)).collect()
}

#[test]
fn conditions_decide_the_state() {
    let backends = vec![
        entry(1, true, true, false),
        entry(2, false, false, false),
        entry(3, false, true, true),
        entry(4, false, false, true),
    ];
    assert_eq!(
        states(&[slice("web", backends)]),
        [
            (BackendState::Active, vec![]),
            (BackendState::Down, vec![StateReason::NotReady]),
            (BackendState::Draining, vec![StateReason::Terminating]),
            (BackendState::Down, vec![StateReason::Terminated]),
        ]
    );
}

#[test]
fn terminating_pods_serve_when_no_other_is_left() {
    let backends = vec![entry(1, false, true, true), entry(2, false, false, false)];
    assert_eq!(
        states(&[slice("web", backends)])[0],
        (BackendState::Active, vec![StateReason::Terminating, StateReason::LastResort])
    );
}

fn backup(last: u8, ready: bool) -> SliceBackend {
    SliceBackend { backup: true, ..entry(last, ready, ready, false) }
}

#[test]
fn backups_stand_by_serve_and_go_before_what_terminates() {
    let terminating = entry(1, false, true, true);
    let standing_by = (BackendState::Draining, vec![StateReason::Backup]);
    assert_eq!(
        states(&[slice("web", vec![entry(1, true, true, false), backup(2, true)])])[1],
        standing_by
    );
    assert_eq!(
        states(&[slice("web", vec![terminating.clone(), backup(2, true)])]),
        [(BackendState::Draining, vec![StateReason::Terminating]), (BackendState::Active, vec![])]
    );
    assert_eq!(
        states(&[slice("web", vec![terminating, backup(2, false)])]),
        [
            (BackendState::Active, vec![StateReason::Terminating, StateReason::LastResort]),
            (BackendState::Down, vec![StateReason::NotReady])
        ]
    );
}

#[test]
fn a_backup_that_is_down_says_only_that() {
    let states = states(&[slice("web", vec![entry(1, true, true, false), backup(2, false)])]);
    assert_eq!(states[1], (BackendState::Down, vec![StateReason::NotReady]));
}

fn any_entry() -> impl Strategy<Value = SliceBackend> {
    let zone = || prop_oneof![Just("here"), Just("there")].prop_map(Arc::<str>::from);
    let hints = prop_oneof![1 => Just(0..1), 3 => Just(1..3)];
    let hints = hints.prop_flat_map(move |count| prop::collection::vec(zone(), count));
    let weight = prop::sample::select(vec![0, 1, DEFAULT_WEIGHT]);
    (any::<[bool; 4]>(), weight, prop::option::of(zone()), hints).prop_map(
        |([ready, serving, terminating, backup], weight, zone, hints)| SliceBackend {
            backup,
            weight,
            zone,
            for_zones: hints.into(),
            ..entry(0, ready, serving, terminating)
        },
    )
}

/// Whom a host in the zone `here` prefers, said once more and simply.
fn preferred(tier: Vec<&SliceBackend>, distribution: Distribution) -> Vec<&SliceBackend> {
    let is_here = |zone: &Arc<str>| **zone == *"here";
    let near: Vec<_> =
        tier.iter().copied().filter(|entry| entry.for_zones.iter().any(is_here)).collect();
    if tier.iter().all(|entry| !entry.for_zones.is_empty()) && !near.is_empty() {
        return near;
    }
    let own: Vec<_> =
        tier.iter().copied().filter(|entry| entry.zone.as_ref().is_some_and(is_here)).collect();
    if distribution == Distribution::SameZone && !own.is_empty() { own } else { tier }
}

proptest! {
    /// The order in which backends are used, said once more and simply.
    #[test]
    fn only_the_best_tier_that_has_anybody_is_active(
        entries in prop::collection::vec((any_entry(), any::<bool>()), 0..6),
        zone in prop::option::of(Just("here")),
        same_zone in any::<bool>(),
    ) {
        let entries: Vec<(SliceBackend, bool)> = (1..)
            .zip(entries)
            .map(|(last, (entry, failed))| {
                (SliceBackend { address: [10, 0, 0, last].into(), ..entry }, failed)
            })
            .collect();
        let sound = |(entry, failed): &&(SliceBackend, bool)| !failed && entry.weight > 0;
        let ready = |(entry, _): &&(SliceBackend, bool)| entry.ready && !entry.terminating;
        let usable: Vec<_> = entries.iter().filter(sound).filter(ready).collect();
        let of = |backup: bool| -> Vec<&SliceBackend> {
            let of = usable.iter().filter(move |(entry, _)| entry.backup == backup);
            of.map(|(entry, _)| entry).collect()
        };
        let distribution = if same_zone { Distribution::SameZone } else { Distribution::Even };
        let chosen = |tier: Vec<&SliceBackend>| -> Vec<SocketAddr> {
            let tier = if zone.is_some() { preferred(tier, distribution) } else { tier };
            tier.iter().map(|entry| (entry.address, 8080).into()).collect()
        };
        let leaving = |(entry, _): &&(SliceBackend, bool)| entry.terminating && entry.serving;
        let expected: Vec<SocketAddr> = if !of(false).is_empty() {
            chosen(of(false))
        } else if !of(true).is_empty() {
            chosen(of(true))
        } else {
            let leaving = entries.iter().filter(sound).filter(leaving);
            leaving.map(|(entry, _)| (entry.address, 8080).into()).collect()
        };
        let slices = [slice("web", entries.iter().map(|(entry, _)| entry.clone()).collect())];
        let failed = |address: &SocketAddr| {
            entries.iter().any(|(entry, failed)| *failed && entry.address == address.ip())
        };
        let spec = ServiceSpec { distribution, ..spec() };
        let gathering = Gathering { spec: &spec, zone, backends_max: BACKENDS_MAX };
        let gathered = gathering.gather(&port(), Family::V4, slices.iter(), failed, |_| false);
        let active: Vec<SocketAddr> = gathered
            .backends
            .iter()
            .filter(|backend| backend.state == BackendState::Active)
            .map(|backend| backend.address)
            .collect();
        prop_assert_eq!(active, expected);
        // Whoever is not active says why.
        let explained = gathered.backends.iter().all(|backend| {
            backend.state == BackendState::Active || !backend.reasons.is_empty()
        });
        prop_assert!(explained);
    }
}

#[test]
fn a_backend_in_two_slices_counts_once_with_its_better_state() {
    let slices = [
        slice("web", vec![entry(1, false, false, false)]),
        slice("web", vec![entry(1, true, true, false)]),
    ];
    assert_eq!(states(&slices), [(BackendState::Active, vec![])]);
}

#[test]
fn a_failed_check_takes_a_ready_pod_out() {
    let slices = [slice("web", vec![entry(1, true, true, false)])];
    let gathered = gather(&spec(), &slices, |_| true);
    assert_eq!(gathered.backends[0].state, BackendState::Down);
    assert_eq!(gathered.backends[0].reasons, [StateReason::CheckFailed]);
}

#[test]
fn a_port_that_no_slice_has_is_unmatched() {
    let slices = [slice("other", vec![entry(1, true, true, false)])];
    let gathered = gather(&spec(), &slices, |_| false);
    assert!(gathered.port_unmatched && gathered.backends.is_empty());
    let empty = [slice("other", vec![])];
    assert!(!gather(&spec(), &empty, |_| false).port_unmatched);
}
