//! What clients in the lab do and what they report: shared by the `client` binary, which runs
//! in the client's namespace, and by the scenarios, which start and stop it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::place::{Place, binaries};
use super::{Namespace, Process};

/// What a client does until it is told to stop (SIGTERM) or is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// How it speaks.
    pub kind: Kind,
    /// Where to; several are taken in turn.
    pub targets: Vec<SocketAddr>,
    /// Time between the starts of two exchanges, or between two lines of a held connection, in
    /// milliseconds.
    pub interval_ms: u64,
    /// An exchange that takes longer has failed, in milliseconds.
    pub timeout_ms: u64,
    /// Exchanges (or held connections) to make; 0: until told to stop.
    pub count: u64,
}

/// How a client speaks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// A new TCP connection for every exchange: reads the greeting, says one line, reads it.
    Connect,
    /// The same, where the greeting ends in what a PROXY protocol header said: that counts as
    /// the peer.
    Proxied,
    /// `count` TCP connections kept open, a line on each every interval.
    Hold,
    /// A datagram from a new socket for every exchange.
    Datagram {
        /// What it carries, in bytes: more than a packet holds travels in fragments.
        length: usize,
    },
    /// An ICMP echo request from a new socket for every exchange; the target's port is nothing.
    Ping,
    /// A new TCP connection for every exchange, over which as many bytes go to the pod.
    Store {
        /// How many.
        length: u64,
    },
    /// The same, with the bytes coming from the pod.
    Fetch {
        /// How many.
        length: u64,
    },
    /// An HTTPS request on a new connection for every exchange.
    Https {
        /// Host name, resolved to the target.
        host: String,
        /// Path with leading `/`.
        path: String,
        /// PEM file with the authority to trust.
        authority: PathBuf,
        /// HTTP/2 instead of HTTP/1.1.
        http2: bool,
    },
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Exchanges that succeeded, by the pod that answered.
    pub pods: BTreeMap<String, u64>,
    /// Exchanges (or held connections) that failed, by reason.
    pub failures: BTreeMap<String, u64>,
    /// Peers that pods saw, without ports.
    pub peers: BTreeMap<String, u64>,
    /// Peers and pods together, as `PEER POD`: which host led where.
    pub ways: BTreeMap<String, u64>,
    /// Failed exchanges one by one, the first [`FAILURES_MAX`].
    pub failed_exchanges: Vec<Failure>,
    /// Held connections, in the order in which they were opened.
    pub held: Vec<Held>,
    /// The last HTTP answer's body, where the client speaks HTTPS.
    pub last_body: Option<String>,
}

/// Failures that are told one by one: more than any test looks at.
pub const FAILURES_MAX: usize = 10_000;

/// One exchange that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why.
    pub reason: String,
    /// When it began, in milliseconds since 1970.
    pub began_ms: u64,
    /// When it had failed, in milliseconds since 1970.
    pub ended_ms: u64,
}

/// How held connections fare while the client is at work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Connections that are open.
    pub open: u64,
    /// Lines that came back, over all connections.
    pub lines: u64,
    /// Connections that failed, by pod and reason.
    pub failures: BTreeMap<String, u64>,
}

/// One held connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The pod at the other end.
    pub pod: String,
    /// The peer that the pod saw, without port.
    pub peer: String,
    /// Lines that came back.
    pub lines: u64,
    /// Why it ended early.
    pub failure: Option<String>,
}

impl Plan {
    /// A client that opens a new connection every `interval_ms` until it is stopped.
    pub fn connect(targets: Vec<SocketAddr>, interval_ms: u64) -> Self {
        Self { kind: Kind::Connect, targets, interval_ms, timeout_ms: 5000, count: 0 }
    }

    /// A client that keeps `count` connections open until it is stopped.
    pub fn hold(targets: Vec<SocketAddr>, count: u64) -> Self {
        Self { kind: Kind::Hold, targets, interval_ms: 100, timeout_ms: 5000, count }
    }

    /// The same, for `count` exchanges.
    pub fn times(self, count: u64) -> Self {
        Self { count, ..self }
    }

    /// The same, in another way of speaking.
    pub fn by(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }
}

impl Report {
    /// Exchanges that succeeded.
    pub fn successes(&self) -> u64 {
        self.pods.values().sum()
    }

    /// Exchanges (or held connections) that failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Fails unless there were exchanges and every one succeeded.
    pub fn ensure_flawless(&self) -> Result<()> {
        ensure!(self.successes() > 0, "nothing was exchanged: {self:?}");
        ensure!(
            self.failures.is_empty(),
            "{} of {} exchanges failed: {:?}",
            self.failed(),
            self.failed() + self.successes(),
            self.failures
        );
        Ok(())
    }
}

/// Where a client that holds connections writes its [`Progress`], beside its report.
pub fn progress_path(report: &Path) -> PathBuf {
    report.with_extension("progress")
}

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A client at work.
#[derive(Debug)]
pub struct Client {
    process: Process,
    report: PathBuf,
}

/// Where clients are started: the client's namespace and the lab's directories.
#[derive(Clone, Debug)]
pub struct Clients {
    place: Place,
    namespace: Namespace,
}

impl Clients {
    /// Clients in `namespace`.
    pub fn new(place: &Place, namespace: &Namespace) -> Self {
        Self { place: place.clone(), namespace: namespace.clone() }
    }

    /// Starts a client under a name of its own.
    pub fn start(&self, name: &str, plan: &Plan) -> Result<Client> {
        let report = self.place.path(format!("{name}.report.json"));
        let _ = std::fs::remove_file(&report);
        let _ = std::fs::remove_file(progress_path(&report));
        let mut command = self.command(plan)?;
        command.arg("--report").arg(&report);
        Ok(Client { process: Process::spawn(&self.place, name, command)?, report })
    }

    /// Lets a client make the plan's exchanges and answers its report.
    pub async fn complete(&self, plan: &Plan) -> Result<Report> {
        ensure!(plan.count > 0, "a client without end cannot complete");
        let mut command = tokio::process::Command::from(self.command(plan)?);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = command.output().await.context("start the client")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the client failed: {stderr}");
        serde_json::from_slice(&output.stdout).context("read the client's report")
    }

    /// Exchanges over TCP with each of `targets`.
    pub async fn tcp(&self, address: IpAddr, port: u16, count: u64) -> Result<Report> {
        let plan = Plan::connect(vec![SocketAddr::new(address, port)], 2).times(count);
        self.complete(&plan).await
    }

    /// Exchanges over UDP.
    pub async fn udp(&self, address: IpAddr, port: u16, count: u64) -> Result<Report> {
        let plan = Plan::connect(vec![SocketAddr::new(address, port)], 2).times(count);
        self.complete(&plan.by(Kind::Datagram { length: 4 })).await
    }

    fn command(&self, plan: &Plan) -> Result<Command> {
        let binary = binaries()?.join("client");
        let mut command = self.namespace.command(&binary.display().to_string())?;
        command.arg("--plan").arg(serde_json::to_string(plan)?);
        Ok(command)
    }
}

impl Client {
    /// How the connections fare that it holds: what it wrote down last.
    pub fn progress(&self) -> Result<Progress> {
        let path = progress_path(&self.report);
        let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Tells the client to stop and answers its report.
    pub async fn stop(mut self) -> Result<Report> {
        let went = self.process.stop(Duration::from_secs(15)).await?;
        ensure!(went, "the client did not stop");
        let bytes = std::fs::read(&self.report).with_context(|| {
            let log = super::process::tail(self.process.log());
            format!("read {}; the client said: {log}", self.report.display())
        })?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}
