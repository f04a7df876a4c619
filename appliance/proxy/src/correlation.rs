//! What lets one request be found again in the logs of everybody who had a hand in it: its id, and
//! the W3C trace context. Pure: randomness is an argument.

use std::fmt::Write as _;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

/// `traceparent` (W3C Trace Context, section 3.2).
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate` (W3C Trace Context, section 3.3), which is nothing without the former.
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Longest request id that is taken over: three times as long as a UUID.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Length of a `traceparent` of version 00.
const TRACEPARENT_BYTES: usize = 55;

/// Flags that version 00 knows: sampled.
const SAMPLED: u8 = 1;

/// What is done with the trace context of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceContext {
    /// It passes as it is.
    #[default]
    Pass,
    /// What is valid goes on with a new parent id, what is not is removed.
    Follow,
    /// As [`Self::Follow`], and who has none is given one.
    Make,
}

/// A place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    /// The trace, never 0.
    pub(crate) id: u128,
    parent: u64,
    flags: u8,
}

/// What a request is known by. Empty while neither is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Correlation {
    /// Its id.
    pub(crate) request_id: Option<HeaderValue>,
    /// Its trace.
    pub(crate) trace: Option<Trace>,
}

/// The id of a request: what a believed client says, or a new one of 32 hexadecimal digits.
pub(crate) fn request_id(
    name: &HeaderName,
    fields: &HeaderMap,
    believed: bool,
    random: impl FnOnce() -> u128,
) -> HeaderValue {
    let mut said = fields.get_all(name).iter();
    let fits = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    match (said.next().filter(fits), said.next()) {
        (Some(value), None) if believed => value.clone(),
        _ => hex_value(&format!("{:032x}", random())),
    }
}

fn hex_value(digits: &str) -> HeaderValue {
    // Digits and hyphens are a value, so this cannot fail.
    HeaderValue::from_str(digits).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

impl Trace {
    /// Reads the one `traceparent` of a request. Of a later version what is known of it.
    pub(crate) fn read(fields: &HeaderMap) -> Option<Self> {
        let mut values = fields.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value.as_bytes()),
            _ => None,
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(TRACEPARENT_BYTES)?;
        if known[2] != b'-' || known[35] != b'-' || known[52] != b'-' {
            return None;
        }
        let version = hex(&known[..2])?;
        let fits = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let trace = Self {
            id: hex(&known[3..35])?,
            parent: u64::try_from(hex(&known[36..52])?).ok()?,
            flags: u8::try_from(hex(&known[53..])?).ok()? & SAMPLED,
        };
        (fits && trace.id != 0 && trace.parent != 0).then_some(trace)
    }

    /// What the backend is told: the same trace, with a parent made of `random`.
    pub(crate) fn child(self, random: u64) -> Self {
        Self { parent: random.max(1), ..self }
    }

    /// A new trace, sampled, so that whoever decides by the flag alone takes it up.
    pub(crate) fn new(id: u128, parent: u64) -> Self {
        Self { id: id.max(1), parent: parent.max(1), flags: SAMPLED }
    }

    /// As `traceparent` of version 00.
    pub(crate) fn value(self) -> HeaderValue {
        let mut text = String::with_capacity(TRACEPARENT_BYTES);
        // Writing into memory does not fail.
        let _ = write!(text, "00-{:032x}-{:016x}-{:02x}", self.id, self.parent, self.flags);
        hex_value(&text)
    }
}

/// At most 32 hexadecimal digits, lower case only (W3C Trace Context, section 3.2.2).
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |sum, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(digit))
    })
}

impl Correlation {
    /// What a request with these fields is known by from here on.
    pub(crate) fn of(
        fields: &HeaderMap,
        id_name: Option<&HeaderName>,
        context: TraceContext,
        believed: bool,
        mut random: impl FnMut() -> u128,
    ) -> Self {
        let request_id = id_name.map(|name| request_id(name, fields, believed, &mut random));
        #[expect(clippy::cast_possible_truncation, reason = "half of the random bits")]
        let trace = match (context, Trace::read(fields)) {
            (TraceContext::Pass, said) => said,
            (_, Some(said)) => Some(said.child(random() as u64)),
            (TraceContext::Follow, None) => None,
            (TraceContext::Make, None) => Some(Trace::new(random(), random() as u64)),
        };
        Self { request_id, trace }
    }

    /// Fields to remove from and to set on what goes to a backend that was sent `fields`.
    pub(crate) fn onward(
        &self,
        fields: &HeaderMap,
        id_name: Option<&HeaderName>,
        context: TraceContext,
    ) -> (Vec<HeaderName>, Vec<(HeaderName, HeaderValue)>) {
        let (mut remove, mut set) = (Vec::new(), Vec::new());
        if let (Some(name), Some(id)) = (id_name, &self.request_id) {
            set.push((name.clone(), id.clone()));
        }
        if context != TraceContext::Pass {
            if let Some(trace) = self.trace {
                set.push((TRACEPARENT, trace.value()));
            }
            // The state belongs to the parent that was not understood.
            if Trace::read(fields).is_none() {
                remove.extend([TRACEPARENT, TRACESTATE]);
            }
        }
        (remove, set)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: HeaderName = HeaderName::from_static("x-request-id");
    const SAID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn a_request_id_is_taken_over_only_from_those_believed_and_only_when_it_is_one() {
        let long = "x".repeat(REQUEST_ID_BYTES_MAX + 1);
        let id = |map: &HeaderMap, believed| {
            request_id(&ID, map, believed, || 0xab).to_str().unwrap().to_owned()
        };
        let new = "000000000000000000000000000000ab";
        let said = fields(&[("x-request-id", "order-7")]);
        assert_eq!(id(&said, true), "order-7");
        assert_eq!(id(&said, false), new);
        for bad in ["", "two words", &long] {
            assert_eq!(id(&fields(&[("x-request-id", bad)]), true), new, "{bad:?}");
        }
        assert_eq!(id(&fields(&[("x-request-id", "a"), ("x-request-id", "b")]), true), new);
        assert_eq!(id(&HeaderMap::new(), true), new);
    }

    #[test]
    fn only_what_the_specification_allows_is_a_parent() {
        let read = |value: &str| Trace::read(&fields(&[("traceparent", value)]));
        let said = read(SAID).unwrap();
        assert_eq!(said.id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(said.value(), SAID);
        let later = SAID.replacen("00", "cc", 1);
        assert_eq!(read(&later), Some(said));
        assert_eq!(read(&format!("{later}-more")), Some(said));
        for bad in [
            String::new(),
            SAID.to_uppercase(),
            SAID.replacen("00", "ff", 1),
            SAID.replace('-', "_"),
            format!("{SAID}-more"),
            format!("{later}more"),
            SAID[..54].to_owned(),
            SAID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            SAID.replace("b7ad6b7169203331", &"0".repeat(16)),
        ] {
            assert_eq!(read(&bad), None, "{bad:?}");
        }
        assert_eq!(Trace::read(&fields(&[("traceparent", SAID), ("traceparent", SAID)])), None);
    }

    /// What a backend is told of `sent`.
    fn told(sent: &HeaderMap, context: TraceContext) -> Vec<(String, String)> {
        let correlation = Correlation::of(sent, None, context, false, || 0xfeed);
        let (remove, set) = correlation.onward(sent, None, context);
        let mut map = sent.clone();
        for name in remove {
            map.remove(name);
        }
        map.extend(set.into_iter().map(|(name, value)| (Some(name), value)));
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        map.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    #[test]
    fn a_valid_context_goes_on_with_a_new_parent_and_a_broken_one_ends() {
        let valid = fields(&[("traceparent", SAID), ("tracestate", "a=1")]);
        let broken = fields(&[("traceparent", "00-1-2-3"), ("tracestate", "a=1")]);
        let child = SAID.replace("b7ad6b7169203331", "000000000000feed");
        let state = ("tracestate".to_owned(), "a=1".to_owned());
        for context in [TraceContext::Follow, TraceContext::Make] {
            let mut told = told(&valid, context);
            told.sort();
            assert_eq!(told, [("traceparent".to_owned(), child.clone()), state.clone()]);
        }
        assert_eq!(told(&broken, TraceContext::Follow), []);
        let made = "00-0000000000000000000000000000feed-000000000000feed-01".to_owned();
        assert_eq!(told(&broken, TraceContext::Make), [("traceparent".to_owned(), made.clone())]);
        assert_eq!(told(&HeaderMap::new(), TraceContext::Follow), []);
        assert_eq!(told(&HeaderMap::new(), TraceContext::Make), [("traceparent".to_owned(), made)]);
        assert_eq!(told(&broken, TraceContext::Pass).len(), 2, "it passes as it is");
    }

    #[test]
    fn the_id_is_set_whatever_was_sent() {
        let sent = fields(&[("x-request-id", "forged")]);
        let correlation = Correlation::of(&sent, Some(&ID), TraceContext::Pass, false, || 0x1d);
        let (remove, set) = correlation.onward(&sent, Some(&ID), TraceContext::Pass);
        assert_eq!(remove, Vec::<HeaderName>::new());
        assert_eq!(set, [(ID, HeaderValue::from_static("0000000000000000000000000000001d"))]);
    }

    proptest! {
        #[test]
        fn what_is_made_can_be_read(id in any::<u128>(), parent in any::<u64>()) {
            let made = Trace::new(id, parent);
            let mut map = HeaderMap::new();
            map.insert(TRACEPARENT, made.value());
            prop_assert_eq!(Trace::read(&map), Some(made));
        }

        #[test]
        fn any_bytes_are_a_parent_or_not(text in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(trace) = Trace::parse(&text) {
                prop_assert!(trace.id != 0);
            }
        }
    }
}
