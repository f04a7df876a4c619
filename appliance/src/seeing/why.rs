//! `haflinger why` for people: one line for each thing that decides, in the order of the program.

use std::fmt::Write as _;

use haflinger_core::{Algorithm, BackendState, StateReason};
use haflinger_xdp::seeing::{
    Bucket, Clients, FlowView, Hop, Limit, ModeView, NewFlow, Refusal, Table, Why,
};

use super::flows::amount;
use super::named;
use crate::status::columns::span;

pub(crate) fn render(why: &Why) -> String {
    let mut out = format!("{} to {}\n", why.client, why.to);
    let mut say = |title: &str, text: String| {
        // Writing into a string cannot fail.
        let _ = writeln!(out, "  {title:<9} {text}");
    };
    say("service", service(why));
    if let Some(mode) = &why.mode {
        say("mode", mode_text(mode, why));
    }
    if let Some(flow) = &why.flow {
        say("flow", flow_text(flow));
        // Of the one that a new flow would get it is said below.
        let next = why.new_flow.as_ref().and_then(|new_flow| new_flow.backend.as_ref());
        if let Some(backend) = why.flow_backend.as_ref().filter(|backend| Some(*backend) != next) {
            say("", format!("its backend: {}", backend_text(backend)));
        }
    } else if why.fault.is_none() {
        say("flow", "none is known".to_owned());
    }
    if let Some(refusal) = &why.refusal {
        say("refused", refusal_text(refusal));
    }
    if let Some(clients) = &why.clients {
        say("clients", clients_text(clients));
    }
    if let Some(limit) = &why.connections {
        say("limit", limit_text(limit));
    }
    if let Some(bucket) = &why.bucket {
        say("bucket", bucket_text(bucket));
    }
    if let Some(new_flow) = &why.new_flow {
        say("new flow", new_flow_text(new_flow));
        if let Some(backend) = &new_flow.backend {
            say("backend", backend_text(backend));
        }
    }
    out
}

fn service(why: &Why) -> String {
    if let Some(object) = &why.object {
        return object.clone();
    }
    let others: Vec<String> = why.neighbours.iter().map(ToString::to_string).collect();
    match others.as_slice() {
        [] => "none: no service of this host has that address, its packets go to the kernel".into(),
        others => format!("none at that port; at that address there are {}", others.join(", ")),
    }
}

fn mode_text(mode: &ModeView, why: &Why) -> String {
    let asked = match &mode.because {
        Some(because) => format!(" instead of {}, because {because}", mode.asked),
        None => String::new(),
    };
    let carrier = match (mode.mode.is_xdp(), why.held, &why.fault) {
        (false, ..) => "; the relay decides and carries the connection".to_owned(),
        (true, _, Some(fault)) => format!("; but no packet goes by XDP here: {fault}"),
        (true, false, None) => "; the program does not have it yet".to_owned(),
        (true, true, None) => String::new(),
    };
    format!("{}, {}{asked}{carrier}", mode.mode, algorithm(mode.algorithm))
}

fn algorithm(algorithm: Algorithm) -> String {
    match algorithm {
        Algorithm::Source { timeout_secs } => {
            format!("source (a client is remembered for {})", span(timeout_secs.into()))
        }
        other => other.to_string(),
    }
}

fn flow_text(flow: &FlowView) -> String {
    format!(
        "{}, {}, to {}, which sees {}; in {}, out {}; open for {}, idle for {}, kept for {} more",
        flow.mode,
        flow.phase,
        named(flow.backend_name.as_deref(), flow.backend),
        flow.source,
        packets(flow.packets_in, flow.bytes_in),
        packets(flow.packets_out, flow.bytes_out),
        span(flow.age_secs.into()),
        span(flow.idle_secs.into()),
        span(flow.left_secs.into()),
    )
}

fn packets(packets: u32, bytes: u64) -> String {
    format!("{packets} packets ({})", amount(bytes))
}

fn refusal_text(refusal: &Refusal) -> String {
    let ago = span(refusal.secs_ago.into());
    format!("{ago} ago: {} ({})", refusal.reason.name, refusal.reason.meaning)
}

