//! Packets that the program hands over because only the kernel can send them: a neighbour is not
//! resolved yet, the packet has to be cut, or its route leads by a way that a program cannot take.
//!
//! They arrive rewritten, in a buffer of bounded size for each CPU; what does not fit is lost and
//! counted, as a full queue of any router loses. Raw sockets send them with their header as it is.
//! What this never does: wait for a socket that is full.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use libbpf_rs::{MapHandle, PerfBufferBuilder};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};

use crate::mapped::value_of;
use crate::program::types;

/// Pages of the buffer of one CPU: 64 KiB, forty full-size packets. They wait for microseconds,
/// until the thread is scheduled.
const BUFFER_PAGES: usize = 16;

/// How often the thread looks whether it is to end.
const POLL: Duration = Duration::from_millis(200);

const ETH_P_IPV6: u16 = 0x86dd;

/// Smallest size that a path may have (RFC 791, section 3.2), less any option.
const MTU_MIN: usize = 68;

/// What became of deferred packets.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Sent by the kernel.
    pub(crate) sent: AtomicU64,
    /// Cut into fragments first.
    pub(crate) cut: AtomicU64,
    /// Not taken by the kernel, or damaged.
    pub(crate) failed: AtomicU64,
    /// Lost because the buffer was full.
    pub(crate) lost: AtomicU64,
}

impl Tally {
    /// By what became of them.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 4] {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("sent", load(&self.sent)),
            ("cut", load(&self.cut)),
            ("failed", load(&self.failed)),
            ("lost", load(&self.lost)),
        ]
    }
}

/// Asks for the size of packets on the way to an address.
pub(crate) type PathSize = Box<dyn Fn(IpAddr) -> Option<u32> + Send>;

/// A thread that sends what is deferred, until it is dropped.
#[derive(Debug)]
pub(crate) struct Deferrals {
    pub(crate) tally: Arc<Tally>,
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Deferrals {
    /// Starts the thread.
    pub(crate) fn start(map: MapHandle, path_size: PathSize) -> io::Result<Self> {
        let sender = Sender { v4: raw(AddressFamily::INET)?, v6: raw(AddressFamily::INET6).ok() };
        let (tally, ends) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let (counted, told) = (tally.clone(), ends.clone());
        let thread = std::thread::Builder::new().name("xdp-deferrals".into()).spawn(move || {
            let sample = |_, bytes: &[u8]| sender.send(bytes, &path_size, &counted);
            let lost = Cell::new(0);
            let buffer = PerfBufferBuilder::new(&map)
                .pages(BUFFER_PAGES)
                .sample_cb(sample)
                .lost_cb(|_, count| lost.set(lost.get() + count))
                .build();
            let buffer = match buffer {
                Ok(buffer) => buffer,
                Err(error) => {
                    tracing::error!(%error, "packets to neighbours that are not resolved are lost");
                    return;
                }
            };
            while !told.load(Ordering::Relaxed) {
                // An interrupted call is as good as one that brought nothing.
                let _ = buffer.poll(POLL);
                counted.lost.fetch_add(lost.take(), Ordering::Relaxed);
            }
        })?;
        Ok(Self { tally, ends, thread: Some(thread) })
    }
}

impl Drop for Deferrals {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends within a poll; a panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// A socket that sends packets with their own header.
fn raw(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::RAW, flags, Some(ipproto::RAW))?)
}

struct Sender {
    v4: OwnedFd,
    v6: Option<OwnedFd>,
}

impl Sender {
    fn send(&self, bytes: &[u8], path_size: &PathSize, tally: &Tally) {
        let outcome = match packet_of(bytes) {
            Some((true, packet)) => self.send_v6(packet),
            Some((false, packet)) => match self.send_v4(packet) {
                Err(error) if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => {
                    tally.cut.fetch_add(1, Ordering::Relaxed);
                    self.send_cut(packet, path_size)
                }
                sent => sent,
            },
            None => Err(io::ErrorKind::InvalidData.into()),
        };
        let counter = if outcome.is_ok() { &tally.sent } else { &tally.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn send_v4(&self, packet: &[u8]) -> io::Result<()> {
        let destination = destination_v4(packet).ok_or(io::ErrorKind::InvalidData)?;
        let to = SocketAddrV4::new(destination, 0);
        sendto(&self.v4, packet, SendFlags::DONTWAIT, &to)?;
        Ok(())
    }

    fn send_v6(&self, packet: &[u8]) -> io::Result<()> {
        let octets: [u8; 16] =
            packet.get(24..40).and_then(|o| o.try_into().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let to = SocketAddrV6::new(Ipv6Addr::from(octets), 0, 0, 0);
        let socket = self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        sendto(socket, packet, SendFlags::DONTWAIT, &to)?;
        Ok(())
    }

    /// The kernel cuts no packet that brings its own header.
    fn send_cut(&self, packet: &[u8], path_size: &PathSize) -> io::Result<()> {
        let destination = destination_v4(packet).ok_or(io::ErrorKind::InvalidData)?;
        let mtu = path_size(destination.into()).ok_or(io::ErrorKind::HostUnreachable)?;
        let pieces = cut(packet, mtu as usize).ok_or(io::ErrorKind::InvalidData)?;
        pieces.iter().try_for_each(|piece| self.send_v4(piece))
    }
}

/// The packet behind its header, and whether it is IPv6.
pub(crate) fn packet_of(bytes: &[u8]) -> Option<(bool, &[u8])> {
    let header: types::deferred = value_of(bytes)?;
    let frame = bytes.get(size_of::<types::deferred>()..)?.get(..header.length as usize)?;
    let packet = frame.get(usize::from(header.offset)..)?;
    let is_v6 = header.protocol == ETH_P_IPV6;
    // A frame may be longer than its packet: Ethernet fills up what is short.
    let length = if is_v6 {
        usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?)) + 40
    } else {
        usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?))
    };
    Some((is_v6, packet.get(..length)?))
}

