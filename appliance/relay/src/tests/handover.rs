//! Services that leave the relay for another data path, and come back.

use super::udp::{UdpBackend, ask, udp_client, udp_service};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_in_another_mode_is_not_served() {
    let relay = Running::start(settings());
    let (foreign, own, backend) = (vip(), vip(), echo().await);
    let relayed = Arc::new(service(own, &[backend]));
    relay.publish([elsewhere(&service(foreign, &[backend])), Arc::clone(&relayed)]);
    eventually("the relayed one listens", || {
        relay.status(relayed.key).is_some_and(|status| status.listening)
    })
    .await;
    refused(foreign).await;
    assert_eq!(relay.handle.status().services.len(), 1);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_outlive_that_their_service_leaves_and_comes_back() {
    let relay = Running::start(settings());
    let (vip, backend) = (vip(), echo().await);
    let service = service(vip, &[backend]);
    relay.serve([Arc::new(service.clone())]).await;
    let (mut before, _) = client(vip).await.unwrap();
    for _ in 0..2 {
        relay.publish([elsewhere(&service)]);
        refused(vip).await;
        assert!(echoes(&mut before).await);
        let status = relay.status(service.key).unwrap();
        assert!(status.left && !status.listening && status.error.is_none());
        assert_eq!(status.active, 1);
        assert_eq!(relay.metric("haflinger_relay_services", "left"), 1.0);
        assert_eq!(relay.metric("haflinger_relay_left_flows", ""), 1.0);
        relay.serve([Arc::new(service.clone())]).await;
        assert!(client(vip).await.is_ok());
        assert!(echoes(&mut before).await);
        eventually("only the first connection is left", || {
            relay.status(service.key).unwrap().held == 1
        })
        .await;
    }
    assert!(!relay.status(service.key).unwrap().left);
    relay.stop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_left_is_forgotten_with_its_last_flow() {
    let relay = Running::start(settings());
    let (vip, idle, backend) = (vip(), vip(), echo().await);
    let (used, unused) = (service(vip, &[backend]), service(idle, &[backend]));
    relay.serve([Arc::new(used.clone()), Arc::new(unused.clone())]).await;
    let (mut flow, _) = client(vip).await.unwrap();
    relay.publish([elsewhere(&used), elsewhere(&unused)]);
    eventually("the unused one is forgotten", || relay.status(unused.key).is_none()).await;
    assert!(echoes(&mut flow).await);
    assert!(relay.status(used.key).unwrap().left);
    drop(flow);
    eventually("the used one is forgotten", || relay.status(used.key).is_none()).await;
    // And is served anew when it comes again.
    relay.serve([Arc::new(used.clone())]).await;
    assert!(client(vip).await.is_ok());
    relay.stop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_that_go_from_a_service_that_left_end_its_flows() {
    let relay = Running::start(Settings { drain_secs: 0, ..settings() });
    let (vip, goes, stays) = (vip(), echo().await, echo().await);
    relay.serve([Arc::new(service(vip, &[goes]))]).await;
    let (mut before, _) = client(vip).await.unwrap();
    let left = elsewhere(&service(vip, &[goes]));
    relay.publish([Arc::clone(&left)]);
    eventually("it has left", || relay.status(left.key).unwrap().left).await;
    assert!(echoes(&mut before).await);
    relay.publish([elsewhere(&service(vip, &[stays]))]);
    let error = within(before.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    eventually("it is forgotten", || relay.status(left.key).is_none()).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_flows_outlive_that_their_service_leaves_but_no_new_one_begins() {
    let relay = Running::start(settings());
    let (vip, backend) = (vip(), UdpBackend::start("127.0.0.1:0").await);
    let service = udp_service(vip, &[backend.address]);
    relay.serve([Arc::new(service.clone())]).await;
    let old = udp_client(vip).await;
    ask(&old, b"before").await;
    relay.publish([elsewhere(&service)]);
    eventually("no new flow is taken", || {
        relay.status(service.key).is_some_and(|status| status.left && !status.listening)
    })
    .await;
    let new = udp_client(vip).await;
    new.send(b"is it open?").await.unwrap();
    eventually("the new flow is dropped", || {
        relay.metric("haflinger_relay_rejected_total", "service_left") == 1.0
    })
    .await;
    ask(&old, b"after").await;
    assert_eq!(relay.status(service.key).unwrap().total, 1);
    relay.serve([Arc::new(service.clone())]).await;
    ask(&new, b"and now?").await;
    ask(&old, b"and again").await;
    assert_eq!(relay.status(service.key).unwrap().total, 2);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_of_udp_closes_when_the_last_kept_flow_is_idle() {
    let relay = Running::start(settings());
    let (vip, backend) = (vip(), UdpBackend::start("127.0.0.1:0").await);
    let timeouts = haflinger_core::FlowTimeouts { udp_secs: 1, ..Default::default() };
    let service = Service { timeouts, ..udp_service(vip, &[backend.address]) };
    relay.serve([Arc::new(service.clone())]).await;
    ask(&udp_client(vip).await, b"before").await;
    relay.publish([elsewhere(&service)]);
    eventually("it is forgotten", || relay.status(service.key).is_none()).await;
    // Only a closed socket leaves its address to another one.
    while UdpSocket::bind(vip).await.is_err() {
        sleep(Duration::from_millis(1)).await;
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_service_that_had_left_gives_its_flows_the_grace_period() {
    let relay = Running::start(settings());
    let (vip, backend) = (vip(), echo().await);
    let service = service(vip, &[backend]);
    relay.serve([Arc::new(service.clone())]).await;
    let (mut flow, _) = client(vip).await.unwrap();
    relay.publish([elsewhere(&service)]);
    refused(vip).await;
    relay.publish([]);
    eventually("it is gone", || relay.handle.status().services.is_empty()).await;
    assert!(echoes(&mut flow).await);
    relay.stop_now().await;
    assert!(!echoes(&mut flow).await);
}