fn clients_text(clients: &Clients) -> String {
    match (clients.ranges, clients.by) {
        (0, _) => "all are served".to_owned(),
        (_, Some(range)) => format!("served, as one of {range}"),
        (ranges, None) => {
            let ranges = if ranges == 1 { "source range" } else { "source ranges" };
            format!("NOT served: outside of the service's {} {ranges}", clients.ranges)
        }
    }
}

fn limit_text(limit: &Limit) -> String {
    match limit.max {
        Some(max) => {
            format!("{} connections of the service on this host, {max} at most", limit.connections)
        }
        None => format!("{} connections of the service on this host, no limit", limit.connections),
    }
}

fn bucket_text(bucket: &Bucket) -> String {
    let hop = |hop: &Option<Hop>| {
        hop.as_ref()
            .map_or_else(|| "none".to_owned(), |hop| named(hop.name.as_deref(), hop.address))
    };
    let table = match bucket.table {
        Table::Program => "",
        Table::Snapshot => ", by the relay's table",
    };
    format!(
        "{} of {}{table}: first hop {}, second hop {}",
        bucket.number,
        bucket.of,
        hop(&bucket.first),
        hop(&bucket.second),
    )
}

fn new_flow_text(new_flow: &NewFlow) -> String {
    match (&new_flow.backend, &new_flow.refused) {
        (Some(backend), _) => {
            format!("to {}: {}", named(backend.name.as_deref(), backend.address), new_flow.because)
        }
        (None, Some(reason)) => format!("would be REFUSED, {}: {}", reason.name, new_flow.because),
        (None, None) => new_flow.because.clone(),
    }
}

