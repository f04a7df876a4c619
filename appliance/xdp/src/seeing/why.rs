//! Why packets of a client go where they go: what the program would find, in its order.
//!
//! Without a program, or for a service that the relay carries, the same is said from the snapshot:
//! the relay chooses by the same table.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use haflinger_core::flow::{client_hash, flow_hash};
use haflinger_core::{
    Algorithm, Backend, BackendState, ForwardingMode, Service, ServiceKey, Snapshot, StateReason,
};
use ipnet::IpNet;

use super::choice::{Because, Chooser};
use super::reasons::{Reason, reason};
use super::record::{self, FlowView};
use super::{SeeError, XdpHandle};
use crate::engine::{Engine, now_secs};
use crate::program::types;
use crate::words;

/// What decides over packets of one client to one address.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Why {
    /// The client.
    pub client: SocketAddr,
    /// Where its packets go.
    pub to: ServiceKey,
    /// The object whose service it is; `None`: no service of this host.
    pub object: Option<String>,
    /// Services of this host at the same address, when there is none at this port.
    pub neighbours: Vec<ServiceKey>,
    /// How its packets are forwarded.
    pub mode: Option<ModeView>,
    /// Why no packet goes by XDP.
    pub fault: Option<Arc<str>>,
    /// Whether the program has the service.
    pub held: bool,
    /// Whether the client is served.
    pub clients: Option<Clients>,
    /// The service's connections on this host.
    pub connections: Option<Limit>,
    /// The client's bucket.
    pub bucket: Option<Bucket>,
    /// What a new flow would get.
    pub new_flow: Option<NewFlow>,
    /// The flow that there is.
    pub flow: Option<FlowView>,
    /// That flow's backend.
    pub flow_backend: Option<Hop>,
    /// The last time that a packet with these addresses was refused.
    pub refusal: Option<Refusal>,
}

/// A service's mode.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ModeView {
    /// In force.
    pub mode: ForwardingMode,
    /// Asked for.
    pub asked: ForwardingMode,
    /// Why the two differ.
    pub because: Option<String>,
    /// How the backend of a new flow is chosen.
    pub algorithm: Algorithm,
}

/// Source ranges and what they say of the client.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Clients {
    /// Ranges of the service; 0: every client is served.
    pub ranges: usize,
    /// Whether the client is served.
    pub served: bool,
    /// The narrowest range that it is within.
    pub by: Option<IpNet>,
}

/// Connections against their limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Limit {
    /// Now.
    pub connections: u32,
    /// At most; `None`: unlimited.
    pub max: Option<u32>,
}

/// Whose table it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// The program's.
    Program,
    /// The snapshot's, by which the relay chooses.
    Snapshot,
}

/// Where a hash leads.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Bucket {
    /// Its number.
    pub number: u32,
    /// Buckets of the table.
    pub of: u32,
    /// Whose table.
    pub table: Table,
    /// Its owner.
    pub first: Option<Hop>,
    /// Its owner before.
    pub second: Option<Hop>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Hop {
    /// Its address.
    pub address: SocketAddr,
    /// Its name, while the service has it.
    pub name: Option<Arc<str>>,
    /// Its weight.
    pub weight: u32,
    /// Whether it takes flows; `None`: the service does not have it any more.
    pub state: Option<BackendState>,
    /// Why it is in that state.
    pub reasons: Vec<StateReason>,
    /// Its connections on this host; `None` where the relay counts them.
    pub connections: Option<Limit>,
}

/// What a new flow would get.
#[derive(Clone, Debug, serde::Serialize)]
pub struct NewFlow {
    /// The backend; `None`: it would be refused.
    pub backend: Option<Hop>,
    /// Why it would be refused.
    pub refused: Option<Reason>,
    /// Why that one, in words.
    pub because: String,
    /// The answer holds for as long as the backends do; otherwise other flows may change it.
    pub settled: bool,
}

/// A packet that was refused.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// How long ago, in seconds.
    pub secs_ago: u32,
}

impl XdpHandle {
    /// What decides over packets from `client` to `to`. Asks the kernel a handful of times.
    ///
    /// # Errors
    ///
    /// The kernel does not answer. Without a program there is an answer all the same.
    pub fn why(
        &self,
        client: SocketAddr,
        to: ServiceKey,
        snapshot: &Snapshot,
    ) -> Result<Why, SeeError> {
        let service = snapshot.services.get(&to);
        let engine = self.engine().ok();
        let key = self.shared.settings.borrow().flow_hash_key;
        let by_client = service.is_some_and(|s| matches!(s.algorithm, Algorithm::Source { .. }));
        let hash = match by_client {
            true => client_hash(&key, to.protocol, client.ip(), to.socket_addr()),
            false => flow_hash(&key, to.protocol, client, to.socket_addr()),
        };
        let mut why = from_snapshot(client, to, service, snapshot, hash);
        why.fault = engine.is_none().then(|| self.absence());
        if let Some(engine) = engine {
            let now = u32::try_from(now_secs()).unwrap_or(u32::MAX);
            Seen { engine: &engine, client, to, snapshot, now }.add(&mut why, hash)?;
        }
        Ok(why)
    }
}

