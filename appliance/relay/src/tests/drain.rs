//! Services and backends that come and go, and the end of the relay.

use std::collections::BTreeSet;

use super::*;

fn draining(vip: SocketAddr, gone: SocketAddr, stays: SocketAddr) -> Arc<Service> {
    Arc::new(service_of(vip, &[(gone, BackendState::Draining), (stays, BackendState::Active)]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_backend_keeps_its_old_flows_and_gets_no_new_one() {
    let relay = Running::start(settings());
    let (vip, old, new) = (vip(), echo().await, echo().await);
    relay.serve([Arc::new(service(vip, &[old]))]).await;
    let (mut before, port) = client(vip).await.unwrap();
    assert_eq!(port, old.port());
    relay.change(draining(vip, old, new)).await;
    for _ in 0..10 {
        assert_eq!(client(vip).await.unwrap().1, new.port());
    }
    assert!(echoes(&mut before).await);
    relay.change(Arc::new(service(vip, &[new]))).await;
    assert!(echoes(&mut before).await, "removal starts no second grace period");
    relay.stop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_grace_period_ends_the_old_flows_are_reset() {
    let relay = Running::start(Settings { drain_secs: 0, ..settings() });
    let (vip, old, new) = (vip(), echo().await, echo().await);
    relay.serve([Arc::new(service(vip, &[old]))]).await;
    let (mut before, _) = client(vip).await.unwrap();
    relay.change(draining(vip, old, new)).await;
    let error = within(before.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(relay.metric("haflinger_relay_flows_ended_total", "drained"), 1.0);
    let (mut after, port) = client(vip).await.unwrap();
    assert_eq!(port, new.port());
    assert!(echoes(&mut after).await);
    relay.stop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_come_and_go_without_disturbing_others() {
    let relay = Running::start(settings());
    let (stays, goes) = (vip(), vip());
    let backend = echo().await;
    let first = Arc::new(service(stays, &[backend]));
    relay.serve([Arc::clone(&first)]).await;
    let (mut undisturbed, _) = client(stays).await.unwrap();
    for _ in 0..3 {
        relay.serve([Arc::clone(&first), Arc::new(service(goes, &[backend]))]).await;
        assert!(client(goes).await.is_ok());
        relay.publish([Arc::clone(&first)]);
        refused(goes).await;
    }
    assert!(echoes(&mut undisturbed).await);
    let status = relay.handle.status();
    assert_eq!(status.services.len(), 1);
    assert_eq!(status.services[0].total, 1);
    relay.stop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_of_a_removed_service_have_a_grace_period() {
    let relay = Running::start(settings());
    let (vip, backend) = (vip(), echo().await);
    relay.serve([Arc::new(service(vip, &[backend]))]).await;
    let (mut flow, _) = client(vip).await.unwrap();
    relay.publish([]);
    eventually("the service is gone", || relay.handle.status().services.is_empty()).await;
    assert!(echoes(&mut flow).await);
    assert_eq!(relay.handle.status().connections, 1);
    relay.stop_now().await;
    assert!(!echoes(&mut flow).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_is_told_and_taken_once_free_while_others_go_on() {
    let mut relay = Running::start(settings());
    let (taken, free) = (vip(), vip());
    let backend = echo().await;
    let squatter = TcpListener::bind(taken).await.unwrap();
    let (blocked, other) =
        (Arc::new(service(taken, &[backend])), Arc::new(service(free, &[backend])));
    relay.publish([Arc::clone(&blocked), other]);
    let told = relay.told().await;
    assert!(told.0 == blocked.key && told.1.unwrap().contains("in use"));
    let shown = relay.status(blocked.key).unwrap().error;
    assert!(shown.is_some_and(|error| error.contains("in use")));
    eventually("the other service listens", || {
        relay.metric("haflinger_relay_services", "listening") == 1.0
    })
    .await;
    assert!(client(free).await.is_ok());
    drop(squatter);
    assert_eq!(relay.told().await, (blocked.key, None));
    eventually("it is taken", || relay.status(blocked.key).unwrap().listening).await;
    assert_eq!(relay.status(blocked.key).unwrap().error, None);
    assert!(client(taken).await.is_ok());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_is_withdrawn_when_the_socket_is_no_longer_wanted() {
    let mut relay = Running::start(settings());
    let (removed, left) = (vip(), vip());
    let _squatters =
        (TcpListener::bind(removed).await.unwrap(), TcpListener::bind(left).await.unwrap());
    let (removed, left) = (Arc::new(service(removed, &[])), Arc::new(service(left, &[])));
    relay.publish([Arc::clone(&removed), Arc::clone(&left)]);
    let faulty = BTreeSet::from([relay.told().await.0, relay.told().await.0]);
    assert_eq!(faulty, BTreeSet::from([removed.key, left.key]));
    relay.publish([elsewhere(&left)]);
    let told = BTreeSet::from([relay.told().await, relay.told().await]);
    assert_eq!(told, BTreeSet::from([(removed.key, None), (left.key, None)]));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_not_on_this_host_can_be_listened_on() {
    let relay = Running::start(settings());
    let backend = echo().await;
    let absent: SocketAddr = "192.0.2.1:8080".parse().unwrap();
    let absent_v6: SocketAddr = "[2001:db8::1]:8080".parse().unwrap();
    relay.serve([Arc::new(service(absent, &[backend])), Arc::new(service(absent_v6, &[]))]).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_closes_the_listener_first_and_waits_for_the_flows() {
    let relay = Running::start(settings());
    let (vip, backend) = (vip(), echo().await);
    relay.serve([Arc::new(service(vip, &[backend]))]).await;
    let (mut flow, _) = client(vip).await.unwrap();
    relay.shutdown.cancel();
    refused(vip).await;
    assert!(echoes(&mut flow).await);
    assert!(!relay.task.is_finished());
    drop(flow);
    within(relay.task).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_sender_of_snapshots_goes_the_last_one_stays() {
    let relay = Running::start(settings());
    let (vip, backend) = (vip(), echo().await);
    relay.serve([Arc::new(service(vip, &[backend]))]).await;
    let Running { snapshots, shutdown, task, .. } = relay;
    drop(snapshots);
    for _ in 0..3 {
        assert!(client(vip).await.is_ok());
    }
    shutdown.cancel();
    within(task).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_relay_leaves_nothing_behind() {
    let relay = Running::start(settings());
    let (vip, backend) = (vip(), echo().await);
    relay.serve([Arc::new(service(vip, &[backend]))]).await;
    let (mut flow, _) = client(vip).await.unwrap();
    relay.task.abort();
    assert_eq!(within(flow.read_u8()).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    refused(vip).await;
    eventually("nothing is held", || relay.handle.status().connections == 0).await;
}
