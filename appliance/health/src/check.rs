//! One probe: a TCP connection on each of its ways, and for HTTP a request and the status line of
//! its answer.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::{HealthCheck, HealthCheckKind, ProbeWay, ProxyProtocol};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::tunnel::{Tunnel, TunnelError};

/// Read of an answer at most. A status line is rarely longer than 40 bytes; a backend that
/// sends more before its first line break speaks something else.
const STATUS_LINE_MAX: usize = 512;

/// Why a probe was not a success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    /// The check's time was over.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// No connection through a VIP.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// What went wrong on the way through a VIP.
    #[error("through {vip}: {error}{}", hint(.error))]
    Through {
        /// The VIP.
        vip: IpAddr,
        /// What went wrong.
        error: Box<CheckError>,
    },
    /// The connection broke.
    #[error("connection broke: {0}")]
    Broken(#[source] io::Error),
    /// The connection ended before a whole status line.
    #[error("connection closed before a status line")]
    Closed,
    /// The answer is not HTTP/1.
    #[error("answer is not HTTP/1")]
    NotHttp,
    /// The answer's status is outside 200 to 399.
    #[error("status {0}")]
    Status(u16),
    /// The path or host cannot stand in a request.
    #[error("the check's {0} holds characters that cannot stand in a request")]
    Unsendable(&'static str),
}

impl CheckError {
    /// Whether this host, not the backend, is at fault: such a probe says nothing.
    pub(crate) fn is_ours(&self) -> bool {
        use io::ErrorKind::{AddrNotAvailable, OutOfMemory};
        let error = match self {
            Self::Connect(error) | Self::Tunnel(TunnelError::Connect(error)) => error,
            Self::Tunnel(error) => return error.is_ours(),
            Self::Through { error, .. } => return error.is_ours(),
            _ => return false,
        };
        matches!(error.kind(), AddrNotAvailable | OutOfMemory)
            || matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS))
    }
}

/// Too many open files, of the process and of the system; no buffer space (`errno(3)`). The
/// standard library has no kinds for them.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
const ENOBUFS: i32 = 105;

/// What is most often missing when nothing comes back.
fn hint(error: &CheckError) -> &'static str {
    match error {
        CheckError::Timeout(_) => {
            "; the backend has to take IP-in-IP off, to hold the VIP, and to answer from it"
        }
        _ => "",
    }
}

/// Probes a backend once, on all ways at the same time. Every one has to lead to an answer.
pub(crate) async fn probe(
    backend: SocketAddr,
    check: &Arc<HealthCheck>,
    tunnel: &Arc<Tunnel>,
) -> Result<(), CheckError> {
    let [first, others @ ..] = check.ways() else { return Ok(()) };
    // Ended with this, should it be.
    let mut beside = JoinSet::new();
    for way in others {
        let (way, check, tunnel) = (*way, Arc::clone(check), Arc::clone(tunnel));
        beside.spawn(async move { probe_on(way, backend, &check, &tunnel).await });
    }
    let mut found = probe_on(*first, backend, check, tunnel).await;
    while let Some(ended) = beside.join_next().await {
        // A task ends by itself or with this one.
        let Ok(other) = ended else { continue };
        found = worse(found, other);
    }
    found
}

/// The backend's fault goes before this host's, which goes before none.
fn worse(one: Result<(), CheckError>, other: Result<(), CheckError>) -> Result<(), CheckError> {
    let rank = |found: &Result<(), CheckError>| match found {
        Ok(()) => 0,
        Err(error) if error.is_ours() => 1,
        Err(_) => 2,
    };
    if rank(&other) > rank(&one) { other } else { one }
}

async fn probe_on(
    way: ProbeWay,
    backend: SocketAddr,
    check: &HealthCheck,
    tunnel: &Tunnel,
) -> Result<(), CheckError> {
    let within = Duration::from_millis(u64::from(check.timeout_ms));
    let port = check.port.unwrap_or(backend.port());
    let ask = async {
        match way {
            ProbeWay::Direct => ask_directly(SocketAddr::new(backend.ip(), port), check).await,
            ProbeWay::Through(vip) => {
                let vip = SocketAddr::new(vip, port);
                let stream = tunnel.connect(backend.ip(), vip).await?;
                converse(stream, vip, check).await
            }
        }
    };
    let found = timeout(within, ask).await.unwrap_or(Err(CheckError::Timeout(within)));
    found.map_err(|error| match way {
        ProbeWay::Direct => error,
        ProbeWay::Through(vip) => CheckError::Through { vip, error: Box::new(error) },
    })
}

async fn ask_directly(address: SocketAddr, check: &HealthCheck) -> Result<(), CheckError> {
    let stream = TcpStream::connect(address).await.map_err(CheckError::Connect)?;
    // Closed by a reset: thousands of probes a second must leave no TIME_WAIT on either side.
    let _ = stream.set_zero_linger();
    converse(stream, address, check).await
}

/// Says what there is to say on a fresh connection, and judges the answer.
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: SocketAddr,
    check: &HealthCheck,
) -> Result<(), CheckError> {
    stream.write_all(proxy_header(check.proxy_protocol)).await.map_err(CheckError::Broken)?;
    let HealthCheckKind::Http { path, host } = &check.kind else { return Ok(()) };
    let request = request(address, path, host.as_deref())?;
    stream.write_all(request.as_bytes()).await.map_err(CheckError::Broken)?;
    let status = status_of(&read_line(&mut stream).await?).ok_or(CheckError::NotHttp)?;
    if (200..400).contains(&status) { Ok(()) } else { Err(CheckError::Status(status)) }
}

