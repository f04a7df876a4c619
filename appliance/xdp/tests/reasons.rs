//! Every reason of the program is documented, and nothing else is.

use std::collections::BTreeSet;

const HEADER: &str = include_str!("../program/reasons.h");
const PAGE: &str = include_str!("../../../docs/reasons.md");

/// The names in `enum reason`, as the documentation writes them.
fn declared() -> Vec<String> {
    let names = HEADER.lines().filter_map(|line| line.trim().strip_prefix("REASON_"));
    names.map(|line| line.split(',').next().unwrap_or_default().to_ascii_lowercase()).collect()
}

/// The first column of every table, and the other two.
fn rows() -> Vec<(String, Vec<String>)> {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    let cells = |row: &str| row.split(" | ").map(str::to_owned).collect::<Vec<_>>();
    rows.map(cells)
        .map(|mut cells| (cells.remove(0).trim_end_matches('`').to_owned(), cells))
        .collect()
}

#[test]
fn every_reason_is_documented_once_and_every_documented_reason_exists() {
    let declared = declared();
    let documented: Vec<String> = rows().into_iter().map(|(name, _)| name).collect();
    assert!(declared.len() > 30, "found only {declared:?}");
    let unique: BTreeSet<_> = documented.iter().cloned().collect();
    assert_eq!(unique.len(), documented.len(), "a reason is documented twice");
    assert_eq!(declared.into_iter().collect::<BTreeSet<_>>(), unique);
}

#[test]
fn every_reason_has_a_meaning_and_says_what_to_do() {
    for (name, cells) in rows() {
        assert_eq!(cells.len(), 2, "{name}");
        assert!(cells.iter().all(|cell| !cell.trim().is_empty()), "{name}");
    }
}

#[test]
fn every_reason_has_words_at_its_number() {
    let worded: Vec<&str> = haflinger_xdp::seeing::REASONS.iter().map(|known| known.name).collect();
    assert_eq!(worded, declared());
    for known in haflinger_xdp::seeing::REASONS {
        assert!(!known.meaning.is_empty() && known.meaning.len() <= 80, "{}", known.name);
    }
}
