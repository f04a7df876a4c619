//! A loaded program with everything around it: what the actuator's task calls, step by step.
//!
//! Everything here blocks for as long as the kernel takes, and is called from blocking threads.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use haflinger_core::{ServiceKey, Snapshot, Update};
use libbpf_rs::MapHandle;
use rustix::time::{ClockId, clock_gettime};

use crate::attach::{self, Attached};
use crate::audit::{self, Exit, NarrowExit};
use crate::carry::{self, Carried};
use crate::control::{Control, Hop, Traffic};
use crate::deferrals::{Deferrals, PathSize};
use crate::error::LoadError;
use crate::faults;
use crate::interfaces;
use crate::loader::{self, Loaded};
use crate::mapped::Mapped;
use crate::maps::Maps;
use crate::neighbours::{Neighbours, kernel_release};
use crate::netlink::{Link, Netlink};
use crate::program::types;
use crate::samples::Samples;
use crate::settings::{AttachWish, Settings};
use crate::sweep::Sweep;
use crate::sys::{self, AttachMode};
use crate::watch;

/// An interface as status shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// How the program hangs on it.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub attached: Option<Attached>,
    /// Why it does not, or what there is to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Links that are all asked for their abilities; each question makes the kernel list all links. On
/// a host with more, those that routes to backends lead to.
const LINKS_ASKED_MAX: usize = 64;

/// By name: what was attached, or why not.
type Attachments = BTreeMap<String, Result<Attached, String>>;

/// Interfaces and what hangs on them.
#[derive(Debug, Default)]
pub(crate) struct Interfaces {
    pub(crate) wanted: Attachments,
    pub(crate) links: Vec<Link>,
    /// Interfaces that routes to backends lead to, and that cannot transmit.
    pub(crate) dumb: BTreeSet<String>,
    /// A driver's inability has decided for the network stack.
    stack_decided: bool,
    /// Indexes of which the program was told; `None` before the first time.
    told: Option<BTreeSet<u32>>,
}

/// Between two looks at the addresses that `nat` sends from, while something stands against one: a
/// look costs a socket for each address.
const SOURCES_AGAIN_SECS: u64 = 5;

/// What stands against the addresses and ports that `nat` sends from.
#[derive(Debug, Default)]
pub(crate) struct SourceFaults {
    pub(crate) found: Vec<String>,
    /// What the log has heard of.
    told: Vec<String>,
    /// When to look again, with what.
    again: Option<(u64, Settings)>,
}

/// What the ways out to `dsr` backends carry, as it was found last.
#[derive(Debug, Default)]
struct Audit {
    exits: BTreeMap<Exit, u32>,
    narrow: Vec<NarrowExit>,
}

/// A loaded program with its maps and interfaces.
pub(crate) struct Engine {
    pub(crate) maps: Arc<Maps>,
    pub(crate) loaded: Loaded,
    pub(crate) control: Mutex<Control>,
    pub(crate) interfaces: Arc<Mutex<Interfaces>>,
    pub(crate) neighbours: Mutex<(Netlink, Neighbours)>,
    pub(crate) deferrals: Deferrals,
    pub(crate) sweep: Mutex<Sweep>,
    samples: Mutex<Samples>,
    pub(crate) carried: Mutex<Option<Carried>>,
    carried_at: u64,
    pub(crate) source_faults: Mutex<SourceFaults>,
    audit: Mutex<Audit>,
    /// Why the kernel is asked for the way of every packet, if it is.
    pub(crate) forgetful: Option<String>,
    pin_dir: PathBuf,
}

/// The lock's content: whoever panicked while holding it left it whole enough to be shown.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds of the clock that the program reads.
pub(crate) fn now_secs() -> u64 {
    u64::try_from(clock_gettime(ClockId::Monotonic).tv_sec).unwrap_or_default()
}

