//! A proxy on loopback, fed with snapshots built by hand, and small backends behind it.
//!
//! Every test has an address of its own in 127.0.0.0/8, so that tests run at once without
//! meeting. Conditions are waited for with generous bounds; nothing is timed.

pub mod backend;
pub mod client;
pub mod grpc;
pub mod guarded;
pub mod issuer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use haflinger_core::flow::FlowHashKey;
use haflinger_core::forwarding::ForwardingTable;
use haflinger_core::{
    Backend, BackendSet, BackendState, CertificateRef, CertificateSpec, Family, Filter, HostMatch,
    HttpListener, HttpRule, IngressTls, ObjectKind, ObjectRef, PathMatch, Protocol, RuleAction,
    RuleBackend, Section, SectionRef, SectionTls, Serves, Snapshot, SourceId, StreamRule, Target,
    Update, Upstream,
};
use haflinger_proxy::{ListenerState, Proxy, ProxyHandle, Settings};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything that must happen: far beyond what a loaded machine takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running proxy. Dropping it stops it.
pub struct Lab {
    pub address: SocketAddr,
    pub handle: ProxyHandle,
    pub snapshot: Snapshot,
    pub updates: mpsc::Receiver<Update>,
    pub registry: prometheus::Registry,
    settings: Settings,
    snapshots: watch::Sender<Arc<Snapshot>>,
    pub shutdown: CancellationToken,
    running: Option<JoinHandle<()>>,
}

impl Lab {
    /// A proxy with defaults.
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// A proxy whose settings `change` has changed.
    pub fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new(FlowHashKey(*b"0123456789abcdef"));
        settings.workers = std::num::NonZeroUsize::new(2).unwrap();
        settings.drain_timeout = PATIENCE;
        change(&mut settings);
        let registry = prometheus::Registry::new();
        let proxy = Proxy::new(settings.clone(), &registry).unwrap();
        let handle = proxy.handle();
        let (snapshots, receiver) = watch::channel(Arc::new(Snapshot::default()));
        let (sender, updates) = mpsc::channel(16);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(proxy.run(receiver, sender, shutdown.clone()));
        Self {
            address: free_address(),
            handle,
            snapshot: Snapshot::default(),
            updates,
            registry,
            settings,
            snapshots,
            shutdown,
            running: Some(running),
        }
    }

    /// Publishes `self.snapshot` and waits until it is served and every listener is bound.
    pub async fn publish(&mut self) {
        self.publish_unbound().await;
        until("every listener is bound", || {
            self.handle.status().listeners.iter().all(|l| l.state == ListenerState::Bound)
        })
        .await;
    }

    /// Publishes `self.snapshot` and waits until it is served.
    pub async fn publish_unbound(&mut self) {
        self.snapshot.generation += 1;
        self.snapshots.send_replace(Arc::new(self.snapshot.clone()));
        until("the snapshot is served", || {
            self.handle.status().generation == self.snapshot.generation
        })
        .await;
    }

    /// Serves `rules` on the lab's address.
    pub fn listen(&mut self, rules: Vec<HttpRule>) {
        let listener = HttpListener::simple(None, rules);
        self.snapshot.http.insert(self.address, Arc::new(listener));
    }

    /// Serves `rules` by TLS on the lab's address.
    pub fn listen_tls(&mut self, rules: Vec<HttpRule>, certificates: Vec<IngressTls>) {
        let listener = HttpListener::simple(Some(certificates), rules);
        self.snapshot.http.insert(self.address, Arc::new(listener));
    }

    /// Serves these sections by TLS on the lab's address.
    pub fn listen_sections(&mut self, sections: Vec<Section>) {
        let listener = HttpListener { tls: true, sections };
        self.snapshot.http.insert(self.address, Arc::new(listener));
    }

    /// Serves these sections without TLS on the lab's address.
    pub fn listen_plain_sections(&mut self, sections: Vec<Section>) {
        let listener = HttpListener { tls: false, sections };
        self.snapshot.http.insert(self.address, Arc::new(listener));
    }

    /// Gives a target these active backends.
    pub fn backends(&mut self, name: &str, addresses: &[SocketAddr]) {
        let set = backend_set(name, addresses);
        self.snapshot.targets.insert(target(name), Arc::new(set));
    }

    /// Puts certificate material into the snapshot.
    pub fn certificate(&mut self, name: &str, spec: CertificateSpec) {
        self.snapshot.certificates.insert(certificate_ref(name), Arc::new(spec));
    }

    /// Changes settings while it runs.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.handle.reconfigure(self.settings.clone()).unwrap();
    }

    /// One rule for everything, to backends called `shop`.
    pub async fn serve_all(&mut self, addresses: &[SocketAddr]) {
        self.backends("shop", addresses);
        self.listen(vec![rule(None, "/", Some("shop"))]);
        self.publish().await;
    }

    /// `http://address/path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits for the end of a graceful stop.
    pub async fn stopped(&mut self) {
        let running = self.running.take().unwrap();
        tokio::time::timeout(PATIENCE, running).await.expect("the proxy did not stop").unwrap();
    }

    /// The sum of all series of a metric whose labels include `label`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        metrics
            .iter()
            .filter(|m| label.is_empty() || m.get_label().iter().any(|l| l.value() == label))
            .map(|m| m.get_counter().get_value() + m.get_gauge().get_value())
            .sum()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        panic!("gave up waiting until {what}");
    }
}

