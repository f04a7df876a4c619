//! UDP: one socket on the VIP, one connected socket for each flow.
//!
//! A flow is a client's address and port. Its first datagram picks the backend; it ends when
//! nothing came for the service's UDP timeout, and at once when its backend is removed or down. A backend
//! that refuses (ICMP port unreachable) is avoided at the client's next datagram.
//!
//! At the limit of flows, datagrams of new clients are dropped and counted: anybody can forge
//! the source of a datagram, so newcomers must not push out flows that are in use.
//!
//! What this never does: hold a datagram. What the kernel does not take at once is dropped and
//! counted, as a router would do; so a flow costs a socket, a task and no buffer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::SendFlags;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, watch};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::Shared;
use crate::connect::{Counted, FULL_MAX, InUse, candidates, hash_of, reason_of, remember};
use crate::intake::{Intake, is_wanted};
use crate::limit::Held;
use crate::metrics::{Ending, Rejection};
use crate::pipes::lock;
use crate::service::{Listening, Picture, ServiceState};
use crate::socket::{bind_udp, closed, connect_udp, open};
use crate::tcp::is_permitted;

/// No UDP datagram is longer, IPv6 jumbograms aside (RFC 768; 65,507 bytes over IPv4).
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Backends that are remembered as refusing for one client. More dead ones at once are a matter
/// for health checks; the one that refused longest ago is forgotten.
const AVOIDED_MAX: usize = 64;

/// Datagrams read before the task lets others run.
const BATCH: usize = 32;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; DATAGRAM_BYTES_MAX]);
}

/// Serves one service, whenever its flows come here, until it is closed for good.
pub(crate) async fn serve(shared: Arc<Shared>, service: Arc<ServiceState>) {
    let mut intake = service.intake.subscribe();
    while is_wanted(&mut intake).await {
        if let Some(socket) = open(&shared, &service, &mut intake, bind_udp).await {
            let listener = Arc::new(Listener {
                shared: Arc::clone(&shared),
                service: Arc::clone(&service),
                socket,
                flows: Mutex::new(HashMap::new()),
                emptied: Notify::new(),
            });
            listener.forward_until_closed(&mut intake).await;
            // Replies leave through the socket of the VIP: without it no flow can go on.
            for (_, flow) in lock(&listener.flows).drain() {
                flow.ending.cancel();
            }
        }
        closed(&shared, &service);
    }
}

struct Listener {
    shared: Arc<Shared>,
    service: Arc<ServiceState>,
    socket: UdpSocket,
    flows: Mutex<HashMap<SocketAddr, Arc<Flow>>>,
    /// The last flow has ended.
    emptied: Notify,
}

struct Flow {
    client: SocketAddr,
    backend: SocketAddr,
    socket: UdpSocket,
    counted: Counted,
    ending: CancellationToken,
    /// Milliseconds of the relay's uptime.
    last_moved: AtomicU64,
    /// The backend answered that nobody listens: the next datagram goes elsewhere.
    refused: AtomicBool,
    /// Backends that refused this client before this one.
    avoided: Vec<SocketAddr>,
    /// A place among all flows, and one among the service's; given back when another flow of
    /// the client takes over.
    places: Mutex<Option<[Held; 2]>>,
}

impl Flow {
    fn is_usable(&self) -> bool {
        !self.refused.load(Ordering::Relaxed) && !self.ending.is_cancelled()
    }

    fn touch(&self, shared: &Shared) {
        self.last_moved.store(shared.uptime_ms(), Ordering::Relaxed);
    }

    fn idle_at(&self, shared: &Shared) -> Instant {
        let last_moved = Duration::from_millis(self.last_moved.load(Ordering::Relaxed));
        let timeouts = self.counted.service.picture.load().service.timeouts;
        shared.started + last_moved + Duration::from_secs(u64::from(timeouts.udp_secs))
    }
}

