//! The flows that the program holds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::str::FromStr;

use haflinger_core::{ServiceKey, Snapshot};

use super::ask::{AskError, Chosen, Endpoint};
use super::record::{self, FlowView};
use super::{SeeError, XdpHandle};
use crate::control::Fill;
use crate::engine::now_secs;
use crate::maps::Maps;
use crate::program::types;
use crate::sweep::PHASES;
use crate::words;

/// Flows that one answer shows: a page of text of a megabyte.
pub const FLOWS_SHOWN_MAX: usize = 10_000;

/// Which flows come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top {
    /// Those with the most bytes, both directions together.
    Bytes,
    /// Those with the most packets.
    Packets,
    /// Those with the most bytes a second, over their life.
    Rate,
}

impl FromStr for Top {
    type Err = AskError;

    fn from_str(text: &str) -> Result<Self, AskError> {
        match text {
            "bytes" => Ok(Self::Bytes),
            "packets" => Ok(Self::Packets),
            "rate" => Ok(Self::Rate),
            _ => Err(AskError { text: text.to_owned(), expected: "bytes, packets or rate" }),
        }
    }
}

impl Top {
    fn weight(self, flow: &types::flow, now: u32) -> u64 {
        match self {
            Self::Bytes => flow.bytes[0].saturating_add(flow.bytes[1]),
            Self::Packets => u64::from(flow.packets[0]) + u64::from(flow.packets[1]),
            Self::Rate => record::bytes_per_sec(flow, now.saturating_sub(flow.created)),
        }
    }
}

/// Which flows, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowQuery {
    /// Of these services; `None`: of all.
    pub service: Option<Chosen>,
    /// Of this client; `None`: of all.
    pub client: Option<Endpoint>,
    /// The greatest ones; `None`: any.
    pub top: Option<Top>,
    /// Flows to be shown, 1 to [`FLOWS_SHOWN_MAX`].
    pub limit: usize,
}

/// The flows of a host, as one pass over the records found them. One that moves from the opening
/// region to the established one meanwhile may be counted twice.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Flows {
    /// Live flows by phase.
    pub live: BTreeMap<&'static str, u32>,
    /// Records of flows that have not been answered.
    pub opening: Fill,
    /// Records of all others.
    pub established: Fill,
    /// Flows that were asked for, of which at most so many are shown as asked for.
    pub matching: u32,
    /// Those shown.
    pub flows: Vec<FlowView>,
}

impl XdpHandle {
    /// The flows that the program holds. Blocks for one pass over all records: a tenth of a second
    /// for a million.
    ///
    /// # Errors
    ///
    /// No program runs, the services are not there, or the limit lies outside of its bounds.
    pub fn flows(&self, query: &FlowQuery, snapshot: &Snapshot) -> Result<Flows, SeeError> {
        if !(1..=FLOWS_SHOWN_MAX).contains(&query.limit) {
            let (value, max) = (query.limit as u64, FLOWS_SHOWN_MAX as u64);
            return Err(SeeError::Bounds { what: "limit", value, max });
        }
        let services = match &query.service {
            Some(chosen) => {
                let services = chosen.services(snapshot);
                if services.is_empty() {
                    return Err(SeeError::NoService(chosen.clone()));
                }
                Some(services)
            }
            None => None,
        };
        let engine = self.engine()?;
        let filter = Filter { services, client: query.client };
        let now = u32::try_from(now_secs()).unwrap_or(u32::MAX);
        let pass = Pass::over(&engine.maps, self.opening_records(), &filter, query, now);
        Ok(pass.answer(&engine.maps, snapshot, now))
    }
}

/// Which flows are meant.
struct Filter {
    services: Option<Vec<ServiceKey>>,
    client: Option<Endpoint>,
}

impl Filter {
    fn admits_all(&self) -> bool {
        self.services.is_none() && self.client.is_none()
    }

