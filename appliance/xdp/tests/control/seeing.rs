//! What an operator is told, with flows that are there.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::{Algorithm, BackendState, Protocol, Service, ServiceKey, Snapshot};
use haflinger_xdp::program::types;
use haflinger_xdp::seeing::{FlowQuery, SeeError, Top, TraceQuery, Traced, TracedPacket};
use libbpf_rs::{MapCore as _, MapFlags, MapHandle};
use rustix::net::{AddressFamily, SocketType, bind, socket};
use tokio::sync::mpsc;

use crate::support::{
    POD, Running, ask, connect, echo, enter, in_namespaces, run, service, settings, snapshot, vip,
};

const CLIENT: &str = "10.1.0.2";

/// Two pods, which live in one namespace.
fn pods() -> [SocketAddr; 2] {
    run("ip -n pod addr add 10.2.0.3/24 dev eth0");
    let pods = [format!("{POD}:8080"), "10.2.0.3:8080".to_owned()];
    let pods = pods.map(|pod| pod.parse().unwrap());
    pods.into_iter().for_each(echo);
    pods
}

fn client(port: u16) -> SocketAddr {
    SocketAddr::new(CLIENT.parse::<IpAddr>().unwrap(), port)
}

fn key(port: u16) -> ServiceKey {
    ServiceKey { vip: vip(port).ip(), port, protocol: Protocol::Tcp }
}

/// A connection from a port of the client's.
async fn connect_from(port: u16, to: SocketAddr) -> std::io::Result<TcpStream> {
    let connecting = move || {
        enter("client");
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&socket, &client(port))?;
        rustix::net::connect(&socket, &to)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(stream)
    };
    let thread = move || std::thread::spawn(connecting).join().unwrap();
    tokio::task::spawn_blocking(thread).await.unwrap()
}

fn all() -> FlowQuery {
    FlowQuery { service: None, client: None, top: None, limit: 100 }
}

fn any() -> TraceQuery {
    TraceQuery { service: None, client: None, vip: None, one_in: 1, secs: 30, count: 1000 }
}

#[test]
fn a_connection_is_a_flow_with_its_backend_by_name() {
    in_namespaces(|| async {
        let pods = pods();
        let services = [service(80, &pods[..1]), service(81, &pods[1..])];
        let seen = snapshot(&services);
        let (running, _) = Running::start(settings(), &services).await;
        let web = connect_from(40_000, vip(80)).await.unwrap();
        ask(&web, "once").await;
        let other = connect_from(40_001, vip(81)).await.unwrap();
        for _ in 0..5 {
            ask(&other, "more than once").await;
        }
        let flows = |query: FlowQuery| running.handle.flows(&query, &seen).unwrap();
        let answer = flows(all());
        assert_eq!((answer.live["established"], answer.matching), (2, 2));
        assert_eq!((answer.opening.used, answer.established.used), (0, 2));
        assert_eq!((answer.opening.max, answer.established.max), (1024, 4096));
        let found = flows(FlowQuery { service: Some("default/web".parse().unwrap()), ..all() });
        assert_eq!(found.matching, 2, "both ports are the object's");
        let one = FlowQuery { service: Some("192.0.2.10:80".parse().unwrap()), ..all() };
        let one = flows(one).flows;
        assert_eq!(one.len(), 1);
        assert_eq!((one[0].client, one[0].service), (client(40_000), key(80)));
        assert_eq!((one[0].backend, one[0].phase), (pods[0], "established"));
        assert_eq!(one[0].backend_name.as_deref(), Some(pods[0].to_string().as_str()));
        assert_eq!(one[0].source.ip().to_string(), "10.2.0.1", "mode nat");
        assert!(one[0].packets_in >= 3 && one[0].packets_out >= 2, "{one:?}");
        let top = flows(FlowQuery { top: Some(Top::Bytes), limit: 1, ..all() });
        assert_eq!(top.flows[0].client, client(40_001));
        let nobody = FlowQuery { service: Some("default/nobody".parse().unwrap()), ..all() };
        let refused = running.handle.flows(&nobody, &seen).unwrap_err();
        assert!(matches!(refused, SeeError::NoService(_)), "{refused}");
        running.stop().await;
    });
}

#[test]
fn the_backend_that_is_foretold_is_the_one_that_a_flow_gets() {
    in_namespaces(|| async {
        let pods = pods();
        let spread = |port, algorithm| Service { algorithm, ..service(port, &pods) };
        let services = [
            spread(80, Algorithm::Hash),
            spread(81, Algorithm::RoundRobin),
            spread(82, Algorithm::LeastConnections),
            spread(83, Algorithm::Source { timeout_secs: 60 }),
        ];
        let seen = snapshot(&services);
        let (running, _) = Running::start(settings(), &services).await;
        let mut held = Vec::new();
        for port in [80, 81, 82, 83] {
            for from in (40_000..40_012).map(|from| from + 100 * (port - 80)) {
                let why = running.handle.why(client(from), key(port), &seen).unwrap();
                assert!(why.held && why.flow.is_none(), "{why:?}");
                let foretold = why.new_flow.unwrap().backend.unwrap().address;
                held.push(connect_from(from, vip(port)).await.unwrap());
                let why = running.handle.why(client(from), key(port), &seen).unwrap();
                assert_eq!(why.flow.unwrap().backend, foretold, "port {port} from {from}");
                assert_eq!(why.flow_backend.unwrap().state, Some(BackendState::Active));
            }
            let flows = running.handle.flows(&all(), &seen).unwrap().flows;
            let theirs = flows.iter().filter(|flow| flow.service.port == port);
            let first = theirs.filter(|flow| flow.backend == pods[0]).count();
            assert!(port == 83 || (1..12).contains(&first), "both are used, or nothing is shown");
        }
        running.stop().await;
    });
}

