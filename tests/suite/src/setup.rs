//! What the suite needs from Debian.

use crate::say;
use crate::step::Suite;
use crate::tally::Tally;

/// Commands or files, and the Debian package that has each. Without the first group nothing can
/// be built; without the others, tests are skipped by name.
const NEEDED: &[(&str, &str)] = &[
    ("cc", "build-essential"),
    ("cmake", "cmake"),
    ("clang", "clang"),
    ("pkg-config", "pkg-config"),
    ("/usr/include/libelf.h", "libelf-dev"),
    ("/usr/include/zlib.h", "zlib1g-dev"),
    ("/usr/include/linux/bpf.h", "linux-libc-dev"),
    ("ip", "iproute2"),
    ("sysctl", "procps"),
    ("ethtool", "ethtool"),
    ("bpftool", "bpftool"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("bird", "bird2"),
    ("named", "bind9"),
    ("dig", "bind9-dnsutils"),
    ("nft", "nftables"),
    ("debootstrap", "debootstrap"),
    ("systemd-nspawn", "systemd-container"),
    ("rpm", "rpm"),
    ("man", "man-db"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
];

/// Where Debian keeps programs, also those that are not on everyone's path.
const PLACES: &[&str] = &["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"];

fn is_there(needed: &str) -> bool {
    // Joined to a place, a file by its whole path is that path.
    PLACES.iter().any(|place| std::path::Path::new(place).join(needed).exists())
}

/// Installs what is missing where that may be done, and else says how.
pub(crate) fn packages(suite: &Suite) -> Tally {
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Tally::default();
    }
    let line = format!("apt-get install --yes --no-install-recommends {}", missing.join(" "));
    let done = suite.run("setup", &mut suite.command("sh", &["-c", &as_root(&line)]));
    if done.succeeded {
        return Tally::default();
    }
    say(&format!("Some tests need more Debian packages. Install them with:\n  sudo {line}"));
    Tally::skip(format!("setup: {} could not be installed", missing.join(" ")))
}

/// The line, if this user is root on a Debian; otherwise one that fails.
fn as_root(line: &str) -> String {
    format!(
        "test \"$(id -u)\" = 0 && command -v apt-get >/dev/null && \
         export DEBIAN_FRONTEND=noninteractive && apt-get update --quiet && {line}"
    )
}
