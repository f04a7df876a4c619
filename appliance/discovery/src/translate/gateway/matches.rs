//! What requests have to be like: matches of HTTPRoutes and GRPCRoutes.

use std::sync::Arc;

use haflinger_core::{FieldMatch, PathMatch, RequestMatch, ValueMatch};

use super::Reading;
use super::expressions::{Budget, literal};
use crate::objects::lax::Lax;
use crate::objects::{FieldBody, GrpcMatchBody, GrpcMethodBody, HttpMatchBody, PathBody};
use crate::translate::quoted;

/// The method of every call of gRPC (gRPC over HTTP2, "Request").
const GRPC_METHOD: &str = "POST";

/// How an expression and a plain value are told apart.
enum Comparison {
    Exact,
    Expression,
}

/// A token (RFC 9110, section 5.6.2): names of fields and methods.
pub(crate) fn is_token(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(fine)
}

/// A path as it stands in a request: no query, no space, nothing that is not ASCII.
pub(super) fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'))
}

impl Reading<'_> {
    /// Matches of one rule of an HTTPRoute; that of every request where there is none.
    pub(super) fn http_matches(
        &mut self,
        field: &str,
        list: &[Lax<HttpMatchBody>],
        budget: &mut Budget,
    ) -> Vec<RequestMatch> {
        let mut matches = Vec::with_capacity(list.len().max(1));
        for (field, body) in self.each(&format!("{field}.matches"), list) {
            matches.extend(self.http_match(&field, body, budget));
        }
        if list.is_empty() {
            matches.push(RequestMatch::default());
        }
        matches
    }

    fn http_match(
        &mut self,
        field: &str,
        body: &HttpMatchBody,
        budget: &mut Budget,
    ) -> Option<RequestMatch> {
        let path = match body.path.get() {
            Some(path) => self.path(&format!("{field}.path"), path, budget)?,
            None => PathMatch::every(),
        };
        let method = match body.method.text() {
            Some(method) if is_token(method) => Some(method.into()),
            Some(method) => {
                let method = quoted(method);
                self.refuse(format!("{field}.method: {method} is no method; write one, as GET"));
                return None;
            }
            None => None,
        };
        let headers = self.headers(&format!("{field}.headers"), body.headers.elements(), budget);
        let list = body.query_params.elements();
        let query = self.fields(&format!("{field}.queryParams"), list, budget, |name| name.into());
        Some(RequestMatch { path, method, headers, query })
    }

    fn path(&mut self, field: &str, body: &PathBody, budget: &mut Budget) -> Option<PathMatch> {
        let value = body.value.text().unwrap_or("/");
        let kind = body.match_type.text().unwrap_or("PathPrefix");
        let read = match kind {
            "Exact" if is_path(value) => PathMatch::Exact(value.into()),
            "PathPrefix" if is_path(value) => PathMatch::Prefix(value.into()),
            "Exact" | "PathPrefix" => {
                let value = quoted(value);
                self.refuse(format!("{field}.value: {value} is no path; begin it with \"/\""));
                return None;
            }
            "RegularExpression" => {
                PathMatch::Regex(self.expression(&format!("{field}.value"), value, budget)?)
            }
            other => {
                self.unknown_type(field, other, "Exact, PathPrefix or RegularExpression");
                return None;
            }
        };
        Some(read)
    }

    fn headers(
        &mut self,
        field: &str,
        list: &[Lax<FieldBody>],
        budget: &mut Budget,
    ) -> Vec<FieldMatch> {
        self.fields(field, list, budget, |name| name.to_ascii_lowercase().into())
    }

    /// Of several of one name the first counts, as the API says.
    fn fields(
        &mut self,
        field: &str,
        list: &[Lax<FieldBody>],
        budget: &mut Budget,
        named: impl Fn(&str) -> Arc<str>,
    ) -> Vec<FieldMatch> {
        let mut found: Vec<FieldMatch> = Vec::with_capacity(list.len());
        for (field, body) in self.each(field, list) {
            let Some(name) = body.name.text().filter(|name| is_token(name)).map(&named) else {
                let name = quoted(body.name.text().unwrap_or_default());
                self.refuse(format!("{field}.name: {name} is no name; write one, as x-version"));
                continue;
            };
            if found.iter().any(|earlier| earlier.name == name) {
                continue;
            }
            let text = body.value.get().map(String::as_str).unwrap_or_default();
            let value = match self.comparison(&field, &body.match_type) {
                Some(Comparison::Exact) => Some(ValueMatch::Exact(text.into())),
                Some(Comparison::Expression) => {
                    self.expression(&format!("{field}.value"), text, budget).map(ValueMatch::Regex)
                }
                None => None,
            };
            found.extend(value.map(|value| FieldMatch { name, value }));
        }
        found
    }

    fn comparison(&mut self, field: &str, written: &Lax<String>) -> Option<Comparison> {
        match written.text().unwrap_or("Exact") {
            "Exact" => Some(Comparison::Exact),
            "RegularExpression" => Some(Comparison::Expression),
            other => {
                self.unknown_type(field, other, "Exact or RegularExpression");
                None
            }
        }
    }

    pub(super) fn unknown_type(&mut self, field: &str, written: &str, known: &str) {
        let written = quoted(written);
        self.decline(format!("{field}.type: {written} is not supported; write {known}"));
    }

    /// Matches of one rule of a GRPCRoute; that of every call where there is none.
    pub(super) fn grpc_matches(
        &mut self,
        field: &str,
        list: &[Lax<GrpcMatchBody>],
        budget: &mut Budget,
    ) -> Vec<RequestMatch> {
        let call =
            |path| RequestMatch { method: Some(GRPC_METHOD.into()), ..RequestMatch::path(path) };
        let mut matches = Vec::with_capacity(list.len().max(1));
        for (field, body) in self.each(&format!("{field}.matches"), list) {
            let path = match body.method.get() {
                Some(method) => self.call(&format!("{field}.method"), method, budget),
                None => Some(PathMatch::every()),
            };
            let headers =
                self.headers(&format!("{field}.headers"), body.headers.elements(), budget);
            matches.extend(path.map(|path| RequestMatch { headers, ..call(path) }));
        }
        if list.is_empty() {
            matches.push(call(PathMatch::every()));
        }
        matches
    }

    /// The path of a call is `/service/method`.
    fn call(
        &mut self,
        field: &str,
        body: &GrpcMethodBody,
        budget: &mut Budget,
    ) -> Option<PathMatch> {
        let (service, method) = (body.service.text(), body.method.text());
        let expression = match self.comparison(field, &body.match_type)? {
            Comparison::Exact => {
                for (part, text) in [("service", service), ("method", method)] {
                    if let Some(text) =
                        text.filter(|text| !is_path(&format!("/{text}")) || text.contains('/'))
                    {
                        let text = quoted(text);
                        self.refuse(format!(
                            "{field}.{part}: {text} is no name; write it without \"/\""
                        ));
                        return None;
                    }
                }
                match (service, method) {
                    (Some(service), Some(method)) => {
                        return Some(PathMatch::Exact(format!("/{service}/{method}").into()));
                    }
                    (Some(service), None) => {
                        return Some(PathMatch::Prefix(format!("/{service}").into()));
                    }
                    (None, Some(method)) => format!("/[^/]+/{}", literal(method)),
                    (None, None) => return Some(PathMatch::every()),
                }
            }
            Comparison::Expression => {
                let part = |text: Option<&str>| match text {
                    Some(text) => format!("(?:{text})"),
                    None => "[^/]+".to_owned(),
                };
                for (part, text) in [("service", service), ("method", method)] {
                    // Each by itself: brackets of one must not be closed in the other.
                    if let Some(text) = text {
                        self.expression(&format!("{field}.{part}"), text, budget)?;
                    }
                }
                format!("/{}/{}", part(service), part(method))
            }
        };
        self.expression(field, &expression, budget).map(PathMatch::Regex)
    }
}
