//! The filters of a rule, in their order, and what each does to a request.

use std::fmt::Display;

use haflinger_core::{
    ClientRanges, Cors, FieldEdits, Filter, PathRewrite, RateLimit, Redirect, Rewrite,
};
use serde::Serialize;

use super::UrlWhy;
use crate::action::Step;
use crate::admission::{Admitted, Arrived, Next};
use crate::conditions::RequestView;
use crate::guards::{Quota, Refused};
use crate::rewrite;

/// A filter and what it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FilterWhy {
    /// What it asks or changes, in words.
    pub filter: String,
    /// What it does to this request.
    pub does: String,
    /// Whether the request ends here.
    pub ends: bool,
}

/// Tells the filters of the rule and of the backend chosen, and what each did on the way to `next`.
pub(super) fn tell(
    rule: &Admitted,
    next: &Next,
    view: &RequestView<'_>,
    arrived: &Arrived<'_>,
    why: &mut UrlWhy,
) {
    let from = rule.action.from();
    let of_backend = rule.backend.and_then(|at| from.backends.get(at));
    let of_backend = of_backend.map(|backend| &backend.filters);
    let filters = from.filters.iter().chain(of_backend.into_iter().flatten());
    for (place, (filter, step)) in filters.zip(rule.action.steps(rule.backend)).enumerate() {
        let ends = place == rule.place() && is_of_filter(step, next);
        why.filters.push(FilterWhy {
            filter: words(filter),
            ends,
            does: match ends {
                true => end(next),
                false => effect(step, rule.prefix_bytes, view, arrived),
            },
        });
        if ends {
            return;
        }
    }
}

/// Whether it is the filter that the request stopped at, and not the backends behind all of them.
fn is_of_filter(step: &Step, next: &Next) -> bool {
    match next {
        Next::Forward => false,
        Next::Answer(_) => matches!(step, Step::Unfollowed),
        _ => true,
    }
}

/// What a filter is.
fn words(filter: &Filter) -> String {
    match filter {
        Filter::Clients(ranges) => clients(ranges),
        Filter::Rate { limit, scope } => rate(limit, scope),
        Filter::BodyMax(max) => format!("bodies of {max} bytes at most"),
        Filter::RequestHeaders(edits) => format!("fields of the request: {}", changes(edits)),
        Filter::ResponseHeaders(edits) => format!("fields of the answer: {}", changes(edits)),
        Filter::Redirect(redirect) => redirection(redirect),
        Filter::Rewrite(to) => rewriting(to),
        Filter::Mirror(mirror) => {
            let share = match (mirror.numerator, mirror.denominator) {
                (all, of) if all == of => "every request".to_owned(),
                (some, of) => format!("{some} of {of} requests"),
            };
            format!("a copy of {share} to {}", mirror.to.target)
        }
        Filter::Cors(cors) => origins(cors),
        Filter::Users(users) => format!("name and password for {}", users.realm),
        Filter::Tokens(tokens) => format!("a signed token for {}", tokens.realm),
        Filter::HeaderMax(max) => format!("headers of {max} bytes at most"),
        Filter::AnswerMax(max) => format!("answers of {max} bytes at most"),
        Filter::Compress(compression) => {
            let codings: Vec<&str> = compression.codings.iter().map(|c| c.as_str()).collect();
            format!("compression: {}", some(&codings))
        }
        Filter::ErrorPages(pages) => format!("{} error pages", pages.pages.len()),
        Filter::Maintenance(closed) => {
            format!("maintenance for all clients but for {}", some(&closed.except))
        }
        // What is asked elsewhere while the request waits.
        _ => "another check".to_owned(),
    }
}

fn clients(ranges: &ClientRanges) -> String {
    let allow = match &ranges.allow {
        None => "all clients".to_owned(),
        Some(allow) => format!("clients in {}", some(allow)),
    };
    match ranges.deny.is_empty() {
        true => allow,
        false => format!("{allow} but for {}", some(&ranges.deny)),
    }
}

/// Items of a list that are named.
const ITEMS_NAMED: usize = 6;

