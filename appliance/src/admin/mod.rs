//! The administrative interface: metrics, health, readiness and status.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | Prometheus text format 0.0.4 |
//! | `/healthz` | 200 while the core lives, else 503 |
//! | `/readyz` | 200 once every source has listed (or was restored) and nothing drains, else 503 |
//! | `/status` | JSON; `?format=text` for people |
//! | `/pools` | JSON; `?pool=NAME`, `?addresses=true`, `?format=text` for people |
//!
//! It is served on a loopback TCP address and on a unix socket for `haflinger status`. What names
//! clients ([`seeing`]) is served on the socket alone, and so is the one thing that can be ordered:
//!
//! | `POST` to | what it does |
//! |---|---|
//! | `/accept?source=NAME` | follows the deletions of a source that are held |

mod client;
mod seeing;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use haflinger_discovery::DiscoveryHandle;
use prometheus::{Encoder as _, Registry, TextEncoder};
use serde::Deserialize;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::pools::{Pools, pools_text};
use crate::seeing::Seeing;

pub(crate) use client::{Target, fetch, follow, order};

/// What the interface shows.
pub(crate) trait Exhibit: Send + Sync + 'static {
    /// Whether the core lives.
    fn is_alive(&self) -> bool;
    /// Why the host is not ready, if so.
    fn unready(&self) -> Option<String>;
    /// The status as JSON.
    fn status_json(&self) -> serde_json::Value;
    /// The status for people.
    fn status_text(&self) -> String;
    /// The pools, or one of them, and who holds their addresses.
    fn pools(&self, pool: Option<&str>, addresses: bool) -> Option<Pools>;
    /// The metrics.
    fn registry(&self) -> &Registry;
    /// What questions about single flows are answered from.
    fn seeing(&self) -> Seeing;
    /// Where held deletions are accepted.
    fn discovery(&self) -> &DiscoveryHandle;
}

/// Why the interface cannot be opened.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// The TCP listener.
    #[error("admin.listen {address}: choose a free address, or \"\" to switch it off")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The unix socket.
    #[error("admin.socket {path}: choose a path in a directory that this user may write")]
    Unix {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Both listeners, open.
pub(crate) struct Admin {
    tcp: Option<TcpListener>,
    unix: UnixListener,
    socket: PathBuf,
}

impl Admin {
    /// Opens the listeners. A socket file that nobody answers on is replaced.
    pub(crate) async fn open(listen: Option<SocketAddr>, socket: &Path) -> Result<Self, OpenError> {
        let tcp = match listen {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(|source| OpenError::Tcp { address, source })?,
            ),
            None => None,
        };
        let unix = open_unix(socket)
            .await
            .map_err(|source| OpenError::Unix { path: socket.to_owned(), source })?;
        Ok(Self { tcp, unix, socket: socket.to_owned() })
    }

    /// Serves until `shutdown`.
    pub(crate) async fn run(self, exhibit: Arc<dyn Exhibit>, shutdown: CancellationToken) {
        let routes = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/status", get(status))
            .route("/pools", get(pools));
        let on_socket = seeing::routes().route("/accept", post(accept));
        let all = routes.clone().merge(on_socket).with_state(exhibit.clone());
        let routes = routes.with_state(exhibit);
        let tcp = async {
            if let Some(listener) = self.tcp {
                info!(address = ?listener.local_addr().ok(), "administrative interface is open");
                let served = axum::serve(listener, routes);
                // The accept loop only ends with the signal.
                let _ = served.with_graceful_shutdown(shutdown.clone().cancelled_owned()).await;
            }
        };
        let unix = async {
            let served = axum::serve(self.unix, all);
            let _ = served.with_graceful_shutdown(shutdown.clone().cancelled_owned()).await;
        };
        tokio::join!(tcp, unix);
        // The file may be gone already, with its directory.
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn open_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if tokio::net::UnixStream::connect(path).await.is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another daemon answers on it",
                ));
            }
            std::fs::remove_file(path)?;
            restrict(path, UnixListener::bind(path)?)
        }
        bound => restrict(path, bound?),
    }
}

/// The status names pods and addresses: owner and group only.
fn restrict(path: &Path, listener: UnixListener) -> io::Result<UnixListener> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

async fn metrics(State(exhibit): State<Arc<dyn Exhibit>>) -> Response {
    let mut body = Vec::new();
    let encoder = TextEncoder::new();
    match encoder.encode(&exhibit.registry().gather(), &mut body) {
        Ok(()) => {
            ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn healthz(State(exhibit): State<Arc<dyn Exhibit>>) -> (StatusCode, &'static str) {
    if exhibit.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the core does not answer\n")
    }
}

async fn readyz(State(exhibit): State<Arc<dyn Exhibit>>) -> (StatusCode, String) {
    match exhibit.unready() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

#[derive(Deserialize)]
struct StatusQuery {
    format: Option<String>,
}

async fn status(
    State(exhibit): State<Arc<dyn Exhibit>>,
    Query(query): Query<StatusQuery>,
) -> Response {
    if query.format.as_deref() == Some("text") {
        exhibit.status_text().into_response()
    } else {
        axum::Json(exhibit.status_json()).into_response()
    }
}

#[derive(Deserialize)]
struct AcceptQuery {
    source: String,
}

async fn accept(
    State(exhibit): State<Arc<dyn Exhibit>>,
    Query(query): Query<AcceptQuery>,
) -> (StatusCode, String) {
    match exhibit.discovery().accept(&query.source).await {
        Ok(0) => (StatusCode::OK, format!("nothing of {} was held\n", query.source)),
        Ok(1) => (StatusCode::OK, format!("1 deletion of {} is followed\n", query.source)),
        Ok(count) => {
            (StatusCode::OK, format!("{count} deletions of {} are followed\n", query.source))
        }
        Err(error) => (StatusCode::NOT_FOUND, format!("{error}\n")),
    }
}

#[derive(Deserialize)]
struct PoolsQuery {
    pool: Option<String>,
    #[serde(default)]
    addresses: bool,
    format: Option<String>,
}

async fn pools(
    State(exhibit): State<Arc<dyn Exhibit>>,
    Query(query): Query<PoolsQuery>,
) -> Response {
    let Some(pools) = exhibit.pools(query.pool.as_deref(), query.addresses) else {
        let name = query.pool.unwrap_or_default();
        let refusal = format!("no pool has the name {name:?}: leave it out to see all\n");
        return (StatusCode::NOT_FOUND, refusal).into_response();
    };
    if query.format.as_deref() == Some("text") {
        pools_text(&pools).into_response()
    } else {
        axum::Json(pools).into_response()
    }
}
