//! Probes through VIPs, in network namespaces of their own.
//!
//! ```text
//! ┌─ namespace of the test's thread ─┐      ┌─ namespace "backend" ────────────────────┐
//! │ lo: the VIPs, as the daemon      │ veth │ eth0: 10.2.0.2, 2001:db8:2::2            │
//! │     binds them                   ├──────┤ takes IP-in-IP off; a server on every    │
//! │ p0: 10.2.0.1, 2001:db8:2::1      │      │ address; lo: the VIPs, where it has them │
//! └──────────────────────────────────┘      └──────────────────────────────────────────┘
//! ```
//!
//! 1. A backend that serves on the VIP passes, whatever the families of VIP and backend are.
//! 2. One that serves at its own address but lacks the VIP fails, and comes back with the VIP.
//! 3. A refusal and a wrong answer are told apart from silence.
//! 4. Where this host does not have the VIP, and so takes answers for its own, nothing of it
//!    disturbs the probe.
//! 5. A backend has to answer on each of its ways.
//! 6. Without CAP_NET_RAW nothing is said about the backend, and the status says what is missing.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::health::Health;
use haflinger_core::{
    HealthCheck, HealthCheckKind, ObjectRef, ProbeKey, ProbeWay, ProxyProtocol, Snapshot, SourceId,
    Update,
};
use haflinger_health::{Prober, ProberHandle, Settings};
use prometheus::Registry;
use rustix::fs::CWD;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{
    CapabilitySet, LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

const BACKENDS: [&str; 2] = ["10.2.0.2", "2001:db8:2::2"];
const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
const PORT: u16 = 8080;

/// Runs a test in namespaces of its own, or says loudly why not.
fn in_namespaces<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let reason = "needs root to make network namespaces";
        let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
        return;
    }
    let thread = std::thread::spawn(|| {
        // SAFETY: the thread shares neither its network nor its mounts with any other that counts
        // on them; it was made for this.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        std::fs::create_dir_all("/run/netns").unwrap();
        mount("none", "/run/netns", "tmpfs", MountFlags::empty(), None).unwrap();
        run("ip netns add backend; ip link set lo up; ip -n backend link set lo up
             ip link add p0 type veth peer name eth0 netns backend
             ip addr add 10.2.0.1/24 dev p0; ip addr add 2001:db8:2::1/64 dev p0 nodad
             ip -n backend addr add 10.2.0.2/24 dev eth0
             ip -n backend addr add 2001:db8:2::2/64 dev eth0 nodad
             ip link set p0 up; ip -n backend link set eth0 up
             ip netns exec backend sysctl -qw net.ipv4.conf.all.rp_filter=0 \\
                 net.ipv4.conf.lo.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0");
        vips("", "add");
        vips("-n backend", "add");
        within_backend(decapsulate);
        within_backend(serve);
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
}

/// Gives or takes both VIPs.
fn vips(place: &str, verb: &str) {
    let [v4, v6] = VIPS;
    run(&format!("ip {place} addr {verb} {v4}/32 dev lo; ip {place} addr {verb} {v6}/128 dev lo"));
}

/// Starts `work` on a thread of the backend's namespace.
fn within_backend(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let path = Path::new("/run/netns/backend");
        let file = rustix::fs::openat(CWD, path, flags, rustix::fs::Mode::empty()).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work();
    })
    .join()
    .unwrap();
}

/// Takes outer headers off, and gives what was inside to the kernel by way of loopback.
fn decapsulate() {
    for (outer, inner) in [(4, 4), (4, 41), (6, 4), (6, 41)] {
        let domain = |v: i32| if v == 4 { Domain::IPV4 } else { Domain::IPV6 };
        let raw = |domain, protocol| {
            Socket::new(domain, Type::RAW, Some(Protocol::from(protocol))).unwrap()
        };
        let mut from = raw(domain(outer), inner);
        // IPPROTO_RAW: packets are sent with the header that they have.
        let to = raw(domain(if inner == 4 { 4 } else { 6 }), 255);
        std::thread::spawn(move || {
            let mut packet = vec![0; 65_536];
            while let Ok(length) = from.read(&mut packet) {
                // IPv4 comes with its header.
                let inside = &packet[if outer == 4 { 20 } else { 0 }..length];
                let destination: IpAddr = if inner == 4 {
                    Ipv4Addr::from(<[u8; 4]>::try_from(&inside[16..20]).unwrap()).into()
                } else {
                    Ipv6Addr::from(<[u8; 16]>::try_from(&inside[24..40]).unwrap()).into()
                };
                // Without the VIP there may be no route for it.
                let _ = to.send_to(inside, &SockAddr::from(SocketAddr::new(destination, 0)));
            }
        });
    }
}

