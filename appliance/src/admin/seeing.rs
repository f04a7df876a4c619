//! The paths of `haflinger flows`, `haflinger why` and `haflinger trace`. They name clients and
//! change what the program does, so they are served on the unix socket alone.
//!
//! | path | answer |
//! |---|---|
//! | `/flows?limit=N[&service=..][&client=..][&top=..]` | flows, JSON |
//! | `/why?client=..&to=..` | what decides, JSON |
//! | `/url?url=..&method=..[&fields=LINES][&from=..][&to=..]` | what becomes of a request, JSON |
//! | `/tallies` | what routes and pods have been asked so far, JSON |
//! | `/trace?one_in=N&for=SECONDS&count=N[&service=..][&client=..][&vip=..]` | JSON lines |
//!
//! `format=text` writes each for people. A refusal is a line of text that says what to do.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use haflinger_proxy::{Question, QuestionError};
use haflinger_xdp::seeing::{self, AskError, FlowQuery, SeeError, TraceQuery, Traced};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Exhibit;
use crate::seeing::{flows_text, traced_text, url_text, why_text};

/// What is served to owner and group alone.
pub(super) fn routes() -> Router<Arc<dyn Exhibit>> {
    Router::new()
        .route("/flows", get(flows))
        .route("/why", get(why))
        .route("/url", get(url))
        .route("/tallies", get(tallies))
        .route("/trace", get(trace))
}

/// A refusal with its status.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", self.1)).into_response()
    }
}

impl From<AskError> for Refusal {
    fn from(error: AskError) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<QuestionError> for Refusal {
    fn from(error: QuestionError) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<SeeError> for Refusal {
    fn from(error: SeeError) -> Self {
        let status = match error {
            SeeError::NotRunning(_) => StatusCode::SERVICE_UNAVAILABLE,
            SeeError::NoService(_) => StatusCode::NOT_FOUND,
            SeeError::Bounds { .. } => StatusCode::BAD_REQUEST,
            SeeError::Busy => StatusCode::CONFLICT,
            SeeError::Kernel { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.to_string())
    }
}

/// Parses what may be left out.
fn optional<T: std::str::FromStr<Err = AskError>>(
    text: Option<&str>,
) -> Result<Option<T>, AskError> {
    text.map(str::parse).transpose()
}

fn is_text(format: Option<&str>) -> bool {
    format == Some("text")
}

/// An answer as text for a person, or else as JSON.
fn respond<T: Serialize>(
    format: Option<&str>,
    answer: T,
    text: impl FnOnce(&T) -> String,
) -> Response {
    match is_text(format) {
        true => text(&answer).into_response(),
        false => axum::Json(answer).into_response(),
    }
}

#[derive(Deserialize)]
struct FlowsAsked {
    service: Option<String>,
    client: Option<String>,
    top: Option<String>,
    limit: usize,
    format: Option<String>,
}

async fn flows(
    State(exhibit): State<Arc<dyn Exhibit>>,
    Query(asked): Query<FlowsAsked>,
) -> Result<Response, Refusal> {
    let query = FlowQuery {
        service: optional(asked.service.as_deref())?,
        client: optional(asked.client.as_deref())?,
        top: optional(asked.top.as_deref())?,
        limit: asked.limit,
    };
    let answer = exhibit.seeing().flows(query).await?;
    Ok(respond(asked.format.as_deref(), answer, flows_text))
}

#[derive(Deserialize)]
struct WhyAsked {
    client: String,
    to: String,
    format: Option<String>,
}

async fn why(
    State(exhibit): State<Arc<dyn Exhibit>>,
    Query(asked): Query<WhyAsked>,
) -> Result<Response, Refusal> {
    let client: SocketAddr = seeing::client(&asked.client)?;
    let to = seeing::service_key(&asked.to)?;
    let answer = exhibit.seeing().why(client, to).await?;
    Ok(respond(asked.format.as_deref(), answer, why_text))
}

#[derive(Deserialize)]
struct UrlAsked {
    url: String,
    method: String,
    /// A field a line.
    fields: Option<String>,
    from: Option<String>,
    to: Option<String>,
    format: Option<String>,
}

async fn url(
    State(exhibit): State<Arc<dyn Exhibit>>,
    Query(asked): Query<UrlAsked>,
) -> Result<Response, Refusal> {
    let UrlAsked { url, method, fields, from, to, format } = asked;
    let fields: Vec<String> = fields.iter().flat_map(|f| f.lines()).map(str::to_owned).collect();
    let question = Question::new(&url, &method, &fields, from.as_deref(), to.as_deref())?;
    let answer = exhibit.seeing().why_url(question).await;
    Ok(respond(format.as_deref(), answer, url_text))
}

async fn tallies(State(exhibit): State<Arc<dyn Exhibit>>) -> Response {
    axum::Json(exhibit.seeing().tallies().await).into_response()
}

#[derive(Deserialize)]
struct TraceAsked {
    service: Option<String>,
    client: Option<String>,
    vip: Option<String>,
    one_in: u32,
    #[serde(rename = "for")]
    secs: u32,
    count: u32,
    format: Option<String>,
}

async fn trace(
    State(exhibit): State<Arc<dyn Exhibit>>,
    Query(asked): Query<TraceAsked>,
) -> Result<Response, Refusal> {
    let query = TraceQuery {
        service: optional(asked.service.as_deref())?,
        client: optional(asked.client.as_deref())?,
        vip: optional(asked.vip.as_deref())?,
        one_in: asked.one_in,
        secs: asked.secs,
        count: asked.count,
    };
    let text = is_text(asked.format.as_deref());
    let lines = Lines { packets: exhibit.seeing().trace(query)?, text };
    let kind = if text { "text/plain; charset=utf-8" } else { "application/x-ndjson" };
    Ok(([(header::CONTENT_TYPE, kind)], Body::new(lines)).into_response())
}

/// Packets as the body of an answer, which ends with the trace. Dropped when the client leaves, and
/// the trace ends with it.
struct Lines {
    packets: mpsc::Receiver<Traced>,
    text: bool,
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let text = self.text;
        self.packets.poll_recv(context).map(|traced| {
            let traced = traced?;
            let line = match text {
                true => traced_text(&traced),
                // Plain data: there is nothing that JSON could not say.
                false => serde_json::to_string(&traced).unwrap_or_default() + "\n",
            };
            Some(Ok(Frame::data(line.into())))
        })
    }
}
