//! A backend's end of IP-in-IP, for kernels without tunnel devices: takes the outer header off and
//! hands what was inside to the kernel, through a device on which it arrives as if from a wire.
//!
//! ```text
//!  eth0 ── raw sockets (protocols 4 and 41, outer IPv4 and IPv6) ── this ── decap0 (TUN) ── lo
//! ```
//!
//! Fragments of outer packets are put together by the kernel before.
#![expect(clippy::print_stdout, reason = "standard output is its log")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// Name of the device.
const DEVICE: &str = "decap0";
/// Protocols that may be inside: IPv4 and IPv6.
const INNER: [i32; 2] = [4, 41];
/// What a burst may leave waiting, in bytes.
const BUFFER: usize = 4 * 1024 * 1024;

fn main() -> Result<()> {
    let device = Arc::new(device().context("create the device; is /dev/net/tun there?")?);
    let mut threads = Vec::new();
    for outer in [Domain::IPV4, Domain::IPV6] {
        for inner in INNER {
            let socket = Socket::new(outer, Type::RAW, Some(Protocol::from(inner)))?;
            socket.set_recv_buffer_size(BUFFER)?;
            let device = Arc::clone(&device);
            threads.push(thread::spawn(move || pass_on(socket, outer, &device)));
        }
    }
    println!("READY");
    for thread in threads {
        thread.join().ok().context("a receiver panicked")??;
    }
    Ok(())
}

fn pass_on(mut socket: Socket, outer: Domain, mut device: &File) -> Result<()> {
    let mut packet = vec![0; 65_536];
    loop {
        let length = match socket.read(&mut packet) {
            Ok(length) => length,
            // An ICMP error about something else.
            Err(_) => continue,
        };
        // IPv4 comes with its header.
        let header = if outer == Domain::IPV4 { usize::from(packet[0] & 0xf) * 4 } else { 0 };
        if let Some(inner) = packet.get(header..length) {
            // A packet that the kernel refuses is lost, as on any tunnel.
            let _ = device.write(inner);
        }
    }
}

/// A TUN device without a header before each packet.
fn device() -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeroes is a valid `ifreq`: a union of plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI)?;
    // SAFETY: the request outlives the call and names a device that ends in a zero.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if answer < 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(file)
}
