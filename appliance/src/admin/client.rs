//! The command line's side of the unix socket.

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;

/// A daemon that does not answer in this time is stuck.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest refusal that is read: a line or two.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

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
    /// The daemon refuses, and says why.
    #[error("{0}")]
    Refused(String),
    /// The answer broke off or was too long.
    #[error("the daemon on {path} did not answer properly: {reason}")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A path with a query.
#[derive(Clone, Debug)]
pub(crate) struct Target(String);

impl Target {
    /// A path without a query yet.
    pub(crate) fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// Adds a value that is there.
    pub(crate) fn with(mut self, name: &str, value: Option<impl fmt::Display>) -> Self {
        let Some(value) = value else { return self };
        let separator = if self.0.contains('?') { '&' } else { '?' };
        // Writing into a string cannot fail.
        let _ = write!(self.0, "{separator}{name}=");
        for byte in value.to_string().bytes() {
            // RFC 3986, section 2.3.
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                self.0.push(byte.into());
            } else {
                let _ = write!(self.0, "%{byte:02X}");
            }
        }
        self
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Asks for `target` (path and query) and returns the body.
pub(crate) async fn fetch(socket: &Path, target: &str) -> Result<Vec<u8>, ClientError> {
    answered(socket, Method::GET, target).await
}

/// Has `target` (path and query) done and returns what the daemon says of it.
pub(crate) async fn order(socket: &Path, target: &str) -> Result<Vec<u8>, ClientError> {
    answered(socket, Method::POST, target).await
}

async fn answered(socket: &Path, method: Method, target: &str) -> Result<Vec<u8>, ClientError> {
    within(socket, TIMEOUT, async {
        let (answer, _connection) = ask(socket, method, target).await?;
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(body.map_err(|error| broken(socket, error))?.to_bytes().to_vec())
    })
    .await
}

/// Asks for `target` and hands each part of the body to `take` as it comes, until that answers
/// false or the body ends.
pub(crate) async fn follow(
    socket: &Path,
    target: &str,
    patience: Duration,
    mut take: impl FnMut(&[u8]) -> bool,
) -> Result<(), ClientError> {
    within(socket, patience, async {
        let (answer, _connection) = ask(socket, Method::GET, target).await?;
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken(socket, error))?;
            if frame.data_ref().is_some_and(|bytes| !take(bytes)) {
                break;
            }
        }
        Ok(())
    })
    .await
}

fn broken(socket: &Path, reason: impl ToString) -> ClientError {
    ClientError::Answer { path: socket.to_owned(), reason: reason.to_string() }
}

async fn within<T>(
    socket: &Path,
    patience: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    match tokio::time::timeout(patience, work).await {
        Ok(result) => result,
        Err(_) => Err(broken(socket, format!("no answer within {} s", patience.as_secs()))),
    }
}

/// A connection that ends when this is dropped.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn ask(
    socket: &Path,
    method: Method,
    target: &str,
) -> Result<(Response<Incoming>, Connection), ClientError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| ClientError::Connect { path: socket.to_owned(), source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(socket, error))?;
    let connection = Connection(tokio::spawn(connection).abort_handle());
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(hyper::header::HOST, "localhost")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| broken(socket, error))?;
    let answer = sender.send_request(request).await.map_err(|error| broken(socket, error))?;
    let status = answer.status();
    if status.is_success() {
        return Ok((answer, connection));
    }
    let body = Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect().await;
    let body = body.map_err(|error| broken(socket, error))?.to_bytes();
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    // What the daemon has no words for is not meant for people.
    let refuses = status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE;
    Err(match refuses && !text.is_empty() {
        true => ClientError::Refused(text),
        false => broken(socket, format!("{status}: {text}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_encoded_in_the_query() {
        let target = Target::new("/flows")
            .with("client", Some("[2001:db8::1]:80/tcp"))
            .with("top", None::<&str>)
            .with("limit", Some(7));
        assert_eq!(target.to_string(), "/flows?client=%5B2001%3Adb8%3A%3A1%5D%3A80%2Ftcp&limit=7");
    }
}
