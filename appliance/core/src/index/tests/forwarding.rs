//! Modes, and what the data path says about them.

use super::*;
use crate::{FaultReason, IpMode, ModeReason, ProbeWay, Service};

const VIP: &str = "192.0.2.7";

fn web(spec: ServiceSpec) -> Index {
    index([set_service("web", Some(spec)), set_slice("web", Some(slice(&[(1, true)])))])
}

fn asking(mode: ForwardingMode) -> ServiceSpec {
    let mut spec = service(&[VIP]);
    spec.exposure.as_mut().unwrap().mode = Some(mode);
    spec
}

fn served(index: &Index) -> &Service {
    index.current().services.get(&key(VIP)).unwrap()
}

fn mode(index: &Index) -> (ForwardingMode, Option<ModeReason>) {
    (served(index).mode, served(index).mode_reason.clone())
}

fn faults(index: &Index) -> Vec<FaultReason> {
    let report = index.current().reports.get(&object("web")).unwrap();
    report.faults.iter().map(|fault| fault.reason).collect()
}

fn announcement(index: &Index, vip: &str) -> Announcement {
    index.current().vips.get(&vip.parse::<IpAddr>().unwrap()).unwrap().announcement
}

fn told(index: &mut Index, update: Update) {
    index.apply(update);
    index.publish(1);
}

fn with_policy(index: &mut Index, change: impl FnOnce(&mut Policy)) {
    let mut policy = (*policy()).clone();
    change(&mut policy);
    told(index, Update::Policy(Arc::new(policy)));
}

#[test]
fn a_service_that_asks_for_nothing_follows_the_configured_mode_and_its_changes() {
    let mut index = web(service(&[VIP]));
    assert_eq!(mode(&index), (ForwardingMode::Nat, None));
    with_policy(&mut index, |policy| policy.default_mode = ForwardingMode::Routed);
    assert_eq!(mode(&index), (ForwardingMode::Routed, None));
    with_policy(&mut index, |policy| policy.default_mode = ForwardingMode::Proxy);
    assert_eq!(mode(&index), (ForwardingMode::Proxy, None));
}

#[test]
fn a_service_that_asks_for_a_mode_gets_it_whatever_is_configured() {
    let index = web(asking(ForwardingMode::Routed));
    assert_eq!(mode(&index), (ForwardingMode::Routed, None));
    let index = web(asking(ForwardingMode::Proxy));
    assert_eq!(mode(&index), (ForwardingMode::Proxy, None));
    assert_eq!(faults(&index), []);
}

#[test]
fn proxy_protocol_needs_the_relay_and_is_a_fault_only_where_a_mode_was_asked_for() {
    let proxy_protocol = ProxyProtocol::V2;
    let reason = Some(ModeReason::NeedsSocket { proxy_protocol });
    let index = web(ServiceSpec { proxy_protocol, ..service(&[VIP]) });
    assert_eq!(mode(&index), (ForwardingMode::Proxy, reason.clone()));
    assert_eq!((served(&index).asked_mode, faults(&index)), (ForwardingMode::Nat, vec![]));
    let index = web(ServiceSpec { proxy_protocol, ..asking(ForwardingMode::Dsr) });
    assert_eq!(mode(&index), (ForwardingMode::Proxy, reason));
    assert_eq!(faults(&index), [FaultReason::ModeUnavailable]);
}

#[test]
fn dsr_is_had_only_while_every_backend_serves_on_the_port_of_the_vip() {
    let mut index = web(asking(ForwardingMode::Dsr));
    let reason = Some(ModeReason::BackendPort { port: 8080 });
    assert_eq!(mode(&index), (ForwardingMode::Nat, reason.clone()));
    assert_eq!(faults(&index), [FaultReason::ModeUnavailable]);
    with_policy(&mut index, |policy| policy.default_mode = ForwardingMode::Dsr);
    assert_eq!(mode(&index), (ForwardingMode::Nat, reason));
    let mut same_port = slice(&[(1, true)]);
    same_port.ports[0].port = 80;
    told(&mut index, set_slice("web", Some(same_port)));
    assert_eq!((mode(&index), faults(&index)), ((ForwardingMode::Dsr, None), vec![]));
}

fn checked(spec: ServiceSpec) -> ServiceSpec {
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
    ServiceSpec { health_check: Some(check), ..spec }
}

