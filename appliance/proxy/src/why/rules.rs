//! Which rule a request leads to, and which come before it but do not fit.

use std::sync::Arc;

use haflinger_core::{FieldMatch, HttpRule, ObjectKind, ObjectRef, PathMatch, ValueMatch};
use serde::Serialize;

use super::{UrlWhy, place};
use crate::conditions::{Conditions, RequestView, Unmet};
use crate::expressions::Expression;
use crate::hosts::HostTable;
use crate::paths::{Candidate, Paths};
use crate::routes::in_order;

/// Rules that are named of those that do not fit: as many as are read.
const REJECTED_MAX: usize = 8;

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleWhy {
    /// The Ingress, site or route.
    pub object: ObjectRef,
    /// The rule's name in it.
    pub name: Option<Arc<str>>,
    /// What it asks of a request: host, path, method, fields, parameters.
    pub asks: String,
    /// What is broken in it: its requests are answered with 500.
    pub fault: Option<String>,
    /// How long a request may take in all, milliseconds; `None`: as configured, 0: for ever.
    pub request_timeout_ms: Option<u32>,
    /// How long an attempt may take, milliseconds; `None`: as configured, 0: for ever.
    pub backend_timeout_ms: Option<u32>,
    /// Status codes on which another backend is tried.
    pub retried: Vec<u16>,
}

/// A rule that comes before the one that is followed, and does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// The Ingress, site or route.
    pub object: ObjectRef,
    /// The rule's name in it.
    pub name: Option<Arc<str>>,
    /// What it asks of a request.
    pub asks: String,
    /// What is missing.
    pub because: String,
}

/// Why a rule does not fit. The farther down, the nearer it came.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unfit {
    Host,
    Path,
    Condition(String),
}

type Compiled<'a> = &'a dyn Fn(&Arc<str>) -> Arc<Expression>;

/// Reads the rules of a section in the order in which they are tried, up to the one that fits.
pub(super) fn tell(
    rules: &[HttpRule],
    view: &RequestView<'_>,
    compiled: Compiled<'_>,
    why: &mut UrlWhy,
) {
    let mut rejected: Vec<(Unfit, &HttpRule)> = Vec::new();
    for rule in in_order(rules) {
        match fits(rule, view, compiled) {
            Ok(fault) => {
                why.rule = Some(shown(rule, fault));
                break;
            }
            Err(Unfit::Host) => {}
            Err(unfit) => rejected.push((unfit, rule)),
        }
    }
    // Those that fail by a condition first, then those whose path has most in common.
    let common = |rule: &HttpRule| {
        let own = rule.matches.path.as_str().bytes();
        own.zip(view.path.bytes()).take_while(|(a, b)| a == b).count()
    };
    rejected.sort_by_key(|(unfit, rule)| match unfit {
        Unfit::Condition(_) => (0, 0),
        Unfit::Path | Unfit::Host => (1, usize::MAX - common(rule)),
    });
    why.rejected_more = rejected.len().saturating_sub(REJECTED_MAX);
    let named = rejected.into_iter().take(REJECTED_MAX).map(|(unfit, rule)| Rejected {
        object: rule.object.clone(),
        name: rule.action.name.clone(),
        asks: asks(rule),
        because: match unfit {
            Unfit::Host => "another host".to_owned(),
            Unfit::Path => "another path".to_owned(),
            Unfit::Condition(what) => what,
        },
    });
    why.rejected = named.collect();
}

/// The first rule that fits.
#[cfg(test)]
pub(crate) fn first<'a>(rules: &'a [HttpRule], view: &RequestView<'_>) -> Option<&'a HttpRule> {
    let compiled = |text: &Arc<str>| Arc::new(Expression::new(text));
    in_order(rules).find(|rule| fits(rule, view, &compiled).is_ok())
}

/// Whether a rule fits, by what serves; what is broken in it then.
fn fits(
    rule: &HttpRule,
    view: &RequestView<'_>,
    compiled: Compiled<'_>,
) -> Result<Option<String>, Unfit> {
    let mut host = HostTable::<Paths<()>>::default();
    let paths = host.entry(&rule.host);
    let one_label = matches!(rule.host, haflinger_core::HostMatch::OneLabel(_));
    let candidate = Candidate {
        conditions: None,
        one_label,
        broken: false,
        prefix_bytes: 0,
        action: Arc::new(()),
    };
    let is_grpc = rule.object.kind == ObjectKind::GrpcRoute;
    paths.add(&rule.matches.path, is_grpc, candidate, compiled);
    let near = host.near(view.host).next().filter(|near| near.one_label || !one_label);
    let near = near.ok_or(Unfit::Host)?;
    if let PathMatch::Regex(text) = &rule.matches.path
        && let Some(fault) = compiled(text).fault()
    {
        return Err(Unfit::Condition(format!("its path is broken: {fault}")));
    }
    near.entry.find(view, near.one_label).ok_or(Unfit::Path)?;
    let conditions = Conditions::compile(&rule.matches, compiled).map_err(|name| {
        Unfit::Condition(format!("it is left out: {name:?} is no name of a header field"))
    })?;
    let Some(conditions) = conditions else { return Ok(None) };
    match conditions.unmet(view) {
        None => Ok(conditions.fault().map(str::to_owned)),
        Some(unmet) => Err(Unfit::Condition(match unmet {
            Unmet::Method => format!("the method is {}", view.method),
            Unmet::Field(name) if !view.fields.contains_key(name) => {
                format!("there is no field {name}")
            }
            Unmet::Field(name) => format!("the field {name} has another value"),
            Unmet::Parameter(name) => {
                format!("the parameter {name} is absent or has another value")
            }
        })),
    }
}

fn shown(rule: &HttpRule, fault: Option<String>) -> RuleWhy {
    let action = &rule.action;
    RuleWhy {
        object: rule.object.clone(),
        name: action.name.clone(),
        asks: asks(rule),
        fault,
        request_timeout_ms: action.timeouts.request_ms,
        backend_timeout_ms: action.timeouts.backend_ms,
        retried: action.retry.as_ref().map(|retry| retry.codes.clone()).unwrap_or_default(),
    }
}

/// What a rule asks of a request, in words.
fn asks(rule: &HttpRule) -> String {
    let host = place::pattern(&rule.host).unwrap_or_else(|| "any host".to_owned());
    let path = match &rule.matches.path {
        PathMatch::Exact(path) => format!("path {path}"),
        PathMatch::Prefix(path) => format!("paths below {path}"),
        PathMatch::Regex(text) => format!("paths like {text}"),
    };
    let mut all = vec![host, path];
    all.extend(rule.matches.method.as_ref().map(|method| format!("method {method}")));
    let value = |of: &str, field: &FieldMatch| match &field.value {
        ValueMatch::Exact(value) => format!("{of} {} = {value}", field.name),
        ValueMatch::Regex(text) => format!("{of} {} like {text}", field.name),
    };
    all.extend(rule.matches.headers.iter().map(|field| value("field", field)));
    all.extend(rule.matches.query.iter().map(|field| value("parameter", field)));
    all.join(", ")
}
