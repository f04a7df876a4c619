//! What to write into one object's status. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use haflinger_core::{IpMode, ObjectKind, ObjectReport, PortStatus, StatusAddress};
use serde_json::{Map, Value, json};

use crate::merge;

/// Addresses in the status of a Gateway (`status.addresses`, gateway-api release 1.6). The lowest
/// ones are written.
const GATEWAY_ADDRESSES_MAX: usize = 16;

/// An object as it was read just now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) kind: ObjectKind,
    /// `metadata.generation`.
    pub(crate) generation: Option<i64>,
    /// `spec` and `status`.
    pub(crate) content: &'a Value,
}

/// What the status of an object should become.
#[derive(Debug, PartialEq)]
pub(crate) enum Plan {
    /// It says what it should.
    Keep,
    /// It no longer says what the report was made from: the next snapshot decides.
    Stale,
    /// These fields should be so.
    Write(Write),
}

/// What is written into a status.
#[derive(Debug, PartialEq)]
pub(crate) struct Write {
    /// Fields by name; null takes one out (RFC 7396: an empty list would be kept as one).
    pub(crate) fields: Map<String, Value>,
    /// The addresses that it holds then, if they are others than before.
    pub(crate) addresses: Option<Vec<StatusAddress>>,
    /// A limit of the API made something go.
    pub(crate) cut: bool,
}

impl Write {
    /// The merge patch for the status subresource; refused by the server if the object has
    /// changed since `version`.
    pub(crate) fn patch(&self, version: &str) -> Value {
        json!({ "metadata": { "resourceVersion": version }, "status": self.fields })
    }
}

/// What an object that is reported on no more may hold because of us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// One of these sets of addresses: what was recorded, or what was desired and may have been
    /// written since.
    Addresses(Vec<Vec<IpAddr>>),
    /// Entries among those of other controllers.
    Entries,
}

/// Compares the object as it is now with its report, at the time `now` (RFC 3339).
///
/// The report was made from `report.recorded`, and from a generation of the object. If that holds
/// something else by now, the report is outdated, and acting on it could move an address, or say of
/// a new generation what was true of the former one: so nothing is done.
pub(crate) fn plan(seen: &Seen<'_>, report: &ObjectReport, now: &str) -> Plan {
    match addresses_of(seen, report) {
        Plan::Stale => Plan::Stale,
        addresses if seen.kind.has_conditions() => with_conditions(seen, report, addresses, now),
        addresses => addresses,
    }
}

/// The part of the plan that is about addresses.
fn addresses_of(seen: &Seen<'_>, report: &ObjectReport) -> Plan {
    let ours = match seen.kind {
        ObjectKind::Service | ObjectKind::Ingress => true,
        // A Gateway of which nothing is to be said is somebody else's, and so are its addresses.
        ObjectKind::Gateway => report.status.is_some(),
        _ => false,
    };
    if !ours {
        return Plan::Keep;
    }
    let wanted = wanted_addresses(seen.kind, report);
    let entries = entries(seen.kind, seen.content);
    if entries == rendered(seen.kind, wanted) {
        return Plan::Keep;
    }
    let now = addresses(seen.kind, &entries);
    let recorded: BTreeSet<IpAddr> = report.recorded.iter().copied().collect();
    if now != recorded {
        return Plan::Stale;
    }
    Plan::Write(Write {
        fields: address_fields(seen.kind, wanted),
        addresses: Some(wanted.to_vec()),
        cut: wanted.len() < report.desired.len(),
    })
}

/// The rest of the plan, for an object of the Gateway API.
fn with_conditions(seen: &Seen<'_>, report: &ObjectReport, addresses: Plan, now: &str) -> Plan {
    let status = seen.content.get("status").unwrap_or(&Value::Null);
    let Some(wanted) = &report.status else { return entries_out(status) };
    // Another generation, and not only a newer one: an object of the same name may be a new one.
    let made_from = merge::generation(wanted);
    if made_from.is_some() && made_from != seen.generation {
        return Plan::Stale;
    }
    let merged = merge::merged(status, wanted, now);
    match addresses {
        Plan::Write(mut write) => {
            write.fields.extend(merged.fields);
            write.cut |= merged.cut;
            Plan::Write(write)
        }
        _ if merged.is_held_by(status) => Plan::Keep,
        _ => Plan::Write(Write { fields: merged.fields, addresses: None, cut: merged.cut }),
    }
}

