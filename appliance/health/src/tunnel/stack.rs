//! One TCP connection in user space: packets in, packets out, time as an argument. Pure.
//!
//! ```text
//!  read, write ─> Stack (smoltcp: one interface, one socket) ─> outgoing, bounded
//!                        ^─ incoming, bounded
//! ```

use std::collections::VecDeque;
use std::net::SocketAddr;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint, IpListenEndpoint};

/// The largest packet inside. With the largest outer header (40 bytes) it is what every link has
/// to carry that carries IPv6 (RFC 8200, section 5): a check must not fail for its own size.
pub(crate) const INNER_MTU: usize = 1240;

/// Bytes on their way in each direction. A status line takes 40, a request a few hundred.
pub(crate) const BUFFER_BYTES: usize = 2048;

/// Packets that wait to be looked at or to be sent. A window of [`BUFFER_BYTES`] is two full
/// packets; the rest is for small ones, acknowledgements and repetitions.
pub(crate) const QUEUE_MAX: usize = 16;

/// Hops of a packet inside. A backend that lacks the VIP but forwards, as nodes do, would send the
/// packet on to whoever has the VIP: to this host, and so to another backend, which would answer in
/// its place. One hop is left for a node that takes the outer header off and routes to its pod; the
/// packet that comes back here has none.
const HOPS: u8 = 2;

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// That many bytes.
    Bytes(usize),
    /// The other end has closed.
    End,
    /// Nothing yet.
    Nothing,
    /// The connection is gone.
    Broken,
}

/// How far the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Opening,
    Open,
    Gone,
}

/// One connection.
pub(crate) struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    queues: Queues,
}

impl Stack {
    /// A connection that has begun: the first [`turn`](Self::turn) sends its SYN. `seed` makes its
    /// sequence numbers. `None` where the two ends are of different families, or an end has
    /// address or port zero.
    pub(crate) fn connect(
        local: SocketAddr,
        remote: SocketAddr,
        seed: u64,
        now_micros: i64,
    ) -> Option<Self> {
        let mut stack = Self::idle(local, seed, now_micros);
        let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(stack.socket);
        let context = stack.interface.context();
        let (from, to) = (IpListenEndpoint::from(local), IpEndpoint::from(remote));
        socket.connect(context, to, from).ok()?;
        Some(stack)
    }

