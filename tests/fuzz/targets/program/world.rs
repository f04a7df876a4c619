//! What the program finds in its maps: services, tables, backends, sources, routes; and how the
//! control and the kernel change them between packets.

use std::net::{IpAddr, SocketAddr};

use haflinger_xdp::program::types;
use libfuzzer_sys::arbitrary::{self, Arbitrary};

use crate::host::{self, Route};
use crate::packets::{ICMP, TCP, UDP};

/// Interfaces: to the clients, to the backends, a tagged one, one that cannot transmit.
pub const FRONT: u32 = 1;
pub const BACK: u32 = 2;
const TAGGED: u32 = 3;
const MUTE: u32 = 4;

pub const FRONT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0c];
pub const BACK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
pub const CLIENT_ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
pub const BACKEND_ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xb1];

const SERVICES: u32 = 8;
const BACKENDS: u32 = 32;
const BUCKETS: u32 = 256;
/// Each service has a table of so many buckets, as bits.
const TABLE_BITS: u32 = 4;
const BACKENDS_EACH: u32 = 4;

/// Where tunnels begin, and this host's own addresses.
pub const TUNNELS: [&str; 2] = ["10.0.0.1", "fd00:f::1"];
pub const SELVES: [&str; 2] = ["192.0.2.1", "2001:db8:f::1"];

/// A service as the input wants it.
#[derive(Arbitrary, Debug)]
pub struct Wish {
    v6: bool,
    udp: bool,
    mode: u8,
    algorithm: u8,
    ranged: bool,
    affinity: bool,
    connections_max: u8,
    backend_connections_max: u8,
    /// Mode dsr: the tunnel is of the other family.
    crossed: bool,
    backends: u8,
    ports: u8,
}

/// What everything begins with.
#[derive(Arbitrary, Debug)]
pub struct Ground {
    pub random: u32,
    opening: u8,
    established: u8,
    services: Vec<Wish>,
}

/// A change from outside.
#[derive(Arbitrary, Debug)]
pub enum Change {
    /// A backend becomes free, active, draining or down.
    Backend {
        backend: u8,
        state: u8,
    },
    /// A backend is replaced in the table; the second hops are those that were first.
    Replace {
        service: u8,
        from: u8,
        to: u8,
    },
    Limits {
        service: u8,
        connections_max: u8,
        backend_connections_max: u8,
    },
    Range {
        service: u8,
        ranged: bool,
    },
    Algorithm {
        service: u8,
        algorithm: u8,
    },
    Remove {
        service: u8,
    },
    Restore {
        service: u8,
    },
    Route {
        to_backends: bool,
        result: u8,
        mtu: u8,
        interface: u8,
    },
    Rate {
        flows: u8,
    },
    Socket {
        state: u8,
    },
    Unheard {
        unheard: bool,
    },
    /// Whether somebody counts changes of neighbours.
    Listened {
        listens: bool,
    },
    /// Whether this host has addresses to answer and to tunnel from.
    Own {
        addresses: bool,
    },
}

/// What was put into the maps.
pub struct World {
    pub opening: u32,
    pub established: u32,
    pub services: Vec<Served>,
    front: Route,
    back: Route,
}

/// A service, its first backend's slot and how many it has.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    pub slot: u32,
    pub vip: SocketAddr,
    pub protocol: u8,
    value: types::service,
    first_backend: u32,
    backends: u32,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// As the program writes it.
pub fn address(ip: IpAddr) -> types::address {
    let octets = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    host::value_of(&octets)
}

/// An address as the program writes it.
pub fn ip_of(address: &types::address) -> IpAddr {
    let octets: [u8; 16] = host::value_of(host::bytes_of(address));
    let v6 = std::net::Ipv6Addr::from(octets);
    v6.to_ipv4_mapped().map_or(v6.into(), IpAddr::V4)
}

/// Whether the program may remember ways.
fn listen(listens: bool) {
    let generation = types::generation { number: listens.into(), zero: 0 };
    host::put("generation", 0, &generation);
}

/// A limit: mostly none.
fn limit(byte: u8) -> u32 {
    if byte < 8 { u32::from(byte) } else { 0 }
}