/// What the kernel said to a datagram.
enum Sent {
    Yes,
    Dropped,
    /// Nobody listens at the backend, or no way leads there. The datagram was not sent.
    Refused(&'static str),
}

impl Listener {
    /// Forwards datagrams until the socket is to be closed, or is only kept for flows of which
    /// none is left.
    async fn forward_until_closed(self: &Arc<Self>, intake: &mut watch::Receiver<Intake>) {
        loop {
            tokio::select! {
                biased;
                changed = intake.changed() => if changed.is_err() { return },
                () = self.emptied.notified() => {}
                ready = self.socket.readable() => {
                    if ready.is_err() {
                        return;
                    }
                    self.forward_batch();
                    consume_budget().await;
                    continue;
                }
            }
            let listening = match *intake.borrow_and_update() {
                Intake::Open => Listening::Yes,
                Intake::Kept if !lock(&self.flows).is_empty() => Listening::No,
                Intake::Kept | Intake::Closed => return,
            };
            *lock(&self.service.listening) = listening;
        }
    }

    fn forward_batch(self: &Arc<Self>) {
        for _ in 0..BATCH {
            match self.forward_one() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.shared.metrics.accept_errors.inc(),
            }
        }
    }

    /// Receives one datagram and sends it on.
    fn forward_one(self: &Arc<Self>) -> io::Result<()> {
        BUFFER.with_borrow_mut(|buffer| {
            let (length, client) = self.socket.try_recv_from(buffer)?;
            let picture = self.service.picture.load();
            if is_permitted(&picture.service.source_ranges, client.ip()) {
                self.forward(&picture, client, &buffer[..length]);
            } else {
                self.shared.count_rejection(&self.service, Rejection::SourceDenied);
            }
            Ok(())
        })
    }

    fn forward(self: &Arc<Self>, picture: &Picture, client: SocketAddr, datagram: &[u8]) {
        let attempts_max = self.shared.settings.load().connect_attempts_max;
        for _ in 0..attempts_max {
            let flow = match self.flow_of(picture, client) {
                Ok(flow) => flow,
                Err(rejection) => return self.shared.count_rejection(&self.service, rejection),
            };
            match send(&flow.socket, datagram) {
                Sent::Yes => {
                    flow.touch(&self.shared);
                    return self.count_in(&flow, datagram.len());
                }
                Sent::Dropped => return self.count_dropped("in"),
                Sent::Refused(reason) => self.refuse(&flow, reason),
            }
        }
        self.shared.count_rejection(&self.service, Rejection::ConnectFailed);
    }

    /// The client's flow, a new one where it has none that can be used.
    fn flow_of(
        self: &Arc<Self>,
        picture: &Picture,
        client: SocketAddr,
    ) -> Result<Arc<Flow>, Rejection> {
        let former = lock(&self.flows).get(&client).cloned();
        let mut avoided = Vec::new();
        if let Some(former) = former {
            if former.is_usable() {
                return Ok(former);
            }
            if former.refused.load(Ordering::Relaxed) {
                let forgotten = (former.avoided.len() + 1).saturating_sub(AVOIDED_MAX);
                avoided.extend_from_slice(&former.avoided[forgotten..]);
                avoided.push(former.backend);
            }
            former.ending.cancel();
            lock(&former.places).take();
            lock(&self.flows).remove(&client);
        }
        let flow = Arc::new(self.begin(picture, client, avoided)?);
        lock(&self.flows).insert(client, Arc::clone(&flow));
        self.shared.tasks.spawn(replies(Arc::clone(self), Arc::clone(&flow)));
        Ok(flow)
    }

    fn begin(
        &self,
        picture: &Picture,
        client: SocketAddr,
        mut avoided: Vec<SocketAddr>,
    ) -> Result<Flow, Rejection> {
        if *self.service.intake.borrow() != Intake::Open {
            return Err(Rejection::ServiceLeft);
        }
        let settings = self.shared.settings.load();
        let held = self.shared.udp_flows.hold(settings.udp_flows_max);
        let held = held.ok_or(Rejection::FlowsMax)?;
        let of_service = self.service.held.hold(picture.service_limit());
        let of_service = of_service.ok_or(Rejection::ServiceFull)?;
        let service = &picture.service;
        let hash = hash_of(&self.shared, service, client);
        let mut backend = self.choose(picture, client, hash, &avoided);
        if backend.is_err() && !avoided.is_empty() {
            // Every other one refused: begin again.
            avoided.clear();
            backend = self.choose(picture, client, hash, &avoided);
        }
        let backend = backend?;
        let ending = backend.0.flow_token(&self.service).child_token();
        let address = backend.0.address;
        let socket = connect_udp(address).map_err(|error| {
            self.shared.count_connect_failure(&self.service, &backend.0, reason_of(&error));
            Rejection::ConnectFailed
        })?;
        remember(&self.shared, service, client.ip(), hash, address);
        Ok(Flow {
            client,
            backend: address,
            socket,
            counted: Counted::new(&self.shared, &self.service, backend),
            ending,
            last_moved: AtomicU64::new(self.shared.uptime_ms()),
            refused: AtomicBool::new(false),
            avoided,
            places: Mutex::new(Some([held, of_service])),
        })
    }

