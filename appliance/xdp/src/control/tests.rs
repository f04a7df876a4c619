//! The control against maps in memory, and against a slow look at everything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use haflinger_core::flow::FlowHashKey;
use haflinger_core::forwarding::ForwardingTable;
use haflinger_core::{
    Algorithm, Backend, BackendSet, BackendState, ConnectionLimits, Family, FlowTimeouts,
    ForwardingMode, ObjectRef, Protocol, ProxyProtocol, Service, ServiceKey, Snapshot, SourceId,
    Target, Update,
};
use proptest::prelude::*;

use super::{Control, GRACE_SECS, ROUTES_AT_ONCE};
use crate::maps::Maps;
use crate::netlink::Route;
use crate::program::types;
use crate::settings::{AttachWish, Capacities, Settings};
use crate::words;

const ROOMY: Capacities = Capacities {
    opening_flows: 16,
    established_flows: 16,
    services: 8,
    backends: 64,
    buckets: 1 << 14,
    source_ranges: 8,
    affinities: 16,
    fragments: 16,
};

fn settings(capacities: Capacities) -> Settings {
    Settings {
        enabled: true,
        interfaces: vec!["eth0".into()],
        attach: AttachWish::Auto,
        pin_dir: PathBuf::from("/nowhere"),
        flow_hash_key: FlowHashKey(*b"a key for tests!"),
        capacities,
        new_flows_rate: 7,
        nat_addresses: Vec::new(),
        nat_ports: 1024..=65_535,
    }
}

fn route(to: IpAddr) -> std::io::Result<Route> {
    let source = Some(IpAddr::from([10, 9, 9, 9]));
    Ok(Route { source, next_hop: to, interface: 2, is_local: false, mtu: None })
}

fn control(maps: &Arc<Maps>, capacities: Capacities) -> Control {
    Control::new(maps.clone(), Box::new(route), &settings(capacities))
}

fn member(id: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, id], 8080))
}

/// A service and the table that it had before, since tables have a history.
struct Scripted {
    table: ForwardingTable<SocketAddr>,
}

fn key(port: u16) -> ServiceKey {
    ServiceKey { vip: [192, 0, 2, 1].into(), port, protocol: Protocol::Tcp }
}

impl Scripted {
    fn new() -> Self {
        Self { table: ForwardingTable::new([]) }
    }

    fn service(&mut self, port: u16, members: &BTreeSet<u8>) -> Service {
        self.table.update(members.iter().map(|id| (member(*id), 100)), 0);
        let object = ObjectRef::service(&SourceId::inventory(), "default", "web");
        let backends = members.iter().map(|id| Backend {
            address: member(*id),
            name: "pod".into(),
            node: None,
            zone: None,
            weight: 100,
            backup: false,
            state: BackendState::Active,
            reasons: Vec::new(),
        });
        let target =
            Target { object: object.clone(), port, protocol: Protocol::Tcp, family: Family::V4 };
        let backends = backends.collect();
        Service {
            key: key(port),
            object,
            mode: ForwardingMode::Nat,
            asked_mode: ForwardingMode::Nat,
            mode_reason: None,
            algorithm: Algorithm::Hash,
            limits: ConnectionLimits::default(),
            timeouts: FlowTimeouts::default(),
            source_ranges: Vec::new(),
            proxy_protocol: ProxyProtocol::Off,
            backends: Arc::new(BackendSet { target, backends, table: self.table.view() }),
        }
    }
}

fn snapshot(complete: bool, services: impl IntoIterator<Item = Service>) -> Snapshot {
    let services = services.into_iter().map(|service| (service.key, Arc::new(service)));
    Snapshot { complete, services: services.collect(), ..Default::default() }
}

