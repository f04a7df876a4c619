//! Network namespaces: made by iproute2, entered by threads and child processes.
//!
//! A namespace never outlives its [`Namespace`] value, except after a crash; then
//! [`remove_all`] finds it by the lab's prefix.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::{io, thread};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Place;

/// Kernel settings of every namespace: addresses are usable at once, packets are forwarded
/// where a route says so, and reach a host by whichever way. No ICMP error is held back.
const SYSCTLS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
];

/// A network namespace that is removed with the last clone of this value.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Owned>);

#[derive(Debug)]
struct Owned {
    name: String,
    /// Whether it is removed with the value.
    owned: bool,
}

impl Namespace {
    /// Creates the lab's namespace `name` with loopback up.
    pub fn create(place: &Place, name: &str) -> Result<Self> {
        let name = place.namespace(name);
        run_ip(&["netns", "add", &name])?;
        let namespace = Self(Arc::new(Owned { name, owned: true }));
        namespace.ip("link set lo up")?;
        for (key, value) in SYSCTLS {
            namespace.sysctl(key, value)?;
        }
        Ok(namespace)
    }

    /// The namespace `name` of a lab that somebody else keeps.
    pub fn existing(place: &Place, name: &str) -> Self {
        Self(Arc::new(Owned { name: place.namespace(name), owned: false }))
    }

    /// Its full name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs `ip` commands inside, one a line, stopping at the first that fails.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.ip_batch(&[], lines)
    }

    /// The same for commands that do not see by their arguments that they are of IPv6.
    pub fn ip6(&self, lines: &str) -> Result<()> {
        self.ip_batch(&["-6"], lines)
    }

    fn ip_batch(&self, options: &[&str], lines: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(options)
            .args(["-n", self.name(), "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start ip")?;
        let mut stdin = child.stdin.take().context("ip has no standard input")?;
        stdin.write_all(lines.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "ip in {}: {} (of: {lines})",
            self.name(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// What a command run inside prints; an error when it fails.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = self.command(program)?;
        let output = command.args(args).output().with_context(|| format!("start {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{program} {} in {}: {text}{stderr}", args.join(" "), self.name());
        }
        Ok(text)
    }

    /// Sets `net/KEY` inside.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        let value = value.to_owned();
        self.enter(move || fs::write(&path, value).with_context(|| format!("write {path}")))?
    }

    /// Runs `inside` on a thread of its own in this namespace.
    pub fn enter<T: Send + 'static>(
        &self,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let file = self.open()?;
        let thread = thread::spawn(move || -> io::Result<T> {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(inside())
        });
        match thread.join() {
            Ok(result) => result.with_context(|| format!("enter {}", self.name())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// A runtime all of whose threads live in this namespace: what it connects to and listens
    /// on is there.
    pub fn runtime(&self) -> Result<tokio::runtime::Runtime> {
        let runtime = self.enter(|| {
            // Threads inherit the namespace of the thread that starts them.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("in-namespace")
                .enable_all()
                .build()?;
            // Workers are started by the builder; blocking threads by whoever needs one, which
            // are the workers themselves.
            io::Result::Ok(runtime)
        })??;
        Ok(runtime)
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Result<Command> {
        let file = self.open()?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only one system call is made on a descriptor that was
        // opened before; nothing is allocated and no lock is taken.
        unsafe {
            command.pre_exec(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(())
            });
        }
        Ok(command)
    }

    fn open(&self) -> Result<File> {
        let path = format!("/run/netns/{}", self.name());
        File::open(&path).with_context(|| format!("open {path}"))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.owned {
            // A namespace that somebody else removed is as good as removed.
            let _ = run_ip(&["netns", "del", &self.name]);
        }
    }
}

/// Joins two namespaces by a pair of virtual Ethernet devices, both up.
pub(super) fn join(left: (&Namespace, &str), right: (&Namespace, &str)) -> Result<()> {
    let (left, left_device) = left;
    let (right, right_device) = right;
    left.ip(&format!(
        "link add {left_device} type veth peer name {right_device} netns {}\n\
         link set {left_device} up\n",
        right.name()
    ))?;
    right.ip(&format!("link set {right_device} up\n"))
}

/// Names of all namespaces of a lab.
pub fn names(place: &Place) -> Vec<String> {
    let prefix = place.namespace_prefix();
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

/// Removes every namespace of a lab; answers how many there were.
pub(super) fn remove_all(place: &Place) -> usize {
    let names = names(place);
    for name in &names {
        let _ = run_ip(&["netns", "del", name]);
    }
    names.len()
}

fn run_ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("start ip")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", args.join(" "), stderr.trim());
    Ok(())
}