/// The header of a connection that has no client (PROXY protocol specification, sections 2.1 and
/// 2.2): the backend takes the connection's own addresses.
fn proxy_header(version: ProxyProtocol) -> &'static [u8] {
    match version {
        ProxyProtocol::Off => b"",
        ProxyProtocol::V1 => b"PROXY UNKNOWN\r\n",
        // Signature; version 2 and command LOCAL; family and protocol unspecified; no addresses.
        ProxyProtocol::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
    }
}

fn request(address: SocketAddr, path: &str, host: Option<&str>) -> Result<String, CheckError> {
    if !path.starts_with('/') || !is_visible(path) {
        return Err(CheckError::Unsendable("path"));
    }
    let address = address.to_string();
    let host = host.unwrap_or(&address);
    if !is_visible(host) {
        return Err(CheckError::Unsendable("host"));
    }
    Ok(format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: haflinger-health\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    ))
}

/// Visible ASCII only: what could end the line, or the request, stays out.
fn is_visible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The answer up to its first line break.
async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, CheckError> {
    let mut buffer = [0; STATUS_LINE_MAX];
    let mut filled = 0;
    loop {
        let bytes = stream.read(&mut buffer[filled..]).await.map_err(CheckError::Broken)?;
        if bytes == 0 {
            let full = filled == buffer.len();
            return Err(if full { CheckError::NotHttp } else { CheckError::Closed });
        }
        filled += bytes;
        if let Some(end) = buffer[..filled].iter().position(|byte| *byte == b'\n') {
            return Ok(buffer[..end].to_vec());
        }
    }
}

/// The status of `HTTP/1.x NNN reason` (RFC 9112, section 4).
fn status_of(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let (minor, rest) = rest.split_first()?;
    let (digits, rest) = rest.strip_prefix(b" ")?.split_at_checked(3)?;
    let ends = rest.is_empty() || rest.starts_with(b" ") || rest == b"\r";
    if !minor.is_ascii_digit() || !digits.iter().all(u8::is_ascii_digit) || !ends {
        return None;
    }
    Some(digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn status_lines_are_read_as_the_rfc_writes_them() {
        assert_eq!(status_of(b"HTTP/1.1 200 OK\r"), Some(200));
        assert_eq!(status_of(b"HTTP/1.0 503 \r"), Some(503));
        assert_eq!(status_of(b"HTTP/1.1 204\r"), Some(204));
        let refused: [&[u8]; 6] =
            [b"HTTP/2 200", b"HTTP/1.1 20", b"HTTP/1.1  200", b"HTTP/1.1 2000", b"SSH-2.0-x", b""];
        for line in refused {
            assert_eq!(status_of(line), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_path_or_host_that_would_end_the_line_is_not_sent() {
        let address = "192.0.2.1:80".parse().unwrap();
        assert!(request(address, "/x HTTP/1.1\r\nEvil: 1", None).is_err());
        assert!(request(address, "healthz", None).is_err());
        assert!(request(address, "/", Some("a\r\nb")).is_err());
        assert!(request(address, "/", None).unwrap().contains("\r\nHost: 192.0.2.1:80\r\n"));
        let named = request(address, "/h?a=b", Some("web.example")).unwrap();
        assert!(named.starts_with("GET /h?a=b HTTP/1.1\r\nHost: web.example\r\n"));
    }

    #[test]
    fn what_this_host_lacks_is_not_the_backends_fault() {
        let with = |errno| CheckError::Connect(io::Error::from_raw_os_error(errno));
        assert!(with(EMFILE).is_ours() && with(ENFILE).is_ours() && with(ENOBUFS).is_ours());
        let refused = CheckError::Connect(io::ErrorKind::ConnectionRefused.into());
        assert!(!refused.is_ours() && !CheckError::Closed.is_ours());
    }

    #[test]
    fn of_several_ways_the_worst_counts_and_says_which() {
        let through = |error| {
            let vip = [192, 0, 2, 1].into();
            Err(CheckError::Through { vip, error: Box::new(error) })
        };
        let ours = || through(TunnelError::Denied { socket: "raw" }.into());
        let silent = through(CheckError::Timeout(Duration::from_millis(500)));
        let found = worse(worse(Ok(()), ours()), silent);
        let text = found.as_ref().unwrap_err().to_string();
        assert!(text.starts_with("through 192.0.2.1: no answer within 500 ms; the backend"));
        assert!(!worse(found, ours()).unwrap_err().is_ours());
        let denied = worse(ours(), Ok(())).unwrap_err();
        assert!(denied.is_ours() && denied.to_string().contains("give it CAP_NET_RAW"));
    }

    proptest! {
        #[test]
        fn every_status_is_read_back(status in 100_u16..1000, reason in "[ -~]{0,20}") {
            let line = format!("HTTP/1.1 {status} {reason}\r");
            prop_assert_eq!(status_of(line.as_bytes()), Some(status));
        }

        #[test]
        fn no_line_makes_it_panic(line in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = status_of(&line);
        }
    }
}