impl Engine {
    /// Loads the program and takes over what is pinned.
    pub(crate) fn start(settings: &Settings) -> Result<Self, LoadError> {
        let (loaded, maps) = loader::load(settings)?;
        let maps = Arc::new(maps);
        let carried_at = now_secs();
        let carried = if loaded.restored {
            None
        } else {
            carry::carry(&settings.pin_dir, &loaded.layout, &maps, &settings.capacities)
        };
        if let Some(carried) = &carried {
            let Carried { flows, dropped, reason } = carried;
            let reason = reason.as_deref().unwrap_or("nothing else is lost");
            tracing::info!(flows, dropped, reason, "took over the flows of an earlier version");
        }
        attach::prepare(&settings.pin_dir)
            .map_err(|source| LoadError::Pins { path: settings.pin_dir.clone(), source })?;
        let directory = settings.pin_dir.join(&loaded.layout.version);
        let watched = watch::start(&directory, &loaded.generation, &maps.generation);
        let forgetful = watched.err().map(|error| error.to_string());
        if let Some(reason) = &forgetful {
            tracing::info!(%reason, "the kernel is asked for the way of every packet");
        }
        let netlink = || Netlink::open(0).map_err(|error| LoadError::Other(error.to_string()));
        let mut routes = netlink()?;
        let router = Box::new(move |address| routes.route(address));
        let control = Control::new(maps.clone(), router, settings);
        let interfaces = Arc::new(Mutex::new(Interfaces::default()));
        let path_size = path_size(netlink()?, interfaces.clone());
        let map = MapHandle::try_from(&loaded.deferrals);
        let map = map.map_err(|error| LoadError::Other(error.to_string()))?;
        let deferrals = Deferrals::start(map, path_size).map_err(|error| {
            LoadError::NotPermitted(format!("CAP_NET_RAW (raw sockets: {error})"))
        })?;
        let neighbours = Neighbours::new(kernel_release());
        Ok(Self {
            maps,
            loaded,
            control: Mutex::new(control),
            interfaces,
            neighbours: Mutex::new((netlink()?, neighbours)),
            deferrals,
            sweep: Mutex::default(),
            samples: Mutex::default(),
            carried: Mutex::new(carried),
            carried_at,
            source_faults: Mutex::default(),
            audit: Mutex::default(),
            forgetful,
            pin_dir: settings.pin_dir.clone(),
        })
    }

    /// Applies a snapshot.
    pub(crate) fn apply(&self, snapshot: &Snapshot) -> Vec<Update> {
        lock(&self.control).apply(snapshot, now_secs())
    }

    /// Packets reach no service by this engine any more.
    pub(crate) fn let_go(&self) -> Vec<Update> {
        lock(&self.control).let_go()
    }

    /// Applies settings that need no loading.
    pub(crate) fn configure(&self, settings: &Settings) {
        lock(&self.control).configure(settings, now_secs());
    }

    /// Whether every interface that is wanted has the program.
    pub(crate) fn is_attached_everywhere(&self) -> bool {
        lock(&self.interfaces).wanted.values().all(Result::is_ok)
    }

    /// A second begins: gives back what is over, and asks again for what was refused. What takes
    /// longer is left for [`Self::tend_on`].
    pub(crate) fn tend(&self) -> Vec<Update> {
        let mut control = lock(&self.control);
        let now = now_secs();
        control.reap(now);
        control.begin_second();
        let (hops, told) = (control.hops().collect(), control.retry());
        let exits = control.exits.smallest();
        drop(control);
        let reasons = || self.reasons().map(|(name, counted)| (name, counted.packets)).collect();
        lock(&self.samples).begin(now, reasons);
        lock(&self.sweep).begin_second(&self.maps.flows);
        self.check_sources_again(now);
        if lock(&self.audit).exits != exits {
            self.audit(exits);
        }
        let mut neighbours = lock(&self.neighbours);
        let (netlink, neighbours) = &mut *neighbours;
        neighbours.tend(netlink, hops, now);
        told
    }

    /// A part of what this second has to look at: routes, counters, flows. It is short, because
    /// snapshots wait meanwhile. Whether there is more.
    pub(crate) fn tend_on(&self) -> bool {
        let mut control = lock(&self.control);
        let routes = control.look_again();
        let counters = lock(&self.samples).go_on(|after, reads| control.totals(after, reads));
        drop(control);
        routes | counters | self.sweep_part()
    }

    fn sweep_part(&self) -> bool {
        let began = std::time::Instant::now();
        let now = u32::try_from(now_secs()).unwrap_or(u32::MAX);
        let program = self.loaded.sweep.as_ref().map(|program| program.as_fd());
        lock(&self.sweep).step(program, &self.maps.flows, now, || began.elapsed())
    }

