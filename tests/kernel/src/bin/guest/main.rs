//! Runs in the guest first and proves the machine itself, so that a failing test of the data
//! path is not searched for there. Speaks like libtest, and like it takes names of claims to try
//! those alone; the tests of the packages try some under the daemon's unit.

mod bpf;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};

/// A claim and its proof.
type Claim = (&'static str, fn() -> anyhow::Result<()>);

const CLAIMS: &[Claim] = &[
    ("the_kernel_is_debian_12s", the_kernel_is_debian_12s),
    ("types_of_the_kernel_are_known", types_of_the_kernel_are_known),
    ("a_map_and_a_program_can_be_pinned", a_map_and_a_program_can_be_pinned),
    ("devices_and_namespaces_can_be_made", devices_and_namespaces_can_be_made),
];

fn main() -> ExitCode {
    let mut output = std::io::stdout();
    let mut status = ExitCode::SUCCESS;
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    for (name, check) in CLAIMS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let result = match check() {
            Ok(()) => "ok".to_owned(),
            Err(error) => {
                status = ExitCode::FAILURE;
                format!("FAILED\n{error:#}")
            }
        };
        let _ = writeln!(output, "test {name} ... {result}");
    }
    status
}

fn the_kernel_is_debian_12s() -> anyhow::Result<()> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    ensure!(release.starts_with("6.1.") && release.contains("cloud"), "it is {release}");
    Ok(())
}

fn types_of_the_kernel_are_known() -> anyhow::Result<()> {
    let btf = std::fs::read("/sys/kernel/btf/vmlinux").context("no BTF")?;
    ensure!(btf.starts_with(&[0x9f, 0xeb]), "BTF of another byte order");
    ensure!(std::fs::metadata("/sys/fs/bpf")?.is_dir(), "no BPF file system");
    Ok(())
}

fn a_map_and_a_program_can_be_pinned() -> anyhow::Result<()> {
    let folder = Path::new("/sys/fs/bpf/haflinger");
    // Where the daemon's unit is in force, it is there already and writable.
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let map = bpf::map().context("a map")?;
    let program = bpf::program().context("a program")?;
    for (name, what) in [("map", map), ("program", program)] {
        let path = folder.join(name);
        bpf::pin(&what, &path).with_context(|| path.display().to_string())?;
        fs::remove_file(&path)?;
    }
    Ok(())
}

fn devices_and_namespaces_can_be_made() -> anyhow::Result<()> {
    // What is made here goes with the machine, and must not be made on another.
    ensure!(std::env::var_os("HAFLINGER_GUEST").is_some(), "this is not the guest");
    ip("netns add other")?;
    ip("link add here type veth peer name there netns other")?;
    ip("netns exec other ip link set there up")?;
    for link in [
        "dummy9 type dummy",
        "bond9 type bond",
        "ipip9 type ipip local 192.0.2.1 remote 192.0.2.2",
        "tunnel9 type ip6tnl mode ip6ip6 local 2001:db8::1 remote 2001:db8::2",
        "here.7 link here type vlan id 7",
    ] {
        ip(&format!("link add {link}"))?;
    }
    ip("link del here")?;
    ip("netns del other")
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("ip")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {error}");
    Ok(())
}
