//! Annotations under `haflinger.dev/` and those of external-dns (docs/annotations.md).

use std::net::IpAddr;
use std::sync::Arc;

use haflinger_core::{Destination, FaultReason, HealthCheck, HealthCheckKind, ProxyProtocol};

use super::{Faults, quoted};
use crate::objects::{Name, Object};

/// Longest annotation that is looked at, in bytes: room for as many of the longest host names as
/// are taken. The API takes 256 KiB.
pub(super) const VALUE_BYTES_MAX: usize = 32 * 1024;

/// Where host names are looked for; the first that is there counts.
const HOSTNAME: [Name; 3] =
    [Name::HOSTNAME, Name::EXTERNAL_DNS_HOSTNAME, Name::EXTERNAL_DNS_ALPHA_HOSTNAME];

/// Where their time to live is looked for.
const TTL: [Name; 3] = [Name::TTL, Name::EXTERNAL_DNS_TTL, Name::EXTERNAL_DNS_ALPHA_TTL];

/// Host names of one object.
const HOSTNAMES_MAX: usize = 64;

/// Defaults and limits of health checks; milliseconds.
const INTERVAL_DEFAULT_MS: u32 = 5_000;
const TIMEOUT_DEFAULT_MS: u32 = 2_000;
const INTERVAL_MIN_MS: u32 = 100;
const INTERVAL_MAX_MS: u32 = 3_600_000;
const RISE_DEFAULT: u32 = 2;
const FALL_DEFAULT: u32 = 3;
const COUNT_MAX: u32 = 100;

/// Largest time to live of a record (RFC 2181 section 8).
const TTL_MAX_SECS: u32 = i32::MAX.unsigned_abs();

/// Reads the annotations of one object; what cannot be used becomes a fault.
pub(super) struct Annotations<'a, B> {
    pub(super) object: &'a Object<B>,
    pub(super) faults: &'a mut Faults,
}