impl World {
    pub fn new(ground: &Ground) -> Self {
        let opening = u32::from(ground.opening % 12) + 1;
        let established = u32::from(ground.established % 12) + 1;
        let hints = (2 * (opening + established)).next_power_of_two();
        let sizes = [
            ("hints", hints),
            ("ways", established),
            ("flow_index", 2 * (opening + established)),
            ("flows", opening + established),
            ("service_index", SERVICES),
            ("services", SERVICES),
            ("service_loads", SERVICES),
            ("backends", BACKENDS),
            ("backend_loads", BACKENDS),
            ("backend_counters", BACKENDS),
            ("buckets", BUCKETS),
        ];
        host::begin(&sizes.map(|(name, size)| (name, size as usize)), opening, established, hints);
        let front =
            Route { result: 0, interface: FRONT, mtu: 1500, to: CLIENT_ROUTER, from: FRONT_MAC };
        let back =
            Route { result: 0, interface: BACK, mtu: 1450, to: BACKEND_ROUTER, from: BACK_MAC };
        let mut world = Self { opening, established, services: Vec::new(), front, back };
        world.routes();
        world.interfaces();
        host::knobs(|knobs| (knobs.random, knobs.nanoseconds) = (ground.random, 1 << 40));
        let mut settings = types::settings { trace_one_in: 1, ..Default::default() };
        settings.hash_key = *b"0123456789abcdef";
        host::put("settings", 0, &settings);
        world.own(true);
        listen(true);
        for wish in ground.services.iter().take(6) {
            world.serve(wish);
        }
        world
    }

    fn interfaces(&self) {
        let plain =
            |redirect| types::interface { redirect, mtu: 1500, transmits: 1, ..Default::default() };
        host::put("interfaces", FRONT, &types::interface { address: FRONT_MAC, ..plain(FRONT) });
        host::put("interfaces", BACK, &plain(BACK));
        let tag = types::interface {
            vlan: 77_u16.to_be(),
            vlan_protocol: 0x8100_u16.to_be(),
            ..plain(BACK)
        };
        host::put("interfaces", TAGGED, &tag);
        host::put("interfaces", MUTE, &types::interface { transmits: 0, ..plain(MUTE) });
    }

    fn routes(&self) {
        host::set_routes(vec![
            (ip("198.51.100.0"), 24, self.front),
            (ip("2001:db8:c::"), 48, self.front),
            (ip("10.1.0.0"), 16, self.back),
            (ip("fd00:1::"), 48, self.back),
        ]);
    }

    fn own(&self, addresses: bool) {
        host::change("settings", 0, |settings: &mut types::settings| {
            let of = |text| if addresses { address(ip(text)) } else { host::value_of(&[0; 16]) };
            settings.tunnel_source_v4 = of(TUNNELS[0]);
            settings.tunnel_source_v6 = of(TUNNELS[1]);
            settings.self_v4 = of(SELVES[0]);
            settings.self_v6 = of(SELVES[1]);
        });
    }

    /// Puts a service with its backends, its table and its addresses into the maps.
    fn serve(&mut self, wish: &Wish) {
        let number = self.services.len() as u32;
        let slot = number + 1;
        let first_backend = 1 + number * BACKENDS_EACH;
        let backends = u32::from(wish.backends) % (BACKENDS_EACH + 1);
        let mode = wish.mode % 3;
        let protocol = if wish.udp { UDP } else { TCP };
        // Services of one family share the VIP, the backends and the sources.
        let vip = ip(if wish.v6 { "2001:db8:80::80" } else { "192.0.2.80" });
        let source = types::source {
            address: address(ip(TUNNELS[usize::from(wish.v6)])),
            port_min: 20_000,
            port_max: 20_000 + u16::from(wish.ports % 16),
            zero: 0,
        };
        host::put("sources", slot, &source);
        let is_v6 = wish.v6 != (mode == 2 && wish.crossed);
        for backend in 0..backends {
            let text = if is_v6 { "fd00:1::1" } else { "10.1.0.1" };
            let mut octets: [u8; 16] = host::value_of(host::bytes_of(&address(ip(text))));
            octets[15] += backend as u8;
            let value = types::backend {
                address: host::value_of(&octets),
                port: if mode == 2 { 443 + number as u16 } else { 8443 }.to_be(),
                state: types::backend_state::BACKEND_ACTIVE.0 as u8,
                service: slot,
                weight: backend + 1,
                sources_first: slot as u16,
                sources_count: u16::from(mode == 0),
                ..Default::default()
            };
            host::put("backends", first_backend + backend, &value);
        }
        let table = types::table { first: number << TABLE_BITS, bits: TABLE_BITS };
        for bucket in 0..1 << TABLE_BITS {
            let first = if backends == 0 { 0 } else { first_backend + bucket % backends };
            host::put("buckets", table.first + bucket, &types::bucket { first, second: 0 });
        }
        let vip = SocketAddr::new(vip, 443 + number as u16);
        let key = types::service_key {
            vip: address(vip.ip()),
            port: vip.port().to_be(),
            protocol,
            ..Default::default()
        };
        let value = types::service {
            key,
            mode,
            algorithm: wish.algorithm % 4,
            ranged: u8::from(wish.ranged),
            table,
            affinity: if wish.affinity { 100 } else { 0 },
            connections_max: limit(wish.connections_max),
            backend_connections_max: limit(wish.backend_connections_max),
            ..Default::default()
        };
        let served = Served { slot, vip, protocol, value, first_backend, backends };
        if wish.ranged {
            served.allow(slot);
        }
        served.restore();
        self.services.push(served);
    }

