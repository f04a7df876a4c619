//! What `haflinger status` shows of the data path.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::audit::NarrowExit;
use crate::carry::Carried;
use crate::control::Fill;
use crate::control::report::{Refusal, ServiceReport, SourcePool};
use crate::engine::{Engine, InterfaceStatus, lock};
use crate::settings::Capacities;
use crate::sweep::PHASES;
use crate::xdp::Shared;

/// The data path at one time.
#[derive(Clone, Debug, Default, Serialize)]
pub struct XdpStatus {
    /// Whether it is wanted.
    pub enabled: bool,
    /// Why no packet is forwarded by XDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Arc<str>>,
    /// Version of what program and daemon share; under it the maps are pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// What became of an earlier version's flows, when this one took over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carried: Option<Carried>,
    /// Sizes of the maps that are asked for.
    pub capacities: Capacities,
    /// Interfaces that are asked for, and others that matter.
    pub interfaces: Vec<InterfaceStatus>,
    /// How full the maps are.
    pub fill: BTreeMap<&'static str, Fill>,
    /// Live flows by phase, as the last sweep found them.
    pub flows: BTreeMap<&'static str, u64>,
    /// Addresses that `nat` sends from.
    pub sources: Vec<SourcePool>,
    /// What is wrong with where `nat` sends from, with the remedy.
    pub source_faults: Vec<String>,
    /// Exits to `dsr` backends that carry less than clients may send.
    pub narrow_exits: Vec<NarrowExit>,
    /// Why the kernel is asked for the way of every packet, and not only after a change and once a
    /// second for each flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ways_not_remembered: Option<String>,
    /// Next hops whose neighbour entries are kept resolved.
    pub next_hops: usize,
    /// Packets by the reason of what became of them; those that never came are left out.
    pub reasons: BTreeMap<String, u64>,
    /// The same a second, over the last five or so; those that did not come are left out.
    pub reasons_per_second: BTreeMap<String, u64>,
    /// Whether packets are being traced.
    pub tracing: bool,
    /// Services in the maps.
    pub services: Vec<ServiceReport>,
    /// Services that have no room there.
    pub refused: Vec<Refusal>,
}

impl XdpStatus {
    pub(crate) fn of(shared: &Shared) -> Self {
        let settings = shared.settings.borrow().clone();
        let (enabled, capacities) = (settings.enabled, settings.capacities);
        let fault = lock(&shared.fault).clone();
        let engine = lock(&shared.engine).clone();
        let mut status = Self {
            enabled,
            fault,
            layout: None,
            carried: None,
            capacities,
            interfaces: Vec::new(),
            fill: BTreeMap::new(),
            flows: BTreeMap::new(),
            sources: Vec::new(),
            source_faults: Vec::new(),
            narrow_exits: Vec::new(),
            ways_not_remembered: None,
            next_hops: 0,
            reasons: BTreeMap::new(),
            reasons_per_second: BTreeMap::new(),
            tracing: false,
            services: Vec::new(),
            refused: Vec::new(),
        };
        if let Some(engine) = engine {
            status.fill_in(&engine);
        }
        status
    }

    fn fill_in(&mut self, engine: &Engine) {
        self.layout = Some(engine.loaded.layout.version.clone());
        self.carried = lock(&engine.carried).clone();
        self.interfaces = engine.interfaces();
        let seen = engine.reasons().filter(|(_, counted)| counted.packets > 0);
        self.reasons = seen.map(|(name, counted)| (name, counted.packets)).collect();
        self.reasons_per_second = engine.reason_rates();
        let found = lock(&engine.sweep).found;
        self.flows = PHASES.into_iter().zip(found).collect();
        self.source_faults = lock(&engine.source_faults).found.clone();
        self.narrow_exits = engine.narrow_exits();
        self.ways_not_remembered.clone_from(&engine.forgetful);
        self.next_hops = lock(&engine.neighbours).1.kept();
        let control = lock(&engine.control);
        self.tracing = control.traces();
        self.fill = control.fill().into();
        self.sources = control.source_pools();
        self.refused = control.refusals();
        self.services = control.report();
        drop(control);
        for service in &mut self.services {
            service.per_second = engine.rate(&service.service);
        }
    }
}
