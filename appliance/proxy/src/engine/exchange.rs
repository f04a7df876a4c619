//! Requests of our own: copies, questions to authorizers, fetches of keys.

use bytes::{Bytes, BytesMut};
use http::header;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

/// What is kept of an answer's body.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep {
    /// It is read and thrown away.
    Nothing,
    /// All of it, unless it has more bytes; then the rest is not waited for.
    UpTo(usize),
}

/// Sends a request to the first of `peers` that can be connected to, and reads the answer. Without
/// any time limit but those of the peers. The body is `None` when it is not kept.
pub(super) async fn exchange(
    connector: &Connector,
    peers: &[HttpPeer],
    scheme: &str,
    mut request: RequestHeader,
    body: Bytes,
    keep: Keep,
) -> Result<(ResponseHeader, Option<Bytes>)> {
    let (peer, mut session) = connect(connector, peers).await?;
    frame(&mut request, scheme, &session, body.len())?;
    session.set_read_timeout(peer.options.read_timeout);
    session.set_write_timeout(peer.options.write_timeout);
    session.write_request_header(Box::new(request)).await?;
    match &session {
        HttpSession::H1(_) if body.is_empty() => {}
        HttpSession::H1(_) => session.write_request_body(body, true).await?,
        HttpSession::H2(_) | HttpSession::Custom(()) => {
            session.write_request_body(body, true).await?;
        }
    }
    if matches!(session, HttpSession::H1(_)) {
        session.finish_request_body().await?;
    }
    session.read_response_header().await?;
    while session.response_header().is_some_and(|header| header.status.is_informational()) {
        session.read_response_header().await?;
    }
    let header = session
        .response_header()
        .cloned()
        .ok_or_else(|| Error::explain(ErrorType::InvalidHTTPHeader, "an answer without header"))?;
    let mut kept = BytesMut::new();
    while let Some(piece) = session.read_response_body().await? {
        if let Keep::UpTo(max) = keep {
            if kept.len() + piece.len() > max {
                // Dropped, and the connection with it.
                return Ok((header, None));
            }
            kept.extend_from_slice(&piece);
        }
    }
    connector.release_http_session(session, peer, peer.idle_timeout()).await;
    Ok((header, matches!(keep, Keep::UpTo(_)).then(|| kept.freeze())))
}

async fn connect<'a>(
    connector: &Connector,
    peers: &'a [HttpPeer],
) -> Result<(&'a HttpPeer, HttpSession)> {
    let mut failed = Error::explain(ErrorType::ConnectError, "nothing to connect to");
    for peer in peers {
        match connector.get_http_session(peer).await {
            Ok((session, _)) => return Ok((peer, session)),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Says where the body ends, and the host as the version wants it.
fn frame<S>(
    request: &mut RequestHeader,
    scheme: &str,
    session: &HttpSession<S>,
    body_bytes: usize,
) -> Result<()> {
    let had_body = request.headers.contains_key(header::CONTENT_LENGTH)
        || request.headers.contains_key(header::TRANSFER_ENCODING);
    request.remove_header(&header::TRANSFER_ENCODING);
    if had_body || body_bytes > 0 {
        request.insert_header(header::CONTENT_LENGTH, body_bytes)?;
    }
    let host = request.headers.get(header::HOST).map(|host| host.as_bytes().to_vec());
    let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes().to_vec());
    let Some(host) = host.or(authority) else { return Ok(()) };
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let uri = match session {
        HttpSession::H1(_) => {
            request.set_version(http::Version::HTTP_11);
            request.insert_header(header::HOST, &host[..])?;
            path.parse().or_err(ErrorType::InternalError, "target of a request of ours")?
        }
        HttpSession::H2(_) | HttpSession::Custom(_) => {
            request.set_version(http::Version::HTTP_2);
            request.remove_header(&header::HOST);
            http::Uri::builder()
                .scheme(scheme)
                .authority(&host[..])
                .path_and_query(path)
                .build()
                .or_err(ErrorType::InternalError, "target of a request of ours")?
        }
    };
    request.set_uri(uri);
    Ok(())
}
