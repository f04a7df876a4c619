//! What has to be found out about a client before its request goes on.

use http::{HeaderValue, header};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::{Gateway, RequestState};
use crate::admission::shown;
use crate::auth::{Grants, Question, Verdict};
use crate::headers::{Arrival, forwarding};

impl Gateway {
    /// The answer to a question, which may take a while.
    pub(super) async fn find_out(
        &self,
        session: &Session,
        state: &RequestState,
        question: Question,
    ) -> Verdict {
        match question {
            Question::Compare(known, credentials) => {
                self.shared.comparisons.compare(known, credentials).await
            }
            Question::Keys(slot) => {
                slot.look_for_keys().await;
                Verdict::KeysLookedFor
            }
            Question::Authorize(check) => {
                let Some(connection) = &state.connection else { return Verdict::Busy };
                let question = {
                    let settings = self.shared.settings.load();
                    let request = session.req_header();
                    let tls = connection.listener.tls.is_some();
                    let shown = shown(request, tls, super::admit::wall());
                    let host = shown.host.and_then(|host| HeaderValue::from_str(host).ok());
                    let arrival = Arrival {
                        peer: connection.peer,
                        local: connection.listener.address,
                        tls,
                        host: host.as_ref(),
                    };
                    let fields = &request.headers;
                    let forwarding = forwarding(arrival, fields, &settings.trusted_proxies);
                    check.request(shown, forwarding)
                };
                Verdict::Told(self.asker.ask(&check, question, state.hash).await)
            }
        }
    }
}

/// Changes a request as the checks that it has passed ask for. What a client sends in a field that
/// a check fills in goes no further, in any spelling that a backend could take for it.
pub(super) fn apply_grants(
    grants: &Grants,
    request: &mut RequestHeader,
) -> pingora_core::Result<()> {
    let alike = |name: &header::HeaderName| {
        let name = name.as_str();
        let same = |own: &header::HeaderName| {
            let bytes = own.as_str().bytes().zip(name.bytes());
            own.as_str().len() == name.len()
                && bytes.into_iter().all(|(a, b)| a == b || (a == b'-' && b == b'_'))
        };
        grants.remove.iter().any(same)
    };
    if !grants.remove.is_empty() {
        let names: Vec<_> = request.headers.keys().filter(|name| alike(name)).cloned().collect();
        for name in names {
            request.remove_header(&name);
        }
    }
    for (name, value) in &grants.add {
        request.append_header(name.clone(), value.clone())?;
    }
    match grants.cookies_of(&request.headers) {
        Some(Some(left)) => request.insert_header(header::COOKIE, left)?,
        Some(None) => {
            request.remove_header(&header::COOKIE);
        }
        None => {}
    }
    if let Some(query) = grants.query_of(request.uri.query()) {
        let path = request.uri.path().to_owned();
        super::forward::retarget(request, &path, query.as_deref())?;
    }
    Ok(())
}