/// An address of 127.0.0.0/8 that no other test of this run has.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    let [_, _, high, low] = pid.to_be_bytes();
    SocketAddr::from(([127, 1 + high % 250, low, u8::try_from(n).unwrap()], 18_080))
}

pub fn target(name: &str) -> Target {
    let object = ObjectRef::service(&SourceId::inventory(), "default", name);
    Target { object, port: 80, protocol: Protocol::Tcp, family: Family::V4 }
}

pub fn certificate_ref(name: &str) -> CertificateRef {
    CertificateRef { source: SourceId::inventory(), namespace: "default".into(), name: name.into() }
}

/// A prefix rule.
pub fn rule(host: Option<&str>, path: &str, to: Option<&str>) -> HttpRule {
    let host = HostMatch::of_ingress(host.map(Into::into).as_ref());
    let object = ObjectRef::ingress(&SourceId::inventory(), "default", "site");
    HttpRule::simple(host, PathMatch::Prefix(path.into()), to.map(target), object)
}

/// A listener of a Gateway that serves HTTP by TLS.
pub fn section(host: HostMatch, certificates: Vec<IngressTls>, rules: Vec<HttpRule>) -> Section {
    let tls = Some(SectionTls { certificates, client: None });
    Section { origin: Some(origin()), host, tls, serves: Serves::Requests(rules) }
}

pub fn origin() -> SectionRef {
    let source = SourceId::inventory();
    let object = ObjectRef::of_kind(&source, ObjectKind::Gateway, "default", "edge");
    SectionRef { object, name: "listener".into() }
}

/// A listener of a Gateway that serves HTTP without TLS.
pub fn plain_section(host: HostMatch, rules: Vec<HttpRule>) -> Section {
    Section { origin: Some(origin()), host, tls: None, serves: Serves::Requests(rules) }
}

/// A rule for every host with any action.
pub fn route(path: &str, action: RuleAction) -> HttpRule {
    HttpRule { action: Arc::new(action), ..rule(None, path, None) }
}

/// An action with these filters, to one backend.
pub fn action(to: &str, filters: Vec<Filter>) -> RuleAction {
    RuleAction { backends: vec![weighted(1, to)], filters, ..RuleAction::default() }
}

/// A backend with a weight.
pub fn weighted(weight: u32, to: &str) -> RuleBackend {
    RuleBackend { weight, to: Ok(Upstream::plain(target(to))), filters: Vec::new() }
}

pub fn tls_entry(name: &str, hosts: &[&str]) -> IngressTls {
    IngressTls {
        hosts: hosts.iter().map(|host| (*host).into()).collect(),
        certificate: certificate_ref(name),
    }
}

pub fn backend_set(name: &str, addresses: &[SocketAddr]) -> BackendSet {
    let mut backends: Vec<Backend> = addresses
        .iter()
        .map(|address| Backend {
            address: *address,
            name: address.to_string().into(),
            node: None,
            zone: None,
            weight: 100,
            backup: false,
            state: BackendState::Active,
            reasons: Vec::new(),
        })
        .collect();
    backends.sort_by_key(|backend| backend.address);
    let table = ForwardingTable::new(backends.iter().map(|b| (b.address, b.weight))).view();
    BackendSet { target: target(name), backends, table }
}

/// A rule of a TLSRoute.
pub fn stream_rule(host: HostMatch, backends: &[(u32, Option<&str>)]) -> StreamRule {
    let source = SourceId::inventory();
    let object = ObjectRef::of_kind(&source, ObjectKind::TlsRoute, "default", "route");
    let backends = backends.iter().map(|(weight, to)| (*weight, to.map(target))).collect();
    StreamRule { host, backends, object }
}

/// A self-signed certificate for `names`.
pub fn self_signed(names: &[&str]) -> CertificateSpec {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    CertificateSpec {
        chain_pem: made.cert.pem().into_bytes(),
        key_pem: made.signing_key.serialize_pem().into_bytes(),
        ..CertificateSpec::default()
    }
}
