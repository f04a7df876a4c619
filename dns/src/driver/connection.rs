//! One TCP connection to one server: send, receive, check the signature. Every wait is bounded.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_net::tcp::TcpClientStream;
use hickory_net::{BufDnsStreamHandle, DnsStreamHandle};
use hickory_proto::op::{Message, OpCode, ResponseCode, SerialMessage};
use hickory_proto::rr::{RData, RecordType};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::ExchangeError;
use super::signing::{Signer, Verifier, decode};
use super::transfer::{Transfer, TransferReader, must_answer};
use crate::name::RecordName;
use crate::wire;

/// Time in which a server must accept a connection. Servers are near the edge; a longer wait
/// only delays the next attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time in which each message of an answer must come. Servers write their journal first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time in which a whole zone must come: two million records at a slow server's pace.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(120);

/// Queries under way at once on one connection: as many as the transport queues.
const PIPELINE_MAX: usize = 32;

/// A connection to a server.
pub(crate) struct Connection {
    stream: TcpClientStream<AsyncIoTokioAsStd<TcpStream>>,
    sender: BufDnsStreamHandle,
    server: SocketAddr,
    signer: Option<Signer>,
}

impl Connection {
    pub(crate) async fn open(
        server: SocketAddr,
        signer: Option<Signer>,
    ) -> Result<Self, ExchangeError> {
        let (stream, sender) =
            TcpClientStream::new(server, None, Some(CONNECT_TIMEOUT), TokioRuntimeProvider::new());
        let stream = stream.await.map_err(ExchangeError::Connect)?;
        Ok(Self { stream, sender, server, signer })
    }

    /// Sends an update and waits for the server's word. Signed where there is a key.
    pub(crate) async fn update(&mut self, mut message: Message) -> Result<(), ExchangeError> {
        let verifier = self.send(&mut message, true)?;
        let answer = self.receive(&message, verifier).await?;
        match answer.metadata.response_code {
            ResponseCode::NoError => Ok(()),
            code => Err(ExchangeError::Refused(code)),
        }
    }

    /// The zone's serial, from its SOA record.
    pub(crate) async fn serial(&mut self, zone: &RecordName) -> Result<u32, ExchangeError> {
        let mut message = wire::query(rand::random(), zone.as_str(), RecordType::SOA)?;
        self.send(&mut message, false)?;
        let answer = self.receive(&message, None).await?;
        if answer.metadata.response_code != ResponseCode::NoError {
            return Err(ExchangeError::Refused(answer.metadata.response_code));
        }
        let serial = answer.answers.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(soa.serial),
            _ => None,
        });
        // An answer without SOA is a referral or comes from a cache: not this zone's server.
        serial.ok_or(ExchangeError::Refused(ResponseCode::NotAuth))
    }

    /// Transfers the zone (RFC 5936): from the first SOA record to the second.
    pub(crate) async fn transfer(&mut self, zone: &RecordName) -> Result<Transfer, ExchangeError> {
        let late = |_| ExchangeError::Timeout(TRANSFER_TIMEOUT.as_secs());
        timeout(TRANSFER_TIMEOUT, self.transfer_messages(zone)).await.map_err(late)?
    }

    async fn transfer_messages(&mut self, zone: &RecordName) -> Result<Transfer, ExchangeError> {
        let mut request = wire::query(rand::random(), zone.as_str(), RecordType::AXFR)?;
        let verifier = self.send(&mut request, true)?;
        let mut reader = TransferReader::new(request, verifier);
        while !reader.take(&self.next_bytes().await?, now_secs())? {}
        Ok(reader.into_transfer())
    }

    /// Asks several plain queries at once; answers come in the order of the questions.
    pub(crate) async fn ask(
        &mut self,
        questions: &[(String, RecordType)],
    ) -> Result<Vec<Message>, ExchangeError> {
        let mut answers = Vec::with_capacity(questions.len());
        for chunk in questions.chunks(PIPELINE_MAX) {
            let first_id: u16 = rand::random();
            for (at, (name, kind)) in (0_u16..).zip(chunk) {
                let mut message = wire::query(first_id.wrapping_add(at), name, *kind)?;
                self.send(&mut message, false)?;
            }
            let mut slots: Vec<Option<Message>> = vec![None; chunk.len()];
            for _ in chunk {
                let answer = decode(&self.next_bytes().await?)?;
                let at = usize::from(answer.metadata.id.wrapping_sub(first_id));
                let slot = slots.get_mut(at).filter(|slot| slot.is_none());
                let slot = slot.ok_or_else(|| {
                    ExchangeError::Malformed("an answer that nobody asked for".to_owned())
                })?;
                match answer.metadata.response_code {
                    ResponseCode::NoError | ResponseCode::NXDomain => *slot = Some(answer),
                    code => return Err(ExchangeError::Refused(code)),
                }
            }
            answers.extend(slots.into_iter().flatten());
        }
        Ok(answers)
    }

    fn send(
        &mut self,
        message: &mut Message,
        signed: bool,
    ) -> Result<Option<Verifier>, ExchangeError> {
        let signer = self.signer.as_ref().filter(|_| signed);
        let verifier = signer.map(|signer| signer.sign(message, now_secs())).transpose()?;
        let bytes = SerialMessage::new(message.to_vec()?, self.server);
        self.sender.send(bytes).map_err(ExchangeError::Io)?;
        Ok(verifier)
    }

    async fn receive(
        &mut self,
        request: &Message,
        verifier: Option<Verifier>,
    ) -> Result<Message, ExchangeError> {
        let (bytes, answer) = self.next_answer(request).await?;
        match verifier {
            // A server that does not look at signatures refuses without one.
            Some(_) if answer.signature().is_none() && is_refusal(&answer) => {}
            Some(mut verifier) => verifier.check(&bytes, &answer, now_secs(), true)?,
            None => {}
        }
        Ok(answer)
    }

    async fn next_answer(
        &mut self,
        request: &Message,
    ) -> Result<(Vec<u8>, Message), ExchangeError> {
        let bytes = self.next_bytes().await?;
        let answer = decode(&bytes)?;
        must_answer(request, &answer)?;
        Ok((bytes, answer))
    }

    async fn next_bytes(&mut self) -> Result<Vec<u8>, ExchangeError> {
        let waited = timeout(ANSWER_TIMEOUT, self.stream.next()).await;
        let message = match waited {
            Err(_) => return Err(ExchangeError::Timeout(ANSWER_TIMEOUT.as_secs())),
            Ok(None) => return Err(ExchangeError::Closed),
            Ok(Some(message)) => message.map_err(ExchangeError::Io)?,
        };
        Ok(message.into_parts().0)
    }
}

/// Whether an unsigned answer may be taken at its word: it changes nothing.
fn is_refusal(answer: &Message) -> bool {
    answer.metadata.response_code != ResponseCode::NoError
        && answer.metadata.op_code == OpCode::Update
}

fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
