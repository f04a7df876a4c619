//! The proxies under test: Haflinger, and its peers with configurations that their manuals
//! recommend. All tell the backend of the client by the same fields, keep connections to it, and
//! write no access log.

mod haflinger;
mod haproxy;
mod newest;
mod nginx;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::certificate::Certificate;
use super::routes::{self, Answer};
use crate::process::{Process, free_address};

pub(crate) use haflinger::{UNDER_TEST, under_test};

/// Client connections that every proxy allows: 10,000 idle ones, and others.
const CONNECTIONS_MAX: usize = 12_000;

/// Seconds for which idle connections are kept: longer than a slow build takes to open all of
/// `l7/idle`.
const KEPT_SECS: u32 = 600;

/// Until the first answer: Haflinger listens as soon as there is a first snapshot.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// What a run asks of every proxy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    /// 1, which takes every request; or more, by host and path.
    pub(super) routes: usize,
    /// Whether TLS sessions may be resumed, where that can be chosen.
    pub(super) resumption: bool,
    /// Whether the backend speaks gRPC.
    pub(super) grpc: bool,
    pub(super) backend: SocketAddr,
}

/// Where a proxy listens, and whence it has its files.
struct Place<'a> {
    http: SocketAddr,
    https: SocketAddr,
    folder: &'a Path,
    certificate: Certificate,
}

/// A running proxy; ends when dropped.
pub(super) struct Proxy {
    process: Process,
    pub(super) http: SocketAddr,
    pub(super) https: SocketAddr,
    _folder: TempDir,
}

/// A kind of proxy that can be had here.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    name: &'static str,
    /// As it calls itself.
    pub(super) version: String,
    /// The program, and what stands before its own arguments.
    program: Vec<String>,
    /// Writes its configuration. Answers with its arguments.
    write: fn(&Setup, &Place<'_>) -> Result<Vec<String>>,
}

/// Haflinger first, then its peers; those that are missing are named on the terminal.
pub(super) fn kinds() -> Result<Vec<Kind>> {
    let peers = [haproxy::kind(), newest::kind(), nginx::kind()];
    Ok(std::iter::once(haflinger::kind()?).chain(peers.into_iter().flatten()).collect())
}

impl Kind {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Starts it, and waits until it answers.
    pub(super) fn start(&self, setup: &Setup) -> Result<Proxy> {
        let folder = TempDir::with_prefix("haflinger-bench-")?;
        let (http, https) = (free_address()?, free_address()?);
        let certificate = Certificate::write(folder.path())?;
        let place = Place { http, https, folder: folder.path(), certificate };
        let arguments =
            (self.write)(setup, &place).with_context(|| format!("configuring {}", self.name))?;
        let (program, before) = self.program.split_first().context("a kind without a program")?;
        let mut command = Command::new(program);
        command.args(before).args(arguments);
        let process =
            Process::start(self.name, command, &[http, https], &folder.path().join("log"))?;
        let proxy = Proxy { process, http, https, _folder: folder };
        let give_up_at = Instant::now() + ANSWER_PATIENCE;
        loop {
            match proxy.asked() {
                Ok(()) => return Ok(proxy),
                Err(error) if Instant::now() > give_up_at => return Err(error),
                Err(_) => sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Proxy {
    pub(super) fn name(&self) -> &'static str {
        self.process.name()
    }

    pub(super) fn process(&self) -> &Process {
        &self.process
    }

    /// Asks for a small answer once.
    fn asked(&self) -> Result<()> {
        let mut stream = TcpStream::connect(self.http)?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
        let (host, path) = routes::steady(Answer::Small).swap_remove(0);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.lines().next().unwrap_or("");
        if !status.starts_with("HTTP/1.1 200") {
            bail!("{} answers {status:?}", self.name());
        }
        Ok(())
    }
}

/// The first line that a program writes of itself with this argument.
fn version_of(program: &[String], argument: &str) -> Option<String> {
    let (program, before) = program.split_first()?;
    let output = Command::new(program).args(before).arg(argument).output().ok()?;
    let texts = [output.stdout, output.stderr].concat();
    let line = String::from_utf8_lossy(&texts).lines().next()?.to_owned();
    output.status.success().then_some(line)
}
