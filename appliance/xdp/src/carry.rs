//! What an earlier version of the maps holds, carried into this one.
//!
//! Sizes are part of a version: other sizes make other maps. Where the types are the same, services,
//! backends, tables and flows are copied before the program is replaced, while the old one forwards
//! on; what begins in between, and what does not fit, is dropped and said. Maps of other types are
//! given up as a whole, with the number of flows in them where that can be told.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use crate::cleanup::versions;
use crate::layout::Layout;
use crate::mapped::{Mapped, Plain, bytes_of};
use crate::maps::{Index, Maps};
use crate::program::types;
use crate::settings::Capacities;
use crate::sys;

/// What became of earlier maps.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Carried {
    /// Live flows that go on.
    pub flows: u64,
    /// Live flows that were lost.
    pub dropped: u64,
    /// Why more was lost than what began meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Copies the newest earlier version into fresh maps. `None` when there is none.
pub(crate) fn carry(
    pin_dir: &Path,
    layout: &Layout,
    maps: &Maps,
    capacities: &Capacities,
) -> Option<Carried> {
    let earlier: Vec<String> =
        versions(pin_dir).into_iter().filter(|known| *known != layout.version).collect();
    let alike = earlier.iter().find(|version| layout.has_types_of(version));
    let Some(version) = alike else {
        let dropped = earlier.iter().filter_map(|version| live(&pin_dir.join(version))).sum();
        let reason = Some("this release arranges its maps in another way".to_owned());
        return earlier.first().map(|_| Carried { flows: 0, dropped, reason });
    };
    let directory = pin_dir.join(version);
    let carried = copy(&directory, maps, capacities);
    Some(carried.unwrap_or_else(|error| {
        let dropped = live(&directory).unwrap_or_default();
        Carried { flows: 0, dropped, reason: Some(error.to_string()) }
    }))
}

/// Removes every other version, once no program uses it; how many flows began in it after `since`,
/// in seconds of the program's clock.
pub(crate) fn give_up(pin_dir: &Path, layout: &Layout, since: u64) -> io::Result<u64> {
    let mut lost = 0;
    for version in versions(pin_dir).into_iter().filter(|known| *known != layout.version) {
        let directory = pin_dir.join(&version);
        if layout.has_types_of(&version)
            && let Ok(flows) = array::<types::flow>(&directory, "flows")
        {
            let new = |flow: &types::flow| is_live(flow) && u64::from(flow.created) > since;
            lost += (0..flows.len()).filter(|at| new(&flows.read(*at))).count() as u64;
        }
        fs::remove_dir_all(directory)?;
    }
    Ok(lost)
}

fn array<T: Plain>(directory: &Path, name: &str) -> io::Result<Mapped<T>> {
    let map = sys::open(&directory.join(name))?;
    let shape = sys::map_shape(map.as_fd())?;
    if shape.value_bytes as usize != size_of::<T>() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the map has another layout"));
    }
    Mapped::of_map(map, shape.entries)
}

fn index<K: Plain, V: Plain>(directory: &Path, name: &str) -> io::Result<Index<K, V>> {
    Index::of_map(sys::open(&directory.join(name))?)
}

fn is_live(flow: &types::flow) -> bool {
    let lives = [types::record_state::RECORD_LIVE, types::record_state::RECORD_MOVING];
    lives.iter().any(|state| state.0 == flow.state)
}

/// Live flows of a version whose records are as long as ours.
fn live(directory: &Path) -> Option<u64> {
    let flows = array::<types::flow>(directory, "flows").ok()?;
    Some((0..flows.len()).filter(|at| is_live(&flows.read(*at))).count() as u64)
}

