//! What should be in DNS, and what is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use serde::Serialize;

use crate::name::RecordName;

/// The kinds of record that are written for host names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RecordKind {
    /// IPv4 address (RFC 1035 section 3.4.1).
    A,
    /// IPv6 address (RFC 3596).
    Aaaa,
}

impl RecordKind {
    /// Both, in the order in which they are written.
    pub const ALL: [Self; 2] = [Self::A, Self::Aaaa];

    /// The kind that holds an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::A } else { Self::Aaaa }
    }

    /// The name of the type in lower case, as ownership names begin with it.
    pub fn label(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::Aaaa => "aaaa",
        }
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
        })
    }
}

/// The records of one name and kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSet {
    /// Time to live in seconds.
    pub ttl_secs: u32,
    /// The addresses, all of the kind's family, never empty.
    pub addresses: BTreeSet<IpAddr>,
}

/// What a host name should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredName {
    /// Addresses of either family.
    pub addresses: BTreeSet<IpAddr>,
    /// Time to live in seconds; the zone's default when absent.
    pub ttl_secs: Option<u32>,
    /// The object that asks for it, as external-dns writes it: `service/NAMESPACE/NAME`.
    pub resource: Arc<str>,
}

/// Everything that should be in DNS. The map is persistent: two versions are compared in
/// proportion to their difference.
#[derive(Clone, Debug, Default)]
pub struct DesiredRecords {
    /// By name.
    pub names: OrdMap<RecordName, Arc<DesiredName>>,
}

/// One TXT record: its character strings (RFC 1035 section 3.3.14).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TxtRecord {
    /// Up to 255 octets each.
    pub strings: Vec<Vec<u8>>,
}

/// Longest character string (RFC 1035 section 3.3).
const STRING_OCTETS_MAX: usize = 255;

impl TxtRecord {
    /// A record that holds a text, cut into strings as the format demands.
    pub fn from_text(text: &str) -> Self {
        Self { strings: text.as_bytes().chunks(STRING_OCTETS_MAX).map(<[u8]>::to_vec).collect() }
    }

    /// The strings joined, where they are UTF-8.
    pub fn text(&self) -> Option<String> {
        String::from_utf8(self.strings.concat()).ok()
    }
}

impl fmt::Debug for TxtRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.strings.concat()))
    }
}

/// What a server holds at one name, as far as a plan looks at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// A records.
    pub a: Option<RecordSet>,
    /// AAAA records.
    pub aaaa: Option<RecordSet>,
    /// TXT records, sorted.
    pub txt: BTreeSet<TxtRecord>,
    /// Types beside which no address may be written: CNAME, DNAME, and NS below the apex.
    pub exclusive: BTreeSet<ExclusiveType>,
}

/// Types that take a name for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ExclusiveType {
    /// An alias (RFC 1034 section 3.6.2).
    Cname,
    /// An alias for everything below (RFC 6672).
    Dname,
    /// A delegation (RFC 1034 section 4.2.1).
    Ns,
}

impl fmt::Display for ExclusiveType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cname => "CNAME",
            Self::Dname => "DNAME",
            Self::Ns => "NS",
        })
    }
}

impl Held {
    /// The records of one kind.
    pub fn set(&self, kind: RecordKind) -> Option<&RecordSet> {
        match kind {
            RecordKind::A => self.a.as_ref(),
            RecordKind::Aaaa => self.aaaa.as_ref(),
        }
    }

    pub(crate) fn set_mut(&mut self, kind: RecordKind) -> &mut Option<RecordSet> {
        match kind {
            RecordKind::A => &mut self.a,
            RecordKind::Aaaa => &mut self.aaaa,
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a server holds in one zone. Names are lower case without a trailing dot; they need not
/// be host names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    names: BTreeMap<Box<str>, Held>,
}

impl Actual {
    /// What is at a name.
    pub fn at(&self, name: &str) -> Option<&Held> {
        self.names.get(name)
    }

    /// Adds one address.
    pub fn add_address(&mut self, name: &str, address: IpAddr, ttl_secs: u32) {
        let set = self.entry(name).set_mut(RecordKind::of(address));
        let set = set.get_or_insert_with(|| RecordSet { ttl_secs, addresses: BTreeSet::new() });
        set.addresses.insert(address);
    }

    /// Adds one TXT record.
    pub fn add_txt(&mut self, name: &str, record: TxtRecord) {
        self.entry(name).txt.insert(record);
    }

    /// Notes a type that excludes addresses.
    pub fn add_exclusive(&mut self, name: &str, kind: ExclusiveType) {
        self.entry(name).exclusive.insert(kind);
    }

    /// Every name that holds anything a plan looks at.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Held)> {
        self.names.iter().map(|(name, held)| (&**name, held))
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Forgets what is at a name.
    pub fn forget(&mut self, name: &str) {
        self.names.remove(name);
    }

    pub(crate) fn edit(&mut self, name: &str, change: impl FnOnce(&mut Held)) {
        change(self.entry(name));
        if self.at(name).is_some_and(Held::is_empty) {
            self.names.remove(name);
        }
    }

    fn entry(&mut self, name: &str) -> &mut Held {
        self.names.entry(name.into()).or_default()
    }
}
