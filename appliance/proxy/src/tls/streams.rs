//! Connections that are passed on without a look inside (TLSRoute): as they came, TLS and all, or
//! decrypted by us.
//!
//! The server name chooses the rule, the connection's hash the share of its backends. Bytes go
//! both ways until both ends are done; an end that has no more to say is told to the other, which
//! may go on. What cannot be connected to is tried elsewhere, since nothing has been sent.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use haflinger_core::{StreamRule, Target};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::server::TlsStream;

use crate::hosts::NameMap;
use crate::metrics::{Metrics, Refusal};
use crate::settings::Settings;
use crate::upstream::{TargetSlot, choose, request_hash};

/// Silence on a connection to a backend after which the kernel asks whether it still lives.
const BACKEND_KEEPALIVE: Duration = Duration::from_secs(15);

/// The rules of a section.
#[derive(Debug, Default)]
pub(crate) struct StreamRoutes {
    by_host: NameMap<Arc<Shares>>,
}

/// The backends of a rule, each with the sum of weights up to its own.
#[derive(Debug)]
struct Shares {
    until: Vec<(u64, Option<Arc<TargetSlot>>)>,
    total: u64,
}

impl StreamRoutes {
    /// Compiles rules; of two for one host the first stays.
    pub(crate) fn compile(
        rules: &[StreamRule],
        mut resolve: impl FnMut(&Target) -> Arc<TargetSlot>,
    ) -> Self {
        let mut routes = Self::default();
        for rule in rules {
            let mut total = 0;
            let mut until = Vec::with_capacity(rule.backends.len());
            for (weight, target) in rule.backends.iter().filter(|(weight, _)| *weight > 0) {
                total += u64::from(*weight);
                until.push((total, target.as_ref().map(&mut resolve)));
            }
            routes.by_host.add(&rule.host, Arc::new(Shares { until, total }));
        }
        routes
    }

    /// Where a connection with `flow` goes that asks for a name in lower case.
    pub(crate) fn find(&self, server_name: Option<&str>, flow: u64) -> Option<Arc<TargetSlot>> {
        let shares = self.by_host.find(server_name)?;
        // Another hash than that which chooses the backend, or the shares would tell it.
        let place = request_hash(flow, 1).checked_rem(shares.total)?;
        let (_, slot) = shares.until.iter().find(|(until, _)| place < *until)?;
        slot.clone().filter(|slot| slot.load().is_some_and(|set| set.is_available()))
    }
}

/// A client whose bytes are passed on.
pub(crate) enum StreamClient {
    /// As they come, beginning with those that have been read already.
    Passthrough {
        /// The connection.
        stream: TcpStream,
        /// The client's first message.
        hello: Vec<u8>,
    },
    /// Decrypted.
    Terminated(Box<TlsStream<TcpStream>>),
}

/// Passes bytes between a client and a backend of `target` until both are done.
pub(crate) async fn relay(
    client: StreamClient,
    target: &TargetSlot,
    flow: u64,
    settings: &Settings,
    metrics: &Metrics,
) -> Result<(), Refusal> {
    let mut backend = connect(target, flow, settings, metrics).await?;
    let kind = match &client {
        StreamClient::Passthrough { .. } => "passthrough",
        StreamClient::Terminated(_) => "terminated",
    };
    let _open = metrics.tls.stream(kind);
    let idle = settings.upgraded_idle_timeout;
    let ended = match client {
        StreamClient::Passthrough { stream, hello } => {
            match timeout(settings.upstream_write_timeout, backend.write_all(&hello)).await {
                Ok(Ok(())) => copy(stream, backend, idle).await,
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        }
        StreamClient::Terminated(stream) => copy(*stream, backend, idle).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, kind, "a stream was cut off");
    }
    Ok(())
}

