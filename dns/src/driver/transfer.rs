//! The pure half of a zone transfer (RFC 5936): messages in, a picture of the zone out.
//!
//! Never looks at a clock or a socket; the connection hands it one message after the other.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use thiserror::Error;

use super::error::ExchangeError;
use super::signing::{Signer, Verifier, decode};
use crate::name::RecordName;
use crate::record::Actual;
use crate::settings::Tsig;
use crate::wire;

/// Records of a zone that are read. Beyond it the picture would cost hundreds of megabytes;
/// the zone is then read name by name.
pub(crate) const TRANSFER_RECORDS_MAX: usize = 2_000_000;

/// What a transfer brought.
pub(crate) struct Transfer {
    pub(crate) actual: Actual,
    pub(crate) serial: u32,
}

/// Reads the messages of one transfer: from the first SOA record to the second.
pub(crate) struct TransferReader {
    request: Message,
    verifier: Option<Verifier>,
    transfer: Transfer,
    records: usize,
    soas: usize,
}

impl TransferReader {
    /// For the answer to `request`. Where that was signed, `verifier` checks the answer.
    pub(crate) fn new(request: Message, verifier: Option<Verifier>) -> Self {
        let transfer = Transfer { actual: Actual::default(), serial: 0 };
        Self { request, verifier, transfer, records: 0, soas: 0 }
    }

    /// Takes one message. Returns whether it was the last.
    pub(crate) fn take(&mut self, bytes: &[u8], now_secs: u64) -> Result<bool, ExchangeError> {
        let answer = decode(bytes)?;
        must_answer(&self.request, &answer)?;
        let refused = answer.metadata.response_code != ResponseCode::NoError;
        let soas_here = answer.answers.iter().filter(|r| r.record_type() == RecordType::SOA);
        self.soas += soas_here.count();
        let last = self.soas >= 2 || refused;
        match &mut self.verifier {
            // Believing it costs no more than reading name by name.
            Some(_) if refused && answer.signature().is_none() => {}
            Some(verifier) => verifier.check(bytes, &answer, now_secs, last)?,
            None => {}
        }
        if refused {
            return Err(ExchangeError::Refused(answer.metadata.response_code));
        }
        if answer.answers.is_empty() || self.soas == 0 {
            return Err(ExchangeError::Malformed("a transfer without SOA record".to_owned()));
        }
        self.records += answer.answers.len();
        if self.records > TRANSFER_RECORDS_MAX {
            return Err(ExchangeError::ZoneTooLarge(TRANSFER_RECORDS_MAX));
        }
        for record in &answer.answers {
            if let RData::SOA(soa) = &record.data {
                self.transfer.serial = soa.serial;
            }
            wire::note(record, &mut self.transfer.actual);
        }
        Ok(last)
    }

    /// What the messages said.
    pub(crate) fn into_transfer(self) -> Transfer {
        self.transfer
    }
}

/// Refuses an answer to another question.
pub(crate) fn must_answer(request: &Message, answer: &Message) -> Result<(), ExchangeError> {
    if answer.metadata.id != request.metadata.id
        || answer.metadata.op_code != request.metadata.op_code
    {
        return Err(ExchangeError::Malformed("an answer to another question".to_owned()));
    }
    Ok(())
}

/// Why messages are no transfer of a zone.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the zone cannot be read from the messages: {0}")]
pub struct TransferError(String);

impl From<ExchangeError> for TransferError {
    fn from(error: ExchangeError) -> Self {
        Self(error.chain())
    }
}

/// Reads a transfer of `zone` from its messages, exactly as the driver does and without I/O:
/// `id` is that of the request, which was signed with `key` at `now_secs` (seconds since 1970).
/// Messages behind the last one of the transfer are not looked at.
///
/// # Errors
/// A message that is malformed, refuses, answers another request or is wrongly signed; or a
/// transfer that is cut short.
pub fn read_transfer<'a>(
    zone: &RecordName,
    key: Option<&Tsig>,
    id: u16,
    messages: impl IntoIterator<Item = &'a [u8]>,
    now_secs: u64,
) -> Result<Actual, TransferError> {
    let written = wire::query(id, zone.as_str(), RecordType::AXFR);
    let mut request = written.map_err(ExchangeError::from)?;
    let signer = key.map(Signer::new).transpose()?;
    let verifier = signer.map(|signer| signer.sign(&mut request, now_secs)).transpose()?;
    let mut reader = TransferReader::new(request, verifier);
    for bytes in messages {
        if reader.take(bytes, now_secs)? {
            return Ok(reader.into_transfer().actual);
        }
    }
    Err(ExchangeError::Closed.into())
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, Record};

    use super::*;
    use crate::settings::TsigAlgorithm;

    fn soa() -> Record {
        let at = Name::from_ascii("example.com.").unwrap();
        let soa = SOA::new(at.clone(), at.clone(), 7, 60, 60, 60, 60);
        Record::from_rdata(at, 60, RData::SOA(soa))
    }

    fn address() -> Record {
        let at = Name::from_ascii("www.example.com.").unwrap();
        Record::from_rdata(at, 60, RData::A(A::new(192, 0, 2, 1)))
    }

    fn message(id: u16, records: impl IntoIterator<Item = Record>) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Response, OpCode::Query);
        for record in records {
            message.add_answer(record);
        }
        message.to_vec().unwrap()
    }

    fn read(messages: &[Vec<u8>], key: Option<&Tsig>) -> Result<Actual, TransferError> {
        let zone = RecordName::parse("example.com").unwrap();
        read_transfer(&zone, key, 7, messages.iter().map(Vec::as_slice), 1000)
    }

    #[test]
    fn a_transfer_goes_from_the_first_soa_to_the_second() {
        let messages = [message(7, [soa()]), message(7, [address(), soa()]), message(8, [])];
        let actual = read(&messages, None).unwrap();
        assert!(actual.at("www.example.com").unwrap().a.is_some());
        assert_eq!(actual.len(), 1);
    }

    #[test]
    fn a_transfer_that_is_cut_unsigned_or_of_another_request_is_refused() {
        let cut = [message(7, [soa(), address()])];
        let foreign = [message(8, [soa(), address(), soa()])];
        let headless = [message(7, [address(), soa(), soa()]), message(7, [address()])];
        assert!(read(&cut, None).unwrap_err().to_string().contains("closed"));
        assert!(read(&foreign, None).unwrap_err().to_string().contains("another question"));
        assert!(read(&headless[1..], None).unwrap_err().to_string().contains("without SOA"));
        let key = Tsig {
            key_name: RecordName::parse("edge").unwrap(),
            algorithm: TsigAlgorithm::HmacSha256,
            secret: b"secret".to_vec(),
        };
        let error = read(&headless, Some(&key)).unwrap_err();
        assert!(error.to_string().contains("is not signed"), "{error}");
    }
}