/// What the snapshot alone says.
fn from_snapshot(
    client: SocketAddr,
    to: ServiceKey,
    service: Option<&Arc<Service>>,
    snapshot: &Snapshot,
    hash: u64,
) -> Why {
    let neighbours = snapshot.services.keys().filter(|key| key.vip == to.vip);
    let clients = service.map(|service| clients(&service.source_ranges, client.ip()));
    let bucket = service.and_then(|service| bucket_of(service, hash));
    let relayed = service.filter(|service| !service.mode.is_xdp());
    let new_flow = relayed.map(|service| relayed_flow(service, bucket.as_ref(), clients.as_ref()));
    Why {
        client,
        to,
        object: service.map(|service| service.object.to_string()),
        neighbours: if service.is_none() { neighbours.copied().collect() } else { Vec::new() },
        mode: service.map(|service| ModeView {
            mode: service.mode,
            asked: service.asked_mode,
            because: service.mode_reason.as_ref().map(ToString::to_string),
            algorithm: service.algorithm,
        }),
        fault: None,
        held: false,
        clients,
        connections: None,
        bucket,
        new_flow,
        flow: None,
        flow_backend: None,
        refusal: None,
    }
}

fn clients(ranges: &[IpNet], client: IpAddr) -> Clients {
    let within = ranges.iter().filter(|range| range.contains(&client));
    let by = within.max_by_key(|range| range.prefix_len()).copied();
    Clients { ranges: ranges.len(), served: ranges.is_empty() || by.is_some(), by }
}

/// The snapshot's bucket of a hash.
fn bucket_of(service: &Service, hash: u64) -> Option<Bucket> {
    let table = &service.backends.table;
    let of = u32::try_from(table.bucket_count()).ok()?;
    let number = u32::try_from(hash.checked_shr(u64::BITS - of.checked_ilog2()?)?).ok()?;
    let hops = table.hops(hash)?;
    let hop = |address: &SocketAddr| hop(service.backends.get(address), *address, None);
    let (first, second) = (Some(hop(hops.first)), hops.second.map(hop));
    Some(Bucket { number, of, table: Table::Snapshot, first, second })
}

fn hop(known: Option<&Backend>, address: SocketAddr, connections: Option<Limit>) -> Hop {
    Hop {
        address,
        name: known.map(|known| known.name.clone()),
        weight: known.map_or(0, |known| known.weight),
        state: known.map(|known| known.state),
        reasons: known.map(|known| known.reasons.clone()).unwrap_or_default(),
        connections,
    }
}

/// What the relay would do, as far as the table decides.
fn relayed_flow(service: &Service, bucket: Option<&Bucket>, clients: Option<&Clients>) -> NewFlow {
    let refused = |number: u32, because: &str| NewFlow {
        backend: None,
        refused: Some(reason(number)),
        because: because.to_owned(),
        settled: true,
    };
    if clients.is_some_and(|clients| !clients.served) {
        return refused(types::reason::REASON_SOURCE_RANGE.0, "the relay refuses the client");
    }
    let Some(first) = bucket.and_then(|bucket| bucket.first.clone()) else {
        return refused(types::reason::REASON_NO_BACKEND.0, "no backend of the service is active");
    };
    let (backend, settled, because) = match service.algorithm {
        Algorithm::Hash => (
            Some(first),
            true,
            "the relay takes the bucket's first hop, or another one if that does not answer or \
             is full",
        ),
        Algorithm::Source { .. } => (
            Some(first),
            false,
            "the relay takes the client's former backend if it remembers one, else the bucket's \
             first hop",
        ),
        Algorithm::RoundRobin => (None, false, "the relay gives each backend its turn"),
        Algorithm::LeastConnections => {
            (None, false, "the relay takes the backend with the fewest connections for its weight")
        }
    };
    NewFlow { backend, refused: None, because: because.to_owned(), settled }
}

/// One question to a running program.
struct Seen<'a> {
    engine: &'a Engine,
    client: SocketAddr,
    to: ServiceKey,
    snapshot: &'a Snapshot,
    now: u32,
}

