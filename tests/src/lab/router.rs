//! The router: BIRD 2 with two sessions per edge host's address family merged into ECMP routes.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::topology::{EDGE_AS, EDGES, ROUTER, ROUTER_AS};
use super::{Namespace, Place, Process};

/// Hold time that the router offers, in seconds: the shortest that RFC 4271 allows, so that
/// the tests of a dead host are short.
pub const HOLD_TIME_SECS: u32 = 3;
/// The password of every session (TCP MD5, RFC 2385).
pub(super) const BGP_PASSWORD: &str = "lab-bgp-password";

/// Far longer than it takes: only what never starts reaches it.
const START_MAX: Duration = Duration::from_secs(60);

/// BIRD in the router's namespace.
#[derive(Debug)]
pub struct Router {
    place: Place,
    namespace: Namespace,
    process: Process,
}

impl Router {
    /// Writes the configuration and starts BIRD.
    pub async fn start(place: &Place, namespace: &Namespace) -> Result<Self> {
        fs::write(place.path("bird.conf"), configuration())?;
        let process = spawn(place, namespace, false)?;
        let mut router = Self { place: place.clone(), namespace: namespace.clone(), process };
        router.wait().await?;
        Ok(router)
    }

    /// Kills BIRD and starts it anew, as after a crash of the routing daemon. The kernel's
    /// routes stay meanwhile.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = spawn(&self.place, &self.namespace, true)?;
        self.wait().await
    }

    async fn wait(&mut self) -> Result<()> {
        super::eventually(START_MAX, "BIRD to answer", async || {
            self.query("show status").map(|_| ())
        })
        .await
    }

    /// What `birdc COMMAND` prints.
    pub fn query(&self, command: &str) -> Result<String> {
        let socket = self.socket();
        let mut args = vec!["-s", socket.as_str()];
        args.extend(command.split_whitespace());
        self.namespace.output("birdc", &args)
    }

    /// Next hops of `address` in BIRD's table, sorted; empty without a route to it.
    pub fn next_hops(&self, address: IpAddr) -> Result<Vec<IpAddr>> {
        let prefix = host_prefix(address);
        let shown = match self.query(&format!("show route {prefix} all")) {
            Ok(shown) => shown,
            Err(error) if error.to_string().contains("Network not found") => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        Ok(parse_next_hops(&shown))
    }

    /// Next hops of `address` in the router's kernel, sorted: what packets follow.
    pub fn kernel_next_hops(&self, address: IpAddr) -> Result<Vec<IpAddr>> {
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        let prefix = host_prefix(address);
        let shown = self.namespace.output("ip", &[family, "route", "show", &prefix])?;
        let mut hops: Vec<IpAddr> = words_after(&shown, "via");
        hops.sort();
        Ok(hops)
    }

    /// BIRD's name for the session with edge host number `index`.
    pub fn session(index: usize) -> String {
        EDGES[index].name.to_owned()
    }

    /// Whether the session with edge host number `index` is established.
    pub fn is_established(&self, index: usize) -> Result<bool> {
        Ok(self.query(&format!("show protocols {}", Self::session(index)))?.contains("Established"))
    }

    /// The control socket, for `birdc -s`.
    pub fn socket(&self) -> String {
        self.place.path("bird.ctl").display().to_string()
    }

    /// Where BIRD logs.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

fn spawn(place: &Place, namespace: &Namespace, recover: bool) -> Result<Process> {
    let mut command = namespace.command("bird")?;
    command.arg("-f");
    if recover {
        // Keep what the kernel has until the sessions are back (RFC 4724 in spirit).
        command.arg("-R");
    }
    command.arg("-c").arg(place.path("bird.conf")).arg("-s").arg(place.path("bird.ctl"));
    Process::spawn(place, "bird", command).context("is bird2 installed?")
}

fn configuration() -> String {
    let mut text = format!(
        "log stderr all;\n\
         router id {};\n\
         graceful restart wait 10;\n\
         protocol device {{ scan time 5; }}\n\
         protocol direct {{ ipv4; ipv6; interface \"client\", \"eth0\"; }}\n",
        ROUTER.v4()
    );
    for family in ["ipv4", "ipv6"] {
        text += &format!(
            "protocol kernel kernel_{family} {{\n  persist;\n  merge paths on;\n  \
             graceful restart on;\n  \
             {family} {{ import none; export where source = RTS_BGP; }};\n}}\n"
        );
    }
    for host in EDGES {
        text += &format!(
            "protocol bgp {} {{\n  local {} as {ROUTER_AS};\n  neighbor {} as {EDGE_AS};\n  \
             hold time {HOLD_TIME_SECS};\n  password \"{BGP_PASSWORD}\";\n  \
             connect delay time 1;\n  connect retry time 2;\n  error wait time 1, 2;\n  \
             graceful restart on;\n  \
             ipv4 {{ import all; export none; }};\n  \
             ipv6 {{ import all; export none; }};\n}}\n",
            host.name,
            ROUTER.v4(),
            host.v4()
        );
    }
    text
}

/// The prefix that holds one address only.
pub fn host_prefix(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn parse_next_hops(shown: &str) -> Vec<IpAddr> {
    let mut hops: Vec<IpAddr> = words_after(shown, "via");
    hops.sort();
    hops
}

fn words_after(text: &str, word: &str) -> Vec<IpAddr> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .windows(2)
        .filter(|pair| pair[0] == word)
        .filter_map(|pair| pair[1].parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_are_read_from_what_birdc_shows() {
        let shown = "BIRD 2.0.12 ready.\nTable master4:\n\
            10.50.0.1/32  unicast [edge2 02:00:00.000] * (100) [AS65001i]\n\
            \tvia 10.20.0.12 on eth0\n\
                          unicast [edge1 02:00:00.000] (100) [AS65001i]\n\
            \tvia 10.20.0.11 on eth0\n";
        let expected: Vec<IpAddr> =
            ["10.20.0.11", "10.20.0.12"].iter().map(|a| a.parse().expect("address")).collect();
        assert_eq!(parse_next_hops(shown), expected);
    }
}
