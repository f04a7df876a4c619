//! The fast path: plain requests over HTTP/1.1 to backends that speak plain HTTP/1.1, by rules that
//! ask nothing more than to pass them on.
//!
//! ```text
//!  read ──> find the rule ──> choose a backend ──> send ──> pass the answer on ──> read …
//!    └───────────┴──────────────────┴───────────────┴──> the full engine, for good
//! ```
//!
//! Whatever is not plain goes to the full engine with every byte that has been read, and the
//! connection stays there: malformed and unusual requests, other rules, backends that cannot be
//! connected to. So this path has no retries and hardly an answer of its own, and is never the only
//! place that knows what a rule means.
//!
//! A connection that waits holds no buffer: bytes are read to where the worker reads all of them.

mod answer;
mod client;
mod ended;
mod exchange;
mod framing;
mod pool;
mod request;
mod scratch;
mod wait;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use self::answer::write_field;
use self::client::{Client, Ending, Next};
use self::exchange::{Fault, Limits, Passing, send};
use self::pool::Pool;
use self::request::Understood;
use self::scratch::poll_with_scratch;
use super::stream::CLOSE_TIMEOUT;
use crate::action::{Action, ActionUpstream};
use crate::answers::Answer;
use crate::authority::host_of;
use crate::conditions::RequestView;
use crate::connection::{Attempted, ConnectionContext};
use crate::correlation::Correlation;
use crate::headers::{Arrival, forwarding, is_trusted};
use crate::metrics::Refusal;
use crate::routes::Found;
use crate::settings::{CONNECTION_REQUESTS_MAX, Settings};
use crate::tally::InFlight;
use crate::upstream::{RetryBudget, choose};
use crate::worker::Shared;

/// Room for the header of a request to a backend beside what the client sent.
const ADDED_BYTES: usize = 256;

/// Silence after which the kernel asks a backend whether it still lives.
const BACKEND_KEEPALIVE: Duration = Duration::from_secs(15);

/// The fast path of one worker.
pub(super) struct FastPath {
    shared: Arc<Shared>,
    /// Every request earns retries, wherever it is served.
    retries: Arc<RetryBudget>,
    pool: Pool,
}

/// What is left of a connection for the full engine.
pub(super) struct Left<S> {
    /// Where its bytes come from …
    pub(super) io: S,
    /// … after these.
    pub(super) unread: Bytes,
    /// When the first of them came.
    pub(super) since: tokio::time::Instant,
}

/// A request with all that is decided about it.
struct Plan {
    request: Box<Understood>,
    action: Arc<Action>,
    /// The backend's place in the action.
    place: usize,
    hash: u64,
    backend: SocketAddr,
    correlation: Correlation,
    /// What the backend is sent.
    wire: Vec<u8>,
    /// Counted for as long as this lives.
    _in_flight: InFlight,
}

/// How a request went.
enum Went {
    /// It was answered; whether the connection goes on.
    Answered(bool),
    /// The full engine has to try.
    Again,
}

impl Plan {
    fn upstream(&self) -> Option<&ActionUpstream> {
        self.action.backend(self.place)?.to.as_ref().ok()
    }

    /// Whether the request may be sent again. Where a backend cannot be reached, to another one alone.
    fn may_be_repeated(&self, fault: Fault) -> bool {
        match fault {
            Fault::Unreachable | Fault::FarAway => {
                let set = self.upstream().and_then(|upstream| upstream.slot.load());
                set.is_some_and(|set| choose(&set, self.hash, &[self.backend]).is_some())
            }
            Fault::Stale => self.request.parts.method.is_idempotent(),
            Fault::Silent | Fault::Broken | Fault::TimedOut | Fault::Client => false,
        }
    }
}

impl FastPath {
    pub(super) fn new(shared: Arc<Shared>, retries: Arc<RetryBudget>) -> Self {
        let pool = Pool::new(shared.settings.load().upstream_idle_max);
        Self { shared, retries, pool }
    }