    fn idle(local: SocketAddr, seed: u64, now_micros: i64) -> Self {
        let mut queues = Queues::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let now = Instant::from_micros(now_micros);
        let mut interface = Interface::new(config, &mut queues, now);
        let bits = if local.is_ipv4() { 32 } else { 128 };
        interface.update_ip_addrs(|addresses| {
            // The list is empty and holds one at least.
            let _ = addresses.push(IpCidr::new(local.ip().into(), bits));
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        // A request is written in one piece.
        socket.set_nagle_enabled(false);
        socket.set_hop_limit(Some(HOPS));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let socket = sockets.add(socket);
        Self { interface, sockets, socket, queues }
    }

    /// A packet for this connection came. Answers whether there was room for it.
    pub(crate) fn receive(&mut self, packet: Vec<u8>) -> bool {
        let room = self.queues.incoming.len() < QUEUE_MAX;
        if room {
            self.queues.incoming.push_back(packet);
        }
        room
    }

    /// Looks at what came and makes what is to be sent now.
    pub(crate) fn turn(&mut self, now_micros: i64) {
        let now = Instant::from_micros(now_micros);
        self.interface.poll(now, &mut self.queues, &mut self.sockets);
    }

    /// The next packet to send.
    pub(crate) fn outgoing(&mut self) -> Option<Vec<u8>> {
        self.queues.outgoing.pop_front()
    }

    /// Microseconds until the next turn is needed, though no packet comes before.
    pub(crate) fn next_turn_micros(&mut self, now_micros: i64) -> Option<u64> {
        let now = Instant::from_micros(now_micros);
        let delay = self.interface.poll_delay(now, &self.sockets)?;
        Some(delay.total_micros())
    }

    pub(crate) fn phase(&mut self) -> Phase {
        match self.socket().state() {
            tcp::State::SynSent | tcp::State::SynReceived | tcp::State::Listen => Phase::Opening,
            tcp::State::Closed | tcp::State::TimeWait => Phase::Gone,
            _ => Phase::Open,
        }
    }

    pub(crate) fn read(&mut self, into: &mut [u8]) -> Found {
        match self.socket().recv_slice(into) {
            Ok(0) => Found::Nothing,
            Ok(count) => Found::Bytes(count),
            Err(tcp::RecvError::Finished) => Found::End,
            Err(tcp::RecvError::InvalidState) => Found::Broken,
        }
    }

    /// Takes as much of `from` as there is room for; `None` when the connection takes no more.
    pub(crate) fn write(&mut self, from: &[u8]) -> Option<usize> {
        self.socket().send_slice(from).ok()
    }

    /// No more will be written.
    pub(crate) fn close(&mut self) {
        self.socket().close();
    }

    /// Ends the connection by a reset, which the next turn sends.
    pub(crate) fn abort(&mut self) {
        self.socket().abort();
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.socket)
    }
}

/// The stack's device: two bounded queues.
#[derive(Default)]
struct Queues {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

impl Device for Queues {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        if self.outgoing.len() >= QUEUE_MAX {
            return None;
        }
        let packet = self.incoming.pop_front()?;
        Some((Incoming(packet), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        (self.outgoing.len() < QUEUE_MAX).then_some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = INNER_MTU;
        // Not verified on arrival: what comes from this machine (a container, a virtual machine)
        // carries none yet, and elsewhere the network card has verified it.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

struct Incoming(Vec<u8>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        look(&self.0)
    }
}

struct Outgoing<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let result = fill(&mut packet);
        self.0.push_back(packet);
        result
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    const ENDS: [[&str; 2]; 2] =
        [["10.0.0.1:25000", "192.0.2.1:80"], ["[2001:db8::1]:25000", "[2001:db8::7]:80"]];

    fn listening(at: SocketAddr) -> Stack {
        let mut stack = Stack::idle(at, 1, 0);
        stack.socket().listen(at).unwrap();
        stack
    }

    /// A link that loses packets as `lost` says. The clock goes on to when something is due.
    struct Link {
        ends: [Stack; 2],
        now: i64,
        sent: Vec<usize>,
    }

    impl Link {
        fn new(family: usize) -> Self {
            let [local, remote] = ENDS[family].map(|end| end.parse().unwrap());
            let client = Stack::connect(local, remote, 7, 0).unwrap();
            Self { ends: [client, listening(remote)], now: 0, sent: vec![] }
        }

        fn step(&mut self, mut lost: impl FnMut() -> bool) {
            let now = self.now;
            let due = self.ends.iter_mut().filter_map(|end| end.next_turn_micros(now)).min();
            self.now += i64::try_from(due.unwrap_or(0)).unwrap().max(100);
            for from in [0, 1] {
                self.ends[from].turn(self.now);
                while let Some(packet) = self.ends[from].outgoing() {
                    self.sent.push(packet.len());
                    if !lost() {
                        self.ends[1 - from].receive(packet);
                    }
                }
            }
        }
    }

    fn exchange(link: &mut Link, lost: &mut impl FnMut() -> bool, text: &[u8]) -> Vec<u8> {
        let (mut written, mut heard) = (0, Vec::new());
        let mut chunk = [0; 700];
        for _ in 0..20_000 {
            link.step(&mut *lost);
            if link.ends[0].phase() == Phase::Open && written < text.len() {
                written += link.ends[0].write(&text[written..]).unwrap();
            }
            if let Found::Bytes(count) = link.ends[1].read(&mut chunk) {
                heard.extend(&chunk[..count]);
            }
            if heard.len() == text.len() {
                break;
            }
        }
        heard
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn what_is_written_is_read_though_packets_are_lost(
            family in 0_usize..2,
            text in prop::collection::vec(any::<u8>(), 1..6000),
            seed in any::<u64>(),
        ) {
            let mut link = Link::new(family);
            let mut random = StdRng::seed_from_u64(seed);
            let mut lost = || random.random_bool(0.15);
            prop_assert_eq!(exchange(&mut link, &mut lost, &text), text);
            prop_assert!(link.sent.iter().all(|length| *length <= INNER_MTU));
        }

        #[test]
        fn no_packet_makes_it_panic(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 0..40),
        ) {
            let mut link = Link::new(0);
            for packet in packets {
                link.ends[0].receive(packet);
                link.ends[0].turn(1);
            }
        }
    }

    #[test]
    fn an_end_a_reset_and_a_refusal_are_told_apart() {
        for family in [0, 1] {
            let mut link = Link::new(family);
            assert_eq!(exchange(&mut link, &mut || false, b"hello"), b"hello");
            link.ends[1].close();
            link.step(|| false);
            link.step(|| false);
            assert_eq!(link.ends[0].read(&mut [0; 8]), Found::End);

            let mut link = Link::new(family);
            exchange(&mut link, &mut || false, b"hello");
            link.ends[1].abort();
            link.step(|| false);
            link.step(|| false);
            assert_eq!(
                (link.ends[0].phase(), link.ends[0].read(&mut [0; 8])),
                (Phase::Gone, Found::Broken)
            );

            let mut link = Link::new(family);
            let elsewhere =
                SocketAddr::new(ENDS[family][1].parse::<SocketAddr>().unwrap().ip(), 81);
            link.ends[1] = listening(elsewhere);
            link.step(|| false);
            link.step(|| false);
            assert_eq!(link.ends[0].phase(), Phase::Gone);
        }
    }

    #[test]
    fn packets_do_not_get_past_the_backend() {
        for (family, at) in [(0, 8), (1, 7)] {
            let mut link = Link::new(family);
            link.ends[0].turn(0);
            assert_eq!(link.ends[0].outgoing().unwrap()[at], 2);
        }
    }

    #[test]
    fn queues_are_bounded() {
        let mut link = Link::new(0);
        let taken = (0..100).filter(|_| link.ends[0].receive(vec![0; 40])).count();
        assert_eq!(taken, QUEUE_MAX);
        let [four, six] = [ENDS[0][0], ENDS[1][1]].map(|end| end.parse().unwrap());
        assert!(Stack::connect(four, six, 0, 0).is_none());
    }
}
