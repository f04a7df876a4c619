//! The status for people: what is served first, what is wrong last, where the eye rests.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use haflinger_bgp::fsm::State;
use haflinger_core::{Announcement, RouteOrigin, Snapshot};
use haflinger_discovery::{MissingRight, RIGHTS_REMEDY, SourceStatus};
use haflinger_health::HealthStatus;
use haflinger_netlink::RouteState;
use haflinger_report::GateReport;

use super::Status;
use super::columns::{Columns, span};
use super::datapath::datapath;
use super::gateways;
use super::services::{relayed_by_host, services};

pub(super) fn render(status: &Status, snapshot: &Snapshot) -> String {
    let mut out = String::new();
    header(status, &mut out);
    sources(status).print(&mut out);
    services(status).print(&mut out);
    checks(&status.health).print(&mut out);
    datapath(&status.xdp).print(&mut out);
    gateways::columns(&status.gateways, &status.unattached).print(&mut out);
    sites(status, snapshot).print(&mut out);
    peers(status).print(&mut out);
    zones(status).print(&mut out);
    kernel(status).print(&mut out);
    problems(status).print(&mut out);
    out
}

fn header(status: &Status, out: &mut String) {
    let ready = match &status.unready_reason {
        None => "ready".to_owned(),
        Some(reason) => format!("not ready: {reason}"),
    };
    // Writing into a string cannot fail.
    let _ = writeln!(
        out,
        "haflinger {} on {}, up {}, generation {}, {ready}",
        status.version,
        status.host,
        span(status.uptime_secs),
        status.generation,
    );
    let _ = writeln!(out, "configuration: {}", status.config.source);
    if let Some(refused) = &status.config.refused {
        let _ = writeln!(out, "the newest one is REFUSED, the former one is in force:");
        for line in refused.lines() {
            let _ = writeln!(out, "  {line}");
        }
    }
    if let Some(reason) = relayed_by_host(status) {
        let _ = writeln!(out, "services are relayed: {reason}");
    }
    for restart in &status.config.restart_needed {
        let _ = writeln!(out, "needs a restart: {restart}");
    }
}

/// What the operator is asked about.
fn held(source: &SourceStatus) -> Option<String> {
    let held = source.kinds.iter().filter(|(_, kind)| kind.held > 0);
    let held: Vec<String> =
        held.map(|(name, kind)| format!("{} of {} {name}", kind.held, kind.objects)).collect();
    let until = match source.confirmed_in_secs {
        Some(secs) => format!("a second list in {secs} s"),
        None => "the list that runs".to_owned(),
    };
    (!held.is_empty()).then(|| {
        let (held, source) = (held.join(", "), &source.source);
        format!("deletion of {held} is held until {until} or `haflinger accept {source}`")
    })
}

fn sources(status: &Status) -> Columns {
    let mut columns = Columns::new("SOURCES");
    for source in &status.discovery.sources {
        let state = match (source.connected, source.synced, source.restored_from_disk) {
            (true, true, _) => "in step",
            (false, true, _) => "away, its last state stands",
            (_, false, true) => "restored from disk, not heard of yet",
            (_, false, false) => "not heard of yet",
        };
        let kinds = source.kinds.iter().filter(|(_, kind)| kind.objects > 0);
        let kinds: Vec<String> =
            kinds.map(|(name, kind)| format!("{} {name}", kind.objects)).collect();
        let withheld = |error: &String| {
            let mut kinds = source.kinds.values().filter(|kind| kind.disables.is_some());
            kinds.any(|kind| kind.last_error.as_ref() == Some(error))
        };
        let error = source.last_error.clone().filter(|error| !withheld(error));
        let error = error.or_else(|| held(source)).unwrap_or_default();
        columns.row([source.source.to_string(), state.to_owned(), kinds.join(", "), error]);
        for (name, kind) in &source.kinds {
            let Some(missing) = kind.disables else { continue };
            columns.row([
                format!("  {}", name.replace('_', " ")),
                "withheld".to_owned(),
                format!("without: {missing}"),
                kind.last_error.clone().unwrap_or_default(),
            ]);
        }
        missing_rights(&mut columns, &source.missing_rights);
    }
    for cluster in &status.report.clusters {
        let writer = match (&cluster.holder, cluster.leader) {
            (_, true) => "this host writes".to_owned(),
            (Some(holder), false) => format!("{holder} writes"),
            (None, false) => "nobody writes".to_owned(),
        };
        let errors = [&cluster.lease_error, &cluster.write_error, &cluster.credentials.last_error];
        let error = errors.into_iter().flatten().next().cloned().unwrap_or_default();
        let pending = format!("{} writes pending", cluster.pending);
        columns.row([format!("cluster/{}", cluster.cluster), writer, pending, error]);
        if let Some(gate) = &cluster.gate {
            columns.row(gates(gate));
        }
        missing_rights(&mut columns, &cluster.missing_rights);
    }
    columns
}

