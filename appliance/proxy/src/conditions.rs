//! What a request has to be like beside its host and path.

use std::borrow::Cow;
use std::sync::Arc;

use haflinger_core::{FieldMatch, RequestMatch, ValueMatch};
use http::header::{self, HeaderName};
use http::{HeaderMap, Method};

use crate::expressions::Expression;
use crate::headers::joined_cookies;

/// A request as rules see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestView<'a> {
    /// Its host in canonical form (lower case, no port); absent only for HTTP/1.0.
    pub(crate) host: Option<&'a str>,
    /// Its path, without the query.
    pub(crate) path: &'a str,
    /// Its query, as written.
    pub(crate) query: Option<&'a str>,
    /// Its method.
    pub(crate) method: &'a Method,
    /// Its header fields.
    pub(crate) fields: &'a HeaderMap,
}

/// Method, fields and parameters: all of them.
#[derive(Debug)]
pub(crate) struct Conditions {
    method: Option<Arc<str>>,
    fields: Vec<(HeaderName, Test)>,
    parameters: Vec<(Arc<str>, Test)>,
}

/// A condition that a request does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmet<'a> {
    /// Its method is another.
    Method,
    /// A field is absent or has another value.
    Field(&'a HeaderName),
    /// A parameter is absent or has another value.
    Parameter(&'a str),
}

#[derive(Debug)]
enum Test {
    Exact(Arc<str>),
    Expression(Arc<Expression>),
}

impl Test {
    /// Whether a value fits. With a broken expression every value does: its rule answers with an
    /// error, and does not leave to other rules what may have been meant for it.
    fn fits(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(own) => own.as_bytes() == value,
            Self::Expression(own) => own.fault().is_some() || own.fits(value),
        }
    }
}

impl Conditions {
    /// The conditions of a match; `None` when every request fits. The error is the name of a
    /// field that no request can have.
    pub(crate) fn compile(
        from: &RequestMatch,
        mut expression: impl FnMut(&Arc<str>) -> Arc<Expression>,
    ) -> Result<Option<Self>, Arc<str>> {
        if from.method.is_none() && from.headers.is_empty() && from.query.is_empty() {
            return Ok(None);
        }
        let mut test = |from: &FieldMatch| match &from.value {
            ValueMatch::Exact(value) => Test::Exact(value.clone()),
            ValueMatch::Regex(text) => Test::Expression(expression(text)),
        };
        let field = |from: &FieldMatch| -> Result<_, Arc<str>> {
            let name = from.name.parse::<HeaderName>().map_err(|_| from.name.clone())?;
            Ok((name, test(from)))
        };
        let fields = from.headers.iter().map(field).collect::<Result<_, _>>()?;
        let parameters = from.query.iter().map(|from| (from.name.clone(), test(from))).collect();
        Ok(Some(Self { method: from.method.clone(), fields, parameters }))
    }

    /// The first of its expressions that is broken.
    pub(crate) fn fault(&self) -> Option<&str> {
        let fields = self.fields.iter().map(|(_, test)| test);
        let tests = fields.chain(self.parameters.iter().map(|(_, test)| test));
        tests.into_iter().find_map(|test| match test {
            Test::Exact(_) => None,
            Test::Expression(expression) => expression.fault(),
        })
    }

    /// Whether a request meets all of them.
    pub(crate) fn fit(&self, request: &RequestView<'_>) -> bool {
        self.unmet(request).is_none()
    }

    /// The first of them that a request does not meet.
    pub(crate) fn unmet<'a>(&'a self, request: &RequestView<'_>) -> Option<Unmet<'a>> {
        if self.method.as_ref().is_some_and(|own| **own != *request.method.as_str()) {
            return Some(Unmet::Method);
        }
        let meets =
            |name: &_, test: &Test| field(request, name).is_some_and(|value| test.fits(&value));
        if let Some((name, _)) = self.fields.iter().find(|(name, test)| !meets(name, test)) {
            return Some(Unmet::Field(name));
        }
        let meets = |name: &str, test: &Test| {
            parameter(request.query, name).is_some_and(|value| test.fits(value.as_bytes()))
        };
        let unmet = self.parameters.iter().find(|(name, test)| !meets(name, test));
        unmet.map(|(name, _)| Unmet::Parameter(name))
    }
}

