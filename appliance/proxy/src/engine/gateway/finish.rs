//! The last stage of a backend's answer: whether it is passed on at all, the token of its client's
//! session, and its coding.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::super::coder::Coder;
use super::{Gateway, RequestState};
use crate::action::Step;
use crate::answers::Answer;
use crate::coding::{Verdict, varies};

impl Gateway {
    /// Refuses an answer that says that it is too long, and one that a page stands in for.
    pub(super) fn check_answer(
        &self,
        session: &Session,
        response: &ResponseHeader,
        state: &mut RequestState,
    ) -> Result<()> {
        let Some(rule) = &state.rule else { return Ok(()) };
        let length = response.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
        let has_body = session.req_header().method != Method::HEAD
            && response.status != StatusCode::NOT_MODIFIED;
        if let (Some(max), Some(length)) = (rule.answer_max, length.filter(|_| has_body))
            && length > max
        {
            return Err(self.too_long());
        }
        let status = response.status.as_u16();
        let sheet = rule.action.steps(rule.backend).find_map(|step| match step {
            Step::Pages(pages) => pages.find_for_backend(status),
            _ => None,
        });
        if let Some(sheet) = sheet {
            state.intercepted = Some((status, sheet.clone()));
            let why = "a page stands in for the answer";
            return Err(Error::explain(ErrorType::HTTPStatus(status), why));
        }
        Ok(())
    }

    /// Counts the body of an answer as it comes; one that is longer than it may be is cut off.
    pub(super) fn meter_answer(
        &self,
        state: &mut RequestState,
        piece: Option<&Bytes>,
    ) -> Result<()> {
        let Some(max) = state.rule.as_ref().and_then(|rule| rule.answer_max) else {
            return Ok(());
        };
        state.answer_bytes += piece.map_or(0, |piece| piece.len() as u64);
        if state.answer_bytes > max { Err(self.too_long()) } else { Ok(()) }
    }

    fn too_long(&self) -> Box<Error> {
        self.shared.metrics.codings.too_long.inc();
        let status = ErrorType::HTTPStatus(Answer::BadGateway.status());
        Error::explain(status, "the answer is longer than the rule lets it be")
    }

    /// Has the answer compressed, where the rule says so and the client can take it.
    pub(super) fn compress(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        state: &RequestState,
    ) -> Result<()> {
        let Some(rule) = &state.rule else { return Ok(()) };
        let compressor = rule.action.steps(rule.backend).find_map(|step| match step {
            Step::Compress(compressor) => Some(compressor),
            _ => None,
        });
        let Some(compressor) = compressor else { return Ok(()) };
        let verdict = compressor.judge(session.req_header(), response.status, &response.headers);
        if verdict != Verdict::Same && !varies(&response.headers) {
            let name = HeaderValue::from_static("Accept-Encoding");
            response.append_header(header::VARY, name)?;
        }
        if let Verdict::Coded(coding) = verdict
            && let Some(coder) = session.downstream_modules_ctx.get_mut::<Coder>()
        {
            self.coders.engage(coder, coding, compressor.effort());
        }
        Ok(())
    }

    /// Gives the client what it finds the backend by that has answered.
    pub(super) fn keep_session(
        &self,
        response: &mut ResponseHeader,
        state: &RequestState,
    ) -> Result<()> {
        if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS
        {
            return Ok(());
        }
        let (Some(rule), Some(asked)) = (&state.rule, state.asking) else { return Ok(()) };
        let (Some(sessions), Some(to)) = (rule.action.sessions(), state.upstream()) else {
            return Ok(());
        };
        let set = to.slot.load();
        // One that has left meanwhile has nothing to come back to.
        let backend = set.as_ref().and_then(|set| Some((set, set.get(&asked)?)));
        let Some((set, backend)) = backend else { return Ok(()) };
        let (desk, shown) = (self.desk(), rule.session.map(|(token, _)| token));
        let tag = desk.key.tag(&set.target, backend);
        let tls = state.connection.as_ref().is_some_and(|c| c.listener.tls.is_some());
        let Some((name, value)) = sessions.token(shown, tag, desk, tls) else { return Ok(()) };
        self.shared.metrics.sessions.given(shown.is_some_and(|token| token.tag == tag));
        match name == header::SET_COOKIE {
            true => response.append_header(name, value).map(drop),
            false => response.insert_header(name, value),
        }
    }
}
