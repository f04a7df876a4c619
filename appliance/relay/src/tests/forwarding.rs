//! Which backend a connection reaches, and what reaches it.

use std::collections::{BTreeMap, HashMap};

use haflinger_core::flow::flow_hash;
use haflinger_core::{Algorithm, ProxyProtocol};
use rand::{RngCore as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::proxy_protocol::{Decoded, Header, decode};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_reach_the_first_hop_that_the_table_says() {
    let relay = Running::start(settings());
    let (vip, backends) = (vip(), [echo().await, echo().await, echo().await]);
    let service = Arc::new(service(vip, &backends));
    relay.serve([Arc::clone(&service)]).await;
    let mut reached = BTreeMap::new();
    for _ in 0..60 {
        let (stream, port) = client(vip).await.unwrap();
        let source = stream.local_addr().unwrap();
        let hash = flow_hash(&settings().flow_hash_key, Protocol::Tcp, source, vip);
        assert_eq!(port, service.backends.table.hops(hash).unwrap().first.port());
        *reached.entry(port).or_insert(0) += 1;
    }
    assert_eq!(reached.len(), 3, "60 connections reach every backend: {reached:?}");
    let status = relay.status(service.key).unwrap();
    assert_eq!(status.total, 60);
    assert_eq!(status.backends.iter().map(|one| one.total).sum::<u64>(), 60);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_refuses_is_passed_over() {
    let relay = Running::start(settings());
    let (vip, alive, dead) = (vip(), echo().await, refusing().await);
    let service = Arc::new(service(vip, &[alive, dead]));
    relay.serve([Arc::clone(&service)]).await;
    for _ in 0..30 {
        assert_eq!(client(vip).await.unwrap().1, alive.port());
    }
    let status = relay.status(service.key).unwrap();
    let failed = status.backends.iter().find(|one| one.address == dead).unwrap().failed;
    assert!(failed > 0);
    assert_eq!(relay.metric("haflinger_relay_connect_failures_total", "refused"), failed as f64);
    assert_eq!(status.rejected, 0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_reset_when_the_attempts_are_used_up() {
    let relay = Running::start(Settings { connect_attempts_max: 2, ..settings() });
    let vip = vip();
    let dead = [refusing().await, refusing().await, refusing().await];
    let service = Arc::new(service(vip, &dead));
    relay.serve([Arc::clone(&service)]).await;
    let error = client(vip).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(relay.metric("haflinger_relay_connect_failures_total", ""), 2.0);
    assert_eq!(relay.metric("haflinger_relay_rejected_total", "connect_failed"), 1.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_never_answers_costs_one_timeout_and_then_another_is_tried() {
    // A listener whose backlog is full: further connections get no answer at all.
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let silent = full.local_addr().unwrap();
    let _listener = full.listen(1).unwrap();
    let mut fillers = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(silent)).await
    {
        fillers.push(stream);
    }
    let relay = Running::start(Settings { connect_timeout_ms: 200, ..settings() });
    let (vip, alive) = (vip(), echo().await);
    relay.serve([Arc::new(service(vip, &[alive, silent]))]).await;
    while relay.metric("haflinger_relay_connect_failures_total", "timeout") == 0.0 {
        assert_eq!(client(vip).await.unwrap().1, alive.port());
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_without_active_backends_resets_its_clients() {
    let relay = Running::start(settings());
    let (vip, draining) = (vip(), echo().await);
    relay.serve([Arc::new(service_of(vip, &[(draining, BackendState::Draining)]))]).await;
    assert_eq!(client(vip).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(relay.metric("haflinger_relay_rejected_total", "no_backend"), 1.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_affine_client_stays_although_the_table_moved() {
    let relay = Running::start(settings());
    let vip = vip();
    let affine = |backends: &[SocketAddr]| {
        let algorithm = Algorithm::Source { timeout_secs: 3600 };
        Arc::new(Service { algorithm, ..service(vip, backends) })
    };
    let first = echo().await;
    relay.serve([affine(&[first])]).await;
    assert_eq!(client(vip).await.unwrap().1, first.port());
    let mut backends = vec![first];
    for _ in 0..12 {
        backends.push(echo().await);
    }
    relay.change(affine(&backends)).await;
    for _ in 0..20 {
        assert_eq!(client(vip).await.unwrap().1, first.port());
    }
    // Once it takes no new flow the client goes elsewhere, and stays there.
    relay.change(affine(&backends[1..])).await;
    let elsewhere = client(vip).await.unwrap().1;
    relay.change(affine(&backends)).await;
    for _ in 0..20 {
        assert_eq!(client(vip).await.unwrap().1, elsewhere);
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backend_reads_the_proxy_protocol_header_before_the_payload() {
    let relay = Running::start(settings());
    // Answers with what it read up to the FIN.
    let mirror = backend("127.0.0.1:0", |mut stream, _| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await?;
        stream.write_all(&all).await
    })
    .await;
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let vip = vip();
        let service = Service { proxy_protocol: version, ..service(vip, &[mirror]) };
        relay.serve([Arc::new(service)]).await;
        let mut stream = TcpStream::connect(vip).await.unwrap();
        let source = stream.local_addr().unwrap();
        stream.write_all(b"payload").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut seen = Vec::new();
        within(stream.read_to_end(&mut seen)).await.unwrap();
        let header = Header::Relayed { protocol: Protocol::Tcp, source, destination: vip };
        let length = seen.len() - 7;
        assert_eq!(decode(&seen), Ok(Decoded::Header { header, length }));
        assert_eq!(&seen[length..], b"payload");
        assert_eq!(seen.starts_with(b"PROXY TCP4 127."), version == ProxyProtocol::V1);
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_transfers_arrive_whole_by_splice_and_by_copy() {
    // The block's length divides no buffer, so that a lost or swapped buffer cannot hide.
    let mut block = vec![0; 1_000_003];
    StdRng::seed_from_u64(7).fill_bytes(&mut block);
    let sent = Arc::new(block.repeat(24));
    for (pipes_max, way, other) in [(64, "splice", "copy"), (0, "copy", "splice")] {
        let relay = Running::start(Settings { pipes_max, ..settings() });
        let (vip, backend) = (vip(), echo().await);
        let service = Arc::new(service(vip, &[backend]));
        relay.serve([Arc::clone(&service)]).await;
        let (stream, _) = client(vip).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let to_send = Arc::clone(&sent);
        let sender = tokio::spawn(async move {
            for chunk in to_send.chunks(77_777) {
                write.write_all(chunk).await.unwrap();
            }
            write.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        within(read.read_to_end(&mut received)).await.unwrap();
        sender.await.unwrap();
        assert!(received == *sent, "received {} bytes of {}", received.len(), sent.len());
        assert!(relay.metric("haflinger_relay_bulk_rounds_total", way) > 0.0);
        assert_eq!(relay.metric("haflinger_relay_bulk_rounds_total", other), 0.0);
        eventually("the connection is counted out", || {
            relay.status(service.key).unwrap().active == 0
        })
        .await;
        let status = relay.status(service.key).unwrap();
        let length = sent.len() as u64;
        assert_eq!((status.bytes_in, status.bytes_out), (length, length + 2));
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fin_of_the_client_leaves_the_other_direction_open() {
    let relay = Running::start(settings());
    // Answers only after the client's FIN, and slowly enough to need the open direction.
    let late = backend("127.0.0.1:0", |mut stream, _| async move {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).await?;
        for part in request.chunks(3) {
            stream.write_all(part).await?;
            stream.flush().await?;
            tokio::task::yield_now().await;
        }
        stream.shutdown().await
    })
    .await;
    let vip = vip();
    relay.serve([Arc::new(service(vip, &[late]))]).await;
    let mut stream = TcpStream::connect(vip).await.unwrap();
    stream.write_all(b"question and answer").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"question and answer");
    eventually("it counts as finished", || {
        relay.metric("haflinger_relay_flows_ended_total", "finished") == 1.0
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fin_of_the_backend_leaves_the_other_direction_open() {
    let relay = Running::start(settings());
    let (report, mut reported) = tokio::sync::mpsc::channel(1);
    let early = backend("127.0.0.1:0", move |mut stream, _| {
        let report = report.clone();
        async move {
            stream.write_all(b"that is all").await?;
            stream.shutdown().await?;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await?;
            report.send(rest).await.map_err(io::Error::other)
        }
    })
    .await;
    let vip = vip();
    relay.serve([Arc::new(service(vip, &[early]))]).await;
    let mut stream = TcpStream::connect(vip).await.unwrap();
    let mut said = Vec::new();
    within(stream.read_to_end(&mut said)).await.unwrap();
    assert_eq!(said, b"that is all");
    stream.write_all(b"thank you").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(within(reported.recv()).await.unwrap(), b"thank you");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_one_side_becomes_a_reset_of_the_other() {
    let relay = Running::start(settings());
    let (report, mut reported) = tokio::sync::mpsc::channel(1);
    let backend = backend("127.0.0.1:0", move |mut stream, _| {
        let report = report.clone();
        async move {
            stream.write_u16(1).await?;
            match stream.read_u8().await {
                // Told to reset.
                Ok(b'R') => stream.set_zero_linger(),
                Ok(_) => Ok(()),
                Err(error) => report.send(error.kind()).await.map_err(io::Error::other),
            }
        }
    })
    .await;
    let vip = vip();
    relay.serve([Arc::new(service(vip, &[backend]))]).await;

    let (mut stream, _) = client(vip).await.unwrap();
    stream.write_all(b"R").await.unwrap();
    let error = within(stream.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

    let (stream, _) = client(vip).await.unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    assert_eq!(within(reported.recv()).await.unwrap(), io::ErrorKind::ConnectionReset);
    assert_eq!(relay.metric("haflinger_relay_flows_ended_total", "reset"), 2.0);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_before_a_reset_is_delivered() {
    let relay = Running::start(settings());
    // Answers without reading the request: closing with unread data resets the connection.
    let hasty = backend("127.0.0.1:0", |mut stream, _| async move {
        stream.read_u8().await?;
        stream.write_all(b"too large").await
    })
    .await;
    let vip = vip();
    relay.serve([Arc::new(service(vip, &[hasty]))]).await;
    let stream = TcpStream::connect(vip).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    // Ends when it is written or the connection is reset, whichever comes first.
    let upload = tokio::spawn(async move { write.write_all(&vec![b'.'; 1 << 20]).await });
    let mut answer = [0; 9];
    within(read.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"too large");
    let _ = within(upload).await.unwrap();
    eventually("the reset is passed on", || {
        relay.metric("haflinger_relay_flows_ended_total", "reset") == 1.0
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_after_the_fin_is_noticed_too() {
    let relay = Running::start(settings());
    let (report, mut reported) = tokio::sync::mpsc::channel(1);
    // Says nothing after the FIN, so that only the reset can end the connection.
    let silent = backend("127.0.0.1:0", move |mut stream, _| {
        let report = report.clone();
        async move {
            stream.write_u16(1).await?;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await?;
            report.send(None).await.map_err(io::Error::other)?;
            let ready = stream.ready(tokio::io::Interest::ERROR).await?;
            report.send(Some(ready.is_error())).await.map_err(io::Error::other)
        }
    })
    .await;
    let vip = vip();
    relay.serve([Arc::new(service(vip, &[silent]))]).await;
    let (mut stream, _) = client(vip).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(within(reported.recv()).await.unwrap(), None);
    stream.set_zero_linger().unwrap();
    drop(stream);
    assert_eq!(within(reported.recv()).await.unwrap(), Some(true));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipv6_clients_reach_ipv6_backends() {
    let relay = Running::start(settings());
    // ::1 is the only loopback address of IPv6: borrow a free port.
    let free = TcpListener::bind("[::1]:0").await.unwrap().local_addr().unwrap();
    let backends = [echo_on("[::1]:0").await, echo_on("[::1]:0").await];
    let service = Arc::new(service(free, &backends));
    relay.serve([Arc::clone(&service)]).await;
    let mut reached = HashMap::new();
    while reached.len() < 2 {
        let (mut stream, port) = client(free).await.unwrap();
        assert!(echoes(&mut stream).await);
        *reached.entry(port).or_insert(0) += 1;
    }
    relay.stop().await;
}
