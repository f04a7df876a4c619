//! Addresses and conditions: what is written, what waits, what is left alone.

use std::sync::Arc;

use haflinger_core::{
    ApiStatus, Condition, Holds, ObjectRef, ParentFields, ParentSpec, ParentStatus, SourceId,
};

use super::*;

const NOW: &str = "2026-01-01T00:00:00Z";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn report(desired: &[&str], recorded: &[&str]) -> ObjectReport {
    let entry = |text: &&str| StatusAddress::new(ip(text), IpMode::Proxy);
    ObjectReport {
        desired: desired.iter().map(entry).collect(),
        recorded: recorded.iter().map(|text| ip(text)).collect(),
        ..ObjectReport::default()
    }
}

fn seen(kind: ObjectKind, content: &Value) -> Seen<'_> {
    Seen { kind, generation: Some(1), content }
}

fn service(content: &Value, report: &ObjectReport) -> Plan {
    plan(&seen(ObjectKind::Service, content), report, NOW)
}

fn written(plan: Plan) -> Write {
    let Plan::Write(write) = plan else { panic!("nothing is written: {plan:?}") };
    write
}

fn status(ips: &[&str]) -> Value {
    let entries: Vec<_> = ips.iter().map(|ip| json!({"ip": ip, "ipMode": "Proxy"})).collect();
    json!({"status": {"loadBalancer": {"ingress": entries}}})
}

#[test]
fn an_address_is_written_once_and_then_kept() {
    let wanted = report(&["192.0.2.1"], &[]);
    let patch = written(service(&json!({"status": {}}), &wanted)).patch("7");
    assert_eq!(patch["metadata"]["resourceVersion"], "7");
    let ingress = &patch["status"]["loadBalancer"]["ingress"];
    assert_eq!(*ingress, json!([{"ip": "192.0.2.1", "ipMode": "Proxy"}]));
    // The server now says so, although discovery has not told yet.
    assert_eq!(service(&status(&["192.0.2.1"]), &wanted), Plan::Keep);
}

#[test]
fn a_report_made_from_another_status_is_not_acted_on() {
    let wanted = report(&["192.0.2.1"], &[]);
    assert_eq!(service(&status(&["192.0.2.9"]), &wanted), Plan::Stale);
    let moved = report(&["192.0.2.1"], &["192.0.2.2"]);
    assert_eq!(service(&json!({}), &moved), Plan::Stale);
}

