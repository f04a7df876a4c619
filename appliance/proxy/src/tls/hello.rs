//! The first message of a client (RFC 8446, section 4.1.2), read before anything is decided.
//!
//! rustls parses it; here it is only fed, bounded, and kept as it came, for a backend that is to
//! see the same bytes.

use std::io;
use std::sync::Arc;

use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes that one read may take. rustls has room for a whole record (16 KiB) and another 2 KiB, so
/// that it takes each piece at once, and nothing behind a first message is left over here.
const PIECE_BYTES: usize = 2_048;

/// Most bytes that a first message may take with its framing. A message is 64 KiB at most (the
/// largest known ones, with post-quantum keys and many extensions, have some 4 KiB); records
/// split into single bytes cost six times their content.
pub(crate) const HELLO_BYTES_MAX: usize = 128 * 1024;

/// The first message of a client.
pub(crate) struct Hello {
    /// As rustls goes on with it.
    pub(crate) accepted: Accepted,
    /// As it came on the wire, with whatever came behind it.
    pub(crate) bytes: Vec<u8>,
    /// The server name (RFC 6066, section 3) in lower case.
    pub(crate) server_name: Option<Arc<str>>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    /// The client went away, or never spoke.
    #[error("the connection ended before a whole ClientHello")]
    Io(#[from] io::Error),
    /// More bytes than any honest one.
    #[error("the ClientHello, or a piece of it, is too long")]
    TooLarge,
    /// Something else than a ClientHello. The client has been told.
    #[error("the client does not speak TLS as it should")]
    Malformed(#[source] rustls::Error),
}

/// Reads it.
pub(crate) async fn read_hello<S>(stream: &mut S) -> Result<Hello, HelloError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = Acceptor::default();
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        bytes.reserve(PIECE_BYTES);
        if (&mut *stream).take(PIECE_BYTES as u64).read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if bytes.len() > HELLO_BYTES_MAX {
            return Err(HelloError::TooLarge);
        }
        let mut piece = &bytes[before..];
        while !piece.is_empty() {
            // rustls bounds the message and its pieces, and says nothing else here.
            acceptor.read_tls(&mut piece).map_err(|_| HelloError::TooLarge)?;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let server_name = accepted.client_hello().server_name().map(canonical);
                return Ok(Hello { accepted, bytes, server_name });
            }
            Err((error, mut alert)) => {
                let mut told = Vec::new();
                // Writing into memory cannot fail, and nothing is owed to this client beyond the
                // attempt to tell it.
                let _ = alert.write_all(&mut told);
                let _ = stream.write_all(&told).await;
                let _ = stream.shutdown().await;
                return Err(HelloError::Malformed(error));
            }
        }
    }
}

fn canonical(name: &str) -> Arc<str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.to_ascii_lowercase().into()
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::io::duplex;

    use super::*;

    /// What a client sends first for a name.
    fn first_bytes(name: &str, protocols: usize) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = (0..protocols).map(|n| format!("{n:0>200}").into_bytes()).collect();
        let name = name.to_owned().try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    async fn read(pieces: &[&[u8]]) -> (Result<Hello, HelloError>, Vec<u8>) {
        let (mut client, mut server) = duplex(1024 * 1024);
        for piece in pieces {
            client.write_all(piece).await.unwrap();
        }
        client.shutdown().await.unwrap();
        let hello = read_hello(&mut server).await;
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        (hello, answer)
    }

    #[tokio::test]
    async fn the_name_is_read_in_lower_case_and_the_bytes_are_kept() {
        let bytes = first_bytes("Shop.EXAMPLE", 0);
        let (hello, _) = read(&[&bytes]).await;
        let hello = hello.unwrap();
        assert_eq!(hello.server_name.as_deref(), Some("shop.example"));
        assert_eq!(hello.bytes, bytes);
        let (hello, _) = read(&[&first_bytes("192.0.2.1", 0)]).await;
        assert_eq!(hello.unwrap().server_name, None, "an address is no server name");
    }

    #[tokio::test]
    async fn a_large_one_that_comes_in_many_records_is_put_together() {
        let bytes = first_bytes("shop.example", 150);
        assert!(bytes.len() > 30_000);
        // The messages of all records, in records of 100 bytes.
        let mut content = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
            content.extend_from_slice(&rest[5..5 + length]);
            rest = &rest[5 + length..];
        }
        let records: Vec<Vec<u8>> = content
            .chunks(100)
            .map(|part| [&[22, 3, 1, 0, u8::try_from(part.len()).unwrap()], part].concat())
            .collect();
        let pieces: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        let hello = read(&pieces).await.0.unwrap();
        assert_eq!(hello.server_name.as_deref(), Some("shop.example"));
        assert_eq!(hello.bytes, records.concat());
    }

    #[tokio::test]
    async fn what_is_no_client_hello_is_told_so_and_refused() {
        let (hello, answer) = read(&[b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"]).await;
        assert!(matches!(hello, Err(HelloError::Malformed(_))));
        assert_eq!(answer[0], 21, "an alert");
        let (hello, _) = read(&[&first_bytes("shop.example", 0)[..50]]).await;
        assert!(matches!(hello, Err(HelloError::Io(_))));
    }

    #[tokio::test]
    async fn endless_records_end() {
        // A ClientHello of 60,000 bytes in records of one byte each.
        let mut bytes = vec![22, 3, 1, 0, 4, 1, 0, 0xea, 0x60];
        bytes.extend([22, 3, 1, 0, 1, 3].repeat(50_000));
        let (hello, _) = read(&[&bytes]).await;
        assert!(matches!(hello, Err(HelloError::TooLarge | HelloError::Malformed(_))));
    }
}
