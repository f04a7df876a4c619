//! The kubelet's port: what pods have printed, for `kubectl logs` and whoever asks the API for it.
//!
//! It answers `GET /containerLogs/NAMESPACE/POD/CONTAINER` with the log's file, from `sinceTime`
//! on. Lines carry no times, so the stand-in notes now and then how long each log is.

use std::collections::BTreeMap;
use std::io::{self, SeekFrom};
use std::net::{SocketAddr, TcpListener as BlockingListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::Namespace;
use super::topology::NODES;

/// The kubelet's usual port.
pub(super) const PORT: u16 = 10250;
/// Longest request that is read, in bytes: a line and the API server's few headers.
const REQUEST_MAX: usize = 16 * 1024;
/// Marks that are kept of a log: one is made at most every look of the stand-in, so these are
/// those of ten minutes of constant printing. The oldest go first, and a log is then told from
/// further back than was asked for.
const MARKS_MAX: usize = 4096;
/// A request that takes longer is given up.
const EXCHANGE_MAX: Duration = Duration::from_secs(30);

/// Where the logs of all pods are. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Logs(Arc<Mutex<BTreeMap<String, Log>>>);

#[derive(Debug)]
struct Log {
    file: PathBuf,
    /// When it was how long, oldest first; only where that changed.
    marks: Vec<(Timestamp, u64)>,
}

impl Log {
    /// How long it was at `since`, or before: what was written later comes after that.
    fn offset(&self, since: Timestamp) -> u64 {
        let before = self.marks.partition_point(|(at, _)| *at <= since);
        before.checked_sub(1).map_or(0, |last| self.marks[last].1)
    }
}

impl Logs {
    /// Notes how long the log of a pod is now. `pod` is NAMESPACE/POD.
    pub(super) fn note(&self, pod: &str, file: &std::path::Path) {
        let length = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let log = all.entry(pod.to_owned());
        let log = log.or_insert_with(|| Log { file: file.to_owned(), marks: Vec::new() });
        if log.marks.last().is_none_or(|(_, known)| *known != length) {
            log.marks.push((Timestamp::now(), length));
            let excess = log.marks.len().saturating_sub(MARKS_MAX);
            log.marks.drain(..excess);
        }
    }

    /// Forgets the logs of pods for which `keep` does not hold.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|pod, _| keep(pod));
    }

    /// Answers on every node's port until the set is dropped. To be called on a runtime, whose
    /// namespace does not matter.
    pub(super) fn serve(&self, nodes: &[Namespace; 2]) -> Result<JoinSet<()>> {
        let acceptor = acceptor()?;
        let mut servers = JoinSet::new();
        for (host, node) in NODES.into_iter().zip(nodes) {
            let address = SocketAddr::new(host.v4().into(), PORT);
            let listener = node.enter(move || BlockingListener::bind(address))?;
            let listener = listener.with_context(|| format!("listen on {address}"))?;
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            servers.spawn(accept(listener, acceptor.clone(), self.clone()));
        }
        Ok(servers)
    }

    fn place(&self, target: &str) -> Option<(PathBuf, u64)> {
        let url = reqwest::Url::parse("https://node/").ok()?.join(target).ok()?;
        let rest = url.path().strip_prefix("/containerLogs/")?;
        let (pod, _container) = rest.rsplit_once('/')?;
        let since = url.query_pairs().find(|(key, _)| key == "sinceTime");
        let since = since.and_then(|(_, time)| time.parse::<Timestamp>().ok());
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let log = all.get(pod)?;
        Some((log.file.clone(), since.map_or(0, |since| log.offset(since))))
    }
}

/// With a certificate of its own making: the API server is not told to check it.
fn acceptor() -> Result<TlsAcceptor> {
    let key = KeyPair::generate()?;
    let names: Vec<String> = NODES.iter().map(|host| host.v4().to_string()).collect();
    let certificate = CertificateParams::new(names)?.self_signed(&key)?;
    let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], der)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, logs: Logs) {
    let mut exchanges = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let exchange = exchange(stream, acceptor.clone(), logs.clone());
                    exchanges.spawn(tokio::time::timeout(EXCHANGE_MAX, exchange));
                }
            }
            Some(done) = exchanges.join_next() => {
                // The asker sees for itself that it got no answer.
                tracing::trace!("a request for a log ended: {done:?}");
            }
        }
    }
}

async fn exchange(stream: TcpStream, acceptor: TlsAcceptor, logs: Logs) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut request = Vec::new();
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if request.len() > REQUEST_MAX || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let target = request.split_whitespace().nth(1).unwrap_or_default();
    let Some((path, offset)) = logs.place(target) else {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await?;
        return stream.shutdown().await;
    };
    let mut file = File::open(path).await?;
    file.seek(SeekFrom::Start(offset)).await?;
    let mut body = Vec::new();
    file.read_to_end(&mut body).await?;
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_told_from_where_it_was_at_that_time_or_before() {
        let second = |n| Timestamp::from_second(n).expect("a time");
        let marks = vec![(second(10), 0), (second(20), 100), (second(30), 250)];
        let log = Log { file: PathBuf::from("x"), marks };
        assert_eq!(log.offset(second(5)), 0);
        assert_eq!(log.offset(second(15)), 0);
        assert_eq!(log.offset(second(20)), 100);
        assert_eq!(log.offset(second(99)), 250);
    }

    #[test]
    fn requests_name_pod_container_and_time() {
        let logs = Logs::default();
        let file = tempfile::NamedTempFile::new().expect("a file");
        logs.note("shop/a-1", file.path());
        let found = logs.place("/containerLogs/shop/a-1/web?sinceTime=2020-01-01T00%3A00%3A00Z");
        assert_eq!(found, Some((file.path().to_owned(), 0)));
        assert_eq!(logs.place("/containerLogs/shop/a-2/web"), None);
        assert_eq!(logs.place("/healthz"), None);
        logs.retain(|pod| pod != "shop/a-1");
        assert_eq!(logs.place("/containerLogs/shop/a-1/web"), None);
    }
}
