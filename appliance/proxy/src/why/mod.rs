//! What would become of a request, and why: `haflinger why` for a URL.
//!
//! The answer is had from what serves: the same sections, router, filters and tables. Only where the
//! router says no more than the winner are the rules read again one by one, in the order in which
//! they are tried, to name those that are closer and do not fit.
//!
//! What it never does: count a request, spend a rate, open a connection, change anything.

mod filters;
mod onward;
mod place;
mod question;
pub(crate) mod rules;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::flow::flow_hash;
use haflinger_core::{Protocol, SectionRef, Serves};
use serde::Serialize;

pub use self::filters::FilterWhy;
pub use self::onward::{BackendWhy, OnwardWhy, ShareWhy};
pub use self::question::{Question, QuestionError};
pub use self::rules::{Rejected, RuleWhy};

use crate::admission::{Admission, Arrived, Next, admit};
use crate::answers::Answer;
use crate::authority::host_of;
use crate::conditions::RequestView;
use crate::guards::{Asking, Counts, Refused};
use crate::sessions::{Desk, SessionKey};
use crate::settings::Settings;
use crate::tables::{Serving, Tables};
use crate::upstream::request_hash;

/// What an answer depends on beside what is served.
pub(crate) struct Circumstances<'a> {
    /// What tokens of sessions are read by.
    pub(crate) sessions: &'a SessionKey,
    /// The settings now.
    pub(crate) settings: &'a Settings,
    /// What clients have asked so far.
    pub(crate) counts: &'a Counts,
    /// Time on the clock of the counts.
    pub(crate) now: Duration,
    /// The date, in seconds since 1970.
    pub(crate) today_secs: i64,
}

/// What would become of a request, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UrlWhy {
    /// Its method.
    pub method: String,
    /// The URL as it was asked about.
    pub url: String,
    /// Who asks.
    pub client: Option<SocketAddr>,
    /// Whether the client's address was only assumed.
    pub client_assumed: bool,
    /// Whether the client's port was only assumed.
    pub port_assumed: bool,
    /// The listener; `None`: nobody listens.
    pub listener: Option<ListenerWhy>,
    /// How the client is greeted; `None` without TLS.
    pub tls: Option<TlsWhy>,
    /// The rule.
    pub rule: Option<RuleWhy>,
    /// Rules that would come before it but do not fit, nearest first.
    pub rejected: Vec<Rejected>,
    /// How many more there are, of the same host.
    pub rejected_more: usize,
    /// The filters of rule and backend, in their order, with what each does.
    pub filters: Vec<FilterWhy>,
    /// The backends of the rule and their shares.
    pub shares: Vec<ShareWhy>,
    /// What is asked of the backend; `None`: no backend is asked.
    pub onward: Option<OnwardWhy>,
    /// What the client gets in the end.
    pub outcome: Outcome,
    /// What may help.
    pub hints: Vec<String>,
}

/// A listener and the part of it that a request belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerWhy {
    /// VIP and port.
    pub address: SocketAddr,
    /// Whether clients speak TLS there.
    pub tls: bool,
    /// Why it takes no connection at the moment, if it takes none.
    pub unbound: Option<String>,
    /// The Gateway or ListenerSet, and the name of its listener; `None`: Ingresses and sites, or no
    /// section at all.
    pub section: Option<SectionRef>,
    /// Whether there is a section for the host.
    pub has_section: bool,
    /// Hosts of the section, as a pattern; `None`: every one.
    pub host: Option<String>,
}

/// How a client is greeted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsWhy {
    /// The server name that it asks for; `None`: the URL has an address instead.
    pub server_name: Option<String>,
    /// What is shown; `None`: nothing, or the backend shows its own.
    pub certificate: Option<CertificateWhy>,
    /// Whether the connection is passed on as it is, and the backend shows the certificate.
    pub passthrough: bool,
    /// Whether clients have to show a certificate (`required`), may (`optional`), or are not asked.
    pub client_certificate: Option<&'static str>,
}

/// A certificate that is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateWhy {
    /// The Secret, or the file's name in the inventory.
    pub name: Option<String>,
    /// Its DNS names.
    pub names: Vec<Arc<str>>,
    /// Until when it is valid, in seconds since 1970.
    pub not_after_secs: i64,
    /// Whether that is over.
    pub expired: bool,
    /// Whether it has the server name: otherwise clients complain.
    pub covers: bool,
}

/// What the client gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// No answer of HTTP.
    #[default]
    Unknown,
    /// No connection, or none that is of use.
    NoConnection {
        /// Why.
        because: String,
    },
    /// What the backend answers.
    Forwarded,
    /// A password, a token or a server settles it when the request comes; then it goes on to the
    /// backend, or not.
    Depends,
    /// Bytes of the backend, whatever they are.
    Stream {
        /// The service.
        target: String,
        /// The backend that the table chooses, if there is any.
        backend: Option<SocketAddr>,
    },
    /// An answer of the proxy's own.
    Answer {
        /// The status.
        status: u16,
        /// Why.
        because: String,
    },
    /// It is sent elsewhere.
    Redirect {
        /// The status.
        status: u16,
        /// Where to.
        location: String,
    },
    /// What other origins may do.
    Preflight {
        /// The fields of the answer.
        fields: Vec<String>,
    },
}

