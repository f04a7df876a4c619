//! `haflinger trace` for people: a line for a packet.

use std::fmt::Write as _;
use std::net::SocketAddr;

use haflinger_xdp::seeing::{TraceEnd, Traced, TracedPacket};

use super::named;

pub(crate) fn render(traced: &Traced) -> String {
    match traced {
        Traced::Packet(packet) => line(packet),
        Traced::End(end) => last(end),
    }
}

fn line(packet: &TracedPacket) -> String {
    let TracedPacket { interface, protocol, length, .. } = packet;
    // Later fragments have no ports, nor have other protocols.
    let end = |end: SocketAddr| match end.port() {
        0 => end.ip().to_string(),
        _ => end.to_string(),
    };
    let (from, to) = (end(packet.from), end(packet.to));
    let micros = packet.nanoseconds / 1000;
    let (secs, micros) = (micros / 1_000_000, micros % 1_000_000);
    let mut out = format!("{secs:>3}.{micros:06} {interface} {from} > {to} {protocol}");
    // Writing into a string cannot fail.
    if !packet.flags.is_empty() {
        let _ = write!(out, " [{}]", packet.flags);
    }
    let _ = write!(out, " {length} B: {}", packet.stages.join(", "));
    let _ = write!(out, "; {} {}", packet.verdict, packet.reason.name);
    if let Some(record) = packet.record {
        let _ = write!(out, ", flow {record}");
    }
    if let Some(backend) = packet.backend {
        let _ = write!(out, ", backend {}", named(packet.backend_name.as_deref(), backend));
    }
    if let Some(egress) = &packet.egress {
        let _ = write!(out, ", out by {egress}");
    }
    out.push('\n');
    out
}

fn last(end: &TraceEnd) -> String {
    let mut out =
        format!("{}: {} packets shown of {} that matched", end.because, end.shown, end.matched);
    if end.left_out > 0 {
        let _ = write!(out, "; {} came too fast to be shown: raise --one-in", end.left_out);
    }
    if end.lost > 0 {
        let _ = write!(out, "; {} found no room in the program's buffer: raise --one-in", end.lost);
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use haflinger_xdp::seeing::reason;

    use super::*;

    #[test]
    fn a_packet_is_a_line() {
        let packet = TracedPacket {
            nanoseconds: 1_023_456_789,
            interface: "eth0".to_owned(),
            from: "198.51.100.7:40000".parse().expect("an address"),
            to: "192.0.2.1:80".parse().expect("an address"),
            protocol: "tcp".to_owned(),
            length: 60,
            flags: "S".to_owned(),
            stages: vec!["parsed", "service found", "flow created"],
            verdict: "redirect",
            reason: reason(1),
            service: None,
            backend: Some("10.2.0.2:8080".parse().expect("an address")),
            backend_name: Some("web-1".into()),
            record: Some(5),
            egress: Some("eth1".to_owned()),
        };
        assert_eq!(
            line(&packet),
            "  1.023456 eth0 198.51.100.7:40000 > 192.0.2.1:80 tcp [S] 60 B: parsed, service \
             found, flow created; redirect forwarded_new, flow 5, backend web-1 (10.2.0.2:8080), \
             out by eth1\n"
        );
    }

    #[test]
    fn what_has_no_ports_is_shown_by_its_addresses() {
        let echo = TracedPacket {
            nanoseconds: 0,
            interface: "eth0".to_owned(),
            from: "[2001:db8::7]:0".parse().expect("an address"),
            to: "[2001:db8::1]:0".parse().expect("an address"),
            protocol: "icmpv6".to_owned(),
            length: 64,
            flags: String::new(),
            stages: vec!["parsed"],
            verdict: "pass",
            reason: reason(8),
            service: None,
            backend: None,
            backend_name: None,
            record: None,
            egress: None,
        };
        assert_eq!(
            line(&echo),
            "  0.000000 eth0 2001:db8::7 > 2001:db8::1 icmpv6 64 B: parsed; pass not_ours\n"
        );
    }

    #[test]
    fn the_end_names_what_was_not_shown() {
        let end =
            TraceEnd { shown: 2, matched: 9, left_out: 0, lost: 0, because: "the time is over" };
        assert_eq!(last(&end), "the time is over: 2 packets shown of 9 that matched\n");
        let lossy = TraceEnd { left_out: 3, lost: 4, ..end };
        assert!(
            last(&lossy).contains("3 came too fast") && last(&lossy).contains("4 found no room")
        );
    }
}
