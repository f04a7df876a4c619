//! A host between clients and pods, in namespaces of its own.
//!
//! ```text
//!   client 10.1.0.2 ── c0 10.1.0.1  [ edge ]  p0 10.2.0.1 ── 10.2.0.2 ... pod
//!                                    VIP 192.0.2.10
//! ```
//!
//! Each test runs on a thread that has left for a network and a mount namespace of its own; what
//! it starts inherits them, and all of it is gone with the thread.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::flow::FlowHashKey;
use haflinger_core::forwarding::{ForwardingTable, TableView};
use haflinger_core::{
    Algorithm, Backend, BackendSet, BackendState, ConnectionLimits, DEFAULT_WEIGHT, Family,
    FlowTimeouts, ForwardingMode, ObjectRef, Protocol, ProxyProtocol, Service, ServiceKey,
    Snapshot, SourceId, Target, Update,
};
use haflinger_xdp::{AttachMode, AttachWish, Capacities, Settings, Xdp, XdpHandle};
use rustix::fs::CWD;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const VIP: &str = "192.0.2.10";
pub(crate) const POD: &str = "10.2.0.2";

/// Runs a test in namespaces of its own, or says loudly why not.
pub(crate) fn in_namespaces<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
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
        mount("none", "/sys/fs/bpf", "bpf", MountFlags::empty(), None).unwrap();
        topology();
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

/// Runs a command that must succeed.
pub(crate) fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn topology() {
    run("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0
         ip link set lo up
         for end in client pod; do ip netns add $end; ip -n $end link set lo up; done
         ip link add c0 type veth peer name eth0 netns client
         ip link add p0 type veth peer name eth0 netns pod
         ip addr add 10.1.0.1/24 dev c0; ip addr add 10.2.0.1/24 dev p0
         ip link set c0 up; ip link set p0 up
         ip -n client addr add 10.1.0.2/24 dev eth0; ip -n pod addr add 10.2.0.2/24 dev eth0
         ip -n client link set eth0 up; ip -n pod link set eth0 up
         ip -n client route add default via 10.1.0.1; ip -n pod route add default via 10.2.0.1
         ip netns exec client ethtool -K eth0 gro on >/dev/null
         ip netns exec pod ethtool -K eth0 gro on >/dev/null
         ethtool -K c0 tx off >/dev/null; ethtool -K p0 tx off >/dev/null
         ip netns exec client ethtool -K eth0 tx off >/dev/null
         ip netns exec pod ethtool -K eth0 tx off >/dev/null");
}

/// Whether the compiler of other owners' programs is here; says so when it is not.
pub(crate) fn can_compile(test: &str) -> bool {
    let compiles = Command::new("clang").arg("--version").output().is_ok();
    if !compiles {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: clang is not here");
    }
    compiles
}

/// Another owner's program on an interface, attached the way that `ip` does.
pub(crate) fn foreign_program(interface: &str) {
    run(&format!(
        "cd $(mktemp -d)
         printf '%s\\n' '__attribute__((section(\"xdp\"), used)) int stranger(void *c) {{ return 2; }}' \
             'char LICENSE[] __attribute__((section(\"license\"), used)) = \"GPL\";' > x.c
         clang -O2 -g -target bpf -c x.c -o x.o
         ip link set dev {interface} xdpdrv obj x.o sec xdp"
    ));
}

/// Runs `work` on a thread in a namespace.
pub(crate) fn within<T: Send + 'static>(
    namespace: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let thread = std::thread::spawn(move || {
        enter(namespace);
        work()
    });
    thread.join().unwrap()
}

