//! The few questions that the data path asks of the kernel's routing: routes, links, neighbours.
//!
//! Asked in the middle of an update, once for each new backend, so they block and cost two system
//! calls. What this never does: change addresses, routes or links; that is another room's.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

/// The kernel answers at once; what takes longer is lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// An answer's part: the kernel fills up to 32 KiB of a dump at once.
const BUFFER_BYTES: usize = 64 * 1024;

// Numbers of linux/netlink.h and linux/rtnetlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
/// Group of link events, as a bit.
pub(crate) const RTMGRP_LINK: u32 = 0x1;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTAX_MTU: u16 = 2;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;
const IFF_UP: u32 = 0x1;

const NDA_DST: u16 = 1;
const NDA_FLAGS_EXT: u16 = 15;
const NTF_USE: u8 = 0x01;
const NTF_EXT_MANAGED: u32 = 0x01;
const NUD_NONE: u16 = 0;

const ETH_P_8021Q: u16 = 0x8100;

/// How this host reaches an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Route {
    /// The address that this host sends from.
    pub(crate) source: Option<IpAddr>,
    /// Who gets the frame: a gateway, or the address itself.
    pub(crate) next_hop: IpAddr,
    /// By which interface.
    pub(crate) interface: u32,
    /// The address is this host's own.
    pub(crate) is_local: bool,
    /// Bytes that the way carries, where the route says so or an ICMP error did.
    pub(crate) mtu: Option<u32>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    /// `vlan`, `bond`, `veth`...; empty for hardware.
    pub(crate) kind: String,
    /// What a VLAN device stands on; a veth's other end.
    pub(crate) parent: Option<u32>,
    /// The bond or bridge that it belongs to.
    pub(crate) master: Option<u32>,
    /// Number and protocol (EtherType) of a VLAN device.
    pub(crate) vlan: Option<(u16, u16)>,
    /// Its link-layer address; zero for what has none of Ethernet's length.
    pub(crate) address: [u8; 6],
}