fn copy(directory: &Path, maps: &Maps, capacities: &Capacities) -> io::Result<Carried> {
    let services = array(directory, "services")?;
    let loads = array::<types::service_load>(directory, "service_loads")?;
    let buckets = array(directory, "buckets")?;
    let backends = array(directory, "backends")?;
    let sources = array(directory, "sources")?;
    // Nothing is written before everything is known to fit.
    fits(&services, &maps.services, "services_max")?;
    fits(&buckets, &maps.buckets, "buckets_max")?;
    fits(&backends, &maps.backends, "backends_max")?;
    copy_array(&services, &maps.services);
    copy_array(&buckets, &maps.buckets);
    copy_array(&backends, &maps.backends);
    copy_array(&sources, &maps.sources);
    for at in 0..loads.len() {
        let types::service_load { turn, .. } = loads.read(at);
        maps.service_loads.write(at, &types::service_load { connections: 0, turn });
    }
    copy_index(&index(directory, "service_index")?, &maps.service_index)?;
    copy_index(&index(directory, "source_ranges")?, &maps.source_ranges)?;
    copy_flows(directory, maps, capacities)
}

/// Whether what is in use of the old array is in the new one.
fn fits<T: Plain>(old: &Mapped<T>, new: &Mapped<T>, key: &str) -> io::Result<()> {
    let is_used = |at: u32| bytes_of(&old.read(at)).iter().any(|byte| *byte != 0);
    if (new.len()..old.len()).any(is_used) {
        let message = format!("xdp.{key} is below what is in use");
        return Err(io::Error::new(io::ErrorKind::StorageFull, message));
    }
    Ok(())
}

fn copy_array<T: Plain>(old: &Mapped<T>, new: &Mapped<T>) {
    for at in 0..old.len().min(new.len()) {
        new.write(at, &old.read(at));
    }
}

fn copy_index<K: Plain, V: Plain>(old: &Index<K, V>, new: &Index<K, V>) -> io::Result<()> {
    for key in old.keys()? {
        if let Some(value) = old.get(&key)? {
            new.insert(&key, &value)?;
        }
    }
    Ok(())
}

/// Copies live flows: each record to the next free one of its region, then the keys that lead to it.
fn copy_flows(directory: &Path, maps: &Maps, capacities: &Capacities) -> io::Result<Carried> {
    let old = array::<types::flow>(directory, "flows")?;
    let mut carried = Carried::default();
    let mut moved = vec![None; old.len() as usize];
    let opening_end = capacities.opening_flows;
    let end = maps.flows.len();
    let mut next = [0, opening_end];
    for at in 0..old.len() {
        let flow = old.read(at);
        if !is_live(&flow) {
            continue;
        }
        let is_answered = u32::from(flow.phase) != types::phase::PHASE_OPENING.0;
        let (region, bound) = if is_answered { (1, end) } else { (0, opening_end) };
        if next[region] == bound {
            carried.dropped += 1;
            let key = if is_answered { "flows_max" } else { "opening_flows_max" };
            carried.reason = Some(format!("xdp.{key} is below what is in use"));
            continue;
        }
        let record = types::flow { state: types::record_state::RECORD_LIVE.0, ..flow };
        maps.flows.write(next[region], &record);
        count_in(maps, &record);
        moved[at as usize] = Some(next[region]);
        next[region] += 1;
        carried.flows += 1;
    }
    let index = index::<types::flow_key, types::flow_reference>(directory, "flow_index")?;
    for key in index.keys()? {
        let Some(reference) = index.get(&key)? else { continue };
        if let Some(Some(record)) = moved.get(reference.record as usize) {
            let reference = types::flow_reference { record: *record, ..reference };
            maps.flow_index.insert(&key, &reference)?;
        }
    }
    Ok(carried)
}

fn count_in(maps: &Maps, flow: &types::flow) {
    let service = maps.service_loads.read(flow.service);
    let connections = service.connections + 1;
    maps.service_loads.write(flow.service, &types::service_load { connections, ..service });
    let connections = maps.backend_loads.read(flow.backend_id).connections + 1;
    maps.backend_loads.write(flow.backend_id, &types::backend_load { connections });
}