fn on_port_80() -> BackendSlice {
    let mut same_port = slice(&[(1, true)]);
    same_port.ports[0].port = 80;
    same_port
}

fn ways(index: &Index, port: u16) -> Vec<ProbeWay> {
    let probe = ProbeKey { object: object("web"), backend: ([10, 0, 0, 1], port).into() };
    index.current().probes.get(&probe).unwrap().ways().to_vec()
}

#[test]
fn a_backend_is_probed_on_the_way_of_its_flows() {
    let mut index = web(checked(asking(ForwardingMode::Dsr)));
    // Its port is another one: the service is forwarded by nat, and so probed.
    assert_eq!(ways(&index, 8080), [ProbeWay::Direct]);
    told(&mut index, set_slice("web", Some(on_port_80())));
    let through = ProbeWay::Through(VIP.parse().unwrap());
    assert_eq!(ways(&index, 80), [through]);
    assert_eq!(index.current().probes.len(), 1);
    told(&mut index, Update::Forwarding { service: key(VIP), refused: Some("full".into()) });
    assert_eq!(ways(&index, 80), [ProbeWay::Direct]);
    told(&mut index, Update::Forwarding { service: key(VIP), refused: None });
    assert_eq!(ways(&index, 80), [through]);
    told(&mut index, set_service("web", Some(checked(asking(ForwardingMode::Routed)))));
    assert_eq!(ways(&index, 80), [ProbeWay::Direct]);
}

#[test]
fn a_backend_must_serve_every_vip_and_what_else_leads_to_it() {
    const OTHER: &str = "192.0.2.8";
    let mut spec = checked(service(&[VIP, OTHER]));
    spec.exposure.as_mut().unwrap().mode = Some(ForwardingMode::Dsr);
    let mut index = index([set_service("web", Some(spec)), set_slice("web", Some(on_port_80()))]);
    let through = |vip: &str| ProbeWay::Through(vip.parse().unwrap());
    assert_eq!(ways(&index, 80), [through(VIP), through(OTHER)]);
    told(&mut index, Update::Forwarding { service: key(OTHER), refused: Some("full".into()) });
    assert_eq!(ways(&index, 80), [ProbeWay::Direct, through(VIP)]);
    told(&mut index, Update::Forwarding { service: key(OTHER), refused: None });
    told(&mut index, set_ingress("site", Some(ingress("a.example.com", "web"))));
    assert_eq!(ways(&index, 80), [ProbeWay::Direct, through(VIP), through(OTHER)]);
}

#[test]
fn only_dsr_and_the_relay_lead_from_one_family_to_the_other() {
    let six = slice(&[(1, true)])
        .backends
        .into_iter()
        .map(|backend| SliceBackend { address: "2001:db8::1".parse().unwrap(), ..backend });
    let mut six =
        BackendSlice { family: Family::V6, backends: six.collect(), ..slice(&[(1, true)]) };
    six.ports[0].port = 80;
    let of = |spec| index([set_service("web", Some(spec)), set_slice("web", Some(six.clone()))]);
    let differs = Some(ModeReason::FamilyDiffers);
    assert_eq!(mode(&of(service(&[VIP]))), (ForwardingMode::Proxy, differs));
    assert_eq!(mode(&of(asking(ForwardingMode::Dsr))), (ForwardingMode::Dsr, None));
}

#[test]
fn without_xdp_everything_is_relayed_and_says_why() {
    let mut index = web(asking(ForwardingMode::Nat));
    told(&mut index, Update::Datapath { fault: Some("kernel 5.4 is too old".into()) });
    let detail = Arc::from("kernel 5.4 is too old");
    let expected = (ForwardingMode::Proxy, Some(ModeReason::XdpUnavailable { detail }));
    assert_eq!(mode(&index), expected);
    // What this host lacks is no fault of the object.
    assert_eq!(faults(&index), []);
    told(&mut index, Update::Datapath { fault: None });
    assert_eq!(mode(&index), (ForwardingMode::Nat, None));
    with_policy(&mut index, |policy| policy.xdp = false);
    assert_eq!(mode(&index), (ForwardingMode::Proxy, Some(ModeReason::XdpDisabled)));
}

