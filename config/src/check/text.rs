//! Reading addresses, names and secrets from text, with a remedy for each way to get them wrong.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::secret;
use crate::checked::Secret;
use crate::context::Context;
use crate::layer::item;

/// The text of a required key; reported when it is missing or empty.
pub(crate) fn required<'t>(
    context: &mut Context,
    at: &str,
    text: Option<&'t String>,
    remedy: &str,
) -> Option<&'t str> {
    match text {
        Some(text) if text.trim().is_empty() => {
            refuse_once(context, at, "it is empty", remedy);
            None
        }
        Some(text) => Some(text),
        None => {
            context.missing(at, remedy);
            None
        }
    }
}

fn refuse_once(context: &mut Context, at: &str, what: &str, remedy: &str) {
    if !context.is_refused(at) {
        context.refuse(at, what, remedy);
    }
}

/// An IP address that one host can have: neither unspecified, multicast nor IPv4-mapped.
pub(crate) fn address(context: &mut Context, at: &str, text: &str) -> Option<IpAddr> {
    const REMEDY: &str = "write an address such as \"192.0.2.1\" or \"2001:db8::1\"";
    let Ok(address) = text.parse::<IpAddr>() else {
        let remedy = match text.parse::<SocketAddr>() {
            Ok(socket) => format!("leave out the port: \"{}\"", socket.ip()),
            Err(_) if text.contains('%') => "write it without an interface".into(),
            Err(_) => REMEDY.into(),
        };
        refuse_once(context, at, "it is not an IP address", &remedy);
        return None;
    };
    match unusable(address) {
        Some(what) => {
            refuse_once(context, at, &format!("{what} belongs to no host"), REMEDY);
            None
        }
        None => Some(address),
    }
}

/// Why no host can have the address, if so.
pub(crate) fn unusable(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped IPv6 address"),
        _ => None,
    }
}

/// Address and port to listen on.
pub(crate) fn listen(context: &mut Context, at: &str, text: &str) -> Option<SocketAddr> {
    const REMEDY: &str = "write address and port, such as \"127.0.0.1:9410\" or \"[::]:179\"";
    match text.parse::<SocketAddr>() {
        Ok(socket) if socket.port() == 0 => {
            let what = "port 0 would be another port after each start";
            refuse_once(context, at, what, "write a port from 1 to 65535");
            None
        }
        Ok(socket) => Some(socket),
        Err(_) => {
            let remedy = match text.parse::<IpAddr>() {
                Ok(IpAddr::V6(v6)) => format!("add a port: \"[{v6}]:PORT\""),
                Ok(IpAddr::V4(v4)) => format!("add a port: \"{v4}:PORT\""),
                Err(_) => REMEDY.into(),
            };
            refuse_once(context, at, "it is not an address with a port", &remedy);
            None
        }
    }
}

/// A name of lower-case letters, digits and `-`, at most 63 bytes (RFC 1123, section 2.1).
pub(crate) fn label(context: &mut Context, at: &str, text: &str) -> Option<String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if !fits {
        let remedy = "write 1 to 63 lower-case letters, digits and \"-\", such as \"edge-1\"";
        refuse_once(context, at, "it is not a name that fits everywhere", remedy);
        return None;
    }
    Some(text.to_owned())
}

/// A domain name (RFC 1035, section 2.3.4), lower case and without its final dot.
pub(crate) fn domain(context: &mut Context, at: &str, text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let fits = name.len() <= 253
        && name.split('.').all(|part| (1..=63).contains(&part.len()) && part.bytes().all(inner));
    if !fits {
        let remedy = "write labels of letters, digits and \"-\", such as \"example.org\"";
        refuse_once(context, at, "it is not a domain name", remedy);
        return None;
    }
    Some(name)
}

/// Reads each text of a list; what was refused before is left out.
pub(crate) fn each<T>(
    context: &mut Context,
    at: &str,
    texts: &[String],
    read: impl Fn(&mut Context, &str, &str) -> Option<T>,
) -> Vec<(String, T)> {
    let mut values = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let path = item(at, index);
        if context.is_refused(&path) {
            continue;
        }
        if let Some(value) = read(context, &path, text) {
            values.push((path, value));
        }
    }
    values
}

/// A path that is not empty.
pub(crate) fn path(context: &mut Context, at: &str, text: &str) -> Option<PathBuf> {
    if text.is_empty() {
        if !context.is_refused(at) {
            context.refuse(at, "it is empty", "write a path, or take the key out");
        }
        return None;
    }
    if text.contains('\0') {
        context.refuse(at, "no path may hold a zero byte", "write a path without it");
        return None;
    }
    Some(context.resolve(at, text))
}

/// Refuses a value that an earlier entry of the list has already.
pub(crate) struct Distinct<K> {
    what: &'static str,
    seen: BTreeMap<K, String>,
}

impl<K: Ord + Clone + std::fmt::Display> Distinct<K> {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, seen: BTreeMap::new() }
    }

    /// Whether the value is new.
    pub(crate) fn add(&mut self, context: &mut Context, at: &str, value: &K) -> bool {
        let Some(before) = self.seen.get(value) else {
            self.seen.insert(value.clone(), at.to_owned());
            return true;
        };
        let what = format!(
            "{} {value} stands at {before} ({}) already",
            self.what,
            context.whereabouts(before)
        );
        context.refuse(at, &what, "choose another, or take one of the two entries out");
        false
    }
}

/// A secret written in place, or in a file.
pub(crate) fn secret(
    context: &mut Context,
    (inline_at, inline): (&str, Option<&String>),
    (file_at, file): (&str, Option<&String>),
) -> Option<Secret> {
    match (inline, file) {
        (Some(_), Some(_)) => {
            let what = format!("it contradicts {file_at} ({})", context.whereabouts(file_at));
            let keys = (last(inline_at), last(file_at));
            let remedy = format!("keep `{}` and take `{}` out", keys.1, keys.0);
            context.refuse(inline_at, &what, &remedy);
            None
        }
        (Some(text), None) => {
            let remedy =
                format!("put it into a file of mode 0640 and name that in `{}`", last(file_at));
            context.warn(inline_at, "everyone who may read the configuration may read it", &remedy);
            Some(Secret(text.clone().into_bytes()))
        }
        (None, Some(path)) => secret::read(context, file_at, path),
        (None, None) => None,
    }
}

/// The key's own name.
pub(crate) fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Seconds as written.
pub(crate) fn secs(value: u32) -> Duration {
    Duration::from_secs(value.into())
}

/// Milliseconds as written.
pub(crate) fn millis(value: u32) -> Duration {
    Duration::from_millis(value.into())
}

/// A count as written; every platform that we build for has at least 32 bits.
pub(crate) fn count(value: u32) -> usize {
    usize::try_from(value).expect("usize has at least 32 bits")
}
