//! What the fields of a Service come to.

use super::*;
use crate::{Distribution, FamilyPolicy, FaultReason, PortStatus, RefusedPort};

const VIP: &str = "192.0.2.7";

fn reported(index: &Index, name: &str) -> ObjectReport {
    ObjectReport::clone(index.current().reports.get(&object(name)).unwrap())
}

fn reasons(report: &ObjectReport) -> Vec<FaultReason> {
    report.faults.iter().map(|fault| fault.reason).collect()
}

fn listed(port: u16, protocol: &str, error: Option<FaultReason>) -> PortStatus {
    PortStatus { port, protocol: protocol.into(), error: error.map(FaultReason::port_error) }
}

fn sctp(port: u16) -> RefusedPort {
    RefusedPort { port, protocol: "SCTP".into(), reason: FaultReason::UnsupportedProtocol }
}

fn with(spec: ServiceSpec, change: impl Fn(&mut Exposure)) -> ServiceSpec {
    let mut spec = spec;
    spec.exposure.iter_mut().for_each(change);
    spec
}

#[test]
fn a_refused_port_is_an_error_of_every_address_until_the_status_says_so() {
    let half = ServiceSpec { refused_ports: vec![sctp(5060)], ..service(&[VIP]) };
    let mut index = index([set_service("web", Some(half.clone()))]);
    let refused = Some(FaultReason::UnsupportedProtocol);
    let ports = vec![listed(80, "TCP", None), listed(5060, "SCTP", refused)];
    let report = reported(&index, "web");
    assert_eq!(report.desired[0].ports, ports);
    assert_eq!(
        &*report.desired[0].ports[1].error.clone().unwrap(),
        "haflinger.dev/UnsupportedProtocol"
    );
    assert!(report.details_outdated);
    let recorded = vec![(VIP.parse().unwrap(), ports)];
    let said = with(half, |exposure| exposure.recorded_ports = recorded.clone());
    index.apply(set_service("web", Some(said.clone())));
    index.publish(1);
    assert!(!reported(&index, "web").details_outdated);
    // Mended: the errors have to go.
    index.apply(set_service("web", Some(ServiceSpec { refused_ports: vec![], ..said })));
    index.publish(2);
    let report = reported(&index, "web");
    assert!(report.desired[0].ports.is_empty() && report.details_outdated);
}

#[test]
fn a_port_that_cannot_be_opened_is_an_error_of_its_address() {
    let relayed = with(service(&[VIP]), |exposure| exposure.mode = Some(ForwardingMode::Proxy));
    let mut index = index([set_service("web", Some(relayed))]);
    assert!(reported(&index, "web").desired[0].ports.is_empty());
    for (fault, error) in [(Some("in use"), Some(FaultReason::NotServed)), (None, None)] {
        index.apply(Update::Served { listener: key(VIP), fault: fault.map(Arc::from) });
        index.publish(1);
        let ports = reported(&index, "web").desired[0].ports.clone();
        assert_eq!(ports.first().cloned(), error.map(|error| listed(80, "TCP", Some(error))));
    }
}

#[test]
fn a_service_none_of_whose_ports_can_be_served_gives_its_address_up_and_says_why() {
    let mut index = index([set_service("web", Some(service(&[VIP])))]);
    assert!(index.current().services.contains_key(&key(VIP)));
    let fault = SourceFault::new(FaultReason::UnsupportedProtocol, "use TCP or UDP");
    let none = ServiceSpec {
        ports: vec![],
        refused_ports: vec![sctp(80)],
        faults: vec![fault],
        ..service(&[VIP])
    };
    index.apply(set_service("web", Some(none)));
    index.publish(1);
    let snapshot = index.current();
    assert!(snapshot.services.is_empty() && snapshot.targets.is_empty());
    assert!(snapshot.vips.is_empty() && snapshot.hostnames.is_empty());
    let report = reported(&index, "web");
    assert!(report.desired.is_empty());
    assert_eq!(reasons(&report), [FaultReason::UnsupportedProtocol]);
}

#[test]
fn a_port_that_changes_takes_its_service_with_it() {
    let mut index = index([
        set_service("web", Some(service(&[VIP]))),
        set_slice("web", Some(slice(&[(1, true)]))),
    ]);
    index.apply(set_service(
        "web",
        Some(ServiceSpec { ports: vec![port("web", 81)], ..service(&[VIP]) }),
    ));
    index.publish(1);
    let keys: Vec<u16> = index.current().services.keys().map(|key| key.port).collect();
    let targets: Vec<u16> = index.current().targets.keys().map(|target| target.port).collect();
    assert_eq!((&*keys, &*targets), (&[81][..], &[81][..]));
    assert_eq!(index.tables.len(), 1);
}

#[test]
fn a_service_that_is_no_longer_ours_leaves_nothing_but_its_backends_entry() {
    let mut index = index([
        set_service("web", Some(service(&[VIP]))),
        set_slice("web", Some(slice(&[(1, true)]))),
    ]);
    index.apply(set_service("web", Some(ServiceSpec { exposure: None, ..service(&[VIP]) })));
    index.publish(1);
    let snapshot = index.current();
    assert!(snapshot.services.is_empty() && snapshot.targets.is_empty());
    assert!(snapshot.vips.is_empty() && snapshot.hostnames.is_empty());
    assert!(snapshot.reports.is_empty() && snapshot.probes.is_empty() && index.tables.is_empty());
    // Its address is free at once.
    let other = with(service(&[]), |exposure| exposure.requested = vec![VIP.parse().unwrap()]);
    index.apply(set_service("other", Some(other)));
    index.publish(2);
    assert_eq!(reported(&index, "other").desired[0].address.to_string(), VIP);
}