    /// What the program counted under each reason, over all CPUs.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = (String, types::reason_counters)> {
        self.loaded.reason_names.iter().filter_map(|(number, name)| {
            let counted = self.loaded.reasons.get(*number).ok()?;
            let sum = counted.iter().fold(types::reason_counters::default(), |mut sum, cpu| {
                sum.packets += cpu.packets;
                sum.bytes += cpu.bytes;
                sum
            });
            Some((name.clone(), sum))
        })
    }

    /// What became of flows, over all CPUs.
    pub(crate) fn flow_events(&self) -> [(&'static str, u64); 8] {
        let counted = self.loaded.flow_counters.get(0).unwrap_or_default();
        let sum = |count: fn(&types::flow_counters) -> u64| counted.iter().map(count).sum();
        [
            ("opened", sum(|cpu| cpu.opened)),
            ("promoted", sum(|cpu| cpu.promoted)),
            ("stayed", sum(|cpu| cpu.stayed)),
            ("reopened", sum(|cpu| cpu.reopened)),
            ("forgotten", sum(|cpu| cpu.forgotten)),
            ("expired", sum(|cpu| cpu.expired)),
            ("evicted_opening", sum(|cpu| cpu.evicted[0])),
            ("evicted_established", sum(|cpu| cpu.evicted[1])),
        ]
    }

    /// Packets for whose way the kernel was asked, over all CPUs.
    pub(crate) fn routes_asked(&self) -> u64 {
        self.loaded.routes_asked.get(0).unwrap_or_default().iter().sum()
    }

    /// How the program hangs on each interface that is wanted; empty where it does not.
    pub(crate) fn modes(&self) -> Vec<(String, &'static str)> {
        let interfaces = lock(&self.interfaces);
        let modes = interfaces.wanted.iter().map(|(name, attached)| {
            let mode = match attached {
                Ok(Attached { mode: AttachMode::Native, .. }) => "native",
                Ok(Attached { mode: AttachMode::Generic, .. }) => "generic",
                Err(_) => "",
            };
            (name.clone(), mode)
        });
        modes.collect()
    }

    /// What went through services a second, lately.
    pub(crate) fn rate(&self, service: &ServiceKey) -> Option<Traffic> {
        lock(&self.samples).rate(service)
    }

    /// Packets a second by reason, lately.
    pub(crate) fn reason_rates(&self) -> BTreeMap<String, u64> {
        lock(&self.samples).reasons()
    }

    /// Attaches to the interfaces that are there and asked for, takes the program off the others,
    /// and tells the program how frames leave.
    pub(crate) fn follow_links(&self, settings: &Settings) -> std::io::Result<()> {
        let mut netlink = Netlink::open(0)?;
        let links = netlink.links()?;
        let wanted = if settings.interfaces.is_empty() {
            netlink.default_links(&links)?
        } else {
            settings.interfaces.clone()
        };
        self.check_sources(settings, now_secs());
        let hops: Vec<Hop> = lock(&self.control).hops().collect();
        let mut interfaces = lock(&self.interfaces);
        let is_fresh = attach::pinned(&self.pin_dir).is_empty();
        let mut now = self.attach_all(&interfaces, &links, &wanted, settings.attach);
        self.take_off_others(&now);
        // Attaching gives many a driver the ability to transmit, so it is asked afterwards.
        let mut able = able_to_transmit(&links, &wanted, &hops);
        let dumb = dumb_exits(&links, &able, &hops);
        let is_native = |now: &Attachments| {
            now.values().flatten().any(|attached| attached.mode == AttachMode::Native)
        };
        if is_fresh && settings.attach == AttachWish::Auto && is_native(&now) && !dumb.is_empty() {
            interfaces.stack_decided = true;
            let exits: Vec<&str> = dumb.iter().map(String::as_str).collect();
            let exits = exits.join(", ");
            tracing::info!(%exits, "a driver cannot transmit what a program redirects: the stack attaches");
            now = self.attach_all(&interfaces, &links, &wanted, AttachWish::Generic);
            able = able_to_transmit(&links, &wanted, &hops);
        }
        log_changes(&interfaces.wanted, &now);
        let generic = !is_native(&now);
        interfaces.dumb = if generic { BTreeSet::new() } else { dumb };
        interfaces.wanted = now;
        tell(&self.maps.interfaces, &mut interfaces.told, &links, &able, generic);
        interfaces.links = links;
        let forwards = interfaces.wanted.values().any(Result::is_ok);
        drop(interfaces);
        let exits = lock(&self.control).exits.smallest();
        self.audit(exits);
        if forwards {
            self.give_up_earlier();
        }
        Ok(())
    }

    /// Compares what may arrive with what these exits carry; says what is new.
    fn audit(&self, exits: BTreeMap<Exit, u32>) {
        let interfaces = lock(&self.interfaces);
        let attached: BTreeSet<u32> =
            interfaces.wanted.values().flatten().map(|attached| attached.index).collect();
        let arrivals = interfaces.links.iter().filter(|link| attached.contains(&link.index));
        let arrivals: Vec<&Link> = arrivals.collect();
        let narrow = audit::narrow_exits(&exits, &interfaces.links, &arrivals);
        drop(interfaces);
        let mut known = lock(&self.audit);
        for exit in narrow.iter().filter(|exit| !known.narrow.contains(exit)) {
            tracing::warn!("{exit}");
        }
        *known = Audit { exits, narrow };
    }

    /// Exits to `dsr` backends that carry less than may arrive.
    pub(crate) fn narrow_exits(&self) -> Vec<NarrowExit> {
        lock(&self.audit).narrow.clone()
    }

    /// Notes what stands against the addresses and ports that `nat` sends from. The log hears of
    /// what is found twice: addresses may be about to be bound.
    fn check_sources(&self, settings: &Settings, now: u64) {
        let found = faults::of_sources(settings);
        let mut known = lock(&self.source_faults);
        let SourceFaults { found: before, mut told, .. } = std::mem::take(&mut *known);
        told.retain(|fault| found.contains(fault));
        for fault in found.iter().filter(|fault| before.contains(fault)) {
            if !told.contains(fault) {
                tracing::warn!(%fault, "mode nat");
                told.push(fault.clone());
            }
        }
        let again = (!found.is_empty()).then(|| (now + SOURCES_AGAIN_SECS, settings.clone()));
        *known = SourceFaults { found, told, again };
    }

    /// Looks again at what stands against `nat`'s addresses, while anything does.
    fn check_sources_again(&self, now: u64) {
        let again = lock(&self.source_faults).again.take_if(|(due, _)| *due <= now);
        if let Some((_, settings)) = again {
            self.check_sources(&settings, now);
        }
    }

    /// No link uses maps of an earlier version any more.
    fn give_up_earlier(&self) {
        match carry::give_up(&self.pin_dir, &self.loaded.layout, self.carried_at) {
            Ok(0) => {}
            Ok(lost) => {
                tracing::info!(lost, "flows that began while the program was replaced are lost");
                if let Some(carried) = lock(&self.carried).as_mut() {
                    carried.dropped += lost;
                }
            }
            Err(error) => tracing::warn!(%error, "maps of an earlier version stay pinned"),
        }
    }

    /// Attaches to every interface that is wanted. With `auto`, an exit that cannot transmit what a
    /// driver's program redirects decides for the network stack, when nothing was attached before:
    /// later, packets would pass by while it is changed.
    fn attach_all(
        &self,
        interfaces: &Interfaces,
        links: &[Link],
        wanted: &[String],
        wish: AttachWish,
    ) -> Attachments {
        let wish = match wish {
            AttachWish::Auto if interfaces.stack_decided => AttachWish::Generic,
            other => other,
        };
        let attached =
            wanted.iter().map(|name| (name.clone(), self.attach(interfaces, links, name, wish)));
        attached.collect()
    }

    /// Interfaces that are not wanted any more.
    fn take_off_others(&self, now: &Attachments) {
        for index in attach::pinned(&self.pin_dir) {
            let keeps = now.values().flatten().any(|attached| attached.index == index);
            if !keeps && let Err(error) = attach::detach(&self.pin_dir, index) {
                tracing::warn!(index, %error, "the program stays on an interface");
            }
        }
    }

    fn attach(
        &self,
        interfaces: &Interfaces,
        links: &[Link],
        name: &str,
        wish: AttachWish,
    ) -> Result<Attached, String> {
        let link = links.iter().find(|link| link.name == name);
        let link = link.ok_or_else(|| "there is no such interface".to_owned())?;
        if let Some(bond) = link.master.and_then(|master| links.iter().find(|l| l.index == master))
            && bond.kind == "bond"
        {
            return Err(format!("it belongs to the bond {0}: name {0} instead", bond.name));
        }
        if let Some(Ok(attached)) = interfaces.wanted.get(name)
            && attached.index == link.index
            && attach::is_attached(&self.pin_dir, link.index)
        {
            return Ok(attached.clone());
        }
        attach::attach(&self.pin_dir, link, wish, self.loaded.program.as_fd())
    }

    /// Whether packets are being forwarded, or why not.
    pub(crate) fn fault(&self) -> Option<Arc<str>> {
        let interfaces = lock(&self.interfaces);
        if interfaces.wanted.values().any(Result::is_ok) {
            return None;
        }
        let faults = interfaces.wanted.iter().filter_map(|(name, attached)| {
            attached.as_ref().err().map(|fault| format!("{name}: {fault}"))
        });
        let faults: Vec<String> = faults.collect();
        Some(if faults.is_empty() {
            "no interface has a default route".into()
        } else {
            faults.join("; ").into()
        })
    }

    /// Interfaces as status shows them.
    pub(crate) fn interfaces(&self) -> Vec<InterfaceStatus> {
        let interfaces = lock(&self.interfaces);
        let dumb = interfaces.dumb.iter().map(|name| InterfaceStatus {
            name: name.clone(),
            attached: None,
            note: Some(
                "backends are reached by it, but its driver cannot transmit what a program \
                 redirects: set xdp.attach to \"generic\""
                    .to_owned(),
            ),
        });
        let wanted = interfaces.wanted.iter().map(|(name, attached)| InterfaceStatus {
            name: name.clone(),
            attached: attached.as_ref().ok().cloned(),
            note: attached.as_ref().err().cloned(),
        });
        wanted.chain(dumb).collect()
    }
}