pub(crate) fn enter(namespace: &str) {
    let path = Path::new("/run/netns").join(namespace);
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, rustix::fs::Mode::empty()).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// A server in the pod that sends back what it reads, until the test's end.
pub(crate) fn echo(address: SocketAddr) {
    let listener = within("pod", move || TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// A connection from the client.
pub(crate) async fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let connecting = move || {
        within("client", move || {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            Ok(stream)
        })
    };
    tokio::task::spawn_blocking(connecting).await.unwrap()
}

/// Sends a line and reads it back.
pub(crate) async fn ask(stream: &TcpStream, line: &'static str) {
    let mut stream = stream.try_clone().unwrap();
    let asking = move || {
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = vec![0; line.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, line.as_bytes());
    };
    tokio::task::spawn_blocking(asking).await.unwrap();
}

pub(crate) fn settings() -> Settings {
    Settings {
        enabled: true,
        interfaces: vec!["c0".into(), "p0".into()],
        attach: AttachWish::Auto,
        pin_dir: PathBuf::from("/sys/fs/bpf/haflinger"),
        flow_hash_key: FlowHashKey(*b"a key for tests!"),
        capacities: Capacities {
            opening_flows: 1024,
            established_flows: 4096,
            services: 64,
            backends: 16_384,
            buckets: 1 << 21,
            source_ranges: 64,
            affinities: 1024,
            fragments: 1024,
        },
        new_flows_rate: 0,
        nat_addresses: Vec::new(),
        nat_ports: 1024..=65_535,
    }
}

pub(crate) fn vip(port: u16) -> SocketAddr {
    SocketAddr::new(VIP.parse().unwrap(), port)
}

/// A service on the VIP with these backends.
pub(crate) fn service(port: u16, members: &[SocketAddr]) -> Service {
    service_with(port, members, ForwardingTable::new(weighted(members)).view())
}

pub(crate) fn weighted(members: &[SocketAddr]) -> impl Iterator<Item = (SocketAddr, u32)> {
    members.iter().map(|member| (*member, DEFAULT_WEIGHT))
}

pub(crate) fn service_with(
    port: u16,
    members: &[SocketAddr],
    table: TableView<SocketAddr>,
) -> Service {
    let object = ObjectRef::service(&SourceId::inventory(), "default", "web");
    let mut backends: Vec<Backend> = members
        .iter()
        .map(|address| Backend {
            address: *address,
            name: address.to_string().into(),
            node: None,
            zone: None,
            weight: DEFAULT_WEIGHT,
            backup: false,
            state: BackendState::Active,
            reasons: Vec::new(),
        })
        .collect();
    backends.sort_by_key(|backend| backend.address);
    let target =
        Target { object: object.clone(), port, protocol: Protocol::Tcp, family: Family::V4 };
    Service {
        key: ServiceKey { vip: VIP.parse::<IpAddr>().unwrap(), port, protocol: Protocol::Tcp },
        object,
        mode: ForwardingMode::Nat,
        asked_mode: ForwardingMode::Nat,
        mode_reason: None,
        algorithm: Algorithm::Hash,
        limits: ConnectionLimits::default(),
        timeouts: FlowTimeouts::default(),
        source_ranges: Vec::new(),
        proxy_protocol: ProxyProtocol::Off,
        backends: Arc::new(BackendSet { target, backends, table }),
    }
}

/// A running data path.
pub(crate) struct Running {
    pub(crate) handle: XdpHandle,
    pub(crate) updates: mpsc::Receiver<Update>,
    /// Words on services that came while a word on the whole was awaited.
    words: VecDeque<Update>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Running {
    /// Starts it with these services, and waits until it says that it forwards or why not.
    pub(crate) async fn start(settings: Settings, services: &[Service]) -> (Self, Option<String>) {
        let mut running = Self::begin(settings, services);
        let fault = running.next_fault().await;
        (running, fault)
    }

    /// Starts it with these services.
    pub(crate) fn begin(settings: Settings, services: &[Service]) -> Self {
        let xdp = Xdp::new(settings, &prometheus::Registry::new()).unwrap();
        let handle = xdp.handle();
        let (snapshots, seen) = watch::channel(Arc::new(snapshot(services)));
        let (told, updates) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let task = tokio::spawn(xdp.run(seen, told, stop.clone()));
        Self { handle, updates, words: VecDeque::new(), snapshots, task, stop }
    }

    /// The next word on whether packets are forwarded.
    pub(crate) async fn next_fault(&mut self) -> Option<String> {
        loop {
            match self.updates.recv().await.expect("the data path runs") {
                Update::Datapath { fault } => return fault.map(|fault| fault.to_string()),
                word => self.words.push_back(word),
            }
        }
    }

    /// The next word on whether a service has room.
    pub(crate) async fn next_word(&mut self, port: u16) -> Option<String> {
        loop {
            let word = match self.words.pop_front() {
                Some(word) => word,
                None => self.updates.recv().await.expect("the data path runs"),
            };
            match word {
                Update::Forwarding { service, refused } if service.port == port => {
                    return refused.map(|reason| reason.to_string());
                }
                _ => continue,
            }
        }
    }

    /// Interfaces that have the program, and how.
    pub(crate) fn attached(&self) -> Vec<(String, AttachMode)> {
        let interfaces = self.handle.status().interfaces.into_iter();
        interfaces.filter_map(|one| Some((one.name, one.attached?.mode))).collect()
    }

    pub(crate) async fn until_attached(&mut self, name: &str) {
        while !self.attached().iter().any(|(known, _)| known == name) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Live flows of a service.
    pub(crate) fn connections(&self, port: u16) -> Option<u32> {
        let services = self.handle.status().services.into_iter();
        services.filter(|one| one.service.port == port).map(|one| one.connections).next()
    }

    /// Waits until so many backends of a service have not left it.
    pub(crate) async fn until_backends(&self, port: u16, count: usize) {
        let held = || {
            let services = self.handle.status().services.into_iter();
            let service = services.into_iter().find(|one| one.service.port == port);
            service.map(|one| one.backends.iter().filter(|backend| !backend.left).count())
        };
        while held() != Some(count) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a service has left.
    pub(crate) async fn until_left(&self, port: u16) {
        let left = || {
            let services = self.handle.status().services.into_iter();
            services.into_iter().any(|one| one.service.port == port && one.left)
        };
        while !left() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn publish(&self, services: &[Service]) {
        self.snapshots.send_replace(Arc::new(snapshot(services)));
    }

    /// Stops it as the daemon does.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// Ends it without a word, as a crash would.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

pub(crate) fn snapshot(services: &[Service]) -> Snapshot {
    let services = services.iter().map(|service| (service.key, Arc::new(service.clone())));
    Snapshot { generation: 1, complete: true, services: services.collect(), ..Default::default() }
}
