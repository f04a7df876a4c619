//! Offloads of a virtual Ethernet device, set by the ioctl that ethtool uses.
//!
//! An XDP program rewrites a packet and its checksum as they stand on the wire. Between virtual
//! devices nothing is on a wire: a sender leaves its checksum to a card that does not exist, a
//! redirected frame is taken by its receiver only if that one polls, and a frame that is turned
//! back wakes it only if it has a program of its own. All is put right at one place, the device
//! that faces the one with the program.

use std::io;

use anyhow::{Context as _, Result};

use super::{Namespace, PassingProgram};

/// `SIOCETHTOOL` of <linux/sockios.h>.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// `ETHTOOL_STXCSUM` of <linux/ethtool.h>: checksums of sent packets.
const SET_TRANSMIT_CHECKSUMS: u32 = 0x17;
/// `ETHTOOL_SGRO`: merging of received packets, for which the device polls.
const SET_RECEIVE_MERGING: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Prepares `device` to be the peer of one that has an XDP program, for as long as the value that
/// is answered lives: it takes frames sent by XDP, and what it sends has whole checksums and is no
/// longer than a packet may be.
pub(super) fn face_xdp(namespace: &Namespace, device: &str) -> Result<PassingProgram> {
    let name = device.to_owned();
    namespace
        .enter(move || {
            set(&name, SET_TRANSMIT_CHECKSUMS, false)?;
            set(&name, SET_RECEIVE_MERGING, true)
        })?
        .with_context(|| format!("set the offloads of {device} in {}", namespace.name()))?;
    PassingProgram::attach(namespace, device)
}

fn set(device: &str, command: u32, on: bool) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;

    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut value = Value { command, data: on.into() };
    // SAFETY: all zeroes is a valid `ifreq`: a union of plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request and what it points to outlive the call; the name is cut off above.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
