//! Reading back what an earlier run of the daemon wrote.

use std::collections::HashMap;

use super::{Control, Held, HeldBackend};
use crate::buddy::Region;
use crate::program::types;
use crate::slots::Slots;
use crate::words;

impl Control {
    /// Rebuilds what is held from the maps. Flows are untouched; what is damaged is dropped.
    pub(super) fn restore(&mut self) {
        let maps = self.maps.clone();
        let mut by_slot: HashMap<u32, Held> = HashMap::new();
        for key in maps.service_index.keys().unwrap_or_default() {
            let Ok(Some(slot)) = maps.service_index.get(&key) else { continue };
            let record = maps.services.read(slot);
            let known = words::service_of(&record.key);
            if known.is_none() || known != words::service_of(&key) || by_slot.contains_key(&slot) {
                tracing::warn!(slot, "a service in the kernel leads nowhere and is dropped");
                let _ = maps.service_index.remove(&key);
                continue;
            }
            let region = Region { first: record.table.first, bits: record.table.bits };
            let region = (region.bits > 0 && self.regions.claim(region)).then_some(region);
            if region.is_none() {
                // Packets must not be led by what is not ours.
                maps.services
                    .write(slot, &types::service { table: types::table::default(), ..record });
            }
            by_slot.insert(slot, Held { slot, region, unconfirmed: true, ..Held::default() });
        }
        self.restore_backends(&mut by_slot);
        self.restore_ranges(&mut by_slot);
        for slot in 0..maps.services.len() {
            // Its index key is gone, but flows name it still.
            if maps.service_loads.read(slot).connections > 0 {
                by_slot.entry(slot).or_insert_with(|| gone(slot));
            }
        }
        self.service_slots =
            Slots::restored(0, maps.services.len(), |slot| by_slot.contains_key(&slot));
        for (slot, held) in by_slot {
            let key = words::service_of(&maps.services.read(slot).key);
            match key.filter(|key| !self.services.contains_key(key)) {
                Some(key) => {
                    if held.left.is_some() {
                        self.waiting.insert(key);
                    }
                    self.services.insert(key, held);
                }
                // Nobody knows whose it was; it comes back when its last flow has ended.
                None => self.retire(held),
            }
        }
    }

    fn restore_backends(&mut self, by_slot: &mut HashMap<u32, Held>) {
        let maps = self.maps.clone();
        let mut taken = vec![false; maps.backends.len() as usize];
        for slot in 1..maps.backends.len() {
            let record = maps.backends.read(slot);
            let is_damaged = record.service >= maps.services.len();
            if is_damaged {
                tracing::warn!(slot, "a backend in the kernel is of no service and is dropped");
                maps.backends.write(slot, &types::backend::default());
            }
            if is_damaged || u32::from(record.state) == types::backend_state::BACKEND_FREE.0 {
                // Freed, but a flow was faster.
                if maps.backend_loads.read(slot).connections > 0 {
                    taken[slot as usize] = true;
                    self.retired.backends.push_back((0, slot));
                }
                continue;
            }
            taken[slot as usize] = true;
            self.sources.restore(&maps, (record.sources_first, record.sources_count));
            let held = by_slot.entry(record.service).or_insert_with(|| gone(record.service));
            let address = words::socket(&record.address, record.port);
            let backend = HeldBackend { slot, left: held.left, route: None };
            if let Some(double) = held.backends.insert(address, backend) {
                self.retired.backends.push_back((0, double.slot));
            }
        }
        self.backend_slots = Slots::restored(1, maps.backends.len(), |at| taken[at as usize]);
    }

    fn restore_ranges(&mut self, by_slot: &mut HashMap<u32, Held>) {
        for key in self.maps.source_ranges.keys().unwrap_or_default() {
            let range = words::range_of(&key);
            match (by_slot.get_mut(&key.service), range) {
                (Some(held), Some(range)) => {
                    self.ranges_used += u32::from(held.ranges.insert(range));
                }
                _ => {
                    let _ = self.maps.source_ranges.remove(&key);
                }
            }
        }
    }

    fn retire(&mut self, held: Held) {
        self.retired.backends.extend(held.backends.values().map(|backend| (0, backend.slot)));
        self.retired.services.push_back((0, held.slot));
        self.retired.regions.extend(held.region.map(|region| (0, region)));
    }
}

/// A service that no packet finds.
fn gone(slot: u32) -> Held {
    Held { slot, left: Some(0), ..Held::default() }
}
