//! What the proxy itself answers.
//!
//! An answer is short and names nothing internal: no address, no product, no reason that
//! only the operator can act on.

use http::{HeaderMap, HeaderValue, StatusCode, header};

/// An answer of the proxy's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The request cannot be understood in one way only.
    BadRequest,
    /// The client may not ask.
    Forbidden,
    /// No rule matches.
    NotFound,
    /// The client stopped sending.
    RequestTimeout,
    /// The request body is larger than the limit.
    BodyTooLarge,
    /// The host is served, but not on a connection for this server name.
    Misdirected,
    /// The request header is larger than the limit.
    HeaderTooLarge,
    /// The proxy itself failed.
    Internal,
    /// The rule leads nowhere.
    Unresolved,
    /// The backend failed.
    BadGateway,
    /// There is no backend.
    Unavailable,
    /// The backend did not answer in time.
    GatewayTimeout,
}

impl Answer {
    /// The status code (RFC 9110, section 15; 431: RFC 6585, section 5).
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::RequestTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::Misdirected => 421,
            Self::HeaderTooLarge => 431,
            Self::Internal | Self::Unresolved => 500,
            Self::BadGateway => 502,
            Self::Unavailable => 503,
            Self::GatewayTimeout => 504,
        }
    }

    /// The body, plain text.
    pub(crate) fn body(self) -> &'static str {
        match self {
            Self::BadRequest => "400 bad request\n",
            Self::Forbidden => "403 forbidden\n",
            Self::NotFound => "404 not found\n",
            Self::RequestTimeout => "408 request timeout\n",
            Self::BodyTooLarge => "413 content too large\n",
            Self::Misdirected => "421 misdirected request\n",
            Self::HeaderTooLarge => "431 request header fields too large\n",
            Self::Internal | Self::Unresolved => "500 internal error\n",
            Self::BadGateway => "502 bad gateway\n",
            Self::Unavailable => "503 service unavailable\n",
            Self::GatewayTimeout => "504 gateway timeout\n",
        }
    }

    /// The whole answer over HTTP/1.1, after which the connection ends; `bodiless`: to `HEAD`.
    pub(crate) fn wire(self, bodiless: bool) -> Vec<u8> {
        let (status, body) = (self.status(), self.body());
        let reason = StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
        format!(
            "HTTP/1.1 {status} {}\r\ncontent-type: text/plain; charset=utf-8\r\n\
             content-length: {}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n{}",
            reason.unwrap_or_default(),
            body.len(),
            if bodiless { "" } else { body },
        )
        .into_bytes()
    }

    /// The status of a gRPC call (gRPC, "Status codes and their use in gRPC"; GRPCRoute
    /// `spec.rules`): calls that nobody takes are unimplemented, those without a backend
    /// unavailable.
    pub(crate) fn grpc_status(self) -> u16 {
        match self {
            Self::NotFound => 12,
            Self::Forbidden => 7,
            Self::BodyTooLarge => 8,
            Self::BadRequest | Self::HeaderTooLarge | Self::Internal => 13,
            Self::GatewayTimeout => 4,
            Self::RequestTimeout
            | Self::Misdirected
            | Self::Unresolved
            | Self::BadGateway
            | Self::Unavailable => 14,
        }
    }

    /// Whether the connection can go on afterwards: only when its framing was beyond doubt.
    pub(crate) fn keeps_connection(self) -> bool {
        matches!(
            self,
            Self::Forbidden
                | Self::NotFound
                | Self::Misdirected
                | Self::Unresolved
                | Self::Unavailable
        )
    }
}

/// Whether a request is a gRPC call ("gRPC over HTTP2", `Content-Type`).
pub(crate) fn is_grpc(fields: &HeaderMap) -> bool {
    let kind = fields.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_call_is_known_by_its_content() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(is_grpc(&fields), expected, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn every_answer_says_its_status_and_nothing_else() {
        for answer in [
            Answer::BadRequest,
            Answer::Forbidden,
            Answer::NotFound,
            Answer::BodyTooLarge,
            Answer::RequestTimeout,
            Answer::Misdirected,
            Answer::HeaderTooLarge,
            Answer::Internal,
            Answer::Unresolved,
            Answer::BadGateway,
            Answer::Unavailable,
            Answer::GatewayTimeout,
        ] {
            let (number, words) = answer.body().split_once(' ').unwrap();
            assert_eq!(number, answer.status().to_string());
            assert!(words.trim_end().bytes().all(|b| b.is_ascii_lowercase() || b == b' '));
        }
    }
}
