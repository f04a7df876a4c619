//! Which version of HTTP a client speaks that does not say so in a TLS handshake.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::connection::Protocol;

/// Begin of the client's preface (RFC 9113, section 3.4): no request of HTTP/1 begins so, as no
/// method is called `PRI`.
const PREFACE: &[u8; 3] = b"PRI";

/// Pause before another look at a connection on which less than that has come.
const PAUSE: Duration = Duration::from_millis(10);

/// What becomes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    /// It is served.
    Speaks(Protocol),
    /// It said nothing in time.
    TimedOut,
    /// It said nothing before it was to end.
    Ended,
}

/// Looks at the first bytes of a connection, which stay there to be read.
pub(super) async fn look(stream: &TcpStream, until: Instant, end: &CancellationToken) -> First {
    let looking = async {
        let mut first = [0; PREFACE.len()];
        loop {
            match stream.peek(&mut first).await {
                // Whoever reads it next learns the same.
                Ok(0) | Err(_) => return Protocol::Http1,
                Ok(count) if first[..count] != PREFACE[..count] => return Protocol::Http1,
                Ok(count) if count == PREFACE.len() => return Protocol::Http2,
                Ok(_) => sleep(PAUSE).await,
            }
        }
    };
    tokio::select! {
        biased;
        looked = timeout_at(until, looking) => looked.map_or(First::TimedOut, First::Speaks),
        () = end.cancelled() => First::Ended,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn looked(pieces: &[&str]) -> First {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (served, _) = listener.accept().await.unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let end = CancellationToken::new();
        let say = async {
            for piece in pieces {
                client.write_all(piece.as_bytes()).await.unwrap();
                sleep(3 * PAUSE).await;
            }
        };
        tokio::join!(look(&served, until, &end), say).0
    }

    #[tokio::test]
    async fn the_preface_is_told_from_requests_also_in_pieces() {
        assert_eq!(looked(&["PRI * HTTP/2.0\r\n\r\n"]).await, First::Speaks(Protocol::Http2));
        assert_eq!(looked(&["P", "R", "I * HTTP"]).await, First::Speaks(Protocol::Http2));
        for request in [&["GET / HTTP/1.1\r\n"][..], &["P", "ROPFIND /"], &["PR", "O"]] {
            assert_eq!(looked(request).await, First::Speaks(Protocol::Http1), "{request:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_ends_in_time_or_when_it_is_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (served, _) = listener.accept().await.unwrap();
        let end = CancellationToken::new();
        assert_eq!(look(&served, Instant::now(), &end).await, First::TimedOut);
        end.cancel();
        let far = Instant::now() + Duration::from_secs(60);
        assert_eq!(look(&served, far, &end).await, First::Ended);
    }
}