/// Pods whose readiness waits, and whom they wait for.
fn gates(gate: &GateReport) -> [String; 4] {
    let lacking = gate.hosts.iter().filter(|host| host.lacking > 0);
    let lacking: Vec<String> =
        lacking.map(|host| format!("{} for {}", host.lacking, host.host)).collect();
    let wait = match (gate.waiting, lacking.is_empty()) {
        (0, _) => "no pod waits".to_owned(),
        (pods, true) => format!("{pods} pods wait to be set"),
        (pods, false) => format!("{pods} pods wait: {}", lacking.join(", ")),
    };
    let lacks = gate.lacking.as_ref().map(|lacking| format!("not in use here: {lacking}"));
    [
        "  readiness gate".to_owned(),
        format!("{} hosts", gate.hosts.len()),
        wait,
        gate.error.clone().or(lacks).unwrap_or_default(),
    ]
}

/// What the account may not do, and what is lost without it.
fn missing_rights(columns: &mut Columns, missing: &[MissingRight]) {
    for missing in missing {
        columns.row([
            "  rights".to_owned(),
            "missing".to_owned(),
            format!("without: {}", missing.disables),
            format!("{}: {RIGHTS_REMEDY}", missing.right),
        ]);
    }
}

/// Only backends that are not found healthy, and those about which nothing can be said.
fn checks(health: &HealthStatus) -> Columns {
    let mut columns = Columns::new("CHECKS");
    for probe in &health.probes {
        let hindered = probe.hindrance.as_ref().map(|why| format!("cannot be asked: {why}"));
        if let Some(why) = hindered.or_else(|| probe.last_failure.clone()) {
            let backend = probe.backend.to_string();
            columns.row([backend, probe.object.clone(), word(&probe.health), why]);
        }
    }
    columns
}

fn sites(status: &Status, snapshot: &Snapshot) -> Columns {
    let mut columns = Columns::new("SITES");
    for listener in &status.proxy.listeners {
        let address = listener.address.ip();
        let announced = snapshot.vips.get(&address);
        let announced = announced.map_or("", |vip| announcement(status, vip.announcement));
        let scheme = if listener.tls { "https" } else { "http" };
        columns.row([
            format!("{scheme}://{}", listener.address),
            format!("{} rules", listener.rules),
            announced.to_owned(),
            format!("{} connections, {} requests", listener.connections, listener.requests),
            listener.reason.clone().unwrap_or_default(),
        ]);
    }
    let log = &status.proxy.access_log;
    if let Some(to) = &log.to {
        columns.row([
            "access log".to_owned(),
            to.clone(),
            format!("{} lines, {} dropped", log.written, log.dropped),
            log.fault.clone().unwrap_or_default(),
        ]);
    }
    for certificate in &status.proxy.certificates {
        let names: Vec<&str> = certificate.names.iter().map(|name| &**name).collect();
        let day =
            |secs: i64| jiff::Timestamp::from_second(secs).map(|at| at.strftime("%F").to_string());
        let end = certificate.not_after_secs.and_then(|secs| day(secs).ok());
        let stapled = certificate.staple_until_secs.and_then(|secs| day(secs).ok());
        let until = end.map(|day| format!("until {day}"));
        let stapled = stapled.map(|day| format!("staple until {day}"));
        let held: Vec<String> = until.into_iter().chain(stapled).collect();
        let wrong = certificate.fault.iter().chain(&certificate.notices).cloned();
        columns.row([
            certificate.certificate.to_string(),
            names.join(", "),
            held.join(", "),
            wrong.collect::<Vec<_>>().join("; "),
        ]);
    }
    columns
}

