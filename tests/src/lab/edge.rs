//! A Haflinger host: its configuration file, the daemon in its namespace, and what it says.

use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use toml::Table;

use super::bpf::directory as bpf_directory;
use super::control::ControlPlane;
use super::nameserver::{KEY_NAME, KEY_SECRET, REFUSING_ZONE, ZONE};
use super::place::binaries;
use super::router::{BGP_PASSWORD, HOLD_TIME_SECS};
use super::topology::{
    DNS, EDGE_AS, EDGES, Host, POOL_V4, POOL_V6, ROUTER, ROUTER_AS, SHARED_HTTP, SITES_V4, SITES_V6,
};
use super::{Namespace, Place, Process};

/// Environment variable that names the daemon's binary, when it is not beside the lab's own.
const BINARY_VARIABLE: &str = "HAFLINGER_BIN";
/// Route protocol number of Haflinger's pod routes (the shipped default).
pub const ROUTE_PROTOCOL: u8 = 72;
/// Shared by both hosts, so that they send a client to the same pod.
const FLOW_HASH_KEY: &str = "000102030405060708090a0b0c0d0e0f\n";
/// Where the daemon's HTTP port listens inside its namespace.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9410);
/// Generous: a start takes well under a second on an idle machine.
const START_MAX: Duration = Duration::from_secs(30);
/// How often it is asked whether it is ready.
const READY_POLL: Duration = Duration::from_millis(50);
/// Longer than the lab's drain times together.
const STOP_MAX: Duration = Duration::from_secs(40);

/// Sizes of the XDP maps: room for the tests, in little memory.
const XDP_SIZES: &str = "flows_max = 65536\nopening_flows_max = 4096\nservices_max = 4096\n\
                         backends_max = 16384\nbuckets_max = 1048576\n";

/// One Haflinger host.
#[derive(Debug)]
pub struct Edge {
    index: usize,
    place: Place,
    namespace: Namespace,
    process: Option<Process>,
    starts: u32,
}

/// From where the hosts know services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From the lab's control plane.
    Cluster,
    /// From an inventory file.
    Inventory,
    /// From an inventory file too, on a line: without BGP, DNS and sites.
    Line,
}

/// The daemon's binary, and why there is none.
pub fn binary() -> Result<PathBuf> {
    let path = match env::var_os(BINARY_VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => binaries()?.join("haflinger"),
    };
    ensure!(path.exists(), "{} is missing: cargo build -p haflinger", path.display());
    Ok(path)
}