impl Seen<'_> {
    fn add(&self, why: &mut Why, hash: u64) -> Result<(), SeeError> {
        let kernel = |what| move |source| SeeError::Kernel { what, source };
        let maps = &self.engine.maps;
        let key = words::flow_key(self.client, self.to.socket_addr(), self.to.protocol);
        let reference = maps.flow_index.get(&key).map_err(kernel("the index of flows"))?;
        let flow = reference.and_then(|reference| record::copy(maps, reference.record));
        // A reference may be stale: the record decides.
        let flow = flow
            .filter(|flow| crate::mapped::bytes_of(&flow.client) == crate::mapped::bytes_of(&key));
        why.flow_backend = flow.as_ref().map(|flow| self.backend_of(flow));
        why.flow = flow.and_then(|flow| record::view(maps, self.snapshot, &flow, self.now));
        let refusal = self.engine.loaded.refusals.get(&key).map_err(kernel("the refusals"))?;
        why.refusal = refusal.map(|refusal| Refusal {
            reason: reason(refusal.reason),
            secs_ago: self.now.saturating_sub(refusal.at),
        });
        let service = words::service_key(&self.to);
        let slot = maps.service_index.get(&service).map_err(kernel("the index of services"))?;
        if let Some(slot) = slot {
            self.add_service(why, slot, hash);
        }
        Ok(())
    }

    fn backend_of(&self, flow: &types::flow) -> Hop {
        let maps = &self.engine.maps;
        let address = words::socket(&flow.backend, flow.backend_port);
        let max = maps.services.read(flow.service).backend_connections_max;
        let limit = Limit {
            connections: maps.backend_loads.read(flow.backend_id).connections,
            max: (max > 0).then_some(max),
        };
        let service = self.snapshot.services.get(&self.to);
        hop(service.and_then(|service| service.backends.get(&address)), address, Some(limit))
    }

    /// What the program has of the service.
    fn add_service(&self, why: &mut Why, slot: u32, hash: u64) {
        let maps = &*self.engine.maps;
        let service = maps.services.read(slot);
        // A slot may have gone to another service since the index was asked.
        if words::service_of(&service.key) != Some(self.to) {
            return;
        }
        why.held = true;
        let limit = |connections, max: u32| Limit { connections, max: (max > 0).then_some(max) };
        let load = maps.service_loads.read(slot).connections;
        why.connections = Some(limit(load, service.connections_max));
        let client = words::address(self.client.ip());
        let affinities = Some(&self.engine.loaded.affinities);
        let now = self.now;
        let chooser = Chooser { maps, affinities, slot, service, client, hash, now };
        let known = self.snapshot.services.get(&self.to);
        let to_hop = |backend: u32| {
            let record = maps.backends.read(backend);
            (backend != 0 && record.service == slot).then(|| {
                let address = words::socket(&record.address, record.port);
                let connections =
                    limit(chooser.connections(backend), service.backend_connections_max);
                hop(known.and_then(|s| s.backends.get(&address)), address, Some(connections))
            })
        };
        why.bucket = (chooser.buckets() > 0).then(|| {
            let hops = chooser.hops(chooser.bucket());
            Bucket {
                number: chooser.bucket(),
                of: chooser.buckets(),
                table: Table::Program,
                first: to_hop(hops.first),
                second: to_hop(hops.second),
            }
        });
        let denied = why.clients.as_ref().is_some_and(|clients| !clients.served);
        let choice = match denied {
            true => Err(types::reason::REASON_SOURCE_RANGE.0),
            false => chooser.choose(),
        };
        why.new_flow = Some(match choice {
            Ok((backend, because)) => NewFlow {
                backend: to_hop(backend),
                refused: None,
                because: words_of(because),
                settled: !matches!(because, Because::Least { .. } | Because::Turn),
            },
            Err(number) => NewFlow {
                backend: None,
                refused: Some(reason(number)),
                because: reason(number).meaning.to_owned(),
                settled: true,
            },
        });
    }
}

fn words_of(because: Because) -> String {
    match because {
        Because::First => "the bucket's first hop takes new flows".to_owned(),
        Because::Second => "the bucket's first hop takes none, its second does".to_owned(),
        Because::OtherBucket => {
            "neither hop of the bucket takes any, the first hop of another bucket does".to_owned()
        }
        Because::Remembered { left_secs } => {
            format!("it served this client before, which is remembered for {left_secs} s more")
        }
        Because::Least { candidates } => format!(
            "it has the fewest connections for its weight of {candidates} buckets that the hash \
             draws; other flows may change that"
        ),
        Because::Turn => {
            "it is its turn, unless another new flow of the service comes first".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_range_that_admits_is_named() {
        let ranges: Vec<IpNet> =
            ["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"].map(|r| r.parse().unwrap()).into();
        let of = |client: &str| clients(&ranges, client.parse().unwrap());
        assert_eq!(of("10.1.2.3").by, Some(ranges[1]));
        assert_eq!(of("10.9.2.3").by, Some(ranges[0]));
        assert_eq!(of("192.0.2.1"), Clients { ranges: 3, served: false, by: None });
        let open = clients(&[], "192.0.2.1".parse().unwrap());
        assert!(open.served && open.by.is_none());
    }
}
