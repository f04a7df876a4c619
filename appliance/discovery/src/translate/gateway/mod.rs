//! Objects of the Gateway API become what the core is told about them.
//!
//! The API server has checked them against their schema, so that nearly nothing can be malformed;
//! what is all the same, or is not supported, is a fault. One that is being deleted says nothing
//! any more.

mod auth;
mod durations;
mod expressions;
mod filters;
mod listeners;
mod matches;
mod pages;
mod policies;
mod references;
mod routes;
mod sessions;
mod status;
#[cfg(test)]
mod tests;
mod wishes;

use std::sync::Arc;

use haflinger_core::{FaultReason, SourceId};

pub(crate) use listeners::{gateway, gateway_class, listener_set};
pub(crate) use matches::is_token;
pub(crate) use policies::{backend_tls_policy, reference_grant};
pub(crate) use routes::{grpc_route, http_route, stream_route};
pub(crate) use wishes::{backend_policy, backend_wishes, request_policy, request_wishes};

use super::{Faults, dns_name, quoted};
use crate::objects::lax::Lax;

/// The controller that we are (`spec.controllerName` of a GatewayClass).
const CONTROLLER: &str = "haflinger.dev/gateway";

/// The group of the API.
const GROUP: &str = "gateway.networking.k8s.io";

/// Reads one object; what cannot be used becomes a fault.
struct Reading<'a> {
    source: &'a SourceId,
    namespace: &'a str,
    faults: &'a mut Faults,
}

impl Reading<'_> {
    /// A value that makes no sense.
    fn refuse(&mut self, message: impl Into<String>) {
        self.faults.add(FaultReason::InvalidField, message);
    }

    /// A value that makes sense and is not served.
    fn decline(&mut self, message: impl Into<String>) {
        self.faults.add(FaultReason::UnsupportedFeature, message);
    }

    /// Elements with their places as paths of fields; those that are no objects are refused.
    fn each<'b, T>(&mut self, field: &str, list: &'b [Lax<T>]) -> Vec<(String, &'b T)> {
        let mut found = Vec::with_capacity(list.len());
        for (at, element) in list.iter().enumerate() {
            let field = format!("{field}[{at}]");
            match element.get() {
                Some(element) => found.push((field, element)),
                None => self.refuse(format!("{field}: is of another type; write it anew")),
            }
        }
        found
    }

    /// A host name, `*.suffix` allowed.
    fn hostname(&mut self, field: &str, text: &str) -> Option<Arc<str>> {
        let name = dns_name(text);
        if name.is_none() {
            let text = quoted(text);
            self.refuse(format!("{field}: {text} is no host name; write one, or *.suffix"));
        }
        name
    }

    /// A host name without `*`.
    fn precise_hostname(&mut self, field: &str, text: &str) -> Option<Arc<str>> {
        let name = dns_name(text).filter(|name| !name.starts_with('*'));
        if name.is_none() {
            let text = quoted(text);
            self.refuse(format!("{field}: {text} is no host name; write one without \"*\""));
        }
        name
    }

    fn hostnames(&mut self, list: &[Lax<String>]) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::with_capacity(list.len());
        for (field, text) in self.each("spec.hostnames", list) {
            if let Some(name) = self.hostname(&field, text)
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
        names
    }
}
