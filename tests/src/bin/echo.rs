//! What runs in a pod of the lab: answers on fixed ports with the pod's name and the peer that
//! it saw.
//!
//! | port | what |
//! |---|---|
//! | 7000/tcp | one line `pod=NAME peer=ADDR:PORT`, then every line comes back as `NAME LINE` |
//! | 7000/udp | every datagram comes back behind `pod=NAME peer=ADDR:PORT ` |
//! | 7001/tcp | like 7000, but a PROXY protocol header must come first; adds `proxy=ADDR:PORT` |
//! | 7002/tcp | `store LENGTH` and as many bytes: answers `NAME CHECKSUM`; `fetch LENGTH`: answers `NAME`, then the pattern of that length |
//! | 8080/tcp | HTTP/1.1: JSON with pod, peer, method, path and headers |
//! | 8081/tcp | `GET /ready` answers 200 or 503; `POST /ready/true` and `/ready/false` set which |
//!
//! SIGTERM changes nothing but a line in the log: a pod that is terminating serves until the
//! end of its grace period, and is then killed.
#![expect(clippy::print_stdout, reason = "standard output is the pod's log")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use haflinger_tests::lab::echo_ports::{BULK, HTTP, LINE, PROXIED, READY};
use haflinger_tests::lab::{Pattern, raise_descriptor_limit};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};

/// Header lines of a request that are read at most.
const HEADERS_MAX: usize = 100;
/// Connections that wait to be accepted at most.
const BACKLOG: u32 = 4096;

#[derive(Parser)]
struct Args {
    /// Name of the pod.
    #[arg(long)]
    name: String,
    /// Address to listen on.
    #[arg(long, default_value = "::")]
    address: IpAddr,
    /// An address from which datagrams that came to it are answered, as a VIP on loopback wants.
    #[arg(long)]
    vip: Vec<IpAddr>,
}

struct Pod {
    name: String,
    ready: AtomicBool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    raise_descriptor_limit()?;
    let pod = Arc::new(Pod { name: args.name, ready: AtomicBool::new(true) });
    let address = |port| SocketAddr::new(args.address, port);
    let line = listen(address(LINE))?;
    let bulk = TcpListener::bind(address(BULK)).await?;
    let proxied = TcpListener::bind(address(PROXIED)).await?;
    let http = TcpListener::bind(address(HTTP)).await?;
    let ready = TcpListener::bind(address(READY)).await?;
    let mut datagrams = vec![datagrams_at(address(LINE))?];
    for vip in &args.vip {
        datagrams.push(datagrams_at(SocketAddr::new(*vip, LINE))?);
    }
    println!("READY {}", pod.name);

    tokio::spawn(accept(line, Arc::clone(&pod), |pod, stream| serve_lines(pod, stream, false)));
    tokio::spawn(accept(proxied, Arc::clone(&pod), |pod, stream| serve_lines(pod, stream, true)));
    tokio::spawn(accept(bulk, Arc::clone(&pod), serve_bulk));
    tokio::spawn(accept(http, Arc::clone(&pod), serve_http));
    tokio::spawn(accept(ready, Arc::clone(&pod), serve_http));
    for socket in datagrams {
        tokio::spawn(serve_datagrams(Arc::clone(&pod), socket));
    }

    let mut terminations = signal(SignalKind::terminate())?;
    while terminations.recv().await.is_some() {
        println!("terminating; serving until killed");
    }
    Ok(())
}

/// A listener whose queue is long enough for the tests' bursts of connections.
fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket.listen(BACKLOG)?)
}

/// A socket that shares its port with those at other addresses.
fn datagrams_at(address: SocketAddr) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into()).with_context(|| format!("bind {address}"))?;
    Ok(UdpSocket::from_std(socket.into())?)
}

async fn accept<F>(listener: TcpListener, pod: Arc<Pod>, serve: fn(Arc<Pod>, TcpStream) -> F)
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let serving = serve(Arc::clone(&pod), stream);
        // What a client does to its own connection is not the pod's concern.
        tokio::spawn(async move { drop(serving.await) });
    }
}

