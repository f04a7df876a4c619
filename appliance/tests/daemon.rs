//! The daemon as a process, unprivileged, on loopback.
//!
//! ```text
//!  client ── 127.0.0.1:V ── haflinger run ── 127.0.0.1:B ── haflinger backend
//!                              │
//!                              └ configuration, inventory and socket in a directory of the test
//! ```
//!
//! 1. The inventory is served, and a changed one is applied without a restart.
//! 2. A bad inventory keeps the former one.
//! 3. A bad configuration keeps the former one, and status and metric say so.
//! 4. A good one is applied on SIGHUP and when the file changes.
//! 5. Environment and flags are stronger than the file.
//! 6. SIGTERM ends the daemon with success and takes its socket away.
//! 7. A second daemon with the same socket is refused and says why.
//! 8. A service whose port another program has is told, not announced, and served once it can be.
//! 9. Questions about single flows are answered on the socket, and on no other way.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Generous: it only bounds how long a failing test takes.
const PATIENCE: Duration = Duration::from_secs(120);

const PROGRAM: &str = env!("CARGO_BIN_EXE_haflinger");

/// Ports below those that the kernel gives to clients, which would take them in passing.
const PORTS: Range<u16> = 10_000..20_000;

/// A port that is free; no other test of this process is given the same.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ports = u32::from(PORTS.end - PORTS.start);
    let next = || {
        let at = std::process::id().wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % ports;
        PORTS.start + u16::try_from(at).expect("within the ports")
    };
    (0..ports)
        .map(|_| next())
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port")
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(quiet.spawn().expect("the program starts"))
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status().expect("kill(1)");
        assert!(status.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One daemon with a backend and everything of theirs.
struct Fixture {
    directory: tempfile::TempDir,
    admin: u16,
    vip: u16,
    backend: u16,
    _backend: Process,
    daemon: Process,
}

impl Fixture {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(adjust: impl FnOnce(&mut Command)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (admin, vip, backend) = (free_port(), free_port(), free_port());
        let listen = format!("127.0.0.1:{backend}");
        let sample =
            Process::start(program().args(["backend", "--name", "sample", "--listen", &listen]));
        write(&directory, "haflinger.toml", &configuration(&directory, admin, ""));
        write(&directory, "inventory.toml", &inventory(vip, backend));
        let mut command = program();
        command.arg("run").arg("--config").arg(directory.path().join("haflinger.toml"));
        adjust(&mut command);
        let daemon = Process::start(&mut command);
        let fixture = Self { directory, admin, vip, backend, _backend: sample, daemon };
        eventually("the backend answers through the daemon", || {
            fixture.answer(fixture.vip).is_some_and(|body| body.contains("sample answers"))
        });
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, extra: &str) {
        let text = configuration(&self.directory, self.admin, extra);
        write(&self.directory, "haflinger.toml", &text);
    }

    fn answer(&self, port: u16) -> Option<String> {
        fetch(port, "/")
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let page = fetch(self.admin, "/metrics")?;
        let line = page.lines().find(|line| line.split([' ', '{']).next() == Some(name))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    fn status(&self) -> String {
        let socket = self.path("admin.sock");
        let output = run(&["status", "--socket", &socket.display().to_string()]);
        String::from_utf8(output.stdout).expect("text")
    }
}

/// The program without the configuration of whoever runs the tests.
fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    let ours = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("HAFLINGER_");
    for name in std::env::vars_os().map(|(name, _)| name).filter(ours) {
        command.env_remove(name);
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().expect("the program runs")
}

fn write(directory: &tempfile::TempDir, name: &str, text: &str) {
    std::fs::write(directory.path().join(name), text).expect("a writable directory");
}

fn configuration(directory: &tempfile::TempDir, admin: u16, extra: &str) -> String {
    let place = directory.path();
    format!(
        "[host]\nname = \"here\"\nstate_dir = {place:?}\nrun_dir = {place:?}\n\
         [admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         [inventory]\npath = {:?}\n[vips]\nbind = false\n[relay]\ndrain_secs = 1\n\
         [proxy]\ndrain_secs = 1\nworkers = 1\n[xdp]\nenabled = false\n{extra}\n",
        place.join("inventory.toml"),
    )
}

fn inventory(vip: u16, backend: u16) -> String {
    format!(
        "[[service]]\nname = \"echo\"\naddresses = [\"127.0.0.1\"]\n\
         ports = [{{ port = {vip}, target_port = {backend} }}]\n\
         backends = [{{ address = \"127.0.0.1\" }}]\n"
    )
}

/// The answer to a GET, if anybody answers.
fn fetch(port: u16, path: &str) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn a_changed_inventory_is_applied_and_a_bad_one_keeps_the_former() {
    let fixture = Fixture::start();
    let second = free_port();
    let both = inventory(fixture.vip, fixture.backend)
        + &inventory(second, fixture.backend).replace("echo", "second");
    write(&fixture.directory, "inventory.toml", &both);
    eventually("the added service answers", || fixture.answer(second).is_some());
    let relayed = |count: u32| {
        let line = format!("haflinger_core_services{{mode=\"proxy\"}} {count}\n");
        fetch(fixture.admin, "/metrics").is_some_and(|page| page.contains(&line))
    };
    assert!(relayed(2));

    write(&fixture.directory, "inventory.toml", "[[service]]\nname = 7\n");
    eventually("the refusal is counted", || {
        fixture.metric("haflinger_discovery_inventory_valid") == Some(0.0)
    });
    assert!(fixture.answer(fixture.vip).is_some() && fixture.answer(second).is_some());
    assert!(fixture.status().contains("inventory.toml"), "{}", fixture.status());

    write(&fixture.directory, "inventory.toml", &inventory(fixture.vip, fixture.backend));
    eventually("the removed service is gone", || fixture.answer(second).is_none());
    assert!(relayed(1));
    assert!(fixture.answer(fixture.vip).is_some());
}

#[test]
fn a_bad_configuration_keeps_the_former_and_a_good_one_is_applied() {
    let fixture = Fixture::start();
    fixture.configure("[limits]\npublish_delay_ms = 10001\n");
    eventually("the refusal is counted", || {
        fixture.metric("haflinger_config_refused") == Some(1.0)
    });
    let status = fixture.status();
    assert!(status.contains("REFUSED") && status.contains("limits.publish_delay_ms"), "{status}");
    assert!(fixture.answer(fixture.vip).is_some());

    fixture.configure("[limits]\npublish_delay_ms = 30\n");
    eventually("the file is applied", || fixture.metric("haflinger_config_refused") == Some(0.0));
    assert!(!fixture.status().contains("REFUSED"));

    let applied = || {
        let page = fetch(fixture.admin, "/metrics").unwrap_or_default();
        let line = page.lines().find(|line| line.contains("result=\"accepted\""))?;
        line.rsplit(' ').next()?.parse::<u64>().ok()
    };
    let before = applied().expect("a count");
    fixture.daemon.signal("-HUP");
    eventually("the signal is followed", || applied().is_some_and(|after| after > before));
    assert!(fixture.answer(fixture.vip).is_some());
}

#[test]
fn environment_and_flags_are_stronger_than_the_file() {
    let fixture = Fixture::start_with(|command| {
        command.env("HAFLINGER_HOST__NAME", "from-environment");
        command.env("HAFLINGER_HOST__ZONE", "rack-9");
        command.args(["--set", "host.name=from-flag"]);
    });
    let status: String = fetch(fixture.admin, "/status").expect("a status");
    assert!(status.contains("\"host\":\"from-flag\""), "{status}");
    assert!(status.contains("\"zone\":\"rack-9\""), "{status}");
}

#[test]
fn sigterm_ends_it_with_success_and_takes_the_socket_away() {
    let mut fixture = Fixture::start();
    assert!(fetch(fixture.admin, "/readyz").is_some_and(|answer| answer.contains("200 OK")));
    fixture.daemon.signal("-TERM");
    let ended = fixture.daemon.0.wait().expect("an exit status");
    assert!(ended.success(), "{ended}");
    assert!(!fixture.path("admin.sock").exists());
}

#[test]
fn a_second_daemon_with_the_same_socket_is_refused() {
    let fixture = Fixture::start();
    let file = fixture.path("haflinger.toml");
    let file = file.to_str().expect("a plain path");
    let second = run(&["run", "--config", file, "--set", "admin.listen="]);
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another daemon answers"), "{said}");
    assert!(fixture.status().contains("ready"));
}

#[test]
fn a_port_that_another_program_has_is_told_and_served_once_it_is_free() {
    let fixture = Fixture::start();
    let taken = SocketAddr::from(([127, 0, 0, 2], free_port()));
    let squatter = TcpListener::bind(taken).expect("a free address");
    let blocked = inventory(taken.port(), fixture.backend)
        .replace("addresses = [\"127.0.0.1\"]", "addresses = [\"127.0.0.2\"]")
        .replace("echo", "blocked");
    let both = inventory(fixture.vip, fixture.backend) + &blocked;
    write(&fixture.directory, "inventory.toml", &both);
    eventually("it is told", || {
        let status = fixture.status();
        status.contains("withdrawn: port not open") && status.contains("NotServed")
    });
    assert!(fixture.answer(fixture.vip).is_some(), "others go on");

    drop(squatter);
    eventually("it is served", || TcpStream::connect_timeout(&taken, PATIENCE).is_ok());
    eventually("nothing is said any more", || {
        let status = fixture.status();
        !status.contains("port not open") && !status.contains("NotServed")
    });
}

#[test]
fn questions_about_single_flows_are_answered_on_the_socket_alone() {
    let fixture = Fixture::start();
    let socket = fixture.path("admin.sock");
    let ask = |arguments: &[&str]| run(&[arguments, &["--socket", path(&socket)]].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let to = format!("127.0.0.1:{}/tcp", fixture.vip);
    let why = ask(&["why", "127.0.0.1:40000", &to]);
    assert!(why.status.success(), "{}", text(&why.stderr));
    let why = text(&why.stdout);
    for part in ["inventory/service/default/echo", "XDP is switched off", "the relay decides"] {
        assert!(why.contains(part), "{part} is missing in\n{why}");
    }
    let why = ask(&["why", "127.0.0.1:40000", &to, "-o", "json"]);
    let why: serde_json::Value = serde_json::from_slice(&why.stdout).expect("JSON");
    assert_eq!(why["mode"]["mode"], "proxy");
    let port = format!(":{}", fixture.backend);
    let first = why["bucket"]["first"]["address"].as_str().unwrap_or_default();
    assert!(first.ends_with(&port), "{why}");
    for command in [["flows"], ["trace"]] {
        let refused = ask(&command);
        assert!(!refused.status.success());
        let said = text(&refused.stderr);
        assert!(said.starts_with("XDP forwards nothing on this host (switched off)"), "{said}");
    }
    let bad: [(&[&str], &str); 4] = [
        (&["why", "somewhere", &to], "198.51.100.7:40000"),
        (&["why", "127.0.0.1:1", "127.0.0.1:80"], "/tcp"),
        (&["flows", "--service", "web"], "NAMESPACE/NAME"),
        (&["trace", "--for", "301"], "1..=300"),
    ];
    for (arguments, remedy) in bad {
        let refused = ask(arguments);
        assert_eq!(refused.status.code(), Some(2));
        let said = text(&refused.stderr);
        assert!(said.contains(remedy), "{remedy} is missing in\n{said}");
    }
    for path in ["/flows?limit=1", "/why?client=a&to=b", "/trace?one_in=1&for=1&count=1"] {
        let answer = fetch(fixture.admin, path).expect("an answer");
        assert!(answer.contains("404 Not Found"), "{answer}");
    }
}

#[test]
fn check_names_line_field_value_and_remedy() {
    let directory = tempfile::tempdir().expect("a directory");
    write(&directory, "bad.toml", "[bgp]\nhold_time_secs = 2\nlocal_sa = 64512\n");
    let file = directory.path().join("bad.toml");
    let output = run(&["check", path(&file)]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in ["bad.toml:2", "hold_time_secs", "remedy", "bad.toml:3", "local_as"] {
        assert!(said.contains(part), "{part} is missing in\n{said}");
    }
    write(&directory, "good.toml", "");
    let good = directory.path().join("good.toml");
    assert!(run(&["check", path(&good)]).status.success());
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}
