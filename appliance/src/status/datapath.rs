//! The XDP data path in the status for people.

use haflinger_xdp::XdpStatus;
use haflinger_xdp::seeing::{Reason, drops};

use super::columns::Columns;
use super::text::word;

/// Reasons that are named: what is rarer can be seen in the metrics.
const DROPS_SHOWN: usize = 3;

/// Interfaces, flows and what is dropped; nothing where XDP is switched off, and where it cannot
/// run the header says why.
pub(super) fn datapath(xdp: &XdpStatus) -> Columns {
    let mut columns = Columns::new("XDP");
    if xdp.layout.is_none() {
        return columns;
    }
    for interface in &xdp.interfaces {
        let (mode, why) = match &interface.attached {
            Some(attached) => (word(&attached.mode), attached.not_native.clone()),
            None => ("not attached".to_owned(), None),
        };
        let note = interface.note.clone().or(why).unwrap_or_default();
        columns.row([interface.name.clone(), mode, note]);
    }
    let narrow = xdp.narrow_exits.iter().map(|exit| &exit.text);
    for warning in xdp.source_faults.iter().chain(narrow) {
        columns.row([format!("warning: {warning}")]);
    }
    if let Some(reason) = &xdp.ways_not_remembered {
        columns.row([format!("the kernel is asked for the way of every packet: {reason}")]);
    }
    columns.row([flows(xdp)]);
    let dropped = dropped(xdp);
    if !dropped.is_empty() {
        columns.row([format!("dropped since the program was loaded: {}", dropped.join(", "))]);
    }
    columns
}

fn flows(xdp: &XdpStatus) -> String {
    let is_opening = |phase: &str| phase == "opening" || phase == "answered";
    let count = |opening: bool| -> u64 {
        let phases = xdp.flows.iter().filter(|(phase, _)| is_opening(phase) == opening);
        phases.map(|(_, count)| count).sum()
    };
    let new: u64 = xdp.services.iter().filter_map(|s| Some(s.per_second?.flows)).sum();
    format!(
        "flows: {} opening (room for {}), {} others (room for {}), {new} new a second",
        count(true),
        xdp.capacities.opening_flows,
        count(false),
        xdp.capacities.established_flows,
    )
}

/// The reasons for which most packets were dropped.
fn dropped(xdp: &XdpStatus) -> Vec<String> {
    let counted = drops().iter().filter_map(|reason| Some((xdp.reasons.get(reason.name)?, reason)));
    let mut counted: Vec<_> = counted.filter(|(count, _)| **count > 0).collect();
    counted.sort_by_key(|(count, _)| std::cmp::Reverse(**count));
    counted.truncate(DROPS_SHOWN);
    let rate = |name: &str| match xdp.reasons_per_second.get(name) {
        Some(rate) => format!(" ({rate} a second)"),
        None => String::new(),
    };
    let told =
        |(count, reason): (&u64, &Reason)| format!("{count} {}{}", reason.name, rate(reason.name));
    counted.into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use haflinger_core::{Protocol, ServiceKey};
    use haflinger_xdp::{AttachMode, Attached, InterfaceStatus, ServiceReport, Traffic};

    use super::*;

    fn text(xdp: &XdpStatus) -> String {
        let mut out = String::new();
        datapath(xdp).print(&mut out);
        out
    }

    #[test]
    fn without_a_program_there_is_nothing_to_show() {
        assert_eq!(text(&XdpStatus::default()), "");
    }

    #[test]
    fn interfaces_flows_and_what_is_dropped_are_shown() {
        let interface = |name: &str, attached, note: Option<&str>| InterfaceStatus {
            name: name.to_owned(),
            attached,
            note: note.map(str::to_owned),
        };
        let native = Attached { index: 2, mode: AttachMode::Native, not_native: None };
        let traffic = Traffic { flows: 7, ..Traffic::default() };
        let service = ServiceReport {
            service: ServiceKey { vip: [192, 0, 2, 1].into(), port: 80, protocol: Protocol::Tcp },
            mode: None,
            left: false,
            connections: 0,
            traffic: None,
            per_second: Some(traffic),
            backends: Vec::new(),
        };
        let mut xdp = XdpStatus {
            layout: Some("v1".to_owned()),
            interfaces: vec![
                interface("eth0", Some(native), None),
                interface("eth1", None, Some("there is no such interface")),
            ],
            flows: [("opening", 1), ("answered", 2), ("established", 30), ("datagrams", 4)].into(),
            services: vec![service],
            ..XdpStatus::default()
        };
        xdp.capacities.opening_flows = 1000;
        xdp.capacities.established_flows = 2000;
        let counted = [("forwarded", 99), ("reset", 9), ("malformed", 1), ("no_route", 5)];
        xdp.reasons = counted.map(|(name, count)| (name.to_owned(), count)).into();
        xdp.reasons_per_second = [("no_route".to_owned(), 2)].into();
        assert_eq!(
            text(&xdp),
            "\nXDP\n  eth0  native\n  eth1  not attached  there is no such interface\n  \
             flows: 3 opening (room for 1000), 34 others (room for 2000), 7 new a second\n  \
             dropped since the program was loaded: 5 no_route (2 a second), 1 malformed\n"
        );
        xdp.ways_not_remembered = Some("it is too old".to_owned());
        let line = "  the kernel is asked for the way of every packet: it is too old\n";
        assert!(text(&xdp).contains(line));
    }
}