    fn admits(&self, flow: &types::flow) -> bool {
        let Some(service) = record::service_of(flow) else { return false };
        let client = || words::socket(&flow.client.source, flow.client.source_port);
        self.services.as_ref().is_none_or(|services| services.contains(&service))
            && self.client.is_none_or(|known| known.is(client(), service.protocol))
    }
}

/// What one pass over the records finds.
struct Pass {
    live: [u32; PHASES.len()],
    regions: [Fill; 2],
    matching: u32,
    /// The greatest flows by weight, the least of them on top; equal ones by their record.
    chosen: BinaryHeap<Reverse<(u64, u32)>>,
}

impl Pass {
    fn over(maps: &Maps, opening: u32, filter: &Filter, query: &FlowQuery, now: u32) -> Self {
        let region = |max| Fill { used: 0, max };
        let mut pass = Self {
            live: [0; PHASES.len()],
            regions: [region(opening), region(maps.flows.len().saturating_sub(opening))],
            matching: 0,
            chosen: BinaryHeap::with_capacity(query.limit + 1),
        };
        for at in 0..maps.flows.len() {
            let (state, phase) = record::glance(maps, at);
            if !record::is_live(state) {
                continue;
            }
            if let Some(count) = pass.live.get_mut(usize::from(phase)) {
                *count += 1;
            }
            pass.regions[usize::from(at >= opening)].used += 1;
            let is_full = query.top.is_none() && pass.chosen.len() >= query.limit;
            if filter.admits_all() && is_full {
                pass.matching += 1;
                continue;
            }
            let Some(flow) = record::copy(maps, at).filter(|flow| filter.admits(flow)) else {
                continue;
            };
            pass.matching += 1;
            if !is_full {
                pass.choose(query, query.top.map_or(0, |top| top.weight(&flow, now)), at);
            }
        }
        pass
    }

    fn choose(&mut self, query: &FlowQuery, weight: u64, at: u32) {
        self.chosen.push(Reverse((weight, at)));
        if self.chosen.len() > query.limit {
            self.chosen.pop();
        }
    }