/// Answers requests for `/healthz` on every address, and on the next port nothing but `/other`.
fn serve() {
    for (port, path) in [(PORT, "/healthz"), (PORT + 1, "/other")] {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut request = 0;
                let mut buffer = [0; 4096];
                while !buffer[..request].ends_with(b"\r\n\r\n") {
                    match stream.read(&mut buffer[request..]) {
                        Ok(count @ 1..) => request += count,
                        _ => break,
                    }
                }
                let asked = format!("GET {path} ");
                let found = buffer.starts_with(asked.as_bytes());
                let status = if found { "200 OK" } else { "404 Not Found" };
                // Much more than is read of it.
                let answer = format!("HTTP/1.1 {status}\r\n\r\n{}", "x".repeat(20_000));
                let _ = stream.write_all(answer.as_bytes());
            }
        });
    }
}

struct Lab {
    handle: ProberHandle,
    registry: Registry,
    snapshots: watch::Sender<Arc<Snapshot>>,
    updates: mpsc::Receiver<Update>,
}

impl Lab {
    fn start() -> Self {
        let registry = Registry::new();
        let prober = Prober::new(Settings { probes_in_flight_max: 64 }, &registry).unwrap();
        let handle = prober.handle();
        let (snapshots, receiver) = watch::channel(Arc::default());
        let (sender, updates) = mpsc::channel(64);
        tokio::spawn(prober.run(receiver, sender, CancellationToken::new()));
        Self { handle, registry, snapshots, updates }
    }

    fn probe(&self, probes: impl IntoIterator<Item = (SocketAddr, Vec<ProbeWay>)>) {
        let probes = probes.into_iter().map(|(backend, ways)| {
            let object = ObjectRef::service(&SourceId::inventory(), "default", "web");
            (ProbeKey { object, backend }, Arc::new(check(ways)))
        });
        let probes = probes.collect();
        self.snapshots.send_replace(Arc::new(Snapshot { probes, ..Snapshot::default() }));
    }

    /// Waits for the word that `backend` is healthy, or is not.
    async fn until(&mut self, backend: SocketAddr, wanted: bool) {
        let next = async {
            loop {
                let Some(Update::Health { probe, healthy }) = self.updates.recv().await else {
                    panic!("no update");
                };
                if (probe.backend, healthy) == (backend, Some(wanted)) {
                    return;
                }
            }
        };
        let came = tokio::time::timeout(Duration::from_secs(30), next).await;
        assert!(came.is_ok(), "{backend} never {wanted}: {:#?}", self.handle.status());
    }

