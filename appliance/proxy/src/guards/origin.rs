//! Whose request it is, behind proxies that are trusted. Pure.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

use crate::headers::{FORWARDED_FOR, is_trusted};

/// Addresses that are looked at, from the end. More hops than a path through proxies has.
const HOPS_MAX: usize = 32;

/// The client: the peer itself, or, where that is a trusted proxy, the last one in
/// `X-Forwarded-For` that is not. What cannot be read ends the search at the proxy that wrote it.
pub(crate) fn client(peer: IpAddr, fields: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !is_trusted(client, trusted) {
        return client;
    }
    let values: Vec<&str> =
        fields.get_all(&FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let hops = values.iter().rev().flat_map(|value| value.rsplit(',')).take(HOPS_MAX);
    for hop in hops {
        let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
        client = address.to_canonical();
        if !is_trusted(client, trusted) {
            break;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn found(peer: &str, values: &[&'static str]) -> String {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(FORWARDED_FOR, HeaderValue::from_static(value));
        }
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        client(peer.parse().unwrap(), &fields, &trusted).to_string()
    }

    #[test]
    fn a_stranger_is_itself_whatever_it_claims() {
        assert_eq!(found("192.0.2.1", &["203.0.113.9"]), "192.0.2.1");
        assert_eq!(found("::ffff:192.0.2.1", &[]), "192.0.2.1");
    }

    #[test]
    fn behind_trusted_proxies_the_last_stranger_counts() {
        assert_eq!(found("10.0.0.1", &["198.51.100.7, 203.0.113.9, 10.0.0.2"]), "203.0.113.9");
        assert_eq!(found("10.0.0.1", &["198.51.100.7", "203.0.113.9"]), "203.0.113.9");
        assert_eq!(found("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(found("10.0.0.1", &["10.0.0.3"]), "10.0.0.3");
    }

    #[test]
    fn what_cannot_be_read_ends_the_search() {
        assert_eq!(found("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"]), "10.0.0.2");
    }
}