fn backend_text(backend: &Hop) -> String {
    let state = match backend.state {
        Some(BackendState::Active) => "active",
        Some(BackendState::Draining) => "draining",
        Some(BackendState::Down) => "down",
        None => "not of the service any more",
    };
    let connections = match backend.connections {
        Some(Limit { connections, max: Some(max) }) => {
            format!(", {connections} connections of this host, {max} at most")
        }
        Some(Limit { connections, max: None }) => {
            format!(", {connections} connections of this host, no limit")
        }
        None => String::new(),
    };
    let place = backend.reasons.iter().find_map(|reason| match reason {
        StateReason::NodePort => Some(", a node's port (targets, or pods do not answer this host)"),
        StateReason::Unreachable => Some(", does not answer this host"),
        _ => None,
    });
    format!("{state}, weight {}{}{connections}", backend.weight, place.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use haflinger_core::{ForwardingMode, Protocol, ServiceKey};
    use haflinger_xdp::seeing::reason;

    use super::*;

    fn hop(name: &str) -> Hop {
        Hop {
            address: "10.2.0.2:8080".parse().expect("an address"),
            name: Some(name.into()),
            weight: 100,
            state: Some(BackendState::Active),
            reasons: Vec::new(),
            connections: Some(Limit { connections: 7, max: Some(10) }),
        }
    }

    fn why() -> Why {
        Why {
            client: "198.51.100.7:40000".parse().expect("an address"),
            to: ServiceKey { vip: [192, 0, 2, 1].into(), port: 80, protocol: Protocol::Tcp },
            object: Some("inventory/service/default/web".to_owned()),
            neighbours: Vec::new(),
            mode: Some(ModeView {
                mode: ForwardingMode::Nat,
                asked: ForwardingMode::Nat,
                because: None,
                algorithm: Algorithm::Hash,
            }),
            fault: None,
            held: true,
            clients: Some(Clients { ranges: 0, served: true, by: None }),
            connections: Some(Limit { connections: 7, max: None }),
            bucket: Some(Bucket {
                number: 183,
                of: 256,
                table: Table::Program,
                first: Some(hop("web-1")),
                second: None,
            }),
            new_flow: Some(NewFlow {
                backend: Some(hop("web-1")),
                refused: None,
                because: "the bucket's first hop takes new flows".to_owned(),
                settled: true,
            }),
            flow: None,
            flow_backend: None,
            refusal: Some(Refusal { reason: reason(14), secs_ago: 3 }),
        }
    }

    #[test]
    fn it_reads_from_the_service_to_the_backend() {
        assert_eq!(
            render(&why()),
            "198.51.100.7:40000 to 192.0.2.1:80/tcp\n  \
             service   inventory/service/default/web\n  \
             mode      nat, hash\n  \
             flow      none is known\n  \
             refused   3s ago: reset (TCP of no flow: the client was sent a reset)\n  \
             clients   all are served\n  \
             limit     7 connections of the service on this host, no limit\n  \
             bucket    183 of 256: first hop web-1 (10.2.0.2:8080), second hop none\n  \
             new flow  to web-1 (10.2.0.2:8080): the bucket's first hop takes new flows\n  \
             backend   active, weight 100, 7 connections of this host, 10 at most\n"
        );
    }

    #[test]
    fn a_flow_whose_backend_takes_no_new_ones_says_so() {
        let flow = FlowView {
            client: why().client,
            service: why().to,
            object: None,
            backend: "10.2.0.3:8080".parse().expect("an address"),
            backend_name: Some("web-2".into()),
            source: "10.2.0.1:61000".parse().expect("an address"),
            mode: ForwardingMode::Nat,
            phase: "established",
            age_secs: 61,
            idle_secs: 2,
            left_secs: 58,
            packets_in: 12,
            packets_out: 9,
            bytes_in: 1234,
            bytes_out: 56_000_000,
            bytes_per_sec: 0,
        };
        let drained = Hop { state: Some(BackendState::Draining), ..hop("web-2") };
        let text = render(&Why { flow: Some(flow), flow_backend: Some(drained), ..why() });
        let said = "flow      nat, established, to web-2 (10.2.0.3:8080), which sees \
                    10.2.0.1:61000; in 12 packets (1.2 kB), out 9 packets (56 MB); open for \
                    1m01s, idle for 2s, kept for 58s more\n            \
                    its backend: draining, weight 100, 7 connections of this host, 10 at most\n";
        assert!(text.contains(said), "{text}");
        let same = Why { flow_backend: Some(hop("web-1")), ..why() };
        assert!(!render(&same).contains("its backend"));
    }

    #[test]
    fn a_node_s_port_in_the_place_of_a_pod_says_so() {
        let port = Hop { reasons: vec![StateReason::NodePort], ..hop("node-1") };
        let said =
            "active, weight 100, a node's port (targets, or pods do not answer this host), 7";
        assert!(backend_text(&port).starts_with(said), "{}", backend_text(&port));
    }

    #[test]
    fn a_relayed_service_says_who_decides_and_why() {
        let mode = ModeView {
            mode: ForwardingMode::Proxy,
            asked: ForwardingMode::Nat,
            because: Some("PROXY protocol needs a socket".to_owned()),
            algorithm: Algorithm::Source { timeout_secs: 10_800 },
        };
        assert_eq!(
            mode_text(&mode, &why()),
            "proxy, source (a client is remembered for 3h00m) instead of nat, because PROXY \
             protocol needs a socket; the relay decides and carries the connection"
        );
    }

    #[test]
    fn a_refusal_to_come_is_named() {
        let clients = Clients { ranges: 2, served: false, by: None };
        assert_eq!(clients_text(&clients), "NOT served: outside of the service's 2 source ranges");
        let denied = NewFlow {
            backend: None,
            refused: Some(reason(20)),
            because: reason(20).meaning.to_owned(),
            settled: true,
        };
        assert!(new_flow_text(&denied).starts_with("would be REFUSED, source_range: "));
    }

    #[test]
    fn where_there_is_no_service_the_others_at_the_address_are_named() {
        let other = ServiceKey { vip: [192, 0, 2, 1].into(), port: 443, protocol: Protocol::Tcp };
        let nothing = Why { object: None, ..why() };
        assert!(service(&nothing).contains("no service of this host has that address"));
        let beside = Why { neighbours: vec![other], ..nothing };
        assert!(service(&beside).ends_with("192.0.2.1:443/tcp"));
    }
}
