//! The documentation against the code: every metric is documented, and nothing else is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a readable directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.components().any(|part| part.as_os_str() == "src")
        {
            found.push(path);
        }
    }
}

/// Names of the form `haflinger_ROOM_…` between the given delimiters.
fn names(text: &str, delimiter: char, found: &mut BTreeSet<String>) {
    for part in text.split(delimiter) {
        let room = part.strip_prefix("haflinger_").and_then(|rest| rest.split_once('_'));
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if room.is_some() && part.bytes().all(plain) {
            found.insert(part.to_owned());
        }
    }
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_exists() {
    let mut files = Vec::new();
    for room in ["appliance", "bgp", "dns", "config"] {
        sources(&root().join(room), &mut files);
    }
    let (mut registered, mut documented) = (BTreeSet::new(), BTreeSet::new());
    for file in files {
        names(&std::fs::read_to_string(file).expect("a readable file"), '"', &mut registered);
    }
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).expect("the page");
    names(&page, '`', &mut documented);
    assert!(registered.len() > 50, "found only {registered:?}");
    assert_eq!(registered, documented);
}