/// The value of a field: of one that stands several times, all joined (RFC 9110, section 5.3).
fn field<'a>(request: &RequestView<'a>, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = request.fields.get_all(name).iter();
    let Some(first) = values.next() else {
        // Over HTTP/2 the host is no field.
        let host = request.host.filter(|_| name == header::HOST)?;
        return Some(Cow::Borrowed(host.as_bytes()));
    };
    let Some(second) = values.next() else { return Some(Cow::Borrowed(first.as_bytes())) };
    if name == header::COOKIE {
        return joined_cookies(request.fields)
            .map(|cookies| Cow::Owned(cookies.as_bytes().to_vec()));
    }
    let mut joined = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(value.as_bytes());
    }
    Some(Cow::Owned(joined))
}

/// The first value of a parameter of a query, decoded (WHATWG URL, section 5.1).
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    query?.split('&').find_map(|pair| {
        let (own, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(own) == name).then(|| decoded(value))
    })
}

/// Text without `%` and `+`; bytes that are not UTF-8 become U+FFFD.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match (byte, behind) {
            (b'%', [high, low, behind @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high * 16 + low);
                    rest = behind;
                }
                _ => bytes.push(b'%'),
            },
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(headers: &[(&str, &str)], query: &[(&str, &str)]) -> Conditions {
        let exact = |(name, value): &(&str, &str)| FieldMatch {
            name: (*name).into(),
            value: ValueMatch::Exact((*value).into()),
        };
        let from = RequestMatch {
            headers: headers.iter().map(exact).collect(),
            query: query.iter().map(exact).collect(),
            ..RequestMatch::default()
        };
        Conditions::compile(&from, |text| Arc::new(Expression::new(text))).unwrap().unwrap()
    }

    fn fit(conditions: &Conditions, fields: &[(&str, &str)], query: Option<&str>) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let host = Some("shop.example");
        let view = RequestView { host, path: "/", query, method: &Method::GET, fields: &map };
        conditions.fit(&view)
    }

    #[test]
    fn values_of_a_field_that_stands_several_times_are_joined() {
        let one = conditions(&[("x-a", "1, 2")], &[]);
        assert!(fit(&one, &[("x-a", "1"), ("x-a", "2")], None));
        assert!(fit(&one, &[("x-a", "1, 2")], None));
        assert!(!fit(&one, &[("x-a", "2"), ("x-a", "1")], None));
        assert!(!fit(&one, &[], None));
        let cookies = conditions(&[("cookie", "a=1; b=2")], &[]);
        assert!(fit(&cookies, &[("cookie", "a=1"), ("cookie", "b=2")], None));
    }

    #[test]
    fn the_host_is_a_field_also_where_it_is_none_on_the_wire() {
        assert!(fit(&conditions(&[("host", "shop.example")], &[]), &[], None));
    }

    #[test]
    fn the_first_of_equal_parameters_counts_and_codes_are_read() {
        let one = conditions(&[], &[("a b", "x&y")]);
        assert!(fit(&one, &[], Some("z=1&a+b=x%26y&a+b=2")));
        assert!(fit(&one, &[], Some("%61%20b=x%26y")));
        assert!(!fit(&one, &[], Some("a+b=2&a+b=x%26y")));
        assert!(!fit(&one, &[], None));
        assert!(fit(&conditions(&[], &[("a", "")]), &[], Some("a")));
        assert!(fit(&conditions(&[], &[("a", "%4 %zz%")]), &[], Some("a=%4+%zz%")));
    }

    #[test]
    fn with_a_broken_expression_every_value_fits_and_its_absence_does_not() {
        let value = ValueMatch::Regex("(".into());
        let headers = vec![FieldMatch { name: "x-a".into(), value }];
        let from = RequestMatch { headers, ..RequestMatch::default() };
        let compiled = Conditions::compile(&from, |text| Arc::new(Expression::new(text)));
        let conditions = compiled.unwrap().unwrap();
        assert_eq!(conditions.fault(), Some("unclosed group"));
        assert!(fit(&conditions, &[("x-a", "1")], None) && !fit(&conditions, &[], None));
    }
}
