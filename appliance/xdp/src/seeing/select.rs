//! Which packets a trace is about: what the program compares, and what is left to compare.

use std::net::SocketAddr;

use haflinger_core::{Protocol, ServiceKey};

use super::trace::{TraceQuery, TracedPacket};
use crate::program::types;
use crate::words;

/// What the program compares, and what it cannot.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    pub(super) filter: types::flow_key,
    /// Services that the filter does not tell from others.
    services: Vec<ServiceKey>,
}

impl Selection {
    /// The narrowest filter that lets everything through that is meant.
    pub(super) fn of(query: &TraceQuery, services: &[ServiceKey]) -> Self {
        let mut filter = types::flow_key::default();
        if let Some(client) = query.client {
            filter.source = words::address(client.address);
            filter.source_port = client.port.unwrap_or(0).to_be();
        }
        if let Some(vip) = query.vip {
            filter.destination = words::address(vip.address);
            filter.destination_port = vip.port.unwrap_or(0).to_be();
        }
        let protocol = query.vip.and_then(|vip| vip.protocol);
        let protocol = protocol.or(query.client.and_then(|client| client.protocol));
        filter.protocol = protocol.map_or(0, Protocol::number);
        let Some((first, others)) = services.split_first() else {
            return Self { filter, services: Vec::new() };
        };
        if query.vip.is_none() && others.iter().all(|other| other.vip == first.vip) {
            filter.destination = words::address(first.vip);
        }
        if query.vip.is_none() && others.iter().all(|other| other.port == first.port) {
            filter.destination_port = first.port.to_be();
        }
        if protocol.is_none() && others.iter().all(|other| other.protocol == first.protocol) {
            filter.protocol = first.protocol.number();
        }
        let is_told = others.is_empty() && query.vip.is_none();
        Self { filter, services: if is_told { Vec::new() } else { services.to_vec() } }
    }

    pub(super) fn admits(&self, packet: &TracedPacket) -> bool {
        let is = |key: &ServiceKey, end: SocketAddr| {
            key.socket_addr() == end && key.protocol.to_string() == packet.protocol
        };
        self.services.is_empty()
            || self.services.iter().any(|key| {
                packet.service == Some(*key) || is(key, packet.to) || is(key, packet.from)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::super::reason;
    use super::*;

    fn query() -> TraceQuery {
        TraceQuery { service: None, client: None, vip: None, one_in: 1, secs: 10, count: 100 }
    }

    fn key(text: &str) -> ServiceKey {
        super::super::service_key(text).unwrap()
    }

    fn packet(from: &str, to: &str) -> TracedPacket {
        TracedPacket {
            nanoseconds: 0,
            interface: String::new(),
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            protocol: "tcp".to_owned(),
            length: 60,
            flags: String::new(),
            stages: Vec::new(),
            verdict: "pass",
            reason: reason(0),
            service: None,
            backend: None,
            backend_name: None,
            record: None,
            egress: None,
        }
    }

    #[test]
    fn one_service_is_told_by_the_program_alone() {
        let one = Selection::of(&query(), &[key("192.0.2.1:80/tcp")]);
        assert!(one.services.is_empty());
        assert_eq!((one.filter.destination_port, one.filter.protocol), (80_u16.to_be(), 6));
        assert_eq!(words::ip(&one.filter.destination).to_string(), "192.0.2.1");
    }

    #[test]
    fn several_services_are_told_apart_behind_what_they_share() {
        let both = [key("192.0.2.1:80/tcp"), key("192.0.2.1:443/tcp")];
        let selection = Selection::of(&query(), &both);
        assert_eq!((selection.filter.destination_port, selection.filter.protocol), (0, 6));
        assert!(selection.admits(&packet("10.0.0.1:9", "192.0.2.1:443")));
        assert!(selection.admits(&packet("192.0.2.1:80", "10.0.0.1:9")));
        assert!(!selection.admits(&packet("10.0.0.1:9", "192.0.2.1:22")));
        let answer = packet("10.2.0.2:8080", "10.2.0.1:61000");
        assert!(selection.admits(&TracedPacket { service: Some(both[0]), ..answer }));
    }

    #[test]
    fn client_and_vip_go_into_the_filter() {
        let vip = Some("192.0.2.1:53/udp".parse().unwrap());
        let asked = TraceQuery { client: Some("10.0.0.1".parse().unwrap()), vip, ..query() };
        let filter = Selection::of(&asked, &[]).filter;
        assert_eq!(words::ip(&filter.source).to_string(), "10.0.0.1");
        assert_eq!((filter.source_port, filter.destination_port), (0, 53_u16.to_be()));
        assert_eq!(filter.protocol, 17);
    }
}
