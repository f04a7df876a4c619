//! The fences between the rooms, as rules on the dependency graph.
//!
//! The graph is what `cargo tree --workspace --depth 1 --prefix depth` prints: each room at
//! depth 0, what it names at depth 1. The rules are pure; running cargo is the tests' part.

use std::fmt;

/// A library, named by the beginning of its crates' names, and the only rooms that may name it.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("kube", &["haflinger-kubernetes", "haflinger-discovery", "haflinger-report"]),
    ("k8s-openapi", &["haflinger-kubernetes", "haflinger-discovery", "haflinger-report"]),
    ("pingora", &["haflinger-proxy"]),
    ("hickory", &["haflinger-dns"]),
    ("trust-dns", &[]),
    ("netgauze", &["haflinger-bgp"]),
    // GPL-3.0: an oracle of the tests, never part of the product.
    ("bgp-rs", &[]),
    ("bgpkit", &[]),
    ("rtnetlink", &["haflinger-netlink"]),
    ("netlink-", &["haflinger-netlink"]),
    ("libbpf", &["haflinger-xdp"]),
    ("smoltcp", &["haflinger-health"]),
    ("figment", &["haflinger-config"]),
    ("clap", &["haflinger-appliance"]),
    ("anyhow", &["haflinger-appliance"]),
];

/// A room and the rooms that it may name.
const ROOMS: &[(&str, &[&str])] = &[
    ("haflinger-core", &[]),
    ("haflinger-bgp", &[]),
    ("haflinger-dns", &[]),
    ("haflinger-config", &[]),
    ("haflinger-kubernetes", &[]),
    ("haflinger-discovery", &["haflinger-core", "haflinger-kubernetes"]),
    ("haflinger-report", &["haflinger-core", "haflinger-kubernetes"]),
    ("haflinger-relay", &["haflinger-core"]),
    ("haflinger-proxy", &["haflinger-core"]),
    ("haflinger-health", &["haflinger-core"]),
    ("haflinger-netlink", &["haflinger-core"]),
    ("haflinger-xdp", &["haflinger-core"]),
    (
        "haflinger-appliance",
        &[
            "haflinger-bgp",
            "haflinger-config",
            "haflinger-core",
            "haflinger-discovery",
            "haflinger-dns",
            "haflinger-health",
            "haflinger-kubernetes",
            "haflinger-netlink",
            "haflinger-proxy",
            "haflinger-relay",
            "haflinger-report",
            "haflinger-xdp",
        ],
    ),
];

/// What is never shipped, and so may name everything (but the appliance, which is a binary).
const TESTS: &[&str] = &[
    "haflinger-tests",
    "haflinger-bench",
    "haflinger-fences",
    "haflinger-kernel-tests",
    "haflinger-suite",
];

/// All that the pure core names: data structures and derives, nothing that could do I/O.
const CORE: &[&str] = &["crc32fast", "imbl", "ipnet", "serde", "siphasher", "thiserror"];

/// A room that knows what it must not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The room.
    pub room: String,
    /// What it names.
    pub names: String,
    /// Why it must not.
    pub why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} names {}: {}", self.room, self.names, self.why)
    }
}

/// Every violation in what `cargo tree` printed.
pub fn violations(tree: &str) -> Vec<Violation> {
    let mut room = "";
    let mut found = Vec::new();
    for line in tree.lines() {
        let name = |text: &'_ str| text.split(' ').next().unwrap_or_default().len();
        if let Some(rest) = line.strip_prefix('0') {
            room = &rest[..name(rest)];
            if !TESTS.contains(&room) && !ROOMS.iter().any(|(known, _)| *known == room) {
                found.push(Violation {
                    room: room.into(),
                    names: "itself".into(),
                    why: "a new room must be entered into the fences".into(),
                });
            }
        } else if let Some(rest) = line.strip_prefix('1')
            && !TESTS.contains(&room)
        {
            found.extend(check(room, &rest[..name(rest)]));
        }
    }
    found
}

fn check(room: &str, names: &str) -> Option<Violation> {
    let violation =
        |why: String| Some(Violation { room: room.to_owned(), names: names.to_owned(), why });
    if names.starts_with("haflinger-") {
        let allowed = ROOMS.iter().find(|(known, _)| *known == room);
        return match allowed {
            Some((_, allowed)) if allowed.contains(&names) => None,
            Some((_, [])) => violation("a leaf names no other room".into()),
            _ => violation("it may not know that room".into()),
        };
    }
    let library = LIBRARIES.iter().find(|(library, _)| names.starts_with(library));
    if let Some((library, only)) = library
        && !only.contains(&room)
    {
        return violation(match only {
            [] => format!("no room may name {library}"),
            only => format!("{library} belongs to {}", only.join(", ")),
        });
    }
    if room == "haflinger-core" && !CORE.contains(&names) {
        return violation("the core is pure and names only what is listed in the fences".into());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tree: &str) -> Vec<String> {
        violations(tree).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_allowed_is_not_reported() {
        let tree = "0haflinger-proxy v0.1.0 (/x)\n1haflinger-core v0.1.0 (/x)\n1pingora-core v0.9\n\
                    \n0haflinger-tests v0.1.0 (/x)\n1kube v5\n1haflinger-bgp v0.1.0\n";
        assert_eq!(found(tree), [""; 0]);
    }

    #[test]
    fn a_room_that_is_in_no_list_is_reported() {
        assert_eq!(
            found("0haflinger-new v0.1.0 (/x)\n"),
            ["haflinger-new names itself: a new room must be entered into the fences"],
        );
    }
}
