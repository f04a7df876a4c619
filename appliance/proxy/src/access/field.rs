//! What a line can say about a request. Pure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::record::Record;

/// A field of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Time,
    TimeClf,
    Client,
    ClientPort,
    User,
    Listener,
    TlsVersion,
    TlsCipher,
    ServerName,
    Method,
    Host,
    Path,
    Query,
    Target,
    Protocol,
    Status,
    BytesIn,
    BytesOut,
    DurationMs,
    FirstByteMs,
    End,
    Kind,
    Namespace,
    Route,
    Rule,
    Service,
    Pod,
    Upstream,
    Attempts,
    RequestId,
    TraceId,
    UserAgent,
    Referer,
}

/// What a request has in a field.
pub(super) enum Value<'a> {
    /// Nothing.
    Absent,
    /// A count or code.
    Number(u64),
    /// A time span, in milliseconds to the microsecond.
    Millis(Duration),
    /// A moment, RFC 3339 in UTC.
    Moment(jiff::Timestamp),
    /// A moment, as the Common Log Format has it.
    MomentClf(jiff::Timestamp),
    /// An address.
    Address(IpAddr),
    /// Address and port.
    Socket(SocketAddr),
    /// 32 hexadecimal digits.
    Trace(u128),
    /// What somebody else has written, perhaps in two parts with `?` between them.
    Foreign(&'a [u8], Option<&'a [u8]>),
}

impl Field {
    /// All, in the order of the documentation and of JSON.
    pub(crate) const ALL: [Self; 33] = [
        Self::Time,
        Self::TimeClf,
        Self::Client,
        Self::ClientPort,
        Self::User,
        Self::Listener,
        Self::TlsVersion,
        Self::TlsCipher,
        Self::ServerName,
        Self::Method,
        Self::Host,
        Self::Path,
        Self::Query,
        Self::Target,
        Self::Protocol,
        Self::Status,
        Self::BytesIn,
        Self::BytesOut,
        Self::DurationMs,
        Self::FirstByteMs,
        Self::End,
        Self::Kind,
        Self::Namespace,
        Self::Route,
        Self::Rule,
        Self::Service,
        Self::Pod,
        Self::Upstream,
        Self::Attempts,
        Self::RequestId,
        Self::TraceId,
        Self::UserAgent,
        Self::Referer,
    ];

    /// As it stands between braces.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::TimeClf => "time_clf",
            Self::Client => "client",
            Self::ClientPort => "client_port",
            Self::User => "user",
            Self::Listener => "listener",
            Self::TlsVersion => "tls_version",
            Self::TlsCipher => "tls_cipher",
            Self::ServerName => "server_name",
            Self::Method => "method",
            Self::Host => "host",
            Self::Path => "path",
            Self::Query => "query",
            Self::Target => "target",
            Self::Protocol => "protocol",
            Self::Status => "status",
            Self::BytesIn => "bytes_in",
            Self::BytesOut => "bytes_out",
            Self::DurationMs => "duration_ms",
            Self::FirstByteMs => "first_byte_ms",
            Self::End => "end",
            Self::Kind => "kind",
            Self::Namespace => "namespace",
            Self::Route => "route",
            Self::Rule => "rule",
            Self::Service => "service",
            Self::Pod => "pod",
            Self::Upstream => "upstream",
            Self::Attempts => "attempts",
            Self::RequestId => "request_id",
            Self::TraceId => "trace_id",
            Self::UserAgent => "user_agent",
            Self::Referer => "referer",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    /// Whether JSON has it: not what it has in another field already.
    pub(super) fn stands_alone(self) -> bool {
        !matches!(self, Self::TimeClf | Self::Target)
    }

    /// What `record` has there.
    pub(super) fn of<'a>(self, record: &Record<'a>) -> Value<'a> {
        match self {
            Self::Time => Value::Moment(record.began),
            Self::TimeClf => Value::MomentClf(record.began),
            Self::Client => Value::Address(record.client.ip().to_canonical()),
            Self::ClientPort => Value::Number(record.client.port().into()),
            Self::User => text(record.user),
            Self::Listener => Value::Socket(record.listener),
            Self::TlsVersion => text(record.tls_version),
            Self::TlsCipher => text(record.tls_cipher),
            Self::ServerName => text(record.server_name),
            Self::Method => text(Some(record.method)),
            Self::Host => foreign(record.host),
            Self::Path => text(Some(record.path)),
            Self::Query => text(record.query),
            Self::Target => Value::Foreign(record.path.as_bytes(), record.query.map(str::as_bytes)),
            Self::Protocol => text(Some(record.protocol)),
            Self::Status => record.status.map_or(Value::Absent, |s| Value::Number(s.into())),
            Self::BytesIn => Value::Number(record.bytes_in),
            Self::BytesOut => Value::Number(record.bytes_out),
            Self::DurationMs => Value::Millis(record.duration),
            Self::FirstByteMs => record.first_byte.map_or(Value::Absent, Value::Millis),
            Self::End => text(Some(record.end)),
            Self::Kind => text(record.route.map(|route| route.kind.as_str())),
            Self::Namespace => text(record.route.map(|route| &*route.namespace)),
            Self::Route => text(record.route.map(|route| &*route.name)),
            Self::Rule => text(record.rule),
            Self::Service => text(record.service),
            Self::Pod => text(record.pod),
            Self::Upstream => record.upstream.map_or(Value::Absent, Value::Socket),
            Self::Attempts => Value::Number(record.attempts as u64),
            Self::RequestId => foreign(record.request_id),
            Self::TraceId => record.trace_id.map_or(Value::Absent, Value::Trace),
            Self::UserAgent => foreign(record.user_agent),
            Self::Referer => foreign(record.referer),
        }
    }
}

fn text(text: Option<&str>) -> Value<'_> {
    foreign(text.map(str::as_bytes))
}

fn foreign(bytes: Option<&[u8]>) -> Value<'_> {
    match bytes {
        Some(bytes) if !bytes.is_empty() => Value::Foreign(bytes, None),
        _ => Value::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_found_by_its_name_alone() {
        for field in Field::ALL {
            assert_eq!(Field::named(field.name()), Some(field));
        }
        assert_eq!(Field::named("authorization"), None);
        assert_eq!(Field::named("cookie"), None);
    }

    #[test]
    fn the_page_about_the_log_has_every_field_in_this_order() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/access-log.md");
        let page = std::fs::read_to_string(page).unwrap();
        let rows = page.lines().filter_map(|row| row.strip_prefix("| `{")?.split_once('}'));
        let named: Vec<&str> = rows.map(|(name, _)| name).collect();
        assert_eq!(named, Field::ALL.map(Field::name));
    }
}
