//! Connections that have asked once and then say nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::own;
use crate::l7::proxies::Proxy;

/// Descriptors that a proxy, or this program with the backend, needs beside those of idle
/// connections: the busy ones on both sides, files and pipes.
const OTHER_DESCRIPTORS: u64 = 1_000;

/// Open connections; closed when dropped.
pub(crate) struct Idle {
    plain: Vec<TcpStream>,
    tls: Vec<TlsStream<TcpStream>>,
    /// In which they are registered.
    _runtime: Runtime,
}

impl Idle {
    /// Allows this program, and what it starts, so many connections. Fails where the machine
    /// does not.
    pub(crate) fn allow(connections: usize) -> Result<()> {
        let needed = connections as u64 + OTHER_DESCRIPTORS;
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if let Some(maximum) = maximum {
            ensure!(
                needed <= maximum,
                "{needed} open files are needed, and {maximum} are allowed (ulimit -Hn)"
            );
        }
        if current.is_some_and(|current| current < needed) {
            let wanted = Rlimit { current: maximum, maximum };
            setrlimit(Resource::Nofile, wanted).context("allowing more open files")?;
        }
        Ok(())
    }

    /// Opens so many, without TLS or with it, each after a request and its answer.
    pub(crate) fn open(proxy: &Proxy, tls: bool, connections: usize) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (mut plain, mut secure) = (Vec::new(), Vec::new());
        let connector = TlsConnector::from(Arc::new(own::client_config(false)?));
        runtime.block_on(async {
            for _ in 0..connections {
                match tls {
                    true => secure.push(greeted(&connector, proxy.https).await?),
                    false => plain.push(asked(connected(proxy.http).await?).await?),
                }
            }
            anyhow::Ok(())
        })?;
        Ok(Self { plain, tls: secure, _runtime: runtime })
    }

    /// How many are still open: a proxy must not have closed them. One that is has nothing to
    /// read, neither an end nor a farewell before it; the sockets themselves are asked, because
    /// nobody follows their events now.
    pub(crate) fn still_open(&self) -> usize {
        let sockets = self.plain.iter().chain(self.tls.iter().map(|stream| stream.get_ref().0));
        let look = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        sockets.filter(|socket| recv(socket, &mut [0; 1], look) == Err(Errno::AGAIN)).count()
    }
}

async fn connected(proxy: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn greeted(connector: &TlsConnector, proxy: SocketAddr) -> Result<TlsStream<TcpStream>> {
    let stream = own::greet(connector, connected(proxy).await?, HandshakeKind::Full).await?;
    asked(stream).await
}

async fn asked<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> Result<S> {
    own::ask(&mut stream).await?;
    Ok(stream)
}
