//! Filters of rules and backends.

use std::sync::Arc;

use haflinger_core::{Cors, ExtensionRef, FieldEdits, FilterSpec, PathRewrite, Redirect, Rewrite};

use super::Reading;
use super::matches::{is_path, is_token};
use super::references::{Refers as _, kind_in};
use crate::objects::lax::Lax;
use crate::objects::{
    CorsBody, FilterBody, HeaderBody, HeaderModifier, LocalReferenceBody, PathModifier,
    RequestMirror, RequestRedirect, UrlRewrite,
};
use crate::translate::{port_number, quoted};

/// Statuses that a redirect may have.
const REDIRECT_STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

/// The status of a redirect that names none.
const REDIRECT_STATUS_DEFAULT: u16 = 302;

/// For how long browsers remember an answer about other origins that names no time, in seconds.
const CORS_MAX_AGE_DEFAULT_SECS: u32 = 5;

impl Reading<'_> {
    pub(super) fn filters(&mut self, field: &str, list: &[Lax<FilterBody>]) -> Vec<FilterSpec> {
        let filters = self.each(&format!("{field}.filters"), list);
        filters.iter().filter_map(|(field, body)| self.filter(field, body)).collect()
    }

    fn filter(&mut self, field: &str, body: &FilterBody) -> Option<FilterSpec> {
        let kind = body.filter_type.text().unwrap_or_default();
        let part = match kind {
            "RequestHeaderModifier" => "requestHeaderModifier",
            "ResponseHeaderModifier" => "responseHeaderModifier",
            "RequestRedirect" => "requestRedirect",
            "URLRewrite" => "urlRewrite",
            "RequestMirror" => "requestMirror",
            "CORS" => "cors",
            "ExtensionRef" => "extensionRef",
            other => {
                let other = quoted(other);
                self.decline(format!(
                    "{field}.type: {other} is not supported; leave the filter out"
                ));
                return None;
            }
        };
        let at = format!("{field}.{part}");
        let read = match kind {
            "RequestHeaderModifier" => body
                .request_header_modifier
                .get()
                .map(|edits| Some(FilterSpec::RequestHeaders(self.edits(&at, edits)))),
            "ResponseHeaderModifier" => body
                .response_header_modifier
                .get()
                .map(|edits| Some(FilterSpec::ResponseHeaders(self.edits(&at, edits)))),
            "RequestRedirect" => {
                body.request_redirect.get().map(|redirect| self.redirect(&at, redirect))
            }
            "URLRewrite" => body.url_rewrite.get().map(|rewrite| self.rewrite(&at, rewrite)),
            "RequestMirror" => body.request_mirror.get().map(|mirror| self.mirror(&at, mirror)),
            "CORS" => body.cors.get().map(|cors| Some(FilterSpec::Cors(cors_of(cors)))),
            _ => body.extension_ref.get().map(|body| Some(FilterSpec::Extension(extension(body)))),
        };
        if read.is_none() {
            self.refuse(format!("{at}: is missing; the type of the filter asks for it"));
        }
        read.flatten()
    }

    fn edits(&mut self, field: &str, body: &HeaderModifier) -> FieldEdits {
        let mut remove: Vec<Arc<str>> = Vec::new();
        for (field, name) in self.each(&format!("{field}.remove"), body.remove.elements()) {
            remove.extend(self.field_name(&field, name));
        }
        FieldEdits {
            remove,
            set: self.header_fields(&format!("{field}.set"), body.set.elements()),
            add: self.header_fields(&format!("{field}.add"), body.add.elements()),
        }
    }

    fn header_fields(
        &mut self,
        field: &str,
        list: &[Lax<HeaderBody>],
    ) -> Vec<(Arc<str>, Arc<str>)> {
        let mut found = Vec::with_capacity(list.len());
        for (field, body) in self.each(field, list) {
            let name = body.name.text().unwrap_or_default();
            let Some(name) = self.field_name(&format!("{field}.name"), name) else { continue };
            let value = body.value.get().map(String::as_str).unwrap_or_default();
            // Whatever ends a line would begin a field of somebody else's choice.
            if value.chars().any(|c| c.is_control() && c != '\t') {
                let value = quoted(value);
                self.refuse(format!(
                    "{field}.value: {value} has control characters; leave them out"
                ));
                continue;
            }
            found.push((name, value.into()));
        }
        found
    }

    pub(super) fn field_name(&mut self, field: &str, name: &str) -> Option<Arc<str>> {
        if is_token(name) {
            return Some(name.to_ascii_lowercase().into());
        }
        let name = quoted(name);
        self.refuse(format!("{field}: {name} is no name of a header field; write one"));
        None
    }

    fn redirect(&mut self, field: &str, body: &RequestRedirect) -> Option<FilterSpec> {
        let scheme = match body.scheme.text() {
            None => None,
            Some(scheme @ ("http" | "https")) => Some(scheme.into()),
            Some(other) => {
                let other = quoted(other);
                self.decline(format!("{field}.scheme: {other} is not served; write http or https"));
                return None;
            }
        };
        let status = body.status_code.get().map_or(Some(REDIRECT_STATUS_DEFAULT), |status| {
            REDIRECT_STATUSES.into_iter().find(|known| i64::from(*known) == *status)
        });
        let Some(status) = status else {
            self.decline(format!(
                "{field}.statusCode: is not supported; write 301, 302, 303, 307 or 308"
            ));
            return None;
        };
        Some(FilterSpec::Redirect(Redirect {
            scheme,
            host: self.new_host(field, &body.hostname)?,
            path: self.new_path(field, &body.path)?,
            port: port_number(body.port.get().copied()),
            status,
        }))
    }

    fn rewrite(&mut self, field: &str, body: &UrlRewrite) -> Option<FilterSpec> {
        Some(FilterSpec::Rewrite(Rewrite {
            host: self.new_host(field, &body.hostname)?,
            path: self.new_path(field, &body.path)?,
        }))
    }

    fn new_host(&mut self, field: &str, written: &Lax<String>) -> Option<Option<Arc<str>>> {
        match written.text() {
            None => Some(None),
            Some(text) => self.precise_hostname(&format!("{field}.hostname"), text).map(Some),
        }
    }

    fn new_path(
        &mut self,
        field: &str,
        written: &Lax<PathModifier>,
    ) -> Option<Option<PathRewrite>> {
        let Some(body) = written.get() else { return Some(None) };
        let field = format!("{field}.path");
        let (part, text) = match body.modifier_type.text().unwrap_or_default() {
            "ReplaceFullPath" => ("replaceFullPath", &body.replace_full_path),
            "ReplacePrefixMatch" => ("replacePrefixMatch", &body.replace_prefix_match),
            other => {
                self.unknown_type(&field, other, "ReplaceFullPath or ReplacePrefixMatch");
                return None;
            }
        };
        let text = text.get().map(String::as_str).unwrap_or_default();
        // Nothing in the place of a prefix leaves the rest, which begins with "/" by itself.
        let path = if text.is_empty() { "/" } else { text };
        if !is_path(path) {
            let text = quoted(text);
            self.refuse(format!("{field}.{part}: {text} is no path; begin it with \"/\""));
            return None;
        }
        Some(Some(match part {
            "replaceFullPath" => PathRewrite::Full(path.into()),
            _ => PathRewrite::Prefix(path.into()),
        }))
    }

    fn mirror(&mut self, field: &str, body: &RequestMirror) -> Option<FilterSpec> {
        let at = format!("{field}.backendRef");
        let Some(backend) = body.backend_ref.get() else {
            self.refuse(format!("{at}: is missing; name a Service"));
            return None;
        };
        let backend = self.backend(&at, backend);
        let fraction = body.fraction.get().map(|body| {
            (body.numerator.get().copied(), Some(body.denominator.get().copied().unwrap_or(100)))
        });
        let percent = body.percent.get().map(|percent| (Some(*percent), Some(100)));
        let (numerator, denominator) = fraction.or(percent).unwrap_or((Some(1), Some(1)));
        let count = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
        let share = count(numerator).zip(count(denominator).filter(|of| *of > 0));
        let Some((numerator, denominator)) = share.filter(|(part, of)| part <= of) else {
            self.refuse(format!(
                "{field}: its fraction or percent is no share of all; write percent from 0 to 100"
            ));
            return None;
        };
        Some(FilterSpec::Mirror { backend, numerator, denominator })
    }
}

fn extension(body: &LocalReferenceBody) -> ExtensionRef {
    let written = body.written();
    ExtensionRef {
        kind: kind_in(written.group.unwrap_or_default(), written.kind.unwrap_or_default()).into(),
        name: written.name.unwrap_or_default().into(),
    }
}

pub(super) fn cors_of(body: &CorsBody) -> Cors {
    let texts = |list: &Lax<Vec<Lax<String>>>| {
        list.elements().iter().filter_map(|text| Some(text.text()?.into())).collect()
    };
    let max_age = body.max_age.get().and_then(|secs| u32::try_from(*secs).ok());
    Cors {
        origins: texts(&body.allow_origins),
        credentials: body.allow_credentials.get().copied().unwrap_or_default(),
        methods: texts(&body.allow_methods),
        headers: texts(&body.allow_headers),
        expose: texts(&body.expose_headers),
        max_age_secs: max_age.unwrap_or(CORS_MAX_AGE_DEFAULT_SECS),
    }
}
