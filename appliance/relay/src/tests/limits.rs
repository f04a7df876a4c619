//! What happens at each limit, and who is turned away.

use haflinger_core::Algorithm;

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
    let relay = Running::start(Settings { idle_timeout_secs: 1, ..settings() });
    let (vip, backend) = (vip(), echo().await);
    relay.serve([Arc::new(service(vip, &[backend]))]).await;
    let (mut silent, _) = client(vip).await.unwrap();
    let error = within(silent.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(relay.metric("haflinger_relay_flows_ended_total", "idle"), 1.0);
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
