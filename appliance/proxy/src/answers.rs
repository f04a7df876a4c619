//! What the proxy itself answers, and whether it lets a request through at all.
//!
//! Pure. An answer is short and names nothing internal: no address, no product, no reason that
//! only the operator can act on.

use std::sync::Arc;

use http::{Version, header, request};

use crate::authority::host_of;
use crate::routes::{Route, Router};
use crate::upstream::TargetSlot;

/// An answer of the proxy's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The request cannot be understood in one way only.
    BadRequest,
    /// No rule matches.
    NotFound,
    /// The client stopped sending.
    RequestTimeout,
    /// The request header is larger than the limit.
    HeaderTooLarge,
    /// The proxy itself failed.
    Internal,
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
            Self::NotFound => 404,
            Self::RequestTimeout => 408,
            Self::HeaderTooLarge => 431,
            Self::Internal => 500,
            Self::BadGateway => 502,
            Self::Unavailable => 503,
            Self::GatewayTimeout => 504,
        }
    }

    /// The body, plain text.
    pub(crate) fn body(self) -> &'static str {
        match self {
            Self::BadRequest => "400 bad request\n",
            Self::NotFound => "404 not found\n",
            Self::RequestTimeout => "408 request timeout\n",
            Self::HeaderTooLarge => "431 request header fields too large\n",
            Self::Internal => "500 internal error\n",
            Self::BadGateway => "502 bad gateway\n",
            Self::Unavailable => "503 service unavailable\n",
            Self::GatewayTimeout => "504 gateway timeout\n",
        }
    }

    /// Whether the connection can go on afterwards: only when its framing was beyond doubt.
    pub(crate) fn keeps_connection(self) -> bool {
        matches!(self, Self::NotFound | Self::Unavailable)
    }
}

/// Where a request goes, or what it is answered at once.
pub(crate) fn admit(
    router: &Router<Arc<TargetSlot>>,
    request: &request::Parts,
    header_bytes_max: usize,
) -> Result<Arc<TargetSlot>, Answer> {
    let fields: usize = request.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 4).sum();
    let target = request.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if fields + target > header_bytes_max {
        return Err(Answer::HeaderTooLarge);
    }
    let host = match authority(request)? {
        Some(authority) => Some(host_of(authority).map_err(|_| Answer::BadRequest)?),
        None => None,
    };
    match router.find(host.as_deref(), request.uri.path()) {
        Some(Route::To(slot)) => match slot.load() {
            Some(set) if set.is_available() => Ok(slot),
            _ => Err(Answer::Unavailable),
        },
        Some(Route::Missing) => Err(Answer::Unavailable),
        None => Err(Answer::NotFound),
    }
}

/// `:authority` or the target's authority, else the one `Host` field (RFC 9112, section 3.2;
/// RFC 9113, section 8.3.1). HTTP/1.1 without a host is refused; HTTP/1.0 may lack it.
fn authority(request: &request::Parts) -> Result<Option<&str>, Answer> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Answer::BadRequest);
    }
    let host = host.map(|host| host.to_str().map_err(|_| Answer::BadRequest)).transpose()?;
    let target = request.uri.authority().map(http::uri::Authority::as_str);
    match (target, host) {
        (Some(target), Some(host)) if target != host => Err(Answer::BadRequest),
        (Some(target), _) => Ok(Some(target)),
        (None, Some(host)) => Ok(Some(host)),
        (None, None) if request.version <= Version::HTTP_10 => Ok(None),
        (None, None) => Err(Answer::BadRequest),
    }
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
