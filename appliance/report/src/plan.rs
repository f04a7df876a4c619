//! What to write into one object's status. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use haflinger_core::{IpMode, ObjectKind, ObjectReport, PortStatus, StatusAddress};
use serde_json::{Value, json};

/// What the status of an object should become.
#[derive(Debug, PartialEq)]
pub(crate) enum Plan {
    /// It says what it should.
    Keep,
    /// It no longer says what the report was made from: the next snapshot decides.
    Stale,
    /// It should hold these addresses; none: be empty.
    Write(Vec<StatusAddress>),
}

/// Compares the object as it is now with its report.
///
/// The report was made from `report.recorded`. If the status holds something else by now, the
/// report is outdated, and acting on it could move an address: so nothing is done.
pub(crate) fn plan(kind: ObjectKind, current: &Value, report: &ObjectReport) -> Plan {
    let entries = entries(current);
    if entries == rendered(kind, &report.desired) {
        return Plan::Keep;
    }
    let now: BTreeSet<IpAddr> = addresses(&entries);
    let recorded: BTreeSet<IpAddr> = report.recorded.iter().copied().collect();
    if now != recorded {
        return Plan::Stale;
    }
    Plan::Write(report.desired.clone())
}

/// What an object that is reported on no more may hold because of us: what was recorded, or
/// what was desired and may have been written since.
pub(crate) fn left_behind(report: &ObjectReport) -> Vec<Vec<IpAddr>> {
    let desired: Vec<IpAddr> = report.desired.iter().map(|entry| entry.address).collect();
    [report.recorded.clone(), desired].into_iter().filter(|held| !held.is_empty()).collect()
}

/// Whether an object that is reported on no more still holds exactly what we left there.
pub(crate) fn is_ours_to_clear(current: &Value, left: &[Vec<IpAddr>]) -> bool {
    let now = addresses(&entries(current));
    !now.is_empty() && left.iter().any(|held| now == held.iter().copied().collect())
}

/// Whether the API has anything to be told, as far as the report itself shows.
pub(crate) fn has_news(report: &ObjectReport) -> bool {
    let desired: BTreeSet<IpAddr> = report.desired.iter().map(|entry| entry.address).collect();
    let recorded: BTreeSet<IpAddr> = report.recorded.iter().copied().collect();
    desired != recorded || report.details_outdated || !report.faults.is_empty()
}

/// The merge patch for the status subresource; refused by the server if the object has
/// changed since `version`.
pub(crate) fn patch(kind: ObjectKind, version: &str, addresses: &[StatusAddress]) -> Value {
    let ingress = match addresses {
        // Null takes the field out (RFC 7396); an empty list would be kept as one.
        [] => Value::Null,
        addresses => Value::Array(rendered(kind, addresses)),
    };
    json!({
        "metadata": { "resourceVersion": version },
        "status": { "loadBalancer": { "ingress": ingress } },
    })
}

fn entries(object: &Value) -> Vec<Value> {
    let entries = object.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
    let mut entries = entries.cloned().unwrap_or_default();
    entries.sort_by_key(|entry| {
        entry.get("ip").and_then(Value::as_str).and_then(|ip| ip.parse::<IpAddr>().ok())
    });
    entries
}

fn addresses(entries: &[Value]) -> BTreeSet<IpAddr> {
    entries.iter().filter_map(|entry| entry.get("ip")?.as_str()?.parse().ok()).collect()
}

/// Entries as the API has them: `ipMode` exists for Services only, and so do, as they are used,
/// `ports`.
fn rendered(kind: ObjectKind, addresses: &[StatusAddress]) -> Vec<Value> {
    let mut sorted = addresses.to_vec();
    sorted.sort();
    let entry = |address: &StatusAddress| match kind {
        ObjectKind::Service => {
            let ip_mode = match address.ip_mode {
                IpMode::Vip => "VIP",
                IpMode::Proxy => "Proxy",
            };
            let mut entry = json!({ "ip": address.address, "ipMode": ip_mode });
            if !address.ports.is_empty() {
                entry["ports"] = address.ports.iter().map(port).collect();
            }
            entry
        }
        _ => json!({ "ip": address.address }),
    };
    sorted.iter().map(entry).collect()
}

