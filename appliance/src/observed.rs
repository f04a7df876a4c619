//! The daemon under observation: as `haflinger run` starts it, with somebody who looks on.
//!
//! For the benchmarks alone. What is seen is what the rooms publish anyway; nothing is measured
//! here, and nothing runs otherwise than without an observer.

use std::path::Path;
use std::sync::Arc;

use haflinger_config::{Config, FileSource, Sources};
use haflinger_core::Snapshot;
use tokio::sync::watch;

/// What can be seen of a running daemon.
#[derive(Clone, Debug)]
pub struct View {
    /// The snapshot published last.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Generation of the snapshot that the relay serves.
    pub relayed: watch::Receiver<u64>,
    /// Generation of the snapshot that the maps of XDP hold.
    pub forwarded: watch::Receiver<u64>,
}

/// Runs the daemon on a configuration file until SIGTERM or SIGINT. `observe` is called within its
/// runtime, once every task runs.
///
/// # Errors
///
/// As `haflinger run`.
pub fn run(file: &Path, observe: impl FnOnce(View)) -> anyhow::Result<()> {
    let sources = Sources::system(FileSource::Path(file.to_owned()));
    let loaded = Config::load(&sources).map_err(|errors| anyhow::anyhow!("{errors}"))?;
    crate::daemon::run_observed(loaded, sources, |exhibition| {
        observe(View {
            snapshots: exhibition.snapshots.clone(),
            relayed: exhibition.handles.relay.applied(),
            forwarded: exhibition.handles.xdp.applied(),
        });
    })
}
