//! Transaction signatures over whole exchanges (RFC 8945), with errors that say what is wrong.
//!
//! An answer to a signed request is believed only when its own signature holds. Transfers may
//! leave up to 99 messages between two signatures unsigned (section 5.3.1); they are kept until
//! the next signature covers them.

use hickory_proto::op::Message;
use hickory_proto::rr::TSigner;
use hickory_proto::rr::rdata::tsig::{
    TsigAlgorithm as WireAlgorithm, TsigError, signed_bitmessage_to_buf,
};

use super::error::{ExchangeError, KeyFault};
use crate::settings::{Tsig, TsigAlgorithm};
use crate::wire;

/// How far clocks may differ, in seconds (RFC 8945 section 10 recommends 300).
const FUDGE_SECS: u16 = 300;

/// Messages between two signatures (RFC 8945 section 5.3.1).
const UNSIGNED_MESSAGES_MAX: usize = 99;

/// Octets of a message's header (RFC 1035 section 4.1.1).
const HEADER_OCTETS: usize = 12;

/// Signs requests with one key.
#[derive(Clone)]
pub(crate) struct Signer {
    signer: TSigner,
    label: String,
}

impl Signer {
    pub(crate) fn new(tsig: &Tsig) -> Result<Self, ExchangeError> {
        let algorithm = match tsig.algorithm {
            TsigAlgorithm::HmacSha256 => WireAlgorithm::HmacSha256,
            TsigAlgorithm::HmacSha512 => WireAlgorithm::HmacSha512,
        };
        let name = wire::to_wire(tsig.key_name.as_str())?;
        let signer = TSigner::new(tsig.secret.clone(), algorithm, name, FUDGE_SECS)
            .map_err(|error| ExchangeError::Malformed(error.to_string()))?;
        Ok(Self { signer, label: format!("{} ({})", tsig.key_name, tsig.algorithm) })
    }

    /// Signs a request. What comes back checks the answer.
    pub(crate) fn sign(
        &self,
        message: &mut Message,
        now_secs: u64,
    ) -> Result<Verifier, ExchangeError> {
        message.finalize(&self.signer, now_secs)?;
        let mac = message.signature().map(|record| record.data.mac.clone()).unwrap_or_default();
        Ok(Verifier {
            signer: self.signer.clone(),
            label: self.label.clone(),
            mac,
            first: true,
            unsigned: Vec::new(),
            unsigned_messages: 0,
        })
    }
}

/// Checks the answer to one signed request, message by message.
pub(crate) struct Verifier {
    signer: TSigner,
    label: String,
    mac: Vec<u8>,
    first: bool,
    unsigned: Vec<u8>,
    unsigned_messages: usize,
}

impl Verifier {
    /// Checks one message. `last` when no further one can follow.
    pub(crate) fn check(
        &mut self,
        bytes: &[u8],
        message: &Message,
        now_secs: u64,
        last: bool,
    ) -> Result<(), ExchangeError> {
        let fault = |fault| ExchangeError::Key { key: self.label.clone(), fault };
        let Some(record) = message.signature() else {
            return self.keep_unsigned(bytes, last);
        };
        let tsig = &record.data;
        match tsig.error {
            None => {}
            Some(TsigError::BadKey) => return Err(fault(KeyFault::Unknown)),
            Some(TsigError::BadSig) => return Err(fault(KeyFault::OtherSecret)),
            Some(TsigError::BadTime) => {
                let theirs = read_time(&tsig.other).unwrap_or(tsig.time);
                return Err(fault(KeyFault::Clock { secs: theirs.abs_diff(now_secs) }));
            }
            Some(error) => return Err(fault(KeyFault::Other(u16::from(error)))),
        }
        if &record.name != self.signer.signer_name() || &tsig.algorithm != self.signer.algorithm() {
            return Err(fault(KeyFault::OtherKey));
        }
        let (mut signed, _) = signed_bitmessage_to_buf(bytes, Some(&self.mac), self.first)?;
        let front = size_of::<u16>() + self.mac.len();
        signed.splice(front..front, self.unsigned.drain(..));
        self.signer.verify(&signed, &tsig.mac).map_err(|_| fault(KeyFault::Forged))?;
        let apart = tsig.time.abs_diff(now_secs);
        if apart > u64::from(FUDGE_SECS) {
            return Err(fault(KeyFault::Clock { secs: apart }));
        }
        self.mac.clone_from(&tsig.mac);
        self.first = false;
        self.unsigned_messages = 0;
        Ok(())
    }

    fn keep_unsigned(&mut self, bytes: &[u8], last: bool) -> Result<(), ExchangeError> {
        self.unsigned_messages += 1;
        if last || self.first || self.unsigned_messages > UNSIGNED_MESSAGES_MAX {
            let fault = KeyFault::Unsigned;
            return Err(ExchangeError::Key { key: self.label.clone(), fault });
        }
        self.unsigned.extend_from_slice(bytes);
        Ok(())
    }
}

fn read_time(octets: &[u8]) -> Option<u64> {
    let octets: [u8; 6] = octets.try_into().ok()?;
    Some(octets.iter().fold(0, |time, octet| time << 8 | u64::from(*octet)))
}