    /// The first candidate that has room and has not refused this client.
    fn choose(
        &self,
        picture: &Picture,
        client: SocketAddr,
        hash: u64,
        avoided: &[SocketAddr],
    ) -> Result<InUse, Rejection> {
        let mut full = 0;
        for at in candidates(&self.shared, &self.service, picture, client.ip(), hash) {
            let slot = picture.slot(at);
            if avoided.contains(&slot.address) {
                continue;
            }
            let Some(backend) = InUse::below(slot, picture.backend_limit()) else {
                full += 1;
                if full == FULL_MAX {
                    break;
                }
                continue;
            };
            if self.service.still_offers(picture, slot) {
                return Ok(backend);
            }
        }
        Err(if full > 0 { Rejection::BackendsFull } else { Rejection::NoBackend })
    }

    fn refuse(&self, flow: &Flow, reason: &'static str) {
        if !flow.refused.swap(true, Ordering::Relaxed) {
            self.shared.count_connect_failure(&self.service, &flow.counted.backend.0, reason);
        }
    }

    /// Receives one reply and sends it to the client, from the VIP.
    fn return_one(&self, flow: &Flow) -> io::Result<()> {
        BUFFER.with_borrow_mut(|buffer| {
            let length = flow.socket.try_recv(buffer)?;
            flow.touch(&self.shared);
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::sendto(&self.socket, &buffer[..length], flags, &flow.client) {
                Ok(_) => self.count_out(flow, length),
                Err(_) => self.count_dropped("out"),
            }
            Ok(())
        })
    }

    fn count_in(&self, flow: &Flow, bytes: usize) {
        let counters = [&self.service.counters, &flow.counted.backend.0.counters];
        for counter in counters.map(|one| &one.bytes_in) {
            counter.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        self.shared.metrics.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count_out(&self, flow: &Flow, bytes: usize) {
        let counters = [&self.service.counters, &flow.counted.backend.0.counters];
        for counter in counters.map(|one| &one.bytes_out) {
            counter.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        self.shared.metrics.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count_dropped(&self, direction: &str) {
        self.shared.metrics.datagrams_dropped.with_label_values(&[direction]).inc();
    }
}

/// Carries a flow's replies until the flow ends, then forgets it.
async fn replies(listener: Arc<Listener>, flow: Arc<Flow>) {
    let end = carry_replies(&listener, &flow).await;
    listener.shared.metrics.ended.with_label_values(&[end.as_str()]).inc();
    let mut flows = lock(&listener.flows);
    if flows.get(&flow.client).is_some_and(|current| Arc::ptr_eq(current, &flow)) {
        flows.remove(&flow.client);
    }
    if flows.is_empty() {
        listener.emptied.notify_one();
    }
}

async fn carry_replies(listener: &Listener, flow: &Flow) -> Ending {
    let mut idle = std::pin::pin!(sleep_until(flow.idle_at(&listener.shared)));
    loop {
        tokio::select! {
            biased;
            () = flow.ending.cancelled() => {
                let refused = flow.refused.load(Ordering::Relaxed);
                return if refused { Ending::Reset } else { Ending::Drained };
            }
            ready = flow.socket.readable() => if ready.is_err() { return Ending::Reset },
            () = &mut idle => {
                let idle_at = flow.idle_at(&listener.shared);
                if idle_at <= Instant::now() {
                    return Ending::Finished;
                }
                idle.as_mut().reset(idle_at);
            }
        }
        for _ in 0..BATCH {
            match listener.return_one(flow) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    listener.refuse(flow, reason_of(&error));
                    break;
                }
            }
        }
        consume_budget().await;
    }
}

fn send(socket: &UdpSocket, datagram: &[u8]) -> Sent {
    use rustix::io::Errno;
    match rustix::net::send(socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(_) => Sent::Yes,
        Err(error @ (Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH)) => {
            Sent::Refused(reason_of(&error.into()))
        }
        // The queue is full, or the datagram does not fit the path.
        Err(_) => Sent::Dropped,
    }
}
