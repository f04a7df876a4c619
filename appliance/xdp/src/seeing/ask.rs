//! What is asked: which services, which ends of a flow. Checked where it is written.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use haflinger_core::{Protocol, ServiceKey, Snapshot};
use thiserror::Error;

/// A question that cannot be understood, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is not {expected}")]
pub struct AskError {
    /// What was written.
    pub text: String,
    /// What could be.
    pub expected: &'static str,
}

impl AskError {
    fn new(text: &str, expected: &'static str) -> Self {
        Self { text: text.to_owned(), expected }
    }
}

const ENDPOINT: &str = "an address with or without port and protocol: write 192.0.2.1, \
                        192.0.2.1:443, [2001:db8::1]:443 or 192.0.2.1:443/tcp";

const SERVICE: &str = "a service: write NAMESPACE/NAME of its object, or its address as \
                       192.0.2.1:443, [2001:db8::1]:443 or 192.0.2.1:443/tcp";

const SERVICE_KEY: &str = "the address of a service with its protocol: write 192.0.2.1:443/tcp or \
                           [2001:db8::1]:53/udp";

/// An address, of which port and protocol may be left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port; `None`: any.
    pub port: Option<u16>,
    /// The protocol; `None`: any.
    pub protocol: Option<Protocol>,
}

impl Endpoint {
    /// Whether an end of a flow of that protocol is meant.
    pub fn is(&self, end: SocketAddr, protocol: Protocol) -> bool {
        self.address == end.ip()
            && self.port.is_none_or(|port| port == end.port())
            && self.protocol.is_none_or(|known| known == protocol)
    }

    fn parse(text: &str) -> Option<Self> {
        let (place, protocol) = match text.split_once('/') {
            Some((place, protocol)) => (place, Some(protocol_of(protocol)?)),
            None => (text, None),
        };
        let (address, port) = match (place.parse(), place.parse()) {
            (Ok(SocketAddr::V4(v4)), _) => (IpAddr::V4(*v4.ip()), Some(v4.port())),
            (Ok(SocketAddr::V6(v6)), _) => (IpAddr::V6(*v6.ip()), Some(v6.port())),
            (_, Ok(address)) => (address, None),
            _ => return None,
        };
        (port != Some(0)).then(|| Self { address: address.to_canonical(), port, protocol })
    }
}

impl FromStr for Endpoint {
    type Err = AskError;

    fn from_str(text: &str) -> Result<Self, AskError> {
        Self::parse(text).ok_or_else(|| AskError::new(text, ENDPOINT))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.address, port))?,
            None => write!(f, "{}", self.address)?,
        }
        match self.protocol {
            Some(protocol) => write!(f, "/{protocol}"),
            None => Ok(()),
        }
    }
}

fn protocol_of(text: &str) -> Option<Protocol> {
    let known = [Protocol::Tcp, Protocol::Udp];
    known.into_iter().find(|protocol| protocol.to_string() == text.to_ascii_lowercase())
}

/// Services: those of an object, or those at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// Of the object, in whichever cluster.
    Object {
        /// Its namespace; `default` in the inventory.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// At the address, whose port is always there.
    Address(Endpoint),
}

impl FromStr for Chosen {
    type Err = AskError;

    fn from_str(text: &str) -> Result<Self, AskError> {
        if let Some(endpoint) = Endpoint::parse(text) {
            let chosen = endpoint.port.map(|_| Self::Address(endpoint));
            return chosen.ok_or_else(|| AskError::new(text, SERVICE));
        }
        // Kubernetes: a DNS label each (RFC 1123); the inventory allows no more.
        let is_name = |text: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !text.is_empty() && text.len() <= 253 && text.bytes().all(plain)
        };
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => {
                Ok(Self::Object { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(AskError::new(text, SERVICE)),
        }
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object { namespace, name } => write!(f, "{namespace}/{name}"),
            Self::Address(endpoint) => write!(f, "{endpoint}"),
        }
    }
}

impl Chosen {
    /// The services that are meant. At an address also one that is not there (any more): its flows
    /// may be.
    pub(super) fn services(&self, snapshot: &Snapshot) -> Vec<ServiceKey> {
        match self {
            Self::Object { namespace, name } => {
                let theirs = snapshot.services.values().filter(|service| {
                    *service.object.namespace == **namespace && *service.object.name == **name
                });
                theirs.map(|service| service.key).collect()
            }
            Self::Address(Endpoint { address, port, protocol }) => {
                let protocols = [Protocol::Tcp, Protocol::Udp];
                let meant =
                    protocols.into_iter().filter(|known| protocol.is_none_or(|p| p == *known));
                let port = port.unwrap_or_default();
                meant.map(|protocol| ServiceKey { vip: *address, port, protocol }).collect()
            }
        }
    }
}

/// A service's key as it is written: `192.0.2.1:443/tcp`.
///
/// # Errors
///
/// It is something else.
pub fn service_key(text: &str) -> Result<ServiceKey, AskError> {
    match Endpoint::parse(text) {
        Some(Endpoint { address: vip, port: Some(port), protocol: Some(protocol) }) => {
            Ok(ServiceKey { vip, port, protocol })
        }
        _ => Err(AskError::new(text, SERVICE_KEY)),
    }
}

/// A client's end of a flow as it is written: `198.51.100.7:40000`.
///
/// # Errors
///
/// It is something else.
pub fn client(text: &str) -> Result<SocketAddr, AskError> {
    let expected = "a client's address and port: write 198.51.100.7:40000 or [2001:db8::7]:40000";
    match Endpoint::parse(text) {
        Some(Endpoint { address, port: Some(port), protocol: None }) => {
            Ok(SocketAddr::new(address, port))
        }
        _ => Err(AskError::new(text, expected)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood_is_written_the_same() {
        for text in ["192.0.2.1", "192.0.2.1:80", "192.0.2.1:80/udp", "[2001:db8::1]:80", "::1"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["shop/web", "192.0.2.1:80", "[2001:db8::1]:80/tcp"] {
            assert_eq!(text.parse::<Chosen>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn mapped_addresses_are_those_of_ipv4() {
        let endpoint: Endpoint = "[::ffff:192.0.2.1]:80/TCP".parse().unwrap();
        assert_eq!(endpoint.to_string(), "192.0.2.1:80/tcp");
    }

    #[test]
    fn what_is_not_understood_is_told_what_to_write() {
        for text in ["", "web", "192.0.2.1:99999", "192.0.2.1:0", "192.0.2.1:80/sctp", "a b/c"] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("write"), "{error}");
        }
        for text in ["web", "192.0.2.1", "shop/", "/web", "a/b/c", "shop/we b"] {
            assert!(text.parse::<Chosen>().is_err(), "{text}");
        }
        for text in ["192.0.2.1:80", "192.0.2.1/tcp", "shop/web"] {
            assert!(service_key(text).is_err(), "{text}");
        }
        for text in ["192.0.2.1", "192.0.2.1:80/tcp"] {
            assert!(client(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_left_open_is_anything() {
        let any: Endpoint = "192.0.2.1".parse().unwrap();
        let port: Endpoint = "192.0.2.1:80".parse().unwrap();
        let end = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(any.is(end("192.0.2.1:9"), Protocol::Udp));
        assert!(port.is(end("192.0.2.1:80"), Protocol::Tcp));
        assert!(!port.is(end("192.0.2.1:81"), Protocol::Tcp));
        assert!(!any.is(end("192.0.2.2:80"), Protocol::Tcp));
    }
}