    /// The flows are read anew: of a few, all that there is to say.
    fn answer(self, maps: &Maps, snapshot: &Snapshot, now: u32) -> Flows {
        let [opening, established] = self.regions;
        let mut chosen: Vec<(u64, u32)> =
            self.chosen.into_iter().map(|Reverse(entry)| entry).collect();
        // The greatest first, equal ones in the order of their records.
        chosen.sort_by_key(|(weight, at)| (Reverse(*weight), *at));
        let flows = chosen.into_iter().filter_map(|(_, at)| {
            let flow = record::copy(maps, at)?;
            record::view(maps, snapshot, &flow, now)
        });
        Flows {
            live: PHASES.into_iter().zip(self.live).collect(),
            opening,
            established,
            matching: self.matching,
            flows: flows.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::Protocol;

    use super::*;
    use crate::settings::Capacities;

    fn flow(client: &str, bytes: u64, packets: u32, created: u32) -> types::flow {
        types::flow {
            client: words::flow_key(
                client.parse().unwrap(),
                "192.0.2.1:80".parse().unwrap(),
                Protocol::Tcp,
            ),
            state: types::record_state::RECORD_LIVE.0,
            touched: 90,
            phase: 2,
            backend_port: 8080_u16.to_be(),
            backend: words::address("10.0.0.1".parse().unwrap()),
            source: words::address("10.0.0.9".parse().unwrap()),
            source_port: 61_000_u16.to_be(),
            bytes: [bytes, 0],
            packets: [packets, 0],
            created,
            ..Default::default()
        }
    }

    /// Sixteen records, of which four are of the opening region.
    fn maps(flows: &[types::flow]) -> Maps {
        let maps = Maps::in_memory(&Capacities {
            services: 4,
            backends: 4,
            buckets: 16,
            source_ranges: 4,
            ..Capacities::default()
        });
        for (at, flow) in (2..).zip(flows) {
            maps.flows.write(at, flow);
        }
        maps
    }

    fn ask(maps: &Maps, filter: &Filter, top: Option<Top>, limit: usize) -> Flows {
        let query = FlowQuery { service: None, client: None, top, limit };
        Pass::over(maps, 4, filter, &query, 100).answer(maps, &Snapshot::default(), 100)
    }

    fn all() -> Filter {
        Filter { services: None, client: None }
    }

    fn clients(flows: &Flows) -> Vec<String> {
        flows.flows.iter().map(|flow| flow.client.to_string()).collect()
    }

    #[test]
    fn flows_are_counted_by_phase_and_region_though_few_are_shown() {
        let flows =
            [flow("10.0.0.1:1", 1, 1, 50), flow("10.0.0.2:2", 2, 1, 50), flow("[::1]:3", 3, 1, 50)];
        let answer = ask(&maps(&flows), &all(), None, 2);
        assert_eq!(clients(&answer), ["10.0.0.1:1", "10.0.0.2:2"]);
        assert_eq!((answer.live["established"], answer.matching), (3, 3));
        assert_eq!(answer.opening, Fill { used: 2, max: 4 });
        assert_eq!(answer.established, Fill { used: 1, max: 12 });
    }

    #[test]
    fn the_greatest_come_first_by_what_is_asked() {
        let flows = [
            flow("10.0.0.1:1", 500, 9, 0),
            flow("10.0.0.2:2", 900, 1, 0),
            flow("10.0.0.3:3", 400, 5, 99),
        ];
        let maps = maps(&flows);
        let top = |top| clients(&ask(&maps, &all(), Some(top), 2));
        assert_eq!(top(Top::Bytes), ["10.0.0.2:2", "10.0.0.1:1"]);
        assert_eq!(top(Top::Packets), ["10.0.0.1:1", "10.0.0.3:3"]);
        assert_eq!(top(Top::Rate), ["10.0.0.3:3", "10.0.0.2:2"]);
    }

    #[test]
    fn a_filter_leaves_the_totals_alone() {
        let maps = maps(&[flow("10.0.0.1:1", 1, 1, 0), flow("10.0.0.2:2", 1, 1, 0)]);
        let client = Filter { services: None, client: Some("10.0.0.2".parse().unwrap()) };
        let answer = ask(&maps, &client, None, 10);
        assert_eq!(clients(&answer), ["10.0.0.2:2"]);
        assert_eq!((answer.live["established"], answer.matching), (2, 1));
        let other = Filter {
            services: Some("192.0.2.1:81".parse::<Chosen>().unwrap().services(&Default::default())),
            client: None,
        };
        assert_eq!(ask(&maps, &other, None, 10).matching, 0);
    }

    #[test]
    fn records_that_are_not_live_are_not_shown() {
        let states = [
            types::record_state::RECORD_FREE,
            types::record_state::RECORD_CLAIMED,
            types::record_state::RECORD_MOVING,
        ];
        let flows: Vec<types::flow> = states
            .iter()
            .map(|state| types::flow { state: state.0, ..flow("10.0.0.1:1", 1, 1, 0) })
            .collect();
        let answer = ask(&maps(&flows), &all(), None, 10);
        assert_eq!((answer.matching, answer.flows.len()), (0, 0));
    }

    #[test]
    fn a_flow_says_how_long_it_has_been_idle_and_how_long_it_is_kept() {
        let maps = maps(&[flow("10.0.0.1:1", 4000, 1, 20)]);
        let shown = &ask(&maps, &all(), None, 10).flows[0];
        assert_eq!((shown.age_secs, shown.idle_secs, shown.left_secs), (80, 10, 7190));
        assert_eq!((shown.phase, shown.bytes_per_sec), ("established", 50));
        assert_eq!(shown.source.to_string(), "10.0.0.9:61000");
        maps.services.write(
            0,
            &types::service {
                timeouts: types::timeouts { established: 60, ..Default::default() },
                ..Default::default()
            },
        );
        assert_eq!(ask(&maps, &all(), None, 10).flows[0].left_secs, 50);
    }
}
