//! Answers of the proxy's own.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Method};
use pingora_core::protocols::http::HttpTask;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::{FailToProxy, Session};

use super::forward::{insert_quota, prepare_response};
use super::{Gateway, RequestState};
use crate::action::Step;
use crate::answers::{Answer, is_grpc};
use crate::auth::Denied;
use crate::guards::{Quota, Refused};
use crate::pages::{Notice, Sheet};

/// What the proxy itself says to a request.
#[derive(Debug)]
pub(super) enum Reply {
    /// A status.
    Answer(Answer),
    /// It was asked too often.
    TooOften {
        /// The status code.
        status: u16,
        /// What is left.
        quota: Quota,
    },
    /// Where to go instead.
    Redirect {
        /// The status code.
        status: u16,
        /// `Location`.
        location: String,
    },
    /// The service is being maintained.
    Closed(Arc<Notice>),
    /// What other origins may do.
    Preflight(Vec<(HeaderName, HeaderValue)>),
    /// The client is not who it has to be.
    Denied(Box<Denied>),
}

impl Reply {
    pub(super) fn of_refusal(refused: Refused) -> Self {
        match refused {
            Refused::Client => Self::Answer(Answer::Forbidden),
            Refused::Body => Self::Answer(Answer::BodyTooLarge),
            Refused::Header => Self::Answer(Answer::HeaderTooLarge),
            Refused::Rate { status, quota } => Self::TooOften { status, quota },
        }
    }
}

impl Gateway {
    pub(super) async fn reply(
        &self,
        session: &mut Session,
        state: &RequestState,
        reply: &Reply,
    ) -> Result<()> {
        match reply {
            Reply::Answer(answer) => {
                if !answer.keeps_connection() {
                    session.set_keepalive(None);
                }
                respond(session, state, *answer).await
            }
            Reply::Closed(notice) => respond_closed(session, state, notice).await,
            Reply::TooOften { status, quota } => {
                let mut response = ResponseHeader::build(*status, Some(6))?;
                response.insert_header(header::RETRY_AFTER, quota.retry_secs)?;
                insert_quota(&mut response, quota)?;
                let sheet = sheet_for(state, *status).cloned();
                let sheet = sheet.unwrap_or_else(|| plain(""));
                send_sheet(session, state, response, &sheet).await
            }
            Reply::Redirect { status, location } => {
                let mut response = ResponseHeader::build(*status, Some(3))?;
                response.insert_header(header::LOCATION, location)?;
                response.insert_header(header::CONTENT_LENGTH, 0)?;
                prepare_response(session, &mut response, state);
                session.write_response_header(Box::new(response), true).await
            }
            Reply::Denied(denied) => deny(session, state, denied).await,
            Reply::Preflight(fields) => {
                let mut response = ResponseHeader::build(204, Some(fields.len()))?;
                for (name, value) in fields {
                    response.append_header(name.clone(), value.clone())?;
                }
                session.write_response_header(Box::new(response), true).await
            }
        }
    }

    pub(super) async fn reply_to_failure(
        &self,
        session: &mut Session,
        error: &Error,
        state: &RequestState,
    ) -> FailToProxy {
        if let Some((status, sheet)) = &state.intercepted {
            return self.reply_with_page(session, *status, sheet, state).await;
        }
        let Some(answer) = answer_to(error) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        // The connection ends with this answer, because how much of the exchange happened is
        // not known.
        session.set_keepalive(None);
        if session.response_written().is_none_or(|r| r.status.is_informational())
            && let Err(error) = respond(session, state, answer).await
        {
            tracing::debug!(%error, "cannot send an answer");
        }
        FailToProxy { error_code: answer.status(), can_reuse_downstream: false }
    }
}