    /// Ends every probe, and waits for it: the next is another then, of which news comes.
    async fn forget(&self) {
        self.probe([]);
        while !self.handle.status().probes.is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn failure(&self) -> String {
        let status = self.handle.status();
        status.probes.iter().find_map(|probe| probe.last_failure.clone()).unwrap_or_default()
    }

    fn packets(&self, outcome: &str) -> f64 {
        let families = self.registry.gather();
        let name = "haflinger_health_tunnel_packets_total";
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        let of = metrics.iter().filter(|one| one.get_label()[0].value() == outcome);
        of.map(|one| one.get_counter().get_value()).sum()
    }
}

fn check(ways: Vec<ProbeWay>) -> HealthCheck {
    HealthCheck {
        kind: HealthCheckKind::Http { path: "/healthz".into(), host: None },
        port: None,
        proxy_protocol: ProxyProtocol::Off,
        interval_ms: 100,
        timeout_ms: 1500,
        rise: 1,
        fall: 1,
        ways,
    }
}

fn backend(family: usize, port: u16) -> SocketAddr {
    SocketAddr::new(BACKENDS[family].parse().unwrap(), port)
}

fn through(family: usize) -> ProbeWay {
    ProbeWay::Through(VIPS[family].parse().unwrap())
}

#[test]
fn a_backend_that_serves_on_the_vip_passes_whatever_the_families() {
    in_namespaces(|| async {
        let mut lab = Lab::start();
        for outer in [0, 1] {
            for inner in [0, 1] {
                lab.probe([(backend(outer, PORT), vec![through(inner)])]);
                lab.until(backend(outer, PORT), true).await;
                let status = lab.handle.status();
                assert_eq!(status.probes[0].through, [VIPS[inner].parse::<IpAddr>().unwrap()]);
                lab.forget().await;
            }
        }
        assert!(lab.packets("received") >= 8.0 && lab.packets("sent") >= 12.0);
    });
}

#[test]
fn a_backend_without_the_vip_fails_though_it_serves_at_its_own_address() {
    in_namespaces(|| async {
        let mut lab = Lab::start();
        for family in [0, 1] {
            let asked = backend(family, PORT);
            lab.probe([(asked, vec![through(family)])]);
            lab.until(asked, true).await;
            vips("-n backend", "del");
            lab.until(asked, false).await;
            let failure = lab.failure();
            assert!(failure.starts_with(&format!("through {}: ", VIPS[family])), "{failure}");
            assert!(failure.contains("hold the VIP"), "{failure}");
            // Its own address goes on serving.
            lab.probe([(asked, vec![])]);
            lab.until(asked, true).await;
            lab.probe([(asked, vec![through(family)])]);
            lab.until(asked, false).await;
            vips("-n backend", "add");
            lab.until(asked, true).await;
            lab.forget().await;
        }
    });
}

#[test]
fn a_refusal_and_a_wrong_answer_are_no_silence() {
    in_namespaces(|| async {
        let mut lab = Lab::start();
        for family in [0, 1] {
            for (port, said) in [(PORT + 1, "status 404"), (PORT + 2, "connection refused")] {
                lab.probe([(backend(family, port), vec![through(family)])]);
                lab.until(backend(family, port), false).await;
                let failure = lab.failure();
                assert!(failure.ends_with(said), "{failure}");
                lab.forget().await;
            }
        }
    });
}

#[test]
fn a_host_without_the_vip_does_not_answer_for_the_probe() {
    in_namespaces(|| async {
        let mut lab = Lab::start();
        vips("", "del");
        // What the kernel would say to the VIP goes to the backend.
        run("ip route add 192.0.2.10 via 10.2.0.2; ip route add 2001:db8::10 via 2001:db8:2::2");
        for family in [0, 1] {
            lab.probe([(backend(family, PORT), vec![through(family)])]);
            lab.until(backend(family, PORT), true).await;
        }
        // No reset went out to end it: the kernel counts what it sends.
        let counted = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let rows: Vec<&str> = counted.lines().filter(|line| line.starts_with("Tcp:")).collect();
        let at = rows[0].split_whitespace().position(|name| name == "OutRsts").unwrap();
        assert_eq!(rows[1].split_whitespace().nth(at), Some("0"));
    });
}

#[test]
fn a_backend_has_to_answer_on_each_of_its_ways() {
    in_namespaces(|| async {
        let mut lab = Lab::start();
        let asked = backend(0, PORT);
        lab.probe([(asked, vec![ProbeWay::Direct, through(0), through(1)])]);
        lab.until(asked, true).await;
        run(&format!("ip -n backend addr del {}/128 dev lo", VIPS[1]));
        lab.until(asked, false).await;
        assert!(lab.failure().starts_with(&format!("through {}", VIPS[1])), "{}", lab.failure());
        lab.probe([(asked, vec![ProbeWay::Direct, through(0)])]);
        lab.until(asked, true).await;
    });
}

#[test]
fn many_probes_at_once_keep_apart() {
    in_namespaces(|| async {
        let lab = Lab::start();
        let good: Vec<SocketAddr> = vec![backend(0, PORT), backend(1, PORT)];
        let bad: Vec<SocketAddr> = (1..30).map(|more| backend(0, PORT + more)).collect();
        let ways = vec![through(0), through(1)];
        lab.probe(good.iter().chain(&bad).map(|backend| (*backend, ways.clone())));
        let as_it_is = || {
            let status = lab.handle.status();
            let judged = |probe: &haflinger_health::ProbeStatus| match probe.health {
                Health::Unknown => None,
                known => Some(good.contains(&probe.backend) == (known == Health::Healthy)),
            };
            let judged: Option<Vec<bool>> = status.probes.iter().map(judged).collect();
            judged.map(|judged| judged.into_iter().all(|right| right))
        };
        let waited = async {
            while as_it_is() != Some(true) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let came = tokio::time::timeout(Duration::from_secs(60), waited).await;
        assert!(came.is_ok(), "{:#?}", lab.handle.status());
    });
}

#[test]
fn without_the_capability_nothing_is_said_about_the_backend() {
    in_namespaces(|| async {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_RAW);
        sets.permitted.remove(CapabilitySet::NET_RAW);
        sets.inheritable.remove(CapabilitySet::NET_RAW);
        rustix::thread::set_capabilities(None, sets).unwrap();
        let mut lab = Lab::start();
        lab.probe([(backend(0, PORT), vec![through(0)]), (backend(1, PORT), vec![])]);
        // Others go on, and what the one lacks is said.
        lab.until(backend(1, PORT), true).await;
        let hindered = async {
            loop {
                let status = lab.handle.status();
                let hindrance = status.probes.iter().find_map(|probe| probe.hindrance.clone());
                if let Some(hindrance) = hindrance {
                    return (hindrance, status);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), hindered).await;
        let (hindrance, status) = waited.unwrap();
        assert!(hindrance.contains("give it CAP_NET_RAW"), "{hindrance}");
        assert_eq!(status.probes[0].health, Health::Unknown);
    });
}
