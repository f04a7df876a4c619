//! Asks authorizers, and fetches keys.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use haflinger_core::{BackendSet, UpstreamProtocol};
use http::{HeaderMap, Method, header};
use pingora_core::Result;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use tokio::sync::Semaphore;

use super::exchange::{Keep, exchange};
use super::peers::{peer, speak};
use crate::auth::{
    AUTHORIZER_ANSWER_MAX, Authorization, AuthorizerCheck, AuthorizerFailure, Fetched, KeySlot,
    Told, Whom,
};
use crate::patience::AttemptLimits;
use crate::tls::BackendTls;
use crate::upstream::choose;
use crate::worker::Shared;

/// Requests of one worker that wait for authorizers. One more is not asked about: an authorizer
/// that has stopped answering would otherwise hold every request that comes.
const ASKED_MAX: usize = 1_024;

/// Unused connections to authorizers that a worker keeps.
const IDLE_MAX: usize = 128;

/// Addresses that are tried for one question or fetch.
const ADDRESSES_TRIED_MAX: usize = 2;

/// Time for a fetch of keys, from the look-up of the name to the last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks authorizers. One a worker.
pub(super) struct Asker {
    connector: Connector,
    places: Semaphore,
    shared: Arc<Shared>,
}

/// Fetches keys, on the room's own runtime.
pub(crate) struct KeyFetcher {
    connector: Connector,
    shared: Arc<Shared>,
}

impl Asker {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let connector = Connector::new(Some(ConnectorOptions::new(IDLE_MAX)));
        Self { connector, places: Semaphore::new(ASKED_MAX), shared }
    }

    /// What an authorizer says to a question, which [`AuthorizerCheck::request`] has written; the
    /// `hash` is that of the request.
    pub(super) async fn ask(
        &self,
        check: &AuthorizerCheck,
        question: (Method, String, HeaderMap),
        hash: u64,
    ) -> Result<Told, AuthorizerFailure> {
        let metrics = &self.shared.metrics.auth;
        let Ok(_place) = self.places.try_acquire() else {
            metrics.authorized(Authorization::Busy, Duration::ZERO);
            return Err(AuthorizerFailure::Busy);
        };
        let began = Instant::now();
        let timeout = Duration::from_millis(check.timeout_ms().into());
        let asked = self.exchange(check, question, hash, timeout);
        let told = match tokio::time::timeout(timeout, asked).await {
            Ok(Ok(told)) => Ok(told),
            Ok(Err(error)) => {
                tracing::debug!(error, "an authorizer cannot be asked");
                Err(AuthorizerFailure::Failed)
            }
            Err(_) => Err(AuthorizerFailure::Timeout),
        };
        let outcome = match &told {
            Ok(told) if told.status.is_success() => Authorization::Passed,
            Ok(told) if told.status.is_server_error() => Authorization::Failed,
            Ok(_) => Authorization::Refused,
            Err(AuthorizerFailure::Timeout) => Authorization::Timeout,
            Err(_) => Authorization::Failed,
        };
        metrics.authorized(outcome, began.elapsed());
        told
    }

    async fn exchange(
        &self,
        check: &AuthorizerCheck,
        (method, path, fields): (Method, String, HeaderMap),
        hash: u64,
        timeout: Duration,
    ) -> Result<Told, String> {
        let (addresses, speaks, tls) = match &check.whom {
            Whom::Backends(to) => {
                let set = to.slot.load().ok_or("it has no backends")?;
                (some_of(&set, hash), to.speaks, to.tls.as_ref())
            }
            Whom::Server { names, tls } => {
                let all = names.addresses().await.map_err(|error| error.to_string())?;
                (all.to_vec(), UpstreamProtocol::Http1, tls.as_ref())
            }
            Whom::Nowhere(_) => return Err("it does not exist".to_owned()),
        };
        let peers = peers(&self.shared, &addresses, speaks, tls, timeout);
        let request = written(method, &path, &fields).map_err(|error| error.to_string())?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let keep = Keep::UpTo(AUTHORIZER_ANSWER_MAX);
        let answer = exchange(&self.connector, &peers, scheme, request, Bytes::new(), keep).await;
        let (header, body) = answer.map_err(|error| error.to_string())?;
        let (status, fields) = (header.status, header.headers.clone());
        Ok(Told { status, fields, body })
    }
}

/// Backends to ask: the next is for a connection that cannot be made.
fn some_of(set: &BackendSet, hash: u64) -> Vec<SocketAddr> {
    let mut chosen = Vec::with_capacity(ADDRESSES_TRIED_MAX);
    while chosen.len() < ADDRESSES_TRIED_MAX
        && let Some(next) = choose(set, hash, &chosen)
    {
        chosen.push(next);
    }
    chosen
}

fn peers(
    shared: &Shared,
    addresses: &[SocketAddr],
    speaks: UpstreamProtocol,
    tls: Option<&Arc<BackendTls>>,
    timeout: Duration,
) -> Vec<HttpPeer> {
    let settings = shared.settings.load();
    let connect = settings.connect_timeout.min(timeout);
    let limits = AttemptLimits { read: timeout, connect, deadline: None };
    let one = |address: &SocketAddr| {
        let mut peer = peer(*address, &settings, &limits);
        speak(&mut peer, speaks, tls, &shared.metrics.tls);
        peer
    };
    addresses.iter().take(ADDRESSES_TRIED_MAX).map(one).collect()
}

fn written(method: Method, path: &str, fields: &HeaderMap) -> Result<RequestHeader> {
    let mut request = RequestHeader::build(method, path.as_bytes(), Some(fields.len()))?;
    for (name, value) in fields {
        request.append_header(name.clone(), value.clone())?;
    }
    Ok(request)
}

impl KeyFetcher {
    /// Nothing has been fetched.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        // Fetches are minutes apart: no connection is worth keeping.
        Self { connector: Connector::new(Some(ConnectorOptions::new(1))), shared }
    }

    /// Fetches a key set once. Redirects are not followed.
    pub(crate) async fn fetch(&self, slot: &KeySlot) -> Result<Fetched, String> {
        let fetch = self.exchange(slot);
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, fetch).await;
        fetched.unwrap_or_else(|_| Err(format!("no answer within {FETCH_TIMEOUT:?}")))
    }

    async fn exchange(&self, slot: &KeySlot) -> Result<Fetched, String> {
        let addresses = slot.names.addresses().await;
        let addresses = addresses.map_err(|error| error.to_string())?;
        let (tls, http1) = (slot.tls.as_ref(), UpstreamProtocol::Http1);
        let peers = peers(&self.shared, &addresses, http1, tls, FETCH_TIMEOUT);
        let mut fields = HeaderMap::with_capacity(2);
        let host = slot.source().server.authority();
        fields.insert(header::HOST, host.parse().map_err(|_| "the host cannot be sent")?);
        let accepted = "application/jwk-set+json, application/json";
        fields.insert(header::ACCEPT, http::HeaderValue::from_static(accepted));
        let request = written(Method::GET, &slot.source().path, &fields);
        let request = request.map_err(|error| error.to_string())?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let keep = Keep::UpTo(haflinger_core::JWKS_BYTES_MAX);
        let answer = exchange(&self.connector, &peers, scheme, request, Bytes::new(), keep).await;
        let (header, body) = answer.map_err(|error| error.to_string())?;
        if header.status != http::StatusCode::OK {
            return Err(format!("the server answered {}", header.status.as_u16()));
        }
        let cache_control = header.headers.get(header::CACHE_CONTROL);
        let cache_control = cache_control.and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Fetched { body: body.ok_or("the key set is too long")?, cache_control })
    }
}
