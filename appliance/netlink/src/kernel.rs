//! The kernel as the room sees it: dumps, operations and notifications, each a netlink message.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteVia,
};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::SocketAddr as NetlinkAddress;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use rustix::io::Errno;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::address::{ADDRESS_PROTOCOL, HeldAddress, HeldAddresses, host_prefix_len};
use crate::route::{HeldRoute, HeldRoutes, ROUTE_PROTOCOL};
use crate::source::SOURCE_PROTOCOL;

/// Notifications that wait to be looked at. When more come, they are dropped and everything is
/// compared anew, which costs one dump.
const EVENTS_MAX: usize = 1024;

/// First kernel that keeps the mark of an address (`IFA_PROTO`).
const MARKING_KERNEL: (u32, u32) = (5, 18);

/// Why the kernel did not do as it was told.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum KernelError {
    #[error("the kernel denies it: CAP_NET_ADMIN is needed")]
    Denied,
    #[error("something foreign stands there already")]
    Exists,
    #[error("it is not there")]
    Gone,
    #[error("the next hop is not on any connected network")]
    NextHopUnreachable,
    #[error("the kernel refuses: {0}")]
    Refused(String),
}

/// Something that changed in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// An address came.
    AddressNew(HeldAddress),
    /// An address went.
    AddressGone(HeldAddress),
    /// A route came.
    RouteNew(HeldRoute),
    /// A route went.
    RouteGone(HeldRoute),
    /// An interface changed; the kernel drops addresses and routes with it and says no more.
    Link,
}

/// What an address is bound for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Clients connect to it.
    Vip,
    /// `nat` sends from it.
    Source,
}

/// A connection for requests.
pub(crate) struct Kernel {
    handle: Handle,
    connection: JoinHandle<()>,
    marks_addresses: bool,
}

/// A connection for notifications.
pub(crate) struct Events {
    events: mpsc::Receiver<Event>,
    overflow: Arc<AtomicBool>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Kernel {
    /// Opens a connection in the current network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        let connection = tokio::spawn(connection);
        Ok(Self { handle, connection, marks_addresses: kernel_marks_addresses() })
    }

    /// Whether addresses can be told apart by the kernel's own mark.
    pub(crate) fn marks_addresses(&self) -> bool {
        self.marks_addresses
    }

