//! The proxies under test, each a process of its own on core 0.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use haflinger_core::flow::FlowHashKey;
use haflinger_core::{ForwardingMode, Protocol};
use haflinger_relay::{Relay, Settings};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::free_address;
use crate::snapshot::{backends, service, snapshot};

/// First argument of the process that is Haflinger under test.
pub(crate) const UNDER_TEST: &str = "relay-under-test";

/// Core of the proxies.
const PROXY_CORE: usize = 0;

/// A process is given up when it does not listen within so long.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// A running proxy; ends when dropped.
pub(crate) struct Proxy {
    name: &'static str,
    address: SocketAddr,
    child: Child,
    configuration: Option<PathBuf>,
}

impl Proxy {
    /// Our relay in a process of this program.
    pub(crate) fn haflinger(backend: SocketAddr) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args([UNDER_TEST, &address.to_string(), &backend.to_string(), "1"]);
        Self::start("haflinger", address, command, None)
    }

    /// HAProxy with one thread and splicing; `None` where it is not installed.
    pub(crate) fn haproxy(backend: SocketAddr) -> Result<Option<Self>> {
        let version = Command::new("haproxy").arg("-v").stdout(Stdio::null()).status();
        if !version.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let address = free_address()?;
        let path = std::env::temp_dir()
            .join(format!("haflinger-bench-haproxy-{}.cfg", std::process::id()));
        fs::write(
            &path,
            format!(
                "global\n  nbthread 1\n  maxconn 1000\n\
                 defaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n  \
                 timeout client 60s\n  timeout server 60s\n\
                 listen relay\n  bind {address}\n  server backend {backend}\n"
            ),
        )?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&path);
        Self::start("haproxy", address, command, Some(path)).map(Some)
    }

    fn start(
        name: &'static str,
        address: SocketAddr,
        mut command: Command,
        configuration: Option<PathBuf>,
    ) -> Result<Self> {
        let child =
            command.stdin(Stdio::null()).spawn().with_context(|| format!("starting {name}"))?;
        let proxy = Self { name, address, child, configuration };
        let give_up_at = Instant::now() + START_PATIENCE;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > give_up_at {
                bail!("{name} does not listen on {address}");
            }
            sleep(Duration::from_millis(10));
        }
        for thread in proxy.threads()? {
            pin(Some(thread))?;
        }
        Ok(proxy)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Processor time of the process so far: the first figure of `schedstat` is nanoseconds on
    /// a core, in user and kernel mode.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let mut total = 0;
        for thread in self.threads()? {
            let (process, thread) = (self.child.id(), thread.as_raw_nonzero());
            let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/schedstat"))?;
            let first = text.split_whitespace().next().context("schedstat is empty")?;
            total += first.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total))
    }

    fn threads(&self) -> Result<Vec<Pid>> {
        let folder = format!("/proc/{}/task", self.child.id());
        let mut threads = Vec::new();
        for entry in fs::read_dir(folder)? {
            let number = entry?.file_name().to_string_lossy().parse()?;
            threads.push(Pid::from_raw(number).context("a thread without a number")?);
        }
        Ok(threads)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(path) = &self.configuration {
            let _ = fs::remove_file(path);
        }
    }
}

/// Binds a thread to the proxies' core.
fn pin(thread: Option<Pid>) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(PROXY_CORE);
    sched_setaffinity(thread, &cores).context("binding a proxy to its core")
}

/// Runs Haflinger's relay from one address to one backend on so many threads, until killed.
pub(crate) fn under_test(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut address = || -> Result<SocketAddr> {
        arguments.next().context("an address is missing")?.parse().context("an address")
    };
    let (listen, backend) = (address()?, address()?);
    let threads = arguments.next().context("a number of threads is missing")?.parse()?;
    let served = service(listen, ForwardingMode::Proxy, backends(&[backend], Protocol::Tcp));
    let relay = Relay::new(settings(), &prometheus::Registry::new())?;
    let (_snapshots, receiver) = watch::channel(snapshot(1, [served]));
    let (updates, _unheard) = mpsc::channel(1);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?
        .block_on(async {
            let run = relay.run(receiver, updates, CancellationToken::new());
            tokio::spawn(run).await.context("the relay")
        })
}

fn settings() -> Settings {
    Settings {
        connections_max: 1000,
        connections_per_service_max: 1000,
        udp_flows_max: 1000,
        connect_timeout_ms: 5000,
        connect_attempts_max: 3,
        connect_total_timeout_ms: 5000,
        drain_secs: 0,
        affinity_entries_max: 1000,
        pipes_max: 1000,
        flow_hash_key: FlowHashKey([7; 16]),
    }
}
