//! The relay on real loopback sockets, unprivileged.
//!
//! Every test has a VIP of its own in 127/8, so that they run side by side. Nothing is timed:
//! a condition is awaited with a generous bound.

mod algorithms;
mod drain;
mod forwarding;
mod handover;
mod limits;
mod udp;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use haflinger_core::{
    BackendState, ForwardingMode, Protocol, Service, ServiceKey, Snapshot, Update,
};
use prometheus::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::testing::{settings, tcp_service};
use crate::{Relay, RelayHandle, ServiceStatus, Settings};

const GENEROUS: Duration = Duration::from_secs(30);

/// A relay with its strings.
struct Running {
    handle: RelayHandle,
    registry: Registry,
    snapshots: watch::Sender<Arc<Snapshot>>,
    updates: mpsc::Receiver<Update>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(settings: Settings) -> Self {
        let registry = Registry::new();
        let mut relay = Relay::new(settings, &registry).unwrap();
        // Tests have no other data path that would have to be waited for.
        relay.handover = Duration::ZERO;
        let handle = relay.handle();
        let (snapshots, receiver) = watch::channel(Arc::new(Snapshot::default()));
        let (sender, updates) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(relay.run(receiver, sender, shutdown.clone()));
        Self { handle, registry, snapshots, updates, shutdown, task }
    }

    /// Publishes a snapshot with exactly these services.
    fn publish(&self, services: impl IntoIterator<Item = Arc<Service>>) {
        let services = services.into_iter().map(|service| (service.key, service)).collect();
        self.snapshots.send_modify(|snapshot| {
            let generation = snapshot.generation + 1;
            *snapshot = Arc::new(Snapshot { generation, services, ..Snapshot::default() });
        });
    }

    /// Publishes these services and waits until each has its socket.
    async fn serve(&self, services: impl IntoIterator<Item = Arc<Service>>) {
        let services: Vec<_> = services.into_iter().collect();
        self.publish(services.clone());
        eventually("every service listens", || {
            services.iter().all(|one| self.status(one.key).is_some_and(|status| status.listening))
        })
        .await;
    }

    /// Publishes a service and waits until its picture has as many active backends.
    async fn change(&self, service: Arc<Service>) {
        self.publish([Arc::clone(&service)]);
        let wanted: Vec<_> =
            service.backends.backends.iter().map(|one| (one.address, one.state)).collect();
        eventually("the change is seen", || {
            self.status(service.key).is_some_and(|status| {
                let seen = status.backends.iter().map(|one| (one.address, one.state));
                seen.eq(wanted.iter().copied())
            })
        })
        .await;
    }

    fn status(&self, key: ServiceKey) -> Option<ServiceStatus> {
        self.handle.status().services.into_iter().find(|status| status.service == key)
    }

    /// What the core is told next about a socket.
    async fn told(&mut self) -> (ServiceKey, Option<Arc<str>>) {
        match within(self.updates.recv()).await {
            Some(Update::Served { listener, fault }) => (listener, fault),
            other => panic!("{other:?}"),
        }
    }

    /// A counter or gauge, summed over the label values that contain `label`.
    fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        let matching = metrics.iter().filter(|metric| {
            label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label)
        });
        matching.map(|one| one.get_counter().get_value() + one.get_gauge().get_value()).sum()
    }

    /// Stops without a drain time.
    async fn stop_now(self) {
        self.handle.reconfigure(Settings { drain_secs: 0, ..settings() }).unwrap();
        self.stop().await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        within(self.task).await.unwrap();
    }
}

/// Waits for a condition.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(GENEROUS, wait).await.is_ok(), "never: {what}");
}

/// Waits until nobody listens on an address.
async fn refused(address: SocketAddr) {
    let wait = async {
        let mut refused = false;
        while !refused {
            let error = TcpStream::connect(address).await.err();
            refused = error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(GENEROUS, wait).await.is_ok(), "{address} is never closed");
}

/// Waits for a future that must end.
async fn within<F: Future>(future: F) -> F::Output {
    timeout(GENEROUS, future).await.expect("took for ever")
}

/// An address in 127/8 that no other test has, with a port.
fn vip() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let process = u8::try_from(std::process::id() % 100).unwrap();
    SocketAddr::from(([127, 100 + process, high, low], 8080))
}

/// A TCP service on `address` with active backends.
fn service(address: SocketAddr, backends: &[SocketAddr]) -> Service {
    let members: Vec<_> = backends.iter().map(|one| (*one, BackendState::Active)).collect();
    service_of(address, &members)
}

fn service_of(address: SocketAddr, members: &[(SocketAddr, BackendState)]) -> Service {
    let mut service = Service::clone(&tcp_service(address.port(), members));
    service.key.vip = address.ip();
    service
}

/// The service as another data path serves it.
fn elsewhere(service: &Service) -> Arc<Service> {
    Arc::new(Service { mode: ForwardingMode::Nat, ..service.clone() })
}

/// A backend that runs `serve` for each connection.
async fn backend<F>(
    address: &str,
    serve: impl Fn(TcpStream, SocketAddr) -> F + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind(address).await.unwrap();
    let local = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let connection = serve(stream, peer);
            tokio::spawn(connection);
        }
    });
    local
}

/// A backend that says its port and echoes until the client's FIN.
async fn echo() -> SocketAddr {
    echo_on("127.0.0.1:0").await
}

async fn echo_on(address: &str) -> SocketAddr {
    backend(address, |mut stream, _| async move {
        let port = stream.local_addr()?.port();
        stream.write_u16(port).await?;
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await?;
        write.shutdown().await
    })
    .await
}

/// A connection to the VIP, after the backend's port was read from it.
async fn client(address: SocketAddr) -> io::Result<(TcpStream, u16)> {
    let connect = async {
        let mut stream = TcpStream::connect(address).await?;
        let port = stream.read_u16().await?;
        Ok((stream, port))
    };
    within(connect).await
}

/// Whether the connection still echoes.
async fn echoes(stream: &mut TcpStream) -> bool {
    let exchange = async {
        stream.write_all(b"still there?").await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        Ok::<_, io::Error>(answer == *b"still there?")
    };
    within(exchange).await.unwrap_or(false)
}

/// An address on which nobody listens.
async fn refusing() -> SocketAddr {
    // Bound without listening: nobody else can take the port, and connections are refused.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}
