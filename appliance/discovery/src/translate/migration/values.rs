//! Values of annotations. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use haflinger_core::{CLIENT_RANGES_MAX, PathRewrite, RATE_REQUESTS_MAX, Redirect};
use ipnet::IpNet;

use crate::translate::annotations::{dns_name, duration_ms};
use crate::translate::gateway::is_token;

/// Statuses with which clients can be sent elsewhere (RFC 9110, section 15.4).
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// Items of a list.
const ITEMS_MAX: usize = 64;

pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

pub(super) fn redirect_status(text: &str) -> Option<u16> {
    text.parse().ok().filter(|status| REDIRECTS.contains(status))
}

pub(super) fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

pub(super) fn host(text: &str) -> Option<Arc<str>> {
    dns_name(text).filter(|host| !host.starts_with('*'))
}

/// A path as it stands in a request, without query and fragment.
pub(super) fn path(text: &str) -> Option<Arc<str>> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'$' | b'\\');
    (text.starts_with('/') && text.bytes().all(plain)).then(|| text.into())
}

/// Seconds as a number, or a time with its unit.
pub(super) fn time_ms(text: &str) -> Option<u32> {
    u32::try_from(duration_ms(text)?).ok().filter(|ms| *ms > 0)
}

pub(super) fn count(text: &str) -> Option<u32> {
    text.parse().ok().filter(|count| (1..=RATE_REQUESTS_MAX).contains(count))
}

/// Bytes, with a unit of 1,024 each.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = match text.to_ascii_lowercase().chars().last()? {
        'k' => (&text[..text.len() - 1], 1 << 10),
        'm' => (&text[..text.len() - 1], 1 << 20),
        'g' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// Networks and addresses between commas or spaces.
pub(super) fn networks(text: &str) -> Option<Vec<IpNet>> {
    let items = text.split([',', ' ', '\n']).map(str::trim).filter(|item| !item.is_empty());
    let network = |item: &str| {
        let address = || item.parse::<IpAddr>().ok().map(IpNet::from);
        item.parse::<IpNet>().ok().map(|network| network.trunc()).or_else(address)
    };
    let networks: Option<Vec<IpNet>> = items.map(network).collect();
    networks.filter(|networks| networks.len() <= CLIENT_RANGES_MAX)
}

/// What stands between commas.
pub(super) fn list(text: &str) -> Option<Vec<Arc<str>>> {
    let items: Vec<Arc<str>> =
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Into::into).collect();
    (items.len() <= ITEMS_MAX && items.iter().all(|item| is_visible(item))).then_some(items)
}

/// `scheme://host[:port][/path]`, where `$request_uri` for the path means the client's.
pub(super) fn redirect(text: &str, status: u16) -> Option<Redirect> {
    let (scheme, rest) = text.split_once("://")?;
    if !matches!(scheme, "http" | "https") {
        return None;
    }
    let at = rest.find(['/', '$']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(at);
    let (name, number) = match authority.split_once(':') {
        Some((name, number)) => (name, Some(port(number)?)),
        None => (authority, None),
    };
    let path = match rest {
        "$request_uri" => None,
        "" => Some(PathRewrite::Full("/".into())),
        rest => Some(PathRewrite::Full(path(rest)?)),
    };
    Some(Redirect {
        scheme: Some(scheme.into()),
        host: Some(host(name)?),
        path,
        port: number,
        status,
    })
}

/// `Name value`, one a line; the value may stand in quotes.
pub(super) fn fields(text: &str) -> Option<Vec<(Arc<str>, Arc<str>)>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let fields: Option<Vec<_>> = lines.map(field).collect();
    fields.filter(|fields| fields.len() <= ITEMS_MAX)
}

fn field(line: &str) -> Option<(Arc<str>, Arc<str>)> {
    let (name, value) = line.split_once(char::is_whitespace)?;
    let value = value.trim();
    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    // A percent sign begins an expression of HAProxy's own.
    let usable = is_token(name) && is_visible(value) && !value.contains('%');
    usable.then(|| (name.to_ascii_lowercase().into(), value.into()))
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}
