//! No decision depends on the wall clock: it may jump, and differs from host to host. Every place
//! where the product reads it is known, and only shows it to people, writes it into a record that
//! people read, or has to by a protocol.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Ways to the wall clock.
const WAYS: [&str; 9] = [
    "SystemTime::now",
    "Timestamp::now",
    "Zoned::now",
    "Utc::now",
    "Local::now",
    "ClockId::Realtime",
    "CLOCK_REALTIME",
    "ktime_get_real",
    "bpf_ktime_get_tai",
];

/// Where it is read, how often, and what for.
const READS: [(&str, usize, &str); 14] = [
    ("appliance/discovery/src/status.rs", 2, "metrics: last event, credentials loaded"),
    ("appliance/kubernetes/src/plugin.rs", 1, "how much is left of an exec credential's life"),
    ("appliance/proxy/src/access/outlet.rs", 1, "time of a syslog message"),
    ("appliance/proxy/src/engine/fast/ended.rs", 1, "time of a line of the access log"),
    (
        "appliance/proxy/src/engine/gateway/admit.rs",
        1,
        "times of tokens (RFC 7519) and of sessions",
    ),
    ("appliance/proxy/src/engine/gateway/log.rs", 1, "time of a line of the access log"),
    ("appliance/proxy/src/proxy.rs", 2, "ends of certificates and OCSP responses (RFC 5280, 6960)"),
    ("appliance/report/src/gate/requests.rs", 2, "renewTime, lastTransitionTime of a gate"),
    ("appliance/report/src/lease.rs", 1, "acquireTime and renewTime, which the election ignores"),
    ("appliance/report/src/object.rs", 3, "times of events, lastTransitionTime of conditions"),
    ("appliance/report/src/status.rs", 1, "metrics: credentials loaded"),
    ("bgp/src/driver/peer/mod.rs", 4, "status: since when, and when a NOTIFICATION came"),
    ("dns/src/driver/connection.rs", 1, "TSIG: Time Signed (RFC 8945 section 5.2)"),
    ("dns/src/driver/worker.rs", 1, "status: last time in step"),
];

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Sources of the product below a folder, without their tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "tests" | "target" | "testing" | "test-data") {
                sources(&path, found);
            }
        } else if matches!(path.extension().and_then(|e| e.to_str()), Some("rs" | "c" | "h"))
            && !name.ends_with("tests.rs")
        {
            found.push(path);
        }
    }
}

/// Reads of the wall clock in a source, up to its tests.
fn reads(text: &str) -> usize {
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code = product.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.map(|line| WAYS.iter().map(|way| line.matches(way).count()).sum::<usize>()).sum()
}

#[test]
fn every_read_of_the_wall_clock_is_known_and_decides_nothing() {
    let root = checkout();
    let mut files = Vec::new();
    for room in ["appliance", "bgp", "config", "dns"] {
        sources(&root.join(room), &mut files);
    }
    let mut found = BTreeMap::new();
    for path in files {
        let count = reads(&std::fs::read_to_string(&path).unwrap());
        if count > 0 {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            found.insert(name, count);
        }
    }
    let known: BTreeMap<String, usize> =
        READS.iter().map(|(file, count, _)| ((*file).to_owned(), *count)).collect();
    assert_eq!(found, known, "a read of the wall clock came or went: decide by Instant instead");
}

#[test]
fn a_read_is_found_in_code_and_not_in_words() {
    assert_eq!(reads("let at = SystemTime::now();"), 1);
    assert_eq!(reads("// as SystemTime::now() says\nlet at = Instant::now();"), 0);
    assert_eq!(reads("fn a() {}\n#[cfg(test)]\nmod tests {\n    Timestamp::now()\n}\n"), 0);
}
