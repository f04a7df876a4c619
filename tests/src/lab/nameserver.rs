//! BIND 9 with one zone that Haflinger may change by TSIG and one in which it is refused.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::topology::DNS;
use super::{Namespace, Place, Process};

/// The zone that Haflinger keeps.
pub const ZONE: &str = "lab.example";
/// A zone of the same server that takes no updates.
pub const REFUSING_ZONE: &str = "refused.example";
/// Name of the TSIG key.
pub(super) const KEY_NAME: &str = "haflinger";
/// The key itself, base64, for hmac-sha256. It protects nothing outside the lab.
pub(super) const KEY_SECRET: &str = "bGFib3JhdG9yeS1rZXktZm9yLWhhZmxpbmdlci1vbmx5";
/// A record that nobody told Haflinger about, as `name address`.
pub const FOREIGN_RECORD: (&str, &str) = ("foreign.lab.example", "192.0.2.77");

/// Far longer than it takes: only what never starts reaches it.
const START_MAX: Duration = Duration::from_secs(60);

/// BIND in the DNS namespace.
#[derive(Debug)]
pub struct Nameserver {
    place: Place,
    namespace: Namespace,
    client: Namespace,
    process: Process,
}

impl Nameserver {
    /// Writes zones and configuration and starts BIND.
    pub async fn start(place: &Place, namespace: &Namespace, client: &Namespace) -> Result<Self> {
        let directory = place.path("bind");
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("named.conf"), configuration(place))?;
        for zone in [ZONE, REFUSING_ZONE] {
            fs::write(directory.join(format!("{zone}.zone")), zone_file())?;
        }
        let process = spawn(place, namespace)?;
        let (namespace, client) = (namespace.clone(), client.clone());
        let server = Self { place: place.clone(), namespace, client, process };
        server.wait().await?;
        Ok(server)
    }

    /// Kills BIND and starts it anew: what was accepted before is still in its journal.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        self.resume().await
    }

    /// Kills BIND.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts BIND again after [`Self::kill`].
    pub async fn resume(&mut self) -> Result<()> {
        self.process = spawn(&self.place, &self.namespace)?;
        self.wait().await
    }

    async fn wait(&self) -> Result<()> {
        super::eventually(START_MAX, "BIND to answer", async || {
            ensure!(!self.answers(ZONE, "SOA")?.is_empty(), "no SOA of {ZONE}");
            Ok(())
        })
        .await
    }

    /// What the client is told about `name`, sorted: `dig +short`.
    pub fn answers(&self, name: &str, kind: &str) -> Result<Vec<String>> {
        let server = format!("@{}", DNS.v4());
        let args = ["+short", "+time=2", "+tries=1", &server, name, kind];
        let shown = self.client.output("dig", &args)?;
        let mut lines: Vec<String> = shown.lines().map(|line| line.trim().to_owned()).collect();
        ensure!(lines.iter().all(|line| !line.starts_with(";;")), "no answer: {shown}");
        lines.sort();
        Ok(lines)
    }

    /// Where BIND logs.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

fn spawn(place: &Place, namespace: &Namespace) -> Result<Process> {
    let mut command = namespace.command("named")?;
    command.arg("-g").arg("-c").arg(place.path("bind/named.conf"));
    Process::spawn(place, "bind", command).context("is bind9 installed?")
}

fn configuration(place: &Place) -> String {
    let directory = place.path("bind");
    let directory = directory.display();
    format!(
        "options {{\n  directory \"{directory}\";\n  pid-file \"{directory}/named.pid\";\n  \
         session-keyfile \"{directory}/session.key\";\n  \
         listen-on {{ {v4}; }};\n  listen-on-v6 {{ {v6}; }};\n  \
         recursion no;\n  dnssec-validation no;\n  notify no;\n  \
         allow-transfer {{ any; }};\n}};\n\
         controls {{ }};\n\
         key \"{KEY_NAME}\" {{ algorithm hmac-sha256; secret \"{KEY_SECRET}\"; }};\n\
         zone \"{ZONE}\" {{\n  type primary;\n  file \"{ZONE}.zone\";\n  \
         update-policy {{ grant {KEY_NAME} zonesub ANY; }};\n}};\n\
         zone \"{REFUSING_ZONE}\" {{\n  type primary;\n  file \"{REFUSING_ZONE}.zone\";\n  \
         allow-update {{ none; }};\n}};\n",
        v4 = DNS.v4(),
        v6 = DNS.v6()
    )
}

fn zone_file() -> String {
    format!(
        "$TTL 30\n@ IN SOA ns hostmaster 1 3600 600 86400 5\n  IN NS ns\n\
         ns IN A {}\nns IN AAAA {}\nforeign IN A {}\n",
        DNS.v4(),
        DNS.v6(),
        FOREIGN_RECORD.1
    )
}