    fn served(&self, number: u8) -> Option<&Served> {
        self.services.get(usize::from(number) % self.services.len().max(1))
    }

    /// Follows a change from outside.
    pub fn change(&mut self, change: &Change) {
        match *change {
            Change::Backend { backend, state } => {
                host::change(
                    "backends",
                    1 + u32::from(backend) % (BACKENDS - 1),
                    |known: &mut types::backend| {
                        if known.service != 0 {
                            known.state = state % 4;
                        }
                    },
                );
            }
            Change::Route { to_backends, result, mtu, interface } => {
                let route = if to_backends { &mut self.back } else { &mut self.front };
                // Every answer that the kernel may give, the good ones more often.
                route.result = if result > 12 { 0 } else { u32::from(result) };
                route.mtu = 68 + u32::from(mtu) * 8;
                route.interface = 1 + u32::from(interface % 5);
                self.routes();
            }
            Change::Rate { flows } => {
                host::change("settings", 0, |settings: &mut types::settings| {
                    settings.new_flows_rate = u32::from(flows);
                });
            }
            Change::Socket { state } => {
                host::knobs(|knobs| knobs.socket = u32::from(state % 13));
            }
            Change::Unheard { unheard } => {
                host::knobs(|knobs| knobs.unheard = u32::from(unheard));
            }
            Change::Listened { listens } => listen(listens),
            Change::Own { addresses } => self.own(addresses),
            Change::Replace { service, .. }
            | Change::Limits { service, .. }
            | Change::Range { service, .. }
            | Change::Algorithm { service, .. }
            | Change::Remove { service }
            | Change::Restore { service } => {
                if let Some(served) = self.served(service) {
                    served.change(change);
                }
            }
        }
    }
}

impl Served {
    /// Its key and its value, as the control writes them.
    fn restore(&self) {
        host::put("services", self.slot, &self.value);
        host::insert("service_index", &self.value.key, &self.slot);
    }

    /// Every second address of the clients' network.
    fn allow(&self, slot: u32) {
        let client = ip(if self.vip.is_ipv6() { "2001:db8:c::" } else { "198.51.100.0" });
        let prefix_length = if self.vip.is_ipv6() { 32 + 126 } else { 32 + 96 + 30 };
        let key = types::range_key { prefix_length, service: slot, client: address(client) };
        host::insert("source_ranges", &key, &1_u8);
    }

    fn edit(&self, change: impl FnOnce(&mut types::service)) {
        host::change("services", self.slot, change);
    }

    fn change(&self, change: &Change) {
        match *change {
            Change::Replace { from, to, .. } if self.backends > 0 => {
                let of = |number: u8| self.first_backend + u32::from(number) % self.backends;
                for bucket in 0..1 << TABLE_BITS {
                    let slot = self.value.table.first + bucket;
                    host::change("buckets", slot, |hops: &mut types::bucket| {
                        if hops.first == of(from) {
                            *hops = types::bucket { first: of(to), second: of(from) };
                        }
                    });
                }
            }
            Change::Limits { connections_max, backend_connections_max, .. } => {
                self.edit(|service| {
                    service.connections_max = limit(connections_max);
                    service.backend_connections_max = limit(backend_connections_max);
                });
            }
            Change::Range { ranged, .. } => self.edit(|service| service.ranged = ranged.into()),
            Change::Algorithm { algorithm, .. } => {
                self.edit(|service| service.algorithm = algorithm % 4);
            }
            Change::Remove { .. } => {
                host::remove("service_index", &self.value.key);
                host::put("services", self.slot, &types::service::default());
            }
            Change::Restore { .. } => self.restore(),
            _ => {}
        }
    }
}

/// A client that a packet may claim to be. Some are what no client is: a backend, the VIP itself.
pub fn client(number: u8, port: u8, is_v6: bool) -> SocketAddr {
    const CLIENTS: [[&str; 2]; 8] = [
        ["198.51.100.1", "2001:db8:c::1"],
        ["198.51.100.2", "2001:db8:c::2"],
        ["198.51.100.3", "2001:db8:c::3"],
        ["198.51.100.9", "2001:db8:c::9"],
        ["10.1.0.1", "fd00:1::1"],
        ["192.0.2.80", "2001:db8:80::80"],
        ["10.0.0.1", "fd00:f::1"],
        ["203.0.113.1", "2001:db8:ffff::1"],
    ];
    const PORTS: [u16; 8] = [1000, 1001, 1002, 1003, 8443, 443, 20_000, 444];
    let address = CLIENTS[usize::from(number) % CLIENTS.len()][usize::from(is_v6)];
    SocketAddr::new(ip(address), PORTS[usize::from(port) % PORTS.len()])
}

/// The protocol of ICMP in the family of an address.
pub fn is_icmp(protocol: u8) -> bool {
    protocol == ICMP || protocol == crate::packets::ICMPV6
}