/// A socket that asks.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket; `groups` are the events that it hears.
    pub(crate) fn open(groups: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        // Protocol 0 is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    /// How this host reaches `address` now.
    pub(crate) fn route(&mut self, address: IpAddr) -> io::Result<Route> {
        let (family, octets) = family_and_octets(address);
        let bits = u8::try_from(octets.len() * 8).unwrap_or(u8::MAX);
        // struct rtmsg: family, destination length, then what the kernel fills in.
        let header = [family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let request = Request::new(RTM_GETROUTE, NLM_F_REQUEST, &header).with(RTA_DST, &octets);
        let answers = self.ask(request)?;
        answers
            .iter()
            .find_map(|answer| parse_route(address, &answer.body))
            .unwrap_or_else(|| Err(io::ErrorKind::InvalidData.into()))
    }

    /// Every interface.
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        // struct ifinfomsg, all zero: every link.
        let request = Request::new(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, &[0; 16]);
        let answers = self.ask(request)?;
        let links = answers.iter().filter(|answer| answer.kind == RTM_NEWLINK);
        Ok(links.filter_map(|answer| parse_link(&answer.body)).collect())
    }

    /// Names of the links that default routes lead to.
    pub(crate) fn default_links(&mut self, links: &[Link]) -> io::Result<Vec<String>> {
        let mut exits = BTreeSet::new();
        for family in [AF_INET, AF_INET6] {
            let header = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let request = Request::new(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, &header);
            let answers = self.ask(request)?;
            for answer in &answers {
                parse_default(&answer.body, &mut exits);
            }
        }
        let names = links.iter().filter(|link| exits.contains(&link.index) && link.name != "lo");
        Ok(names.map(|link| link.name.clone()).collect())
    }

    /// Asks the kernel to find the neighbour out, and to keep it fresh by itself (`managed`, kernel
    /// 5.16), or to do so this once.
    pub(crate) fn resolve(&mut self, hop: IpAddr, link: u32, managed: bool) -> io::Result<()> {
        let (family, octets) = family_and_octets(hop);
        // struct ndmsg: family, padding, interface, state, flags, type.
        let mut header = vec![family, 0, 0, 0];
        header.extend(link.to_ne_bytes());
        header.extend(NUD_NONE.to_ne_bytes());
        header.extend([if managed { 0 } else { NTF_USE }, 0]);
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        let mut request = Request::new(RTM_NEWNEIGH, flags, &header).with(NDA_DST, &octets);
        if managed {
            request = request.with(NDA_FLAGS_EXT, &NTF_EXT_MANAGED.to_ne_bytes());
        }
        self.ask(request).map(drop)
    }

    /// Takes a neighbour entry away.
    pub(crate) fn forget(&mut self, hop: IpAddr, link: u32) -> io::Result<()> {
        let (family, octets) = family_and_octets(hop);
        let mut header = vec![family, 0, 0, 0];
        header.extend(link.to_ne_bytes());
        header.extend([0; 4]);
        let request = Request::new(RTM_DELNEIGH, NLM_F_REQUEST | NLM_F_ACK, &header);
        self.ask(request.with(NDA_DST, &octets)).map(drop)
    }

    /// Reads away the events that have come; an error when the kernel had to drop some, which
    /// says no less than that something happened.
    pub(crate) fn drain(&mut self) {
        while let Ok((_, count)) = recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT)
            && count > 0
        {}
    }

    fn ask(&mut self, mut request: Request) -> io::Result<Vec<Message>> {
        self.sequence += 1;
        request.seal(self.sequence);
        send(&self.socket, &request.bytes, SendFlags::empty())?;
        let mut answers = Vec::new();
        loop {
            let (_, count) = recv(&self.socket, &mut self.buffer[..], RecvFlags::empty())?;
            let mut rest = &self.buffer[..count];
            while let Some((message, after)) = Message::split(rest) {
                rest = after;
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => {
                        let code = word(&message.body, 0).unwrap_or(0).cast_signed();
                        return match code {
                            0 => Ok(answers),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ => {
                        let is_last = !message.is_part;
                        answers.push(message);
                        if is_last {
                            return Ok(answers);
                        }
                    }
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// A message on its way to the kernel.
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(header);
        Self { bytes }
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend(len.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn seal(&mut self, sequence: u32) {
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// A message from the kernel.
struct Message {
    kind: u16,
    /// More of the same answer follow.
    is_part: bool,
    sequence: u32,
    body: Vec<u8>,
}

impl Message {
    /// The first message of `bytes`, and what follows it.
    fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let len = word(bytes, 0)? as usize;
        let body = bytes.get(16..len)?.to_vec();
        let is_part = half(bytes, 6)? & 0x2 != 0;
        let message = Self { kind: half(bytes, 4)?, is_part, sequence: word(bytes, 8)?, body };
        let after = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((message, after))
    }
}

/// The attributes in `bytes`, by kind; damaged ones end it.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (usize::from(half(bytes, 0)?), half(bytes, 2)?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        // The two upper bits are flags.
        Some((kind & 0x3fff, value))
    })
}

/// Reads every message as whatever it may be.
#[cfg(feature = "fuzz")]
pub(crate) fn read_all(address: IpAddr, mut bytes: &[u8]) {
    while let Some((message, after)) = Message::split(bytes) {
        assert!(after.len() < bytes.len(), "no end of messages");
        bytes = after;
        let _ = parse_route(address, &message.body);
        let _ = parse_link(&message.body);
        let _ = parse_default(&message.body, &mut BTreeSet::new());
    }
}

fn parse_route(address: IpAddr, body: &[u8]) -> Option<io::Result<Route>> {
    let kind = *body.get(7)?;
    if !matches!(kind, RTN_UNICAST | RTN_LOCAL) {
        return Some(Err(io::ErrorKind::NetworkUnreachable.into()));
    }
    let (mut source, mut next_hop, mut interface, mut mtu) = (None, address, None, None);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            RTA_PREFSRC => source = octets_to_address(value),
            RTA_GATEWAY => next_hop = octets_to_address(value)?,
            // A gateway of the other family: its family, then its address.
            RTA_VIA => next_hop = octets_to_address(value.get(2..)?)?,
            RTA_OIF => interface = word(value, 0),
            RTA_METRICS => {
                let mut metrics = attributes(value).filter(|(kind, _)| *kind == RTAX_MTU);
                mtu = metrics.find_map(|(_, value)| word(value, 0));
            }
            _ => {}
        }
    }
    let is_local = kind == RTN_LOCAL;
    Some(Ok(Route { source, next_hop, interface: interface?, is_local, mtu }))
}

/// Notes the interfaces of a default route.
fn parse_default(body: &[u8], exits: &mut BTreeSet<u32>) -> Option<()> {
    // struct rtmsg: destination length, table and type.
    let is_default = *body.get(1)? == 0 && *body.get(4)? == RT_TABLE_MAIN;
    if !is_default || *body.get(7)? != RTN_UNICAST {
        return None;
    }
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            RTA_OIF => exits.extend(word(value, 0)),
            RTA_MULTIPATH => {
                // A list of struct rtnexthop: length, flags, weight, interface.
                let mut rest = value;
                while let (Some(len), Some(interface)) = (half(rest, 0), word(rest, 4)) {
                    exits.insert(interface);
                    rest = rest.get(usize::from(len.max(8)).next_multiple_of(4)..)?;
                }
            }
            _ => {}
        }
    }
    None
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: word(body, 4)?,
        name: String::new(),
        mtu: 0,
        up: word(body, 8)? & IFF_UP != 0,
        kind: String::new(),
        parent: None,
        master: None,
        vlan: None,
        address: [0; 6],
    };
    let text = |value: &[u8]| {
        String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            IFLA_ADDRESS => link.address = value.try_into().unwrap_or_default(),
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = word(value, 0)?,
            IFLA_LINK => link.parent = word(value, 0),
            IFLA_MASTER => link.master = word(value, 0),
            IFLA_LINKINFO => {
                for (kind, value) in attributes(value) {
                    match kind {
                        IFLA_INFO_KIND => link.kind = text(value),
                        IFLA_INFO_DATA if link.kind == "vlan" => link.vlan = parse_vlan(value),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_vlan(data: &[u8]) -> Option<(u16, u16)> {
    let (mut number, mut protocol) = (None, ETH_P_8021Q);
    for (kind, value) in attributes(data) {
        match kind {
            IFLA_VLAN_ID => number = half(value, 0),
            IFLA_VLAN_PROTOCOL => protocol = u16::from_be(half(value, 0)?),
            _ => {}
        }
    }
    Some((number?, protocol))
}

fn family_and_octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (AF_INET, v4.octets().into()),
        IpAddr::V6(v6) => (AF_INET6, v6.octets().into()),
    }
}

fn octets_to_address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(v4).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_written_as_rtnetlink_wants_it() {
        let mut request = Request::new(RTM_GETROUTE, NLM_F_REQUEST, &[AF_INET; 12])
            .with(RTA_DST, &[192, 0, 2, 1])
            .with(RTA_OIF, &[1, 2, 3]);
        request.seal(7);
        let (message, after) = Message::split(&request.bytes).unwrap();
        assert_eq!((message.kind, message.sequence, after.len()), (RTM_GETROUTE, 7, 0));
        let found: Vec<_> = attributes(&message.body[12..]).collect();
        assert_eq!(found, [(RTA_DST, &[192, 0, 2, 1][..]), (RTA_OIF, &[1, 2, 3][..])]);
    }

    #[test]
    fn this_host_is_asked_without_any_right() {
        let mut netlink = Netlink::open(0).unwrap();
        let route = netlink.route([127, 0, 0, 1].into()).unwrap();
        assert!(route.is_local && route.source == Some([127, 0, 0, 1].into()));
        let links = netlink.links().unwrap();
        assert!(links.iter().any(|link| link.name == "lo" && link.index == route.interface));
    }

    proptest! {
        #[test]
        fn whatever_bytes_come_nothing_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = Message::split(&bytes);
            let _ = parse_link(&bytes);
            let _ = parse_route([127, 0, 0, 1].into(), &bytes);
        }
    }
}