    /// Serves a connection for as long as it sends what is plain; what is left then, unless it has
    /// ended.
    pub(super) async fn serve<S>(&self, io: S, context: &ConnectionContext) -> Option<Left<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut client = Client::new(io);
        let ended = pin!(context.listener.idle_end().cancelled());
        let mut ending = Ending { listener: &context.listener, ended, asked: false };
        loop {
            let settings = self.shared.settings.load_full();
            let next = poll_with_scratch(|cx, scratch| {
                client.poll_next(cx, scratch, &settings, |cx| ending.is_now(cx))
            });
            let went = match next.await {
                Next::Request(request) => match self.plan(request, context, &settings) {
                    Some(plan) => {
                        Box::pin(self.follow(plan, &mut client, context, &settings)).await
                    }
                    None => Went::Again,
                },
                Next::Other => Went::Again,
                Next::Ended => Went::Answered(false),
                Next::TimedOut => {
                    self.shared.metrics.refused(Refusal::HeaderTimeout);
                    Went::Answered(false)
                }
            };
            match went {
                Went::Answered(true) => {}
                Went::Answered(false) => {
                    if context.listener.tls.is_some() {
                        // Whether the client takes the last bytes is its own affair.
                        let _ = tokio::time::timeout(CLOSE_TIMEOUT, client.io.shutdown()).await;
                    }
                    return None;
                }
                Went::Again => {
                    context.end_request();
                    self.shared.metrics.handed_over();
                    let Client { io, unread, since, .. } = client;
                    return Some(Left { io, unread, since });
                }
            }
        }
    }

    /// Decides about a request; nothing, where that is for the full engine.
    fn plan(
        &self,
        request: Box<Understood>,
        context: &ConnectionContext,
        settings: &Settings,
    ) -> Option<Plan> {
        if request.head_bytes > settings.header_bytes_max {
            return None;
        }
        let fields = &request.parts.headers;
        let host = host_of(fields.get(header::HOST)?.to_str().ok()?).ok()?;
        let view = RequestView {
            host: Some(&host),
            path: request.parts.uri.path(),
            query: request.parts.uri.query(),
            method: &request.parts.method,
            fields,
        };
        let routes = context.listener.routes.load();
        let found = routes.find(context.server_name.as_deref(), &view);
        let Found::Rule { action, broken: false, .. } = found else { return None };
        if !action.is_plain() {
            return None;
        }
        let hash = context.begin_request();
        let place = action.choose(hash)?;
        let set = action.backend(place)?.to.as_ref().ok()?.slot.load()?;
        let backend = choose(&set, hash, &[])?;
        let believed = is_trusted(context.peer.ip(), &settings.trusted_proxies);
        let (name, trace) = (settings.request_id_header.as_ref(), settings.trace_context);
        let correlation = Correlation::of(fields, name, trace, believed, rand::random);
        let wire = self::wire(&request, context, &correlation, settings);
        let _in_flight = InFlight::begin(action.tally());
        Some(Plan { request, action, place, hash, backend, correlation, wire, _in_flight })
    }

    /// Does what was decided.
    async fn follow<S>(
        &self,
        mut plan: Plan,
        client: &mut Client<S>,
        context: &ConnectionContext,
        settings: &Settings,
    ) -> Went
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let began = Instant::now();
        let Understood { head_bytes, body_bytes, .. } = *plan.request;
        let whole = head_bytes + body_bytes;
        let limit = settings.client_read_timeout;
        client.wait.over();
        if client.unread.len() < whole
            && !poll_with_scratch(|cx, scratch| client.poll_whole(cx, scratch, whole, limit)).await
        {
            // The full engine gives the body the same time once more, and then says so.
            return Went::Again;
        }
        plan.wire.extend_from_slice(&client.unread[head_bytes..whole]);
        let last = plan.request.closes || client.answered() + 1 >= CONNECTION_REQUESTS_MAX;
        let mut passing = Passing::new(began, last, &context.listener);
        let passed = self.attempt(&plan, client, &mut passing, settings).await;
        if let Err(fault) = passed {
            if plan.may_be_repeated(fault) && settings.attempts_max > 1 && self.may_retry() {
                let failed = (fault != Fault::Stale).then_some(plan.backend);
                context.hand_over(Attempted { failed });
                return Went::Again;
            }
            self.fail(fault, &plan, client, &mut passing, settings).await;
        }
        self.retries.earn();
        client.done_with(&plan.request);
        self.note(&plan, context, &passing, passed.err(), began);
        Went::Answered(passed.is_ok() && passing.goes_on)
    }

    /// Asks the backend, on a connection that is kept or a new one.
    async fn attempt<S>(
        &self,
        plan: &Plan,
        client: &mut Client<S>,
        passing: &mut Passing<'_>,
        settings: &Settings,
    ) -> Result<(), Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let metrics = &self.shared.metrics;
        let kept = self.pool.take(plan.backend, settings.upstream_idle_timeout);
        let reused = kept.is_some();
        let mut backend = match kept {
            Some(backend) => backend,
            None => {
                connect(plan.backend, settings).await.inspect_err(|_| metrics.connect_failed())?
            }
        };
        metrics.connected(reused);
        match self.pass(plan, client, &mut backend, passing, settings).await {
            Ok(()) => {
                if passing.reusable {
                    self.pool.give(plan.backend, backend, settings.upstream_idle_timeout);
                }
                Ok(())
            }
            Err(Fault::Client) => Err(Fault::Client),
            Err(fault) => {
                metrics.exchange_failed();
                Err(if reused && fault == Fault::Silent { Fault::Stale } else { fault })
            }
        }
    }

    /// Whether a request may be tried again, which is paid for here.
    fn may_retry(&self) -> bool {
        let may = self.retries.spend();
        match may {
            true => self.shared.metrics.retried(),
            false => self.shared.metrics.retry_denied(),
        }
        may
    }

    async fn pass<S>(
        &self,
        plan: &Plan,
        client: &mut Client<S>,
        backend: &mut TcpStream,
        passing: &mut Passing<'_>,
        settings: &Settings,
    ) -> Result<(), Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let Client { io, wait, .. } = client;
        send(backend, &plan.wire, wait, settings.upstream_write_timeout).await?;
        let limits =
            Limits { read: settings.upstream_read_timeout, write: settings.client_write_timeout };
        let method = &plan.request.parts.method;
        poll_with_scratch(|cx, scratch| {
            passing.poll(cx, scratch, (io, backend), method, (wait, limits))
        })
        .await
    }

    /// Says what went wrong, unless an answer has begun or nobody is there.
    async fn fail<S>(
        &self,
        fault: Fault,
        plan: &Plan,
        client: &mut Client<S>,
        passing: &mut Passing<'_>,
        settings: &Settings,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let answer = match fault {
            Fault::Client => return,
            Fault::TimedOut | Fault::FarAway => Answer::GatewayTimeout,
            Fault::Unreachable | Fault::Stale | Fault::Silent | Fault::Broken => Answer::BadGateway,
        };
        if passing.status.is_some() {
            return;
        }
        let wire = answer.wire(plan.request.parts.method == http::Method::HEAD);
        let writing = async {
            client.io.write_all(&wire).await?;
            client.io.flush().await
        };
        if matches!(tokio::time::timeout(settings.client_write_timeout, writing).await, Ok(Ok(())))
        {
            passing.status = Some(answer.status());
        }
    }
}

