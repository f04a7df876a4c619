//! Compression of answers (RFC 9110, sections 8.4 and 12.5.3): which answers, for whom, and how.
//!
//! Only what a backend sends as it is, whole and of a type that is worth it is compressed. Never: what
//! is coded already, parts (206), what must not be changed (`no-transform`), and what has no body.
//! Pure but for the coders' work.

mod accept;
mod encoder;
mod metrics;

use haflinger_core::{Coding, Compression, Effort};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, request};

pub(crate) use self::encoder::Encoder;
pub(crate) use self::metrics::CodingMetrics;
use crate::answers::is_grpc;

/// Fields that speak of the bytes as they were (RFC 9530; RFC 9110, sections 8.6 and 14.3).
pub(crate) const OF_THE_BYTES: [HeaderName; 6] = [
    header::CONTENT_LENGTH,
    header::ACCEPT_RANGES,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// Which answers are compressed, checked.
#[derive(Debug)]
pub(crate) struct Compressor {
    codings: Vec<Coding>,
    types: Vec<Kind>,
    bytes_min: u64,
    effort: Effort,
}

/// A content type, or all of one kind.
#[derive(Debug)]
enum Kind {
    Exact(Box<str>),
    All(Box<str>),
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It would be the same for every client.
    Same,
    /// This client gets it as it is, another might not: caches have to know (`Vary`).
    Plain,
    /// It is compressed.
    Coded(Coding),
}

impl Compressor {
    pub(crate) fn compile(from: &Compression) -> Self {
        let kind = |text: &std::sync::Arc<str>| match text.strip_suffix("/*") {
            Some(all) => Kind::All(all.into()),
            None => Kind::Exact((&**text).into()),
        };
        Self {
            codings: from.codings.clone(),
            types: from.types.iter().map(kind).collect(),
            bytes_min: from.bytes_min,
            effort: from.effort,
        }
    }

    /// How much work is done.
    pub(crate) fn effort(&self) -> Effort {
        self.effort
    }

    /// What becomes of an answer to `asked`.
    pub(crate) fn judge(
        &self,
        asked: &request::Parts,
        status: StatusCode,
        answer: &HeaderMap,
    ) -> Verdict {
        if !has_whole_body(status) || !self.is_worth_it(answer) || is_fixed(answer) {
            return Verdict::Same;
        }
        // Without chunks nobody could tell the end of a body whose length is not known.
        let takes = asked.method != Method::HEAD
            && asked.version >= Version::HTTP_11
            && !asked.headers.contains_key(header::RANGE);
        let coding = takes.then(|| accept::choose(&asked.headers, &self.codings)).flatten();
        coding.map_or(Verdict::Plain, Verdict::Coded)
    }

    fn is_worth_it(&self, answer: &HeaderMap) -> bool {
        let text = |name| answer.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let Some(kind) = text(header::CONTENT_TYPE) else { return false };
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let fits = self.types.iter().any(|wanted| match wanted {
            Kind::Exact(wanted) => **wanted == *kind,
            Kind::All(wanted) => kind.split_once('/').is_some_and(|(own, _)| *own == **wanted),
        });
        let length = text(header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok());
        fits && length.is_none_or(|length: u64| length >= self.bytes_min)
    }
}

/// Whether an answer with this status carries a whole representation.
fn has_whole_body(status: StatusCode) -> bool {
    let without = [
        StatusCode::NO_CONTENT,
        StatusCode::RESET_CONTENT,
        StatusCode::PARTIAL_CONTENT,
        StatusCode::NOT_MODIFIED,
    ];
    !status.is_informational() && !without.contains(&status)
}

/// Whether the bytes must stay as they are (`no-transform`: RFC 9111, section 5.2.2.6).
fn is_fixed(answer: &HeaderMap) -> bool {
    let coded = answer.get_all(header::CONTENT_ENCODING).iter();
    let coded =
        coded.map(HeaderValue::as_bytes).any(|value| !value.eq_ignore_ascii_case(b"identity"));
    let mut rules = answer
        .get_all(header::CACHE_CONTROL)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii));
    // What is coded has no trailers: they would stand where its end does.
    coded
        || answer.contains_key(header::TRAILER)
        || is_grpc(answer)
        || answer.contains_key(header::CONTENT_RANGE)
        || rules.any(|rule| rule.eq_ignore_ascii_case(b"no-transform"))
}