#[test]
fn a_refused_service_is_relayed_alone_until_there_is_room() {
    let mut index = index([
        Update::Forwarding { service: key(VIP), refused: Some("no bucket is free".into()) },
        set_service("web", Some(service(&[VIP]))),
        set_service("other", Some(service(&["192.0.2.8"]))),
    ]);
    let detail = Arc::from("no bucket is free");
    assert_eq!(mode(&index), (ForwardingMode::Proxy, Some(ModeReason::Refused { detail })));
    let other = index.current().services.get(&key("192.0.2.8")).unwrap();
    assert_eq!(other.mode, ForwardingMode::Nat);
    told(&mut index, Update::Forwarding { service: key(VIP), refused: None });
    assert_eq!(mode(&index), (ForwardingMode::Nat, None));
}

#[test]
fn a_word_of_the_data_path_that_is_not_new_publishes_nothing() {
    let mut index = web(service(&[VIP]));
    for update in [
        Update::Datapath { fault: None },
        Update::Forwarding { service: key(VIP), refused: None },
        Update::Held { service: key(VIP), held: true },
        Update::Served { listener: key(VIP), fault: None },
    ] {
        index.apply(update);
        assert!(index.publish(1).is_none());
    }
}

#[test]
fn a_vip_whose_only_port_cannot_be_opened_is_withdrawn_and_its_object_says_why() {
    let mut index = web(asking(ForwardingMode::Proxy));
    let taken = |fault| Update::Served { listener: key(VIP), fault };
    told(&mut index, taken(Some("address in use".into())));
    assert_eq!(announcement(&index, VIP), Announcement::NotServed);
    let report = index.current().reports.get(&object("web")).unwrap();
    assert_eq!(report.faults[0].message, "192.0.2.7:80/tcp cannot be opened: address in use");
    told(&mut index, taken(None));
    assert_eq!(announcement(&index, VIP), Announcement::Announced);
    assert_eq!(faults(&index), []);
}

#[test]
fn a_vip_is_announced_once_xdp_leads_packets_to_its_backends() {
    let mut index = web(asking(ForwardingMode::Nat));
    told(&mut index, Update::Held { service: key(VIP), held: false });
    assert_eq!(announcement(&index, VIP), Announcement::NotServed);
    assert_eq!(faults(&index), []);
    told(&mut index, Update::Held { service: key(VIP), held: true });
    assert_eq!(announcement(&index, VIP), Announcement::Announced);
    told(&mut index, Update::Held { service: key(VIP), held: false });
    assert_eq!(announcement(&index, VIP), Announcement::NotServed);
    // The relay has a socket of its own.
    told(&mut index, Update::Datapath { fault: Some("no interface".into()) });
    assert_eq!(announcement(&index, VIP), Announcement::Announced);
}

#[test]
fn a_vip_with_another_port_open_stays_announced() {
    let mut spec = asking(ForwardingMode::Proxy);
    let more = port("more", 81);
    spec.ports.push(more);
    let mut pods = slice(&[(1, true)]);
    pods.ports.push(SlicePort { name: "more".into(), protocol: Protocol::Tcp, port: 8081 });
    let mut index = index([set_service("web", Some(spec)), set_slice("web", Some(pods))]);
    told(&mut index, Update::Served { listener: key(VIP), fault: Some("in use".into()) });
    assert_eq!(announcement(&index, VIP), Announcement::Announced);
    assert_eq!(faults(&index), [FaultReason::NotServed]);
    let second = ServiceKey { port: 81, ..key(VIP) };
    told(&mut index, Update::Served { listener: second, fault: Some("in use".into()) });
    assert_eq!(announcement(&index, VIP), Announcement::NotServed);
}

#[test]
fn what_xdp_forwards_needs_no_port() {
    let mut index = web(service(&[VIP]));
    told(&mut index, Update::Served { listener: key(VIP), fault: Some("in use".into()) });
    assert_eq!(announcement(&index, VIP), Announcement::Announced);
    assert_eq!(faults(&index), []);
    told(&mut index, Update::Datapath { fault: Some("detached".into()) });
    assert_eq!(announcement(&index, VIP), Announcement::NotServed);
    assert_eq!(faults(&index), [FaultReason::NotServed]);
}