/// How large packets may be towards an address: the link's size, since the kernel refuses no more.
fn path_size(netlink: Netlink, interfaces: Arc<Mutex<Interfaces>>) -> PathSize {
    let netlink = Mutex::new(netlink);
    Box::new(move |address| {
        let route = lock(&netlink).route(address).ok()?;
        let interfaces = lock(&interfaces);
        interfaces.links.iter().find(|link| link.index == route.interface).map(|link| link.mtu)
    })
}

fn log_changes(before: &Attachments, now: &Attachments) {
    for (name, attached) in now {
        match attached {
            _ if before.get(name) == Some(attached) => {}
            Ok(Attached { mode, not_native: Some(reason), .. }) => {
                tracing::info!(interface = %name, ?mode, %reason, "attached");
            }
            Ok(Attached { mode, .. }) => tracing::info!(interface = %name, ?mode, "attached"),
            Err(reason) => tracing::warn!(interface = %name, %reason, "not attached"),
        }
    }
}

/// Links whose drivers transmit what a program redirects.
fn able_to_transmit(links: &[Link], wanted: &[String], hops: &[Hop]) -> HashSet<u32> {
    let exits: BTreeSet<u32> = hops.iter().map(|(interface, _)| *interface).collect();
    let carries = |link: &Link| {
        let on_it = links.iter().filter(|vlan| vlan.vlan.is_some());
        exits.contains(&link.index)
            || on_it
                .filter(|vlan| vlan.parent == Some(link.index))
                .any(|v| exits.contains(&v.index))
    };
    let asks_all = links.len() <= LINKS_ASKED_MAX;
    let hanging: Vec<_> = links
        .iter()
        .filter(|link| link.vlan.is_none())
        .filter(|link| asks_all || wanted.contains(&link.name) || carries(link))
        .filter_map(|link| Some((link, sys::query(link.index).ok()?)))
        .collect();
    // A kernel that tells abilities tells some of some link: where we attach, at least.
    let tells = hanging.iter().any(|(_, hanging)| hanging.features != 0);
    let able =
        hanging.iter().filter(|(link, hanging)| interfaces::transmits(*hanging, link, tells));
    able.map(|(link, _)| link.index).collect()
}

