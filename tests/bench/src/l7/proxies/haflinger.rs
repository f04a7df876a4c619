//! The daemon whole, in a process of this program: an inventory with sites, one worker.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use haflinger_appliance::observed;

use super::{CONNECTIONS_MAX, KEPT_SECS, Kind, Place, Setup};
use crate::l7::routes::{self, PREFIXES};

/// First argument of the process that is Haflinger under test.
pub(crate) const UNDER_TEST: &str = "l7-under-test";

pub(super) fn kind() -> Result<Kind> {
    let program = std::env::current_exe()?.to_str().context("this program's path")?.to_owned();
    let version = format!("haflinger {}", env!("CARGO_PKG_VERSION"));
    Ok(Kind { name: "haflinger", version, program: vec![program, UNDER_TEST.to_owned()], write })
}

/// Runs the daemon until killed.
pub(crate) fn under_test(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let configuration = arguments.next().context("a configuration is missing")?;
    observed::run(Path::new(&configuration), |_| ())
}

fn write(setup: &Setup, place: &Place<'_>) -> Result<Vec<String>> {
    fs::write(place.folder.join("inventory.toml"), inventory(setup, place))?;
    let folder = place.folder.display();
    let file = place.folder.join("haflinger.toml");
    fs::write(
        &file,
        format!(
            "[host]\nname = \"bench\"\nstate_dir = \"{folder}/state\"\nrun_dir = \"{folder}\"\n\
             [admin]\nlisten = \"\"\n\
             [log]\nlevel = \"error\"\n\
             [inventory]\npath = \"inventory.toml\"\n\
             [vips]\nbind = false\n\
             [l4]\nmode = \"proxy\"\n\
             [xdp]\nenabled = false\n\
             [proxy]\nworkers = 1\nconnections_max = {CONNECTIONS_MAX}\n\
             keepalive_idle_secs = {KEPT_SECS}\n",
        ),
    )?;
    Ok(vec![file.display().to_string()])
}

fn inventory(setup: &Setup, place: &Place<'_>) -> String {
    let backend = setup.backend;
    let protocol = if setup.grpc { "h2c" } else { "http1" };
    let mut text = format!(
        "[[service]]\nname = \"backend\"\nports = [{{ port = {} }}]\n\
         backends = [{{ address = \"{}\" }}]\n",
        backend.port(),
        backend.ip()
    );
    let mut site = |name: &str, routed: String| {
        // Writing into a string cannot fail.
        let _ = write!(
            text,
            "[[site]]\nname = \"{name}\"\naddresses = [\"{}\"]\nhttp_port = {}\n\
             https_port = {}\nbackend_protocol = \"{protocol}\"\n\
             tls = [{{ certificate = \"{}\", key = \"{}\" }}]\n{routed}\n",
            place.http.ip(),
            place.http.port(),
            place.https.port(),
            place.certificate.chain.display(),
            place.certificate.key.display(),
        );
    };
    if setup.routes == 1 {
        site("all", "service = \"backend\"".to_owned());
    }
    for host in routes::hosts(setup.routes) {
        let paths: String = (0..PREFIXES)
            .map(|number| {
                let prefix = routes::prefix(number);
                format!("{{ path = \"{prefix}\", service = \"backend\" }}, ")
            })
            .collect();
        site(&host, format!("hosts = [\"{host}\"]\npaths = [{paths}]"));
    }
    text
}
