//! `haflinger flows` for people.

use std::fmt::Write as _;

use haflinger_xdp::seeing::{FlowView, Flows};

use super::named;
use crate::status::columns::{Columns, span};

pub(crate) fn render(answer: &Flows) -> String {
    let mut out = String::new();
    let live: u32 = answer.live.values().sum();
    // In the order in which a flow goes through them.
    let phases = ["opening", "answered", "established", "datagrams", "closing", "closed"];
    let phases: Vec<String> = phases
        .iter()
        .filter_map(|phase| Some((phase, answer.live.get(phase).filter(|count| **count > 0)?)))
        .map(|(phase, count)| format!("{count} {phase}"))
        .collect();
    let phases = if phases.is_empty() { String::new() } else { format!(": {}", phases.join(", ")) };
    // Writing into a string cannot fail.
    let _ = writeln!(out, "{live} live flows{phases}");
    let _ = writeln!(
        out,
        "records in use: {} of {} for opening flows, {} of {} for all others",
        answer.opening.used, answer.opening.max, answer.established.used, answer.established.max,
    );
    let shown = u32::try_from(answer.flows.len()).unwrap_or(u32::MAX);
    if shown < answer.matching {
        let _ = writeln!(out, "shown: {shown} of {} (--limit shows more)", answer.matching);
    }
    table(&answer.flows).print(&mut out);
    out
}

fn table(flows: &[FlowView]) -> Columns {
    let mut columns = Columns::new("FLOWS");
    if flows.is_empty() {
        return columns;
    }
    let titles =
        ["client", "vip", "backend", "source", "mode", "phase", "age", "idle", "in", "out", "rate"];
    columns.row(titles.map(str::to_owned));
    for flow in flows {
        columns.row([
            flow.client.to_string(),
            flow.service.to_string(),
            named(flow.backend_name.as_deref(), flow.backend),
            flow.source.to_string(),
            flow.mode.to_string(),
            flow.phase.to_owned(),
            span(flow.age_secs.into()),
            span(flow.idle_secs.into()),
            traffic(flow.packets_in, flow.bytes_in),
            traffic(flow.packets_out, flow.bytes_out),
            format!("{}/s", amount(flow.bytes_per_sec)),
        ]);
    }
    columns
}

/// Packets and bytes.
fn traffic(packets: u32, bytes: u64) -> String {
    format!("{packets} p, {}", amount(bytes))
}

/// Bytes in the largest unit of which there is one at least, with one digit more below ten.
pub(super) fn amount(bytes: u64) -> String {
    let units = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];
    let Some((unit, size)) = units.into_iter().find(|(_, size)| bytes >= *size) else {
        return format!("{bytes} B");
    };
    match (bytes / size, bytes % size * 10 / size) {
        (whole @ 0..10, tenth) => format!("{whole}.{tenth} {unit}"),
        (whole, _) => format!("{whole} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::{ForwardingMode, Protocol, ServiceKey};
    use haflinger_xdp::Fill;

    use super::*;

    fn flow() -> FlowView {
        FlowView {
            client: "198.51.100.7:40000".parse().expect("an address"),
            service: ServiceKey { vip: [192, 0, 2, 1].into(), port: 80, protocol: Protocol::Tcp },
            object: None,
            backend: "10.2.0.2:8080".parse().expect("an address"),
            backend_name: Some("web-1".into()),
            source: "10.2.0.1:61000".parse().expect("an address"),
            mode: ForwardingMode::Nat,
            phase: "established",
            age_secs: 61,
            idle_secs: 2,
            left_secs: 3598,
            packets_in: 12,
            packets_out: 9,
            bytes_in: 1234,
            bytes_out: 56_000_000,
            bytes_per_sec: 918_052,
        }
    }

    fn answer(flows: Vec<FlowView>, matching: u32) -> Flows {
        Flows {
            live: [("opening", 0), ("established", 2), ("closed", 1)].into(),
            opening: Fill { used: 0, max: 1024 },
            established: Fill { used: 3, max: 4096 },
            matching,
            flows,
        }
    }

    #[test]
    fn totals_come_first_and_name_the_phases_that_are_there() {
        let text = render(&answer(vec![flow()], 3));
        assert!(text.starts_with(
            "3 live flows: 2 established, 1 closed\n\
             records in use: 0 of 1024 for opening flows, 3 of 4096 for all others\n\
             shown: 1 of 3 (--limit shows more)\n"
        ));
    }

    #[test]
    fn a_flow_is_a_line() {
        let text = render(&answer(vec![flow()], 1));
        let line = text.lines().last().unwrap_or_default();
        let cells: Vec<&str> =
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            cells,
            [
                "198.51.100.7:40000",
                "192.0.2.1:80/tcp",
                "web-1 (10.2.0.2:8080)",
                "10.2.0.1:61000",
                "nat",
                "established",
                "1m01s",
                "2s",
                "12 p, 1.2 kB",
                "9 p, 56 MB",
                "918 kB/s",
            ]
        );
    }

    #[test]
    fn without_flows_there_is_no_table() {
        assert!(!render(&answer(Vec::new(), 0)).contains("FLOWS"));
    }

    #[test]
    fn amounts_have_their_largest_unit() {
        let amounts = [0, 999, 1000, 9_999, 10_000, 1_500_000, u64::MAX].map(amount);
        assert_eq!(amounts, ["0 B", "999 B", "1.0 kB", "9.9 kB", "10 kB", "1.5 MB", "18446744 TB"]);
    }
}
