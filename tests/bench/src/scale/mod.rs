//! `ONLY=scale`: what a change of one EndpointSlice costs at 10, 1,000 and 50,000 services, and
//! what the whole of them costs.
//!
//! ```text
//!  this process: replayed API ──HTTP──> the daemon, a process of its own:
//!    changes leave at the time t          watch ─> decode ─> ledger ─> index ─> snapshot ─> XDP
//!                                                                        p             a
//! ```
//!
//! The daemon is the shipped one, all rooms of it, with an observer beside it, and its maps have
//! their shipped sizes. The API is replayed:
//! no cluster that fits here has 50,000 services. Rows of a change are the time from t to p
//! (published) and from t to a (programmed: the maps of XDP hold it; without root, the relay's
//! table). Both contain the loopback and the two processes' scheduling. The changes come at 200
//! each second, at uneven times. A cold start runs from the start of the process, without a state
//! file, until everything that the cluster has is in the data path.

mod api;
mod haproxy;
mod subject;
mod world;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::{Namespace, Place, sweep, sweep_orphans};
use rustix::process::geteuid;

use crate::l4::datapath;
use crate::random::Random;
use crate::report::{Better, Measure, Report, Stat};
use api::{Api, Lists, now_nanos};
use haproxy::Haproxy;
use subject::{Passage, Subject};
use world::{POD_NETWORK, World};

pub(crate) use subject::{UNDER_TEST, under_test};

/// Cold starts and rounds of changes: odd, so that the median is a measured one.
const ROUNDS: usize = 3;

/// Changes each second.
const RATE: f64 = 200.0;

/// Changes of one round.
const CHANGES: usize = 800;

/// The daemon has this long to show the last change of a round.
const SETTLE: Duration = Duration::from_millis(500);

/// Runs one size of the cluster.
pub(crate) fn run(report: &mut Report, services: usize) -> Result<()> {
    let stage = Stage::create()?;
    report.heading(&format!("{services} services with 5 endpoints each, in slices"));
    let mut size = Size { stage: &stage, services, report };
    let reloads = size.haproxy()?;
    size.daemon(reloads)
}

/// Where the daemon runs: with root, a network namespace with an interface for XDP.
struct Stage {
    place: Place,
    namespace: Option<Namespace>,
}

impl Stage {
    fn create() -> Result<Self> {
        let place = Place::of(&format!("bench-{}", std::process::id()));
        if !geteuid().is_root() {
            eprintln!("NOTE scale: without root the relay is measured, not XDP");
            let folder =
                std::env::temp_dir().join(format!("haflinger-scale-{}", std::process::id()));
            fs::create_dir_all(&folder)?;
            return Ok(Self { place, namespace: None });
        }
        sweep_orphans();
        place.create()?;
        let namespace = Namespace::create(&place, "edge")?;
        datapath::mount(&place)?;
        namespace.ip(&format!(
            "link add pods type veth peer name far\nlink set pods up\nlink set far up\naddr add 10.66.0.1/24 dev pods\n\
             neigh add 10.66.0.2 lladdr 02:00:00:00:00:02 dev pods nud permanent\n\
             route add {POD_NETWORK} via 10.66.0.2\n"
        ))?;
        Ok(Self { place, namespace: Some(namespace) })
    }

    fn folder(&self) -> PathBuf {
        match self.namespace {
            Some(_) => self.place.path("scale"),
            None => std::env::temp_dir().join(format!("haflinger-scale-{}", std::process::id())),
        }
    }

    fn command(&self) -> Result<Command> {
        let program = std::env::current_exe()?;
        match &self.namespace {
            Some(namespace) => {
                namespace.command(program.to_str().context("the path of this program")?)
            }
            None => Ok(Command::new(program)),
        }
    }

    /// Takes the program off, and the maps with it: what an earlier daemon left would be taken over.
    fn take_off(&self) -> Result<()> {
        let Some(namespace) = &self.namespace else { return Ok(()) };
        let pins = self.pins();
        namespace.enter(move || haflinger_xdp::take_off(&pins))??;
        Ok(())
    }

    fn pins(&self) -> PathBuf {
        self.place.path("bpf").join("scale")
    }

