//! The command line's side of the unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;

/// A daemon that does not answer in this time is stuck.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest answer that is read: 50,000 services make about 100 MB of JSON.
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// Why the daemon could not be asked.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers on {path} ({source}): is haflinger running, may this user read it?")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer broke off or was too long.
    #[error("the daemon on {path} did not answer properly: {reason}")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Asks for `target` (path and query) and returns the body.
pub(crate) async fn fetch(socket: &Path, target: &str) -> Result<Vec<u8>, ClientError> {
    let broken = |reason: String| ClientError::Answer { path: socket.to_owned(), reason };
    match tokio::time::timeout(TIMEOUT, exchange(socket, target)).await {
        Ok(result) => result,
        Err(_) => Err(broken(format!("no answer within {} s", TIMEOUT.as_secs()))),
    }
}

async fn exchange(socket: &Path, target: &str) -> Result<Vec<u8>, ClientError> {
    let broken = |reason: String| ClientError::Answer { path: socket.to_owned(), reason };
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| ClientError::Connect { path: socket.to_owned(), source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(error.to_string()))?;
    let driver = tokio::spawn(connection);
    let request = Request::get(target)
        .header(hyper::header::HOST, "localhost")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| broken(error.to_string()))?;
    let answer = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| broken(error.to_string()))?.to_bytes();
    driver.abort();
    if !status.is_success() {
        return Err(broken(format!("{status}: {}", String::from_utf8_lossy(&body).trim())));
    }
    Ok(body.to_vec())
}
