//! Loads the program, with the maps that an earlier run left.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libbpf_rs::skel::{OpenSkel as _, Skel as _, SkelBuilder as _};
use libbpf_rs::{AsRawLibbpf as _, Btf, MapCore as _, MapHandle, PrintLevel, set_print};
use rustix::fs::statfs;

use crate::error::LoadError;
use crate::layout::{KEPT, Layout, names_of};
use crate::mapped::Mapped;
use crate::maps::{Counters, Index, Maps};
use crate::program::{HaflingerSkelBuilder, OpenHaflingerSkel, types};
use crate::settings::{Capacities, Settings};
use crate::sys::{self, PerCpu};

/// Elements of the array of sources: addresses of both families, the old ones beside the new while
/// they change.
pub(crate) const SOURCES: u32 = 4096;

/// Indexes of interfaces that routes may name: 1.5 MiB. A kernel counts them up as interfaces come
/// and go, and never down.
pub(crate) const INTERFACES: u32 = 65_536;

/// Refused flows that are remembered, for who asks why.
const REFUSALS: u32 = 4096;

/// Lines of the verifier's log that an error shows: its verdict and what led to it.
const LOG_LINES: usize = 12;

/// `statfs(2)`: what a BPF file system answers.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// A program in the kernel, with its maps. Nothing is attached yet.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) reasons: PerCpu<types::reason_counters>,
    pub(crate) flow_counters: PerCpu<types::flow_counters>,
    pub(crate) refusals: Index<types::flow_key, types::refusal>,
    pub(crate) affinities: Index<types::affinity_key, types::affinity>,
    pub(crate) trace: MapHandle,
    pub(crate) trace_counters: PerCpu<types::trace_counters>,
    pub(crate) deferrals: MapHandle,
    pub(crate) generation: MapHandle,
    pub(crate) routes_asked: PerCpu<u64>,
    pub(crate) program: OwnedFd,
    /// Ends flows that have been idle for long, called by the daemon.
    pub(crate) sweep: Option<OwnedFd>,
    pub(crate) reason_names: Vec<(u32, String)>,
    pub(crate) layout: Layout,
    /// The maps are those of an earlier run.
    pub(crate) restored: bool,
}

/// What libbpf says while a program is loaded; one at a time.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn said() -> std::sync::MutexGuard<'static, Vec<String>> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Loads the program; with maps pinned under this layout, on these.
pub(crate) fn load(settings: &Settings) -> Result<(Loaded, Maps), LoadError> {
    check_file_system(&settings.pin_dir)?;
    set_print(Some((PrintLevel::Warn, |_, line| said().push(line))));
    said().clear();
    let mut object = MaybeUninit::uninit();
    let mut open = HaflingerSkelBuilder::default().open(&mut object).map_err(|e| other(&e))?;
    let (layout, reason_names) = describe(&open, &settings.capacities)?;
    size(&mut open, &settings.capacities).map_err(|e| other(&e))?;
    let directory = settings.pin_dir.join(&layout.version);
    let restored = reuse(&mut open, &directory)?;
    let skeleton = open.load().map_err(|error| explain(&error))?;
    let object = skeleton.object();
    if !restored {
        let maps = object.maps().filter(|map| KEPT.iter().any(|kept| map.name() == *kept));
        pin_all(maps, &settings.pin_dir, &layout.version)?;
    }
    let fd = |name: &str| -> Result<OwnedFd, LoadError> {
        let map = object.maps().find(|map| map.name() == name);
        let map = map.ok_or_else(|| LoadError::Other(format!("the object has no map {name}")))?;
        map.as_fd().try_clone_to_owned().map_err(|e| pins(Path::new(name), e))
    };
    let handle = |name: &str| -> Result<MapHandle, LoadError> {
        let map = object.maps().find(|map| map.name() == name);
        let map = map.ok_or_else(|| LoadError::Other(format!("the object has no map {name}")))?;
        MapHandle::try_from(&map).map_err(|error| other(&error))
    };
    let program = |name: &str| {
        let program = object.progs().find(|program| program.name() == name)?;
        program.as_fd().try_clone_to_owned().ok()
    };
    let maps = typed(&fd)?;
    let loaded = Loaded {
        reasons: PerCpu::new(fd("reasons")?).map_err(|e| pins(Path::new("reasons"), e))?,
        flow_counters: PerCpu::new(fd("flow_counters")?)
            .map_err(|e| pins(Path::new("flow_counters"), e))?,
        refusals: index(&fd, "refusals")?,
        affinities: index(&fd, "affinities")?,
        trace: handle("trace")?,
        trace_counters: PerCpu::new(fd("trace_counters")?)
            .map_err(|e| pins(Path::new("trace_counters"), e))?,
        deferrals: handle("deferrals")?,
        generation: handle("generation")?,
        routes_asked: PerCpu::new(fd("routes_asked")?)
            .map_err(|e| pins(Path::new("routes_asked"), e))?,
        program: program("haflinger").ok_or_else(|| LoadError::Other("no program".into()))?,
        sweep: program("sweep"),
        reason_names,
        layout,
        restored,
    };
    Ok((loaded, maps))
}

