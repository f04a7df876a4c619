//! A control plane of a test's own, which it may kill and start again.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// etcd and API server; dies with the test.
pub(crate) struct Server(Child);

impl Server {
    pub(crate) fn start(binary: &Path, directory: &Path, port: u16) -> Self {
        let mut child = Command::new(binary)
            .arg("etcd+apiserver")
            .args(["-port", &port.to_string(), "-dir"])
            .arg(directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.starts_with("READY"), "control plane said {ready:?}");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that is free together with the three after it, and that the kernel gives to no connection
/// while the server that has it is away.
pub(crate) fn free_port() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let end: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    let free =
        |first: &u16| (*first..first + 4).all(|p| TcpListener::bind(("127.0.0.1", p)).is_ok());
    // Apart from where another run on this machine looks first.
    let start = 10_000 + u16::try_from(std::process::id() % 2_000).unwrap() * 4;
    let ports = (start..end.saturating_sub(4)).chain(1_024..start);
    ports.step_by(4).find(free).expect("four ports that are free")
}
