//! TCP: accept, find a backend, relay, end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::{Protocol, ProxyProtocol, Service};
use ipnet::IpNet;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::Shared;
use crate::connect::{Connected, connect};
use crate::intake::{Intake, is_wanted, shut};
use crate::limit::Held;
use crate::metrics::{Ending, Rejection};
use crate::proxy_protocol::{Header, Version, encode};
use crate::pump::Pump;
use crate::service::ServiceState;
use crate::socket::{bind_tcp, closed, open, reset};

/// First pause after a failure to accept. Descriptors that ran out come back as connections
/// end; trying at once would only burn the processor.
const ACCEPT_BACKOFF_MIN: Duration = Duration::from_millis(10);

/// Longest pause: a second of silence, while the kernel's backlog holds the clients.
const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Serves one service, whenever its flows come here, until it is closed for good.
pub(crate) async fn serve(shared: Arc<Shared>, service: Arc<ServiceState>) {
    let mut intake = service.intake.subscribe();
    while is_wanted(&mut intake).await {
        if let Some(listener) = open(&shared, &service, &mut intake, bind_tcp).await {
            accept(&shared, &service, &listener, &mut intake).await;
            accept_backlog(&shared, &service, listener);
        }
        closed(&shared, &service);
    }
}

/// Accepts connections until no new one is wanted.
async fn accept(
    shared: &Arc<Shared>,
    service: &Arc<ServiceState>,
    listener: &TcpListener,
    intake: &mut watch::Receiver<Intake>,
) {
    let mut shut = pin!(shut(intake));
    let mut backoff = ACCEPT_BACKOFF_MIN;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shut => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                backoff = ACCEPT_BACKOFF_MIN;
                admit(shared, service, stream, client);
            }
            Err(error) => {
                shared.metrics.accept_errors.inc();
                if is_about_one_connection(&error) {
                    continue;
                }
                tracing::debug!(service = %service.key, %error, "cannot accept, pausing");
                tokio::select! {
                    () = &mut shut => return,
                    () = sleep(backoff) => {}
                }
                backoff = (backoff * 2).min(ACCEPT_BACKOFF_MAX);
            }
        }
    }
}

/// Clients whose connection the kernel completed before the end are served, not reset: closing
/// the socket would reset them. Asks the kernel itself, since the runtime may not know yet.
fn accept_backlog(shared: &Arc<Shared>, service: &Arc<ServiceState>, listener: TcpListener) {
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, client)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            admit(shared, service, stream, client);
        }
    }
}

/// Errors of a connection that died in the backlog, as opposed to those of this process.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied)
}

/// Starts a connection's task, or turns the client away.
fn admit(shared: &Arc<Shared>, service: &Arc<ServiceState>, stream: TcpStream, client: SocketAddr) {
    match admission(shared, service, client.ip()) {
        Ok(places) => {
            let connection = relay(Arc::clone(shared), Arc::clone(service), stream, client, places);
            shared.tasks.spawn(connection);
        }
        Err(rejection) => {
            shared.count_rejection(service, rejection);
            reset(stream);
        }
    }
}

/// A place among all connections, and one among the service's.
struct Places {
    _all: Held,
    _of_service: Held,
}

fn admission(shared: &Shared, service: &ServiceState, client: IpAddr) -> Result<Places, Rejection> {
    let picture = service.picture.load();
    if !is_permitted(&picture.service.source_ranges, client) {
        return Err(Rejection::SourceDenied);
    }
    let settings = shared.settings.load();
    let all = shared.connections.hold(settings.connections_max);
    let all = all.ok_or(Rejection::ConnectionsMax)?;
    let (host, own) = (settings.connections_per_service_max, picture.service_limit());
    let of_service = service.held.hold(host.min(own));
    let full = if own <= host { Rejection::ServiceFull } else { Rejection::ServiceConnectionsMax };
    let of_service = of_service.ok_or(full)?;
    Ok(Places { _all: all, _of_service: of_service })
}

/// Whether a client may use a service (`loadBalancerSourceRanges`; empty: everybody may).
pub(crate) fn is_permitted(ranges: &[IpNet], client: IpAddr) -> bool {
    ranges.is_empty() || ranges.iter().any(|range| range.contains(&client))
}

/// One connection from its acceptance to its end.
async fn relay(
    shared: Arc<Shared>,
    service: Arc<ServiceState>,
    client: TcpStream,
    client_address: SocketAddr,
    _places: Places,
) {
    let connected = tokio::select! {
        connected = connect(&shared, &service, client_address) => connected,
        () = service.closing.cancelled() => return reset(client),
    };
    let Connected { mut stream, counted, ending } = match connected {
        Ok(connected) => connected,
        Err(rejection) => {
            shared.count_rejection(&service, rejection);
            return reset(client);
        }
    };
    let picture = service.picture.load_full();
    let announced = announce(&shared, &picture.service, &mut stream, client_address).await;
    drop(picture);
    let end = match announced {
        Ok(()) => Pump::new(&shared, &counted, &client, &stream).run(&ending).await,
        Err(_) => Ending::Reset,
    };
    shared.metrics.ended.with_label_values(&[end.as_str()]).inc();
    if end != Ending::Finished {
        reset(client);
        reset(stream);
    }
}

/// Sends the PROXY protocol header, where the service wants one.
async fn announce(
    shared: &Shared,
    service: &Service,
    backend: &mut TcpStream,
    client: SocketAddr,
) -> io::Result<()> {
    let version = match service.proxy_protocol {
        ProxyProtocol::Off => return Ok(()),
        ProxyProtocol::V1 => Version::V1,
        ProxyProtocol::V2 => Version::V2,
    };
    let header = Header::Relayed {
        protocol: Protocol::Tcp,
        source: client,
        destination: service.key.socket_addr(),
    };
    let mut bytes = Vec::new();
    encode(version, header, &mut bytes);
    // The client's first bytes follow at once and must not wait for this to be acknowledged.
    backend.set_nodelay(true)?;
    // A fresh socket takes this at once; the timeout is for a kernel that is out of memory.
    let within = shared.settings.load().connect_timeout();
    timeout(within, backend.write_all(&bytes)).await.map_err(io::Error::from)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_range_permits_everybody_and_ranges_only_those_within() {
        let ranges: Vec<IpNet> =
            vec!["192.0.2.0/25".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let may = |client: &str| is_permitted(&ranges, client.parse().unwrap());
        assert!(may("192.0.2.127") && may("2001:db8::1"));
        assert!(!may("192.0.2.128") && !may("2001:db9::1"));
        assert!(is_permitted(&[], "192.0.2.128".parse().unwrap()));
    }
}
