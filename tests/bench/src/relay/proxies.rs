//! The proxies under test, each a process of its own.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use haflinger_core::flow::FlowHashKey;
use haflinger_core::{ForwardingMode, Protocol};
use haflinger_relay::{Relay, Settings};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::process::{Process, free_address};
use crate::snapshot::{backends, service, snapshot};

/// First argument of the process that is Haflinger under test.
pub(crate) const UNDER_TEST: &str = "relay-under-test";

/// A running proxy; ends when dropped.
pub(crate) struct Proxy {
    process: Process,
    address: SocketAddr,
    /// With its configuration and its log.
    _folder: TempDir,
}

impl Proxy {
    /// Our relay in a process of this program.
    pub(crate) fn haflinger(backend: SocketAddr) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args([UNDER_TEST, &address.to_string(), &backend.to_string(), "1"]);
        Self::start("haflinger", address, command, TempDir::with_prefix("haflinger-bench-")?)
    }

    /// HAProxy with one thread and splicing; `None` where it is not installed.
    pub(crate) fn haproxy(backend: SocketAddr) -> Result<Option<Self>> {
        let version = Command::new("haproxy").arg("-v").stdout(Stdio::null()).status();
        if !version.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let address = free_address()?;
        let folder = TempDir::with_prefix("haflinger-bench-")?;
        let path = folder.path().join("haproxy.cfg");
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
        Self::start("haproxy", address, command, folder).map(Some)
    }

    fn start(
        name: &'static str,
        address: SocketAddr,
        command: Command,
        folder: TempDir,
    ) -> Result<Self> {
        let process = Process::start(name, command, &[address], &folder.path().join("log"))?;
        Ok(Self { process, address, _folder: folder })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.process.name()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Processor time so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        self.process.cpu_time()
    }
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
