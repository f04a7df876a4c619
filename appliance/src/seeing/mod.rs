//! `haflinger flows`, `haflinger why` and `haflinger trace`: the daemon's side. What the data path
//! and layer 7 tell, in words or as JSON.

mod flows;
mod trace;
mod url;
mod why;

use std::net::SocketAddr;
use std::sync::Arc;

use haflinger_core::{ServiceKey, Snapshot};
use haflinger_proxy::{ProxyHandle, Question, TallyViews, UrlWhy};
use haflinger_xdp::XdpHandle;
use haflinger_xdp::seeing::{FlowQuery, Flows, SeeError, TraceQuery, Traced, Why};
use tokio::sync::{mpsc, watch};

pub(crate) use flows::render as flows_text;
pub(crate) use trace::render as traced_text;
pub(crate) use url::render as url_text;
pub(crate) use why::render as why_text;

/// What questions are answered from.
#[derive(Clone)]
pub(crate) struct Seeing {
    pub(crate) xdp: XdpHandle,
    pub(crate) proxy: ProxyHandle,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl Seeing {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// The flows, read on a thread that may block.
    pub(crate) async fn flows(self, query: FlowQuery) -> Result<Flows, SeeError> {
        blocking(move || self.xdp.flows(&query, &self.snapshot())).await
    }

    /// What decides over packets from `client` to `to`.
    pub(crate) async fn why(self, client: SocketAddr, to: ServiceKey) -> Result<Why, SeeError> {
        blocking(move || self.xdp.why(client, to, &self.snapshot())).await
    }

    /// What would become of a request, and why.
    pub(crate) async fn why_url(self, question: Question) -> UrlWhy {
        blocking(move || self.proxy.why(&question)).await
    }

    /// What routes and pods have been asked so far.
    pub(crate) async fn tallies(self) -> TallyViews {
        blocking(move || self.proxy.tallies()).await
    }

    /// Packets as they pass; the filter is withdrawn once the receiver is dropped.
    pub(crate) fn trace(&self, query: TraceQuery) -> Result<mpsc::Receiver<Traced>, SeeError> {
        self.xdp.trace(query, self.snapshot())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The runtime ends no blocking task before it has begun while one awaits it.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A backend by its name and address, or its address alone.
fn named(name: Option<&str>, address: SocketAddr) -> String {
    match name {
        Some(name) if name != address.to_string() => format!("{name} ({address})"),
        _ => address.to_string(),
    }
}