fn some<T: Display>(list: &[T]) -> String {
    let mut named: Vec<String> = list.iter().take(ITEMS_NAMED).map(T::to_string).collect();
    if list.is_empty() {
        named.push("an empty list".to_owned());
    }
    if list.len() > ITEMS_NAMED {
        named.push(format!("{} more", list.len() - ITEMS_NAMED));
    }
    named.join(", ")
}

fn rate(limit: &RateLimit, scope: &str) -> String {
    let RateLimit { requests, period_ms, burst, per, status: _ } = limit;
    format!("{requests} requests in {period_ms} ms, {burst} at once, per {per}, of {scope}")
}

fn changes(edits: &FieldEdits) -> String {
    let removed = edits.remove.iter().map(|name| format!("without {name}"));
    let set = edits.set.iter().map(|(name, value)| format!("{name}: {value}"));
    let added = edits.add.iter().map(|(name, value)| format!("also {name}: {value}"));
    some(&removed.chain(set).chain(added).collect::<Vec<_>>())
}

fn redirection(to: &Redirect) -> String {
    let mut parts = vec![format!("redirect with {}", to.status)];
    parts.extend(to.scheme.as_ref().map(|scheme| format!("scheme {scheme}")));
    parts.extend(to.host.as_ref().map(|host| format!("host {host}")));
    parts.extend(to.port.map(|port| format!("port {port}")));
    parts.extend(to.path.as_ref().map(path));
    parts.join(", ")
}

fn rewriting(to: &Rewrite) -> String {
    let mut parts = vec!["rewrite".to_owned()];
    parts.extend(to.host.as_ref().map(|host| format!("host {host}")));
    parts.extend(to.path.as_ref().map(path));
    parts.join(", ")
}

fn path(to: &PathRewrite) -> String {
    match to {
        PathRewrite::Full(path) => format!("path {path}"),
        PathRewrite::Prefix(prefix) => format!("{prefix} in the place of the prefix"),
    }
}

fn origins(cors: &Cors) -> String {
    format!("other origins: {}", some(&cors.origins))
}

/// What a filter does to a request that goes on.
fn effect(
    step: &Step,
    prefix_bytes: usize,
    view: &RequestView<'_>,
    arrived: &Arrived<'_>,
) -> String {
    match step {
        Step::Guard(guard) => match guard.check(view.fields, arrived.asking) {
            Ok(Some(quota)) => format!("lets it through: {}", left(&quota)),
            _ => "lets it through".to_owned(),
        },
        Step::Rewrite(to) => {
            let path = to.path.as_ref().map(|to| rewrite::path(to, view.path, prefix_bytes));
            let path = path.map(|path| format!("path {path}"));
            let host = to.host.as_ref().map(|host| format!("host {host}"));
            let all: Vec<String> = host.into_iter().chain(path).collect();
            format!("the backend sees {}", all.join(", "))
        }
        Step::Cors(_) => "is no preflight: the answer says what is allowed".to_owned(),
        Step::Response(_) => "changes the answer".to_owned(),
        Step::Request(_) => "changes the request".to_owned(),
        Step::Mirror(_) => "copies, and goes on".to_owned(),
        Step::AnswerMax(_) | Step::Compress(_) | Step::Pages(_) => "looks at the answer".to_owned(),
        _ => "lets it through".to_owned(),
    }
}

fn left(quota: &Quota) -> String {
    format!("{} more at once, of {}", quota.remaining, quota.limit)
}

/// What a filter does that answers.
fn end(next: &Next) -> String {
    match next {
        Next::Refuse(Refused::Client) => "refuses the client: 403".to_owned(),
        Next::Refuse(Refused::Body) => "refuses the body: 413".to_owned(),
        Next::Refuse(Refused::Header) => "refuses the header: 431".to_owned(),
        Next::Closed(_) => "is closed for maintenance: 503".to_owned(),
        Next::Refuse(Refused::Rate { status, quota }) => {
            format!("refuses: too often, more in {} s: {status}", quota.retry_secs)
        }
        Next::Redirect { status, location } => format!("sends the client to {location}: {status}"),
        Next::Preflight(_) => "answers the preflight: 204".to_owned(),
        Next::Answer(answer) => format!("answers {}", answer.status()),
        Next::Deny(denied) => format!("refuses: {}: {}", denied.reason, denied.status),
        Next::Ask(_) => "settles it when the request comes".to_owned(),
        Next::Forward => String::new(),
    }
}