/// Answers a question.
pub(crate) fn explain(tables: &Tables, question: &Question, with: &Circumstances<'_>) -> UrlWhy {
    let mut why = UrlWhy {
        method: question.request.method.to_string(),
        url: question.url.clone(),
        ..UrlWhy::default()
    };
    let Some(serving) = place::listener(tables, question, &mut why) else { return why };
    let address = serving.listener.address;
    let (client, assumed) = question.client(address);
    (why.client, why.client_assumed) = (Some(client), assumed);
    why.port_assumed = question.any_port();
    why.listener = Some(ListenerWhy {
        address,
        tls: serving.spec.tls,
        unbound: serving.unbound.clone(),
        section: None,
        has_section: false,
        host: None,
    });
    if let Some(reason) = &serving.unbound {
        why.outcome = no_connection(&format!("the listener takes no connection: {reason}"));
        return why;
    }
    if question.tls != serving.spec.tls {
        why.outcome = no_connection(match question.tls {
            true => "TLS is asked for, but this listener speaks none: ask by http://",
            false => "clients have to speak TLS there: ask by https://",
        });
        return why;
    }
    let flow = flow_hash(&with.settings.flow_hash_key, Protocol::Tcp, client, address);
    if let Some(outcome) = place::greeting(tables, &serving, question, flow, with, &mut why) {
        why.outcome = outcome;
        return why;
    }
    request(tables, &serving, question, (client, flow), with, &mut why);
    why
}

/// What becomes of the request once there is a connection.
fn request(
    tables: &Tables,
    serving: &Serving<'_>,
    question: &Question,
    (client, flow): (SocketAddr, u64),
    with: &Circumstances<'_>,
    why: &mut UrlWhy,
) {
    let asking = Asking {
        peer: client.ip(),
        trusted: &with.settings.trusted_proxies,
        counts: with.counts,
        now: with.now,
        earnest: false,
    };
    let arrived = Arrived {
        server_name: question.server_name(),
        tls: question.tls,
        port: serving.listener.address.port(),
        // The first request of the connection.
        hash: request_hash(flow, 0),
        asking,
        wall: Duration::from_secs(u64::try_from(with.today_secs).unwrap_or(0)),
        desk: Desk {
            key: with.sessions,
            now_secs: u32::try_from(with.today_secs).unwrap_or(u32::MAX),
        },
    };
    let routes = serving.listener.routes.load();
    let limit = with.settings.header_bytes_max;
    let Admission { rule: admitted, next } = admit(&routes, &question.request, &arrived, limit);
    let field = question.request.headers.get(http::header::HOST);
    let host = field.and_then(|host| host_of(host.to_str().ok()?).ok());
    let view = RequestView {
        host: host.as_deref(),
        path: question.request.uri.path(),
        query: question.request.uri.query(),
        method: &question.request.method,
        fields: &question.request.headers,
    };
    let section = routes.section(question.server_name(), view.host).ok().flatten();
    let section = section.and_then(|at| serving.spec.sections.get(at));
    if let (Some(section), Some(listener)) = (section, &mut why.listener) {
        listener.section = section.origin.clone();
        listener.has_section = true;
        listener.host = place::pattern(&section.host);
        if let Serves::Requests(all) = &section.serves {
            rules::tell(all, &view, &|text| tables.expression(text), why);
        }
    }
    if let Some(rule) = &admitted {
        filters::tell(rule, &next, &view, &arrived, why);
        onward::tell_shares(rule, why);
        if matches!(next, Next::Forward | Next::Ask(_)) {
            onward::tell(rule, serving, question, (client, arrived.hash), with, why);
        }
    }
    why.outcome = outcome(next, why);
    if let Outcome::Answer { status: 404 | 421, .. } = why.outcome {
        place::hint_hosts(tables, serving, view.host, why);
    }
}

fn outcome(next: Next, why: &UrlWhy) -> Outcome {
    let status = match next {
        Next::Forward => return Outcome::Forwarded,
        Next::Ask(_) => return Outcome::Depends,
        Next::Deny(denied) => denied.status,
        Next::Redirect { status, location } => return Outcome::Redirect { status, location },
        Next::Preflight(fields) => {
            let field = |(name, value): &(http::HeaderName, http::HeaderValue)| {
                format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
            };
            return Outcome::Preflight { fields: fields.iter().map(field).collect() };
        }
        Next::Refuse(Refused::Header) => {
            let because = "the header is longer than the rule lets it be".to_owned();
            return Outcome::Answer { status: Answer::HeaderTooLarge.status(), because };
        }
        Next::Refuse(refused) => refused.status(),
        Next::Closed(_) => {
            let because = "the rule is closed for maintenance".to_owned();
            return Outcome::Answer { status: Answer::Unavailable.status(), because };
        }
        Next::Answer(answer) => answer.status(),
    };
    Outcome::Answer { status, because: because(status, why) }
}

/// Why the proxy answers with a status.
fn because(status: u16, why: &UrlWhy) -> String {
    let has_section = why.listener.as_ref().is_some_and(|listener| listener.has_section);
    let chosen = why.shares.iter().find(|share| share.chosen);
    match (status, &why.rule) {
        (400, _) => "the host is absent, malformed, or there are two of them".into(),
        (404, None) if has_section => "no rule fits the request".into(),
        (404, None) => "nothing is served for the host".into(),
        (421, _) => "the host is of another listener than the connection's server name".into(),
        (431, _) => "the header is longer than proxy.limits lets it be".into(),
        (500, Some(rule)) if rule.fault.is_some() => "the rule is broken".into(),
        (500, Some(_)) if why.shares.is_empty() => "the rule has no backend".into(),
        (500, Some(_)) if chosen.is_none() => "no backend of the rule has any weight".into(),
        (500, Some(_)) => "what the rule names does not exist, or may not be named".into(),
        (503, _) => match chosen.and_then(|share| share.target.as_ref()) {
            Some(target) => format!("{target} has no backend that takes requests"),
            None => "the rule has nowhere to lead to".into(),
        },
        _ => "a filter refuses it".into(),
    }
}

fn no_connection(because: &str) -> Outcome {
    Outcome::NoConnection { because: because.to_owned() }
}
