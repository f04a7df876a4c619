//! The fast path: what it keeps, what it gives away, and answers in every form.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::backend::Backend;
use crate::support::client::RawClient;
use crate::support::{Lab, until};

const SERVED: &str = "haflinger_proxy_fast_requests_total";
const LEFT: &str = "haflinger_proxy_fast_handovers_total";

/// A backend that answers every request with these bytes, `piece` bytes at a time, and then closes
/// the connection or not; and how many connections it has had.
async fn scripted(answer: &str, piece: usize, closes: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, answer) = (listener.local_addr().unwrap(), answer.to_owned());
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                stream.set_nodelay(true).unwrap();
                while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                    for piece in answer.as_bytes().chunks(piece) {
                        if stream.write_all(piece).await.is_err() {
                            return;
                        }
                        tokio::task::yield_now().await;
                    }
                    if closes {
                        return;
                    }
                }
            });
        }
    });
    (address, connections)
}

/// Everything that a client is sent that asks to close the connection.
async fn all(address: SocketAddr) -> String {
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut all = String::new();
    let _ = client.read_to_string(&mut all).await;
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_requests_stay_on_it_and_another_takes_the_connection_away() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(|settings| settings.workers = std::num::NonZeroUsize::MIN);
    lab.serve_all(&[shop.address]).await;
    let mut client = RawClient::connect(lab.address).await;
    for _ in 0..5 {
        assert_eq!(client.get("/echo").await.unwrap().0, 200);
    }
    // With a body, and two at once.
    let one = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    client.send(&one.repeat(2)).await;
    for _ in 0..2 {
        assert_eq!(client.answer().await.unwrap().0, 200);
    }
    // A request is counted a moment after its answer has gone.
    until("seven are counted", || lab.metric(SERVED, "") == 7.0).await;
    assert_eq!(lab.metric(LEFT, ""), 0.0);
    assert_eq!(shop.connections(), 1);
    // The chunked one is none of its, and what comes behind it either.
    let chunked =
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    client.send(&format!("{one}{chunked}{one}")).await;
    for _ in 0..3 {
        assert_eq!(client.answer().await.unwrap().0, 200);
    }
    until("another is counted", || lab.metric(SERVED, "") == 8.0).await;
    assert_eq!(lab.metric(LEFT, ""), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_the_same_wherever_its_bytes_are_parted() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.serve_all(&[shop.address]).await;
    let request = "PUT /echo HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\n1234";
    let mut client = RawClient::connect(lab.address).await;
    for cut in 1..request.len() {
        client.send(&request[..cut]).await;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        client.send(&request[cut..]).await;
        let (status, answer) = client.answer().await.unwrap();
        assert_eq!(status, 200, "{cut}");
        assert!(answer.contains("a.example"), "{answer}");
    }
    assert_eq!(lab.metric(LEFT, ""), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_in_every_form_arrive_whole_in_pieces_of_any_size() {
    let chunks = "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n";
    for (answer, closes, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde".to_owned(), false, "abcde"),
        (format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"), false, chunks),
        ("HTTP/1.1 200 OK\r\n\r\nabcde".to_owned(), true, "abcde"),
        ("HTTP/1.0 200 OK\r\n\r\nabcde".to_owned(), true, "abcde"),
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), false, ""),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!".to_owned(),
            false,
            "!",
        ),
    ] {
        for piece in [1, 2, 7, 4096] {
            let (backend, _) = scripted(&answer, piece, closes).await;
            let mut lab = Lab::start();
            lab.serve_all(&[backend]).await;
            let seen = all(lab.address).await;
            let (head, rest) = seen.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 20"), "{answer:?} in {piece}: {seen:?}");
            assert!(head.contains("connection: close"), "{seen:?}");
            assert_eq!(rest, body, "{answer:?} in pieces of {piece}");
            assert_eq!((lab.metric(SERVED, ""), lab.metric(LEFT, "")), (1.0, 0.0), "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_is_502_and_what_ends_too_early_is_cut_off() {
    for answer in [
        "SSH-2.0-OpenSSH_9\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nx",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
    ] {
        let (backend, _) = scripted(answer, 4096, true).await;
        let mut lab = Lab::start();
        lab.serve_all(&[backend]).await;
        let seen = all(lab.address).await;
        assert!(seen.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer:?}: {seen:?}");
        assert!(seen.ends_with("502 bad gateway\n"), "{seen:?}");
    }
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense",
    ] {
        let (backend, _) = scripted(answer, 4096, true).await;
        let mut lab = Lab::start();
        lab.serve_all(&[backend]).await;
        let mut client = RawClient::connect(lab.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        // The connection ends without what was announced, and no second answer comes.
        let header = client.header().await;
        assert!(header.is_none_or(|(status, _)| status == 200));
        assert!(client.answer().await.is_none(), "{answer:?}");
        assert_eq!(lab.metric("haflinger_proxy_upstream_failures_total", "exchange"), 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_says_more_than_its_answer_is_not_asked_again_on_that_connection() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for (extra, expected) in [("", 1), ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", 3)] {
        let (backend, connections) = scripted(&format!("{answer}{extra}"), 4096, false).await;
        let mut lab = Lab::start_with(|settings| settings.workers = std::num::NonZeroUsize::MIN);
        lab.serve_all(&[backend]).await;
        let mut client = RawClient::connect(lab.address).await;
        for _ in 0..3 {
            let (status, answer) = client.get("/").await.unwrap();
            assert!(status == 200 && answer.ends_with("ok"), "{answer}");
        }
        assert_eq!(connections.load(Ordering::Relaxed), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_waits_for_a_client_that_reads_slowly() {
    const BYTES: usize = 16 * 1024 * 1024;
    let body: String = (b'a'..=b'w').cycle().take(BYTES).map(char::from).collect();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n{body}");
    let (backend, _) = scripted(&answer, BYTES, false).await;
    let mut lab = Lab::start();
    lab.serve_all(&[backend]).await;
    let mut client = TcpStream::connect(lab.address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut seen, mut piece) = (Vec::new(), vec![0; 256 * 1024]);
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        match client.read(&mut piece).await.unwrap() {
            0 => break,
            length => seen.extend_from_slice(&piece[..length]),
        }
    }
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.split_once("\r\n\r\n").unwrap().1 == body, "{} bytes", seen.len());
}
