//! The listeners of a Gateway and its ListenerSets as one list: which of them are distinct, which
//! routes each could take.
//!
//! Within one object those that conflict all lose ("MUST NOT pick one conflicting Listener as the
//! winner"); between objects the one that comes first keeps what it has: the Gateway, then the
//! oldest ListenerSet, then the one whose `namespace/name` comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::conditions::Why;
use crate::{ListenerProtocol, ListenerSpec, ObjectKind, ObjectRef};

/// Listeners of a Gateway with its ListenerSets. The Gateway alone has 64 at most; each section
/// costs a look at every connection's server name, and an entry in several lists.
pub(super) const LISTENERS_MAX: usize = 4096;

/// A listener and what is known of it before anything is attached.
#[derive(Clone, Debug)]
pub(super) struct Merged<'a> {
    /// The Gateway or ListenerSet.
    pub(super) owner: &'a ObjectRef,
    pub(super) spec: &'a ListenerSpec,
    /// Kinds of routes that may attach, sorted as `supportedKinds` shows them.
    pub(super) kinds: Vec<ObjectKind>,
    /// Why it is not accepted.
    pub(super) refusal: Option<Why>,
    /// It is refused for a conflict.
    pub(super) conflicted: bool,
    /// Its host names are also another listener's of the port, and both speak TLS.
    pub(super) overlaps: bool,
    /// References that lead nowhere.
    pub(super) unresolved: Vec<Why>,
    /// It has a certificate that can be used.
    pub(super) certified: bool,
}

/// What is spoken on a port before a host name is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Opening {
    /// HTTP in plain text.
    Plain,
    /// A TLS handshake.
    Tls,
    /// Anything over TCP.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Opening {
    pub(super) fn of(protocol: &ListenerProtocol) -> Option<Self> {
        Some(match protocol {
            ListenerProtocol::Http => Self::Plain,
            ListenerProtocol::Https | ListenerProtocol::Tls => Self::Tls,
            ListenerProtocol::Tcp => Self::Tcp,
            ListenerProtocol::Udp => Self::Udp,
            ListenerProtocol::Other(_) => return None,
        })
    }

    /// Whether several listeners may be told apart by their host names.
    fn has_hosts(self) -> bool {
        matches!(self, Self::Plain | Self::Tls)
    }
}

/// Kinds of routes that a protocol carries, sorted.
fn kinds_of(protocol: &ListenerProtocol) -> &'static [ObjectKind] {
    match protocol {
        // Sorted by their names in the API: GRPCRoute, HTTPRoute.
        ListenerProtocol::Http | ListenerProtocol::Https => {
            &[ObjectKind::GrpcRoute, ObjectKind::HttpRoute]
        }
        ListenerProtocol::Tls => &[ObjectKind::TlsRoute],
        ListenerProtocol::Tcp => &[ObjectKind::TcpRoute],
        ListenerProtocol::Udp => &[ObjectKind::UdpRoute],
        ListenerProtocol::Other(_) => &[],
    }
}

/// Which of `allowedRoutes.kinds` can be had, and which cannot.
fn route_kinds(spec: &ListenerSpec) -> (Vec<ObjectKind>, Option<Why>) {
    let carried = kinds_of(&spec.protocol);
    if spec.allowed_kinds.is_empty() {
        return (carried.to_vec(), None);
    }
    let mut kinds: Vec<ObjectKind> = carried.to_vec();
    kinds.retain(|kind| spec.allowed_kinds.iter().any(|allowed| allowed.as_ref() == Ok(kind)));
    let refused = spec.allowed_kinds.iter().filter_map(|allowed| match allowed {
        Ok(kind) if carried.contains(kind) => None,
        Ok(kind) => Some(kind.api_kind()),
        Err(other) => Some(&**other),
    });
    let refused: Vec<&str> = refused.collect();
    let why = (!refused.is_empty()).then(|| {
        let names = refused.join(", ");
        let message = format!("allowedRoutes.kinds: {names} cannot attach to this protocol");
        Why::new("InvalidRouteKinds", message)
    });
    (kinds, why)
}

/// What the listeners accepted so far hold of one port and transport.
#[derive(Default)]
struct Port<'a> {
    opening: Option<Opening>,
    hosts: BTreeSet<Option<&'a Arc<str>>>,
}

type Ports<'a> = BTreeMap<(u16, bool), Port<'a>>;

fn place(spec: &ListenerSpec, opening: Opening) -> (u16, bool) {
    (spec.port, opening == Opening::Udp)
}

fn protocol_conflict(port: u16) -> Why {
    let message = format!("another listener has port {port} with another protocol");
    Why::new("ProtocolConflict", message)
}

fn hostname_conflict(spec: &ListenerSpec) -> Why {
    let host = spec.hostname.as_deref().unwrap_or("every host");
    let message = format!("another listener has port {} for {host}", spec.port);
    Why::new("HostnameConflict", message)
}

