//! What changes while connections live.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use haflinger_core::forwarding::ForwardingTable;
use haflinger_core::{ForwardingMode, Service, Update};
use haflinger_xdp::{Capacities, Settings};

use crate::support::{
    POD, Running, ask, connect, echo, in_namespaces, run, service, service_with, settings, vip,
    weighted, within,
};

fn pod() -> SocketAddr {
    format!("{POD}:8080").parse().unwrap()
}

#[test]
fn a_service_with_ten_thousand_backends_follows_its_pods() {
    in_namespaces(|| async {
        // All of them live in one namespace, which takes the whole network as its own.
        run("ip -n pod route add local 10.3.0.0/16 dev lo; ip route add 10.3.0.0/16 via 10.2.0.2");
        let members: Vec<SocketAddr> = (0..10_000_u16)
            .map(|at| SocketAddr::from(([10, 3, at.to_be_bytes()[0], at.to_be_bytes()[1]], 8080)))
            .collect();
        echo("0.0.0.0:8080".parse().unwrap());
        let mut table = ForwardingTable::new(weighted(&members));
        let web = service_with(80, &members, table.view());
        let (running, fault) = Running::start(settings(), &[web]).await;
        assert_eq!(fault, None);
        let stream = connect(vip(80)).await.unwrap();
        ask(&stream, "to one of many").await;
        // Half of them are replaced, among them perhaps the one that holds the connection.
        let kept = &members[5_000..];
        table.update(weighted(kept), 1);
        running.publish(&[service_with(80, kept, table.view())]);
        running.until_backends(80, 5_000).await;
        ask(&stream, "although it may have left").await;
        ask(&connect(vip(80)).await.unwrap(), "and anew").await;
        running.stop().await;
    });
}

#[test]
fn a_service_without_room_is_refused_and_comes_back_when_there_is() {
    in_namespaces(|| async {
        echo(pod());
        let tight = Settings {
            capacities: Capacities { services: 1, ..settings().capacities },
            ..settings()
        };
        let services = [service(80, &[pod()]), service(81, &[pod()])];
        let (mut running, _) = Running::start(tight, &services).await;
        let word = running.next_word(81).await.unwrap();
        assert!(word.contains("xdp.services_max"), "{word}");
        let relayed = Service { mode: ForwardingMode::Proxy, ..services[1].clone() };
        running.publish(&[relayed]);
        assert_eq!(running.next_word(81).await, None);
        running.publish(&[services[1].clone()]);
        running.until_backends(81, 1).await;
        ask(&connect(vip(81)).await.unwrap(), "there is room now").await;
        running.stop().await;
    });
}

#[test]
fn other_source_addresses_hold_for_new_connections() {
    in_namespaces(|| async {
        echo(pod());
        run("ip addr add 10.2.0.77/32 dev p0");
        let (running, _) = Running::start(settings(), &[service(80, &[pod()])]).await;
        let old = connect(vip(80)).await.unwrap();
        ask(&old, "from the host's own address").await;
        let changed = Settings { nat_addresses: vec!["10.2.0.77".parse().unwrap()], ..settings() };
        running.handle.reconfigure(changed).unwrap();
        while !running.handle.status().sources.iter().any(|s| s.address.to_string() == "10.2.0.77")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let new = connect(vip(80)).await.unwrap();
        ask(&new, "from the configured one").await;
        ask(&old, "the old one lives").await;
        let peers: BTreeSet<String> = within("pod", || {
            let shown = run("ss -Htn state established sport = :8080");
            let peers = shown.lines().filter_map(|line| line.split_whitespace().nth(3));
            peers.map(|peer| peer.rsplit_once(':').unwrap().0.to_owned()).collect()
        });
        assert!(peers.iter().any(|peer| peer.contains("10.2.0.1")), "{peers:?}");
        assert!(peers.iter().any(|peer| peer.contains("10.2.0.77")), "{peers:?}");
        running.stop().await;
    });
}

