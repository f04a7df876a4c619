//! A server and a client that speak HTTP/2 without asking, as gRPC does inside a network.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Sends every message back as it comes, and then the trailer `grpc-status: 0`. What it saw of the
/// request stands in fields of the answer that begin with `seen-`.
pub struct EchoServer {
    pub address: SocketAddr,
    stop: CancellationToken,
}

impl EchoServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
                tokio::spawn(stopped.clone().run_until_cancelled_owned(serve(stream)));
            }
        });
        Self { address, stop }
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(stream: TcpStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    // The proxy may close at any time.
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (parts, mut body) = request.into_parts();
        let field = |name: &str| parts.headers.get(name).cloned().unwrap_or("".parse().unwrap());
        let authority = parts.uri.authority().map_or("", |authority| authority.as_str());
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("seen-te", field("te"))
            .header("seen-authority", authority)
            .header("seen-path", parts.uri.path());
        let mut sender = respond.send_response(response.body(()).unwrap(), false).unwrap();
        tokio::spawn(async move {
            while let Some(Ok(piece)) = body.data().await {
                let _ = body.flow_control().release_capacity(piece.len());
                if sender.send_data(piece, false).is_err() {
                    return;
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let _ = sender.send_trailers(trailers);
        });
    }
}

/// A connection on which calls are made.
pub struct Caller(SendRequest<Bytes>);

/// A call in progress.
pub struct Call {
    pub sender: SendStream<Bytes>,
    pub response: Response<RecvStream>,
}

impl Caller {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// Makes a call to `http://host/path`.
    pub async fn call(&mut self, host: &str, path: &str) -> Call {
        let request = Request::post(format!("http://{host}{path}"))
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers");
        let sender = &mut self.0;
        std::future::poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
        let sent = sender.send_request(request.body(()).unwrap(), false);
        let (response, sender) = sent.unwrap();
        let response = tokio::time::timeout(super::PATIENCE, response);
        Call { response: response.await.expect("no answer").unwrap(), sender }
    }
}

impl Call {
    /// A field of the header.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    /// Sends a message and waits for it to come back.
    pub async fn echo(&mut self, message: &'static str) -> Bytes {
        self.sender.send_data(Bytes::from_static(message.as_bytes()), false).unwrap();
        let data = tokio::time::timeout(super::PATIENCE, self.response.body_mut().data());
        data.await.expect("no message").unwrap().unwrap()
    }

    /// Ends the call; the status in the trailers.
    pub async fn end(mut self) -> Option<String> {
        self.sender.send_data(Bytes::new(), true).unwrap();
        let body = self.response.body_mut();
        while let Some(data) = body.data().await {
            data.unwrap();
        }
        let trailers = body.trailers().await.unwrap()?;
        Some(trailers.get("grpc-status")?.to_str().unwrap().to_owned())
    }
}
