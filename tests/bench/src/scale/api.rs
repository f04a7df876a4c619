//! The replayed API server: lists and watches over HTTP/1.1, as a cluster's would speak them.
//!
//! What passes between it and the daemon is what passes in a cluster: streaming lists (or pages,
//! when its version is too old for them), bookmarks, watch events, one connection a watch. What it
//! leaves out is TLS and the server's own time: an event leaves when the bench says so. Resources
//! that the cluster has no objects of are empty; nothing can be written.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

use super::world::{Kind, LISTED_VERSION, World};

/// Bytes of one chunk of a streaming list, roughly.
const CHUNK_BYTES: usize = 64 << 10;

/// Which version the server says that it is, and so how it is asked for lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lists {
    /// Streamed as the head of a watch.
    Streamed,
    /// In pages.
    Paged,
}

/// Nanoseconds of the clock that all processes share.
pub(super) fn now_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (secs, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    secs * 1_000_000_000 + nanos
}

/// The server; its threads end with the process.
pub(super) struct Api {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    world: Mutex<World>,
    lists: Lists,
    /// The watch of slices that stands.
    slices: Mutex<Option<TcpStream>>,
}

/// Plain data stays usable after a panic elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Api {
    /// Serves a world on a loopback address of the calling thread's network namespace.
    pub(super) fn start(world: World, lists: Lists) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("opening the replayed API")?;
        let address = listener.local_addr()?;
        let (world, slices) = (Mutex::new(world), Mutex::new(None));
        let shared = Arc::new(Shared { world, lists, slices });
        let serving = shared.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let shared = serving.clone();
                // A client that went away ends its thread, which is all there is to do.
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Ok(Self { address, shared })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next change leaves: its number, and when it left.
    pub(super) fn send_change(&self) -> Result<(usize, u64)> {
        let (number, slice) = lock(&self.shared.world).change();
        let line = format!("{{\"type\":\"MODIFIED\",\"object\":{slice}}}\n");
        let chunk = chunk(&line);
        let mut watch = lock(&self.shared.slices);
        let stream = watch.as_mut().context("nobody watches slices")?;
        let left = now_nanos();
        stream.write_all(&chunk).context("the watch of slices ended")?;
        Ok((number, left))
    }
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

/// The head of a request.
struct Request {
    method: String,
    path: String,
    query: String,
}

impl Request {
    fn read(reader: &mut impl std::io::BufRead) -> Option<Self> {
        let mut first = String::new();
        reader.read_line(&mut first).ok()?;
        let mut words = first.split_whitespace();
        let (method, target) = (words.next()?.to_owned(), words.next()?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let request = Self { method, path: path.to_owned(), query: query.to_owned() };
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.trim().is_empty() {
                return Some(request);
            }
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    fn is(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }

    /// The kind whose objects of all namespaces are asked for; `Err` for anything else.
    fn kind(&self) -> Result<Option<Kind>, ()> {
        let mut parts = self.path.trim_start_matches('/').split('/');
        let resource = match parts.next() {
            Some("api") => parts.nth(1),
            Some("apis") => parts.nth(2),
            _ => None,
        };
        match (resource, parts.next()) {
            (Some("services"), None) => Ok(Some(Kind::Services)),
            (Some("endpointslices"), None) => Ok(Some(Kind::Slices)),
            (Some("nodes"), None) => Ok(Some(Kind::Nodes)),
            (Some(_), None) => Ok(None),
            _ => Err(()),
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut stream = stream;
        loop {
            let request = Request::read(&mut reader)?;
            if request.method != "GET" {
                // Its body is not read: the connection ends with the answer.
                return refuse(&mut stream, 403, "Forbidden", "close");
            }
            if request.path == "/version" {
                let minor = if self.lists == Lists::Streamed { 34 } else { 30 };
                answer(
                    &mut stream,
                    &format!(
                        r#"{{"major":"1","minor":"{minor}","gitVersion":"v1.{minor}.0","gitCommit":"","gitTreeState":"clean","buildDate":"2026-01-01T00:00:00Z","goVersion":"go1","compiler":"gc","platform":"linux/amd64"}}"#
                    ),
                )?;
                continue;
            }
            let Ok(kind) = request.kind() else {
                refuse(&mut stream, 404, "NotFound", "keep-alive")?;
                continue;
            };
            if request.is("watch") {
                return self.watch(stream, &request, kind);
            }
            let page = self.page(&request, kind);
            answer(&mut stream, &page)?;
        }
    }

    /// Streams the list, if asked to, and what comes after it. The rest of the connection belongs
    /// to the watch.
    fn watch(&self, mut stream: TcpStream, request: &Request, kind: Option<Kind>) -> Option<()> {
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            )
            .ok()?;
        if request.is("sendInitialEvents") {
            self.stream_list(&mut stream, kind)?;
        }
        if kind == Some(Kind::Slices) {
            *lock(&self.slices) = Some(stream.try_clone().ok()?);
        }
        // Until the client goes away.
        let mut rest = BufReader::new(stream);
        while !rest.fill_buf().ok()?.is_empty() {
            let length = rest.buffer().len();
            rest.consume(length);
        }
        Some(())
    }

    fn stream_list(&self, stream: &mut TcpStream, kind: Option<Kind>) -> Option<()> {
        let world = lock(&self.world);
        let mut lines = String::with_capacity(2 * CHUNK_BYTES);
        if let Some(kind) = kind {
            let list = world.list(kind);
            for object in list.range(0..list.len()) {
                let _ = writeln!(lines, "{{\"type\":\"ADDED\",\"object\":{object}}}");
                if lines.len() >= CHUNK_BYTES {
                    stream.write_all(&chunk(&lines)).ok()?;
                    lines.clear();
                }
            }
        }
        let _ = writeln!(
            lines,
            "{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"Bookmark\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"{LISTED_VERSION}\",\"annotations\":{{\"k8s.io/initial-events-end\":\"true\"}}}}}}}}"
        );
        stream.write_all(&chunk(&lines)).ok()
    }

    fn page(&self, request: &Request, kind: Option<Kind>) -> String {
        let world = lock(&self.world);
        let total = kind.map_or(0, |kind| world.list(kind).len());
        let number = |name| request.value(name).and_then(|text| text.parse::<usize>().ok());
        let first = number("continue").unwrap_or(0);
        let end = number("limit").map_or(total, |limit| (first + limit).min(total));
        let token = if end < total { end.to_string() } else { String::new() };
        let mut page = format!(
            "{{\"kind\":\"List\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"{LISTED_VERSION}\",\"continue\":\"{token}\"}},\"items\":["
        );
        if let Some(kind) = kind {
            for (at, object) in world.list(kind).range(first..end).enumerate() {
                page.push_str(if at == 0 { "" } else { "," });
                page.push_str(object);
            }
        }
        page.push_str("]}");
        page
    }
}

fn answer(stream: &mut TcpStream, body: &str) -> Option<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()
}

fn refuse(stream: &mut TcpStream, code: u16, reason: &str, connection: &str) -> Option<()> {
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","code":{code},"reason":"{reason}","message":"the replayed API has no such thing"}}"#
    );
    let head = format!(
        "HTTP/1.1 {code} {reason}\r\nContent-Type: application/json\r\nConnection: {connection}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()
}