#[test]
fn of_very_many_new_backends_those_that_can_wait_are_asked_for_later() {
    let sizes = Capacities { backends: 4096, buckets: 1 << 18, ..ROOMY };
    let maps = Arc::new(Maps::in_memory(&sizes));
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let router = move |to| {
        counted.fetch_add(1, Ordering::Relaxed);
        route(to)
    };
    let settings = Settings { nat_addresses: vec![[10, 9, 9, 1].into()], ..settings(sizes) };
    let mut control = Control::new(maps.clone(), Box::new(router), &settings);
    let members: BTreeSet<u8> = (1..=250).collect();
    let services: Vec<Service> =
        (80..85).map(|port| Scripted::new().service(port, &members)).collect();
    control.apply(&snapshot(true, services.clone()), 100);
    assert_eq!(asked.load(Ordering::Relaxed), ROUTES_AT_ONCE);
    for service in &services {
        assert_eq!(led(&maps, &service.key), Some(expected(service)));
    }
    let sources = (1..=1250).map(|slot| maps.backends.read(slot).sources_count);
    assert!(sources.eq(std::iter::repeat_n(1, 1250)), "each has where to send from");
    // In a minute every one of them is asked for.
    for _ in 0..60 {
        control.begin_second();
        while control.look_again() {}
    }
    assert_eq!(control.hops().count(), 250);
    let known = control.services.values().flat_map(|held| held.backends.values());
    assert!(known.into_iter().all(|backend| backend.route.is_some()));
    // Without addresses of the family, a packet needs the answer.
    asked.store(0, Ordering::Relaxed);
    let maps = Arc::new(Maps::in_memory(&sizes));
    let counted = asked.clone();
    let router = move |to| {
        counted.fetch_add(1, Ordering::Relaxed);
        route(to)
    };
    let settings = Settings { nat_addresses: Vec::new(), ..settings };
    Control::new(maps, Box::new(router), &settings).apply(&snapshot(true, services), 100);
    assert_eq!(asked.load(Ordering::Relaxed), 1250);
}

/// Where the maps lead a packet for the service: the addresses of all first hops, by bucket.
fn led(maps: &Maps, key: &ServiceKey) -> Option<Vec<SocketAddr>> {
    let slot = maps.service_index.get(&words::service_key(key)).unwrap()?;
    let service = maps.services.read(slot);
    assert_eq!(words::service_of(&service.key), Some(*key), "the slot is the service's");
    if service.table.bits == 0 {
        return Some(Vec::new());
    }
    let buckets = service.table.first..service.table.first + (1 << service.table.bits);
    let hops = buckets.map(|at| {
        let bucket = maps.buckets.read(at);
        let backend = maps.backends.read(bucket.first);
        assert_ne!(bucket.first, 0, "every bucket has a first hop");
        assert_eq!(backend.service, slot, "a first hop is a backend of the service");
        assert_eq!(u32::from(backend.state), types::backend_state::BACKEND_ACTIVE.0);
        if bucket.second != 0 {
            assert_eq!(maps.backends.read(bucket.second).service, slot);
        }
        words::socket(&backend.address, backend.port)
    });
    Some(hops.collect())
}

fn expected(service: &Service) -> Vec<SocketAddr> {
    service.backends.table.buckets().map(|hops| *hops.first).collect()
}

fn refusals(told: &[Update]) -> Vec<(u16, bool)> {
    let of = |update: &Update| match update {
        Update::Forwarding { service, refused } => Some((service.port, refused.is_some())),
        _ => None,
    };
    told.iter().filter_map(of).collect()
}

#[test]
fn packets_are_led_as_the_snapshot_says() {
    let maps = Arc::new(Maps::in_memory(&ROOMY));
    let mut control = control(&maps, ROOMY);
    let mut scripted = Scripted::new();
    let first = scripted.service(80, &[1, 2, 3].into());
    control.apply(&snapshot(true, [first.clone()]), 100);
    assert_eq!(led(&maps, &key(80)), Some(expected(&first)));
    let next = scripted.service(80, &[2, 3, 4].into());
    control.apply(&snapshot(true, [next.clone()]), 101);
    assert_eq!(led(&maps, &key(80)), Some(expected(&next)));
    let none = scripted.service(80, &BTreeSet::new());
    control.apply(&snapshot(true, [none]), 102);
    assert_eq!(led(&maps, &key(80)), Some(Vec::new()));
    control.apply(&snapshot(true, []), 103);
    assert_eq!(led(&maps, &key(80)), None);
    let settings = maps.settings.read(0);
    assert_eq!((settings.new_flows_rate, words::ip(&settings.self_v4)), (7, [10, 9, 9, 9].into()));
}

