//! What the data path shows to Prometheus: everything is read from the maps when a scrape comes.

use std::sync::{Arc, Weak};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::control::report::ServiceReport;
use crate::engine::{Engine, lock};
use crate::sweep::PHASES;
use crate::xdp::Shared;

/// Services with series of their own, the first ones by address: seven series each, so that a
/// scrape stays below a megabyte. Those beyond are in the sums and in `haflinger status`.
pub const SERVICE_SERIES_MAX: usize = 1000;

/// Backends with a series of their own, of those services.
pub const BACKEND_SERIES_MAX: usize = 4000;

/// Reads the maps at scrape time.
pub(crate) struct MapCollector {
    shared: Weak<Shared>,
    descriptions: Vec<Desc>,
}

/// Registers what is read at scrape time.
pub(crate) fn register(shared: &Arc<Shared>, registry: &Registry) -> Result<(), prometheus::Error> {
    let descriptions = Families::new()?.descriptions();
    registry.register(Box::new(MapCollector { shared: Arc::downgrade(shared), descriptions }))
}

impl Collector for MapCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (Some(shared), Ok(families)) = (self.shared.upgrade(), Families::new()) else {
            return Vec::new();
        };
        families.fill(&shared);
        families.collect()
    }
}

struct Families {
    program: ProgramFamilies,
    services: ServiceFamilies,
}

/// What the program and its maps as a whole are at.
struct ProgramFamilies {
    state: IntGaugeVec,
    packets: IntCounterVec,
    bytes: IntCounterVec,
    flows: IntGaugeVec,
    flow_events: IntCounterVec,
    used: IntGaugeVec,
    max: IntGaugeVec,
    attached: IntGaugeVec,
    deferrals: IntCounterVec,
    routes_asked: IntCounterVec,
    remembers: IntGaugeVec,
    hops: IntGaugeVec,
    narrow_exits: IntGaugeVec,
    sweep: GaugeVec,
}

