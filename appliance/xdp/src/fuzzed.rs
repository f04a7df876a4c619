//! What fuzz targets reach: every reader of bytes that the kernel hands to this process. Each is
//! total, and says nothing that its bytes do not hold.

use std::net::IpAddr;

use crate::deferrals;
use crate::netlink;

/// A sample of the program: a deferred packet, cut for a path of `mtu` bytes.
pub fn deferred(sample: &[u8], mtu: usize) {
    let Some((is_v6, packet)) = deferrals::packet_of(sample) else { return };
    assert!(packet.len() <= sample.len(), "longer than the sample");
    if is_v6 {
        return;
    }
    for piece in deferrals::cut(packet, mtu).unwrap_or_default() {
        assert!(piece.len() <= mtu, "a piece is longer than the path is wide");
    }
}

/// An answer of the kernel's routing.
pub fn answer(address: IpAddr, bytes: &[u8]) {
    netlink::read_all(address, bytes);
}