fn peers(status: &Status) -> Columns {
    let mut columns = Columns::new("BGP");
    let Some(bgp) = &status.bgp else { return columns };
    for peer in &bgp.peers {
        let told = format!("{} v4 and {} v6 announced", peer.announced.ipv4, peer.announced.ipv6);
        let refused = peer.last_notification_received.as_ref().map(|n| n.text.clone());
        let why = peer.last_error.clone().or(refused);
        let up = peer.state == State::Established;
        columns.row([
            peer.name.clone(),
            format!("{} AS {}", peer.address, peer.remote_as),
            word(&peer.state),
            told,
            if up { String::new() } else { why.unwrap_or_default() },
        ]);
        for family in &peer.unannounced {
            let text =
                format!("  {} not announced: {}", family.family.name(), word(&family.reason));
            columns.row([text]);
        }
    }
    if let Some(error) = &bgp.listen_error {
        columns.row([format!("not listening: {error}")]);
    }
    columns
}

/// What is not as it should be, and where the routes come from.
fn kernel(status: &Status) -> Columns {
    let mut columns = Columns::new("KERNEL");
    let netlink = &status.netlink;
    if let Some(error) = &netlink.error {
        columns.row([error.clone()]);
    }
    let addresses = netlink.addresses.iter().chain(&netlink.sources);
    for address in addresses.filter(|address| address.reason.is_some()) {
        columns.row([
            address.address.to_string(),
            word(&address.state),
            address.reason.clone().unwrap_or_default(),
        ]);
    }
    let mut installed = BTreeMap::<RouteOrigin, usize>::new();
    for route in &netlink.routes {
        if route.state == RouteState::Installed {
            *installed.entry(route.origin).or_default() += 1;
        }
        let rival = route.rival.as_ref();
        let rival = rival.map(|(node, source)| format!("node {node} of {source} claims it too"));
        let Some(reason) = route.reason.clone().or(rival) else { continue };
        columns.row([
            format!("{} via {}", route.prefix, route.via),
            word(&route.state),
            format!(
                "said by {} of node {} of {}: {reason}",
                word(&route.origin),
                route.node,
                route.source
            ),
        ]);
    }
    if !installed.is_empty() {
        let said = installed.iter().map(|(origin, count)| format!("{count} from {}", word(origin)));
        let said: Vec<String> = said.collect();
        columns.row(["routes to pods".to_owned(), "installed".to_owned(), said.join(", ")]);
    }
    columns
}

fn zones(status: &Status) -> Columns {
    let mut columns = Columns::new("DNS");
    let dry = if status.dns.dry_run { " (dry run)" } else { "" };
    for zone in &status.dns.zones {
        for server in &zone.servers {
            let serial = server.serial.map(|serial| format!("serial {serial}"));
            columns.row([
                format!("{} at {}", zone.zone, server.server),
                format!("{}{dry}", word(&server.state)),
                format!("{} names, {} conflicts", server.owned_names, server.conflicts),
                serial.unwrap_or_default(),
                server.last_error.clone().unwrap_or_default(),
            ]);
        }
    }
    for record in &status.dns.records {
        let addresses: Vec<String> = record.addresses.iter().map(ToString::to_string).collect();
        columns.row([
            format!("  {}", record.name),
            word(&record.state),
            format!("{} {}", record.kind, addresses.join(", ")),
            String::new(),
            record.reason.clone().unwrap_or_default(),
        ]);
    }
    columns
}

fn problems(status: &Status) -> Columns {
    let mut columns = Columns::new("PROBLEMS");
    for object in &status.objects {
        for fault in &object.faults {
            columns.row([object.object.clone(), fault.reason.to_string(), fault.message.clone()]);
        }
    }
    columns
}

pub(super) fn announcement(status: &Status, announcement: Announcement) -> &'static str {
    match announcement {
        // Without a peer there is nobody to tell.
        Announcement::Announced if status.bgp.is_none() => "available",
        Announcement::Announced => "announced",
        Announcement::NoBackend => "withdrawn: no backend",
        Announcement::NotServed => "withdrawn: port not open",
        Announcement::NotBound => "withdrawn: address not bound",
        Announcement::Draining => "withdrawn: draining",
    }
}

/// The word that a unit-like enum has in JSON, which the JSON status shows too.
pub(super) fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word.replace('_', " "),
        _ => String::new(),
    }
}
