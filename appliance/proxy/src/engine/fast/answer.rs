//! What a backend answers, and what the client is told of it. Pure.

use std::mem::MaybeUninit;

use http::Method;
use httparse::{Header, Status};

use super::framing::Framing;
use super::request::decimal;

/// Fields of an answer.
const FIELDS_MAX: usize = 128;

/// Bytes of an answer's header: as much as the full engine reads at least.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Fields that speak of the connection to the backend alone (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "upgrade"];

/// What the bytes of a backend are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Too few to say.
    Partial,
    /// Something before the answer (status 1xx), of so many bytes; passed on or not.
    Interim {
        /// Its length.
        bytes: usize,
        /// The client is told.
        passed_on: bool,
    },
    /// The header of an answer.
    Answer(Head),
    /// No answer that could be passed on.
    Malformed,
}

/// The header of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The status code.
    pub(super) status: u16,
    /// Its length.
    pub(super) bytes: usize,
    /// Where its body ends.
    pub(super) framing: Framing,
    /// The backend takes another request on the connection.
    pub(super) reusable: bool,
}

/// Reads what a backend has sent in answer to a request with this method, and writes the header for
/// the client to `wire`; `last`: the client's connection ends with it.
pub(super) fn read(bytes: &[u8], method: &Method, last: bool, wire: &mut Vec<u8>) -> Read {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Read::Partial,
        Ok(Status::Partial) | Err(_) => return Read::Malformed,
    };
    let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
        return Read::Malformed;
    };
    match status {
        // Nobody asked for 100, nor for another protocol.
        100 => return Read::Interim { bytes: length, passed_on: false },
        101 => return Read::Malformed,
        102..=199 => return Read::Interim { bytes: length, passed_on: true },
        200..=999 => {}
        _ => return Read::Malformed,
    }
    let Some(sorted) = Sorted::of(parsed.headers) else { return Read::Malformed };
    let Some(framing) = sorted.framing(status, version, method) else { return Read::Malformed };
    let persistent = if version == 1 { !sorted.closes } else { sorted.stays };
    let close = last || framing == Framing::Close;
    status_line(status, parsed.reason.unwrap_or_default(), wire);
    sorted.write(parsed.headers, wire);
    if close {
        wire.extend_from_slice(b"connection: close\r\n");
    }
    wire.extend_from_slice(b"\r\n");
    let reusable = persistent && framing != Framing::Close;
    Read::Answer(Head { status, bytes: length, framing, reusable })
}

fn status_line(status: u16, reason: &str, wire: &mut Vec<u8>) {
    wire.extend_from_slice(b"HTTP/1.1 ");
    let digit = |by: u16| b'0' + u8::try_from(status / by % 10).unwrap_or_default();
    wire.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
    wire.extend_from_slice(reason.as_bytes());
    wire.extend_from_slice(b"\r\n");
}

/// What the fields say about the message as such.
#[derive(Debug, Default)]
struct Sorted<'a> {
    /// `Transfer-Encoding: chunked`.
    chunked: bool,
    length: Option<u64>,
    /// `Connection: close`.
    closes: bool,
    /// `Connection: keep-alive`.
    stays: bool,
    /// Further fields that `Connection` names.
    named: Vec<&'a str>,
}

impl<'a> Sorted<'a> {
    /// Nothing where two fields contradict each other, or an encoding is not known.
    fn of(fields: &[Header<'a>]) -> Option<Self> {
        let mut sorted = Self::default();
        for field in fields {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            match field.name.len() {
                17 if is("transfer-encoding") => {
                    if sorted.chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                        return None;
                    }
                    sorted.chunked = true;
                }
                14 if is("content-length") => {
                    let length = decimal(field.value)?;
                    if sorted.length.is_some_and(|other| other != length) {
                        return None;
                    }
                    sorted.length = Some(length);
                }
                10 if is("connection") => sorted.options(std::str::from_utf8(field.value).ok()?),
                _ => {}
            }
        }
        Some(sorted)
    }

