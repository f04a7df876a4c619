//! OCSP responses that are handed to clients with a certificate (RFC 6066, section 8).
//!
//! Whoever runs the site fetches them; here they are checked for what a client would stumble over:
//! another certificate, an age, a revocation. The signature is the clients' to check: they have
//! to anyway, and a response that is wrong in it harms only where it is handed out.
//!
//! Never hands out what is out of date, and never leaves out a certificate for want of a response.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Longest response: those with the responder's certificates are below 4 KiB, and every
/// handshake of a client that asks sends all of it.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

/// Most answers of one response that are looked at. Responders answer about one certificate.
const ANSWERS_MAX: usize = 16;

/// How far this host's clock may be behind the responder's, in seconds.
const SKEW_SECS: i64 = 300;

/// A response about one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Staple {
    /// As it is handed out.
    pub(super) der: Vec<u8>,
    /// When it begins to hold, in seconds since 1970.
    this_update_secs: i64,
    /// When it no longer holds.
    pub(crate) next_update_secs: i64,
}

/// Why a response is not handed out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StapleError {
    /// Too long.
    #[error("it is longer than {RESPONSE_BYTES_MAX} bytes")]
    TooLong,
    /// No OCSPResponse.
    #[error("it is no OCSP response in DER")]
    Malformed,
    /// `responseStatus` is not `successful`.
    #[error("the responder had no answer (status {0}); fetch it again")]
    Unsuccessful(u8),
    /// None of its answers has the certificate's number.
    #[error("it is about another certificate; fetch it for the newest one")]
    OtherCertificate,
    /// `certStatus` is not `good`.
    #[error("the authority says that the certificate is {0}; have it replaced")]
    NotGood(&'static str),
    /// There is no `nextUpdate`.
    #[error("it does not say for how long it holds (nextUpdate)")]
    Endless,
    /// `thisUpdate` has not come.
    #[error("it holds only from {0} on; is the clock of this host right?")]
    Future(String),
    /// `nextUpdate` has passed.
    #[error("it held until {0}; fetch it again")]
    Old(String),
}

impl Staple {
    /// Reads a response about the certificate with this number, as its DER has it.
    pub(crate) fn read(der: &[u8], serial: &[u8]) -> Result<Self, StapleError> {
        if der.len() > RESPONSE_BYTES_MAX {
            return Err(StapleError::TooLong);
        }
        let answers = answers(der)?;
        let mut rest = answers;
        for _ in 0..ANSWERS_MAX {
            if rest.is_empty() {
                break;
            }
            let (answer, after) = expect(rest, SEQUENCE)?;
            rest = after;
            let answer = Answer::read(answer)?;
            if without_zeros(answer.serial) == without_zeros(serial) {
                return answer.staple(der);
            }
        }
        Err(StapleError::OtherCertificate)
    }

    /// Whether it can be handed out now.
    pub(crate) fn holds(&self, now_secs: i64) -> Result<(), StapleError> {
        if self.this_update_secs > now_secs.saturating_add(SKEW_SECS) {
            return Err(StapleError::Future(date(self.this_update_secs)));
        }
        if self.next_update_secs <= now_secs {
            return Err(StapleError::Old(date(self.next_update_secs)));
        }
        Ok(())
    }
}

/// A time for people, as RFC 3339 has it.
pub(super) fn date(secs: i64) -> String {
    jiff::Timestamp::from_second(secs).map_or_else(|_| secs.to_string(), |at| at.to_string())
}

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, constructed.
const FIRST: u8 = 0xa0;

/// id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];

/// A DER element in the lead: its tag, its content, and what follows.
fn element(input: &[u8]) -> Result<(u8, &[u8], &[u8]), StapleError> {
    let (&[tag, length], rest) = input.split_first_chunk().ok_or(StapleError::Malformed)?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // Two bytes of length are enough for the longest response.
        0x81 | 0x82 => {
            let bytes = usize::from(length & 0x7f);
            let (digits, rest) = rest.split_at_checked(bytes).ok_or(StapleError::Malformed)?;
            (digits.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return Err(StapleError::Malformed),
    };
    let (content, rest) = rest.split_at_checked(length).ok_or(StapleError::Malformed)?;
    Ok((tag, content, rest))
}

/// The content of the element in the lead, which has this tag, and what follows.
fn expect(input: &[u8], tag: u8) -> Result<(&[u8], &[u8]), StapleError> {
    match element(input)? {
        (found, content, rest) if found == tag => Ok((content, rest)),
        _ => Err(StapleError::Malformed),
    }
}

/// `responses` of a basic response (RFC 6960, section 4.2.1).
fn answers(der: &[u8]) -> Result<&[u8], StapleError> {
    let (response, _) = expect(der, SEQUENCE)?;
    let (status, rest) = expect(response, ENUMERATED)?;
    match status {
        [0] => {}
        [status] => return Err(StapleError::Unsuccessful(*status)),
        _ => return Err(StapleError::Malformed),
    }
    let (bytes, _) = expect(rest, FIRST)?;
    let (bytes, _) = expect(bytes, SEQUENCE)?;
    let (kind, rest) = expect(bytes, OID)?;
    if kind != BASIC {
        return Err(StapleError::Malformed);
    }
    let (basic, _) = expect(rest, OCTET_STRING)?;
    let (basic, _) = expect(basic, SEQUENCE)?;
    let (data, _) = expect(basic, SEQUENCE)?;
    // version [0] is left out where it is 1, which it is.
    let data = match element(data)? {
        (FIRST, _, rest) => rest,
        _ => data,
    };
    let (_responder, _, rest) = element(data)?;
    let (_produced, rest) = expect(rest, GENERALIZED_TIME)?;
    Ok(expect(rest, SEQUENCE)?.0)
}

/// A `SingleResponse`.
struct Answer<'a> {
    serial: &'a [u8],
    /// Tag of the choice.
    status: u8,
    this_update_secs: i64,
    next_update_secs: Option<i64>,
}