/// What services and backends are at.
struct ServiceFamilies {
    services: IntGaugeVec,
    connections: IntGaugeVec,
    flows: IntCounterVec,
    packets: IntCounterVec,
    bytes: IntCounterVec,
    backend_connections: IntGaugeVec,
    omitted: IntGaugeVec,
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

fn counters(name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

impl ProgramFamilies {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            state: gauges(
                "haflinger_xdp_forwarding",
                "1 while packets are forwarded by XDP on this host.",
                &[],
            )?,
            packets: counters(
                "haflinger_xdp_packets_total",
                "Packets that the program has seen, by the reason of what it did with them. \
                 Counted since the program was loaded.",
                &["reason"],
            )?,
            bytes: counters(
                "haflinger_xdp_bytes_total",
                "Bytes of those packets, with the link layer.",
                &["reason"],
            )?,
            flows: gauges(
                "haflinger_xdp_flows",
                "Live flows by phase, as the last sweep of all records found them.",
                &["phase"],
            )?,
            flow_events: counters(
                "haflinger_xdp_flow_events_total",
                "What became of flows: opened, promoted (answered), stayed (no record to be \
                 promoted to), reopened, forgotten (UDP, backend gone), expired, or evicted to \
                 make room in the region of opening or of established flows.",
                &["event"],
            )?,
            used: gauges("haflinger_xdp_map_used", "Entries of a map in use.", &["map"])?,
            max: gauges("haflinger_xdp_map_max", "Entries that a map can hold.", &["map"])?,
            attached: gauges(
                "haflinger_xdp_attached",
                "1 for an interface that the program is attached to, by its mode; 0 with an empty \
                 mode for one that it should be attached to.",
                &["interface", "mode"],
            )?,
            deferrals: counters(
                "haflinger_xdp_deferrals_total",
                "Packets that the program handed to the daemon, by what became of them: sent; \
                 failed; lost, because they came faster than they could be sent. Those that were \
                 cut are counted besides.",
                &["outcome"],
            )?,
            routes_asked: counters(
                "haflinger_xdp_routes_asked_total",
                "Packets of flows for whose way the kernel was asked; for all others it was that \
                 of the flow's last packet.",
                &[],
            )?,
            remembers: gauges(
                "haflinger_xdp_ways_remembered",
                "1 while the kernel is asked for the way of a flow's packets only after a change \
                 and once a second; 0 while it is asked for every packet.",
                &[],
            )?,
            hops: gauges(
                "haflinger_xdp_next_hops",
                "Next hops of backends whose neighbour entries are kept resolved; and those that \
                 the kernel refused.",
                &["state"],
            )?,
            narrow_exits: gauges(
                "haflinger_xdp_narrow_exits",
                "Ways out to dsr backends that carry less than clients may send.",
                &[],
            )?,
            sweep: GaugeVec::new(
                Opts::new(
                    "haflinger_xdp_sweep_seconds",
                    "CPU time that the last sweep over all flow records took.",
                ),
                &[],
            )?,
        })
    }

    fn collectors(&self) -> [&dyn Collector; 14] {
        [
            &self.state,
            &self.packets,
            &self.bytes,
            &self.flows,
            &self.flow_events,
            &self.used,
            &self.max,
            &self.attached,
            &self.deferrals,
            &self.routes_asked,
            &self.remembers,
            &self.hops,
            &self.narrow_exits,
            &self.sweep,
        ]
    }

    fn fill(&self, engine: &Engine) {
        for (name, counted) in engine.reasons() {
            self.packets.with_label_values(&[&name]).inc_by(counted.packets);
            self.bytes.with_label_values(&[&name]).inc_by(counted.bytes);
        }
        for (event, count) in engine.flow_events() {
            self.flow_events.with_label_values(&[event]).inc_by(count);
        }
        let sweep = lock(&engine.sweep);
        for (phase, count) in PHASES.iter().zip(sweep.found) {
            self.flows.with_label_values(&[phase]).set(count.cast_signed());
        }
        self.used.with_label_values(&["flows"]).set(sweep.found.iter().sum::<u64>().cast_signed());
        self.max.with_label_values(&["flows"]).set(engine.maps.flows.len().into());
        self.sweep.with_label_values::<&str>(&[]).set(sweep.took.as_secs_f64());
        drop(sweep);
        for (outcome, count) in engine.deferrals.tally.counts() {
            self.deferrals.with_label_values(&[outcome]).inc_by(count);
        }
        self.routes_asked.with_label_values::<&str>(&[]).inc_by(engine.routes_asked());
        let remembers = i64::from(engine.forgetful.is_none());
        self.remembers.with_label_values::<&str>(&[]).set(remembers);
        let neighbours = lock(&engine.neighbours);
        self.hops.with_label_values(&["kept"]).set(gauge(neighbours.1.kept()));
        self.hops.with_label_values(&["refused"]).set(gauge(neighbours.1.refused));
        drop(neighbours);
        let narrow = engine.narrow_exits().len();
        self.narrow_exits.with_label_values::<&str>(&[]).set(gauge(narrow));
        for (name, mode) in engine.modes() {
            let mode_is_known = i64::from(!mode.is_empty());
            self.attached.with_label_values(&[name.as_str(), mode]).set(mode_is_known);
        }
    }
}