type Find<'a> = &'a dyn Fn(&str) -> Result<OwnedFd, LoadError>;

fn typed(fd: Find<'_>) -> Result<Maps, LoadError> {
    let counters = fd("backend_counters")?;
    Ok(Maps {
        flows: array(fd, "flows")?,
        services: array(fd, "services")?,
        service_loads: array(fd, "service_loads")?,
        buckets: array(fd, "buckets")?,
        backends: array(fd, "backends")?,
        backend_loads: array(fd, "backend_loads")?,
        sources: array(fd, "sources")?,
        settings: array(fd, "settings")?,
        service_index: index(fd, "service_index")?,
        source_ranges: index(fd, "source_ranges")?,
        interfaces: array(fd, "interfaces")?,
        generation: array(fd, "generation")?,
        flow_index: index(fd, "flow_index")?,
        backend_counters: Counters::Kernel(
            PerCpu::new(counters).map_err(|e| pins(Path::new("backend_counters"), e))?,
        ),
    })
}

fn array<T: crate::mapped::Plain>(fd: Find<'_>, name: &str) -> Result<Mapped<T>, LoadError> {
    let map = fd(name)?;
    let failed = |error| pins(Path::new(name), error);
    let shape = sys::map_shape(map.as_fd()).map_err(failed)?;
    if shape.value_bytes as usize != size_of::<T>() {
        let message = "the map has another layout";
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, message)));
    }
    Mapped::of_map(map, shape.entries).map_err(failed)
}

fn index<K: crate::mapped::Plain, V: crate::mapped::Plain>(
    fd: Find<'_>,
    name: &str,
) -> Result<Index<K, V>, LoadError> {
    Index::of_map(fd(name)?).map_err(|error| pins(Path::new(name), error))
}

/// Directories under a BPF file system, or an error that says what to do.
fn check_file_system(pin_dir: &Path) -> Result<(), LoadError> {
    let existing = pin_dir.ancestors().find(|path| path.exists()).unwrap_or(pin_dir);
    let found = statfs(existing).map_err(|error| pins(existing, error.into()))?;
    if found.f_type != BPF_FS_MAGIC {
        return Err(LoadError::NoBpfFileSystem(pin_dir.to_path_buf()));
    }
    fs::create_dir_all(pin_dir).map_err(|error| pins(pin_dir, error))
}

fn describe(
    open: &OpenHaflingerSkel<'_>,
    capacities: &Capacities,
) -> Result<(Layout, Vec<(u32, String)>), LoadError> {
    let object = open.open_object();
    // SAFETY: the object lives as long as the skeleton that is borrowed here.
    let raw = unsafe { object.as_libbpf_object().as_ref() };
    let btf = Btf::from_bpf_object(raw).map_err(|e| other(&e))?;
    let btf = btf.ok_or_else(|| LoadError::Other("the object has no type information".into()))?;
    let mut reasons = names_of(&btf, "reason", "REASON_");
    reasons.retain(|(_, name)| !name.is_empty());
    Ok((Layout::of(&btf, capacities), reasons))
}

/// Sets what the sources leave to the configuration.
fn size(open: &mut OpenHaflingerSkel<'_>, capacities: &Capacities) -> libbpf_rs::Result<()> {
    let flows = capacities.opening_flows + capacities.established_flows;
    let maps = &mut open.maps;
    // An entry for each direction.
    maps.flow_index.set_max_entries(flows.saturating_mul(2))?;
    maps.flows.set_max_entries(flows)?;
    maps.service_index.set_max_entries(capacities.services)?;
    maps.services.set_max_entries(capacities.services)?;
    maps.service_loads.set_max_entries(capacities.services)?;
    maps.buckets.set_max_entries(capacities.buckets)?;
    maps.source_ranges.set_max_entries(capacities.source_ranges)?;
    maps.affinities.set_max_entries(capacities.affinities)?;
    // Slot 0 is never used.
    maps.backends.set_max_entries(capacities.backends + 1)?;
    maps.backend_loads.set_max_entries(capacities.backends + 1)?;
    maps.backend_counters.set_max_entries(capacities.backends + 1)?;
    maps.sources.set_max_entries(SOURCES)?;
    maps.interfaces.set_max_entries(INTERFACES)?;
    maps.ways.set_max_entries(capacities.established_flows)?;
    // Two directions of each flow; with fewer, more of them would push each other out.
    let hints = flows.saturating_mul(2).next_power_of_two();
    maps.hints.set_max_entries(hints)?;
    maps.fragments.set_max_entries(capacities.fragments)?;
    maps.refusals.set_max_entries(REFUSALS)?;
    if let Some(data) = maps.rodata_data.as_deref_mut() {
        data.opening_records = capacities.opening_flows;
        data.established_records = capacities.established_flows;
        data.hint_mask = hints - 1;
    }
    Ok(())
}

