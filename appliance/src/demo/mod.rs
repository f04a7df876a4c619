//! The demonstration: the real daemon on an embedded configuration, with two sample backends in
//! the same process. It needs no privilege, no cluster and no network beyond loopback.

pub(crate) mod backend;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Context as _;
use haflinger_config::{Config, FileSource, Sources};
use tokio_util::sync::CancellationToken;

use self::backend::Backend;
use crate::daemon;

const INVENTORY: &str = include_str!("inventory.toml");

/// Names and ports of the sample backends, as in the inventory.
const BACKENDS: [(&str, u16); 2] = [("backend-a", 9001), ("backend-b", 9002)];

/// Runs the demonstration until it is stopped.
pub(crate) fn run(address: IpAddr) -> anyhow::Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("haflinger-demo-")
        .tempdir()
        .context("making a directory for the demonstration")?;
    let place = directory.path();
    let inventory = INVENTORY.replace("@ADDRESS@", &address.to_string());
    std::fs::write(place.join("inventory.toml"), inventory).context("writing the inventory")?;
    let file = place.join("haflinger.toml");
    std::fs::write(&file, configuration(address, place)).context("writing the configuration")?;
    let sources = Sources::system(FileSource::Path(file));
    let loaded = Config::load(&sources).map_err(|errors| anyhow::anyhow!("{errors}"))?;
    let backends = SampleBackends::start(address)?;
    introduce(address, &loaded.config)?;
    let ended = daemon::run(loaded, sources);
    backends.stop();
    ended
}

/// What touches nothing of the machine, whoever runs it.
fn configuration(address: IpAddr, place: &Path) -> String {
    let admin = SocketAddr::new(address, 9410);
    format!(
        "# The demonstration's configuration. `haflinger config default` documents every key.\n\
         [host]\n\
         name = \"demo\"\n\
         state_dir = {place:?}\n\
         run_dir = {place:?}\n\
         [admin]\n\
         listen = \"{admin}\"\n\
         [inventory]\n\
         path = {:?}\n\
         [vips]\n\
         bind = false\n\
         [l4]\n\
         mode = \"proxy\"\n\
         [xdp]\n\
         enabled = false\n\
         [relay]\n\
         drain_secs = 2\n\
         [proxy]\n\
         drain_secs = 2\n",
        place.join("inventory.toml"),
    )
}

fn introduce(address: IpAddr, config: &Config) -> anyhow::Result<()> {
    let host = match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    let program = std::env::current_exe().context("finding this program")?;
    let program = program.display();
    let socket = config.admin.socket.display();
    let inventory = config.inventory.as_deref().unwrap_or(Path::new("")).display();
    let text = format!(
        "\n\
         Haflinger demonstration: one daemon, an inventory file, two sample backends.\n\
         In another terminal, try\n\
         \n\
         \x20 curl http://{host}:8080/         layer 4: every connection is balanced by the table\n\
         \x20 curl http://{host}:8081/         layer 7: the same backends, request by request\n\
         \x20 curl http://{host}:9410/metrics  what Prometheus sees\n\
         \x20 {program} status --socket {socket}\n\
         \n\
         and change {inventory}:\n\
         a save is applied at once. Ctrl-C stops everything.\n\n"
    );
    std::io::stdout().write_all(text.as_bytes()).context("printing the introduction")
}

/// The sample backends in a thread of their own, so that they outlive the daemon's drain.
struct SampleBackends {
    stop: CancellationToken,
    thread: std::thread::JoinHandle<()>,
}

impl SampleBackends {
    fn start(address: IpAddr) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the sample backends")?;
        let open = async {
            let [a, b] = BACKENDS.map(|(name, port)| {
                let listen = SocketAddr::new(address, port);
                Backend::open(name, listen)
            });
            anyhow::Ok([a.await?, b.await?])
        };
        let backends = runtime.block_on(open)?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let [a, b] = backends.map(|backend| backend.run(stopped.clone()));
                tokio::join!(a, b);
            });
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) {
        self.stop.cancel();
        // A panic in it has been printed already.
        let _ = self.thread.join();
    }
}
