//! A small HTTP/1.1 server that shows what reached it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Answers by path: `/echo` the header as it came; `/fail/N/STATUS` the first N times this status;
/// `/trickle` a byte every few milliseconds, without end; `/size` the length of the body; `/big/N` N
/// bytes; `/gate` once the gate is opened; `/die` nothing, the connection is closed; an upgrade
/// echoes; everything else the backend's name.
pub struct Backend {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

struct Shared {
    name: String,
    requests: AtomicUsize,
    connections: AtomicUsize,
    failures: AtomicUsize,
    gate: watch::Sender<bool>,
    seen: Mutex<Vec<(String, usize)>>,
}

impl Backend {
    pub async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            failures: AtomicUsize::new(0),
            gate: watch::Sender::new(false),
            seen: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let (ours, stopped) = (shared.clone(), stop.clone());
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
                ours.connections.fetch_add(1, Ordering::Relaxed);
                let (ours, stopped) = (ours.clone(), stopped.clone());
                tokio::spawn(stopped.run_until_cancelled_owned(async move {
                    // The proxy may close at any time.
                    let _ = serve(stream, &ours).await;
                }));
            }
        });
        Self { address, shared, stop }
    }

    /// Requests that have reached it.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Headers of the requests that have come in whole, and the lengths of their bodies.
    pub fn seen(&self) -> Vec<(String, usize)> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Connections that have reached it.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Lets requests for `/gate` go on.
    pub fn open_gate(&self) {
        self.shared.gate.send_replace(true);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An address of this host on which nobody listens.
pub async fn dead_address() -> SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    // Held without listening, so that no other test is given the port.
    std::mem::forget(socket);
    address
}

async fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let mut header = String::new();
        loop {
            let before = header.len();
            if stream.read_line(&mut header).await? == 0 {
                return Ok(());
            }
            if header.len() - before == 2 {
                break;
            }
        }
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let path = header.split(' ').nth(1).unwrap_or("/").to_owned();
        if field(&header, "upgrade").is_some() {
            let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                          Upgrade: websocket\r\n\r\n";
            stream.get_mut().write_all(answer.as_bytes()).await?;
            let mut piece = [0; 1_024];
            loop {
                let n = stream.read(&mut piece).await?;
                if n == 0 {
                    return Ok(());
                }
                stream.get_mut().write_all(&piece[..n]).await?;
            }
        }
        let size = read_body(&mut stream, &header).await?;
        shared.seen.lock().unwrap().push((header.clone(), size));
        let status = failure(&path, shared);
        if path == "/trickle" {
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n").await?;
            loop {
                stream.get_mut().write_all(b"x").await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let body = match path.as_str() {
            other if other.split('?').next() == Some("/echo") => header.clone().into_bytes(),
            "/size" => size.to_string().into_bytes(),
            "/die" => return Ok(()),
            "/gate" => {
                let mut gate = shared.gate.subscribe();
                gate.wait_for(|open| *open).await.map_err(io::Error::other)?;
                shared.name.clone().into_bytes()
            }
            other => match other.strip_prefix("/big/").and_then(|n| n.parse().ok()) {
                Some(n) => vec![b'x'; n],
                None => shared.name.clone().into_bytes(),
            },
        };
        let answer = format!("HTTP/1.1 {status} A\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.get_mut().write_all(answer.as_bytes()).await?;
        if !header.starts_with("HEAD ") {
            stream.get_mut().write_all(&body).await?;
        }
    }
}

/// The status to answer with: that of `/fail/N/STATUS` for the first N requests.
fn failure(path: &str, shared: &Shared) -> u16 {
    let parts: Vec<&str> = path.split('/').collect();
    if let ["", "fail", count, status] = parts[..] {
        let so_far = shared.failures.fetch_add(1, Ordering::Relaxed);
        if so_far < count.parse().unwrap() {
            return status.parse().unwrap();
        }
    }
    200
}

/// The value of a field of a raw header.
pub fn field<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header.lines().skip(1).find_map(|line| {
        let (own, value) = line.split_once(':')?;
        own.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

async fn read_body(stream: &mut BufReader<TcpStream>, header: &str) -> io::Result<usize> {
    if let Some(length) = field(header, "content-length") {
        let length: u64 = length.parse().map_err(io::Error::other)?;
        let read = tokio::io::copy(&mut stream.take(length), &mut tokio::io::sink()).await?;
        return usize::try_from(read).map_err(io::Error::other);
    }
    let mut size = 0;
    if field(header, "transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let chunk = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let mut piece = stream.take(chunk + 2);
            tokio::io::copy(&mut piece, &mut tokio::io::sink()).await?;
            if chunk == 0 {
                break;
            }
            size += usize::try_from(chunk).map_err(io::Error::other)?;
        }
    }
    Ok(size)
}
