//! Whether a request is one for the fast path, and what it says. Pure.
//!
//! Strict where it matters and unwilling everywhere else: whatever is malformed, unusual or could be
//! read in two ways is [`Read::Other`], and the full engine, which has an answer to all of it, reads
//! the same bytes again.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Uri, Version, request};
use httparse::Status;

use crate::answers::is_grpc;

/// Fields of a request that is read here; browsers send about twenty.
const FIELDS_MAX: usize = 64;

/// Body that is read before the request goes on, so that it leaves in one piece and can be sent
/// again. Longer ones stream through the full engine.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What the bytes of a client are.
#[derive(Debug)]
pub(super) enum Read {
    /// Too few to say.
    Partial,
    /// A request, of whose body not all may be there.
    Request(Box<Understood>),
    /// Something for the full engine.
    Other,
}

/// A request.
#[derive(Debug)]
pub(super) struct Understood {
    /// What it says.
    pub(super) parts: request::Parts,
    /// Length of its header.
    pub(super) head_bytes: usize,
    /// Length of its body.
    pub(super) body_bytes: usize,
    /// The client wants no other answer on the connection.
    pub(super) closes: bool,
}

/// Whether bytes may hold the end of a header, beyond the first `known` that do not. Looked for before
/// anything is parsed, so that a client that sends byte by byte is parsed once.
pub(super) fn may_end(bytes: &[u8], known: usize) -> bool {
    let new = &bytes[known.saturating_sub(2).min(bytes.len())..];
    // A line may end without a carriage return (RFC 9112, section 2.2).
    new.windows(2).any(|pair| pair == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n")
}

/// Reads what a client has sent.
pub(super) fn read(bytes: &Bytes) -> Read {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let head_bytes = match parsed.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Read::Partial,
        Err(_) => return Read::Other,
    };
    match understand(bytes, &parsed, head_bytes) {
        Some(request) => Read::Request(Box::new(request)),
        None => Read::Other,
    }
}

fn understand(
    bytes: &Bytes,
    parsed: &httparse::Request<'_, '_>,
    head_bytes: usize,
) -> Option<Understood> {
    let (method, path) = (known_method(parsed.method?)?, parsed.path?);
    if parsed.version != Some(1) || !path.starts_with('/') {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + 4);
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).ok()?;
        headers.append(name, value);
    }
    let uri = Uri::from_maybe_shared(bytes.slice_ref(path.as_bytes())).ok()?;
    let closes = is_plain(&headers)?;
    let body_bytes = body_bytes(&headers)?;
    let (mut parts, ()) = http::Request::new(()).into_parts();
    (parts.method, parts.uri, parts.version) = (method, uri, Version::HTTP_11);
    parts.headers = headers;
    Some(Understood { parts, head_bytes, body_bytes, closes })
}

/// Methods without a meaning of their own for proxies (RFC 9110, section 9.3; RFC 5789).
fn known_method(name: &str) -> Option<Method> {
    Some(match name {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        "POST" => Method::POST,
        "PUT" => Method::PUT,
        "PATCH" => Method::PATCH,
        "DELETE" => Method::DELETE,
        "OPTIONS" => Method::OPTIONS,
        _ => return None,
    })
}

/// Whether nothing but a header and, perhaps, a body of known length is sent, and then whether the
/// client wants no other answer.
fn is_plain(headers: &HeaderMap) -> Option<bool> {
    const ELSEWHERE: [HeaderName; 6] = [
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::EXPECT,
        header::TE,
        header::TRAILER,
        HeaderName::from_static("http2-settings"),
    ];
    let elsewhere = ELSEWHERE.iter().any(|name| headers.contains_key(name));
    let times = |name| headers.get_all(name).iter().count();
    // Cookies in crumbs are put together on their way.
    if elsewhere || is_grpc(headers) || times(header::HOST) != 1 || times(header::COOKIE) > 1 {
        return None;
    }
    let mut options = headers.get_all(header::CONNECTION).iter();
    match (options.next().map(HeaderValue::as_bytes), options.next()) {
        (None, _) => Some(false),
        (Some(option), None) if option.eq_ignore_ascii_case(b"keep-alive") => Some(false),
        (Some(option), None) if option.eq_ignore_ascii_case(b"close") => Some(true),
        _ => None,
    }
}