async fn serve_lines(pod: Arc<Pod>, stream: TcpStream, proxied: bool) -> Result<()> {
    stream.set_nodelay(true)?;
    let peer = canonical(stream.peer_addr()?);
    let mut stream = BufReader::new(stream);
    let mut greeting = format!("pod={} peer={peer}", pod.name);
    if proxied {
        greeting += &format!(" proxy={}", read_proxy_header(&mut stream).await?);
    }
    greeting.push('\n');
    stream.get_mut().write_all(greeting.as_bytes()).await?;
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let answer = format!("{} {line}", pod.name);
        stream.get_mut().write_all(answer.as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

async fn serve_bulk(pod: Arc<Pod>, stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [verb, length] = words[..] else { bail!("unexpected request {line:?}") };
    let length: u64 = length.parse()?;
    let answer = match verb {
        "store" => {
            let checksum = Pattern::checksum_read(&mut stream, length).await?;
            format!("{} {checksum:08x}\n", pod.name)
        }
        "fetch" => format!("{}\n", pod.name),
        _ => bail!("unexpected request {line:?}"),
    };
    stream.get_mut().write_all(answer.as_bytes()).await?;
    if verb == "fetch" {
        Pattern::new(length).write(stream.get_mut(), length).await?;
    }
    Ok(stream.get_mut().shutdown().await?)
}

/// The source of a PROXY protocol header, version 1 or 2, or `local`.
async fn read_proxy_header(stream: &mut BufReader<TcpStream>) -> Result<String> {
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let start = stream.fill_buf().await?;
    if !start.starts_with(b"\r") {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let words: Vec<&str> = line.split_whitespace().collect();
        ensure!(words.len() == 6 && words[0] == "PROXY", "no PROXY header: {line:?}");
        return Ok(SocketAddr::new(words[2].parse()?, words[4].parse()?).to_string());
    }
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    ensure!(head.starts_with(V2), "no PROXY header: {head:?}");
    let mut body = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
    stream.read_exact(&mut body).await?;
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let source = match (head[12] & 0xf, head[13] >> 4) {
        (0, _) => return Ok("local".into()),
        (1, 1) if body.len() >= 12 => {
            let source: [u8; 4] = body[..4].try_into()?;
            SocketAddr::new(source.into(), port(8))
        }
        (1, 2) if body.len() >= 36 => {
            let source: [u8; 16] = body[..16].try_into()?;
            SocketAddr::new(source.into(), port(32))
        }
        other => bail!("a PROXY header of another kind: {other:?}"),
    };
    Ok(source.to_string())
}

async fn serve_datagrams(pod: Arc<Pod>, socket: UdpSocket) -> Result<()> {
    let mut datagram = vec![0; 65_536];
    loop {
        // An ICMP error of an earlier answer shows up here; the next datagram is unharmed.
        let Ok((length, peer)) = socket.recv_from(&mut datagram).await else { continue };
        let mut answer = format!("pod={} peer={} ", pod.name, canonical(peer)).into_bytes();
        answer.extend_from_slice(&datagram[..length]);
        drop(socket.send_to(&answer, peer).await);
    }
}

struct Request {
    method: String,
    path: String,
    headers: serde_json::Map<String, serde_json::Value>,
}

async fn serve_http(pod: Arc<Pod>, stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let peer = canonical(stream.peer_addr()?);
    let port = stream.local_addr()?.port();
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream).await? {
        let (status, body) = if port == READY {
            readiness(&pod, &request)
        } else {
            let body = json!({
                "pod": pod.name,
                "peer": peer.to_string(),
                "method": request.method,
                "path": request.path,
                "headers": request.headers,
            });
            ("200 OK", body.to_string())
        };
        let closing = request.headers.get("connection").is_some_and(|value| value == "close");
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(answer.as_bytes()).await?;
        if closing {
            break;
        }
    }
    Ok(())
}

fn readiness(pod: &Pod, request: &Request) -> (&'static str, String) {
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/ready/true") => pod.ready.store(true, Ordering::Relaxed),
        ("POST", "/ready/false") => pod.ready.store(false, Ordering::Relaxed),
        ("GET", "/ready") if !pod.ready.load(Ordering::Relaxed) => {
            return ("503 Service Unavailable", "{}".into());
        }
        ("GET", "/ready") => {}
        _ => return ("404 Not Found", "{}".into()),
    }
    ("200 OK", "{}".into())
}

/// One request with its body read and forgotten; `None` when the client is done.
async fn read_request(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = words.next().zip(words.next()).context("no request line")?;
    let mut headers = serde_json::Map::new();
    for _ in 0..HEADERS_MAX {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().into());
    }
    let length = headers.get("content-length").and_then(|value| value.as_str()?.parse().ok());
    let mut body = stream.take(length.unwrap_or(0));
    tokio::io::copy_buf(&mut body, &mut tokio::io::sink()).await?;
    Ok(Some(Request { method, path, headers }))
}

fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
