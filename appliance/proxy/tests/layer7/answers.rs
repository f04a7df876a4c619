//! What clients get in the place of what a backend says: compressed answers, pages, nothing too long.

use std::io::Read;
use std::net::SocketAddr;

use haflinger_core::{Compression, ErrorPage, ErrorPages, FieldEdits, Filter, Maintenance, Page};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::support::backend::{Backend, field};
use crate::support::client::RawClient;
use crate::support::{Lab, action, route};

/// A backend that says the same to everybody: the first part, then, once it may, the rest.
struct Canned {
    address: SocketAddr,
    go_on: watch::Sender<bool>,
}

impl Canned {
    async fn start(first: &str, rest: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let go_on = watch::Sender::new(false);
        let (parts, waiting) = ([first.to_owned(), rest.to_owned()], go_on.subscribe());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (parts, mut waiting) = (parts.clone(), waiting.clone());
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    while let Ok(1..) = stream.read_buf(&mut seen).await {
                        if !seen.ends_with(b"\r\n\r\n") {
                            continue;
                        }
                        seen.clear();
                        // The proxy may have closed.
                        let _ = stream.write_all(parts[0].as_bytes()).await;
                        if !parts[1].is_empty() && waiting.wait_for(|may| *may).await.is_ok() {
                            let _ = stream.write_all(parts[1].as_bytes()).await;
                        }
                    }
                });
            }
        });
        Self { address, go_on }
    }

    /// Says `fields` and `body`, whose length it tells.
    async fn whole(fields: &str, body: &str) -> Self {
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{fields}\r\n");
        Self::start(&(head + body), "").await
    }
}

async fn lab(backend: SocketAddr, filters: Vec<Filter>) -> Lab {
    let mut lab = Lab::start();
    lab.backends("shop", &[backend]);
    lab.listen(vec![route("/", action("shop", filters))]);
    lab.publish().await;
    lab
}

/// One chunk (RFC 9112, section 7.1); empty: the last.
async fn chunk(client: &mut RawClient) -> Vec<u8> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(client.bytes(1).await);
    }
    let length = std::str::from_utf8(&line).unwrap().trim();
    let length = usize::from_str_radix(length, 16).unwrap();
    let mut bytes = client.bytes(length + 2).await;
    assert_eq!(bytes.split_off(length), b"\r\n");
    bytes
}

async fn chunks(client: &mut RawClient) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let next = chunk(client).await;
        if next.is_empty() {
            return all;
        }
        all.extend(next);
    }
}

fn decoded(coding: &str, bytes: &[u8]) -> String {
    let mut text = String::new();
    let read = match coding {
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_string(&mut text),
        "br" => brotli::Decompressor::new(bytes, 4_096).read_to_string(&mut text),
        "zstd" => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_string(&mut text),
        other => panic!("{other}"),
    };
    read.unwrap();
    text
}

async fn head(client: &mut RawClient, accept: &str) -> (u16, String) {
    let fields = format!("Host: a.example\r\nAccept-Encoding: {accept}\r\n");
    client.send(&format!("GET / HTTP/1.1\r\n{fields}\r\n")).await;
    client.header().await.unwrap()
}