impl Edge {
    /// Host number `index` with its configuration written, not yet started.
    pub fn new(place: &Place, namespace: &Namespace, index: usize, source: Source) -> Result<Self> {
        let edge = Self {
            index,
            place: place.clone(),
            namespace: namespace.clone(),
            process: None,
            starts: 0,
        };
        fs::create_dir_all(edge.directory())?;
        write_secret(&place.path("flow-hash-key"), FLOW_HASH_KEY)?;
        edge.write(&configuration(place, index, source)?)?;
        Ok(edge)
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        EDGES[self.index].name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub async fn start(&mut self) -> Result<()> {
        self.starts += 1;
        let mut command = self.namespace.command(&binary()?.display().to_string())?;
        without_own_variables(&mut command);
        command.arg("run").arg("--config").arg(self.config());
        let name = format!("{}-{}", self.name(), self.starts);
        self.process = Some(Process::spawn(&self.place, &name, command)?);
        self.wait_ready().await
    }

    /// Waits until /readyz answers 200.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let end = Instant::now() + START_MAX;
        loop {
            let answer = match self.fetch("/readyz") {
                Ok((200, _)) => return Ok(()),
                Ok((status, body)) => format!("/readyz says {status}: {body}"),
                Err(error) => format!("{error:#}"),
            };
            if !self.is_running() || Instant::now() > end {
                let log = super::process::tail(&self.log());
                bail!("{} is not ready ({answer}); it said:\n{log}", self.name());
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Stops the daemon as systemd would.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let graceful = process.stop(STOP_MAX).await?;
        ensure!(graceful, "{} did not stop within {STOP_MAX:?}", self.name());
        Ok(())
    }

    /// Kills the daemon; the host itself stays.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The host dies: its daemon is killed and its cable pulled.
    pub fn kill_host(&mut self) -> Result<()> {
        self.namespace.ip("link set eth0 down\n")?;
        self.kill();
        Ok(())
    }

    /// The cable is back, with the routes that went with it.
    pub fn restore_host(&mut self) -> Result<()> {
        let (v4, v6) = (ROUTER.v4(), ROUTER.v6());
        self.namespace.ip(&format!(
            "link set eth0 up\naddr replace {}/64 dev eth0 nodad\n\
             route replace default via {v4}\nroute replace default via {v6}\n",
            EDGES[self.index].v6()
        ))
    }

    /// Whether the daemon runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        self.process.as_ref().context("the daemon does not run")?.signal(signal)
    }

    /// What `haflinger status -o json` says.
    pub fn status(&self) -> Result<Value> {
        self.ask(&["status"])
    }

    /// What a command of `haflinger` answers with `-o json`.
    pub fn ask(&self, command: &[&str]) -> Result<Value> {
        let output = self.question(command)?.output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "haflinger {}: {stderr}", command.join(" "));
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("read the answer to haflinger {}", command.join(" ")))
    }

    /// A command of `haflinger` that asks this daemon for JSON.
    pub fn question(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.order(arguments)?;
        command.args(["-o", "json"]);
        Ok(command)
    }

    /// A command of `haflinger` to this daemon.
    pub fn order(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.namespace.command(&binary()?.display().to_string())?;
        without_own_variables(&mut command);
        // By its socket, so that it can be asked with a bad file in place too.
        let socket = self.directory().join("run/admin.sock");
        command.args(arguments).arg("--socket").arg(socket);
        Ok(command)
    }

    /// Status and body of one GET on the daemon's HTTP port.
    pub fn fetch(&self, path: &str) -> Result<(u16, String)> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n");
        let answer = self.namespace.enter(move || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&ADMIN, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })??;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
        let status = head.split_whitespace().nth(1).context("an answer without a status")?;
        Ok((status.parse()?, body.to_owned()))
    }

    /// What a metric adds up to over all label sets that contain every one of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let (status, text) = self.fetch("/metrics")?;
        ensure!(status == 200, "/metrics says {status}");
        sum_metric(&text, name, labels).with_context(|| format!("no metric {name} {labels:?}"))
    }

    /// The daemon's log since it was started last.
    pub fn log(&self) -> PathBuf {
        self.place.log(&format!("{}-{}", self.name(), self.starts))
    }

    /// Whether the daemon's log since its last start holds `text`.
    pub fn logged(&self, text: &str) -> bool {
        fs::read_to_string(self.log()).unwrap_or_default().contains(text)
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory().join("haflinger.toml")
    }

    /// Its configuration.
    pub fn read(&self) -> Result<Table> {
        Ok(fs::read_to_string(self.config())?.parse()?)
    }

    /// Replaces its configuration file, which the daemon watches.
    pub fn write(&self, config: &Table) -> Result<()> {
        let new = self.directory().join("haflinger.toml.new");
        write_secret(&new, &toml::to_string(config)?)?;
        // As a whole, so that no reader sees half of it.
        fs::rename(new, self.config()).context("replace the configuration")
    }

    /// Addresses on the interface that VIPs are bound to, as `ip` prints them.
    pub fn bound_addresses(&self) -> Result<String> {
        self.namespace.output("ip", &["-o", "addr", "show", "dev", "lo"])
    }

    /// Routes that carry Haflinger's protocol number, both families.
    pub fn own_routes(&self) -> Result<String> {
        let protocol = ROUTE_PROTOCOL.to_string();
        let mut shown = String::new();
        for family in ["-4", "-6"] {
            let args = [family, "route", "show", "table", "all", "proto", &protocol];
            shown += &self.namespace.output("ip", &args)?;
        }
        Ok(shown)
    }

    fn directory(&self) -> PathBuf {
        self.place.path(self.name())
    }
}

/// What `haflinger check` says about a configuration: `Ok` with its output when it is accepted,
/// `Err` with its complaint when it is refused.
pub fn check(file: &std::path::Path) -> Result<std::result::Result<String, String>> {
    let mut command = Command::new(binary()?);
    without_own_variables(&mut command);
    let output = command.arg("check").arg(file).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(Ok(text(&output.stdout)));
    }
    if output.status.code().is_none() {
        bail!("haflinger check died: {}", text(&output.stderr));
    }
    Ok(Err(text(&output.stdout) + &text(&output.stderr)))
}

/// The daemon refuses `HAFLINGER_` variables that name no key, and the lab has some of its own.
fn without_own_variables(command: &mut Command) {
    command.env_remove(BINARY_VARIABLE).env_remove(super::control::BINARY_VARIABLE);
}

/// Writes a file that only root may read, as the daemon asks for.
fn write_secret(path: &std::path::Path, text: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}

/// More than all scenarios of a minute delete together: none but one is about that.
const DELETES_MAX: u32 = 1_000;