#[test]
fn other_sizes_load_it_anew_and_connections_stay() {
    in_namespaces(|| async {
        echo(pod());
        let (running, _) = Running::start(settings(), &[service(80, &[pod()])]).await;
        let stream = connect(vip(80)).await.unwrap();
        ask(&stream, "before").await;
        let capacities =
            Capacities { established_flows: 8192, opening_flows: 2048, ..settings().capacities };
        running.handle.reconfigure(Settings { capacities, ..settings() }).unwrap();
        while running.handle.status().carried.is_none() || running.attached().len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ask(&stream, "after").await;
        let carried = running.handle.status().carried.unwrap();
        assert_eq!((carried.flows, carried.dropped, carried.reason), (1, 0, None));
        ask(&connect(vip(80)).await.unwrap(), "and anew").await;
        // The former maps go once everything is carried over. The shell names what is there and
        // does not look at it, since it may be going.
        let layouts = || run("echo /sys/fs/bpf/haflinger/v*").split_whitespace().count();
        while layouts() != 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        running.stop().await;
    });
}

#[test]
fn a_service_that_is_relayed_keeps_its_connections_here() {
    in_namespaces(|| async {
        echo(pod());
        let web = service(80, &[pod()]);
        let (mut running, _) = Running::start(settings(), std::slice::from_ref(&web)).await;
        let stream = connect(vip(80)).await.unwrap();
        running.publish(&[Service { mode: ForwardingMode::Proxy, ..web }]);
        running.until_left(80).await;
        ask(&stream, "it goes on").await;
        while let Ok(word) = running.updates.try_recv() {
            assert!(!matches!(word, Update::Forwarding { .. }), "nothing is refused: {word:?}");
        }
        running.stop().await;
    });
}

/// Waits until the ways out that are too narrow are these: interface, MTU, whether by a route.
async fn until_narrow(running: &Running, wanted: &[(&str, u32, bool)]) {
    let found = || {
        let narrow = running.handle.status().narrow_exits;
        let figures = narrow.iter().map(|exit| (exit.interface.clone(), exit.mtu, exit.by_route));
        figures.collect::<Vec<_>>()
    };
    let is_wanted = |(name, mtu, by_route): &(&str, u32, bool)| (name.to_string(), *mtu, *by_route);
    let wanted: Vec<_> = wanted.iter().map(is_wanted).collect();
    while found() != wanted {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_way_out_without_room_for_the_outer_header_is_named_until_it_has_room() {
    in_namespaces(|| async {
        let encapsulated = |port| Service {
            mode: ForwardingMode::Dsr,
            ..service(port, &[SocketAddr::new(POD.parse().unwrap(), port)])
        };
        let (running, _) = Running::start(settings(), &[encapsulated(80)]).await;
        until_narrow(&running, &[("p0", 1500, false)]).await;
        run("ip link set p0 mtu 1520");
        until_narrow(&running, &[]).await;
        run("ip route add 10.2.0.2/32 dev p0 mtu lock 1400");
        until_narrow(&running, &[("p0", 1400, true)]).await;
        let text = running.handle.status().narrow_exits[0].text.clone();
        assert!(text.contains("arrive by c0, and p0 has room for 1380"), "{text}");
        // A service in another mode needs no header.
        running.publish(&[service(80, &[SocketAddr::new(POD.parse().unwrap(), 80)])]);
        until_narrow(&running, &[]).await;
        running.stop().await;
    });
}

#[test]
fn a_source_address_that_the_host_lacks_is_named_until_somebody_binds_it() {
    in_namespaces(|| async {
        let nat_addresses = vec!["10.2.0.78".parse().unwrap()];
        let lacking = Settings { nat_addresses, ..settings() };
        let (running, _) = Running::start(lacking, &[service(80, &[pod()])]).await;
        let is_named = || {
            let faults = running.handle.status().source_faults;
            faults.iter().any(|fault| fault.contains("nat_addresses: 10.2.0.78 is no address"))
        };
        while !is_named() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        run("ip addr add 10.2.0.78/32 dev lo");
        while is_named() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        running.stop().await;
    });
}