async fn connect(
    target: &TargetSlot,
    flow: u64,
    settings: &Settings,
    metrics: &Metrics,
) -> Result<TcpStream, Refusal> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    while tried.len() < settings.attempts_max {
        let set = target.load().ok_or(Refusal::NoBackend)?;
        let Some(address) = choose(&set, flow, &tried) else { break };
        if !tried.is_empty() {
            metrics.retried();
        }
        match timeout(settings.connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                metrics.connected(false);
                // An error means that the connection is dead, which the first read will say.
                let _ = stream.set_nodelay(true);
                let keepalive = TcpKeepalive::new().with_time(BACKEND_KEEPALIVE);
                let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
                return Ok(stream);
            }
            Ok(Err(error)) => tracing::debug!(backend = %address, %error, "cannot connect"),
            Err(_) => tracing::debug!(backend = %address, "connecting takes too long"),
        }
        metrics.connect_failed();
        tried.push(address);
    }
    Err(Refusal::NoBackend)
}

/// Copies both ways until both have ended, or until nothing has moved for `idle`.
async fn copy(
    client: impl AsyncRead + AsyncWrite + Unpin,
    mut backend: TcpStream,
    idle: Duration,
) -> io::Result<()> {
    let began = Instant::now();
    let moved = AtomicU64::new(0);
    let mut client = Watched { io: client, began, moved: &moved };
    let silence = async {
        loop {
            let seen = moved.load(Ordering::Relaxed);
            sleep_until(began + Duration::from_millis(seen) + idle).await;
            if moved.load(Ordering::Relaxed) == seen {
                return;
            }
        }
    };
    tokio::select! {
        copied = copy_bidirectional(&mut client, &mut backend) => copied.map(|_| ()),
        () = silence => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Notes when bytes have last moved, in milliseconds since the beginning.
struct Watched<'a, S> {
    io: S,
    began: Instant,
    moved: &'a AtomicU64,
}

impl<S> Watched<'_, S> {
    fn note<T>(&self, poll: Poll<T>) -> Poll<T> {
        if poll.is_ready() {
            let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.moved.store(now, Ordering::Relaxed);
        }
        poll
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_read(cx, buf);
        self.note(poll)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::forwarding::ForwardingTable;
    use haflinger_core::{
        Backend, BackendSet, BackendState, Family, HostMatch, ObjectKind, ObjectRef, Protocol,
        SourceId,
    };

    use super::*;

    fn target(name: &str) -> Target {
        let object = ObjectRef::service(&SourceId::inventory(), "default", name);
        Target { object, port: 443, protocol: Protocol::Tcp, family: Family::V4 }
    }

    fn slot(target: &Target) -> Arc<TargetSlot> {
        let address = SocketAddr::from(([192, 0, 2, 1], 443));
        let backend = Backend {
            address,
            name: "pod".into(),
            node: None,
            zone: None,
            weight: 100,
            backup: false,
            state: BackendState::Active,
            reasons: Vec::new(),
        };
        let table = ForwardingTable::new([(address, 100)]).view();
        let set = BackendSet { target: target.clone(), backends: vec![backend], table };
        Arc::new(TargetSlot::new(Some(Arc::new(set))))
    }

    #[test]
    fn shares_follow_weights_and_what_does_not_exist_keeps_its_share() {
        let backends = vec![(1, Some(target("a"))), (0, Some(target("never"))), (3, None)];
        let object =
            ObjectRef::of_kind(&SourceId::inventory(), ObjectKind::TlsRoute, "default", "route");
        let rule = StreamRule { host: HostMatch::Suffix("example".into()), backends, object };
        let routes = StreamRoutes::compile(&[rule], slot);
        let found = |flow| routes.find(Some("shop.example"), flow);
        let reached = (0..10_000).filter_map(found).count();
        assert!((2_300..2_700).contains(&reached), "{reached} of 10,000 reached a quarter");
        assert!(routes.find(Some("example"), 0).is_none());
        assert!(routes.find(None, 0).is_none());
    }

    #[test]
    fn a_rule_without_weight_or_backends_leads_nowhere() {
        let object =
            ObjectRef::of_kind(&SourceId::inventory(), ObjectKind::TlsRoute, "default", "route");
        for backends in [vec![], vec![(0, Some(target("a")))]] {
            let (host, object) = (HostMatch::Any, object.clone());
            let routes = StreamRoutes::compile(&[StreamRule { host, backends, object }], slot);
            assert!(routes.find(None, 7).is_none());
        }
    }
}