#[test]
fn order_does_not_matter_and_a_missing_mode_does() {
    let wanted = report(&["192.0.2.1", "2001:db8::1"], &["192.0.2.1", "2001:db8::1"]);
    let turned = status(&["2001:db8::1", "192.0.2.1"]);
    assert_eq!(service(&turned, &wanted), Plan::Keep);
    let bare = json!({"status": {"loadBalancer": {"ingress": [
        {"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]}}});
    assert!(matches!(service(&bare, &wanted), Plan::Write(_)));
    assert_eq!(plan(&seen(ObjectKind::Ingress, &bare), &wanted, NOW), Plan::Keep);
}

#[test]
fn another_mode_of_the_same_address_is_news_and_is_written() {
    let mut wanted = report(&["192.0.2.1"], &["192.0.2.1"]);
    assert!(!has_news(ObjectKind::Service, &wanted));
    wanted.desired[0].ip_mode = IpMode::Vip;
    wanted.details_outdated = true;
    assert!(has_news(ObjectKind::Service, &wanted));
    let patch = written(service(&status(&["192.0.2.1"]), &wanted)).patch("1");
    assert_eq!(patch["status"]["loadBalancer"]["ingress"][0]["ipMode"], "VIP");
}

#[test]
fn nothing_desired_clears_what_was_recorded_and_nothing_else() {
    let cleared = report(&[], &["192.0.2.1"]);
    let write = written(service(&status(&["192.0.2.1"]), &cleared));
    assert_eq!(write.addresses, Some(vec![]));
    assert_eq!(service(&status(&["198.51.100.1"]), &cleared), Plan::Stale);
    let patch = write.patch("1");
    assert!(patch["status"]["loadBalancer"]["ingress"].is_null());
}

#[test]
fn an_object_that_departs_gives_up_what_was_recorded_or_just_written_and_nothing_else() {
    let ours = |held: &[&str], report: &ObjectReport| {
        let status = status(held);
        let left = left_behind(ObjectKind::Service, report);
        let seen = seen(ObjectKind::Service, &status);
        left.is_some_and(|left| matches!(clearing(&seen, &left), Plan::Write(_)))
    };
    assert!(ours(&["192.0.2.1"], &report(&[], &["192.0.2.1"])));
    assert!(ours(&["192.0.2.1"], &report(&["192.0.2.1"], &[])));
    assert!(!ours(&["192.0.2.1"], &report(&[], &[])));
    assert!(!ours(&["192.0.2.1", "192.0.2.2"], &report(&[], &["192.0.2.1"])));
    assert!(!ours(&[], &report(&["192.0.2.1"], &["192.0.2.2"])));
}

fn said(generation: i64) -> Option<Arc<ApiStatus>> {
    let accepted = Condition {
        kind: "Accepted".into(),
        holds: Holds::True,
        reason: "Accepted".into(),
        message: "".into(),
        generation,
    };
    let conditions = vec![accepted];
    let status = ApiStatus::Listeners { conditions, listeners: Vec::new(), attached_sets: None };
    Some(Arc::new(status))
}

fn gateway(content: &Value, report: &ObjectReport) -> Plan {
    plan(&seen(ObjectKind::Gateway, content), report, NOW)
}

#[test]
fn a_gateway_gets_addresses_and_conditions_in_one_write() {
    let wanted = ObjectReport { status: said(1), ..report(&["192.0.2.1"], &[]) };
    let write = written(gateway(&json!({}), &wanted));
    let addresses = json!([{"type": "IPAddress", "value": "192.0.2.1"}]);
    assert_eq!(write.fields["addresses"], addresses);
    assert_eq!(write.fields["conditions"][0]["lastTransitionTime"], NOW);
    assert!(write.addresses.is_some());
    let mut held = json!({"status": write.fields});
    assert_eq!(gateway(&held, &wanted), Plan::Keep);
    // Conditions alone are no news of the addresses.
    held["status"]["conditions"] = json!([]);
    assert_eq!(written(gateway(&held, &wanted)).addresses, None);
}

#[test]
fn what_was_made_from_another_generation_or_other_addresses_waits() {
    let newer = ObjectReport { status: said(2), ..report(&["192.0.2.1"], &[]) };
    assert_eq!(gateway(&json!({}), &newer), Plan::Stale);
    let moved = ObjectReport { status: said(1), ..report(&["192.0.2.1"], &["192.0.2.2"]) };
    assert_eq!(gateway(&json!({}), &moved), Plan::Stale);
}

#[test]
fn a_gateway_of_another_controller_is_left_alone_but_for_the_addresses_that_it_had_of_us() {
    let held = json!({"status": {"addresses": [{"type": "IPAddress", "value": "192.0.2.1"}]}});
    assert_eq!(gateway(&held, &report(&[], &["192.0.2.1"])), Plan::Keep);
    let ours = report(&["192.0.2.1"], &[]);
    let left = left_behind(ObjectKind::Gateway, &ours).unwrap();
    let write = written(clearing(&seen(ObjectKind::Gateway, &held), &left));
    assert_eq!(Value::Object(write.fields), json!({"addresses": null}));
    let theirs = json!({"status": {"addresses": [{"type": "IPAddress", "value": "192.0.2.9"}]}});
    assert_eq!(clearing(&seen(ObjectKind::Gateway, &theirs), &left), Plan::Keep);
}

#[test]
fn a_gateway_has_as_many_addresses_as_its_status_has_room_for() {
    let all: Vec<String> = (1..=20).map(|last| format!("192.0.2.{last}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut wanted = ObjectReport { status: said(1), ..report(&all, &[]) };
    let write = written(gateway(&json!({}), &wanted));
    assert_eq!((write.fields["addresses"].as_array().unwrap().len(), write.cut), (16, true));
    wanted.recorded = all[..16].iter().map(|text| ip(text)).collect();
    wanted.recorded_status = wanted.status.clone();
    assert!(agrees(ObjectKind::Gateway, &wanted));
}

#[test]
fn a_route_that_departs_gives_up_our_entries_and_a_class_nothing() {
    let wanted = ObjectReport {
        recorded_status: Some(Arc::new(ApiStatus::Route(vec![ParentStatus {
            parent: ParentSpec {
                object: ObjectRef::of_kind(
                    &SourceId::cluster("c"),
                    ObjectKind::Gateway,
                    "ns",
                    "gate",
                ),
                written: ParentFields::default(),
                section: None,
                port: None,
            },
            conditions: Vec::new(),
        }]))),
        ..ObjectReport::default()
    };
    let left = left_behind(ObjectKind::HttpRoute, &wanted).unwrap();
    let held = json!({"status": {"parents": [
        {"controllerName": "haflinger.dev/gateway"}, {"controllerName": "example.org/x"}]}});
    let route = seen(ObjectKind::HttpRoute, &held);
    let others = json!({"parents": [{"controllerName": "example.org/x"}]});
    assert_eq!(Value::Object(written(clearing(&route, &left)).fields), others);
    // The same where the route is still reported on, with nothing to say.
    assert_eq!(Value::Object(written(plan(&route, &wanted, NOW)).fields), others);
    assert!(has_news(ObjectKind::HttpRoute, &wanted));
    assert_eq!(left_behind(ObjectKind::GatewayClass, &wanted), None);
}
