//! The same change as HAProxy has it: the configuration written anew, and a reload.
//!
//! A controller that drives HAProxy by its configuration file has no other way; the run-time API
//! changes addresses of servers that were set aside for it, and nothing else. Counted is the time
//! from the change to a new process that has opened every port: writing the file, `haproxy -c`, and
//! the start with `-sf`, by which the old process is told to finish.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use haflinger_tests::lab::{Namespace, Place};
use rustix::process::{Resource, getrlimit};

/// Descriptors that it needs beside one for each service.
const OTHER_DESCRIPTORS: u64 = 4_000;

/// A reload that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// HAProxy in a namespace; ends when dropped.
pub(super) struct Haproxy<'a> {
    namespace: &'a Namespace,
    configuration: PathBuf,
    pid_file: PathBuf,
    services: usize,
    changes: u32,
}

impl<'a> Haproxy<'a> {
    /// `None` where it is not installed, or may not open as many files.
    pub(super) fn start(
        place: &Place,
        namespace: &'a Namespace,
        services: usize,
    ) -> Result<Option<Self>> {
        let version = Command::new("haproxy").arg("-v").stdout(Stdio::null()).status();
        if !version.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED the comparison of a change: haproxy is not installed");
            return Ok(None);
        }
        let needed = services as u64 + OTHER_DESCRIPTORS;
        let allowed = getrlimit(Resource::Nofile).maximum;
        if let Some(allowed) = allowed.filter(|allowed| *allowed < needed) {
            eprintln!(
                "SKIPPED the comparison of a change: HAProxy needs {needed} open files for \
                 {services} services, and {allowed} are allowed (ulimit -Hn)"
            );
            return Ok(None);
        }
        // The addresses are on no interface.
        namespace.sysctl("ipv4/ip_nonlocal_bind", "1")?;
        let (configuration, pid_file) = (place.path("haproxy.cfg"), place.path("haproxy.pid"));
        let mut haproxy = Self { namespace, configuration, pid_file, services, changes: 0 };
        haproxy.change()?;
        Ok(Some(haproxy))
    }

    /// One pod of one service is replaced. How long it takes until that is in force.
    pub(super) fn change(&mut self) -> Result<Duration> {
        self.changes += 1;
        let began = Instant::now();
        fs::write(&self.configuration, self.text())?;
        self.run(&["-c"])?;
        match fs::read_to_string(&self.pid_file) {
            Ok(old) => {
                let pids: Vec<&str> = old.split_whitespace().collect();
                self.run(&[&["-D", "-sf"], pids.as_slice()].concat())?;
            }
            Err(_) => self.run(&["-D"])?,
        }
        Ok(began.elapsed())
    }

    fn text(&self) -> String {
        let mut text = format!(
            "global\n  nbthread 1\n  maxconn 1000\n  pidfile {}\n\
             defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  \
             timeout server 60s\n",
            self.pid_file.display()
        );
        for service in (0_u32..).take(self.services) {
            let vip = Ipv4Addr::from(u32::from_be_bytes([198, 18, 0, 0]) + service);
            // Writing into a string cannot fail.
            let _ = write!(text, "listen s{service}\n  bind {vip}:80\n");
            for pod in 0..5 {
                let replaced = service == 0 && pod == 0 && self.changes.is_multiple_of(2);
                let net = if replaced { [10, 192, 0, 0] } else { [10, 128, 0, 0] };
                let address = Ipv4Addr::from(u32::from_be_bytes(net) + service * 5 + pod);
                let _ = writeln!(text, "  server p{pod} {address}:8080");
            }
        }
        text
    }

    /// Runs it to its end: the one that goes on in the background has opened its ports by then.
    fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut child = self
            .namespace
            .command("haproxy")?
            .arg("-f")
            .arg(&self.configuration)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting haproxy")?;
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "haproxy {arguments:?} fails: {status}");
                return Ok(());
            }
            if Instant::now() > give_up {
                child.kill()?;
                child.wait()?;
                bail!("haproxy {arguments:?} takes more than {} s", PATIENCE.as_secs());
            }
            sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Haproxy<'_> {
    fn drop(&mut self) {
        for pid in fs::read_to_string(&self.pid_file).unwrap_or_default().split_whitespace() {
            if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                // It may have ended by itself.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}
