//! The fences hold in this checkout, and each of them notices a planted violation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use haflinger_fences::violations;

/// A library or room that `room` must not know, as it would be written into its manifest.
const PLANTED: &[(&str, &str, &str)] = &[
    ("appliance/core", "tokio", "haflinger-core names tokio: the core is pure"),
    ("appliance/core", "haflinger-bgp", "haflinger-core names haflinger-bgp: a leaf"),
    ("appliance/relay", "kube", "haflinger-relay names kube: kube belongs to"),
    ("appliance/relay", "k8s-openapi", "haflinger-relay names k8s-openapi: k8s-openapi belongs"),
    ("appliance", "kube", "haflinger-appliance names kube: kube belongs to"),
    ("appliance", "pingora-core", "haflinger-appliance names pingora-core: pingora belongs"),
    ("appliance/health", "pingora-proxy", "haflinger-health names pingora-proxy: pingora belongs"),
    ("appliance/discovery", "hickory-proto", "haflinger-discovery names hickory-proto: hickory"),
    ("dns", "netgauze-bgp-pkt", "haflinger-dns names netgauze-bgp-pkt: netgauze belongs"),
    ("bgp", "hickory-proto", "haflinger-bgp names hickory-proto: hickory belongs"),
    ("appliance", "rtnetlink", "haflinger-appliance names rtnetlink: rtnetlink belongs"),
    ("appliance", "libbpf-rs", "haflinger-appliance names libbpf-rs: libbpf belongs"),
    ("appliance/relay", "smoltcp", "haflinger-relay names smoltcp: smoltcp belongs to"),
    ("appliance", "bgp-rs", "haflinger-appliance names bgp-rs: no room may name bgp-rs"),
    ("appliance/health", "anyhow", "haflinger-health names anyhow: anyhow belongs"),
    ("appliance", "figment", "haflinger-appliance names figment: figment belongs"),
    ("bgp", "haflinger-core", "haflinger-bgp names haflinger-core: a leaf names no other room"),
    ("dns", "haflinger-config", "haflinger-dns names haflinger-config: a leaf names no other"),
    ("config", "haflinger-core", "haflinger-config names haflinger-core: a leaf names no other"),
    ("appliance/relay", "haflinger-proxy", "haflinger-relay names haflinger-proxy: it may not"),
    ("appliance/proxy", "haflinger-dns", "haflinger-proxy names haflinger-dns: it may not"),
];

/// A line of code that the pure core must not have, and what clippy says about it.
const IMPURE: &[(&str, &str)] = &[
    ("let _ = std::time::Instant::now();", "method `std::time::Instant::now`"),
    ("let _ = std::time::SystemTime::now();", "method `std::time::SystemTime::now`"),
    ("let _: Option<std::time::Instant> = None;", "type `std::time::Instant`"),
    ("let _ = std::fs::read(\"/dev/null\");", "method `std::fs::read`"),
    ("let _ = std::fs::File::open(\"/dev/null\");", "type `std::fs::File`"),
    ("let _ = std::net::TcpStream::connect(\"[::1]:1\");", "type `std::net::TcpStream`"),
    ("let _ = std::net::UdpSocket::bind(\"[::1]:0\");", "type `std::net::UdpSocket`"),
    ("let _ = std::env::var(\"HOME\");", "method `std::env::var`"),
    ("std::thread::sleep(std::time::Duration::ZERO);", "method `std::thread::sleep`"),
    ("let _ = std::thread::spawn(|| ());", "method `std::thread::spawn`"),
    ("let _ = std::hash::RandomState::new();", "type `std::hash::RandomState`"),
    ("let _ = std::collections::HashMap::<u8, u8>::new();", "type `std::collections::HashMap`"),
    ("let _ = std::process::Command::new(\"true\");", "type `std::process::Command`"),
];

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("this package is two levels below the checkout")
        .to_path_buf()
}

fn cargo(directory: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(directory)
        .env("CARGO_TERM_COLOR", "never")
        .output()
        .expect("cargo runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

/// What each room names, for linking or building: what only tests name is not shipped.
fn tree(directory: &Path) -> String {
    let arguments = [
        "tree",
        "--workspace",
        "--depth",
        "1",
        "--prefix",
        "depth",
        "--edges",
        "normal,build",
        "--no-dedupe",
        "--offline",
    ];
    let (worked, shown) = cargo(directory, &arguments);
    assert!(worked, "{shown}");
    shown
}

/// Copies what belongs to the checkout, without what was built.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a readable directory") {
        let entry = entry.expect("an entry");
        let name = entry.file_name();
        let built = ["target", ".git", "bin", "corpus", "artifacts"];
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            let sources = from.ends_with("src");
            if sources || !built.iter().any(|skipped| name == **skipped) {
                copy(&entry.path(), &to.join(name));
            }
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(name)).expect("a copy");
        }
    }
}

fn copied() -> tempfile::TempDir {
    let copied = tempfile::tempdir().expect("a directory");
    copy(&checkout(), copied.path());
    copied
}

fn dependency(name: &str) -> String {
    format!("[dependencies]\n{name}.workspace = true\n")
}

#[test]
fn no_room_knows_what_it_must_not_know() {
    let found = violations(&tree(&checkout()));
    let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{}", shown.join("\n"));
}

#[test]
fn every_planted_dependency_is_caught() {
    let copied = copied();
    for (room, name, report) in PLANTED {
        let manifest = copied.path().join(room).join("Cargo.toml");
        let sound = fs::read_to_string(&manifest).expect("a manifest");
        let planted = if sound.contains("[dependencies]\n") {
            sound.replacen("[dependencies]\n", &dependency(name), 1)
        } else {
            sound.clone() + &dependency(name)
        };
        fs::write(&manifest, planted).expect("the manifest is written");
        let found = violations(&tree(copied.path()));
        fs::write(&manifest, sound).expect("the manifest is written");
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(
            shown.iter().any(|violation| violation.starts_with(report)),
            "{name} in {room} was not caught: {shown:?}",
        );
    }
}

#[test]
fn every_planted_impurity_of_the_core_is_caught() {
    let copied = copied();
    let source = copied.path().join("appliance/core/src");
    let mut planted = String::from("//! Planted.\n");
    for (index, (line, _)) in IMPURE.iter().enumerate() {
        planted += &format!("/// Planted.\npub fn planted{index}() {{\n    {line}\n}}\n");
    }
    fs::write(source.join("planted.rs"), planted).expect("a file");
    let library = source.join("lib.rs");
    let sound = fs::read_to_string(&library).expect("a file");
    fs::write(&library, sound + "\npub mod planted;\n").expect("a file");
    // The dependencies of the core are few: they are built beside the copy.
    let arguments = ["clippy", "--package", "haflinger-core", "--offline", "--lib"];
    let (_, shown) = cargo(copied.path(), &arguments);
    for (line, report) in IMPURE {
        assert!(shown.contains(&format!("disallowed {report}")), "{line} was not caught:\n{shown}");
    }
}
