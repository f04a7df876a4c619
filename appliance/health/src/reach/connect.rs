//! One probe: a TCP connection that is dropped again.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

/// A way within a site answers in milliseconds. The kernel repeats a SYN after a second: each probe
/// is one packet.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What one probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Something answered.
    Answer,
    /// Nothing did, or the network said that there is no way.
    Silence,
    /// This host could not ask.
    Nothing,
}

/// Asks an address.
pub(crate) async fn probe(address: SocketAddr) -> Found {
    match timeout(ANSWER_MAX, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // Closed by a reset: a thousand probes a second must leave no TIME_WAIT.
            let _ = stream.set_zero_linger();
            Found::Answer
        }
        Ok(Err(error)) => judge(&error),
        Err(_) => Found::Silence,
    }
}

fn judge(error: &io::Error) -> Found {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => Found::Answer,
        // With EACCES answers what is prohibited by ICMPv6; EPERM is a filter of this host, which
        // XDP does not pass.
        Some(
            libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::EHOSTDOWN
            | libc::ENOPROTOOPT
            | libc::EACCES
            | libc::ETIMEDOUT,
        ) => Found::Silence,
        _ => Found::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_an_answer_and_what_this_host_lacks_is_nothing() {
        let found = |errno| judge(&io::Error::from_raw_os_error(errno));
        assert_eq!(found(libc::ECONNREFUSED), Found::Answer);
        for errno in [libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EACCES] {
            assert_eq!(found(errno), Found::Silence);
        }
        for errno in [libc::EMFILE, libc::EADDRNOTAVAIL, libc::ENOBUFS, libc::EPERM] {
            assert_eq!(found(errno), Found::Nothing);
        }
        assert_eq!(judge(&io::Error::other("odd")), Found::Nothing);
    }
}
