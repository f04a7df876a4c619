use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::*;

/// The shipped default with every commented key set; `without` names keys to leave out.
fn uncommented(without: impl Fn(&str, &str) -> bool) -> String {
    let mut section = String::new();
    let mut text = String::new();
    for line in DEFAULT.lines() {
        let line = match line.strip_prefix('#') {
            Some(rest) if rest.is_empty() || rest.starts_with(' ') => continue,
            Some(rest) => rest,
            None => line,
        };
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        }
        let key = line.split(" = ").next().unwrap_or_default();
        if !without(&section, key) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// Every key of the file: section, key, prose before it, value shown.
fn documented() -> Vec<(String, String, String, String)> {
    let mut section = String::new();
    let mut prose = String::new();
    let mut keys = Vec::new();
    for line in DEFAULT.lines() {
        let shown = line.strip_prefix('#').unwrap_or(line);
        if let Some(text) = line.strip_prefix("# ") {
            prose.push_str(text);
            prose.push(' ');
        } else if shown.starts_with('[') {
            section = shown.trim_matches(['[', ']']).to_owned();
            prose.clear();
        } else if let Some((key, value)) = shown.split_once(" = ") {
            keys.push((
                section.clone(),
                key.to_owned(),
                std::mem::take(&mut prose),
                value.to_owned(),
            ));
        } else {
            prose.clear();
        }
    }
    keys
}

/// Section → keys with their default, from the schema.
fn schema_keys() -> BTreeMap<String, BTreeMap<String, Json>> {
    fn walk(
        root: &Json,
        schema: &Json,
        at: &str,
        keys: &mut BTreeMap<String, BTreeMap<String, Json>>,
    ) {
        let definition = |schema: &Json| {
            let name = schema["$ref"].as_str()?.strip_prefix("#/$defs/")?.to_owned();
            Some(root["$defs"][name].clone()).filter(|it| it["properties"].is_object())
        };
        for (name, inner) in schema["properties"].as_object().expect("a table") {
            let path = layer::child(at, name);
            match definition(inner).or_else(|| definition(&inner["items"])) {
                Some(table) => walk(root, &table, &path, keys),
                None => {
                    let section = keys.entry(at.to_owned()).or_default();
                    section.insert(name.clone(), inner["default"].clone());
                }
            }
        }
    }
    let root: Json = serde_json::from_str(&schema()).expect("the schema is JSON");
    let mut keys = BTreeMap::new();
    walk(&root, &root, "", &mut keys);
    keys
}

#[test]
fn the_shipped_default_is_the_configuration_with_nothing_written() {
    assert_eq!(load(DEFAULT).expect("sound").config, defaults());
    let sources = Sources { file: FileSource::Embedded, ..Sources::text("", "") };
    assert_eq!(Config::load(&sources).expect("sound").config, defaults());
}

#[test]
fn the_shipped_default_documents_every_key_of_the_schema_and_no_other() {
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (section, key, ..) in documented() {
        assert!(shown.entry(section.clone()).or_default().insert(key.clone()), "{section}.{key}");
    }
    let wanted: BTreeMap<String, BTreeSet<String>> = schema_keys()
        .into_iter()
        .map(|(section, keys)| (section, keys.into_keys().collect()))
        .collect();
    assert_eq!(shown, wanted);
}

#[test]
fn every_key_states_unit_default_and_cost() {
    for (section, key, prose, _) in documented() {
        for part in ["Unit: ", "Default: ", "Cost: "] {
            assert!(prose.contains(part), "[{section}] {key} does not state its {part:?}: {prose}");
        }
        let timed = key.ends_with("_secs") || key.ends_with("_ms");
        assert_eq!(timed, prose.contains("econds"), "[{section}] {key}: {prose}");
    }
}

#[test]
fn the_defaults_stated_in_prose_are_the_true_ones() {
    let schema = schema_keys();
    for (section, key, prose, shown) in documented() {
        let stated = prose.split("Default: ").nth(1).expect("a default is stated");
        let truth = &schema[&section][&key];
        if truth.is_null() || stated.starts_with("none") {
            // Absent, or computed: the prose says how.
            continue;
        }
        let truth = match truth {
            Json::Array(list) => {
                let list: Vec<String> = list.iter().map(Json::to_string).collect();
                format!("[{}]", list.join(", "))
            }
            other => other.to_string(),
        };
        assert!(stated.starts_with(&format!("{truth}.")), "[{section}] {key}: {stated} / {truth}");
        if truth != "[]" {
            assert_eq!(shown, truth, "[{section}] {key}");
        }
    }
}

#[test]
fn the_ranges_stated_in_prose_are_the_true_ones() {
    let root: Json = serde_json::from_str(&schema()).expect("the schema is JSON");
    let mut checked = 0;
    for (section, key, prose, _) in documented() {
        let table = section.split('.').next_back().expect("split yields a part");
        let name = table[..1].to_uppercase() + &table[1..];
        let field = &root["$defs"][name]["properties"][&key];
        let unit = prose.split("Unit: ").nth(1).expect("a unit is stated");
        let unit = unit.split(". Default:").next().unwrap_or(unit);
        let range = unit.rsplit(", ").next().and_then(|range| range.split_once(" to "));
        if let Some((from, to)) = range.filter(|(from, _)| from.parse::<u64>().is_ok()) {
            assert_eq!(field["minimum"].to_string(), from, "[{section}] {key}");
            assert_eq!(field["maximum"].to_string(), to, "[{section}] {key}");
            checked += 1;
        }
    }
    assert!(checked > 40, "only {checked} ranges were found in the prose");
}

#[test]
fn the_shipped_default_is_sound_with_every_key_set() {
    let home = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        std::fs::write(home.path().join(name), text).expect("a file");
    };
    write("tor-a.password", "secret\n");
    write("example.org.key", "c2VjcmV0\n");
    write("flow-hash.key", "000102030405060708090a0b0c0d0e0f\n");
    write("session-tickets.secret", &"5a".repeat(32));
    let inline = |section: &str, key: &str| {
        matches!((section, key), ("bgp.peer", "password") | ("dns.zone", "key"))
    };
    let text = uncommented(inline).replace("/etc/haflinger", &home.path().display().to_string());
    let config = load(&text).unwrap_or_else(|errors| panic!("{errors}")).config;
    let bgp = config.bgp.expect("there is a peer");
    assert_eq!(bgp.peers[0].password.as_ref().expect("a password").expose(), b"secret");
    let key = config.dns.zones[0].key.as_ref().expect("a key");
    assert_eq!(key.secret.expose(), b"secret");
    let flow_key = config.relay.flow_hash_key.expect("a key").expose();
    assert_eq!(flow_key, *b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f");
    let tickets = config.proxy.session_ticket_secret.expect("a secret");
    assert_eq!(tickets.expose(), [0x5a; 32]);
    assert_eq!(config.pools[0].ranges.len(), 2);
}

#[test]
fn the_manual_page_shows_every_key_and_escapes_what_roff_would_read() {
    let page = manual();
    for (section, key, ..) in documented() {
        assert!(page.contains(&format!("\\fB{key}\\fR = ")), "[{section}] {key}");
    }
    for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
        let request = line.split_whitespace().next().expect("a request");
        assert!([".TH", ".SH", ".TP", ".PP", ".BR"].contains(&request), "{line}");
    }
}

#[test]
fn secrets_are_marked_in_the_schema_and_required_keys_described() {
    let root: Json = serde_json::from_str(&schema()).expect("the schema is JSON");
    assert_eq!(root["$defs"]["Peer"]["properties"]["password"]["writeOnly"], true);
    assert_eq!(root["$defs"]["Zone"]["properties"]["key"]["writeOnly"], true);
    assert_eq!(root["additionalProperties"], false);
    assert_eq!(root["$defs"]["Bgp"]["properties"]["hold_time_secs"]["minimum"], 3);
}