fn entries_out(status: &Value) -> Plan {
    match merge::without_ours(status) {
        Some(merged) => {
            Plan::Write(Write { fields: merged.fields, addresses: None, cut: merged.cut })
        }
        None => Plan::Keep,
    }
}

/// What an object that is reported on no more may hold because of us; `None`: nothing that is ours
/// to take out.
pub(crate) fn left_behind(kind: ObjectKind, report: &ObjectReport) -> Option<Left> {
    match kind {
        ObjectKind::Service | ObjectKind::Ingress | ObjectKind::Gateway => {
            let wanted = wanted_addresses(kind, report).iter().map(|entry| entry.address);
            let held = [report.recorded.clone(), wanted.collect()].into_iter();
            let held: Vec<Vec<IpAddr>> = held.filter(|held| !held.is_empty()).collect();
            (!held.is_empty()).then_some(Left::Addresses(held))
        }
        // Their one controller is that of their class, or of their Gateway.
        ObjectKind::GatewayClass | ObjectKind::ListenerSet | ObjectKind::ReferenceGrant => None,
        _ => {
            let said = |status: &Option<_>| !merge::agrees(None, status.as_deref());
            let ours = said(&report.status) || said(&report.recorded_status);
            ours.then_some(Left::Entries)
        }
    }
}

/// What takes out of an object that is reported on no more exactly what we left there.
pub(crate) fn clearing(seen: &Seen<'_>, left: &Left) -> Plan {
    let Left::Addresses(left) = left else {
        return entries_out(seen.content.get("status").unwrap_or(&Value::Null));
    };
    let now = addresses(seen.kind, &entries(seen.kind, seen.content));
    if now.is_empty() || !left.iter().any(|held| now == held.iter().copied().collect()) {
        return Plan::Keep;
    }
    Plan::Write(Write { fields: address_fields(seen.kind, &[]), addresses: None, cut: false })
}

/// Whether the status is as the report wants it, as far as the report itself shows.
pub(crate) fn agrees(kind: ObjectKind, report: &ObjectReport) -> bool {
    let desired = wanted_addresses(kind, report).iter().map(|entry| entry.address);
    let desired: BTreeSet<IpAddr> = desired.collect();
    let recorded: BTreeSet<IpAddr> = report.recorded.iter().copied().collect();
    desired == recorded
        && !report.details_outdated
        && merge::agrees(report.status.as_deref(), report.recorded_status.as_deref())
}

/// Whether the API has anything to be told, as far as the report itself shows.
pub(crate) fn has_news(kind: ObjectKind, report: &ObjectReport) -> bool {
    !agrees(kind, report) || !report.faults.is_empty()
}

/// What a status of this kind has room for.
fn wanted_addresses(kind: ObjectKind, report: &ObjectReport) -> &[StatusAddress] {
    let room = if kind == ObjectKind::Gateway { GATEWAY_ADDRESSES_MAX } else { usize::MAX };
    &report.desired[..report.desired.len().min(room)]
}

/// Where a kind has its addresses, and what the field of an entry is called.
fn place(kind: ObjectKind) -> (&'static str, &'static str) {
    match kind {
        ObjectKind::Gateway => ("/status/addresses", "value"),
        _ => ("/status/loadBalancer/ingress", "ip"),
    }
}

fn entries(kind: ObjectKind, content: &Value) -> Vec<Value> {
    let (place, field) = place(kind);
    let entries = content.pointer(place).and_then(Value::as_array);
    let mut entries = entries.cloned().unwrap_or_default();
    entries.sort_by_key(|entry| {
        entry.get(field).and_then(Value::as_str).and_then(|ip| ip.parse::<IpAddr>().ok())
    });
    entries
}

fn addresses(kind: ObjectKind, entries: &[Value]) -> BTreeSet<IpAddr> {
    let (_, field) = place(kind);
    entries.iter().filter_map(|entry| entry.get(field)?.as_str()?.parse().ok()).collect()
}

fn address_fields(kind: ObjectKind, addresses: &[StatusAddress]) -> Map<String, Value> {
    let list = match addresses {
        [] => Value::Null,
        addresses => Value::Array(rendered(kind, addresses)),
    };
    let (name, value) = match kind {
        ObjectKind::Gateway => ("addresses", list),
        _ => ("loadBalancer", json!({ "ingress": list })),
    };
    [(name.to_owned(), value)].into_iter().collect()
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
        ObjectKind::Gateway => json!({ "type": "IPAddress", "value": address.address }),
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
#[path = "plan_tests.rs"]
mod tests;
