//! Clients and the backend, on a thread of their own on core 1.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::process::Bound;

/// Bytes of one request, and of its answer.
const MESSAGE: usize = 64;

/// Written and read at once in bulk.
const CHUNK: usize = 256 * 1024;

/// What clients do.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// Connect, exchange one message, close.
    Connections { count: u64, at_once: usize },
    /// Exchange messages on connections that stay.
    Exchanges { count: u64, connections: usize },
    /// Receive in bulk.
    Download { mebibytes: u64, streams: u64 },
    /// Send in bulk.
    Upload { mebibytes: u64, streams: u64 },
}

/// The first byte on a connection tells the backend what to do.
const ECHO: u8 = b'e';
const SEND: u8 = b's';
const RECEIVE: u8 = b'r';

/// The thread that carries out work.
pub(crate) struct Load {
    runtime: Runtime,
    backend: SocketAddr,
    _bound: Bound,
}

impl Load {
    /// Starts the backend. Binds this thread, on which the clients run too, to its core.
    pub(crate) fn start() -> Result<Self> {
        let bound = Bound::to_load()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let backend = listener.local_addr()?;
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream));
            }
        });
        Ok(Self { runtime, backend, _bound: bound })
    }

    pub(crate) fn backend(&self) -> SocketAddr {
        self.backend
    }

    /// Does the work through a proxy. Answers with the number of clients that failed.
    pub(crate) fn carry_out(&self, work: Work, proxy: SocketAddr) -> Result<u64> {
        self.runtime.block_on(async {
            let mut clients = JoinSet::new();
            match work {
                Work::Connections { count, at_once } => {
                    let left = Arc::new(AtomicU64::new(count));
                    for _ in 0..at_once {
                        clients.spawn(connect_often(proxy, Arc::clone(&left)));
                    }
                }
                Work::Exchanges { count, connections } => {
                    for _ in 0..connections {
                        clients.spawn(exchange(proxy, count / connections as u64));
                    }
                }
                Work::Download { mebibytes, streams } => {
                    for _ in 0..streams {
                        clients.spawn(download(proxy, (mebibytes / streams) << 20));
                    }
                }
                Work::Upload { mebibytes, streams } => {
                    for _ in 0..streams {
                        clients.spawn(upload(proxy, (mebibytes / streams) << 20));
                    }
                }
            }
            let mut failures = 0;
            while let Some(ended) = clients.join_next().await {
                failures += u64::from(ended?.is_err());
            }
            Ok(failures)
        })
    }
}

/// One connection at the backend.
async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match stream.read_u8().await? {
        ECHO => {
            let mut message = [0; MESSAGE];
            while stream.read_exact(&mut message).await.is_ok() {
                stream.write_all(&message).await?;
            }
        }
        SEND => {
            let length = stream.read_u64().await?;
            send(&mut stream, length).await?;
        }
        RECEIVE => {
            let received = receive(&mut stream).await?;
            stream.write_u64(received).await?;
        }
        _ => {}
    }
    Ok(())
}

async fn connect_often(proxy: SocketAddr, left: Arc<AtomicU64>) -> io::Result<()> {
    let one_less = |left: u64| left.checked_sub(1);
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
        exchange(proxy, 1).await?;
    }
    Ok(())
}

async fn exchange(proxy: SocketAddr, count: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    let mut first = [ECHO; MESSAGE + 1];
    first[1..].fill(b'.');
    stream.write_all(&first).await?;
    let mut message = [0; MESSAGE];
    stream.read_exact(&mut message).await?;
    for _ in 1..count {
        stream.write_all(&message).await?;
        stream.read_exact(&mut message).await?;
    }
    Ok(())
}

async fn download(proxy: SocketAddr, length: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.write_u8(SEND).await?;
    stream.write_u64(length).await?;
    whole(receive(&mut stream).await? == length)
}

async fn upload(proxy: SocketAddr, length: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.write_u8(RECEIVE).await?;
    send(&mut stream, length).await?;
    stream.shutdown().await?;
    whole(stream.read_u64().await? == length)
}

fn whole(whole: bool) -> io::Result<()> {
    if whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

async fn send(stream: &mut TcpStream, length: u64) -> io::Result<()> {
    let chunk = vec![b'.'; CHUNK];
    let mut left = length;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&chunk[..size]).await?;
        left -= size as u64;
    }
    Ok(())
}

async fn receive(stream: &mut TcpStream) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut received = 0;
    loop {
        match stream.read(&mut chunk).await? {
            0 => return Ok(received),
            length => received += length as u64,
        }
    }
}
