//! What client and server say to each other: a request of fixed size names the length of its
//! answer.

/// Bytes of a request.
pub(super) const REQUEST: usize = 64;

/// Read or written at once.
pub(super) const CHUNK: usize = 256 * 1024;

/// A request for so many bytes.
pub(super) fn request(answer: u64) -> [u8; REQUEST] {
    let mut request = [b'.'; REQUEST];
    request[..8].copy_from_slice(&answer.to_be_bytes());
    request
}

/// How many bytes a request asks for.
pub(super) fn asked(request: &[u8; REQUEST]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *request;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_it_was_made_to_ask() {
        for length in [0, 64, 1 << 40] {
            assert_eq!(asked(&request(length)), length);
        }
    }
}
