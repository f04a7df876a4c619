use std::collections::BTreeSet;

use super::*;

/// The shipped default with every commented key set; `without` names keys to leave out.
fn uncommented(without: &[&str]) -> String {
    let lines = DEFAULT.lines().filter_map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.is_empty() || rest.starts_with(' ') => None,
        Some(rest) if without.iter().any(|key| rest.starts_with(&format!("{key} = "))) => None,
        Some(rest) => Some(rest),
        None => Some(line),
    });
    lines.fold(String::new(), |text, line| text + line + "\n")
}

fn defaults() -> Config {
    Config::load(&Sources::text("empty.toml", "")).expect("nothing written is sound").config
}

#[test]
fn the_shipped_default_is_the_configuration_with_nothing_written() {
    let shipped = Config::load(&Sources::text("haflinger.toml", DEFAULT)).expect("sound");
    assert_eq!(shipped.config, defaults());
}

#[test]
fn the_shipped_default_parses_with_every_key_set() {
    let text = uncommented(&[]);
    let file: file::File = toml::from_str(&text).expect("every documented key exists");
    assert_eq!(file.cluster.len(), 1);
    assert_eq!(file.bgp.peer.len(), 1);
}