/// Takes the maps that are pinned there; all or none.
fn reuse(open: &mut OpenHaflingerSkel<'_>, directory: &Path) -> Result<bool, LoadError> {
    if !directory.exists() {
        return Ok(false);
    }
    let maps = open.open_object_mut().maps_mut();
    for mut map in maps.filter(|map| KEPT.iter().any(|kept| map.name() == *kept)) {
        let path = directory.join(map.name());
        map.reuse_pinned_map(&path).map_err(|error| LoadError::Pins {
            path,
            source: io::Error::other(error.to_string()),
        })?;
    }
    Ok(true)
}

/// Pins the maps under their version at once: a directory that is there is whole.
fn pin_all<'obj>(
    maps: impl Iterator<Item = libbpf_rs::Map<'obj>>,
    pin_dir: &Path,
    version: &str,
) -> Result<(), LoadError> {
    let (fresh, directory) = (pin_dir.join("fresh"), pin_dir.join(version));
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(|error| pins(&fresh, error))?;
    }
    fs::create_dir(&fresh).map_err(|error| pins(&fresh, error))?;
    for map in maps {
        let path = fresh.join(map.name());
        sys::pin(map.as_fd(), &path).map_err(|error| pins(&path, error))?;
    }
    fs::rename(&fresh, &directory).map_err(|error| pins(&directory, error))
}

fn pins(path: &Path, source: io::Error) -> LoadError {
    LoadError::Pins { path: PathBuf::from(path), source }
}

fn other(error: &libbpf_rs::Error) -> LoadError {
    LoadError::Other(format!("{error:#}"))
}

/// Makes of a failed load what an operator can act upon.
fn explain(error: &libbpf_rs::Error) -> LoadError {
    let said = said();
    let lines: Vec<&str> = said.iter().flat_map(|text| text.lines()).collect();
    let log: Vec<&str> = lines
        .iter()
        .skip_while(|line| !line.contains("BEGIN PROG LOAD LOG"))
        .skip(1)
        .take_while(|line| !line.contains("END PROG LOAD LOG"))
        .copied()
        .collect();
    let missing = missing_capabilities();
    match error.kind() {
        libbpf_rs::ErrorKind::PermissionDenied if !missing.is_empty() => {
            LoadError::NotPermitted(missing.join(", "))
        }
        libbpf_rs::ErrorKind::OutOfMemory => LoadError::Memory,
        _ if !log.is_empty() => {
            let last = &log[log.len().saturating_sub(LOG_LINES)..];
            LoadError::Rejected(format!("{error}\n{}", last.join("\n")))
        }
        _ => lacking(&lines).unwrap_or_else(|| other(error)),
    }
}

/// What the kernel was built without, as libbpf tells it.
fn lacking(lines: &[&str]) -> Option<LoadError> {
    let said = |words: &str| lines.iter().find(|line| line.contains(words));
    let (what, line) = match (said("kernel BTF"), said("failed to create")) {
        (Some(line), _) => ("type information of its own (CONFIG_DEBUG_INFO_BTF)", line),
        (None, Some(line)) => ("a kind of map", line),
        (None, None) => return None,
    };
    Some(LoadError::Kernel { what, detail: line.trim().to_owned() })
}

/// Capabilities that loading, attaching and redirecting take, and where they stand in the mask.
const CAPABILITIES: &[(&str, u32)] = &[("CAP_BPF", 39), ("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38)];

/// Those that this process does not have.
fn missing_capabilities() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let Some(mask) = mask else { return Vec::new() };
    let missing = CAPABILITIES.iter().filter(|(_, bit)| mask >> bit & 1 == 0);
    missing.map(|(name, _)| *name).collect()
}
