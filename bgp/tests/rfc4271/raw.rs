//! Messages written octet by octet, apart from the encoder under test.

use haflinger_bgp::wire::{Context, Message, Notification, decode_message};

/// A session between different ASes with AS numbers of four octets.
pub(crate) const EXTERNAL: Context = Context { four_octet_as: true, internal: false };

/// A message with a good header.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xff; 16];
    octets.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    octets.push(kind);
    octets.extend(body);
    octets
}

/// The body of an OPEN of AS 64513, hold time 90, identifier 192.0.2.2, with these parameters.
pub(crate) fn open_body(parameters: &[u8]) -> Vec<u8> {
    let mut body = vec![4, 0xfc, 0x01, 0, 90, 192, 0, 2, 2];
    body.push(u8::try_from(parameters.len()).unwrap());
    body.extend(parameters);
    body
}

/// An UPDATE of three fields.
pub(crate) fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for field in [withdrawn, attributes] {
        body.extend(u16::try_from(field.len()).unwrap().to_be_bytes());
        body.extend(field);
    }
    body.extend(nlri);
    message(2, &body)
}

/// Decodes on an external session.
pub(crate) fn decode(octets: &[u8]) -> Result<Message, Notification> {
    decode_message(octets, &EXTERNAL)
}

/// Code and subcode of the answer to octets that must be refused.
pub(crate) fn refusal(octets: &[u8]) -> (u8, u8) {
    let answer = decode(octets).unwrap_err();
    (answer.code, answer.subcode)
}