#[test]
fn a_refused_client_is_told_why() {
    in_namespaces(|| async {
        let empty = service(80, &[]);
        let closed = Service {
            source_ranges: vec!["198.51.100.0/24".parse().unwrap()],
            ..service(81, &pods())
        };
        let services = [empty, closed];
        let seen = snapshot(&services);
        let (running, _) = Running::start(settings(), &services).await;
        assert!(connect_from(40_000, vip(80)).await.is_err());
        let why = running.handle.why(client(40_000), key(80), &seen).unwrap();
        assert_eq!(why.refusal.unwrap().reason.name, "no_backend_reset");
        assert_eq!(why.new_flow.unwrap().refused.unwrap().name, "no_backend");
        assert!(why.bucket.is_none());
        let why = running.handle.why(client(40_000), key(81), &seen).unwrap();
        assert!(!why.clients.unwrap().served);
        assert_eq!(why.new_flow.unwrap().refused.unwrap().name, "source_range");
        let why = running.handle.why(client(40_000), key(82), &seen).unwrap();
        assert_eq!((why.object, why.neighbours), (None, vec![key(80), key(81)]));
        running.stop().await;
    });
}

/// The packets of a trace, until its end.
async fn packets(mut traced: mpsc::Receiver<Traced>) -> (Vec<TracedPacket>, Traced) {
    let mut seen = Vec::new();
    loop {
        match traced.recv().await.expect("the end comes last") {
            Traced::Packet(packet) => seen.push(*packet),
            end @ Traced::End(_) => return (seen, end),
        }
    }
}

/// Where the program reads its settings.
fn pinned(running: &Running) -> MapHandle {
    let layout = running.handle.status().layout.unwrap();
    MapHandle::from_pinned_path(settings().pin_dir.join(layout).join("settings")).unwrap()
}

const ONE_IN: usize = std::mem::offset_of!(types::settings, trace_one_in);

fn traced_one_in(settings: &MapHandle) -> u32 {
    let bytes = settings.lookup(&[0; 4], MapFlags::ANY).unwrap().unwrap();
    u32::from_ne_bytes(bytes[ONE_IN..ONE_IN + 4].try_into().unwrap())
}

/// As an earlier daemon leaves it that is killed while it traces.
fn leave_tracing(settings: &MapHandle) {
    let mut bytes = settings.lookup(&[0; 4], MapFlags::ANY).unwrap().unwrap();
    bytes[ONE_IN..ONE_IN + 4].copy_from_slice(&1_u32.to_ne_bytes());
    settings.update(&[0; 4], &bytes, MapFlags::ANY).unwrap();
    assert_eq!(traced_one_in(settings), 1);
}

#[test]
fn a_trace_shows_a_connection_from_its_first_packet_on() {
    in_namespaces(|| async {
        let services = [service(80, &pods()[..1]), service(81, &[])];
        let seen: Arc<Snapshot> = Arc::new(snapshot(&services));
        let (running, _) = Running::start(settings(), &services).await;
        let query = TraceQuery { vip: Some("192.0.2.10:80".parse().unwrap()), count: 4, ..any() };
        let traced = running.handle.trace(query, seen.clone()).unwrap();
        while traced_one_in(&pinned(&running)) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The other service's packets are not shown.
        assert!(connect(vip(81)).await.is_err());
        let stream = connect_from(40_000, vip(80)).await.unwrap();
        ask(&stream, "hello").await;
        let (packets, end) = packets(traced).await;
        let flags: Vec<&str> = packets.iter().map(|packet| packet.flags.as_str()).collect();
        assert_eq!(flags[..3], ["S", "SA", "A"]);
        let first = &packets[0];
        assert_eq!((first.from, first.to), (client(40_000), vip(80)));
        assert_eq!((first.interface.as_str(), first.egress.as_deref()), ("c0", Some("p0")));
        assert_eq!((first.verdict, first.reason.name), ("redirect", "forwarded_new"));
        assert!(first.stages.contains(&"flow created"), "{first:?}");
        assert_eq!(
            (first.service, first.backend),
            (Some(key(80)), Some("10.2.0.2:8080".parse().unwrap()))
        );
        let Traced::End(end) = end else { unreachable!("the end comes last") };
        assert_eq!((end.shown, end.lost), (4, 0));
        assert!(end.because.contains("as many"), "{end:?}");
        running.stop().await;
    });
}

#[test]
fn there_is_one_trace_at_a_time_and_it_is_withdrawn_with_its_reader_or_the_daemon() {
    in_namespaces(|| async {
        let services = [service(80, &pods())];
        let seen: Arc<Snapshot> = Arc::new(snapshot(&services));
        let (running, _) = Running::start(settings(), &services).await;
        let traced = running.handle.trace(any(), seen.clone()).unwrap();
        let refused = running.handle.trace(any(), seen.clone()).unwrap_err();
        assert!(matches!(refused, SeeError::Busy), "{refused}");
        let map = pinned(&running);
        while traced_one_in(&map) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(traced);
        while traced_one_in(&map) != 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running.kill().await;
        leave_tracing(&map);
        let (running, _) = Running::start(settings(), &services).await;
        assert_eq!(traced_one_in(&map), 0, "who asked is gone");
        running.stop().await;
    });
}
