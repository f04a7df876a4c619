//! Who may have an address: the order of claims, and what two objects that share one must have
//! in common.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::{Family, FaultReason, ObjectRef, Pool, Protocol, Sharing, SourceFault, SourceId};

/// Objects that share one address at most. Each that comes is compared with all of them.
pub(super) const SHARERS_MAX: usize = 512;

/// Why an object has a claim; the first is the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Strength {
    /// Its status names the address.
    Recorded,
    /// It asks for the address.
    Requested,
    /// The address was chosen for it.
    Chosen,
}

impl Strength {
    pub(super) const ALL: [Self; 3] = [Self::Recorded, Self::Requested, Self::Chosen];
}

/// The order in which claims are looked at: none depends on one that comes later.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    pub(super) strength: Strength,
    /// Age of the object, seconds since 1970.
    pub(super) created_secs: i64,
    pub(super) object: ObjectRef,
}

/// A port on which an object wants to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct WantedPort {
    pub(in super::super) protocol: Protocol,
    pub(in super::super) port: u16,
    /// Of an Ingress: several have their rules on one port.
    pub(in super::super) http: bool,
}

/// On what terms an object holds addresses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) sharing: Option<Arc<Sharing>>,
    /// Sorted.
    pub(super) ports: Vec<WantedPort>,
    /// Written by the operator, who answers for what shares an address.
    pub(super) fixed: bool,
    /// Decides where in a pool it looks first.
    pub(super) hash: u64,
}

impl Terms {
    pub(super) fn new(
        object: &ObjectRef,
        sharing: Option<Arc<Sharing>>,
        mut ports: Vec<WantedPort>,
        fixed: bool,
    ) -> Self {
        ports.sort_unstable();
        ports.dedup();
        let source = object.source.as_str();
        let hash = match &sharing {
            // Who shares should meet.
            Some(sharing) => hash(&[source, "", &sharing.key]),
            None => hash(&[source, &object.namespace, &object.name]),
        };
        Self { sharing, ports, fixed, hash }
    }
}

/// FNV-1a over the parts with a mark behind each, mixed so that the low bits are even: the same
/// on every host and in every release, or objects would be given other addresses.
fn hash(parts: &[&str]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.bytes().chain([0xff]) {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    state = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    state ^ (state >> 33)
}

/// A claim on one address.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) turn: Turn,
    pub(super) terms: Arc<Terms>,
}

impl Claim {
    /// Those with whom the object may share.
    pub(super) fn group(&self) -> Option<Group> {
        Group::of(&self.turn.object, &self.terms)
    }

    /// Why the two cannot be on one address.
    pub(super) fn clash(&self, other: &Self) -> Option<Clash> {
        let (a, b) = (&self.turn.object, &other.turn.object);
        if a == b || self.terms.fixed && other.terms.fixed {
            return None;
        }
        let (Some(ours), Some(theirs)) = (&self.terms.sharing, &other.terms.sharing) else {
            return Some(Clash::Unshared);
        };
        if a.source != b.source || ours.key != theirs.key {
            return Some(Clash::Key);
        }
        let mutual =
            ours.namespaces.include(&b.namespace) && theirs.namespaces.include(&a.namespace);
        if a.namespace != b.namespace && !mutual {
            return Some(Clash::Namespace);
        }
        if ours.backends != theirs.backends {
            return Some(Clash::Backends);
        }
        // What is recorded stays together, and ports go to the older: a changed port must not
        // cost the object its address.
        let recorded = |claim: &Self| claim.turn.strength == Strength::Recorded;
        if recorded(self) && recorded(other) {
            return None;
        }
        common_port(&self.terms.ports, &other.terms.ports).map(Clash::Port)
    }
}

/// A port that two objects cannot both have. Both lists are sorted.
fn common_port(ours: &[WantedPort], theirs: &[WantedPort]) -> Option<WantedPort> {
    let (mut a, mut b) = (ours.iter().peekable(), theirs.iter().peekable());
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        match (x.protocol, x.port).cmp(&(y.protocol, y.port)) {
            std::cmp::Ordering::Less => drop(a.next()),
            std::cmp::Ordering::Greater => drop(b.next()),
            std::cmp::Ordering::Equal if x.http && y.http => drop(a.next()),
            std::cmp::Ordering::Equal => return Some(**x),
        }
    }
    None
}

/// Those with one sharing key in one cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    source: SourceId,
    key: Arc<str>,
}

impl Group {
    pub(super) fn of(object: &ObjectRef, terms: &Terms) -> Option<Self> {
        let key = terms.sharing.as_ref()?.key.clone();
        Some(Self { source: object.source.clone(), key })
    }
}

/// Why two objects cannot be on one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clash {
    /// At least one of them does not share.
    Unshared,
    /// Their sharing keys, or their clusters, differ.
    Key,
    /// One of them does not let the other's namespace in.
    Namespace,
    /// `externalTrafficPolicy: Local` at one of them, or at both with other pods.
    Backends,
    /// Both want this port.
    Port(WantedPort),
    /// As many share it as may.
    Crowded,
}