#[test]
fn a_slot_with_live_flows_is_never_given_away() {
    let maps = Arc::new(Maps::in_memory(&ROOMY));
    let mut control = control(&maps, ROOMY);
    let mut scripted = Scripted::new();
    control.apply(&snapshot(true, [scripted.service(80, &[1, 2].into())]), 100);
    let held = (1..=2).find(|slot| {
        let backend = maps.backends.read(*slot);
        words::socket(&backend.address, backend.port) == member(1)
    });
    let held = held.unwrap();
    maps.backend_loads.write(held, &types::backend_load { connections: 1 });
    control.apply(&snapshot(true, [scripted.service(80, &[2].into())]), 101);
    let down = types::backend_state::BACKEND_DOWN.0;
    for now in 102..110 {
        control.reap(now);
        assert_eq!(u32::from(maps.backends.read(held).state), down);
    }
    maps.backend_loads.write(held, &types::backend_load { connections: 0 });
    control.reap(110);
    assert_eq!(maps.backends.read(held).state, 0);
    assert_eq!(control.fill()[1].1.used, 2, "it is out of sight only after a grace period");
    control.reap(110 + GRACE_SECS);
    assert_eq!(control.fill()[1].1.used, 1);
}

#[test]
fn what_does_not_fit_is_refused_and_asked_for_again_when_there_is_room() {
    let tight = Capacities { services: 1, ..ROOMY };
    let maps = Arc::new(Maps::in_memory(&tight));
    let mut control = control(&maps, tight);
    let (first, second) =
        (Scripted::new().service(80, &[1].into()), Scripted::new().service(81, &[1].into()));
    let told = control.apply(&snapshot(true, [first.clone(), second.clone()]), 100);
    assert_eq!(refusals(&told), [(81, true)]);
    let relayed = Service { mode: ForwardingMode::Proxy, ..second.clone() };
    assert_eq!(refusals(&control.apply(&snapshot(true, [first, relayed.clone()]), 101)), []);
    assert!(control.retry().is_empty());
    control.apply(&snapshot(true, [relayed]), 102);
    let mut told = Vec::new();
    for now in 103..120 {
        control.reap(now);
        told.extend(control.retry());
    }
    assert_eq!(refusals(&told), [(81, false)]);
    assert_eq!(refusals(&control.apply(&snapshot(true, [second.clone()]), 120)), []);
    assert_eq!(led(&maps, &key(81)), Some(expected(&second)));
}

#[test]
fn a_refused_service_that_goes_is_withdrawn() {
    let tight = Capacities { backends: 1, ..ROOMY };
    let maps = Arc::new(Maps::in_memory(&tight));
    let mut control = control(&maps, tight);
    let told = control.apply(&snapshot(true, [Scripted::new().service(80, &[1, 2].into())]), 100);
    assert_eq!(refusals(&told), [(80, true)]);
    assert_eq!(led(&maps, &key(80)), None);
    assert_eq!(refusals(&control.apply(&snapshot(true, []), 101)), [(80, false)]);
}

#[test]
fn a_restart_finds_everything_and_waits_for_a_complete_snapshot() {
    let maps = Arc::new(Maps::in_memory(&ROOMY));
    let mut scripted = Scripted::new();
    let services = [
        Service {
            source_ranges: vec!["198.51.100.0/24".parse().unwrap()],
            ..scripted.service(80, &[1, 2, 3].into())
        },
        Scripted::new().service(81, &[4].into()),
    ];
    let mut before = control(&maps, ROOMY);
    before.apply(&snapshot(true, services.clone()), 100);
    let filled = before.fill();
    drop(before);
    let mut control = control(&maps, ROOMY);
    assert_eq!(control.fill(), filled);
    control.apply(&snapshot(false, []), 101);
    control.reap(110);
    assert_eq!(led(&maps, &key(80)), Some(expected(&services[0])));
    let less = scripted.service(80, &[1].into());
    control.apply(&snapshot(false, [less.clone()]), 111);
    assert_eq!(led(&maps, &key(80)), Some(expected(&services[0])));
    control.apply(&snapshot(true, [less.clone()]), 112);
    assert_eq!(led(&maps, &key(80)), Some(expected(&less)));
    assert_eq!(led(&maps, &key(81)), None);
    assert_eq!(maps.source_ranges.keys().unwrap().len(), 0);
}

#[test]
fn after_a_restart_new_flows_have_where_to_send_from_at_once() {
    let maps = Arc::new(Maps::in_memory(&ROOMY));
    let mut scripted = Scripted::new();
    let service = scripted.service(80, &[1, 2, 3].into());
    control(&maps, ROOMY).apply(&snapshot(true, [service.clone()]), 100);
    let sources = || (1..=3).map(|slot| maps.backends.read(slot)).map(|b| b.sources_count);
    assert!(sources().eq([1, 1, 1]));
    let mut control = control(&maps, ROOMY);
    assert!(sources().eq([1, 1, 1]), "as the run before left it");
    control.apply(&snapshot(true, [service]), 101);
    assert!(sources().eq([1, 1, 1]), "before any route is looked at again");
}

