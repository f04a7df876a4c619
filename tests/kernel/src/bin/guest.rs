//! Runs in the guest first and proves the machine itself, so that a failing test of the data
//! path is not searched for there. Speaks like libtest.

use std::io::Write as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};

/// A claim and its proof.
type Claim = (&'static str, fn() -> anyhow::Result<()>);

const CLAIMS: &[Claim] = &[
    ("the_kernel_is_debian_12s", the_kernel_is_debian_12s),
    ("types_of_the_kernel_are_known", types_of_the_kernel_are_known),
    ("a_map_can_be_made", a_map_can_be_made),
    ("devices_and_namespaces_can_be_made", devices_and_namespaces_can_be_made),
];

fn main() -> ExitCode {
    let mut output = std::io::stdout();
    let mut status = ExitCode::SUCCESS;
    for (name, check) in CLAIMS {
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

/// The head of `union bpf_attr` for BPF_MAP_CREATE (include/uapi/linux/bpf.h).
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

fn a_map_can_be_made() -> anyhow::Result<()> {
    const BPF_MAP_CREATE: libc::c_int = 0;
    const BPF_MAP_TYPE_HASH: u32 = 1;
    let attributes =
        MapCreate { map_type: BPF_MAP_TYPE_HASH, key_size: 4, value_size: 8, max_entries: 1024 };
    // SAFETY: the kernel reads the attributes, which live until it returns, and no more of them
    // than their size says.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_CREATE,
            &raw const attributes,
            std::mem::size_of::<MapCreate>(),
        )
    };
    ensure!(descriptor >= 0, "bpf(2): {}", std::io::Error::last_os_error());
    Ok(())
}

fn devices_and_namespaces_can_be_made() -> anyhow::Result<()> {
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