impl Gateway {
    /// Sends a page in the place of what a backend said. The connection ends with it, as with every
    /// answer to a failure: how much of the request was read is not known.
    async fn reply_with_page(
        &self,
        session: &mut Session,
        status: u16,
        sheet: &Sheet,
        state: &RequestState,
    ) -> FailToProxy {
        session.set_keepalive(None);
        self.shared.metrics.codings.intercepted.inc();
        let sent = match ResponseHeader::build(status, Some(4)) {
            Ok(response) => send_sheet(session, state, response, sheet).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &sent {
            tracing::debug!(%error, "cannot send a page");
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }
}

/// What a failed request is answered; nothing when the client is gone.
fn answer_to(error: &Error) -> Option<Answer> {
    use ErrorType::{
        ConnectTimedout, ConnectionClosed, HTTPStatus, ReadError, ReadTimedout, WriteError,
        WriteTimedout,
    };
    match (error.esource(), error.etype()) {
        (_, HTTPStatus(413)) => Some(Answer::BodyTooLarge),
        (_, HTTPStatus(502)) => Some(Answer::BadGateway),
        (_, HTTPStatus(503)) => Some(Answer::Unavailable),
        (ErrorSource::Upstream, ConnectTimedout | ReadTimedout | WriteTimedout) => {
            Some(Answer::GatewayTimeout)
        }
        (ErrorSource::Upstream, _) => Some(Answer::BadGateway),
        (ErrorSource::Downstream, ReadTimedout) => Some(Answer::RequestTimeout),
        (ErrorSource::Downstream, ReadError | WriteError | ConnectionClosed | WriteTimedout) => {
            None
        }
        (ErrorSource::Downstream, _) => Some(Answer::BadRequest),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Answer::Internal),
    }
}

/// Sends an answer.
async fn respond(session: &mut Session, state: &RequestState, answer: Answer) -> Result<()> {
    if session.is_http2() && is_grpc(&session.req_header().headers) {
        return respond_to_call(session, state, answer).await;
    }
    let sheet = sheet_for(state, answer.status()).cloned();
    let response = ResponseHeader::build(answer.status(), Some(4))?;
    send_sheet(session, state, response, &sheet.unwrap_or_else(|| plain(answer.body()))).await
}

/// Sends what is said while the service is being maintained.
async fn respond_closed(
    session: &mut Session,
    state: &RequestState,
    notice: &Notice,
) -> Result<()> {
    let answer = Answer::Unavailable;
    if session.is_http2() && is_grpc(&session.req_header().headers) {
        return respond_to_call(session, state, answer).await;
    }
    let mut response = ResponseHeader::build(answer.status(), Some(5))?;
    if notice.retry_after_secs > 0 {
        response.insert_header(header::RETRY_AFTER, notice.retry_after_secs)?;
    }
    let sheet = notice.sheet.as_ref().or_else(|| sheet_for(state, answer.status())).cloned();
    send_sheet(session, state, response, &sheet.unwrap_or_else(|| plain(answer.body()))).await
}

/// The rule's page for a status.
fn sheet_for(state: &RequestState, status: u16) -> Option<&Sheet> {
    let rule = state.rule.as_ref()?;
    rule.action.steps(rule.backend).find_map(|step| match step {
        Step::Pages(pages) => pages.find(status),
        _ => None,
    })
}

fn plain(text: &'static str) -> Sheet {
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    Sheet { content_type, body: Bytes::from_static(text.as_bytes()) }
}

/// Sends a body of our own.
async fn send_sheet(
    session: &mut Session,
    state: &RequestState,
    mut response: ResponseHeader,
    sheet: &Sheet,
) -> Result<()> {
    if !sheet.body.is_empty() {
        response.insert_header(header::CONTENT_TYPE, sheet.content_type.clone())?;
    }
    response.insert_header(header::CONTENT_LENGTH, sheet.body.len())?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    prepare_response(session, &mut response, state);
    let bodiless = session.req_header().method == Method::HEAD || sheet.body.is_empty();
    session.write_response_header(Box::new(response), bodiless).await?;
    if !bodiless {
        session.write_response_body(Some(sheet.body.clone()), true).await?;
    }
    Ok(())
}

/// Tells a client that it is not who it has to be.
async fn deny(session: &mut Session, state: &RequestState, denied: &Denied) -> Result<()> {
    let call = session.is_http2() && is_grpc(&session.req_header().headers);
    let status = if call { 200 } else { denied.status };
    let mut response = ResponseHeader::build(status, Some(denied.fields.len() + 4))?;
    for (name, value) in &denied.fields {
        response.append_header(name.clone(), value.clone())?;
    }
    if call {
        response.insert_header(header::CONTENT_TYPE, "application/grpc")?;
        response.insert_header("grpc-status", denied.grpc_status())?;
        response.insert_header("grpc-message", denied.reason)?;
        prepare_response(session, &mut response, state);
        let end = HttpTask::Header(Box::new(response), true);
        return session.write_response_tasks(vec![end]).await.map(drop);
    }
    let body = match &denied.body {
        Some(body) => body.clone(),
        None => {
            response.insert_header(header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
            Bytes::from(own_words(denied.status))
        }
    };
    response.insert_header(header::CONTENT_LENGTH, body.len())?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    prepare_response(session, &mut response, state);
    let bodiless = session.req_header().method == Method::HEAD || body.is_empty();
    session.write_response_header(Box::new(response), bodiless).await?;
    if !bodiless {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

fn own_words(status: u16) -> String {
    let words =
        http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    format!("{status} {}\n", words.unwrap_or_default().to_ascii_lowercase())
}

/// Sends an answer to a gRPC call: a status alone, in the header ("Trailers-Only"). The header's own
/// frame has to end the stream: clients take an empty frame after it for trailers that are missing.
async fn respond_to_call(
    session: &mut Session,
    state: &RequestState,
    answer: Answer,
) -> Result<()> {
    let mut response = ResponseHeader::build(200, Some(3))?;
    response.insert_header(header::CONTENT_TYPE, "application/grpc")?;
    response.insert_header("grpc-status", answer.grpc_status())?;
    response.insert_header("grpc-message", answer.body().trim_end())?;
    prepare_response(session, &mut response, state);
    // Of the ways to send a header, this one passes on that it is the end.
    session.write_response_tasks(vec![HttpTask::Header(Box::new(response), true)]).await.map(drop)
}