#[test]
fn source_ranges_follow_and_are_counted() {
    let maps = Arc::new(Maps::in_memory(&ROOMY));
    let mut control = control(&maps, ROOMY);
    let mut scripted = Scripted::new();
    let service = scripted.service(80, &[1].into());
    let ranged = |ranges: &[&str]| Service {
        source_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        ..service.clone()
    };
    let many: Vec<String> = (0..9).map(|at| format!("10.{at}.0.0/16")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (ranges, entries) in [(&["10.0.0.0/8", "::/0"][..], 2), (&["10.0.0.0/8"], 1), (&[], 0)] {
        assert_eq!(refusals(&control.apply(&snapshot(true, [ranged(ranges)]), 100)), []);
        assert_eq!(maps.source_ranges.keys().unwrap().len(), entries);
        let slot = maps.service_index.get(&words::service_key(&key(80))).unwrap().unwrap();
        assert_eq!(maps.services.read(slot).ranged, u8::from(entries > 0));
    }
    assert_eq!(refusals(&control.apply(&snapshot(true, [ranged(&many)]), 101)), [(80, true)]);
}

#[test]
fn other_source_addresses_reach_every_backend() {
    let maps = Arc::new(Maps::in_memory(&ROOMY));
    let mut control = control(&maps, ROOMY);
    control.apply(&snapshot(true, [Scripted::new().service(80, &[1, 2].into())]), 100);
    let sources = |maps: &Maps| -> BTreeSet<IpAddr> {
        let backends = (1..=2).map(|slot| maps.backends.read(slot));
        let slots = backends.flat_map(|b| b.sources_first..b.sources_first + b.sources_count);
        slots.map(|slot| words::ip(&maps.sources.read(slot.into()).address)).collect()
    };
    assert_eq!(sources(&maps), [IpAddr::from([10, 9, 9, 9])].into());
    let nat_addresses: Vec<IpAddr> = vec![[203, 0, 113, 1].into(), [203, 0, 113, 2].into()];
    let changed = Settings { nat_addresses: nat_addresses.clone(), ..settings(ROOMY) };
    control.configure(&changed, 101);
    assert_eq!(sources(&maps), nat_addresses.into_iter().collect());
}

#[test]
fn states_and_weights_follow_and_a_backend_that_comes_back_has_its_slot() {
    let maps = Arc::new(Maps::in_memory(&ROOMY));
    let mut control = control(&maps, ROOMY);
    let mut scripted = Scripted::new();
    let both = scripted.service(80, &[1, 2].into());
    control.apply(&snapshot(true, [both.clone()]), 100);
    let slot = (1..=2)
        .find(|slot| words::ip(&maps.backends.read(*slot).address) == member(1).ip())
        .unwrap();
    let draining = |mut service: Service| {
        let set = Arc::make_mut(&mut service.backends);
        set.backends[0].state = BackendState::Draining;
        set.backends[0].weight = 0;
        service
    };
    let one = scripted.service(80, &[2].into());
    let mut drained = draining(both.clone());
    Arc::make_mut(&mut drained.backends).table = one.backends.table.clone();
    control.apply(&snapshot(true, [drained]), 101);
    let record = maps.backends.read(slot);
    assert_eq!(u32::from(record.state), types::backend_state::BACKEND_DRAINING.0);
    assert_eq!((record.weight, led(&maps, &key(80))), (0, Some(expected(&one))));
    control.apply(&snapshot(true, [one]), 102);
    assert_eq!(u32::from(maps.backends.read(slot).state), types::backend_state::BACKEND_DOWN.0);
    let again = scripted.service(80, &[1, 2].into());
    control.apply(&snapshot(true, [again.clone()]), 102);
    let record = maps.backends.read(slot);
    assert_eq!((words::ip(&record.address), record.weight), (member(1).ip(), 100));
    assert_eq!(led(&maps, &key(80)), Some(expected(&again)));
}

#[derive(Clone, Debug)]
enum Step {
    Serve(u16, BTreeSet<u8>),
    Relay(u16),
    Remove(u16),
    Wait(u64),
    Restart,
    Flows(u32, u32),
}

fn step() -> impl Strategy<Value = Step> {
    let members = prop::collection::btree_set(1..12_u8, 0..8);
    prop_oneof![
        6 => (80..84_u16, members).prop_map(|(port, members)| Step::Serve(port, members)),
        1 => (80..84_u16).prop_map(Step::Relay),
        2 => (80..84_u16).prop_map(Step::Remove),
        3 => (1..5_u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
        2 => (1..20_u32, 0..3_u32).prop_map(|(slot, count)| Step::Flows(slot, count)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Over any history, with flows that come and go and restarts in between, every packet is led
    /// as the newest snapshot says, and in the end everything is free again.
    #[test]
    fn the_maps_always_lead_as_the_snapshot_says(steps in prop::collection::vec(step(), 1..40)) {
        let roomy = Capacities { backends: 512, buckets: 1 << 18, services: 64, ..ROOMY };
        let maps = Arc::new(Maps::in_memory(&roomy));
        let mut control = control(&maps, roomy);
        let mut scripts: BTreeMap<u16, Scripted> = BTreeMap::new();
        let mut services: BTreeMap<u16, Service> = BTreeMap::new();
        let mut now = 100;
        for step in steps {
            match step {
                Step::Serve(port, members) => {
                    let script = scripts.entry(port).or_insert_with(Scripted::new);
                    services.insert(port, script.service(port, &members));
                }
                Step::Relay(port) => if let Some(service) = services.get_mut(&port) {
                    service.mode = ForwardingMode::Proxy;
                },
                Step::Remove(port) => {
                    services.remove(&port);
                }
                Step::Wait(seconds) => {
                    now += seconds;
                    control.reap(now);
                    control.begin_second();
                    while control.look_again() {}
                }
                Step::Restart => control = self::control(&maps, roomy),
                Step::Flows(slot, connections) => {
                    // Only a backend that is one gets flows.
                    if maps.backends.read(slot).state != 0 || connections == 0 {
                        maps.backend_loads.write(slot, &types::backend_load { connections });
                    }
                }
            }
            let told = control.apply(&snapshot(true, services.values().cloned()), now);
            prop_assert_eq!(refusals(&told), []);
            for port in 80..84 {
                let service = services.get(&port);
                // Packets find their way here until the relay's socket is surely open.
                if service.is_none_or(|service| service.mode.is_xdp()) {
                    prop_assert_eq!(led(&maps, &key(port)), service.map(expected));
                }
            }
        }
        control.apply(&snapshot(true, []), now);
        for slot in 0..maps.backends.len() {
            maps.backend_loads.write(slot, &types::backend_load { connections: 0 });
        }
        for _ in 0..5 {
            now += GRACE_SECS;
            control.reap(now);
        }
        for (map, fill) in control.fill() {
            prop_assert_eq!(fill.used, 0, "{} are free again", map);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a damaged or foreign run left in the maps, it is taken over without a panic, and a
    /// service is led as the snapshot says or refused.
    #[test]
    fn maps_of_any_content_are_taken_over(
        services in prop::collection::vec((0..4_u16, any::<[u32; 2]>(), 0..10_u32, 0..3_u32), 0..8),
        backends in prop::collection::vec((0..5_u8, any::<[u16; 2]>(), 0..12_u32, 0..2_u32), 0..64),
    ) {
        let maps = Arc::new(Maps::in_memory(&ROOMY));
        for (slot, (port, [first, bits], leads_to, connections)) in (0..).zip(services) {
            let key = words::service_key(&key(port));
            let table = types::table { first: first % 20_000, bits: bits % 40 };
            maps.services.write(slot, &types::service { key, table, ..Default::default() });
            maps.service_loads.write(slot, &types::service_load { connections, turn: 0 });
            maps.service_index.insert(&key, &leads_to).unwrap();
        }
        for (slot, (state, [first, count], service, connections)) in (1..).zip(backends) {
            let address = words::address([10, 0, 0, state].into());
            let (sources_first, sources_count) = (first, count);
            let backend = types::backend {
                address, state, service, sources_first, sources_count, ..Default::default()
            };
            maps.backends.write(slot, &backend);
            maps.backend_loads.write(slot, &types::backend_load { connections });
        }
        let mut control = control(&maps, ROOMY);
        let service = Scripted::new().service(80, &[1, 2].into());
        let told = control.apply(&snapshot(true, [service.clone()]), 100);
        for second in 0..10 {
            control.reap(101 + second);
            control.begin_second();
            while control.look_again() {}
        }
        match refusals(&told).contains(&(80, true)) {
            true => prop_assert_eq!(led(&maps, &key(80)), None),
            false => prop_assert_eq!(led(&maps, &key(80)), Some(expected(&service))),
        }
    }
}