impl<'a> Answer<'a> {
    fn read(answer: &'a [u8]) -> Result<Self, StapleError> {
        let (id, rest) = expect(answer, SEQUENCE)?;
        let (_algorithm, id) = expect(id, SEQUENCE)?;
        let (_issuer_name, id) = expect(id, OCTET_STRING)?;
        let (_issuer_key, id) = expect(id, OCTET_STRING)?;
        let (serial, _) = expect(id, INTEGER)?;
        let (status, _, rest) = element(rest)?;
        let (this_update, rest) = expect(rest, GENERALIZED_TIME)?;
        let next_update = match rest.is_empty() {
            true => None,
            false => match element(rest)? {
                (FIRST, next, _) => Some(time(expect(next, GENERALIZED_TIME)?.0)?),
                _ => None,
            },
        };
        let this_update_secs = time(this_update)?;
        Ok(Self { serial, status, this_update_secs, next_update_secs: next_update })
    }

    fn staple(&self, der: &[u8]) -> Result<Staple, StapleError> {
        match self.status & 0x1f {
            0 => {}
            1 => return Err(StapleError::NotGood("revoked")),
            _ => return Err(StapleError::NotGood("unknown to it")),
        }
        let next_update_secs = self.next_update_secs.ok_or(StapleError::Endless)?;
        Ok(Staple { der: der.to_vec(), this_update_secs: self.this_update_secs, next_update_secs })
    }
}

/// A `GeneralizedTime` in the one form that DER allows for whole seconds: `YYYYMMDDHHMMSSZ`.
fn time(text: &[u8]) -> Result<i64, StapleError> {
    let malformed = || StapleError::Malformed;
    let (digits, zone) = text.split_at_checked(14).ok_or_else(malformed)?;
    if zone != b"Z" || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    let number = |part: &[u8]| part.iter().fold(0_i16, |sum, d| sum * 10 + i16::from(d - b'0'));
    let two = |at: usize| i8::try_from(number(&digits[at..at + 2])).map_err(|_| malformed());
    let year = number(&digits[..4]);
    let at = DateTime::new(year, two(4)?, two(6)?, two(8)?, two(10)?, two(12)?, 0);
    let at = at.and_then(|at| at.to_zoned(TimeZone::UTC)).map_err(|_| malformed())?;
    Ok(at.timestamp().as_second())
}