    /// The index of an interface, if it exists.
    pub(crate) async fn interface(&self, name: &str) -> Result<Option<u32>, KernelError> {
        let mut links = self.handle.link().get().match_name(name).execute();
        match links.try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(error) => match explain(&error) {
                KernelError::Gone => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Every address of the host. Where the kernel keeps no mark, remembered ones are ours: VIPs,
    /// and source addresses.
    pub(crate) async fn addresses(
        &self,
        vips: &BTreeSet<IpAddr>,
        sources: &BTreeSet<IpAddr>,
    ) -> Result<HeldAddresses, KernelError> {
        let mut held = HeldAddresses::new();
        let mut messages = self.handle.address().get().execute();
        while let Some(message) = messages.try_next().await.map_err(|e| explain(&e))? {
            if let Some(mut address) = read_address(&message) {
                address.ours |= !self.marks_addresses && vips.contains(&address.address);
                address.source |= !self.marks_addresses && sources.contains(&address.address);
                held.entry(address.address).or_default().push(address);
            }
        }
        Ok(held)
    }

    /// Binds a host address. The kernel refuses what the interface has already.
    pub(crate) async fn add_address(
        &self,
        interface: u32,
        address: IpAddr,
        mark: Mark,
    ) -> Result<(), KernelError> {
        let mut request = self.handle.address().add(interface, address, host_prefix_len(address));
        let attributes = &mut request.message_mut().attributes;
        let mark = AddressProtocol::from(match mark {
            Mark::Vip => ADDRESS_PROTOCOL,
            Mark::Source => SOURCE_PROTOCOL,
        });
        attributes.push(AddressAttribute::Protocol(mark));
        if address.is_ipv6() {
            // Many hosts of a fleet hold the address: duplicate detection must not disable it.
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            // Deprecated from the start: never the source of this host's own connections
            // (RFC 6724 rule 3), always a destination.
            let mut life = CacheInfo::default();
            life.ifa_preferred = 0;
            life.ifa_valid = u32::MAX;
            attributes.push(AddressAttribute::CacheInfo(life));
        }
        request.execute().await.map_err(|error| explain(&error))
    }

    /// Removes exactly this address from exactly this interface.
    pub(crate) async fn remove_address(&self, held: &HeldAddress) -> Result<(), KernelError> {
        let mut message = AddressMessage::default();
        message.header.family = family(held.address);
        message.header.index = held.interface;
        message.header.prefix_len = held.prefix_len;
        message.attributes.push(AddressAttribute::Local(held.address));
        self.handle.address().del(message).execute().await.map_err(|error| explain(&error))
    }

    /// Our routes in every table, and every route in `table` to a wanted network.
    pub(crate) async fn routes(
        &self,
        table: Option<u32>,
        wanted: impl Fn(&IpNet) -> bool,
    ) -> Result<HeldRoutes, KernelError> {
        let mut held = HeldRoutes::new();
        let mut add = |route: HeldRoute| {
            let here = held.entry(route.prefix).or_default();
            if !here.contains(&route) {
                here.push(route);
            }
        };
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut ours = RouteMessage::default();
            ours.header.address_family = family;
            ours.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
            let ours = self.dump_routes(ours).await?;
            ours.into_iter().filter(|r| r.protocol == ROUTE_PROTOCOL).for_each(&mut add);
            let Some(table) = table else { continue };
            let mut whole = RouteMessage::default();
            whole.header.address_family = family;
            set_table(&mut whole, table);
            let whole = self.dump_routes(whole).await?;
            whole
                .into_iter()
                .filter(|route| route.table == table && wanted(&route.prefix))
                .for_each(&mut add);
        }
        Ok(held)
    }

    async fn dump_routes(&self, filter: RouteMessage) -> Result<Vec<HeldRoute>, KernelError> {
        let mut routes = Vec::new();
        let mut messages = std::pin::pin!(self.handle.route().get(filter).execute());
        loop {
            match messages.try_next().await {
                Ok(Some(message)) => routes.extend(read_route(&message)),
                Ok(None) => return Ok(routes),
                Err(error) => match explain(&error) {
                    // A table without routes does not exist.
                    KernelError::Gone => return Ok(routes),
                    error => return Err(error),
                },
            }
        }
    }

    /// Creates a route; the kernel refuses where one of the same metric stands.
    pub(crate) async fn add_route(&self, route: &HeldRoute) -> Result<(), KernelError> {
        let message = write_route(route);
        self.handle.route().add(message).execute().await.map_err(|error| explain(&error))
    }

    /// Replaces the route at this place, which must be ours.
    pub(crate) async fn replace_route(&self, route: &HeldRoute) -> Result<(), KernelError> {
        let request = self.handle.route().add(write_route(route)).replace();
        request.execute().await.map_err(|error| explain(&error))
    }

    /// Removes a route of ours: the kernel compares the protocol number too.
    pub(crate) async fn remove_route(&self, route: &HeldRoute) -> Result<(), KernelError> {
        let message = write_route(route);
        self.handle.route().del(message).execute().await.map_err(|error| explain(&error))
    }
}

impl Events {
    /// Subscribes to changes of addresses, routes and interfaces.
    pub(crate) fn open() -> io::Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let overflow = Arc::default();
        let reader = read_events(messages, sender, Arc::clone(&overflow));
        let tasks = [tokio::spawn(connection), tokio::spawn(reader)];
        Ok(Self { events, overflow, tasks })
    }

    /// The next change; `None` when the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// A change that has already come.
    pub(crate) fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// Whether changes were missed since this was last asked.
    pub(crate) fn take_overflow(&self) -> bool {
        self.overflow.swap(false, Ordering::Relaxed)
    }
}

/// Empties the connection's queue as fast as it fills, so that it stays short.
async fn read_events(
    mut messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, NetlinkAddress)>,
    sender: mpsc::Sender<Event>,
    overflow: Arc<AtomicBool>,
) {
    let mut links = Links::default();
    while let Some((message, _)) = messages.next().await {
        let event = match message.payload {
            NetlinkPayload::InnerMessage(message) => read_event(&message, &mut links),
            NetlinkPayload::Overrun(_) => {
                overflow.store(true, Ordering::Relaxed);
                Some(Event::Link)
            }
            _ => None,
        };
        let Some(event) = event else { continue };
        match sender.try_send(event) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                overflow.store(true, Ordering::Relaxed);
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return,
        }
    }
}

/// Interfaces as they were last told of: drivers repeat themselves without a change. As many
/// entries as the host has interfaces.
#[derive(Default)]
struct Links {
    known: BTreeMap<u32, (LinkFlags, Option<String>)>,
}

impl Links {
    /// Whether anything changed that addresses and routes depend on: name, up, carrier.
    fn changed(&mut self, link: &LinkMessage) -> bool {
        let flags = link.header.flags & (LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running);
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        let now = (flags, name);
        self.known.insert(link.header.index, now.clone()) != Some(now)
    }
}