fn port(status: &PortStatus) -> Value {
    let mut port = json!({ "port": status.port, "protocol": status.protocol });
    if let Some(error) = &status.error {
        port["error"] = json!(error);
    }
    port
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn status(ips: &[&str]) -> Value {
        let entries: Vec<_> = ips.iter().map(|ip| json!({"ip": ip, "ipMode": "Proxy"})).collect();
        json!({"status": {"loadBalancer": {"ingress": entries}}})
    }

    #[test]
    fn an_address_is_written_once_and_then_kept() {
        let wanted = report(&["192.0.2.1"], &[]);
        let Plan::Write(addresses) = plan(ObjectKind::Service, &json!({"status": {}}), &wanted)
        else {
            panic!("an address is wanted and none is there");
        };
        let patch = patch(ObjectKind::Service, "7", &addresses);
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        let ingress = &patch["status"]["loadBalancer"]["ingress"];
        assert_eq!(*ingress, json!([{"ip": "192.0.2.1", "ipMode": "Proxy"}]));
        // The server now says so, although discovery has not told yet.
        assert_eq!(plan(ObjectKind::Service, &status(&["192.0.2.1"]), &wanted), Plan::Keep);
    }

    #[test]
    fn a_report_made_from_another_status_is_not_acted_on() {
        let wanted = report(&["192.0.2.1"], &[]);
        assert_eq!(plan(ObjectKind::Service, &status(&["192.0.2.9"]), &wanted), Plan::Stale);
        let moved = report(&["192.0.2.1"], &["192.0.2.2"]);
        assert_eq!(plan(ObjectKind::Service, &json!({}), &moved), Plan::Stale);
    }

    #[test]
    fn order_does_not_matter_and_a_missing_mode_does() {
        let wanted = report(&["192.0.2.1", "2001:db8::1"], &["192.0.2.1", "2001:db8::1"]);
        let turned = status(&["2001:db8::1", "192.0.2.1"]);
        assert_eq!(plan(ObjectKind::Service, &turned, &wanted), Plan::Keep);
        let bare = json!({"status": {"loadBalancer": {"ingress": [
            {"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]}}});
        assert!(matches!(plan(ObjectKind::Service, &bare, &wanted), Plan::Write(_)));
        assert_eq!(plan(ObjectKind::Ingress, &bare, &wanted), Plan::Keep);
    }

    #[test]
    fn another_mode_of_the_same_address_is_news_and_is_written() {
        let mut wanted = report(&["192.0.2.1"], &["192.0.2.1"]);
        assert!(!has_news(&wanted));
        wanted.desired[0].ip_mode = IpMode::Vip;
        wanted.details_outdated = true;
        assert!(has_news(&wanted));
        let Plan::Write(addresses) = plan(ObjectKind::Service, &status(&["192.0.2.1"]), &wanted)
        else {
            panic!("nothing is written");
        };
        assert_eq!(rendered(ObjectKind::Service, &addresses)[0]["ipMode"], "VIP");
    }

    #[test]
    fn nothing_desired_clears_what_was_recorded_and_nothing_else() {
        let cleared = report(&[], &["192.0.2.1"]);
        assert_eq!(
            plan(ObjectKind::Service, &status(&["192.0.2.1"]), &cleared),
            Plan::Write(vec![])
        );
        assert_eq!(plan(ObjectKind::Service, &status(&["198.51.100.1"]), &cleared), Plan::Stale);
        let patch = patch(ObjectKind::Service, "1", &[]);
        assert!(patch["status"]["loadBalancer"]["ingress"].is_null());
    }

    #[test]
    fn an_object_that_departs_gives_up_what_was_recorded_or_just_written_and_nothing_else() {
        let ours = |held: &[&str], report: &ObjectReport| {
            is_ours_to_clear(&status(held), &left_behind(report))
        };
        assert!(ours(&["192.0.2.1"], &report(&[], &["192.0.2.1"])));
        assert!(ours(&["192.0.2.1"], &report(&["192.0.2.1"], &[])));
        assert!(!ours(&["192.0.2.1"], &report(&[], &[])));
        assert!(!ours(&["192.0.2.1", "192.0.2.2"], &report(&[], &["192.0.2.1"])));
        assert!(!ours(&[], &report(&["192.0.2.1"], &["192.0.2.2"])));
    }
}