impl Clash {
    /// What the weaker object is told.
    pub(super) fn fault(self, address: IpAddr, holder: &ObjectRef) -> SourceFault {
        let reason = match self {
            Self::Port(_) => FaultReason::PortTaken,
            _ => FaultReason::AddressTaken,
        };
        let why = match self {
            Self::Unshared => "ask for another one, or give both the same sharing key".to_owned(),
            Self::Key => "it has another sharing key, or is of another cluster: ask for another \
                          one, or write the same key"
                .to_owned(),
            Self::Namespace => "which is of another namespace: both have to name the other's in \
                                haflinger.dev/sharing-namespaces"
                .to_owned(),
            Self::Backends => "with which it cannot be shared: both need externalTrafficPolicy \
                               Cluster, or Local and the same selector"
                .to_owned(),
            Self::Port(port) => {
                format!("which has port {port} of it: choose another port")
            }
            Self::Crowded => {
                format!("and {SHARERS_MAX} objects share it, as many as may: use a second key")
            }
        };
        let separator = if matches!(self, Self::Unshared | Self::Key) { ":" } else { "," };
        SourceFault::new(reason, format!("address {address} belongs to {holder}{separator} {why}"))
    }
}

pub(super) fn reserved(address: IpAddr) -> SourceFault {
    SourceFault::new(
        FaultReason::AddressTaken,
        format!("address {address} is kept for Ingresses (proxy.addresses)"),
    )
}

pub(super) fn unroutable(address: IpAddr) -> SourceFault {
    SourceFault::new(
        FaultReason::AddressOutsidePools,
        format!("address {address} in the status cannot be a VIP and is not served: take it out"),
    )
}

pub(super) fn outside(address: IpAddr, pools: &[Arc<Pool>]) -> SourceFault {
    let names: Vec<&str> = pools.iter().map(|pool| &*pool.name).collect();
    let names = if names.is_empty() { "none configured".to_owned() } else { names.join(", ") };
    SourceFault::new(
        FaultReason::AddressOutsidePools,
        format!(
            "address {address} lies outside every pool ({names}): ask for one inside, or add it \
             to a pool"
        ),
    )
}

pub(super) fn stale(address: IpAddr) -> SourceFault {
    SourceFault::new(
        FaultReason::AddressOutsidePools,
        format!(
            "address {address} lies outside every pool by now and stays in service: add it to a \
             pool, or ask for another one with haflinger.dev/pool or haflinger.dev/address"
        ),
    )
}

pub(super) fn skipped(address: IpAddr, pool: &Pool, stays: bool) -> SourceFault {
    let end = if stays { " and stays in service" } else { "" };
    SourceFault::new(
        FaultReason::AddressOutsidePools,
        format!(
            "address {address} ends in .0 or .255, which pool {:?} leaves out{end}: ask for \
             another one",
            pool.name
        ),
    )
}

pub(super) fn other_pool(address: IpAddr, pool: &Pool, asked: &str) -> SourceFault {
    SourceFault::new(
        FaultReason::AddressOutsidePools,
        format!(
            "address {address} is of pool {:?}, and pool {asked:?} is asked for too: ask for one \
             of the two",
            pool.name
        ),
    )
}

pub(super) fn forbidden(object: &ObjectRef, pool: &Pool, recorded: Option<IpAddr>) -> SourceFault {
    let stays = match recorded {
        Some(address) => format!(" any longer; address {address} stays in service"),
        None => String::new(),
    };
    SourceFault::new(
        FaultReason::PoolForbidden,
        format!(
            "pool {:?} serves other namespaces or labels, not {} {}/{}{stays}: name another pool, \
             or change its namespaces, namespace_labels or service_labels",
            pool.name, object.kind, object.namespace, object.name
        ),
    )
}

pub(super) fn labels_unknown(object: &ObjectRef, pool: &Pool) -> SourceFault {
    SourceFault::new(
        FaultReason::LabelsUnknown,
        format!(
            "pool {:?} chooses by labels, and those of namespace {} or of the object are not \
             known: no address is given before; the account needs to list and watch namespaces",
            pool.name, object.namespace
        ),
    )
}

pub(super) fn other_family(address: IpAddr) -> SourceFault {
    SourceFault::new(
        FaultReason::InvalidAnnotation,
        format!(
            "address {address} is {}, which spec.ipFamilies does not name: add the family, or ask \
             for another address",
            Family::of(address)
        ),
    )
}

/// What was tried for one family.
pub(super) struct Tried<'a> {
    pub(super) family: Family,
    pub(super) asked: Option<&'a Arc<str>>,
    /// Pools that could have served.
    pub(super) eligible: usize,
    /// A pool that serves others only.
    pub(super) forbidding: Option<&'a Pool>,
}

impl Tried<'_> {
    pub(super) fn fault(&self, object: &ObjectRef) -> SourceFault {
        let family = self.family;
        if self.eligible == 0
            && let (Some(_), Some(pool)) = (self.asked, self.forbidding)
        {
            return forbidden(object, pool, None);
        }
        let (reason, message) = match (self.eligible, self.asked) {
            (0, Some(name)) => (
                FaultReason::NoPool,
                format!(
                    "no pool {name:?} with {family} addresses: name another one, or configure it"
                ),
            ),
            (0, None) if self.forbidding.is_some() => (
                FaultReason::NoPool,
                format!(
                    "no automatic pool with {family} addresses serves {} {}/{}: name a pool, or \
                     change their namespaces, namespace_labels or service_labels",
                    object.kind, object.namespace, object.name
                ),
            ),
            (0, None) => (
                FaultReason::NoPool,
                format!("no pool assigns {family} addresses automatically: name a pool"),
            ),
            (_, Some(name)) => (
                FaultReason::PoolFull,
                format!("every {family} address of pool {name:?} is taken: enlarge it"),
            ),
            (_, None) => (
                FaultReason::PoolFull,
                format!("every {family} address of the automatic pools is taken: enlarge one"),
            ),
        };
        SourceFault::new(reason, message)
    }
}

/// Whether packets for an address can be led here by routers at all.
pub(super) fn is_routable(address: IpAddr) -> bool {
    let unroutable = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !(unroutable || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

impl fmt::Display for WantedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}
