//! TCP to a VIP inside of IP-in-IP packets to one backend: the way of `dsr`.
//!
//! The kernel cannot make such a connection: the VIP is an address of this host, and many kernels
//! have no device that encapsulates. So each probe has a TCP of its own in user space.
//!
//! ```text
//!  probe ─> Stream ─> Stack (TCP) ─> raw socket: outer header by the kernel ─> backend
//!                        ^                                                       │ takes it off,
//!                        └─ claims <─ packet socket, filtered <──────────────────┘ answers plain
//! ```
//!
//! The answers come from VIP and port to this host's own address, as they would to any client.
//! The kernel takes what claims to come from its own VIP for forged and drops it, after the packet
//! socket has seen it; where it does not, a socket that holds the port and hears nothing keeps it
//! from answering with a reset.
//!
//! Invariants: a port belongs to one probe at a time; only what comes from the VIP and port that
//! was asked, to that port, is heard; every queue is bounded and what does not fit is lost, as on
//! a wire. What this never does: add a device, an address, a route or a rule to the host.

mod claims;
mod filter;
mod source;
mod stack;
mod stream;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use haflinger_core::Family;
use prometheus::IntCounterVec;

use self::claims::Claims;
pub(crate) use self::stream::Stream;
use self::wire::Wire;

/// The ports that probes send from: as many as may ever be in flight to one VIP from one address.
/// Below those that Linux gives to sockets (32768 to 60999) and those of `nat` (61000 and above),
/// above those that services are known by.
pub(crate) const PORTS: RangeInclusive<u16> = 24_576..=28_671;

/// Why there is no connection through a VIP. All but the last are this host's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    /// No right to raw or packet sockets.
    #[error(
        "this process may not open {socket} sockets: give it CAP_NET_RAW, and where systemd \
         restricts address families, AF_PACKET"
    )]
    Denied {
        /// `raw` or `packet`.
        socket: &'static str,
    },
    /// A socket could not be opened for another reason.
    #[error("no {socket} socket: {error}")]
    Socket {
        /// `raw`, `packet` or `TCP`.
        socket: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// There is nothing to send from.
    #[error("this host has no {0} address, but for VIPs, to which the backend could answer")]
    NoSource(Family),
    /// Every port is taken.
    #[error("no port of {} to {} is free on {address}", PORTS.start(), PORTS.end())]
    NoPort {
        /// The address to send from.
        address: IpAddr,
    },
    /// The firewall of this host refuses the packets.
    #[error("this host may not send IP-in-IP: let its firewall pass protocols 4 and 41 out")]
    Filtered,
    /// The backend is out of reach or refused.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
}

impl TunnelError {
    pub(crate) fn is_ours(&self) -> bool {
        !matches!(self, Self::Connect(_))
    }

    fn opening(socket: &'static str, error: io::Error) -> Self {
        let denied = error.kind() == io::ErrorKind::PermissionDenied
            || error.raw_os_error() == Some(libc::EAFNOSUPPORT) && socket == "packet";
        if denied { Self::Denied { socket } } else { Self::Socket { socket, error } }
    }

    fn sending(error: io::Error) -> Self {
        match error.kind() {
            // The firewall says so (`netfilter`, output).
            io::ErrorKind::PermissionDenied => Self::Filtered,
            _ => Self::Connect(error),
        }
    }
}

/// What all probes through VIPs share.
pub(crate) struct Tunnel {
    state: Mutex<State>,
    claims: Arc<Claims>,
    packets: IntCounterVec,
}

#[derive(Default)]
struct State {
    /// VIPs that are probed, sorted.
    vips: Vec<IpAddr>,
    wire: Option<Arc<Wire>>,
    /// Why there is no wire, as it was last logged.
    fault: Option<String>,
}

impl Tunnel {
    /// Opens nothing yet. `packets` is counted by what happened to a packet.
    pub(crate) fn new(packets: IntCounterVec) -> Self {
        let claims = Arc::new(Claims::default());
        Self { state: Mutex::new(State::default()), claims, packets }
    }

    /// These VIPs, sorted, are probed from now on. Without any, the sockets are closed.
    pub(crate) fn listen_to(&self, vips: Vec<IpAddr>) {
        let mut state = self.state();
        state.vips = vips;
        if state.vips.is_empty() {
            state.wire = None;
        } else if let Some(wire) = &state.wire
            && let Err(error) = wire.hear(&state.vips)
        {
            tracing::warn!(%error, "checks through VIPs begin anew with other sockets");
            state.wire = None;
        }
    }

    /// Connects to `to`, a VIP's address and port, inside of packets to `backend`.
    pub(crate) async fn connect(
        &self,
        backend: IpAddr,
        to: SocketAddr,
    ) -> Result<Stream, TunnelError> {
        let (wire, vips) = self.wire()?;
        let from = source::towards(backend, to.ip(), &vips)
            .map_err(TunnelError::Connect)?
            .ok_or(TunnelError::NoSource(Family::of(to.ip())))?;
        let claim = Claims::claim(&self.claims, from, to)?;
        Stream::open(wire, backend, claim, self.packets.clone()).await
    }

    fn wire(&self) -> Result<(Arc<Wire>, Vec<IpAddr>), TunnelError> {
        let mut state = self.state();
        if let Some(wire) = &state.wire {
            return Ok((Arc::clone(wire), state.vips.clone()));
        }
        match Wire::open(&state.vips, &self.claims, &self.packets) {
            Ok(wire) => {
                state.fault = None;
                let wire = Arc::new(wire);
                state.wire = Some(Arc::clone(&wire));
                Ok((wire, state.vips.clone()))
            }
            Err(error) => {
                // Every probe tries again, which is cheap; the log hears of it once.
                let fault = error.to_string();
                if state.fault.as_ref() != Some(&fault) {
                    tracing::warn!(%error, "checks through VIPs cannot be made");
                    state.fault = Some(fault);
                }
                Err(error)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
