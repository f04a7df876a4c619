//! What can stand between client and server.

use std::fs;
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use haflinger_tests::lab::{Process, tail};

use super::server::PORT;
use crate::l4::datapath;
use crate::l4::world::{DIRECT_DEVICE, DIRECT_SERVER, Middle, TO_CLIENT, TO_SERVER, World};
use crate::relay::UNDER_TEST;

/// A way that carries nothing within so long is given up.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Threads of a proxy: as many as cores that the generator and the server leave their spare
/// time on.
const THREADS: usize = 2;

/// A way from client to server, ready for use.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) name: &'static str,
    /// What the client connects to.
    pub(super) target: SocketAddrV4,
    /// The client's device on it.
    pub(super) device: String,
    // Dropped in this order: the process before the namespace that it lives in.
    process: Option<Process>,
    #[expect(dead_code, reason = "it keeps the namespace")]
    middle: Option<Middle>,
}

impl Way {
    /// A cable.
    pub(super) fn direct() -> Self {
        Self {
            name: "direct",
            target: SocketAddrV4::new(DIRECT_SERVER, PORT),
            device: DIRECT_DEVICE.into(),
            process: None,
            middle: None,
        }
    }

    /// The kernel forwards, and looks at nothing but the route: the limit of all others.
    pub(super) fn plain(middle: Middle) -> Self {
        let target = SocketAddrV4::new(middle.server(), PORT);
        Self::through(middle, target, None)
    }

    /// What a NodePort does: destination NAT, and masquerading so that replies return. The
    /// rules are fewer than those of kube-proxy.
    pub(super) fn nftables(world: &World, middle: Middle) -> Result<Self> {
        let rules = format!(
            "table ip bench {{\n\
             chain prerouting {{\n type nat hook prerouting priority dstnat\n \
             ip daddr {} tcp dport {PORT} dnat to {}:{PORT}\n }}\n\
             chain postrouting {{\n type nat hook postrouting priority srcnat\n \
             oifname server masquerade\n }}\n}}\n",
            middle.vip(),
            middle.server()
        );
        let path = world.place.path("rules.nft");
        fs::write(&path, rules)?;
        middle.namespace.output("nft", &["-f", &path.to_string_lossy()])?;
        Ok(Self::to_vip(middle, None))
    }

    /// HAProxy in TCP mode, splicing in bulk.
    pub(super) fn haproxy(world: &World, middle: Middle) -> Result<Self> {
        let (vip, server) = (middle.vip(), middle.server());
        let path = world.place.path("haproxy.cfg");
        fs::write(
            &path,
            format!(
                "global\n  nbthread {THREADS}\n  maxconn 4000\n\
                 defaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n  \
                 timeout client 60s\n  timeout server 60s\n\
                 listen bench\n  bind {vip}:{PORT}\n  server server {server}:{PORT}\n"
            ),
        )?;
        middle.namespace.ip(&format!("addr add {vip}/32 dev lo\n"))?;
        let mut command = middle.namespace.command("haproxy")?;
        command.arg("-db").arg("-f").arg(&path);
        let process = Process::spawn(&world.place, "haproxy", command)?;
        Ok(Self::to_vip(middle, Some(process)))
    }

    /// Our user-space relay.
    pub(super) fn relay(world: &World, middle: Middle) -> Result<Self> {
        let (vip, server) = (middle.vip(), middle.server());
        middle.namespace.ip(&format!("addr add {vip}/32 dev lo\n"))?;
        let this = std::env::current_exe()?;
        let mut command = middle.namespace.command(&this.to_string_lossy())?;
        command.arg(UNDER_TEST).args([format!("{vip}:{PORT}"), format!("{server}:{PORT}")]);
        command.arg(THREADS.to_string());
        let process = Process::spawn(&world.place, "relay", command)?;
        Ok(Self::to_vip(middle, Some(process)))
    }

    /// Our XDP path in mode nat, attached to both devices.
    pub(super) fn xdp(world: &World, middle: Middle) -> Result<Self> {
        let (vip, server) = (middle.vip(), middle.server());
        let pin_dir = world.bpf.join("xdp");
        middle.namespace.ip(&format!("addr add {vip}/32 dev lo\n"))?;
        let this = std::env::current_exe()?;
        let mut command = middle.namespace.command(&this.to_string_lossy())?;
        command.arg(datapath::UNDER_TEST);
        command.args([format!("{vip}:{PORT}"), format!("{server}:{PORT}")]);
        command.arg(pin_dir).args([TO_CLIENT, TO_SERVER]);
        command.args(middle.sources().map(|address| address.to_string()));
        let process = Process::spawn(&world.place, "xdp", command)?;
        Ok(Self::to_vip(middle, Some(process)))
    }

    fn to_vip(middle: Middle, process: Option<Process>) -> Self {
        let target = SocketAddrV4::new(middle.vip(), PORT);
        Self::through(middle, target, process)
    }

    fn through(middle: Middle, target: SocketAddrV4, process: Option<Process>) -> Self {
        let (name, device) = (middle.name, middle.client_device());
        Self { name, target, device, process, middle: Some(middle) }
    }

    /// Waits until the client can connect over it.
    pub(super) fn wait(&self, world: &World) -> Result<()> {
        let give_up = Instant::now() + START_PATIENCE;
        let target = SocketAddr::V4(self.target);
        let connects = move || TcpStream::connect_timeout(&target, Duration::from_secs(1)).is_ok();
        while !world.client.enter(connects)? {
            if Instant::now() > give_up {
                let log = self.process.as_ref().map(|process| tail(process.log()));
                let log = log.unwrap_or_default();
                bail!("{}: the server cannot be reached\n{log}", self.name);
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}