    fn options(&mut self, options: &'a str) {
        for option in options.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            if option.eq_ignore_ascii_case("close") {
                self.closes = true;
            } else if option.eq_ignore_ascii_case("keep-alive") {
                self.stays = true;
            } else {
                self.named.push(option);
            }
        }
    }

    /// Where the body ends (RFC 9112, section 6.3).
    fn framing(&self, status: u16, version: u8, method: &Method) -> Option<Framing> {
        if *method == Method::HEAD || matches!(status, 204 | 304) {
            return Some(Framing::Length(0));
        }
        match (self.chunked, self.length) {
            // HTTP/1.0 knows no chunks, and both at once is how answers are smuggled.
            (true, None) if version == 1 => Some(Framing::chunked()),
            (true, _) => None,
            (false, Some(length)) => Some(Framing::Length(length)),
            (false, None) => Some(Framing::Close),
        }
    }

    /// Writes the fields that are for the client, one length at most.
    fn write(&self, fields: &[Header<'_>], wire: &mut Vec<u8>) {
        let mut has_length = false;
        for Header { name, value } in fields {
            let is = |other: &&str| name.eq_ignore_ascii_case(other);
            if HOP_BY_HOP.iter().any(&is) || self.named.iter().any(&is) {
                continue;
            }
            if is(&"content-length") && std::mem::replace(&mut has_length, true) {
                continue;
            }
            write_field(name, value, wire);
        }
    }
}

/// Writes one field.
pub(super) fn write_field(name: &str, value: &[u8], wire: &mut Vec<u8>) {
    wire.extend_from_slice(name.as_bytes());
    wire.extend_from_slice(b": ");
    wire.extend_from_slice(value);
    wire.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_for(method: &Method, text: &str) -> (Read, String) {
        let mut wire = Vec::new();
        let read = read(text.as_bytes(), method, false, &mut wire);
        (read, String::from_utf8(wire).unwrap())
    }

    fn answer(text: &str) -> (Head, String) {
        match read_for(&Method::GET, text) {
            (Read::Answer(head), wire) => (head, wire),
            other => panic!("{other:?} for {text:?}"),
        }
    }

    #[test]
    fn fields_pass_as_they_are_but_for_those_of_the_connection() {
        let (head, wire) = answer(
            "HTTP/1.1 200 Very well\r\nServer: b\r\nConnection: keep-alive, X-Own\r\nx-own: 1\r\n\
             Keep-Alive: timeout=5\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nab",
        );
        assert_eq!(wire, "HTTP/1.1 200 Very well\r\nServer: b\r\nContent-Length: 2\r\n\r\n");
        assert_eq!((head.status, head.framing), (200, Framing::Length(2)));
        assert!(head.reusable);
    }

    #[test]
    fn the_end_of_a_body_is_where_the_rules_say() {
        let framing = |text: &str| answer(text).0.framing;
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"),
            Framing::chunked()
        );
        assert!(framing("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n").is_done());
        assert!(framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n").is_done());
        assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n"), Framing::Close);
        let (head, wire) = read_for(&Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        let Read::Answer(head) = head else { panic!("{head:?}") };
        assert!(head.framing.is_done() && wire.contains("Content-Length: 5"));
    }

    #[test]
    fn a_connection_is_reused_when_the_backend_says_so_and_its_end_is_known() {
        let reusable = |text: &str| answer(text).0.reusable;
        assert!(reusable("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        assert!(!reusable("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
        assert!(!reusable("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"));
        assert!(reusable("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"));
        let (head, wire) = answer("HTTP/1.1 200 OK\r\n\r\n");
        assert!(!head.reusable && wire.contains("connection: close\r\n"));
    }

    #[test]
    fn what_contradicts_itself_is_not_passed_on() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: -1\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "X : y\r\n",
            "X: y\r\n z\r\n",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert_eq!(read_for(&Method::GET, &text).0, Read::Malformed, "{fields:?}");
        }
        let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read_for(&Method::GET, old).0, Read::Malformed);
        let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n";
        assert_eq!(read_for(&Method::GET, switch).0, Read::Malformed);
        assert_eq!(read_for(&Method::GET, "SSH-2.0-OpenSSH\r\n").0, Read::Malformed);
    }

    #[test]
    fn interim_answers_are_told_from_the_last_one() {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let interim = Read::Interim { bytes: hints.len(), passed_on: true };
        assert_eq!(read_for(&Method::GET, hints).0, interim);
        let (read, _) = read_for(&Method::GET, "HTTP/1.1 100 Continue\r\n\r\n");
        assert!(matches!(read, Read::Interim { passed_on: false, .. }));
        assert_eq!(read_for(&Method::GET, "HTTP/1.1 200 OK\r\nX: ").0, Read::Partial);
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(HEAD_BYTES_MAX));
        assert_eq!(read_for(&Method::GET, &endless).0, Read::Malformed);
    }
}