/// Whether `Vary` already says that an answer depends on `Accept-Encoding`.
pub(crate) fn varies(answer: &HeaderMap) -> bool {
    let mut names = answer
        .get_all(header::VARY)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii));
    names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding"))
}

/// The `ETag` of an answer that is no longer the same byte for byte (RFC 9110, section 8.8.1);
/// `None`: it can stay, or is none.
pub(crate) fn weakened(etag: &HeaderValue) -> Option<HeaderValue> {
    let bytes = etag.as_bytes();
    bytes.starts_with(b"\"").then(|| HeaderValue::from_bytes(&[b"W/", bytes].concat()).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn judged(asked: request::Builder, status: u16, answer: &[(&str, &str)]) -> Verdict {
        let (asked, ()) = asked.body(()).unwrap().into_parts();
        let compressor = Compressor::compile(&Compression::default());
        compressor.judge(&asked, StatusCode::from_u16(status).unwrap(), &fields(answer))
    }

    fn asked() -> request::Builder {
        http::Request::builder().header("accept-encoding", "gzip, br")
    }

    #[test]
    fn what_is_worth_it_is_compressed_and_the_rest_is_not() {
        let coded = Verdict::Coded(Coding::Brotli);
        let html = ("content-type", "Text/HTML; charset=utf-8");
        for (expected, status, answer) in [
            (coded, 200, vec![html]),
            (coded, 404, vec![html]),
            (coded, 200, vec![html, ("content-length", "1024"), ("content-encoding", "identity")]),
            (coded, 200, vec![("content-type", "application/json")]),
            (coded, 200, vec![("content-type", "text/event-stream")]),
            (Verdict::Same, 200, vec![html, ("content-length", "1023")]),
            (Verdict::Same, 200, vec![("content-type", "image/png")]),
            (Verdict::Same, 200, vec![]),
            (Verdict::Same, 200, vec![html, ("content-encoding", "gzip")]),
            (Verdict::Same, 200, vec![html, ("cache-control", "max-age=1, No-Transform")]),
            (Verdict::Same, 200, vec![html, ("content-range", "bytes 0-1/2")]),
            (Verdict::Same, 206, vec![html]),
            (Verdict::Same, 204, vec![html]),
            (Verdict::Same, 304, vec![html]),
            (Verdict::Same, 101, vec![html]),
        ] {
            assert_eq!(judged(asked(), status, &answer), expected, "{status} {answer:?}");
        }
    }

    #[test]
    fn clients_that_cannot_take_it_get_it_plain() {
        let html = [("content-type", "text/html")];
        let request = http::Request::builder;
        for (asked, expected) in [
            (request(), Verdict::Plain),
            (request().header("accept-encoding", "deflate"), Verdict::Plain),
            (asked().method("HEAD"), Verdict::Plain),
            (asked().version(Version::HTTP_10), Verdict::Plain),
            (asked().header("range", "bytes=0-1"), Verdict::Plain),
            (asked().version(Version::HTTP_2), Verdict::Coded(Coding::Brotli)),
        ] {
            assert_eq!(judged(asked, 200, &html), expected);
        }
    }

    #[test]
    fn a_strong_etag_becomes_a_weak_one() {
        let weak = |etag: &'static str| weakened(&HeaderValue::from_static(etag));
        assert_eq!(weak("\"a\"").unwrap(), "W/\"a\"");
        assert_eq!((weak("W/\"a\""), weak("a")), (None, None));
    }

    #[test]
    fn vary_is_said_once() {
        assert!(varies(&fields(&[("vary", "Origin, ACCEPT-Encoding")])));
        assert!(varies(&fields(&[("vary", "*")])));
        assert!(!varies(&fields(&[("vary", "Origin")])));
    }
}
