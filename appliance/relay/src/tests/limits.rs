//! What happens at each limit, and who is turned away.

use std::num::NonZeroU32;

use haflinger_core::{Algorithm, ConnectionLimits, FlowTimeouts};

use super::udp::{UdpBackend, ask, udp_client, udp_service};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_outside_the_source_ranges_are_reset_and_counted() {
    let relay = Running::start(settings());
    let (vip, backend) = (vip(), echo().await);
    let with = |range: &str| {
        let source_ranges = vec![range.parse().unwrap()];
        Arc::new(Service { source_ranges, ..service(vip, &[backend]) })
    };
    relay.serve([with("192.0.2.0/24")]).await;
    assert_eq!(client(vip).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(relay.metric("haflinger_relay_rejected_total", "source_denied"), 1.0);
    // A changed range holds for the next client, on the same socket.
    relay.publish([with("127.0.0.0/8")]);
    while client(vip).await.is_err() {}
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limits_are_reset_and_room_is_used_again() {
    let settings = Settings { connections_max: 3, connections_per_service_max: 2, ..settings() };
    let relay = Running::start(settings.clone());
    let (one, two, backend) = (vip(), vip(), echo().await);
    relay.serve([Arc::new(service(one, &[backend])), Arc::new(service(two, &[backend]))]).await;
    let first = client(one).await.unwrap();
    let _second = client(one).await.unwrap();
    assert_eq!(client(one).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let limit = "connections_per_service_max";
    assert_eq!(relay.metric("haflinger_relay_rejected_total", limit), 1.0);
    let _third = client(two).await.unwrap();
    assert_eq!(client(two).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(relay.metric("haflinger_relay_rejected_total", "connections_max"), 1.0);
    drop(first);
    eventually("the place is free", || relay.handle.status().connections == 2).await;
    let _again = client(one).await.unwrap();

    relay.handle.reconfigure(Settings { connections_max: 4, ..settings.clone() }).unwrap();
    let _fourth = client(two).await.unwrap();
    let refused = relay.handle.reconfigure(Settings { connections_max: 0, ..settings });
    assert!(refused.is_err());
    relay.stop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_says_nothing_is_reset_after_the_idle_timeout() {
    let relay = Running::start(settings());
    let (vip, backend) = (vip(), echo().await);
    let timeouts = FlowTimeouts { established_secs: 1, ..FlowTimeouts::default() };
    relay.serve([Arc::new(Service { timeouts, ..service(vip, &[backend]) })]).await;
    let (mut silent, _) = client(vip).await.unwrap();
    let error = within(silent.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(relay.metric("haflinger_relay_flows_ended_total", "idle"), 1.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_closed_connection_has_the_patience_of_one_that_closes() {
    let relay = Running::start(settings());
    let (vip, backend) = (
        vip(),
        backend("127.0.0.1:0", |mut stream, _| async move {
            // Never answers, and never closes either.
            let mut nothing = [0; 1];
            while stream.read(&mut nothing).await? > 0 {}
            std::future::pending().await
        })
        .await,
    );
    let timeouts = FlowTimeouts { closing_secs: 1, ..FlowTimeouts::default() };
    relay.serve([Arc::new(Service { timeouts, ..service(vip, &[backend]) })]).await;
    let mut client = TcpStream::connect(vip).await.unwrap();
    client.shutdown().await.unwrap();
    let error = within(client.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(relay.metric("haflinger_relay_flows_ended_total", "idle"), 1.0);
    relay.stop().await;
}

fn limited(service: Service, of_service: u32, of_backend: u32) -> Arc<Service> {
    let limits = ConnectionLimits {
        service: NonZeroU32::new(of_service),
        backend: NonZeroU32::new(of_backend),
    };
    Arc::new(Service { limits, ..service })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_service_resets_new_clients_until_one_ends() {
    let relay = Running::start(settings());
    let (vip, backend) = (vip(), echo().await);
    let service = limited(service(vip, &[backend]), 2, 0);
    relay.serve([Arc::clone(&service)]).await;
    let mut held = [client(vip).await.unwrap().0, client(vip).await.unwrap().0];
    for _ in 0..3 {
        assert_eq!(client(vip).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(relay.metric("haflinger_relay_rejected_total", "service_full"), 3.0);
    assert!(echoes(&mut held[0]).await && echoes(&mut held[1]).await);
    let status = relay.status(service.key).unwrap();
    assert_eq!((status.held, status.limits, status.rejected), (2, service.limits, 3));
    assert_eq!(relay.metric("haflinger_relay_service_flows_limit", "service"), 2.0);
    drop(held);
    eventually("the places are free", || relay.status(service.key).unwrap().held == 0).await;
    assert!(client(vip).await.is_ok());
    relay.stop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_backend_is_passed_over_and_when_all_are_full_clients_are_reset() {
    for algorithm in [Algorithm::Hash, Algorithm::RoundRobin, Algorithm::LeastConnections] {
        let relay = Running::start(settings());
        let (vip, backends) = (vip(), [echo().await, echo().await, echo().await]);
        let service = Service { algorithm, ..service(vip, &backends) };
        let service = limited(service, 0, 2);
        relay.serve([Arc::clone(&service)]).await;
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(client(vip).await.unwrap());
        }
        for backend in backends {
            assert_eq!(held.iter().filter(|one| one.1 == backend.port()).count(), 2);
            let of_backend = relay.metric("haflinger_relay_backend_flows", &backend.to_string());
            assert_eq!(of_backend, 2.0);
        }
        assert_eq!(client(vip).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(relay.metric("haflinger_relay_rejected_total", "backends_full"), 1.0);
        let (freed, port) = held.swap_remove(3);
        drop(freed);
        let active =
            |status: ServiceStatus| status.backends.iter().map(|one| one.active).sum::<u64>();
        eventually("a place is free", || active(relay.status(service.key).unwrap()) == 5).await;
        assert_eq!(client(vip).await.unwrap().1, port);
        relay.stop_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_crowd_exactly_as_many_are_served_as_there_is_room() {
    let relay = Running::start(settings());
    let backends = [echo().await, echo().await, echo().await];
    for (of_service, of_backend, room) in [(0, 5, 15), (11, 5, 11), (11, 3, 9)] {
        let vip = vip();
        relay.serve([limited(service(vip, &backends), of_service, of_backend)]).await;
        let mut crowd = tokio::task::JoinSet::new();
        for _ in 0..64 {
            crowd.spawn(client(vip));
        }
        // Who got in stays until all have tried.
        let tried = within(crowd.join_all()).await;
        assert_eq!(tried.iter().filter(|one| one.is_ok()).count(), room);
    }
    relay.stop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_service_drops_new_udp_flows_and_keeps_the_old() {
    let relay = Running::start(settings());
    let (one, two) =
        (UdpBackend::start("127.0.0.1:0").await, UdpBackend::start("127.0.0.1:0").await);
    let backends = [one.address, two.address];
    let (by_service, by_backend) = (vip(), vip());
    relay
        .serve([
            limited(udp_service(by_service, &backends), 2, 0),
            limited(udp_service(by_backend, &backends), 0, 1),
        ])
        .await;
    for (vip, reason) in [(by_service, "service_full"), (by_backend, "backends_full")] {
        let held = [udp_client(vip).await, udp_client(vip).await];
        let ports = [ask(&held[0], b"mine").await, ask(&held[1], b"mine").await];
        assert!(vip == by_service || ports[0] != ports[1]);
        udp_client(vip).await.send(b"room for me?").await.unwrap();
        eventually("it is dropped and counted", || {
            relay.metric("haflinger_relay_rejected_total", reason) == 1.0
        })
        .await;
        assert_eq!(ask(&held[0], b"still mine").await, ports[0]);
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn affine_clients_beyond_the_limit_are_forgotten_and_counted() {
    let relay = Running::start(Settings { affinity_entries_max: 1, ..settings() });
    let (vip, backend) = (vip(), echo().await);
    let algorithm = Algorithm::Source { timeout_secs: 3600 };
    relay.serve([Arc::new(Service { algorithm, ..service(vip, &[backend]) })]).await;
    // One entry for each of 16 parts: 17 clients cannot all be held.
    for last in 1..=17 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 9, last], 0))).unwrap();
        let mut stream = within(socket.connect(vip)).await.unwrap();
        within(stream.read_u16()).await.unwrap();
    }
    let held = relay.metric("haflinger_relay_held", "affinities");
    let evicted = relay.metric("haflinger_relay_affinity_evictions_total", "");
    assert!(held <= 16.0 && evicted >= 1.0);
    assert_eq!(held + evicted, 17.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_status_tell_of_a_service() {
    let relay = Running::start(settings());
    let (vip, backend) = (vip(), echo().await);
    let service = Arc::new(service(vip, &[backend]));
    relay.serve([Arc::clone(&service)]).await;
    let (mut stream, _) = client(vip).await.unwrap();
    assert!(echoes(&mut stream).await);
    let name = service.key.to_string();
    assert_eq!(relay.metric("haflinger_relay_service_flows", &name), 1.0);
    assert_eq!(relay.metric("haflinger_relay_service_flows_total", &name), 1.0);
    assert_eq!(relay.metric("haflinger_relay_held", "tcp_connections"), 1.0);
    assert_eq!(relay.metric("haflinger_relay_flows_total", "tcp"), 1.0);
    eventually("bytes are told while the connection lives", || {
        relay.metric("haflinger_relay_bytes_total", "in") == 12.0
            && relay.metric("haflinger_relay_bytes_total", "out") == 14.0
    })
    .await;
    let status = serde_json::to_value(relay.handle.status()).unwrap();
    assert_eq!(status["services"][0]["backends"][0]["active"], 1);
    assert_eq!(status["services"][0]["backends"][0]["state"], "active");
    drop(stream);
    relay.stop().await;
}