    fn api(&self, world: World, lists: Lists) -> Result<Api> {
        match &self.namespace {
            Some(namespace) => namespace.enter(move || Api::start(world, lists))?,
            None => Api::start(world, lists),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Best effort: what is left says so in its name.
        let _ = fs::remove_dir_all(self.folder());
        if self.namespace.is_some() {
            let _ = self.take_off();
            sweep(&self.place);
        }
    }
}

/// One size under measurement.
struct Size<'a> {
    stage: &'a Stage,
    services: usize,
    report: &'a mut Report,
}

impl Size<'_> {
    /// Cold starts, and changes in the last of them.
    fn daemon(&mut self, reloads: Option<Stat>) -> Result<()> {
        let api = self.stage.api(World::new(self.services), Lists::Streamed)?;
        let (mut starts, mut spent) = (Vec::new(), Vec::new());
        let mut last = None;
        for _ in 0..ROUNDS {
            // The one before gives its memory and its maps back first.
            drop(last.take());
            let (subject, took) = self.cold(&api)?;
            starts.push(took.as_secs_f64());
            spent.push(subject.cpu_time()?.as_secs_f64());
            last = Some(subject);
        }
        self.add("cold-start", "s", starts);
        self.add("cold-start-cpu", "s of a core", spent);
        let mut subject = last.context("no round")?;
        self.memory("start", &subject)?;
        self.changes(&api, &mut subject, reloads)?;
        self.memory("changed", &subject)?;
        drop(subject);
        let paged = self.stage.api(World::new(self.services), Lists::Paged)?;
        let (_subject, took) = self.cold(&paged)?;
        self.add("cold-start-paged", "s", vec![took.as_secs_f64()]);
        Ok(())
    }

    /// Starts the daemon on nothing.
    fn cold(&self, api: &Api) -> Result<(Subject, Duration)> {
        let folder = self.stage.folder();
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        self.stage.take_off()?;
        let configuration = self.configure(&folder, api)?;
        let began = now_nanos();
        let xdp = self.stage.namespace.is_some();
        let mut subject = Subject::start(self.stage.command()?, &configuration, xdp)?;
        let complete = subject.complete()?;
        Ok((subject, Duration::from_nanos(complete.applied.saturating_sub(began))))
    }

    fn configure(&self, folder: &Path, api: &Api) -> Result<PathBuf> {
        let kubeconfig = folder.join("kubeconfig");
        fs::write(
            &kubeconfig,
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                 clusters: [{{name: c, cluster: {{server: \"http://{}\"}}}}]\n\
                 users: [{{name: u, user: {{}}}}]\n\
                 contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
                api.address()
            ),
        )?;
        let folder_text = folder.display();
        let data_path = match self.stage.namespace {
            // The maps have their shipped sizes.
            Some(_) => format!(
                "[xdp]\ninterfaces = [\"pods\"]\nnat_addresses = [\"10.66.0.9\"]\npin_dir = \"{}\"\n",
                self.stage.pins().display()
            ),
            None => "[l4]\nmode = \"proxy\"\n[xdp]\nenabled = false\n".to_owned(),
        };
        let file = folder.join("haflinger.toml");
        fs::write(
            &file,
            format!(
                "[host]\nname = \"edge\"\nstate_dir = \"{folder_text}/state\"\n\
                 run_dir = \"{folder_text}/run\"\n\
                 [admin]\nlisten = \"\"\nsocket = \"{folder_text}/admin.sock\"\n\
                 [log]\nlevel = \"error\"\n\
                 [[cluster]]\nname = \"replayed\"\nkubeconfig = \"{}\"\n\
                 [[pool]]\nname = \"all\"\naddresses = [\"198.18.0.0/15\"]\n\
                 [vips]\nbind = false\n{data_path}",
                kubeconfig.display()
            ),
        )?;
        Ok(file)
    }

    /// Rounds of changes.
    fn changes(&mut self, api: &Api, subject: &mut Subject, reloads: Option<Stat>) -> Result<()> {
        let mut published = Percentiles::default();
        let mut programmed = Percentiles::default();
        let mut cpu = Vec::new();
        let mut random = Random(1);
        // The first round warms caches and allocators, and is not counted.
        for round in 0..=ROUNDS {
            let (before, began) = (subject.cpu_time()?, Instant::now());
            let sent = send(api, &mut random)?;
            let (spent, took) = (subject.cpu_time()? - before, began.elapsed());
            sleep(SETTLE);
            let passages = subject.passages()?;
            // Changes of one service that are published together are seen as one.
            ensure!(
                passages.len() > CHANGES / 2,
                "of {CHANGES} changes only {} came through",
                passages.len()
            );
            if round > 0 {
                published.add(&sent, &passages, |passage| passage.published);
                programmed.add(&sent, &passages, |passage| passage.applied);
                cpu.push(100.0 * spent.as_secs_f64() / took.as_secs_f64());
            }
        }
        for (name, Percentiles { p50, p99, max }) in
            [("published", published), ("programmed", programmed)]
        {
            for (percentile, samples) in [("p50", p50), ("p99", p99), ("max", max)] {
                let peers = reloads.map(|reload| ("haproxy reload", reload));
                self.report.add(Measure {
                    name: format!("scale/change/{name}/services={}/{percentile}", self.services),
                    unit: "ms",
                    better: Better::Lower,
                    haflinger: Stat::of(samples),
                    peers: peers.into_iter().collect(),
                });
            }
        }
        self.add("cpu-at-200-changes", "% of a core", cpu);
        Ok(())
    }

    fn memory(&mut self, when: &str, subject: &Subject) -> Result<()> {
        let memory = subject.memory()?;
        let mib = |bytes: u64| vec![bytes as f64 / f64::from(1 << 20)];
        self.add(&format!("memory/{when}/resident"), "MiB", mib(memory.resident));
        self.add(&format!("memory/{when}/own"), "MiB", mib(memory.own));
        self.add(&format!("memory/{when}/peak"), "MiB", mib(memory.peak));
        Ok(())
    }

    /// The same change as a reload, in milliseconds.
    fn haproxy(&mut self) -> Result<Option<Stat>> {
        let Some(namespace) = &self.stage.namespace else {
            eprintln!("SKIPPED the comparison of a change: HAProxy's addresses need root");
            return Ok(None);
        };
        let started = Haproxy::start(&self.stage.place, namespace, self.services);
        let Some(mut haproxy) = started.context("starting HAProxy")? else { return Ok(None) };
        // A reload of the largest takes long enough.
        let rounds = if self.services > 1_000 { 1 } else { ROUNDS };
        let samples: Result<Vec<f64>> =
            (0..rounds).map(|_| Ok(haproxy.change()?.as_secs_f64() * 1e3)).collect();
        Ok(Some(Stat::of(samples?)))
    }

    fn add(&mut self, what: &str, unit: &'static str, samples: Vec<f64>) {
        self.report.add(Measure {
            name: format!("scale/{what}/services={}", self.services),
            unit,
            better: Better::Lower,
            haflinger: Stat::of(samples),
            peers: Vec::new(),
        });
    }
}

/// Sends a round of changes at uneven times; when each left, by its number.
fn send(api: &Api, random: &mut Random) -> Result<HashMap<usize, u64>> {
    let mut sent = HashMap::with_capacity(CHANGES);
    let mut next = Instant::now();
    for _ in 0..CHANGES {
        // From nothing to twice the mean.
        let share = random.below(2000) as f64 / 1000.0;
        next += Duration::from_secs_f64(share / RATE);
        sleep(next.saturating_duration_since(Instant::now()));
        let (number, left) = api.send_change()?;
        sent.insert(number, left);
    }
    Ok(sent)
}

/// Milliseconds by round.
#[derive(Default)]
struct Percentiles {
    p50: Vec<f64>,
    p99: Vec<f64>,
    max: Vec<f64>,
}

impl Percentiles {
    fn add(
        &mut self,
        sent: &HashMap<usize, u64>,
        passages: &[Passage],
        end: impl Fn(&Passage) -> u64,
    ) {
        let took = passages.iter().filter_map(|passage| {
            let left = sent.get(&passage.change)?;
            Some(end(passage).saturating_sub(*left) as f64 / 1e6)
        });
        let mut took: Vec<f64> = took.collect();
        took.sort_by(f64::total_cmp);
        let at = |per_cent: usize| {
            let rank = (took.len() * per_cent).div_ceil(100).saturating_sub(1);
            took.get(rank).copied().unwrap_or(f64::NAN)
        };
        self.p50.push(at(50));
        self.p99.push(at(99));
        self.max.push(at(100));
    }
}
