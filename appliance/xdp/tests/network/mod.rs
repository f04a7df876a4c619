//! The network of a test run: a client's side and a backends' side, each with a router whose
//! addresses are known. Shared by the test programs that run the program packet by packet.
//!
//! ```text
//!   clients ── router 02::c1 ── front | program | back ── router 02::b1 ── backends
//!   198.51.100.0/24, 2001:db8:c::/48               10.1.0.0/16, fd00:1::/48
//! ```

use std::net::IpAddr;
use std::process::Command;
use std::sync::LazyLock;

use haflinger_xdp::program::types;
use libbpf_rs::{MapCore, MapFlags};
use rustix::thread::UnshareFlags;

use crate::packets::{Ends, frame};

/// Of this host's interfaces, and of the routers behind them.
pub(crate) const FRONT: [u8; 6] = [2, 0, 0, 0, 0, 0x0c];
pub(crate) const CLIENT_ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
pub(crate) const BACK: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
pub(crate) const BACKEND_ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xb1];

/// MTUs of the two sides.
pub(crate) const FRONT_MTU: u32 = 1500;
pub(crate) const BACK_MTU: u32 = 1450;

const NETWORK: &str = "\
    link set lo up
    link add front address 02:00:00:00:00:0c mtu 1500 type veth peer name clients
    link add back address 02:00:00:00:00:0b mtu 1450 type veth peer name backends
    link set clients up
    link set backends up
    link set front up
    link set back up
    addr add 192.0.2.1/24 dev front
    addr add 2001:db8:f::1/64 dev front nodad
    addr add 10.0.0.1/24 dev back
    addr add fd00:f::1/64 dev back nodad
    neigh add 192.0.2.254 lladdr 02:00:00:00:00:c1 dev front
    neigh add 2001:db8:f::fe lladdr 02:00:00:00:00:c1 dev front
    neigh add 10.0.0.254 lladdr 02:00:00:00:00:b1 dev back
    neigh add fd00:f::fe lladdr 02:00:00:00:00:b1 dev back
    route add 198.51.100.0/24 via 192.0.2.254
    -6 route add 2001:db8:c::/48 via 2001:db8:f::fe
    route add 10.1.0.0/16 via 10.0.0.254
    -6 route add fd00:1::/48 via fd00:f::fe";

/// The side that a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Backend,
}

impl Side {
    /// The packet in a frame from that side's router.
    pub(crate) fn entering(self, packet: &[u8]) -> Vec<u8> {
        match self {
            Self::Client => frame(FRONT, CLIENT_ROUTER, &[], packet),
            Self::Backend => frame(BACK, BACKEND_ROUTER, &[], packet),
        }
    }

    /// The packet in a frame to that side's router.
    pub(crate) fn leaving(self, packet: &[u8]) -> Vec<u8> {
        match self {
            Self::Client => frame(CLIENT_ROUTER, FRONT, &[], packet),
            Self::Backend => frame(BACKEND_ROUTER, BACK, &[], packet),
        }
    }

    /// Where packets from that side go on to.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}

/// What the program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: u32,
    pub(crate) reason: &'static str,
    pub(crate) frame: Vec<u8>,
}

/// Lays out the network in the namespace of this thread.
pub(crate) fn lay_out() {
    for line in NETWORK.lines() {
        run("ip", line);
    }
    run("sysctl", "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
}

/// Runs a test in a thread with a network namespace of its own; without the right to one, says so.
/// The test is given its name.
pub(crate) fn in_a_namespace(test: impl FnOnce(&str) + Send + 'static) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let thread = std::thread::spawn(move || {
        // SAFETY: only the network namespace of this thread changes.
        match unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) } {
            Ok(()) => test(&name),
            Err(error) => skipped(&name, &format!("no network namespace of its own: {error}")),
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Says by name that a test was skipped, in the words that are counted.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
pub(crate) fn skipped(name: &str, reason: &str) {
    eprintln!("SKIPPED {name}: {reason}");
}

/// The bytes of a value that the program shares.
pub(crate) fn bytes_of<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: generated from the BTF of a struct of integers; its padding is named.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The value that bytes of a map are.
pub(crate) fn value_of<T: Copy>(bytes: &[u8]) -> T {
    assert!(bytes.len() >= size_of::<T>());
    // SAFETY: there are enough bytes, any of them make a value, and the read needs no alignment.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

/// As the program writes it.
pub(crate) fn address(ip: IpAddr) -> types::address {
    let octets = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    value_of(&octets)
}

/// As the program writes a packet's tuple.
pub(crate) fn key(ends: Ends, protocol: u8) -> types::flow_key {
    types::flow_key {
        source: address(ends.source.ip()),
        destination: address(ends.destination.ip()),
        source_port: ends.source.port().to_be(),
        destination_port: ends.destination.port().to_be(),
        protocol,
        ..Default::default()
    }
}

/// Runs a command within the network of this thread.
pub(crate) fn run(program: &str, arguments: &str) {
    let status = Command::new(program).args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "{program} {arguments}: {status}");
}

/// The index of an interface of this thread's network.
pub(crate) fn index_of(interface: &str) -> u32 {
    let shown = Command::new("ip").args(["-o", "link", "show", interface]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    shown.split(':').next().unwrap().parse().unwrap_or_else(|_| panic!("{interface}: {shown}"))
}

/// Writes an element of a map.
pub(crate) fn put(map: &impl MapCore, key: &[u8], value: &[u8]) {
    map.update(key, value, MapFlags::ANY).unwrap();
}

/// The names of `enum reason`, in its order.
pub(crate) static REASONS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let lines = include_str!("../../program/reasons.h").lines();
    let names = lines.filter_map(|line| line.trim().strip_prefix("REASON_"));
    names.map(|line| line.split(',').next().unwrap()).collect()
});

/// Random packets of a property. An emulated machine is a hundred times slower.
pub(crate) fn cases() -> u32 {
    if std::env::var_os("HAFLINGER_GUEST").is_some() { 10 } else { 300 }
}
