//! A BIRD 2 router of the test's own: its process, configuration and control socket live in a
//! temporary directory and end with it. Nothing leaves the loopback interface.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use haflinger_bgp::driver::{Speaker, SpeakerHandle};
use haflinger_bgp::model::{HoldTime, RouterId};
use haflinger_bgp::settings::{PeerSettings, Settings};
use haflinger_bgp::status::{PeerStatus, SpeakerStatus};
use ipnet::IpNet;
use prometheus::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Our AS in every test.
pub(crate) const LOCAL_AS: u32 = 4_200_000_001;
/// BIRD's AS in every test.
pub(crate) const BIRD_AS: u32 = 64_513;
/// The hold time of every session.
pub(crate) const HOLD_TIME_SECS: u16 = 9;
/// How long something that must happen may take. Generous: it bounds a failing test only.
const PATIENCE: Duration = Duration::from_secs(60);

/// The path of BIRD, or `None` after saying loudly that the test is skipped.
pub(crate) fn bird_or_skip(test: &str) -> Option<PathBuf> {
    let places = ["/usr/sbin/bird", "/usr/local/sbin/bird", "/usr/bin/bird"];
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    let control = places.iter().any(|path| PathBuf::from(format!("{path}c")).exists());
    if found.is_none() || !control {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: bird and birdc are not installed");
        return None;
    }
    found
}

/// A port that is free on an address.
pub(crate) fn free_port(address: IpAddr) -> u16 {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port()
}

/// An address for each side, apart from those of other tests.
pub(crate) fn addresses(test: u8) -> (IpAddr, IpAddr) {
    let of = |host| IpAddr::V4(Ipv4Addr::new(127, 79, test, host));
    (of(1), of(2))
}

/// A running BIRD.
pub(crate) struct Bird {
    program: PathBuf,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Bird {
    /// Starts BIRD with `protocols` below the common head.
    pub(crate) fn start(program: PathBuf, router_id: IpAddr, protocols: &str) -> Bird {
        let folder = tempfile::tempdir().unwrap();
        let mut bird = Bird { program, folder, child: None };
        let log = bird.path("log");
        let config = format!(
            "log \"{}\" all;\nrouter id {router_id};\nprotocol device {{}}\n{protocols}\n",
            log.display()
        );
        std::fs::write(bird.path("conf"), config).unwrap();
        bird.spawn();
        bird
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the process again after [`Bird::kill`].
    pub(crate) fn spawn(&mut self) {
        let _ = std::fs::remove_file(self.path("ctl"));
        let child = Command::new(&self.program)
            .arg("-f")
            .args(["-c".as_ref(), self.path("conf").as_os_str()])
            .args(["-s".as_ref(), self.path("ctl").as_os_str()])
            .args(["-P".as_ref(), self.path("pid").as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Kills the process, as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What `birdc` answers.
    pub(crate) fn ask(&self, question: &str) -> String {
        let control = PathBuf::from(format!("{}c", self.program.display()));
        let output = Command::new(control)
            .args(["-s".as_ref(), self.path("ctl").as_os_str()])
            .args(question.split_whitespace())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What BIRD has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until the answer to a question is as it should be.
    pub(crate) async fn until(&self, question: &str, good: impl Fn(&str) -> bool) -> String {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(question);
            if good(&answer) {
                return answer;
            }
            let late = tokio::time::Instant::now() > end;
            assert!(!late, "{question}: {answer}\nlog:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running speaker.
pub(crate) struct Running {
    pub(crate) handle: SpeakerHandle,
    pub(crate) desired: watch::Sender<Arc<BTreeSet<IpNet>>>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

/// Settings with the hold time that BIRD offers, which no stall of a loaded machine outlasts, and
/// retries after 1 s.
pub(crate) fn settings(router_id: IpAddr, peers: Vec<PeerSettings>) -> Settings {
    let IpAddr::V4(router_id) = router_id else { panic!("router id of a test is IPv4") };
    Settings {
        local_as: LOCAL_AS,
        router_id: RouterId::new(router_id).unwrap(),
        hold_time: HoldTime::from_secs(HOLD_TIME_SECS).unwrap(),
        connect_retry_secs: 1,
        listen: None,
        communities: Vec::new(),
        peers,
    }
}

/// The prefixes of a text.
pub(crate) fn nets(text: &str) -> Arc<BTreeSet<IpNet>> {
    Arc::new(text.split_whitespace().map(|net| net.parse().unwrap()).collect())
}

impl Running {
    /// Starts a speaker that announces the prefixes of a text.
    pub(crate) fn start(settings: Settings, prefixes: &str) -> Running {
        let speaker = Speaker::new(settings, &Registry::new()).unwrap();
        let (desired, seen) = watch::channel(nets(prefixes));
        let shutdown = CancellationToken::new();
        let handle = speaker.handle();
        let task = tokio::spawn(speaker.run(seen, shutdown.clone()));
        Running { handle, desired, shutdown, task }
    }

    /// Stops it gracefully.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }

    /// Waits until the status is as it should be.
    pub(crate) async fn until(&self, good: impl Fn(&SpeakerStatus) -> bool) -> SpeakerStatus {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let status = self.handle.status();
            if good(&status) {
                return status;
            }
            assert!(tokio::time::Instant::now() < end, "{status:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the first peer is as it should be.
    pub(crate) async fn until_peer(&self, good: impl Fn(&PeerStatus) -> bool) -> PeerStatus {
        let status = self.until(|status| status.peers.first().is_some_and(&good)).await;
        status.peers[0].clone()
    }
}
