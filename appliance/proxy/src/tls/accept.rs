//! Handshakes with clients: the section first, then its certificate.

use std::io;
use std::sync::Arc;

use rustls::Error as TlsError;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use super::hello::{Hello, HelloError, read_hello};
use super::metrics::TlsMetrics;
use super::sections::{Sections, Termination};
use super::streams::StreamClient;
use crate::metrics::Refusal;
use crate::upstream::TargetSlot;

/// A fatal alert `unrecognized_name` (RFC 8446, section 6.2) as a plaintext record:
/// type 21, version 3.3, length 2, level 2, description 112.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A client that has been greeted.
pub(crate) enum Greeted {
    /// It is going to send HTTP requests.
    Requests {
        /// The decrypted connection.
        stream: Box<TlsStream<TcpStream>>,
        /// The server name that it asked for.
        server_name: Option<Arc<str>>,
    },
    /// Its bytes are passed on.
    Stream {
        /// Where they come from.
        client: StreamClient,
        /// Where they go.
        target: Arc<TargetSlot>,
    },
}

/// Reads the first message of the client with the hash `flow`, chooses the section and shakes hands. rustls would answer a name that
/// nobody serves with `access_denied`; RFC 6066, section 3, has `unrecognized_name` for it.
pub(crate) async fn greet(
    mut stream: TcpStream,
    sections: &Sections,
    flow: u64,
    metrics: &TlsMetrics,
) -> Result<Greeted, Refusal> {
    let hello = read_hello(&mut stream).await.map_err(|error| {
        tracing::debug!(%error, "no ClientHello");
        match error {
            HelloError::Io(_) => Refusal::TlsFailed,
            HelloError::TooLarge | HelloError::Malformed(_) => Refusal::TlsHello,
        }
    })?;
    let Some(section) = sections.find(hello.server_name.as_deref()) else {
        // Where all that is served are streams it is not for us to speak TLS to this client.
        return match sections.http() {
            true => refuse(stream, Refusal::UnrecognizedName).await,
            false => Err(Refusal::UnrecognizedName),
        };
    };
    let server_name = hello.server_name.clone();
    match (&section.streams, &section.termination) {
        (None, None) => refuse(stream, Refusal::UnrecognizedName).await,
        (None, Some(termination)) => {
            let stream = shake_hands(stream, hello, termination, metrics).await?;
            Ok(Greeted::Requests { stream, server_name })
        }
        // Whether there is anywhere to go is known first: a client whose connection could only be
        // closed is better off without a handshake.
        (Some(routes), termination) => {
            let target = routes.find(server_name.as_deref(), flow).ok_or(Refusal::NoBackend)?;
            let client = match termination {
                None => StreamClient::Passthrough { stream, hello: hello.bytes },
                Some(termination) => StreamClient::Terminated(
                    shake_hands(stream, hello, termination, metrics).await?,
                ),
            };
            Ok(Greeted::Stream { client, target })
        }
    }
}

async fn shake_hands(
    stream: TcpStream,
    hello: Hello,
    termination: &Termination,
    metrics: &TlsMetrics,
) -> Result<Box<TlsStream<TcpStream>>, Refusal> {
    let Hello { accepted, server_name, .. } = hello;
    if !termination.resolver.serves(server_name.as_deref()) {
        let refusal = match termination.resolver.is_empty() {
            true => Refusal::NoCertificate,
            false => Refusal::UnrecognizedName,
        };
        return refuse(stream, refusal).await;
    }
    let start = StartHandshake::from_parts(accepted, stream);
    let stream = start.into_stream(termination.config.clone()).await.map_err(|error| {
        tracing::debug!(%error, "no TLS session");
        refusal_of(&error)
    })?;
    metrics.handshake(stream.get_ref().1);
    Ok(Box::new(stream))
}

async fn refuse<T>(mut stream: TcpStream, refusal: Refusal) -> Result<T, Refusal> {
    // Nothing is owed to this client beyond the attempt to tell it.
    let _ = stream.write_all(&UNRECOGNIZED_NAME).await;
    let _ = stream.shutdown().await;
    Err(refusal)
}

fn refusal_of(error: &io::Error) -> Refusal {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<TlsError>());
    match error {
        Some(TlsError::NoCertificatesPresented | TlsError::InvalidCertificate(_)) => {
            Refusal::ClientCertificate
        }
        _ => Refusal::TlsFailed,
    }
}