impl<B> Annotations<'_, B> {
    /// The text of an annotation; nothing where it is absent, or longer than anybody means it.
    pub(super) fn value(&mut self, name: Name) -> Option<String> {
        let text = self.object.annotation(name)?.trim();
        if text.len() > VALUE_BYTES_MAX {
            let message = format!(
                "annotation {name}: has {} bytes and is not looked at; write {VALUE_BYTES_MAX} at \
                 most",
                text.len()
            );
            self.faults.add(FaultReason::InvalidAnnotation, message);
            return None;
        }
        Some(text.to_owned())
    }

    pub(super) fn refuse(&mut self, name: Name, value: &str, remedy: &str) {
        let message = format!("annotation {name}: {} cannot be used; {remedy}", quoted(value));
        self.faults.add(FaultReason::InvalidAnnotation, message);
    }

    /// `targets`: `auto`, `pods` or `nodes`.
    pub(super) fn destination(&mut self) -> Option<Destination> {
        match self.value(Name::TARGETS)?.as_str() {
            "auto" => Some(Destination::Auto),
            "pods" => Some(Destination::Pods),
            "nodes" => Some(Destination::Nodes),
            other => {
                self.refuse(Name::TARGETS, other, "write \"auto\", \"pods\" or \"nodes\"");
                None
            }
        }
    }

    /// `proxy-protocol`: `v1`, `v2` or `off`.
    pub(super) fn proxy_protocol(&mut self) -> ProxyProtocol {
        match self.value(Name::PROXY_PROTOCOL).as_deref() {
            None | Some("off") => ProxyProtocol::Off,
            Some("v1") => ProxyProtocol::V1,
            Some("v2") => ProxyProtocol::V2,
            Some(other) => {
                self.refuse(Name::PROXY_PROTOCOL, other, "write \"v1\", \"v2\" or \"off\"");
                ProxyProtocol::Off
            }
        }
    }

    /// `health-check` and the five beside it.
    pub(super) fn health_check(&mut self) -> Option<HealthCheck> {
        let text = self.value(Name::HEALTH_CHECK)?;
        let kind = match text.split_once(':') {
            None if text == "tcp" => HealthCheckKind::Tcp,
            None if text == "off" => return None,
            Some(("http", path)) if is_request_path(path) => {
                HealthCheckKind::Http { path: path.into(), host: self.health_check_host() }
            }
            _ => {
                self.refuse(Name::HEALTH_CHECK, &text, "write \"tcp\" or \"http:/path\"");
                return None;
            }
        };
        let limits = INTERVAL_MIN_MS..=INTERVAL_MAX_MS;
        let interval_ms = self
            .time(Name::HEALTH_CHECK_INTERVAL, "write a time from 100ms to 1h, as in 5s", limits)
            .unwrap_or(INTERVAL_DEFAULT_MS);
        let timeout_ms = self
            .time(
                Name::HEALTH_CHECK_TIMEOUT,
                "write a time from 1ms up to the interval, as in 2s",
                1..=interval_ms,
            )
            .unwrap_or(TIMEOUT_DEFAULT_MS.min(interval_ms));
        Some(HealthCheck {
            kind,
            port: self.health_check_port(),
            proxy_protocol: ProxyProtocol::Off,
            interval_ms,
            timeout_ms,
            rise: self.count(Name::HEALTH_CHECK_RISE).unwrap_or(RISE_DEFAULT),
            fall: self.count(Name::HEALTH_CHECK_FALL).unwrap_or(FALL_DEFAULT),
            ways: Vec::new(),
        })
    }

    fn health_check_host(&mut self) -> Option<Arc<str>> {
        let text = self.value(Name::HEALTH_CHECK_HOST)?;
        let host = dns_name(&text).filter(|host| !host.starts_with('*'));
        if host.is_none() {
            self.refuse(Name::HEALTH_CHECK_HOST, &text, "write a host name");
        }
        host
    }

    fn health_check_port(&mut self) -> Option<u16> {
        let text = self.value(Name::HEALTH_CHECK_PORT)?;
        let port = text.parse().ok().filter(|port| *port != 0);
        if port.is_none() {
            self.refuse(Name::HEALTH_CHECK_PORT, &text, "write a port from 1 to 65535");
        }
        port
    }

    fn count(&mut self, name: Name) -> Option<u32> {
        let text = self.value(name)?;
        let count = text.parse().ok().filter(|count| (1..=COUNT_MAX).contains(count));
        if count.is_none() {
            self.refuse(name, &text, "write a number from 1 to 100");
        }
        count
    }

    fn time(
        &mut self,
        name: Name,
        remedy: &str,
        limits: std::ops::RangeInclusive<u32>,
    ) -> Option<u32> {
        let text = self.value(name)?;
        let time = duration_ms(&text)
            .and_then(|time| u32::try_from(time).ok())
            .filter(|time| limits.contains(time));
        if time.is_none() {
            self.refuse(name, &text, remedy);
        }
        time
    }

    /// `hostname` of external-dns, or our own, and every name in it.
    pub(super) fn hostnames(&mut self) -> Vec<Arc<str>> {
        let Some((annotation, list)) = self.first_of(HOSTNAME) else { return Vec::new() };
        let mut names = Vec::new();
        for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match dns_name(item) {
                Some(name) if names.len() < HOSTNAMES_MAX => {
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                _ => self.refuse(
                    annotation,
                    item,
                    "write at most 64 host names, separated by commas",
                ),
            }
        }
        names
    }

    /// `ttl`: seconds, or a Go duration.
    pub(super) fn ttl_secs(&mut self) -> Option<u32> {
        let (annotation, text) = self.first_of(TTL)?;
        let ttl = duration_ms(&text)
            .and_then(|time| u32::try_from(time / 1000).ok())
            .filter(|ttl| (1..=TTL_MAX_SECS).contains(ttl));
        if ttl.is_none() {
            self.refuse(annotation, &text, "write seconds from 1 to 2147483647, or as in 5m");
        }
        ttl
    }

    /// The first of these annotations that is there.
    fn first_of(&mut self, names: [Name; 3]) -> Option<(Name, String)> {
        let name = names.into_iter().find(|name| self.object.annotation(*name).is_some())?;
        Some((name, self.value(name)?))
    }
}

/// Whether an address can be a VIP: one that routers route.
pub(crate) fn is_usable_vip(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_link_local())
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.to_ipv4_mapped().is_some())
        }
    }
}

/// Origin-form without what could end a request line early.
fn is_request_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic())
}

/// A lower-case DNS name without the final dot, `*.` allowed in front; `None` when it is none
/// (RFC 1123 section 2.1, with underscores, which SRV-like names carry).
pub(crate) fn dns_name(text: &str) -> Option<Arc<str>> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let labels = name.strip_prefix("*.").unwrap_or(&name);
    let fine = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    (name.len() <= 253 && labels.split('.').all(fine)).then(|| name.into())
}

/// Milliseconds in a Go duration (`1h30m`, `1.5s`, `300ms`) or in plain seconds.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse::<u64>().ok()?.checked_mul(1000);
    }
    let mut rest = text;
    let mut total_us: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_len);
        let unit_us: u64 = match unit {
            "h" => 3_600_000_000,
            "m" => 60_000_000,
            "s" => 1_000_000,
            "ms" => 1_000,
            "us" | "µs" => 1,
            _ => return None,
        };
        total_us = total_us.checked_add(scaled(number, unit_us)?)?;
        rest = next;
    }
    (total_us > 0).then_some(total_us / 1000)
}

/// `number × unit` for a decimal with at most six digits behind the point.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = if whole.is_empty() && !part.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(unit)?;
    if !part.is_empty() {
        let digits = u32::try_from(part.len()).ok().filter(|digits| *digits <= 6)?;
        total =
            total.checked_add(part.parse::<u64>().ok()?.checked_mul(unit)? / 10u64.pow(digits))?;
    }
    Some(total)
}
