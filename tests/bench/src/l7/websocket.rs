//! As much of the WebSocket protocol (RFC 6455) as an echo of one size needs: written without a
//! library, so that what is measured is the proxy.

/// Bytes of a message, below 126: its length is one byte (section 5.2).
const LENGTH: u8 = 64;
const MESSAGE: usize = LENGTH as usize;

/// Bytes of a frame from a client: two of head, four of mask (section 5.2), the message.
pub(super) const FROM_CLIENT: usize = 6 + MESSAGE;

/// Bytes of a frame to a client: without a mask.
pub(super) const TO_CLIENT: usize = 2 + MESSAGE;

/// FIN and the operation "binary".
const BINARY: u8 = 0x82;

/// The bit that says that a mask follows, beside the length.
const MASKED: u8 = 0x80;

/// The key of the protocol's own example (section 1.3), and what answers it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(super) const AGREEMENT: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A client's request for an upgrade.
pub(super) fn request(host: &str, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// A message of a client: its number, repeated.
pub(super) fn frame(number: u64) -> [u8; FROM_CLIENT] {
    let mask = number.to_le_bytes();
    let mut frame = [0; FROM_CLIENT];
    frame[0] = BINARY;
    frame[1] = MASKED | LENGTH;
    frame[2..6].copy_from_slice(&mask[..4]);
    for (at, byte) in frame[6..].iter_mut().enumerate() {
        *byte = mask[at % 8] ^ mask[at % 4];
    }
    frame
}

/// What comes back for it.
pub(super) fn answer(frame: [u8; FROM_CLIENT]) -> [u8; TO_CLIENT] {
    let mut answer = [0; TO_CLIENT];
    answer[0] = BINARY;
    answer[1] = LENGTH;
    for (at, byte) in answer[2..].iter_mut().enumerate() {
        *byte = frame[6 + at] ^ frame[2 + at % 4];
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_without_its_mask() {
        let number = 0x0102_0304_0506_0708_u64;
        let answer = answer(frame(number));
        assert_eq!(answer[..2], [0x82, 64]);
        assert!(answer[2..].chunks(8).all(|chunk| chunk == number.to_le_bytes()));
    }
}