impl ServiceFamilies {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            services: gauges(
                "haflinger_xdp_services",
                "Services: served; left (relayed or gone, and flows of them go on); refused \
                 (no room, relayed).",
                &["state"],
            )?,
            connections: gauges(
                "haflinger_xdp_service_flows",
                "Live flows of a service.",
                &["service"],
            )?,
            flows: counters(
                "haflinger_xdp_service_flows_total",
                "Flows of a service.",
                &["service"],
            )?,
            packets: counters(
                "haflinger_xdp_service_packets_total",
                "Packets of a service's flows from clients (in) and to clients (out).",
                &["service", "direction"],
            )?,
            bytes: counters(
                "haflinger_xdp_service_bytes_total",
                "Bytes of a service's flows from clients (in) and to clients (out), without the \
                 link layer.",
                &["service", "direction"],
            )?,
            backend_connections: gauges(
                "haflinger_xdp_backend_flows",
                "Live flows of a backend of a service.",
                &["service", "backend"],
            )?,
            omitted: gauges(
                "haflinger_xdp_series_omitted",
                "Services and backends that have no series of their own, because there are too \
                 many.",
                &["what"],
            )?,
        })
    }

    fn collectors(&self) -> [&dyn Collector; 7] {
        [
            &self.services,
            &self.connections,
            &self.flows,
            &self.packets,
            &self.bytes,
            &self.backend_connections,
            &self.omitted,
        ]
    }

    fn fill(&self, reports: &[ServiceReport]) {
        let mut backends_left = BACKEND_SERIES_MAX;
        let mut backends_omitted = 0;
        for report in reports.iter().take(SERVICE_SERIES_MAX) {
            let service = report.service.to_string();
            let gauges = &self.connections;
            gauges.with_label_values(&[&service]).set(report.connections.into());
            if let Some(traffic) = &report.traffic {
                self.flows.with_label_values(&[&service]).inc_by(traffic.flows);
                let counted = [
                    ("in", traffic.packets_in, traffic.bytes_in),
                    ("out", traffic.packets_out, traffic.bytes_out),
                ];
                for (way, packets, bytes) in counted {
                    let labels = [service.as_str(), way];
                    self.packets.with_label_values(&labels).inc_by(packets);
                    self.bytes.with_label_values(&labels).inc_by(bytes);
                }
            }
            let shown = report.backends.len().min(backends_left);
            backends_left -= shown;
            backends_omitted += report.backends.len() - shown;
            for backend in &report.backends[..shown] {
                let labels = [service.clone(), backend.address.to_string()];
                let gauges = &self.backend_connections;
                gauges.with_label_values(&labels).set(backend.connections.into());
            }
        }
        let beyond = reports.get(SERVICE_SERIES_MAX..).unwrap_or_default();
        backends_omitted += beyond.iter().map(|report| report.backends.len()).sum::<usize>();
        self.omitted.with_label_values(&["services"]).set(gauge(beyond.len()));
        self.omitted.with_label_values(&["backends"]).set(gauge(backends_omitted));
    }
}

impl Families {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self { program: ProgramFamilies::new()?, services: ServiceFamilies::new()? })
    }

    fn collectors(&self) -> impl Iterator<Item = &dyn Collector> {
        self.program.collectors().into_iter().chain(self.services.collectors())
    }

    fn descriptions(&self) -> Vec<Desc> {
        self.collectors().flat_map(|one| one.desc()).cloned().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.collectors().flat_map(|one| one.collect()).collect()
    }

    fn fill(&self, shared: &Shared) {
        let engine = lock(&shared.engine).clone();
        let forwards = engine.is_some() && lock(&shared.fault).is_none();
        self.program.state.with_label_values::<&str>(&[]).set(i64::from(forwards));
        let Some(engine) = engine else { return };
        self.program.fill(&engine);
        let control = lock(&engine.control);
        for (map, fill) in control.fill() {
            self.program.used.with_label_values(&[map]).set(fill.used.into());
            self.program.max.with_label_values(&[map]).set(fill.max.into());
        }
        let (reports, refused) = (control.report(), control.refusals().len());
        drop(control);
        let left = reports.iter().filter(|report| report.left).count();
        let states = [("served", reports.len() - left), ("left", left), ("refused", refused)];
        for (state, count) in states {
            self.services.services.with_label_values(&[state]).set(gauge(count));
        }
        self.services.fill(&reports);
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