#[test]
fn a_family_without_a_pool_is_a_fault_unless_it_was_only_preferred() {
    // The pool has IPv4 alone.
    let both = |policy: FamilyPolicy| {
        with(service(&[]), |exposure| {
            exposure.families = vec![Family::V6, Family::V4];
            exposure.family_policy = policy;
        })
    };
    let index = index([
        set_service("every", Some(both(FamilyPolicy::Every))),
        set_service("possible", Some(both(FamilyPolicy::Possible))),
    ]);
    assert_eq!(reasons(&reported(&index, "every")), [FaultReason::NoPool]);
    assert_eq!(reported(&index, "every").desired.len(), 1);
    assert_eq!(reasons(&reported(&index, "possible")), []);
    assert_eq!(reported(&index, "possible").desired.len(), 1);
    let v6 = with(both(FamilyPolicy::Possible), |exposure| exposure.families = vec![Family::V6]);
    let none = super::index([set_service("none", Some(v6))]);
    assert_eq!(reasons(&reported(&none, "none")), [FaultReason::NoPool]);
}

#[test]
fn local_is_a_fault_where_pods_do_not_see_the_client() {
    let local = |mode: Option<ForwardingMode>| {
        with(service(&[VIP]), |exposure| {
            exposure.wants_client_address = true;
            exposure.mode = mode;
        })
    };
    let told = |spec: ServiceSpec| {
        let updates = [set_service("web", Some(spec)), set_slice("web", Some(slice(&[(1, true)])))];
        reasons(&reported(&index(updates), "web"))
    };
    assert_eq!(told(local(None)), [FaultReason::ClientAddressHidden]);
    assert_eq!(told(local(Some(ForwardingMode::Proxy))), [FaultReason::ClientAddressHidden]);
    assert_eq!(told(local(Some(ForwardingMode::Routed))), []);
    let header = ServiceSpec { proxy_protocol: ProxyProtocol::V2, ..local(None) };
    assert_eq!(told(header), []);
    // What the host lacks is not the object's fault.
    let mut lacking = index([set_service("web", Some(local(Some(ForwardingMode::Routed))))]);
    lacking.apply(Update::Datapath { fault: Some("no kernel".into()) });
    lacking.publish(1);
    assert_eq!(reasons(&reported(&lacking, "web")), []);
}

#[test]
fn a_zone_given_to_the_host_is_followed_at_once() {
    let prefers = ServiceSpec { distribution: Distribution::SameZone, ..service(&[VIP]) };
    let mut zoned = slice(&[(1, true), (2, true)]);
    zoned.backends[0].zone = Some("here".into());
    zoned.backends[1].zone = Some("there".into());
    let mut index = index([set_service("web", Some(prefers)), set_slice("web", Some(zoned))]);
    let active = |index: &Index| {
        let service = index.current().services.get(&key(VIP)).unwrap().clone();
        service.backends.active().map(|b| b.address.ip().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(active(&index), ["10.0.0.1", "10.0.0.2"]);
    for (zone, wanted) in [("there", "10.0.0.2"), ("here", "10.0.0.1")] {
        let policy = Policy { zone: Some(zone.into()), ..(*policy()).clone() };
        index.apply(Update::Policy(Arc::new(policy)));
        index.publish(1);
        assert_eq!(active(&index), [wanted]);
    }
}

/// Slice number `n` of a service, with `count` backends of its own.
fn big_slice(n: u32, count: u32) -> Update {
    let mut content = slice(&[(1, true)]);
    let one = content.backends[0].clone();
    content.backends = (0..count)
        .map(|at| SliceBackend {
            address: std::net::Ipv4Addr::from(0x0a00_0000 + n * count + at).into(),
            ..one.clone()
        })
        .collect();
    Update::Source(SourceUpdate::Slice {
        service: object("web"),
        slice: format!("web-{n:05}").into(),
        content: Some(Box::new(content)),
    })
}

#[test]
fn backends_beyond_the_bound_are_left_out_alike_whatever_the_order_and_one_reason_says_so() {
    let slices: Vec<Update> = (0..30).map(|n| big_slice(n, 1000)).collect();
    let updates = |slices: Vec<Update>| {
        let mut updates = vec![set_service("web", Some(service(&[VIP])))];
        updates.extend(slices);
        index(updates)
    };
    let forth = updates(slices.clone());
    let back = updates(slices.into_iter().rev().collect());
    let set = |index: &Index| index.current().services.get(&key(VIP)).unwrap().backends.clone();
    assert_eq!(set(&forth).backends.len(), super::super::backends::BACKENDS_MAX);
    assert_eq!(set(&forth).backends, set(&back).backends);
    assert_eq!(reasons(&reported(&forth, "web")), [FaultReason::TooManyBackends]);
}

#[test]
fn a_thousand_faults_of_a_kind_are_told_as_a_few() {
    let mut updates = vec![set_service("web", Some(service(&[VIP])))];
    for n in 0..1000 {
        let fault = SourceFault::new(FaultReason::InvalidEndpointSlice, format!("slice {n:04}: x"));
        let content = BackendSlice { faults: vec![fault], ..slice(&[]) };
        updates.push(Update::Source(SourceUpdate::Slice {
            service: object("web"),
            slice: format!("web-{n}").into(),
            content: Some(Box::new(content)),
        }));
    }
    let faults = reported(&index(updates), "web").faults;
    assert_eq!(faults.len(), 5);
    assert_eq!(faults[0].message, "slice 0000: x");
    assert_eq!(faults[4].message, "more of the same kind are not listed");
}