const HTML: &str = "Content-Type: text/html\r\nETag: \"v1\"\r\nAccept-Ranges: bytes\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn each_client_gets_the_coding_that_it_likes_best() {
    let page = "a word and another; ".repeat(2_000);
    let backend = Canned::whole(HTML, &page).await;
    let lab = lab(backend.address, vec![Filter::Compress(Compression::default())]).await;
    let mut client = RawClient::connect(lab.address).await;
    for (accept, coding) in
        [("gzip, deflate, br, zstd", "br"), ("gzip", "gzip"), ("br;q=0.1, zstd", "zstd")]
    {
        let (status, header) = head(&mut client, accept).await;
        assert_eq!((status, field(&header, "content-encoding")), (200, Some(coding)));
        assert_eq!(field(&header, "vary"), Some("Accept-Encoding"));
        assert_eq!(field(&header, "etag"), Some("W/\"v1\""));
        assert_eq!(field(&header, "transfer-encoding"), Some("chunked"));
        assert_eq!(field(&header, "content-length"), None);
        assert_eq!(field(&header, "accept-ranges"), None);
        let bytes = chunks(&mut client).await;
        assert!(bytes.len() < page.len() / 10);
        assert_eq!(decoded(coding, &bytes), page);
    }
    let (_, plain) = client.get("/").await.unwrap();
    assert!(plain.ends_with(&page));
    assert_eq!(field(&plain, "vary"), Some("Accept-Encoding"));
    assert_eq!(field(&plain, "etag"), Some("\"v1\""));
    assert!(lab.metric("haflinger_proxy_compression_bytes_total", "gzip") > page.len() as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_the_body_ends_with_the_stream() {
    let page = "a word and another; ".repeat(2_000);
    let backend = Canned::whole(HTML, &page).await;
    let lab = lab(backend.address, vec![Filter::Compress(Compression::default())]).await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let answer = client.get(lab.url("/")).header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    assert!(!answer.headers().contains_key("transfer-encoding"));
    assert_eq!(decoded("gzip", &answer.bytes().await.unwrap()), page);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_reaches_the_client_before_the_next_is_sent() {
    let head_of = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                   Transfer-Encoding: chunked\r\n\r\n";
    let first = format!("{head_of}b\r\ndata: one\n\n\r\n");
    let backend = Canned::start(&first, "b\r\ndata: two\n\n\r\n0\r\n\r\n").await;
    let lab = lab(backend.address, vec![Filter::Compress(Compression::default())]).await;
    for coding in ["gzip", "br", "zstd"] {
        backend.go_on.send_replace(false);
        let mut client = RawClient::connect(lab.address).await;
        let (_, header) = head(&mut client, coding).await;
        assert_eq!(field(&header, "content-encoding"), Some(coding));
        // It comes although the backend is waiting.
        let mut bytes = chunk(&mut client).await;
        backend.go_on.send_replace(true);
        bytes.extend(chunks(&mut client).await);
        assert_eq!(decoded(coding, &bytes), "data: one\n\ndata: two\n\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_coded_already_or_must_not_change_or_is_small_stays_as_it_is() {
    for fields in [
        "Content-Type: text/html\r\nContent-Encoding: gzip\r\n",
        "Content-Type: text/html\r\nCache-Control: no-transform\r\n",
        "Content-Type: image/png\r\n",
    ] {
        let body = "x".repeat(4_000);
        let backend = Canned::whole(fields, &body).await;
        let lab = lab(backend.address, vec![Filter::Compress(Compression::default())]).await;
        let mut client = RawClient::connect(lab.address).await;
        let shown = [("accept-encoding", "gzip")];
        let (_, answer) = client.ask("GET", "/", "a.example", &shown).await.unwrap();
        assert!(answer.ends_with(&body), "{fields}");
        assert_eq!(field(&answer, "vary"), None, "{fields}");
    }
}

fn page(body: &str) -> Page {
    Page { content_type: "text/html; charset=utf-8".into(), body: body.into() }
}

fn pages(intercept: bool) -> Filter {
    let pages = vec![
        ErrorPage { first: 503, last: 503, page: page("<p>busy</p>") },
        ErrorPage { first: 400, last: 599, page: page("<p>broken</p>") },
    ];
    Filter::ErrorPages(ErrorPages { pages, intercept })
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_errors_have_the_page_and_what_backends_say_only_where_asked() {
    let backend = Backend::start("shop").await;
    for intercept in [false, true] {
        let set = FieldEdits { set: vec![("x-a".into(), "b".into())], ..FieldEdits::default() };
        let filters = vec![pages(intercept), Filter::ResponseHeaders(set)];
        let mut lab = lab(backend.address, filters).await;
        let mut client = RawClient::connect(lab.address).await;
        let (status, answer) = client.get("/fail/1000/502").await.unwrap();
        assert_eq!(status, 502);
        assert_eq!(answer.ends_with("\r\n\r\n<p>broken</p>"), intercept, "{answer}");
        assert_eq!(field(&answer, "x-a"), Some("b"), "rules edit pages too");
        let mut client = RawClient::connect(lab.address).await;
        assert_eq!(client.get("/").await.unwrap().0, 200);
        lab.backends("shop", &[]);
        lab.publish().await;
        let (status, answer) = client.get("/").await.unwrap();
        assert_eq!(status, 503);
        assert!(answer.ends_with("\r\n\r\n<p>busy</p>"), "{answer}");
        assert_eq!(field(&answer, "content-type"), Some("text/html; charset=utf-8"));
        let expected = if intercept { 1.0 } else { 0.0 };
        assert_eq!(lab.metric("haflinger_proxy_pages_intercepted_total", ""), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_grpc_gets_a_status_and_no_page() {
    let closed = Maintenance { page: Some(page("later")), ..Maintenance::default() };
    let lab = lab("127.0.0.1:9".parse().unwrap(), vec![Filter::Maintenance(closed)]).await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let call = client.post(lab.url("/service/method")).header("content-type", "application/grpc");
    let answer = call.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["grpc-status"], "14");
    assert_eq!(answer.bytes().await.unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_is_for_all_but_the_excepted_and_no_backend_hears_of_it() {
    let backend = Backend::start("shop").await;
    for (except, expected) in [("192.0.2.0/24", 503), ("127.0.0.0/8", 200)] {
        let closed = Maintenance {
            retry_after_secs: 300,
            page: Some(page("<p>later</p>")),
            except: vec![except.parse().unwrap()],
        };
        let lab = lab(backend.address, vec![Filter::Maintenance(closed)]).await;
        let mut client = RawClient::connect(lab.address).await;
        let (status, answer) = client.get("/").await.unwrap();
        assert_eq!(status, expected);
        if status == 503 {
            assert_eq!(field(&answer, "retry-after"), Some("300"));
            assert!(answer.ends_with("\r\n\r\n<p>later</p>"), "{answer}");
            assert_eq!(backend.requests(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_says_that_it_is_too_long_becomes_502_and_another_is_cut_off() {
    let backend = Backend::start("shop").await;
    let lab1 = lab(backend.address, vec![Filter::AnswerMax(1_000)]).await;
    let mut client = RawClient::connect(lab1.address).await;
    assert_eq!(client.get("/big/1000").await.unwrap().0, 200);
    assert_eq!(client.get("/big/1001").await.unwrap().0, 502);
    assert_eq!(lab1.metric("haflinger_proxy_answers_too_long_total", ""), 1.0);
    let head_of = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let first = format!("{head_of}1f4\r\n{}\r\n", "x".repeat(500));
    let rest = format!("1f5\r\n{}\r\n0\r\n\r\n", "x".repeat(501));
    let unsaid = Canned::start(&first, &rest).await;
    let lab2 = lab(unsaid.address, vec![Filter::AnswerMax(1_000)]).await;
    let mut client = RawClient::connect(lab2.address).await;
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert_eq!(client.header().await.unwrap().0, 200);
    assert_eq!(chunk(&mut client).await.len(), 500);
    unsaid.go_on.send_replace(true);
    assert!(client.is_closed().await, "neither the rest nor an end that looks whole");
    assert_eq!(lab2.metric("haflinger_proxy_answers_too_long_total", ""), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_longer_than_the_rule_lets_it_be_gets_431() {
    let backend = Backend::start("shop").await;
    let lab = lab(backend.address, vec![Filter::HeaderMax(200)]).await;
    let ask = async |length: usize| {
        let mut client = RawClient::connect(lab.address).await;
        let value = "x".repeat(length);
        client.ask("GET", "/", "a.example", &[("x-long", &value)]).await.unwrap().0
    };
    assert_eq!((ask(100).await, ask(200).await), (200, 431));
    assert_eq!(lab.metric("haflinger_proxy_requests_refused_total", "header"), 1.0);
}
