//! Why an exchange with a server failed, in words that an operator can act on.

use hickory_net::NetError;
use hickory_proto::ProtoError;
use hickory_proto::op::ResponseCode;
use thiserror::Error;

/// Why an exchange failed. The server is named by whoever reports it.
#[derive(Debug, Error)]
pub(crate) enum ExchangeError {
    #[error("cannot connect")]
    Connect(#[source] NetError),
    #[error("no answer within {0} seconds")]
    Timeout(u64),
    #[error("the server closed the connection")]
    Closed,
    #[error("the connection failed")]
    Io(#[source] NetError),
    #[error("the answer cannot be understood: {0}")]
    Malformed(String),
    #[error("key {key}: {fault}")]
    Key { key: String, fault: KeyFault },
    #[error("{}", refusal(*.0))]
    Refused(ResponseCode),
    #[error("the zone has more than {0} records")]
    ZoneTooLarge(usize),
    #[error("a message cannot be written")]
    Encode(#[from] ProtoError),
}

impl ExchangeError {
    /// The error with its causes, on one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }
}

/// What is wrong with a key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum KeyFault {
    /// TSIG error BADKEY.
    #[error("the server does not know it under this name and algorithm")]
    Unknown,
    /// TSIG error BADSIG.
    #[error("the server has another secret for it")]
    OtherSecret,
    /// TSIG error BADTIME, or an answer out of time.
    #[error("the clocks of this host and the server are {secs} seconds apart")]
    Clock { secs: u64 },
    #[error("the server answered with another key")]
    OtherKey,
    #[error("the signature of the answer does not hold: another secret, or a forged answer")]
    Forged,
    #[error("the answer is not signed")]
    Unsigned,
    #[error("the server reports TSIG error {0}")]
    Other(u16),
}

fn refusal(code: ResponseCode) -> String {
    let remedy = match code {
        ResponseCode::Refused => "the server refuses: allow this host or its key in the zone",
        ResponseCode::NotAuth => {
            "the server is not authoritative for the zone, or the key may \
                                  not be used for it"
        }
        ResponseCode::NotZone => "a name lies outside the zone as the server knows it",
        ResponseCode::NotImp => "the server does not take updates",
        ResponseCode::ServFail => "the server failed",
        ResponseCode::YXDomain | ResponseCode::YXRRSet => {
            "something foreign has appeared since the zone was read"
        }
        ResponseCode::NXDomain | ResponseCode::NXRRSet => {
            "our ownership record has changed since the zone was read"
        }
        _ => "the server answers with an error",
    };
    format!("{remedy} ({})", name_of(code))
}

/// The code's name in registries and logs (IANA DNS RCODEs).
fn name_of(code: ResponseCode) -> String {
    match code {
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::NotAuth => "NOTAUTH".to_owned(),
        ResponseCode::NotZone => "NOTZONE".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::YXDomain => "YXDOMAIN".to_owned(),
        ResponseCode::YXRRSet => "YXRRSET".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NXRRSet => "NXRRSET".to_owned(),
        other => format!("RCODE {}", u16::from(other)),
    }
}

/// Whether the code says that a prerequisite did not hold (RFC 2136 section 3.2).
pub(crate) fn is_stale(code: ResponseCode) -> bool {
    matches!(
        code,
        ResponseCode::YXDomain
            | ResponseCode::YXRRSet
            | ResponseCode::NXDomain
            | ResponseCode::NXRRSet
    )
}