fn configuration(place: &Place, index: usize, source: Source) -> Result<Table> {
    let host = EDGES[index];
    let directory = place.path(host.name);
    let directory = directory.display();
    let inventory = format!("[inventory]\npath = \"{}\"\n", place.path("inventory.toml").display());
    let rest = match source {
        Source::Cluster => format!(
            "[[cluster]]\nname = \"lab\"\nkubeconfig = \"{}\"\n\
             lease_duration_secs = 5\nlease_renew_secs = 1\n\
             deletes_max = {DELETES_MAX}\n\
             [routes]\nenabled = true\n{}",
            ControlPlane::haflinger_kubeconfig(place).display(),
            surroundings(host)
        ),
        Source::Inventory => inventory + &surroundings(host),
        Source::Line => inventory + "[proxy]\ndrain_secs = 3\n",
    };
    let text = format!(
        "[host]\nname = \"{name}\"\nstate_dir = \"{directory}/state\"\n\
         run_dir = \"{directory}/run\"\n\
         [admin]\nlisten = \"{ADMIN}\"\n\
         [log]\nlevel = \"info\"\n\
         [relay]\nflow_hash_key_file = \"{key}\"\ndrain_secs = 3\n\
         [l4.timeouts]\nudp_secs = 10\n\
         [xdp]\ninterfaces = [\"eth0\"]\nnat_addresses = [\"{nat4}\", \"{nat6}\"]\n\
         pin_dir = \"{pins}\"\n{XDP_SIZES}\
         [limits]\nwithdraw_wait_ms = 1500\nstop_secs = 20\n\
         {rest}",
        name = host.name,
        nat4 = host.nat_addresses()[0],
        nat6 = host.nat_addresses()[1],
        pins = bpf_directory(place).join(host.name).display(),
        key = place.path("flow-hash-key").display(),
    );
    text.parse().context("parse the configuration")
}

/// Pools, BGP, DNS and shared addresses, as the large lab has them.
fn surroundings(host: Host) -> String {
    format!(
        "[[pool]]\nname = \"main\"\naddresses = [\"{POOL_V4}\", \"{POOL_V6}\"]\n\
         [[pool]]\nname = \"sites\"\naddresses = [\"{SITES_V4}\", \"{SITES_V6}\"]\n\
         auto_assign = false\n\
         [bgp]\nlocal_as = {EDGE_AS}\nrouter_id = \"{v4}\"\n\
         hold_time_secs = {HOLD_TIME_SECS}\nconnect_retry_secs = 1\n\
         [[bgp.peer]]\nname = \"router\"\naddress = \"{router}\"\nremote_as = {ROUTER_AS}\n\
         local_address = \"{v4}\"\nnext_hop_v6 = \"{v6}\"\npassword = \"{BGP_PASSWORD}\"\n\
         [dns]\nrefresh_secs = 10\n\
         {zones}\
         [proxy]\naddresses = [\"{shared4}\", \"{shared6}\"]\nworkers = 1\ndrain_secs = 3\n",
        v4 = host.v4(),
        v6 = host.v6(),
        router = ROUTER.v4(),
        shared4 = SHARED_HTTP.0,
        shared6 = SHARED_HTTP.1,
        zones = [ZONE, REFUSING_ZONE].map(zone).concat(),
    )
}

fn zone(name: &str) -> String {
    format!(
        "[[dns.zone]]\nname = \"{name}\"\nservers = [\"{}\"]\nkey_name = \"{KEY_NAME}\"\n\
         key = \"{KEY_SECRET}\"\nttl_secs = 5\nowner = \"lab\"\n\
         deletes_percent_max = 100\n",
        DNS.v4()
    )
}

fn sum_metric(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, set) = series.split_once('{').unwrap_or((series, ""));
        (found == name && labels.iter().all(|label| set.contains(label)))
            .then(|| value.parse::<f64>().ok())?
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use haflinger_config::{FileSource, Sources};

    use super::*;

    #[test]
    fn configurations_of_the_lab_are_good() {
        for source in [Source::Cluster, Source::Inventory, Source::Line] {
            let mut config = configuration(&Place::of("unit-test"), 1, source).expect("valid TOML");
            // The checker reads this file, which a lab writes first.
            let key = tempfile::NamedTempFile::new().expect("a file");
            write_secret(key.path(), FLOW_HASH_KEY).expect("a key");
            config["relay"]["flow_hash_key_file"] = key.path().display().to_string().into();
            let text = toml::to_string(&config).expect("TOML again");
            let sources = Sources {
                file: FileSource::Text { name: "lab".into(), text },
                environment: Vec::new(),
                flags: Vec::new(),
                host_name: "lab".into(),
            };
            if let Err(errors) = haflinger_config::Config::load(&sources) {
                panic!("{errors}");
            }
        }
    }

    #[test]
    fn metrics_are_summed_over_matching_label_sets() {
        let text =
            "# HELP a_total x\na_total{k=\"1\",l=\"x\"} 2\na_total{k=\"2\",l=\"x\"} 3\nb 7\n";
        assert_eq!(sum_metric(text, "a_total", &["l=\"x\""]), Some(5.0));
        assert_eq!(sum_metric(text, "a_total", &["k=\"2\""]), Some(3.0));
        assert_eq!(sum_metric(text, "b", &[]), Some(7.0));
        assert_eq!(sum_metric(text, "c", &[]), None);
    }
}
