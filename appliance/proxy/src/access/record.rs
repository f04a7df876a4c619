//! What is known about a request when it has ended.
//!
//! Borrowed from what the request left, so that writing it down costs no copy but the line itself.
//! There is no place in it for `Authorization`, `Cookie` and their like.

use std::net::SocketAddr;
use std::time::Duration;

use haflinger_core::ObjectRef;

/// A request that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Record<'a> {
    /// When its header had come.
    pub(crate) began: jiff::Timestamp,
    /// The client, as the connection says.
    pub(crate) client: SocketAddr,
    /// Who the client is, if a rule has asked.
    pub(crate) user: Option<&'a str>,
    /// The address that it connected to.
    pub(crate) listener: SocketAddr,
    /// The version of TLS.
    pub(crate) tls_version: Option<&'a str>,
    /// The cipher suite.
    pub(crate) tls_cipher: Option<&'a str>,
    /// The server name of the handshake.
    pub(crate) server_name: Option<&'a str>,
    /// The method.
    pub(crate) method: &'a str,
    /// The host asked for, as sent.
    pub(crate) host: Option<&'a [u8]>,
    /// The path, as sent.
    pub(crate) path: &'a str,
    /// The query, unless it is to be left out.
    pub(crate) query: Option<&'a str>,
    /// The version of HTTP.
    pub(crate) protocol: &'a str,
    /// The status of the answer, if there was one.
    pub(crate) status: Option<u16>,
    /// Bytes of the request's body that were read.
    pub(crate) bytes_in: u64,
    /// Bytes of the answer's body that were sent.
    pub(crate) bytes_out: u64,
    /// From the header of the request to the end of the answer.
    pub(crate) duration: Duration,
    /// From the header of the request to the header of the answer.
    pub(crate) first_byte: Option<Duration>,
    /// How it ended, in a word.
    pub(crate) end: &'a str,
    /// The Ingress or route whose rule it followed.
    pub(crate) route: Option<&'a ObjectRef>,
    /// The rule's name.
    pub(crate) rule: Option<&'a str>,
    /// The name of the service that it went to.
    pub(crate) service: Option<&'a str>,
    /// The name of the pod that it went to last.
    pub(crate) pod: Option<&'a str>,
    /// The address that it went to last.
    pub(crate) upstream: Option<SocketAddr>,
    /// Backends tried.
    pub(crate) attempts: usize,
    /// Its id.
    pub(crate) request_id: Option<&'a [u8]>,
    /// The trace that it belongs to.
    pub(crate) trace_id: Option<u128>,
    /// `User-Agent`.
    pub(crate) user_agent: Option<&'a [u8]>,
    /// `Referer`.
    pub(crate) referer: Option<&'a [u8]>,
}