/// One list of all listeners, objects in their order of precedence.
pub(super) fn merge<'a>(
    objects: impl IntoIterator<Item = (&'a ObjectRef, &'a [ListenerSpec])>,
) -> Vec<Merged<'a>> {
    let mut ports = Ports::new();
    let mut merged: Vec<Merged<'a>> = Vec::new();
    for (owner, listeners) in objects {
        let before: Vec<Option<Why>> =
            listeners.iter().map(|spec| conflict_before(spec, &ports)).collect();
        for (spec, conflict) in listeners.iter().zip(conflicts(listeners, before)) {
            let (kinds, invalid_kinds) = route_kinds(spec);
            let mut listener = Merged {
                owner,
                spec,
                kinds,
                refusal: None,
                conflicted: false,
                overlaps: false,
                unresolved: invalid_kinds.into_iter().collect(),
                certified: false,
            };
            let full = merged.len() >= LISTENERS_MAX;
            listener.judge(conflict, &mut ports, full);
            merged.push(listener);
        }
    }
    mark_overlaps(&mut merged);
    merged
}

impl<'a> Merged<'a> {
    fn judge(&mut self, conflict: Option<Why>, ports: &mut Ports<'a>, full: bool) {
        let Some(opening) = Opening::of(&self.spec.protocol) else {
            let ListenerProtocol::Other(name) = &self.spec.protocol else { return };
            let message =
                format!("protocol {name} is not served: use HTTP, HTTPS, TLS, TCP or UDP");
            self.refusal = Some(Why::new("UnsupportedProtocol", message));
            return;
        };
        if let Some(why) = conflict {
            self.conflicted = true;
            self.refusal = Some(why);
            return;
        }
        if full {
            let message =
                format!("a Gateway and its ListenerSets have {LISTENERS_MAX} listeners at most");
            self.refusal = Some(Why::new("TooManyListeners", message));
            return;
        }
        let port = ports.entry(place(self.spec, opening)).or_default();
        port.opening = Some(opening);
        port.hosts.insert(self.spec.hostname.as_ref());
    }

    /// Whether it is served, as far as the objects say.
    pub(super) fn is_accepted(&self) -> bool {
        self.refusal.is_none()
    }

    /// Whether clients greet it with TLS.
    pub(super) fn speaks_tls(&self) -> bool {
        Opening::of(&self.spec.protocol) == Some(Opening::Tls)
    }
}

/// What stands against a listener on the part of the objects that come before its own.
fn conflict_before(spec: &ListenerSpec, ports: &Ports<'_>) -> Option<Why> {
    let opening = Opening::of(&spec.protocol)?;
    let port = ports.get(&place(spec, opening))?;
    if port.opening != Some(opening) || !opening.has_hosts() {
        return Some(protocol_conflict(spec.port));
    }
    port.hosts.contains(&spec.hostname.as_ref()).then(|| hostname_conflict(spec))
}

/// What stands against each listener of one object: on the part of the objects `before` it, or else
/// of the object's others. One that has lost to an earlier object stands against nobody.
fn conflicts(listeners: &[ListenerSpec], before: Vec<Option<Why>>) -> Vec<Option<Why>> {
    let mut openings: BTreeMap<(u16, bool), Vec<Opening>> = BTreeMap::new();
    let mut hosts: BTreeMap<(u16, bool, Option<&Arc<str>>), usize> = BTreeMap::new();
    for (spec, _) in listeners.iter().zip(&before).filter(|(_, lost)| lost.is_none()) {
        let Some(opening) = Opening::of(&spec.protocol) else { continue };
        let (port, udp) = place(spec, opening);
        openings.entry((port, udp)).or_default().push(opening);
        *hosts.entry((port, udp, spec.hostname.as_ref())).or_default() += 1;
    }
    let conflict = |spec: &ListenerSpec| {
        let opening = Opening::of(&spec.protocol)?;
        let (port, udp) = place(spec, opening);
        let there = &openings[&(port, udp)];
        let mixed = there.iter().any(|other| *other != opening);
        if mixed || !opening.has_hosts() && there.len() > 1 {
            return Some(protocol_conflict(port));
        }
        (hosts[&(port, udp, spec.hostname.as_ref())] > 1).then(|| hostname_conflict(spec))
    };
    let both = listeners.iter().zip(before);
    both.map(|(spec, before)| before.or_else(|| conflict(spec))).collect()
}

/// Finds listeners of one port that speak TLS and whose host names overlap: a connection for one
/// may be used again by its client for the other (RFC 9113, section 9.1.1).
fn mark_overlaps(merged: &mut [Merged<'_>]) {
    let mut hosts: BTreeMap<(u16, Arc<str>), Vec<usize>> = BTreeMap::new();
    let every: Arc<str> = "*".into();
    for (at, listener) in merged.iter().enumerate() {
        if listener.is_accepted() && listener.speaks_tls() {
            let host = listener.spec.hostname.clone().unwrap_or_else(|| every.clone());
            hosts.entry((listener.spec.port, host)).or_default().push(at);
        }
    }
    let mut overlapping = BTreeSet::new();
    for ((port, host), at) in &hosts {
        let mut wider = wildcards_over(host).into_iter();
        wider.by_ref().for_each(|wildcard| {
            if let Some(others) = hosts.get(&(*port, wildcard)) {
                overlapping.extend(at.iter().chain(others).copied());
            }
        });
    }
    for at in overlapping {
        merged[at].overlaps = true;
    }
}

/// Every host name with a wildcard that also stands for `host`, `*` at last.
fn wildcards_over(host: &str) -> Vec<Arc<str>> {
    if host == "*" {
        return Vec::new();
    }
    let mut wider = Vec::new();
    let mut rest = host.strip_prefix("*.").unwrap_or(host);
    while let Some((_, suffix)) = rest.split_once('.') {
        wider.push(format!("*.{suffix}").into());
        rest = suffix;
    }
    wider.push("*".into());
    wider
}
