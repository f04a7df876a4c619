//! The backend of all proxies, on the core of the load: HTTP/1.1 and WebSockets on one port,
//! gRPC over HTTP/2 without TLS on another.
//!
//! It looks at as much of a request as it must, and answers from memory: less work than any proxy
//! has with it. Whether that held is seen in `busy`, the share of its core that a proxy used.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::routes::{Answer, LARGE, SMALL, ending};
use super::websocket::{self, FROM_CLIENT};
use crate::process::Bound;

/// A request's head is not longer: those of the clients have a few hundred bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Streams that a proxy may have open on one connection: more than it is ever asked for.
const STREAMS_MAX: u32 = 1_024;

/// A unary answer: not compressed, five bytes long, and these (gRPC over HTTP/2,
/// "Length-Prefixed-Message").
const MESSAGE: &[u8] = b"\0\0\0\0\x05hello";

/// The running backend; ends when dropped.
pub(super) struct Backend {
    pub(super) http: SocketAddr,
    pub(super) grpc: SocketAddr,
    _running: oneshot::Sender<()>,
}

impl Backend {
    pub(super) fn start() -> Result<Self> {
        let (running, ended) = oneshot::channel();
        let bound = Bound::to_load()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let http = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let grpc = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let addresses = (http.local_addr()?, grpc.local_addr()?);
        let answers = Arc::new(Answers::new());
        thread::Builder::new()
            .name("backend".to_owned())
            .spawn(move || {
                runtime.spawn(accept(http, move |stream| serve(stream, answers.clone())));
                runtime.spawn(accept(grpc, serve_grpc));
                // Ends with the sender.
                let _ = runtime.block_on(ended);
            })
            .context("starting the backend")?;
        drop(bound);
        Ok(Self { http: addresses.0, grpc: addresses.1, _running: running })
    }
}

async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream));
    }
}

/// Whole answers, heads included.
struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        Self { small: answer(SMALL), large: answer(LARGE) }
    }
}

fn answer(body: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: backend\r\nContent-Type: text/plain\r\n\
         Content-Length: {body}\r\n\r\n"
    );
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + body, b'.');
    answer
}

/// One connection with HTTP/1.1.
async fn serve(mut stream: TcpStream, answers: Arc<Answers>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; HEAD_BYTES_MAX];
    let mut filled = 0;
    loop {
        let Some(end) = end_of_head(&buffer[..filled]) else {
            match stream.read(&mut buffer[filled..]).await? {
                0 => return Ok(()),
                length => filled += length,
            }
            continue;
        };
        match asked_for(&buffer[..end]) {
            Answer::Small => stream.write_all(&answers.small).await?,
            Answer::Large => stream.write_all(&answers.large).await?,
            Answer::WebSocket => return echo(stream).await,
        }
        buffer.copy_within(end..filled, 0);
        filled -= end;
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    if bytes.ends_with(END) {
        return Some(bytes.len());
    }
    bytes.windows(END.len()).position(|window| window == END).map(|at| at + END.len())
}

fn asked_for(head: &[u8]) -> Answer {
    let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let is = |answer: &Answer| path.ends_with(ending(*answer).as_bytes());
    [Answer::Large, Answer::WebSocket].into_iter().find(is).unwrap_or(Answer::Small)
}

/// Agrees to the upgrade, and sends every message back.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(websocket::AGREEMENT.as_bytes()).await?;
    let mut frame = [0; FROM_CLIENT];
    while stream.read_exact(&mut frame).await.is_ok() {
        stream.write_all(&websocket::answer(frame)).await?;
    }
    Ok(())
}

/// One connection with HTTP/2: every call is answered alike.
async fn serve_grpc(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut builder = h2::server::Builder::new();
    let handshake = builder.max_concurrent_streams(STREAMS_MAX).handshake(stream).await;
    let mut connection = handshake.map_err(io::Error::other)?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call.map_err(io::Error::other)?;
        // A call that its client gave up fails alone.
        tokio::spawn(answer_call(request, respond));
    }
    Ok(())
}

async fn answer_call(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<()> {
    let mut body = request.into_body();
    while let Some(chunk) = body.data().await {
        let length = chunk?.len();
        body.flow_control().release_capacity(length)?;
    }
    let head = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut answer = respond.send_response(head, false)?;
    answer.send_data(Bytes::from_static(MESSAGE), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    answer.send_trailers(trailers)?;
    Ok(())
}
