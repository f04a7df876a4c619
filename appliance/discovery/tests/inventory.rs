//! Discovery of an inventory file, through its life. Nothing but files is needed.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use haflinger_core::{SourceUpdate, Update};
use haflinger_discovery::{Discovery, DiscoveryHandle, Settings};
use prometheus::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A wait that is far longer than anything takes: only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

const ECHO: &str = r#"
[[service]]
name = "echo"
addresses = ["127.0.0.1"]
ports = [{ port = 8080 }]
backends = [{ address = "127.0.0.1", port = 9001 }]

[[site]]
name = "shop"
addresses = ["127.0.0.1"]
service = "echo"
tls = [{ certificate = "shop.crt", key = "shop.key" }]
"#;

struct Running {
    handle: DiscoveryHandle,
    updates: mpsc::Receiver<Update>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    registry: Registry,
}

impl Running {
    fn start(dir: &Path) -> Self {
        let registry = Registry::new();
        let discovery = Discovery::new(settings(dir), &registry).unwrap();
        let handle = discovery.handle();
        let (sender, updates) = mpsc::channel(4);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(discovery.run(sender, shutdown.clone()));
        Self { handle, updates, shutdown, task, registry }
    }

    /// Everything until `count` updates were said, in words.
    async fn said(&mut self, count: usize) -> BTreeSet<String> {
        let mut said = BTreeSet::new();
        for _ in 0..count {
            let next = tokio::time::timeout(PATIENCE, self.updates.recv());
            said.insert(words(&next.await.expect("an update").unwrap()));
        }
        said
    }

    /// Waits for the refusal of the file, without anything being said.
    async fn refused(&self) -> String {
        let refused = async {
            loop {
                let status = self.handle.status();
                if let Some(error) = status.sources.first().and_then(|s| s.last_error.clone()) {
                    return error;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, refused).await.expect("a refusal")
    }

    fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metric = &family.get_metric()[0];
        metric.get_gauge().get_value() + metric.get_counter().get_value()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        // The receiver lives and is not read: that must not hold up the end.
        tokio::time::timeout(PATIENCE, self.task).await.expect("an end").unwrap();
        drop(self.updates);
    }
}

fn settings(dir: &Path) -> Settings {
    Settings {
        clusters: Vec::new(),
        inventory: Some(dir.join("inventory.toml")),
        state_dir: Some(dir.join("state")),
    }
}

fn words(update: &Update) -> String {
    match update {
        Update::Source(SourceUpdate::Service { object, spec }) => match spec {
            Some(spec) => format!("service {} on {}", object.name, spec.ports[0].port),
            None => format!("service {} gone", object.name),
        },
        Update::Source(SourceUpdate::Slice { slice, content, .. }) => {
            format!(
                "slice {slice} {}",
                content.as_ref().map_or(0, |content| content.backends.len())
            )
        }
        Update::Source(SourceUpdate::Ingress { object, .. }) => format!("site {}", object.name),
        Update::Source(SourceUpdate::Certificate { material, .. }) => {
            let material = material.as_ref().unwrap();
            format!("certificate {}", String::from_utf8_lossy(&material.chain_pem))
        }
        Update::Source(SourceUpdate::Node { .. }) => "node".into(),
        Update::Synced(source) => format!("{source} synced"),
        Update::Retired(source) => format!("{source} retired"),
        other => panic!("not from discovery: {other:?}"),
    }
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(ToString::to_string).collect()
}

/// As editors do: beside, then renamed.
fn write(dir: &Path, name: &str, content: &str) -> PathBuf {
    let (path, beside) = (dir.join(name), dir.join("beside"));
    std::fs::write(&beside, content).unwrap();
    std::fs::rename(&beside, &path).unwrap();
    path
}

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in [("shop.crt", "one"), ("shop.key", "key"), ("inventory.toml", ECHO)] {
        write(dir.path(), name, content);
    }
    dir
}

const ALL: [&str; 5] = [
    "service echo on 8080",
    "slice echo-ipv4-9001 1",
    "site shop",
    "certificate one",
    "inventory synced",
];

#[tokio::test]
async fn only_differences_are_said_and_a_bad_file_changes_nothing() {
    let dir = directory();
    let mut running = Running::start(dir.path());
    assert_eq!(running.said(5).await, set(&ALL));

    write(dir.path(), "inventory.toml", &ECHO.replace("8080", "8081"));
    assert_eq!(running.said(2).await, set(&["service echo on 8081", "site shop"]));

    write(dir.path(), "inventory.toml", &ECHO.replace("8080", "port"));
    let error = running.refused().await;
    assert!(error.contains("inventory.toml:5"), "{error}");
    assert!(running.updates.try_recv().is_err());
    assert_eq!(running.metric("haflinger_discovery_inventory_valid"), 0.0);
    assert_eq!(running.metric("haflinger_discovery_inventory_refusals_total"), 1.0);

    write(dir.path(), "inventory.toml", &ECHO.replace("8080", "8082"));
    assert_eq!(running.said(2).await, set(&["service echo on 8082", "site shop"]));
    assert_eq!(running.metric("haflinger_discovery_inventory_valid"), 1.0);
    let status = running.handle.status();
    assert_eq!(status.sources[0].last_error, None);
    assert_eq!(status.sources[0].kinds["services"].objects, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_replaced_certificate_is_said_without_touching_the_inventory() {
    let dir = directory();
    let mut running = Running::start(dir.path());
    running.said(5).await;
    write(dir.path(), "shop.crt", "two");
    assert_eq!(running.said(1).await, set(&["certificate two"]));
    running.stop().await;
}

#[tokio::test]
async fn a_bad_file_at_boot_leaves_what_was_on_disk() {
    let dir = directory();
    let mut running = Running::start(dir.path());
    running.said(5).await;
    running.stop().await;

    write(dir.path(), "inventory.toml", "[[service]]\nname = 1");
    let mut running = Running::start(dir.path());
    assert_eq!(running.said(5).await, set(&ALL));
    running.refused().await;
    assert!(running.handle.status().sources[0].restored_from_disk);

    let none = Settings { inventory: None, ..settings(dir.path()) };
    running.handle.reconfigure(none);
    assert_eq!(running.said(1).await, set(&["inventory retired"]));
    running.stop().await;
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_core_that_no_longer_listens() {
    let dir = directory();
    let mut running = Running::start(dir.path());
    // One update is taken, the others fill the channel.
    running.said(1).await;
    running.stop().await;
}