fn destination_v4(packet: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?))
}

/// Cuts an IPv4 packet that allows it into fragments of at most `mtu` bytes (RFC 791, section
/// 3.2). Only options that say so are copied into later fragments. The kernel writes the checksums.
pub(crate) fn cut(packet: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
    let header_len = usize::from(packet.first()? & 0xf) * 4;
    let header = packet.get(..header_len).filter(|header| header.len() >= 20)?;
    let flags = u16::from_be_bytes([header[6], header[7]]);
    let (dont, more, offset) = (flags & 0x4000 != 0, flags & 0x2000, flags & 0x1fff);
    if dont || mtu < MTU_MIN {
        return None;
    }
    let later = later_header(header);
    let mut pieces = Vec::new();
    let mut rest = &packet[header_len..];
    let mut at = offset;
    while !rest.is_empty() {
        let header = if pieces.is_empty() { header } else { later.as_slice() };
        let room = (mtu - header.len()) / 8 * 8;
        let (data, after) = rest.split_at(rest.len().min(room));
        let mut piece = [header, data].concat();
        let flags = at | if after.is_empty() { more } else { 0x2000 };
        let length = u16::try_from(piece.len()).ok()?;
        piece[2..4].copy_from_slice(&length.to_be_bytes());
        piece[6..8].copy_from_slice(&flags.to_be_bytes());
        pieces.push(piece);
        at += u16::try_from(data.len() / 8).ok()?;
        rest = after;
    }
    Some(pieces)
}

/// The header of all fragments but the first: with those options that are marked to be copied.
fn later_header(header: &[u8]) -> Vec<u8> {
    let mut later = header[..20].to_vec();
    let mut options = &header[20..];
    while let Some(&kind) = options.first() {
        let length = match (kind, options.get(1)) {
            (0, _) => break,
            (1, _) => 1,
            (_, Some(length)) => usize::from(*length),
            _ => break,
        };
        let Some(option) = options.get(..length).filter(|option| !option.is_empty()) else { break };
        if kind & 0x80 != 0 {
            later.extend(option);
        }
        options = &options[length..];
    }
    later.resize(later.len().next_multiple_of(4), 0);
    later[0] = 0x40 | u8::try_from(later.len() / 4).unwrap_or(5);
    later
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mapped::Plain;

    fn packet(options: &[u8], data: &[u8], flags: u16) -> Vec<u8> {
        let header_len = 20 + options.len();
        let mut packet = vec![0; 20];
        packet[0] = 0x40 | u8::try_from(header_len / 4).unwrap();
        let length = u16::try_from(header_len + data.len()).unwrap();
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[6..8].copy_from_slice(&flags.to_be_bytes());
        packet[16..20].copy_from_slice(&[192, 0, 2, 7]);
        [&packet, options, data].concat()
    }

    #[test]
    fn padding_of_the_link_layer_is_not_sent() {
        fn bytes_of<T: Plain>(value: &T) -> &[u8] {
            crate::mapped::bytes_of(value)
        }
        let inner = packet(&[], b"abc", 0);
        let frame = [&[0; 14][..], &inner, &[0; 23][..]].concat();
        let length = u32::try_from(frame.len()).unwrap();
        let header = types::deferred { length, protocol: 0x0800, offset: 14 };
        let sample = [bytes_of(&header), &frame].concat();
        assert_eq!(packet_of(&sample), Some((false, &inner[..])));
        assert_eq!(packet_of(&sample[..40]), None);
    }

    #[test]
    fn what_must_not_be_cut_is_not() {
        assert_eq!(cut(&packet(&[], &[0; 100], 0x4000), 68), None);
    }

    #[test]
    fn only_options_that_say_so_are_copied() {
        // No operation, a route record (not copied), a stream identifier (copied).
        let options = [1, 7, 3, 4, 0x88, 4, 1, 2];
        let pieces = cut(&packet(&options, &[0; 100], 0), 84).unwrap();
        assert_eq!(pieces[0][20..28], options);
        assert_eq!((pieces[1][0], &pieces[1][20..24]), (0x46, &options[4..]));
    }

    proptest! {
        #[test]
        fn the_pieces_make_the_packet_again(
            data in prop::collection::vec(any::<u8>(), 1..4_000),
            mtu in 68..1_600_usize,
            offset in 0..4_000_u16,
            more in any::<bool>(),
        ) {
            let flags = offset | if more { 0x2000 } else { 0 };
            let pieces = cut(&packet(&[], &data, flags), mtu).unwrap();
            let mut again: Vec<u8> = Vec::new();
            for (at, piece) in pieces.iter().enumerate() {
                prop_assert!(piece.len() <= mtu);
                let flags = u16::from_be_bytes([piece[6], piece[7]]);
                prop_assert_eq!(usize::from(flags & 0x1fff), usize::from(offset) + again.len() / 8);
                prop_assert_eq!(flags & 0x2000 != 0, more || at + 1 < pieces.len());
                again.extend(&piece[20..]);
            }
            prop_assert_eq!(again, data);
        }

        #[test]
        fn whatever_comes_nothing_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            mtu in 0..200_usize,
        ) {
            let _ = packet_of(&bytes);
            let _ = cut(&bytes, mtu);
        }
    }
}
