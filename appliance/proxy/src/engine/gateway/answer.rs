//! Answers of the proxy's own.

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Method};
use pingora_core::protocols::http::HttpTask;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::{FailToProxy, Session};

use super::forward::{insert_quota, prepare_response};
use super::{Gateway, RequestState};
use crate::answers::{Answer, is_grpc};
use crate::guards::{Quota, Refused};

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
    /// What other origins may do.
    Preflight(Vec<(HeaderName, HeaderValue)>),
}

impl Reply {
    pub(super) fn of_refusal(refused: Refused) -> Self {
        match refused {
            Refused::Client => Self::Answer(Answer::Forbidden),
            Refused::Body => Self::Answer(Answer::BodyTooLarge),
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
            Reply::TooOften { status, quota } => {
                let mut response = ResponseHeader::build(*status, Some(6))?;
                response.insert_header(header::RETRY_AFTER, quota.retry_secs)?;
                response.insert_header(header::CONTENT_LENGTH, 0)?;
                response.insert_header(header::CACHE_CONTROL, "no-store")?;
                insert_quota(&mut response, quota)?;
                prepare_response(session, &mut response, state);
                session.write_response_header(Box::new(response), true).await
            }
            Reply::Redirect { status, location } => {
                let mut response = ResponseHeader::build(*status, Some(3))?;
                response.insert_header(header::LOCATION, location)?;
                response.insert_header(header::CONTENT_LENGTH, 0)?;
                prepare_response(session, &mut response, state);
                session.write_response_header(Box::new(response), true).await
            }
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

/// What a failed request is answered; nothing when the client is gone.
fn answer_to(error: &Error) -> Option<Answer> {
    use ErrorType::{
        ConnectTimedout, ConnectionClosed, HTTPStatus, ReadError, ReadTimedout, WriteError,
        WriteTimedout,
    };
    match (error.esource(), error.etype()) {
        (_, HTTPStatus(413)) => Some(Answer::BodyTooLarge),
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
    let body = answer.body();
    let mut response = ResponseHeader::build(answer.status(), Some(4))?;
    response.insert_header(header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
    response.insert_header(header::CONTENT_LENGTH, body.len())?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    prepare_response(session, &mut response, state);
    let bodiless = session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(response), bodiless).await?;
    if !bodiless {
        session.write_response_body(Some(Bytes::from_static(body.as_bytes())), true).await?;
    }
    Ok(())
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