fn read_event(message: &RouteNetlinkMessage, links: &mut Links) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewAddress(message) => read_address(message).map(Event::AddressNew),
        RouteNetlinkMessage::DelAddress(message) => read_address(message).map(Event::AddressGone),
        RouteNetlinkMessage::NewRoute(message) => read_route(message).map(Event::RouteNew),
        RouteNetlinkMessage::DelRoute(message) => read_route(message).map(Event::RouteGone),
        RouteNetlinkMessage::NewLink(link) => links.changed(link).then_some(Event::Link),
        RouteNetlinkMessage::DelLink(link) => {
            links.known.remove(&link.header.index);
            Some(Event::Link)
        }
        _ => None,
    }
}

fn read_address(message: &AddressMessage) -> Option<HeldAddress> {
    let mut local = None;
    let mut remote = None;
    let mut marked = 0;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => remote = Some(*address),
            AddressAttribute::Protocol(mark) => marked = u8::from(*mark),
            _ => {}
        }
    }
    Some(HeldAddress {
        interface: message.header.index,
        address: local.or(remote)?,
        prefix_len: message.header.prefix_len,
        ours: marked == ADDRESS_PROTOCOL,
        source: marked == SOURCE_PROTOCOL,
    })
}

fn read_route(message: &RouteMessage) -> Option<HeldRoute> {
    let header = &message.header;
    let mut route = HeldRoute {
        prefix: default_route(header.address_family)?,
        table: header.table.into(),
        protocol: header.protocol.into(),
        metric: 0,
        via: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                let network = ip(address)?;
                route.prefix = IpNet::new(network, header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Gateway(address) => route.via = ip(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => route.via = Some((*address).into()),
            _ => {}
        }
    }
    Some(route)
}

fn default_route(family: AddressFamily) -> Option<IpNet> {
    match family {
        AddressFamily::Inet => IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0).ok(),
        AddressFamily::Inet6 => IpNet::new(Ipv6Addr::UNSPECIFIED.into(), 0).ok(),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn write_route(route: &HeldRoute) -> RouteMessage {
    let network = route.prefix.network();
    let mut message = match network {
        IpAddr::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    };
    message.header.protocol = RouteProtocol::from(route.protocol);
    message.header.destination_prefix_length = route.prefix.prefix_len();
    message.attributes.push(RouteAttribute::Destination(network.into()));
    message.attributes.push(RouteAttribute::Priority(route.metric));
    message.attributes.extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    set_table(&mut message, route.table);
    message
}

/// Tables beyond 255 do not fit into the header.
fn set_table(message: &mut RouteMessage, table: u32) {
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes.push(RouteAttribute::Table(table));
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn explain(error: &rtnetlink::Error) -> KernelError {
    let rtnetlink::Error::NetlinkError(message) = error else {
        return KernelError::Refused(error.to_string());
    };
    let error = message.to_io();
    match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => KernelError::Denied,
        Some(Errno::EXIST) => KernelError::Exists,
        Some(Errno::NODEV | Errno::SRCH | Errno::NOENT | Errno::ADDRNOTAVAIL) => KernelError::Gone,
        Some(Errno::NETUNREACH | Errno::HOSTUNREACH) => KernelError::NextHopUnreachable,
        _ => KernelError::Refused(error.to_string().to_lowercase()),
    }
}

fn kernel_marks_addresses() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= MARKING_KERNEL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_repeats_itself_has_not_changed() {
        let mut links = Links::default();
        let mut link = LinkMessage::default();
        link.header.index = 7;
        link.attributes.push(LinkAttribute::IfName("edge0".to_owned()));
        assert!(links.changed(&link), "it is new");
        link.attributes.push(LinkAttribute::Mtu(1500));
        assert!(!links.changed(&link));
        link.header.flags |= LinkFlags::Up;
        assert!(links.changed(&link));
    }

    #[test]
    fn a_route_reads_as_it_was_written() {
        for (prefix, via, table) in
            [("10.1.0.0/24", "192.0.2.1", 254), ("2001:db8:1::/64", "2001:db8::1", 70_000)]
        {
            let route = HeldRoute {
                prefix: prefix.parse().unwrap(),
                table,
                protocol: ROUTE_PROTOCOL,
                metric: crate::route::ROUTE_METRIC,
                via: Some(via.parse().unwrap()),
            };
            assert_eq!(read_route(&write_route(&route)), Some(route));
        }
    }
}
