//! The fields by which a backend learns about the client.
//!
//! What a stranger wrote into them is dropped, in every spelling that a backend could read as
//! one of them; only peers that the settings name are believed. Pure.

use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

/// Client addresses, nearest last.
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `http` or `https`, as the client spoke it.
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that the client asked for.
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The port that the client connected to.
pub(crate) const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Longest `X-Forwarded-For` that is taken over from a trusted peer: about 40 addresses. A
/// longer one is replaced.
const FORWARDED_FOR_BYTES_MAX: usize = 2_048;

/// How a request came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    /// The client's address.
    pub(crate) peer: SocketAddr,
    /// The address that it connected to.
    pub(crate) local: SocketAddr,
    /// Whether it spoke TLS.
    pub(crate) tls: bool,
    /// The host field as sent, if any.
    pub(crate) host: Option<&'a HeaderValue>,
}

/// Whether a field speaks for the client's origin: `Forwarded` (RFC 7239), `X-Real-IP`,
/// `X-Forwarded-…`, also with underscores, which CGI-like interfaces cannot tell from hyphens.
pub(crate) fn names_origin(name: &str) -> bool {
    let same = |own: &str| {
        own.len() == name.len()
            && own.bytes().zip(name.bytes()).all(|(a, b)| a == if b == b'_' { b'-' } else { b })
    };
    const PREFIX: &str = "x-forwarded-";
    same("forwarded")
        || same("x-real-ip")
        || same("x-forwarded")
        || name.get(..PREFIX.len()).is_some_and(|start| start.replace('_', "-") == PREFIX)
}

/// Whether what a peer says about its clients is believed.
pub(crate) fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&canonical(peer)))
}

/// The fields to remove from and to set on a request to a backend.
pub(crate) fn forwarding(
    arrival: Arrival<'_>,
    fields: &HeaderMap,
    trusted: &[IpNet],
) -> (Vec<HeaderName>, Vec<(HeaderName, HeaderValue)>) {
    let believed = is_trusted(arrival.peer.ip(), trusted);
    let mut set = vec![(FORWARDED_FOR, forwarded_for(arrival.peer, fields, believed))];
    let scheme = HeaderValue::from_static(if arrival.tls { "https" } else { "http" });
    for (name, value) in [
        (FORWARDED_PROTO, Some(scheme)),
        (FORWARDED_HOST, arrival.host.cloned()),
        (FORWARDED_PORT, Some(HeaderValue::from(arrival.local.port()))),
    ] {
        if let Some(value) = value.filter(|_| !believed || !fields.contains_key(&name)) {
            set.push((name, value));
        }
    }
    let remove = match believed {
        true => Vec::new(),
        false => fields.keys().filter(|name| names_origin(name.as_str())).cloned().collect(),
    };
    (remove, set)
}

/// The one `Cookie` field that HTTP/1 allows, when a client has split it over several, as
/// HTTP/2 lets it (RFC 9113, section 8.2.3).
pub(crate) fn joined_cookies(fields: &HeaderMap) -> Option<HeaderValue> {
    let mut crumbs = fields.get_all(header::COOKIE).iter();
    let (first, second) = (crumbs.next()?, crumbs.next()?);
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    // Bytes of valid values, so this cannot fail.
    HeaderValue::from_bytes(&joined).ok()
}

fn forwarded_for(peer: SocketAddr, fields: &HeaderMap, believed: bool) -> HeaderValue {
    let own = canonical(peer.ip()).to_string();
    let mut chain = String::new();
    if believed {
        for value in fields.get_all(&FORWARDED_FOR) {
            if let Ok(value) = value.to_str() {
                chain.push_str(value);
                chain.push_str(", ");
            }
        }
        if chain.len() > FORWARDED_FOR_BYTES_MAX {
            chain.clear();
        }
    }
    chain.push_str(&own);
    // `to_str` let only visible ASCII through, so this cannot fail; without a chain it is right.
    HeaderValue::from_str(&chain).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// IPv4 clients of a dual-stack socket appear as IPv4.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn apply(mut map: HeaderMap, trusted: &[&str]) -> Vec<(String, String)> {
        let trusted: Vec<IpNet> = trusted.iter().map(|t| t.parse().unwrap()).collect();
        let host = HeaderValue::from_static("Shop.example:8443");
        let arrival = Arrival {
            peer: "[::ffff:192.0.2.7]:5000".parse().unwrap(),
            local: "198.51.100.1:8443".parse().unwrap(),
            tls: true,
            host: Some(&host),
        };
        let (remove, set) = forwarding(arrival, &map, &trusted);
        for name in remove {
            map.remove(name);
        }
        for (name, value) in set {
            map.insert(name, value);
        }
        let mut all: Vec<_> = map
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        all.sort();
        all
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn what_a_stranger_claims_about_itself_is_dropped_in_every_spelling() {
        let claimed = fields(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x_forwarded_for", "10.0.0.1"),
            ("X-Forwarded_Proto", "http"),
            ("x-forwarded-prefix", "/admin"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("x-forward", "kept"),
        ]);
        assert_eq!(
            apply(claimed, &[]),
            pairs(&[
                ("x-forward", "kept"),
                ("x-forwarded-for", "192.0.2.7"),
                ("x-forwarded-host", "Shop.example:8443"),
                ("x-forwarded-port", "8443"),
                ("x-forwarded-proto", "https"),
            ])
        );
    }

    #[test]
    fn a_trusted_peer_is_believed_and_its_chain_extended() {
        let claimed = fields(&[
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "203.0.113.10"),
            ("x-forwarded-proto", "http"),
        ]);
        assert_eq!(
            apply(claimed, &["192.0.2.0/24"]),
            pairs(&[
                ("x-forwarded-for", "203.0.113.9, 203.0.113.10, 192.0.2.7"),
                ("x-forwarded-host", "Shop.example:8443"),
                ("x-forwarded-port", "8443"),
                ("x-forwarded-proto", "http"),
            ])
        );
    }

    #[test]
    fn a_cookie_in_crumbs_is_put_together() {
        let crumbs = fields(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c")]);
        assert_eq!(joined_cookies(&crumbs).unwrap(), "a=1; b=2; c");
        assert_eq!(joined_cookies(&fields(&[("cookie", "a=1; b=2")])), None);
    }

    #[test]
    fn a_chain_beyond_its_limit_is_replaced() {
        let long = "203.0.113.9, ".repeat(200);
        let all = apply(fields(&[("x-forwarded-for", &long)]), &["192.0.2.0/24"]);
        assert_eq!(all[0].1, "192.0.2.7");
    }
}