/// A new connection to a backend.
async fn connect(backend: SocketAddr, settings: &Settings) -> Result<TcpStream, Fault> {
    let connecting = tokio::time::timeout(settings.connect_timeout, TcpStream::connect(backend));
    let connected = connecting.await.map_err(|_| Fault::FarAway).and_then(|connected| {
        connected.map_err(|error| {
            tracing::debug!(%backend, %error, "cannot connect to a backend");
            Fault::Unreachable
        })
    });
    let stream = connected?;
    // An error means that the connection is dead, which the first write will say.
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(BACKEND_KEEPALIVE);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    Ok(stream)
}

/// The header that the backend is sent: as it came, but for the fields that are the connection's or the
/// proxy's. There is room for the body behind it.
fn wire(
    request: &Understood,
    context: &ConnectionContext,
    correlation: &Correlation,
    settings: &Settings,
) -> Vec<u8> {
    let parts = &request.parts;
    let arrival = Arrival {
        peer: context.peer,
        local: context.listener.address,
        tls: context.listener.tls.is_some(),
        host: parts.headers.get(header::HOST),
    };
    let (mut remove, mut set) = forwarding(arrival, &parts.headers, &settings.trusted_proxies);
    let (name, trace) = (settings.request_id_header.as_ref(), settings.trace_context);
    let (more, others) = correlation.onward(&parts.headers, name, trace);
    remove.extend(more);
    set.extend(others);
    let room = request.head_bytes + request.body_bytes + ADDED_BYTES;
    let mut wire = Vec::with_capacity(room);
    wire.extend_from_slice(parts.method.as_str().as_bytes());
    wire.push(b' ');
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    wire.extend_from_slice(target.as_bytes());
    wire.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(&parts.headers, &remove, &set, &mut wire);
    wire.extend_from_slice(b"\r\n");
    wire
}

fn write_fields(
    fields: &HeaderMap,
    remove: &[HeaderName],
    set: &[(HeaderName, HeaderValue)],
    wire: &mut Vec<u8>,
) {
    for (name, value) in fields {
        let replaced = || set.iter().any(|(own, _)| own == name);
        if !is_hop_by_hop(name) && !remove.contains(name) && !replaced() {
            write_field(name.as_str(), value.as_bytes(), wire);
        }
    }
    for (name, value) in set {
        write_field(name.as_str(), value.as_bytes(), wire);
    }
}

/// Fields that speak of the client's connection alone (RFC 9110, section 7.6.1). Those of them that ask
/// for anything are not served here.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::PROXY_AUTHORIZATION
        || *name == header::PROXY_AUTHENTICATE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}