/// A number as DER writes it, without the zeros in the lead.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).ok().filter(|length| *length < 0x80);
        match length {
            Some(length) => [&[tag, length][..], content].concat(),
            None => {
                let length = u16::try_from(content.len()).unwrap().to_be_bytes();
                [&[tag, 0x82, length[0], length[1]][..], content].concat()
            }
        }
    }

    /// A response about a number, without what is not looked at.
    pub(in crate::tls) fn response(
        serial: &[u8],
        status: &[u8],
        from: &str,
        until: Option<&str>,
    ) -> Vec<u8> {
        let hash = der(OCTET_STRING, &[7; 20]);
        let algorithm = der(SEQUENCE, &der(OID, &[0x2b, 0x0e, 3, 2, 0x1a]));
        let number = der(INTEGER, serial);
        let id = der(SEQUENCE, &[algorithm.clone(), hash.clone(), hash.clone(), number].concat());
        let until = until.map(|until| der(FIRST, &der(GENERALIZED_TIME, until.as_bytes())));
        let from = der(GENERALIZED_TIME, from.as_bytes());
        let single =
            der(SEQUENCE, &[id, status.to_vec(), from.clone(), until.unwrap_or_default()].concat());
        let responder = der(0xa2, &hash);
        let data = der(SEQUENCE, &[responder, from, der(SEQUENCE, &single)].concat());
        let signature = der(0x03, &[0; 65]);
        let basic = der(SEQUENCE, &[data, algorithm, signature].concat());
        let bytes = der(SEQUENCE, &[der(OID, BASIC), der(OCTET_STRING, &basic)].concat());
        der(SEQUENCE, &[der(ENUMERATED, &[0]), der(FIRST, &bytes)].concat())
    }

    const GOOD: &[u8] = &[0x80, 0];
    const FROM: &str = "20261101000000Z";
    const UNTIL: &str = "20261108000000Z";
    /// 2026-11-04T00:00:00Z.
    const NOW: i64 = 1_793_750_400;

    #[test]
    fn a_response_holds_from_its_beginning_to_its_end() {
        let staple = Staple::read(&response(&[5], GOOD, FROM, Some(UNTIL)), &[5]).unwrap();
        assert_eq!(date(NOW), "2026-11-04T00:00:00Z");
        assert_eq!(staple.holds(NOW), Ok(()));
        let end = staple.next_update_secs;
        assert_eq!(date(end), "2026-11-08T00:00:00Z");
        assert_eq!(staple.holds(end - 1), Ok(()));
        let old = StapleError::Old("2026-11-08T00:00:00Z".into());
        assert_eq!(staple.holds(end), Err(old));
        assert_eq!(staple.holds(staple.this_update_secs - SKEW_SECS), Ok(()));
        let early = staple.holds(staple.this_update_secs - SKEW_SECS - 1);
        assert_eq!(early, Err(StapleError::Future("2026-11-01T00:00:00Z".into())));
    }

    #[test]
    fn what_clients_would_stumble_over_is_refused() {
        let read = |serial: &[u8], status: &[u8], until| {
            Staple::read(&response(serial, status, FROM, until), &[0, 0x85]).unwrap_err()
        };
        let until = Some(UNTIL);
        assert!(Staple::read(&response(&[0x85], GOOD, FROM, until), &[0, 0x85]).is_ok());
        assert_eq!(read(&[6], GOOD, until), StapleError::OtherCertificate);
        let revoked = der(0xa1, &der(GENERALIZED_TIME, FROM.as_bytes()));
        assert_eq!(read(&[0x85], &revoked, until), StapleError::NotGood("revoked"));
        assert_eq!(read(&[0x85], &[0x82, 0], until), StapleError::NotGood("unknown to it"));
        assert_eq!(read(&[0x85], GOOD, None), StapleError::Endless);
        assert_eq!(read(&[0x85], GOOD, Some("20261308000000Z")), StapleError::Malformed);
        // tryLater (RFC 6960, section 2.3).
        let later = der(SEQUENCE, &der(ENUMERATED, &[3]));
        assert_eq!(Staple::read(&later, &[5]), Err(StapleError::Unsuccessful(3)));
        assert_eq!(Staple::read(b"<html>", &[5]), Err(StapleError::Malformed));
        assert_eq!(Staple::read(&[0x30; RESPONSE_BYTES_MAX + 1], &[5]), Err(StapleError::TooLong));
    }

    /// By `openssl ocsp` 3.0.19, about number 0x85a1.
    const OF_OPENSSL: &str = "\
        3081fd0a0100a081f73081f406092b06010505073001010481e63081e330818aa10f300d310b300906035504\
        030c026361180f32303236313132333231353433365a30663064303c300906052b0e03021a0500041411048c\
        d20cb3592307d019fd0889562b62d364920414982258d0dfb939ae9ca36413623b38824819a56d02030085a1\
        8000180f32303236313132333231353433365aa011180f32303236313133303231353433365a300a06082a86\
        48ce3d040302034800304502207caab24405d8544adb7c85e15ed6cec775ee522f693838a1fe22847a9c4145\
        4d022100b06a16559e172e75d28ca07a5aef9f3192e9e319195c02049ca7f51cf9d0670b";

    #[test]
    fn what_another_responder_writes_is_read() {
        let digits = OF_OPENSSL.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let der: Vec<u8> = digits.map(byte).collect();
        let staple = Staple::read(&der, &[0, 0x85, 0xa1]).unwrap();
        assert_eq!(date(staple.this_update_secs), "2026-11-23T21:54:36Z");
        assert_eq!(date(staple.next_update_secs), "2026-11-30T21:54:36Z");
        assert_eq!(staple.der, der);
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_makes_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            change in any::<u8>(),
        ) {
            let _ = Staple::read(&bytes, &[5]);
            let mut damaged = response(&[5], GOOD, FROM, Some(UNTIL));
            let at = at.index(damaged.len());
            damaged[at] ^= change;
            let _ = Staple::read(&damaged, &[5]);
            let _ = Staple::read(&damaged[..at], &[5]);
        }
    }
}
