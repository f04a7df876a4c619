//! Who gets new flows, by the algorithm of the service.

use std::collections::BTreeMap;

use haflinger_core::forwarding::ForwardingTable;
use haflinger_core::{Algorithm, BackendSet, Weight};

use super::*;

/// A service whose backends have these weights.
fn weighted(vip: SocketAddr, algorithm: Algorithm, backends: &[(SocketAddr, Weight)]) -> Service {
    let addresses: Vec<_> = backends.iter().map(|(address, _)| *address).collect();
    let service = service(vip, &addresses);
    let mut set = BackendSet::clone(&service.backends);
    for backend in &mut set.backends {
        let (_, weight) = backends.iter().find(|(address, _)| *address == backend.address).unwrap();
        backend.weight = *weight;
    }
    set.table = ForwardingTable::new(backends.iter().copied()).view();
    Service { algorithm, backends: Arc::new(set), ..service }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_robin_is_exact_over_a_cycle() {
    let relay = Running::start(settings());
    let (vip, light, heavy) = (vip(), echo().await, echo().await);
    let service = weighted(vip, Algorithm::RoundRobin, &[(light, 100), (heavy, 300)]);
    let buckets = service.backends.table.bucket_count();
    relay.serve([Arc::new(service)]).await;
    let mut reached: BTreeMap<u16, usize> = BTreeMap::new();
    for _ in 0..buckets {
        *reached.entry(client(vip).await.unwrap().1).or_default() += 1;
    }
    assert_eq!(reached[&light.port()], buckets / 4);
    assert_eq!(reached[&heavy.port()], buckets * 3 / 4);
    relay.stop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn least_connections_follows_what_is_open_and_the_weight() {
    let relay = Running::start(settings());
    let (vip, light, heavy) = (vip(), echo().await, echo().await);
    let service = weighted(vip, Algorithm::LeastConnections, &[(light, 100), (heavy, 300)]);
    let key = service.key;
    relay.serve([Arc::new(service)]).await;
    let mut open = Vec::new();
    for _ in 0..40 {
        open.push(client(vip).await.unwrap());
    }
    let at = |open: &[(TcpStream, u16)], backend: SocketAddr| {
        open.iter().filter(|(_, port)| *port == backend.port()).count()
    };
    assert_eq!((at(&open, light), at(&open, heavy)), (10, 30));
    // Whoever loses its connections gets the next ones.
    open.retain(|(_, port)| *port != light.port());
    eventually("the connections are gone", || relay.status(key).unwrap().active == 30).await;
    for _ in 0..10 {
        open.push(client(vip).await.unwrap());
    }
    assert_eq!((at(&open, light), at(&open, heavy)), (10, 30));
    relay.stop_now().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_algorithm_holds_for_the_next_flow_on_the_same_socket() {
    let relay = Running::start(settings());
    let (vip, one, two) = (vip(), echo().await, echo().await);
    let both = [(one, 100), (two, 100)];
    let affine = weighted(vip, Algorithm::Source { timeout_secs: 60 }, &both);
    let key = affine.key;
    relay.serve([Arc::new(affine)]).await;
    let (mut first, home) = client(vip).await.unwrap();
    for _ in 0..10 {
        assert_eq!(client(vip).await.unwrap().1, home);
    }
    relay.publish([Arc::new(weighted(vip, Algorithm::RoundRobin, &both))]);
    eventually("the change is seen", || {
        relay.status(key).unwrap().algorithm == Algorithm::RoundRobin
    })
    .await;
    let mut reached = std::collections::BTreeSet::new();
    for _ in 0..4 {
        reached.insert(client(vip).await.unwrap().1);
    }
    assert_eq!(reached.len(), 2);
    assert!(echoes(&mut first).await);
    relay.stop_now().await;
}
