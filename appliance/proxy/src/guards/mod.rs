//! What is asked of clients before their requests go anywhere: lists of clients, rates, sizes.
//!
//! Pure: the client, the time and the counts are arguments.

mod clients;
mod meter;
mod metrics;
mod origin;

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::{ClientRanges, RateKey, RateLimit};
use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;
use prometheus::IntCounter;

use self::clients::Clients;
use self::meter::{Meters, Rate};
pub(crate) use self::metrics::GuardMetrics;
use crate::answers::Answer;

/// Bits of an IPv6 address that stand for one client: what one subscriber is given.
const CLIENT_V6_BITS: u32 = 64;

/// Something that is asked.
#[derive(Debug)]
pub(crate) enum Guard {
    /// To be on a list.
    Clients(Clients),
    /// Not to ask too often.
    Rate(Limit),
    /// Not to send more than so many bytes.
    BodyMax(u64),
    /// Not to send a longer header.
    HeaderMax(usize),
}

/// A rate, and whose requests count together.
#[derive(Debug)]
pub(crate) struct Limit {
    rate: Rate,
    burst: u32,
    status: u16,
    scope: Arc<str>,
    key: Key,
}

#[derive(Debug)]
enum Key {
    All,
    Client,
    Field(HeaderName),
    /// A name that no field can have: all requests lack it.
    NoField,
}

/// Counts of all rates on this host.
#[derive(Debug)]
pub(crate) struct Counts {
    meters: Meters,
    /// Keys are hashed with a secret, so that nobody can choose whom to be counted with.
    hasher: RandomState,
    /// Keys that were forgotten while they still counted.
    displaced: IntCounter,
}

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    /// The other end of the connection.
    pub(crate) peer: IpAddr,
    /// Proxies whose word about the client counts.
    pub(crate) trusted: &'a [IpNet],
    /// What was counted before.
    pub(crate) counts: &'a Counts,
    /// Time on a monotonic clock.
    pub(crate) now: Duration,
    /// Whether it is asked in earnest, and counts. Otherwise only what would be said is wanted.
    pub(crate) earnest: bool,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The client may not ask: 403.
    Client,
    /// The body is too long: 413.
    Body,
    /// The header is too long: 431.
    Header,
    /// It was asked too often.
    Rate {
        /// The status.
        status: u16,
        /// What is left: nothing, and when there is more.
        quota: Quota,
    },
}

/// What a client may still ask, for fields of the answer. Seconds are rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    /// At once, after a pause.
    pub(crate) limit: u32,
    /// At once, now.
    pub(crate) remaining: u32,
    /// Seconds until all of it is there again.
    pub(crate) reset_secs: u64,
    /// Seconds until there is any.
    pub(crate) retry_secs: u64,
}

impl Counts {
    /// Nothing yet; `displaced` counts the keys that are forgotten while they still count.
    pub(crate) fn new(displaced: IntCounter) -> Self {
        Self { meters: Meters::default(), hasher: RandomState::new(), displaced }
    }
}

impl Refused {
    /// The name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Body => "body",
            Self::Header => "header",
            Self::Rate { .. } => "rate",
        }
    }

    /// The status code.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Client => Answer::Forbidden.status(),
            Self::Body => Answer::BodyTooLarge.status(),
            Self::Header => Answer::HeaderTooLarge.status(),
            Self::Rate { status, .. } => status,
        }
    }
}

impl Guard {
    pub(crate) fn clients(ranges: &ClientRanges) -> Self {
        Self::Clients(Clients::new(ranges))
    }

    pub(crate) fn rate(limit: &RateLimit, scope: &Arc<str>) -> Self {
        let period = Duration::from_millis(limit.period_ms.into());
        Self::Rate(Limit {
            rate: Rate::new(limit.requests, period, limit.burst),
            burst: limit.burst.max(1),
            status: limit.status,
            scope: scope.clone(),
            key: match &limit.per {
                RateKey::All => Key::All,
                RateKey::Client => Key::Client,
                RateKey::Header(name) => name.parse().map_or(Key::NoField, Key::Field),
            },
        })
    }

    /// Whether a request with these fields is let through; what is left of a rate.
    pub(crate) fn check(
        &self,
        fields: &HeaderMap,
        asking: Asking<'_>,
    ) -> Result<Option<Quota>, Refused> {
        let client = || asking.client(fields);
        match self {
            Self::Clients(clients) => match clients.admit(client()) {
                true => Ok(None),
                false => Err(Refused::Client),
            },
            Self::HeaderMax(max) => match header_bytes(fields) > *max {
                true => Err(Refused::Header),
                false => Ok(None),
            },
            Self::BodyMax(max) => match announced(fields) > *max {
                true => Err(Refused::Body),
                false => Ok(None),
            },
            Self::Rate(limit) => limit.check(fields, client, asking),
        }
    }
}

impl Asking<'_> {
    /// The client: the peer, or whom a trusted one names.
    pub(crate) fn client(&self, fields: &HeaderMap) -> IpAddr {
        origin::client(self.peer, fields, self.trusted)
    }
}