/// The length of the body; nothing, where it is in doubt or too long.
fn body_bytes(headers: &HeaderMap) -> Option<usize> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Some(0),
        (Some(length), None) => {
            let length = decimal(length.as_bytes())?;
            usize::try_from(length).ok().filter(|length| *length <= BODY_BYTES_MAX)
        }
        _ => None,
    }
}

/// Digits alone (RFC 9110, section 8.6): no sign, no space, no list.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Read {
        read(&Bytes::copy_from_slice(text.as_bytes()))
    }

    fn understood(text: &str) -> Understood {
        match read_text(text) {
            Read::Request(request) => *request,
            other => panic!("{other:?} for {text:?}"),
        }
    }

    #[test]
    fn a_plain_request_is_understood_with_its_body() {
        let request = understood(
            "POST /a?b HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nX: y\r\n\r\nabcGET /",
        );
        assert_eq!((request.parts.uri.path(), request.parts.uri.query()), ("/a", Some("b")));
        assert_eq!((request.body_bytes, request.closes), (3, false));
        assert_eq!(request.parts.headers["x"], "y");
        assert!(understood("GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n").closes);
    }

    #[test]
    fn a_header_that_is_not_complete_waits_for_the_rest() {
        let whole = "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n1234";
        for end in 1..whole.len() - 4 {
            assert!(matches!(read_text(&whole[..end]), Read::Partial), "{end}");
        }
        assert_eq!(understood(&whole[..whole.len() - 4]).body_bytes, 4);
    }

    #[test]
    fn what_is_unusual_or_in_doubt_is_for_the_full_engine() {
        let head = |line: &str, fields: &str| format!("{line}\r\nHost: a\r\n{fields}\r\n");
        for text in [
            head("GET / HTTP/1.0", ""),
            head("GET http://a/ HTTP/1.1", ""),
            head("OPTIONS * HTTP/1.1", ""),
            head("CONNECT a:80 HTTP/1.1", ""),
            head("get / HTTP/1.1", ""),
            head("GET / HTTP/1.1", "Host: b\r\n"),
            head("GET / HTTP/1.1", "Upgrade: websocket\r\nConnection: upgrade\r\n"),
            head("GET / HTTP/1.1", "Connection: keep-alive, x-secret\r\n"),
            head("GET / HTTP/1.1", "Connection: close\r\nConnection: keep-alive\r\n"),
            head("POST / HTTP/1.1", "Transfer-Encoding: chunked\r\n"),
            head("POST / HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 1\r\n"),
            head("POST / HTTP/1.1", "Content-Length: 1\r\nContent-Length: 1\r\n"),
            head("POST / HTTP/1.1", "Content-Length: +1\r\n"),
            head("POST / HTTP/1.1", "Content-Length: 1, 1\r\n"),
            head("POST / HTTP/1.1", "Content-Length: 65537\r\n"),
            head("POST / HTTP/1.1", "Content-Length: 18446744073709551616\r\n"),
            head("POST / HTTP/1.1", "Content-Type: application/grpc\r\n"),
            head("GET / HTTP/1.1", "Cookie: a\r\nCookie: b\r\n"),
            head("GET / HTTP/1.1", "X : y\r\n"),
            head("GET / HTTP/1.1", "X: y\r\n z\r\n"),
            head("GET / HTTP/1.1", &"X: y\r\n".repeat(FIELDS_MAX)),
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            "PRI * HTTP/2.0\r\n\r\n".to_owned(),
        ] {
            assert!(matches!(read_text(&text), Read::Other), "{text:?}");
        }
    }

    #[test]
    fn the_end_of_a_header_is_seen_wherever_reads_part_it() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 0..text.len() {
            assert!(!may_end(&text[..cut], 0), "{cut}");
            assert!(may_end(text, cut), "{cut}");
        }
        assert!(may_end(b"GET / HTTP/1.1\n\n", 15));
    }
}
