//! What Ingresses ask of other controllers, by their annotations: ingress-nginx's and the HAProxy
//! ingress controller's (docs/from-ingress-nginx.md, docs/from-haproxy.md).
//!
//! Every annotation under their prefixes is answered: honoured, without meaning here, or refused
//! with what to write instead; so is one that is not known. Nothing is ignored in silence.

mod auth;
mod haproxy;
mod nginx;
mod paths;
mod values;

use std::collections::BTreeMap;

use haflinger_core::{ClientRanges, FaultReason, IngressRequests, IngressRule, SourceId};
use ipnet::IpNet;

use super::annotations::VALUE_BYTES_MAX;
use super::{Faults, quoted};
use crate::objects::{IngressBody, Object};

/// What becomes of an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is read.
    Honoured,
    /// What it is for is so anyway, or has no counterpart: nothing is lost.
    Needless,
    /// It would change what is served, and does not. What to do instead.
    Refused(&'static str),
}

/// The annotations of one controller.
struct Controller {
    /// With the slash.
    prefix: &'static str,
    /// Names without the prefix, sorted.
    known: &'static [(&'static str, Verdict)],
    /// What to do about one that is not known.
    unknown: &'static str,
    read: fn(&mut Given<'_>, &mut IngressRequests, &mut Vec<IngressRule>),
}

const CONTROLLERS: [&Controller; 3] = [&nginx::CONTROLLER, &haproxy::CONTROLLER, &OTHER_HAPROXY];

/// Of the community's HAProxy controller nothing is read.
const OTHER_HAPROXY: Controller = Controller {
    prefix: "haproxy-ingress.github.io/",
    known: &[],
    unknown: "annotations of this controller are not read: write an HTTPRoute",
    read: |_, _, _| {},
};

/// What the annotations of other controllers ask. They change `rules` where they are about paths
/// and hosts.
pub(super) fn requests(
    object: &Object<IngressBody>,
    source: &SourceId,
    rules: &mut Vec<IngressRule>,
    faults: &mut Faults,
) -> IngressRequests {
    let mut requests = IngressRequests::default();
    for controller in CONTROLLERS {
        let mut given = Given {
            prefix: controller.prefix,
            source,
            namespace: object.namespace(),
            values: BTreeMap::new(),
            faults,
        };
        for (name, value) in object.annotations_under(controller.prefix) {
            given.take(controller, name, value);
        }
        if !given.values.is_empty() {
            (controller.read)(&mut given, &mut requests, rules);
        }
    }
    requests
}

/// Notes who may ask, where an annotation says anything of it.
fn ranges(requests: &mut IngressRequests, ranges: ClientRanges) {
    if ranges != ClientRanges::default() {
        requests.wishes.clients = Some(ranges);
    }
}

/// The annotations of an object that are honoured.
struct Given<'a> {
    prefix: &'static str,
    source: &'a SourceId,
    namespace: &'a str,
    values: BTreeMap<String, String>,
    faults: &'a mut Faults,
}

impl Given<'_> {
    fn take(&mut self, controller: &Controller, name: &str, value: &str) {
        let value = value.trim();
        let known = controller.known.iter().find(|(known, _)| *known == name);
        let remedy = match known {
            // What is switched off is not missed.
            Some((_, Verdict::Refused(_))) if value == "false" => return,
            Some((_, Verdict::Needless)) => return,
            Some((_, Verdict::Refused(remedy))) => remedy,
            Some((_, Verdict::Honoured)) if value.len() <= VALUE_BYTES_MAX => {
                self.values.insert(name.to_owned(), value.to_owned());
                return;
            }
            Some((_, Verdict::Honoured)) => "it is too long",
            None => controller.unknown,
        };
        let value = quoted(value);
        let message =
            format!("annotation {}{name}: {value} is not honoured: {remedy}", self.prefix);
        self.faults.add(FaultReason::UnsupportedFeature, message);
    }

    /// The value of an annotation that is there, and not empty.
    fn text(&self, name: &str) -> Option<String> {
        self.values.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// What `read` makes of a value; what it cannot read becomes a fault.
    fn parsed<T>(
        &mut self,
        name: &str,
        remedy: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(name)?;
        let value = read(&text);
        if value.is_none() {
            self.refuse(name, &text, remedy);
        }
        value
    }

    /// `true` or `false`; absent is `false`.
    fn switch(&mut self, name: &str) -> bool {
        self.parsed(name, "write \"true\" or \"false\"", values::boolean).unwrap_or(false)
    }

    /// Networks and addresses. Of a list in which any cannot be read nobody is on it, and that is
    /// said: who is let in must not be guessed, and who is kept out neither.
    fn networks(&mut self, name: &str) -> Option<Vec<IpNet>> {
        let text = self.values.get(name)?.clone();
        let networks = values::networks(&text);
        if networks.is_none() {
            let remedy = "write at most 1024 networks or addresses, separated by commas";
            self.refuse(name, &text, remedy);
        }
        Some(networks.unwrap_or_default())
    }

    fn refuse(&mut self, name: &str, value: &str, remedy: &str) {
        let value = quoted(value);
        let message = format!("annotation {}{name}: {value} cannot be used; {remedy}", self.prefix);
        self.faults.add(FaultReason::InvalidAnnotation, message);
    }
}

#[cfg(test)]
mod tests;