/// Decodes a message whose record counts can be added without overflow; the reader of
/// signatures adds answers and authorities as 16-bit numbers.
pub(crate) fn decode(bytes: &[u8]) -> Result<Message, ExchangeError> {
    let count = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let counts_fit = bytes.len() >= HEADER_OCTETS
        && count(6).zip(count(8)).is_some_and(|(a, b)| a.checked_add(b).is_some());
    if !counts_fit {
        return Err(ExchangeError::Malformed("impossible record counts".to_owned()));
    }
    Message::from_vec(bytes).map_err(|error| ExchangeError::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::RecordType;
    use hickory_proto::rr::rdata::TSIG;
    use hickory_proto::rr::rdata::tsig::make_tsig_record;

    use super::*;
    use crate::name::RecordName;

    fn signer(secret: &[u8]) -> Signer {
        Signer::new(&Tsig {
            key_name: RecordName::parse("edge").unwrap(),
            algorithm: TsigAlgorithm::HmacSha256,
            secret: secret.to_vec(),
        })
        .unwrap()
    }

    /// An answer signed as a server would sign it: the request's code goes before the message.
    fn answer(server: &Signer, mac: &[u8], now_secs: u64) -> Vec<u8> {
        let message = Message::new(7, MessageType::Response, OpCode::Query);
        let plain = message.to_vec().unwrap();
        let context = hickory_proto::rr::TSigResponseContext::new(
            7,
            now_secs,
            server.signer.clone(),
            mac.to_vec(),
            None,
        );
        let mut signed = message;
        signed.set_signature(context.sign(&plain).unwrap());
        signed.to_vec().unwrap()
    }

    fn ask(secret: &[u8]) -> Verifier {
        let mut request = wire::query(7, "example.com", RecordType::AXFR).unwrap();
        signer(secret).sign(&mut request, 1000).unwrap()
    }

    #[test]
    fn an_answer_signed_with_the_same_secret_is_believed() {
        let mut verifier = ask(b"secret");
        let bytes = answer(&signer(b"secret"), &verifier.mac, 1001);
        verifier.check(&bytes, &decode(&bytes).unwrap(), 1001, true).unwrap();
    }

    #[test]
    fn forged_late_and_unsigned_answers_are_told_apart() {
        let check = |server: &[u8], at: u64, strip: bool| {
            let mut verifier = ask(b"secret");
            let bytes = answer(&signer(server), &verifier.mac, at);
            let mut message = decode(&bytes).unwrap();
            if strip {
                message.take_signature();
            }
            match verifier.check(&bytes, &message, 1000, true) {
                Err(ExchangeError::Key { fault, .. }) => fault,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(check(b"another", 1000, false), KeyFault::Forged);
        assert_eq!(check(b"secret", 1301, false), KeyFault::Clock { secs: 301 });
        assert_eq!(check(b"secret", 1000, true), KeyFault::Unsigned);
    }

    /// A later message of a transfer: its signature covers the messages since the last one, and
    /// of the signature's own fields only the times (RFC 8945 section 5.3.1).
    fn later_answer(server: &Signer, mac: &[u8], unsigned: &[u8], now_secs: u64) -> Vec<u8> {
        let message = Message::new(7, MessageType::Response, OpCode::Query);
        let mut covered = u16::try_from(mac.len()).unwrap().to_be_bytes().to_vec();
        covered.extend_from_slice(mac);
        covered.extend_from_slice(unsigned);
        covered.extend_from_slice(&message.to_vec().unwrap());
        covered.extend_from_slice(&now_secs.to_be_bytes()[2..]);
        covered.extend_from_slice(&FUDGE_SECS.to_be_bytes());
        let code = server.signer.sign(&covered).unwrap();
        let algorithm = server.signer.algorithm().clone();
        let tsig = TSIG::new(algorithm, now_secs, FUDGE_SECS, code, 7, None, Vec::new());
        let mut signed = message;
        let name = server.signer.signer_name().clone();
        signed.set_signature(Box::new(make_tsig_record(name, tsig)));
        signed.to_vec().unwrap()
    }

    #[test]
    fn unsigned_messages_of_a_transfer_are_covered_by_the_next_signature() {
        let server = signer(b"secret");
        let plain = Message::new(7, MessageType::Response, OpCode::Query).to_vec().unwrap();
        let transfer = |carried: &[u8]| {
            let mut verifier = ask(b"secret");
            let first = answer(&server, &verifier.mac, 1000);
            verifier.check(&first, &decode(&first).unwrap(), 1000, false).unwrap();
            for _ in 0..2 {
                verifier.check(carried, &decode(carried).unwrap(), 1000, false).unwrap();
            }
            let last = later_answer(&server, &verifier.mac, &plain.repeat(2), 1001);
            verifier.check(&last, &decode(&last).unwrap(), 1001, true)
        };
        transfer(&plain).unwrap();
        let mut changed = plain.clone();
        changed[0] ^= 1;
        assert!(matches!(
            transfer(&changed),
            Err(ExchangeError::Key { fault: KeyFault::Forged, .. })
        ));
    }

    #[test]
    fn a_transfer_cannot_go_on_unsigned_for_ever_nor_begin_or_end_so() {
        let plain = Message::new(7, MessageType::Response, OpCode::Query).to_vec().unwrap();
        let message = decode(&plain).unwrap();
        assert!(ask(b"secret").check(&plain, &message, 1000, false).is_err(), "the first");
        let mut verifier = ask(b"secret");
        let first = answer(&signer(b"secret"), &verifier.mac, 1000);
        verifier.check(&first, &decode(&first).unwrap(), 1000, false).unwrap();
        for _ in 0..UNSIGNED_MESSAGES_MAX {
            verifier.check(&plain, &message, 1000, false).unwrap();
        }
        assert!(verifier.check(&plain, &message, 1000, false).is_err(), "one too many");
    }

    #[test]
    fn counts_that_would_overflow_are_refused() {
        let mut bytes = vec![0; HEADER_OCTETS];
        bytes[6..10].copy_from_slice(&[0xff, 0xff, 0, 1]);
        assert!(matches!(decode(&bytes), Err(ExchangeError::Malformed(_))));
        assert!(decode(&[]).is_err());
    }
}
