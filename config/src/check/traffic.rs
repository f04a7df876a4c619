//! `[relay]`, `[proxy]`, `[health]` and `[limits]`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::text::{self, Distinct, count, millis, path, secs};
use super::{access, secret};
use crate::checked::{FlowHashKey, Health, Limits, Proxy, Relay, Secret, TicketSecret};
use crate::context::Context;
use crate::file;

pub(crate) fn relay(context: &mut Context, file: &file::Relay) -> Option<Relay> {
    let flow_hash_key = match &file.flow_hash_key_file {
        Some(written) => Some(flow_hash_key(context, written)?),
        None => None,
    };
    if file.connections_per_service_max > file.connections_max {
        let at = either(context, "relay.connections_per_service_max", "relay.connections_max");
        let what = format!(
            "one service may hold {} of only {} connections",
            file.connections_per_service_max, file.connections_max
        );
        context.refuse(at, &what, "write a limit a service that is not above the whole");
        return None;
    }
    if file.connect_total_timeout_ms < file.connect_timeout_ms {
        let at = either(context, "relay.connect_total_timeout_ms", "relay.connect_timeout_ms");
        let what = format!(
            "all attempts together get {} ms, one of them {} ms",
            file.connect_total_timeout_ms, file.connect_timeout_ms
        );
        context.refuse(at, &what, "write a total that is not below the time of one attempt");
        return None;
    }
    Some(Relay {
        connections_max: file.connections_max,
        connections_per_service_max: file.connections_per_service_max,
        udp_flows_max: file.udp_flows_max,
        connect_timeout: millis(file.connect_timeout_ms),
        connect_attempts_max: file.connect_attempts_max,
        connect_total_timeout: millis(file.connect_total_timeout_ms),
        drain: secs(file.drain_secs),
        affinity_entries_max: file.affinity_entries_max,
        pipes_max: file.pipes_max,
        flow_hash_key,
    })
}

/// Of two values that contradict each other, the one that somebody wrote.
pub(super) fn either<'a>(context: &Context, preferred: &'a str, other: &'a str) -> &'a str {
    if context.is_set(preferred) { preferred } else { other }
}

fn flow_hash_key(context: &mut Context, written: &str) -> Option<FlowHashKey> {
    const AT: &str = "relay.flow_hash_key_file";
    path(context, AT, written)?;
    let secret = secret::read(context, AT, written)?;
    let digits = std::str::from_utf8(secret.expose()).unwrap_or_default();
    let is_key = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    match u128::from_str_radix(digits, 16) {
        Ok(key) if is_key => Some(FlowHashKey(key.to_be_bytes())),
        _ => {
            let remedy = "write it with `openssl rand -hex 16`, the same on every host";
            context.refuse(AT, "the file does not hold 32 hexadecimal digits", remedy);
            None
        }
    }
}

pub(crate) fn proxy(context: &mut Context, file: &file::Proxy) -> Option<Proxy> {
    let mut distinct = Distinct::new("the address");
    let addresses = text::each(context, "proxy.addresses", &file.addresses, text::address)
        .into_iter()
        .filter_map(|(at, address)| distinct.add(context, &at, &address).then_some(address))
        .collect();
    let trusted_proxies =
        text::each(context, "proxy.trusted_proxies", &file.trusted_proxies, network)
            .into_iter()
            .map(|(_, network)| network)
            .collect();
    if file.http_port == file.https_port {
        let at = either(context, "proxy.https_port", "proxy.http_port");
        let what = format!("HTTP and HTTPS cannot both have port {}", file.http_port);
        context.refuse(at, &what, "write two different ports");
        return None;
    }
    let session_ticket_secret = match &file.session_ticket_secret_file {
        Some(written) => Some(session_ticket_secret(context, written)?),
        None => None,
    };
    let request_id_header = access::request_id_header(context, &file.request_id_header);
    let access_log = access::access_log(context, &file.access_log);
    Some(Proxy {
        addresses,
        http_port: file.http_port,
        https_port: file.https_port,
        workers: file.workers.map(usize::from),
        connections_max: count(file.connections_max),
        tls_policy: file.tls_policy,
        session_ticket_secret,
        session_ticket_rotation: secs(file.session_ticket_rotation_secs),
        certificate_warning: secs(file.certificate_warning_days * 86_400),
        tls_handshake_timeout: millis(file.tls_handshake_timeout_ms),
        request_header_timeout: millis(file.request_header_timeout_ms),
        request_header_bytes_max: count(file.request_header_bytes_max),
        client_read_timeout: millis(file.client_read_timeout_ms),
        client_write_timeout: millis(file.client_write_timeout_ms),
        keepalive_idle: secs(file.keepalive_idle_secs),
        h2_streams_max: file.h2_streams_max,
        upstream_connect_timeout: millis(file.upstream_connect_timeout_ms),
        upstream_read_timeout: millis(file.upstream_read_timeout_ms),
        upstream_write_timeout: millis(file.upstream_write_timeout_ms),
        upstream_idle: secs(file.upstream_idle_secs),
        upstream_idle_max: count(file.upstream_idle_max),
        retries_max: file.retries_max,
        retry_percent: file.retry_percent,
        trusted_proxies,
        request_id_header: request_id_header?,
        trace_context: file.trace_context,
        access_log: access_log?,
        upgraded_idle: secs(file.upgraded_idle_secs),
        drain: secs(file.drain_secs),
    })
}

/// 64 hexadecimal digits in a file.
fn session_ticket_secret(context: &mut Context, written: &str) -> Option<TicketSecret> {
    const AT: &str = "proxy.session_ticket_secret_file";
    let file = path(context, AT, written)?;
    let secret = secret::read(context, AT, written)?;
    let digit = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let written = secret.expose();
    let is_secret = written.len() == 64 && written.iter().all(u8::is_ascii_hexdigit);
    let bytes: Option<Vec<u8>> = written.chunks(2).map(digit).collect();
    match bytes.filter(|_| is_secret) {
        Some(bytes) => Some(TicketSecret { secret: Secret(bytes), file }),
        None => {
            let remedy = "write it with `openssl rand -hex 32`, the same on every host";
            context.refuse(AT, "the file does not hold 64 hexadecimal digits", remedy);
            None
        }
    }
}

/// A network, or one address.
fn network(context: &mut Context, at: &str, written: &str) -> Option<IpNet> {
    if let Ok(address) = written.parse::<IpAddr>() {
        return Some(IpNet::from(address));
    }
    match written.parse::<IpNet>() {
        Ok(network) => Some(network.trunc()),
        Err(_) => {
            let remedy = "write address and prefix length, such as \"192.0.2.0/24\"";
            context.refuse(at, "it is not a network", remedy);
            None
        }
    }
}

pub(crate) fn health(file: &file::Health) -> Health {
    Health { concurrent_max: file.concurrent_max, fallback: file.fallback }
}

pub(crate) fn limits(file: &file::Limits) -> Limits {
    Limits {
        updates_max: count(file.updates_max),
        publish_delay: millis(file.publish_delay_ms),
        withdraw_wait: millis(file.withdraw_wait_ms),
        stop: secs(file.stop_secs),
    }
}