impl Limit {
    fn check(
        &self,
        fields: &HeaderMap,
        client: impl FnOnce() -> IpAddr,
        asking: Asking<'_>,
    ) -> Result<Option<Quota>, Refused> {
        let Counts { meters, hasher, displaced } = asking.counts;
        let key = match &self.key {
            Key::All | Key::NoField => hasher.hash_one((&self.scope, 0u8)),
            Key::Client => hasher.hash_one((&self.scope, 1u8, subscriber(client()))),
            Key::Field(name) => {
                let value = fields.get(name).map(http::HeaderValue::as_bytes);
                hasher.hash_one((&self.scope, 2u8, name.as_str(), value))
            }
        };
        let spent = match asking.earnest {
            true => meters.spend(key, self.rate, asking.now),
            false => meters.look(key, self.rate, asking.now),
        };
        displaced.inc_by(spent.displaced.into());
        let quota = Quota {
            limit: self.burst,
            remaining: spent.remaining,
            reset_secs: whole(spent.reset),
            retry_secs: whole(spent.retry_after),
        };
        match spent.admitted {
            true => Ok(Some(quota)),
            false => Err(Refused::Rate { status: self.status, quota }),
        }
    }
}

impl Quota {
    /// The one of which less is left.
    pub(crate) fn tighter(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other.remaining < self.remaining => other,
            _ => self,
        }
    }
}

/// Bytes of the fields as they stand on a line each.
pub(crate) fn header_bytes(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// The length that a request says its body has; chunked bodies are counted as they come.
fn announced(fields: &HeaderMap) -> u64 {
    let length = fields.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|length| length.trim().parse().ok()).unwrap_or(0)
}

/// The bits of an address that stand for one client.
fn subscriber(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(v4) => (false, u32::from(v4).into()),
        IpAddr::V6(v6) => (true, u128::from(v6) >> (u128::BITS - CLIENT_V6_BITS)),
    }
}

fn whole(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn counts() -> Counts {
        Counts::new(IntCounter::new("displaced", "in a test").unwrap())
    }

    fn limit(per: RateKey) -> Guard {
        let limit = RateLimit { requests: 1, period_ms: 1_000, burst: 2, per, status: 429 };
        Guard::rate(&limit, &"shop".into())
    }

    fn asking<'a>(counts: &'a Counts, peer: &str, secs: u64) -> Asking<'a> {
        let now = Duration::from_secs(secs);
        Asking { peer: peer.parse().unwrap(), trusted: &[], counts, now, earnest: true }
    }

    fn refused(guard: &Guard, fields: &HeaderMap, asking: Asking<'_>) -> bool {
        guard.check(fields, asking).is_err()
    }

    #[test]
    fn one_client_s_requests_are_counted_together_and_a_neighbour_s_apart() {
        let (counts, guard, none) = (counts(), limit(RateKey::Client), HeaderMap::new());
        let asks = |peer| refused(&guard, &none, asking(&counts, peer, 9));
        assert_eq!(["192.0.2.1", "192.0.2.1", "192.0.2.1"].map(asks), [false, false, true]);
        assert!(!asks("192.0.2.2"));
        assert_eq!(["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(asks), [false, false, true]);
        assert!(!asks("2001:db8:0:1::1"), "another network of 64 bits");
    }

    #[test]
    fn values_of_a_field_are_counted_apart_and_those_without_together() {
        let counts = counts();
        let guard = limit(RateKey::Header("x-tenant".into()));
        let asks = |value: Option<&'static str>| {
            let mut fields = HeaderMap::new();
            fields.extend(value.map(|value| {
                (HeaderName::from_static("x-tenant"), HeaderValue::from_static(value))
            }));
            refused(&guard, &fields, asking(&counts, "192.0.2.1", 9))
        };
        assert_eq!([Some("a"), Some("a"), Some("a")].map(asks), [false, false, true]);
        assert_eq!([Some("b"), None, None, None].map(asks), [false, false, false, true]);
    }

    #[test]
    fn limits_of_different_objects_do_not_add_up() {
        let (counts, none) = (counts(), HeaderMap::new());
        let one =
            RateLimit { requests: 1, period_ms: 60_000, burst: 1, per: RateKey::All, status: 429 };
        for scope in ["a", "b"] {
            let guard = Guard::rate(&one, &scope.into());
            assert!(!refused(&guard, &none, asking(&counts, "192.0.2.1", 9)), "{scope}");
            let Err(Refused::Rate { status, quota }) =
                guard.check(&none, asking(&counts, "192.0.2.1", 10))
            else {
                panic!("one too many");
            };
            assert_eq!((status, quota.limit, quota.remaining), (429, 1, 0));
            assert_eq!((quota.retry_secs, quota.reset_secs), (59, 59));
        }
    }

    #[test]
    fn a_body_that_is_announced_too_long_is_refused_at_once() {
        let (counts, guard) = (counts(), Guard::BodyMax(10));
        let with = |length: &'static str| {
            let mut fields = HeaderMap::new();
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static(length));
            guard.check(&fields, asking(&counts, "192.0.2.1", 9))
        };
        assert_eq!(with("10"), Ok(None));
        assert_eq!(with("11"), Err(Refused::Body));
    }

    #[test]
    fn who_is_not_on_the_list_is_refused() {
        let counts = counts();
        let allow = Some(vec!["192.0.2.0/24".parse().unwrap()]);
        let guard = Guard::clients(&ClientRanges { allow, deny: Vec::new() });
        let none = HeaderMap::new();
        assert!(!refused(&guard, &none, asking(&counts, "192.0.2.1", 9)));
        assert_eq!(guard.check(&none, asking(&counts, "198.51.100.1", 9)), Err(Refused::Client));
    }
}