/// Links that routes to backends lead to, and that cannot transmit.
fn dumb_exits(links: &[Link], able: &HashSet<u32>, hops: &[Hop]) -> BTreeSet<String> {
    let exits: BTreeSet<u32> = hops.iter().map(|(interface, _)| *interface).collect();
    let carrier = |link: &Link| link.vlan.and(link.parent).unwrap_or(link.index);
    let dumb = links
        .iter()
        .filter(|link| exits.contains(&link.index) && !able.contains(&carrier(link)) && link.up);
    dumb.map(|link| link.name.clone()).collect()
}

fn tell(
    array: &Mapped<types::interface>,
    told: &mut Option<BTreeSet<u32>>,
    links: &[Link],
    able: &HashSet<u32>,
    generic: bool,
) {
    let entries = interfaces::entries(links, able, generic);
    // An earlier run may have told of others.
    let before = told.take().unwrap_or_else(|| (0..array.len()).collect());
    for index in before.into_iter().filter(|index| !entries.contains_key(index)) {
        array.write(index, &types::interface::default());
    }
    for (index, entry) in &entries {
        if *index >= array.len() {
            tracing::warn!(index, "no packet leaves by an interface with so high an index");
        }
        array.write(*index, entry);
    }
    *told = Some(entries.into_keys().collect());
}
