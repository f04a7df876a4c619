//! UDP flows.

use std::collections::BTreeSet;

use haflinger_core::FlowTimeouts;

use super::*;

/// A backend that answers each datagram with its port and the datagram. Ends when dropped.
pub(super) struct UdpBackend {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl UdpBackend {
    pub(super) async fn start(address: &str) -> Self {
        let socket = UdpSocket::bind(address).await.unwrap();
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 65_535];
            // Answers that are refused say nothing about the next datagram.
            loop {
                let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
                let mut answer = address.port().to_be_bytes().to_vec();
                answer.extend(&buffer[..length.min(60_000)]);
                let _ = socket.send_to(&answer, peer).await;
            }
        });
        Self { address, task }
    }

    /// Closes the socket, so that the kernel refuses what comes.
    async fn stop(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.address
    }
}

pub(super) fn udp_service(vip: SocketAddr, backends: &[SocketAddr]) -> Service {
    let mut service = service(vip, backends);
    service.key.protocol = Protocol::Udp;
    service
}

pub(super) async fn udp_client(vip: SocketAddr) -> UdpSocket {
    let local = if vip.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(local).await.unwrap();
    // Connected: an answer from another address than the VIP would not arrive.
    socket.connect(vip).await.unwrap();
    socket
}

/// Sends a datagram until it is answered; answers with the backend's port.
pub(super) async fn ask(socket: &UdpSocket, datagram: &[u8]) -> u16 {
    let mut buffer = vec![0; 65_535];
    let exchange = async {
        loop {
            let _ = socket.send(datagram).await;
            let received = timeout(Duration::from_millis(500), socket.recv(&mut buffer)).await;
            // Late answers to earlier datagrams are passed over.
            if let Ok(Ok(length)) = received
                && &buffer[2..length] == datagram
            {
                return u16::from_be_bytes([buffer[0], buffer[1]]);
            }
        }
    };
    within(exchange).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_stays_with_its_backend_and_clients_spread() {
    let relay = Running::start(settings());
    let vip = vip();
    let (one, two) =
        (UdpBackend::start("127.0.0.1:0").await, UdpBackend::start("127.0.0.1:0").await);
    let service = Arc::new(udp_service(vip, &[one.address, two.address]));
    relay.serve([Arc::clone(&service)]).await;
    let mut reached = BTreeSet::new();
    let mut clients = 0;
    while reached.len() < 2 {
        let socket = udp_client(vip).await;
        let port = ask(&socket, b"first").await;
        for _ in 0..5 {
            assert_eq!(ask(&socket, b"again").await, port);
        }
        reached.insert(port);
        clients += 1;
    }
    assert_eq!(relay.status(service.key).unwrap().total, clients);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_of_every_size_pass_both_ways() {
    let relay = Running::start(settings());
    let vip = vip();
    let backend = UdpBackend::start("127.0.0.1:0").await;
    let service = Arc::new(udp_service(vip, &[backend.address]));
    relay.serve([Arc::clone(&service)]).await;
    let socket = udp_client(vip).await;
    for size in [0, 1, 1472, 9000, 60_000] {
        ask(&socket, &vec![7; size]).await;
    }
    // The largest datagram of IPv4, whose answer the backend cuts.
    let before = relay.status(service.key).unwrap().bytes_in;
    socket.send(&[8; 65_507]).await.unwrap();
    let mut buffer = vec![0; 65_535];
    assert_eq!(within(socket.recv(&mut buffer)).await.unwrap(), 60_002);
    assert_eq!(relay.status(service.key).unwrap().bytes_in, before + 65_507);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_backend_is_forgotten_at_once() {
    let relay = Running::start(settings());
    let vip = vip();
    let (old, new) =
        (UdpBackend::start("127.0.0.1:0").await, UdpBackend::start("127.0.0.1:0").await);
    relay.serve([Arc::new(udp_service(vip, &[old.address]))]).await;
    let socket = udp_client(vip).await;
    assert_eq!(ask(&socket, b"before").await, old.address.port());
    relay.change(Arc::new(udp_service(vip, &[new.address]))).await;
    assert_eq!(ask(&socket, b"after").await, new.address.port());
    eventually("only the new flow is left", || relay.handle.status().udp_flows == 1).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_backend_keeps_its_flow_and_a_down_one_does_not() {
    let relay = Running::start(settings());
    let vip = vip();
    let (old, new) =
        (UdpBackend::start("127.0.0.1:0").await, UdpBackend::start("127.0.0.1:0").await);
    let with = |state| {
        let members = [(old.address, state), (new.address, BackendState::Active)];
        let mut service = service_of(vip, &members);
        service.key.protocol = Protocol::Udp;
        Arc::new(service)
    };
    relay.serve([Arc::new(udp_service(vip, &[old.address]))]).await;
    let socket = udp_client(vip).await;
    ask(&socket, b"before").await;
    relay.change(with(BackendState::Draining)).await;
    assert_eq!(ask(&socket, b"draining").await, old.address.port());
    relay.change(with(BackendState::Down)).await;
    assert_eq!(ask(&socket, b"down").await, new.address.port());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_refuses_is_avoided_at_the_next_datagram() {
    let relay = Running::start(settings());
    let vip = vip();
    let (one, two) =
        (UdpBackend::start("127.0.0.1:0").await, UdpBackend::start("127.0.0.1:0").await);
    let survivor = two.address;
    let service = Arc::new(udp_service(vip, &[one.address, two.address]));
    relay.serve([Arc::clone(&service)]).await;
    // A client of the backend that will go.
    let socket = loop {
        let socket = udp_client(vip).await;
        if ask(&socket, b"hello").await == one.address.port() {
            break socket;
        }
    };
    one.stop().await;
    assert_eq!(ask(&socket, b"anybody?").await, survivor.port());
    assert!(relay.metric("haflinger_relay_connect_failures_total", "refused") >= 1.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_every_backend_refused_the_first_is_tried_again() {
    let relay = Running::start(settings());
    let vip = vip();
    let only = UdpBackend::start("127.0.0.1:0").await;
    let address = only.address.to_string();
    relay.serve([Arc::new(udp_service(vip, &[only.address]))]).await;
    let socket = udp_client(vip).await;
    ask(&socket, b"hello").await;
    only.stop().await;
    eventually("it refused", || {
        let _ = socket.try_send(b"anybody?");
        relay.metric("haflinger_relay_connect_failures_total", "refused") >= 2.0
    })
    .await;
    let back = UdpBackend::start(&address).await;
    assert_eq!(ask(&socket, b"again").await, back.address.port());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_flow_is_forgotten_and_its_client_served_anew() {
    let relay = Running::start(settings());
    let vip = vip();
    let backend = UdpBackend::start("127.0.0.1:0").await;
    let timeouts = FlowTimeouts { udp_secs: 1, ..FlowTimeouts::default() };
    let service = Arc::new(Service { timeouts, ..udp_service(vip, &[backend.address]) });
    relay.serve([Arc::clone(&service)]).await;
    let socket = udp_client(vip).await;
    ask(&socket, b"one").await;
    eventually("the flow is forgotten", || relay.handle.status().udp_flows == 0).await;
    ask(&socket, b"two").await;
    assert_eq!(relay.status(service.key).unwrap().total, 2);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_limit_new_flows_are_dropped_and_old_ones_go_on() {
    let relay = Running::start(Settings { udp_flows_max: 1, ..settings() });
    let vip = vip();
    let backend = UdpBackend::start("127.0.0.1:0").await;
    relay.serve([Arc::new(udp_service(vip, &[backend.address]))]).await;
    let (held, stranger) = (udp_client(vip).await, udp_client(vip).await);
    ask(&held, b"mine").await;
    stranger.send(b"room for me?").await.unwrap();
    eventually("it is dropped", || {
        relay.metric("haflinger_relay_rejected_total", "udp_flows_max") == 1.0
    })
    .await;
    ask(&held, b"still mine").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_from_outside_the_source_ranges_are_dropped() {
    let relay = Running::start(settings());
    let vip = vip();
    let backend = UdpBackend::start("127.0.0.1:0").await;
    let source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
    let service = Service { source_ranges, ..udp_service(vip, &[backend.address]) };
    relay.serve([Arc::new(service)]).await;
    udp_client(vip).await.send(b"let me in").await.unwrap();
    eventually("it is counted", || {
        relay.metric("haflinger_relay_rejected_total", "source_denied") == 1.0
    })
    .await;
    assert_eq!(relay.handle.status().udp_flows, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipv6_datagrams_pass() {
    let relay = Running::start(settings());
    let free = UdpSocket::bind("[::1]:0").await.unwrap().local_addr().unwrap();
    let backend = UdpBackend::start("[::1]:0").await;
    relay.serve([Arc::new(udp_service(free, &[backend.address]))]).await;
    ask(&udp_client(free).await, b"over six").await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_end_with_their_service_and_a_second_socket_on_the_address_is_refused() {
    let relay = Running::start(settings());
    let vip = vip();
    let backend = UdpBackend::start("127.0.0.1:0").await;
    let service = Arc::new(udp_service(vip, &[backend.address]));
    relay.serve([Arc::clone(&service)]).await;
    ask(&udp_client(vip).await, b"hello").await;
    assert_eq!(UdpSocket::bind(vip).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    relay.publish([]);
    eventually("the flow is gone", || relay.handle.status().udp_flows == 0).await;
    while UdpSocket::bind(vip).await.is_err() {
        sleep(Duration::from_millis(1)).await;
    }
    relay.stop().await;
}
