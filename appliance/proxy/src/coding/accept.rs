//! `Accept-Encoding` (RFC 9110, sections 12.4.2 and 12.5.3). Pure.

use haflinger_core::Coding;
use http::{HeaderMap, HeaderValue, header};

/// Members of the field that are looked at: far more than there are codings.
const MEMBERS_MAX: usize = 32;

/// What a client says of one coding, in thousandths; `None`: nothing.
#[derive(Clone, Copy, Default)]
struct Liking {
    gzip: Option<u16>,
    brotli: Option<u16>,
    zstd: Option<u16>,
    identity: Option<u16>,
    any: Option<u16>,
}

/// The coding that the client likes best, among those that it likes alike the first of `ours`;
/// `None`: none of them, or the answer as it is better. A client that says nothing gets it as it is,
/// although it would have to take anything.
pub(super) fn choose(fields: &HeaderMap, ours: &[Coding]) -> Option<Coding> {
    let mut liking = Liking::default();
    let values = fields.get_all(header::ACCEPT_ENCODING).iter().map(HeaderValue::as_bytes);
    let members = values.flat_map(|value| value.split(|byte| *byte == b','));
    for member in members.take(MEMBERS_MAX) {
        liking.note(member);
    }
    let of = |coding: Coding| {
        let own = match coding {
            Coding::Gzip => liking.gzip,
            Coding::Brotli => liking.brotli,
            Coding::Zstd => liking.zstd,
        };
        own.or(liking.any).unwrap_or(0)
    };
    let best = ours.iter().map(|coding| of(*coding)).max().filter(|best| *best > 0)?;
    if liking.identity.is_some_and(|identity| identity > best) {
        return None;
    }
    ours.iter().copied().find(|coding| of(*coding) == best)
}

impl Liking {
    /// Takes up one member; one that is malformed says nothing.
    fn note(&mut self, member: &[u8]) {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let coding = parts.next().unwrap_or_default();
        let weight = match parts.next() {
            None => Some(1_000),
            Some(weight) => weight
                .strip_prefix(b"q=")
                .or_else(|| weight.strip_prefix(b"Q="))
                .and_then(thousandths),
        };
        let Some(weight) = weight else { return };
        let is = |name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
        let place = if is("gzip") || is("x-gzip") {
            &mut self.gzip
        } else if is("br") {
            &mut self.brotli
        } else if is("zstd") {
            &mut self.zstd
        } else if is("identity") {
            &mut self.identity
        } else if is("*") {
            &mut self.any
        } else {
            return;
        };
        *place = Some(weight);
    }
}

/// A `qvalue`: 0 to 1 with up to three digits behind the point.
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, digits) = match text {
        [whole] | [whole, b'.'] => (whole, &[][..]),
        [whole, b'.', digits @ ..] if digits.len() <= 3 => (whole, digits),
        _ => return None,
    };
    let mut weight = match whole {
        b'0' => 0,
        b'1' => 1_000,
        _ => return None,
    };
    for (digit, worth) in digits.iter().zip([100, 10, 1]) {
        weight += u16::from(digit.is_ascii_digit().then(|| digit - b'0')?) * worth;
    }
    (weight <= 1_000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

    fn chosen(values: &[&str]) -> Option<Coding> {
        let value = |value: &&str| (header::ACCEPT_ENCODING, value.parse().unwrap());
        choose(&values.iter().map(value).collect(), &OURS)
    }

    #[test]
    fn the_client_s_liking_counts_and_then_ours() {
        let (gzip, br, zstd) = (Some(Coding::Gzip), Some(Coding::Brotli), Some(Coding::Zstd));
        for (values, expected) in [
            (&["gzip, deflate, br, zstd"][..], br),
            (&["gzip", "zstd"], zstd),
            (&["gzip;q=1.0, br;q=0.9"], gzip),
            (&["br;q=0.001, gzip ; q=0.002"], gzip),
            (&["*"], br),
            (&["*;q=0.5, br;q=0"], zstd),
            (&["X-GZip"], gzip),
            (&["gzip;q=0"], None),
            (&["*;q=0"], None),
            (&["gzip;q=0.5, identity"], None),
            (&["gzip;q=0.5, identity;q=0.5"], gzip),
            (&["gzip;q=2", "br;q=0.1234", "zstd;level=1"], None),
            (&["gzip;q=1.001"], None),
            (&["identity"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(chosen(values), expected, "{values:?}");
        }
        assert_eq!(choose(&HeaderMap::new(), &[]), None);
    }

    proptest! {
        #[test]
        fn what_is_chosen_was_named_or_meant(value in "[a-z*;=.,q01 ]{0,60}") {
            if chosen(&[&value]).is_some() {
                let named = ["gzip", "br", "zstd", "*"].iter().any(|name| value.contains(name));
                prop_assert!(named, "{}", value);
            }
        }
    }
}
