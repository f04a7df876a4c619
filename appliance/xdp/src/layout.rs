//! The version of what program and daemon share: under it the maps are pinned.
//!
//! It is a hash over a description of every type that a map holds, of the numbers that enums give
//! to states, and of the maps themselves, all read from the object's BTF; sizes count apart, since
//! maps of equal types and other sizes can be carried over. What only counts or explains (reasons,
//! traces) does not belong to it: a program with one reason more keeps its flows.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use libbpf_rs::Btf;
use libbpf_rs::btf::types::{Array, DataSec, Enum, Var};
use libbpf_rs::btf::{BtfKind, BtfType, TypeId};
use libbpf_rs::{HasSize as _, ReferencesType as _};

use crate::settings::Capacities;

/// Maps whose content outlives the daemon and its version of the program.
pub(crate) const KEPT: &[&str] = &[
    "flow_index",
    "flows",
    "service_index",
    "services",
    "service_loads",
    "buckets",
    "source_ranges",
    "affinities",
    "backends",
    "backend_loads",
    "backend_counters",
    "sources",
    "interfaces",
    "generation",
    "fragments",
    "identifications",
    "settings",
];

/// Enums whose numbers stand in what is kept.
const STATES: &[&str] =
    &["direction", "mode", "record_state", "phase", "algorithm", "backend_state"];

/// Types of what is kept, and sizes of the maps that keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// `v`, 16 hexadecimal digits for types, `-`, 8 for sizes.
    pub(crate) version: String,
}

impl Layout {
    /// The layout of an object with maps of these sizes.
    pub(crate) fn of(btf: &Btf<'_>, capacities: &Capacities) -> Self {
        let types = fnv(describe(btf).as_bytes());
        let sizes = fnv(format!("{capacities:?}").as_bytes());
        Self { version: format!("v{types:016x}-{:08x}", sizes >> 32) }
    }

    /// Whether another version differs in sizes alone.
    pub(crate) fn has_types_of(&self, version: &str) -> bool {
        version.len() == self.version.len() && version.get(..18) == self.version.get(..18)
    }
}

/// The names of an enum's values by number: what the C sources call them, less the prefix.
pub(crate) fn names_of(btf: &Btf<'_>, name: &str, prefix: &str) -> Vec<(u32, String)> {
    let Some(found) = btf.type_by_name::<Enum<'_>>(name) else { return Vec::new() };
    let values = found.iter().filter_map(|member| {
        let value = u32::try_from(member.value).ok()?;
        let name = member.name?.to_str()?.strip_prefix(prefix)?.to_ascii_lowercase();
        Some((value, name))
    });
    values.collect()
}

/// Every kept map and everything that it holds, as text.
fn describe(btf: &Btf<'_>) -> String {
    let mut text = String::new();
    let mut seen = BTreeSet::new();
    if let Some(maps) = btf.type_by_name::<DataSec<'_>>(".maps") {
        for entry in maps.iter() {
            let Some(var) = btf.type_by_id::<Var<'_>>(entry.ty) else { continue };
            let name = var.name().and_then(|name| name.to_str()).unwrap_or_default();
            if KEPT.contains(&name) {
                let _ = write!(text, "map {name} ");
                describe_type(btf, var.referenced_type().type_id(), &mut seen, &mut text);
            }
        }
    }
    for name in STATES {
        let _ = write!(text, "enum {name} {:?};", names_of(btf, name, ""));
    }
    text
}

fn describe_type(btf: &Btf<'_>, id: TypeId, seen: &mut BTreeSet<String>, text: &mut String) {
    let Some(found) = btf.type_by_id::<BtfType<'_>>(id) else { return };
    let found = found.skip_mods_and_typedefs();
    let name = found.name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let _ = write!(text, "{:?} {name} ", found.kind());
    match found.kind() {
        // A named type is described once; what points at itself would never end.
        BtfKind::Struct | BtfKind::Union if name.is_empty() || seen.insert(name.clone()) => {
            let Ok(composite) = libbpf_rs::btf::types::Composite::try_from(found) else { return };
            let _ = write!(text, "{} {{", composite.size());
            for member in composite.iter() {
                let name = member.name.and_then(|name| name.to_str()).unwrap_or_default();
                let _ = write!(text, "{name} {:?} ", member.attr);
                describe_type(btf, member.ty, seen, text);
            }
            text.push_str("} ");
        }
        BtfKind::Array => {
            let Ok(array) = Array::try_from(found) else { return };
            let _ = write!(text, "{} of ", array.capacity());
            describe_type(btf, array.ty(), seen, text);
        }
        BtfKind::Ptr => {
            if let Some(target) = found.next_type() {
                describe_type(btf, target.type_id(), seen, text);
            }
        }
        _ => {}
    }
}

/// FNV-1a: the same in every build, which the standard library's hash does not promise.
fn fnv(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}