#[test]
fn a_site_whose_port_cannot_be_opened_is_withdrawn_and_says_why() {
    let mut index = index([
        set_ingress("site", Some(ingress("a.example.com", "web"))),
        set_service("web", Some(ServiceSpec { exposure: None, ..service(&[]) })),
        set_slice("web", Some(slice(&[(1, true)]))),
    ]);
    told(&mut index, Update::Served { listener: key(SHARED), fault: Some("in use".into()) });
    assert_eq!(announcement(&index, SHARED), Announcement::NotServed);
    let site = ObjectRef::ingress(&cluster(), "default", "site");
    let report = index.current().reports.get(&site).unwrap();
    assert_eq!(report.faults[0].reason, FaultReason::NotServed);
    told(&mut index, Update::Served { listener: key(SHARED), fault: None });
    assert_eq!(announcement(&index, SHARED), Announcement::Announced);
    assert!(index.current().reports.get(&site).unwrap().faults.is_empty());
}

#[test]
fn an_object_s_timeouts_go_before_the_configured_ones() {
    let request = TimeoutRequest { established_secs: Some(30), udp_secs: None };
    let mut index = web(ServiceSpec { timeouts: request, ..service(&[VIP]) });
    with_policy(&mut index, |policy| {
        policy.timeouts = FlowTimeouts { established_secs: 900, udp_secs: 7, ..policy.timeouts };
    });
    let timeouts = served(&index).timeouts;
    assert_eq!((timeouts.established_secs, timeouts.udp_secs), (30, 7));
    assert_eq!(timeouts.closing_secs, FlowTimeouts::default().closing_secs);
}

#[test]
fn nodes_may_short_cut_where_the_backend_answers_past_the_appliance() {
    let ip_mode =
        |index: &Index| index.current().reports.get(&object("web")).unwrap().desired[0].ip_mode;
    assert_eq!(ip_mode(&web(asking(ForwardingMode::Nat))), IpMode::Proxy);
    assert_eq!(ip_mode(&web(asking(ForwardingMode::Routed))), IpMode::Vip);
    let proxy_protocol = ProxyProtocol::V1;
    let index = web(ServiceSpec { proxy_protocol, ..asking(ForwardingMode::Routed) });
    assert_eq!(ip_mode(&index), IpMode::Proxy);
}

#[test]
fn a_changed_mode_makes_the_recorded_ip_mode_outdated() {
    let outdated = |mode, recorded| {
        let mut spec = asking(mode);
        spec.exposure.as_mut().unwrap().recorded_ip_mode = recorded;
        web(spec).current().reports.get(&object("web")).unwrap().details_outdated
    };
    assert!(outdated(ForwardingMode::Routed, Some(IpMode::Proxy)));
    assert!(outdated(ForwardingMode::Nat, Some(IpMode::Vip)));
    assert!(!outdated(ForwardingMode::Routed, Some(IpMode::Vip)));
    // An API server that does not know the field is not asked again and again.
    assert!(!outdated(ForwardingMode::Routed, None));
}

#[test]
fn a_backup_is_in_the_table_only_while_no_primary_is_usable() {
    let pods = |ready: bool| {
        let mut pods = slice(&[(1, ready), (2, true)]);
        pods.backends[1].backup = true;
        set_slice("web", Some(pods))
    };
    let mut index = index([set_service("web", Some(service(&[VIP]))), pods(true)]);
    let first = |index: &Index| {
        let table = &served(index).backends.table;
        let hops = (0..64_u64).map(|n| table.hops(n << 58).unwrap().first);
        hops.map(|hop| hop.to_string()).collect::<BTreeSet<_>>()
    };
    let backup = "10.0.0.2:8080".parse().unwrap();
    assert_eq!(first(&index), BTreeSet::from(["10.0.0.1:8080".to_owned()]));
    let standing_by = served(&index).backends.get(&backup).unwrap();
    let expected = (BackendState::Draining, &[StateReason::Backup][..]);
    assert_eq!((standing_by.state, &*standing_by.reasons), expected);
    told(&mut index, pods(false));
    assert_eq!(first(&index), BTreeSet::from(["10.0.0.2:8080".to_owned()]));
    assert_eq!(served(&index).backends.get(&backup).unwrap().state, BackendState::Active);
    assert_eq!(announcement(&index, VIP), Announcement::Announced);
    told(&mut index, pods(true));
    assert_eq!(first(&index), BTreeSet::from(["10.0.0.1:8080".to_owned()]));
}
