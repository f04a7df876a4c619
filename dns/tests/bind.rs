//! The writer against a BIND 9 of its own.
//!
//! ```text
//! writer ──TCP, TSIG──> named on 127.0.0.1 <──UDP── plain resolver of the test
//! ```
//!
//! 1. Names are created, changed and deleted, and a plain query sees addresses and ownership.
//! 2. Foreign records survive, also one that appears behind the writer's back.
//! 3. A mass deletion is held until the budget is raised.
//! 4. A wrong secret, an unknown key and a zone that refuses are told apart.
//! 5. A zone that cannot be transferred is read name by name, and whole as soon as it can.
//! 6. Without leadership nothing is written; a dry run writes nothing.
//! 7. Every server of a zone is written.
//! 8. What somebody changed is repaired; a zone of many messages is read whole.
//! 9. A zone that the server cannot load yet is written once it can.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU8;
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use haflinger_dns::driver::{Reading, RecordState, ServerState, Status};
use haflinger_dns::{
    DeletionBudget, DesiredName, DesiredRecords, Policy, RecordName, Settings, Tsig, TsigAlgorithm,
    Writer, WriterHandle, ZoneSettings,
};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use prometheus::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const ZONE: &str = "example.test";
/// Names of the large zone: some megabytes, so dozens of messages.
const LARGE_NAMES: usize = 50_000;
const LARGE_TEST: &str = "a_zone_of_many_messages";
const SECRET: &[u8] = b"a secret of thirty-two octets ok";
const SECRET_BASE64: &str = "YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBvY3RldHMgb2s=";

/// Zones of every server.
const ZONES: [&str; 4] = [ZONE, "closed.test", "blind.test", "large.test"];
/// Below those that the kernel gives to clients.
const PORTS: Range<u16> = 20_000..30_000;
/// Waits give up after this many looks, some minutes: so long only that a test which never ends
/// says what it waits for. A machine that does other work besides may well be slow.
const LOOKS_MAX: usize = 4000;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A name server that ends with the test.
struct Bind {
    child: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
    _claim: TcpListener,
}

impl Bind {
    /// Starts `named` and waits until it has loaded every zone, or says why not.
    fn start(test: &str) -> Option<Self> {
        if Command::new("named").arg("-v").output().is_err() {
            #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
            {
                eprintln!("SKIPPED {test}: named is not installed");
            }
            return None;
        }
        let large = if test == LARGE_TEST { LARGE_NAMES } else { 1 };
        let directory = tempfile::tempdir().unwrap();
        let (claim, port) = free_port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        write_zones(directory.path(), large);
        write_configuration(directory.path(), port, "none");
        let mut bind = Self { child: spawn(directory.path()), address, directory, _claim: claim };
        bind.wait_until_loaded(&ZONES);
        Some(bind)
    }

    /// Ends `named` and starts it again; its own zone may then be broken.
    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.directory.path());
        self.wait_until_loaded(&ZONES[1..]);
    }

    fn wait_until_loaded(&mut self, zones: &[&str]) {
        let mut waiting = zones.to_vec();
        for _ in 0..LOOKS_MAX {
            waiting.retain(|zone| self.ask(zone, RecordType::SOA).is_none_or(|a| a.is_empty()));
            if waiting.is_empty() {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("named ended with {status}: {}", self.log());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        panic!("{waiting:?} never loaded: {}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Lets `named` read its configuration and changed zones again.
    fn reload(&self) {
        let status = Command::new("kill").arg("-HUP").arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    /// What a plain query finds, as text, sorted; `None` when nobody answers soon.
    fn ask(&self, name: &str, kind: RecordType) -> Option<Vec<String>> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.connect(self.address).unwrap();
        let mut query = Message::query();
        query.add_query(Query::query(wire_name(name), kind));
        socket.send(&query.to_vec().unwrap()).ok()?;
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).ok()?;
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        let mut found: Vec<_> =
            answer.answers.iter().map(|record| record.data.to_string()).collect();
        found.sort();
        Some(found)
    }

    fn find(&self, name: &str, kind: RecordType) -> Vec<String> {
        // A busy machine loses a datagram or answers late.
        (0..30).find_map(|_| self.ask(name, kind)).expect("named answers")
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        for _ in 0..LOOKS_MAX {
            if holds() {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        panic!("never {what}");
    }

    /// An update by somebody else.
    fn update_by_hand(&self, lines: &str) {
        let script = format!(
            "server 127.0.0.1 {}\nkey hmac-sha256:edge {SECRET_BASE64}\n{lines}\nsend\n",
            self.address.port()
        );
        let file = self.directory.path().join("update");
        std::fs::write(&file, script).unwrap();
        let status = Command::new("nsupdate").arg("-v").arg(&file).status().unwrap();
        assert!(status.success(), "nsupdate: {lines}");
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(directory: &Path) -> Child {
    let log = File::create(directory.join("log")).unwrap();
    Command::new("named")
        .arg("-g")
        .arg("-c")
        .arg(directory.join("named.conf"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A port of 127.0.0.1 that nobody else takes as long as the claim lives: a listener on the same
/// port of another address, where every test looks first.
fn free_port() -> (TcpListener, u16) {
    let first = u16::try_from(std::process::id() % 10_000).unwrap();
    let mut ports = PORTS.map(|port| PORTS.start + (port - PORTS.start + first) % 10_000);
    let free =
        |port| TcpListener::bind(("127.0.0.1", port)).and(UdpSocket::bind(("127.0.0.1", port)));
    ports
        .find_map(|port| {
            let claim = TcpListener::bind(("127.0.0.2", port)).ok()?;
            free(port).is_ok().then_some((claim, port))
        })
        .expect("a free port")
}

fn write_zones(directory: &Path, large_names: usize) {
    for name in ZONES {
        let many = if name == "large.test" { large_names } else { 0 };
        let hosts: String = (0..many).map(|at| format!("host{at} IN A 192.0.2.202\n")).collect();
        let text = format!(
            "$TTL 300\n@ IN SOA ns.{name}. admin.{name}. 1 3600 600 86400 60\n\
             @ IN NS ns.{name}.\nns IN A 127.0.0.1\nforeign IN A 192.0.2.200\n\
             alias IN CNAME foreign\n*.wild IN A 192.0.2.201\n{hosts}"
        );
        std::fs::write(directory.join(format!("{name}.zone")), text).unwrap();
    }
}

/// `blind_transfer` is who may transfer the zone of which that is mostly refused.
fn write_configuration(directory: &Path, port: u16, blind_transfer: &str) {
    let zones = ZONES.map(|name| {
        let update = if name == "closed.test" { "none" } else { "key edge" };
        let transfer = if name == "blind.test" { blind_transfer } else { "key edge" };
        format!(
            "zone \"{name}\" {{ type primary; file \"{name}.zone\"; \
             allow-update {{ {update}; }}; allow-transfer {{ {transfer}; }}; }};\n"
        )
    });
    let (directory_text, zones) = (directory.display(), zones.concat());
    let configuration = format!(
        "options {{ directory \"{directory_text}\"; pid-file none; session-keyfile none;\n\
         listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no;\n\
         notify no; dnssec-validation no; }};\ncontrols {{ }};\n\
         key edge {{ algorithm hmac-sha256; secret \"{SECRET_BASE64}\"; }};\n{zones}"
    );
    std::fs::write(directory.join("named.conf"), configuration).unwrap();
}

fn wire_name(name: &str) -> Name {
    Name::from_labels(name.split('.').map(str::as_bytes)).unwrap()
}

fn name(text: &str) -> RecordName {
    RecordName::parse(text).unwrap()
}

fn zone(zone: &str, servers: &[&Bind]) -> ZoneSettings {
    ZoneSettings {
        name: name(zone),
        servers: servers.iter().map(|bind| bind.address).collect(),
        tsig: Some(Tsig {
            key_name: name("edge"),
            algorithm: TsigAlgorithm::HmacSha256,
            secret: SECRET.to_vec(),
        }),
        ttl_secs: 60,
        owner_id: "blue".into(),
        policy: Policy::Sync,
        deletions: DeletionBudget { names_max: 3, percent_max: NonZeroU8::new(100).unwrap() },
        wildcard: None,
    }
}

fn settings(zones: Vec<ZoneSettings>) -> Settings {
    Settings { zones, dry_run: false, refresh_secs: 3600 }
}

/// A running writer.
struct Lab {
    handle: WriterHandle,
    registry: Registry,
    desired: watch::Sender<Arc<DesiredRecords>>,
    leader: watch::Sender<bool>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Lab {
    fn start(settings: Settings, leader: bool) -> Self {
        let registry = Registry::new();
        let writer = Writer::new(settings, &registry).unwrap();
        let handle = writer.handle();
        let (desired, desired_receiver) = watch::channel(Arc::default());
        let (leader, leader_receiver) = watch::channel(leader);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(writer.run(desired_receiver, leader_receiver, shutdown.clone()));
        Self { handle, registry, desired, leader, shutdown, task }
    }

    fn want(&self, names: &[(&str, &[&str])]) {
        let names = names
            .iter()
            .map(|(host, addresses)| {
                let addresses: BTreeSet<IpAddr> =
                    addresses.iter().map(|address| address.parse().unwrap()).collect();
                let resource = "service/default/web".into();
                (name(host), Arc::new(DesiredName { addresses, ttl_secs: None, resource }))
            })
            .collect();
        self.desired.send_replace(Arc::new(DesiredRecords { names }));
    }

    /// Waits until the status is as described.
    async fn until(&self, what: &str, mut holds: impl FnMut(&Status) -> bool) -> Status {
        for _ in 0..LOOKS_MAX {
            let status = self.handle.status();
            if holds(&status) {
                return status;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        panic!("never {what}: {:#?}", self.handle.status());
    }

    /// Waits until every wanted record is in one of the states.
    async fn until_records(&self, state: RecordState, count: usize) -> Status {
        self.until(&format!("{count} records {state:?}"), |status| {
            status.records.iter().filter(|record| record.state == state).count() == count
                && status.records.len() == count
        })
        .await
    }

    async fn until_error(&self, part: &str) {
        self.until(&format!("an error with {part:?}"), |status| {
            status.zones.iter().flat_map(|zone| &zone.servers).any(|server| {
                server.state == ServerState::Failing
                    && server.last_error.as_deref().is_some_and(|error| error.contains(part))
            })
        })
        .await;
    }

    /// A gauge of the only zone and server.
    fn gauge(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        family.get_metric()[0].get_gauge().get_value()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn names_are_created_changed_and_deleted_with_their_ownership() {
    let Some(bind) = Bind::start("names_are_created_changed_and_deleted") else { return };
    let lab = Lab::start(settings(vec![zone(ZONE, &[&bind])]), true);
    lab.want(&[
        ("www.example.test", &["192.0.2.1", "2001:db8::1"]),
        ("*.apps.example.test", &["192.0.2.2"]),
        ("elsewhere.invalid", &["192.0.2.3"]),
    ]);
    let status = lab
        .until("written", |status| {
            status.records.len() == 3
                && status.records.iter().all(|record| record.state == RecordState::Synced)
                && status.zones[0].servers[0].owned_names == 2
        })
        .await;
    assert_eq!(status.outside.count, 1);
    assert_eq!(status.zones[0].servers[0].reading, Some(Reading::Transfer));
    assert_eq!(bind.find("www.example.test", RecordType::A), ["192.0.2.1"]);
    assert_eq!(bind.find("www.example.test", RecordType::AAAA), ["2001:db8::1"]);
    assert_eq!(bind.find("any.apps.example.test", RecordType::A), ["192.0.2.2"]);
    for ownership in ["a-www.example.test", "aaaa-www.example.test", "a-*.apps.example.test"] {
        let expected = "heritage=external-dns,external-dns/owner=blue,\
                        external-dns/resource=service/default/web";
        assert_eq!(bind.find(ownership, RecordType::TXT), [expected], "{ownership}");
    }

    lab.want(&[("www.example.test", &["192.0.2.9", "192.0.2.8"])]);
    lab.until("one name left", |status| status.zones[0].servers[0].owned_names == 1).await;
    assert_eq!(bind.find("www.example.test", RecordType::A), ["192.0.2.8", "192.0.2.9"]);
    assert!(bind.find("www.example.test", RecordType::AAAA).is_empty());
    assert!(bind.find("aaaa-www.example.test", RecordType::TXT).is_empty());
    assert!(bind.find("any.apps.example.test", RecordType::A).is_empty());

    lab.want(&[]);
    lab.until("no name left", |status| status.zones[0].servers[0].owned_names == 0).await;
    assert!(bind.find("www.example.test", RecordType::A).is_empty());
    assert!(bind.find("a-www.example.test", RecordType::TXT).is_empty());
    lab.stop().await;
}

#[tokio::test]
async fn foreign_records_survive_also_those_that_appear_behind_our_back() {
    let Some(bind) = Bind::start("foreign_records_survive") else { return };
    let lab = Lab::start(settings(vec![zone(ZONE, &[&bind])]), true);
    lab.want(&[("foreign.example.test", &["192.0.2.1"]), ("alias.example.test", &["192.0.2.1"])]);
    let status = lab.until_records(RecordState::Conflict, 2).await;
    let reasons: Vec<_> =
        status.records.iter().map(|record| record.reason.clone().unwrap()).collect();
    assert!(reasons[0].contains("CNAME") && reasons[1].contains("nobody claims"), "{reasons:?}");

    // The zone has been read; what comes now is met by the prerequisites alone.
    bind.update_by_hand("update add late.example.test 60 A 192.0.2.77");
    lab.want(&[("late.example.test", &["192.0.2.1"]), ("early.example.test", &["192.0.2.1"])]);
    lab.until("a conflict and a record", |status| {
        let state =
            |host: &str| status.records.iter().find(|r| r.name.as_str() == host).map(|r| r.state);
        state("late.example.test") == Some(RecordState::Conflict)
            && state("early.example.test") == Some(RecordState::Synced)
    })
    .await;
    assert_eq!(bind.find("late.example.test", RecordType::A), ["192.0.2.77"]);
    assert_eq!(bind.find("foreign.example.test", RecordType::A), ["192.0.2.200"]);
    assert_eq!(bind.find("early.example.test", RecordType::A), ["192.0.2.1"]);
    lab.stop().await;
}

#[tokio::test]
async fn a_mass_deletion_waits_for_a_larger_budget_while_creates_go_through() {
    let Some(bind) = Bind::start("a_mass_deletion_waits") else { return };
    let lab = Lab::start(settings(vec![zone(ZONE, &[&bind])]), true);
    let hosts = ["a", "b", "c", "d"].map(|host| format!("{host}.example.test"));
    let address: &[&str] = &["192.0.2.1"];
    lab.want(&hosts.each_ref().map(|host| (host.as_str(), address)));
    lab.until("four names", |status| status.zones[0].servers[0].owned_names == 4).await;

    lab.want(&[("new.example.test", address)]);
    let status = lab
        .until("held", |status| {
            status.zones[0].servers[0].held_deletions == 4
                && status.zones[0].servers[0].owned_names == 5
        })
        .await;
    let held = status.records.iter().filter(|record| record.state == RecordState::Held);
    assert_eq!(held.count(), 4);
    assert_eq!(bind.find("new.example.test", RecordType::A), ["192.0.2.1"]);
    assert_eq!(bind.find("a.example.test", RecordType::A), ["192.0.2.1"]);

    let mut raised = zone(ZONE, &[&bind]);
    raised.deletions.names_max = 4;
    lab.handle.reconfigure(settings(vec![raised])).unwrap();
    lab.until("deleted", |status| status.zones[0].servers[0].owned_names == 1).await;
    assert!(bind.find("a.example.test", RecordType::A).is_empty());
    lab.stop().await;
}

#[tokio::test]
async fn key_faults_and_refusals_are_told_apart() {
    let Some(bind) = Bind::start("key_faults_and_refusals_are_told_apart") else { return };
    let with_key = |key_name: &str, algorithm, secret: &[u8]| {
        let mut zone = zone(ZONE, &[&bind]);
        zone.tsig = Some(Tsig { key_name: name(key_name), algorithm, secret: secret.to_vec() });
        settings(vec![zone])
    };
    let lab = Lab::start(with_key("edge", TsigAlgorithm::HmacSha256, b"wrong"), true);
    lab.want(&[("www.example.test", &["192.0.2.1"])]);
    lab.until_error("key edge (hmac-sha256): the server has another secret for it").await;

    let unknown = with_key("nobody", TsigAlgorithm::HmacSha512, SECRET);
    lab.handle.reconfigure(unknown).unwrap();
    lab.until_error("key nobody (hmac-sha512): the server does not know it").await;

    lab.handle
        .reconfigure(settings(vec![zone("closed.test", &[&bind]), zone(ZONE, &[&bind])]))
        .unwrap();
    lab.want(&[("www.closed.test", &["192.0.2.1"]), ("www.example.test", &["192.0.2.1"])]);
    lab.until_error("REFUSED").await;
    lab.until("the other zone goes on", |status| {
        let state =
            |host: &str| status.records.iter().find(|r| r.name.as_str() == host).map(|r| r.state);
        state("www.example.test") == Some(RecordState::Synced)
            && state("www.closed.test") == Some(RecordState::Refused)
    })
    .await;
    lab.stop().await;
}

#[tokio::test]
async fn a_zone_that_cannot_be_transferred_is_read_name_by_name() {
    let Some(bind) = Bind::start("a_zone_that_cannot_be_transferred") else { return };
    let lab = Lab::start(settings(vec![zone("blind.test", &[&bind])]), true);
    lab.want(&[
        ("www.blind.test", &["192.0.2.1"]),
        ("new.wild.blind.test", &["192.0.2.1"]),
        ("foreign.blind.test", &["192.0.2.1"]),
    ]);
    let status = lab
        .until("two written, one in conflict", |status| {
            let server = &status.zones[0].servers[0];
            server.owned_names == 2 && server.conflicts == 1
        })
        .await;
    assert_eq!(status.zones[0].servers[0].reading, Some(Reading::Queries));
    assert!(status.zones[0].servers[0].transfer_refused.is_some());
    assert_eq!(bind.find("www.blind.test", RecordType::A), ["192.0.2.1"]);
    assert_eq!(bind.find("new.wild.blind.test", RecordType::A), ["192.0.2.1"]);
    assert_eq!(bind.find("foreign.blind.test", RecordType::A), ["192.0.2.200"]);
    lab.want(&[]);
    lab.until("nothing owned", |status| status.zones[0].servers[0].owned_names == 0).await;
    assert!(bind.find("www.blind.test", RecordType::A).is_empty());
    lab.stop().await;
}

/// The zone is compared every hour only: it is the transfer that is tried again.
#[tokio::test]
async fn a_zone_that_can_be_transferred_again_is_read_whole_soon() {
    let Some(bind) = Bind::start("a_zone_that_can_be_transferred_again") else { return };
    // A name of ours from before the start, which queries for wanted names do not find.
    bind.update_by_hand(
        "update add old.blind.test 60 A 192.0.2.9\n\
         update add a-old.blind.test 60 TXT \
         \"heritage=external-dns,external-dns/owner=blue,external-dns/resource=service/a/b\"",
    );
    let lab = Lab::start(settings(vec![zone("blind.test", &[&bind])]), true);
    lab.want(&[("www.blind.test", &["192.0.2.1"])]);
    let status =
        lab.until("read by queries", |status| status.zones[0].servers[0].owned_names == 1).await;
    let server = &status.zones[0].servers[0];
    assert_eq!(server.reading, Some(Reading::Queries));
    assert!(server.transfer_refused.as_ref().is_some_and(|why| why.contains("REFUSED")));
    bind.until("shown", || lab.gauge("haflinger_dns_transfer_refused") == 1.0).await;
    assert_eq!(bind.find("old.blind.test", RecordType::A), ["192.0.2.9"]);

    write_configuration(bind.directory.path(), bind.address.port(), "key edge");
    bind.reload();
    let status = lab
        .until("read by transfer", |status| {
            status.zones[0].servers[0].reading == Some(Reading::Transfer)
        })
        .await;
    assert_eq!(status.zones[0].servers[0].transfer_refused, None);
    bind.until("shown", || lab.gauge("haflinger_dns_transfer_refused") == 0.0).await;
    bind.until("the old name deleted", || bind.find("old.blind.test", RecordType::A).is_empty())
        .await;
    assert_eq!(bind.find("www.blind.test", RecordType::A), ["192.0.2.1"]);
    lab.stop().await;
}

#[tokio::test]
async fn a_zone_that_is_not_loaded_yet_is_written_once_it_is() {
    let Some(mut bind) = Bind::start("a_zone_that_is_not_loaded_yet") else { return };
    let file = bind.directory.path().join("example.test.zone");
    let text = std::fs::read_to_string(&file).unwrap();
    // Unlike a reload, a start with a broken file leaves the zone without contents.
    std::fs::write(&file, "not a zone\n").unwrap();
    bind.restart();
    let lab = Lab::start(settings(vec![zone(ZONE, &[&bind])]), true);
    lab.want(&[("www.example.test", &["192.0.2.1"])]);
    lab.until_error("SERVFAIL").await;

    std::fs::write(&file, text).unwrap();
    bind.reload();
    let status = lab.until_records(RecordState::Synced, 1).await;
    assert_eq!(status.zones[0].servers[0].reading, Some(Reading::Transfer));
    assert_eq!(status.zones[0].servers[0].last_error, None);
    assert_eq!(bind.find("www.example.test", RecordType::A), ["192.0.2.1"]);
    lab.stop().await;
}

#[tokio::test]
async fn only_the_leader_writes_and_a_dry_run_never_does() {
    let Some(bind) = Bind::start("only_the_leader_writes") else { return };
    let mut dry = settings(vec![zone(ZONE, &[&bind])]);
    dry.dry_run = true;
    let lab = Lab::start(dry, false);
    lab.want(&[("www.example.test", &["192.0.2.1"])]);
    lab.until("standing by", |status| {
        status.zones.iter().any(|zone| zone.servers[0].state == ServerState::Standby)
    })
    .await;
    assert!(bind.find("www.example.test", RecordType::A).is_empty());

    lab.leader.send_replace(true);
    lab.until_records(RecordState::Planned, 1).await;
    assert!(bind.find("www.example.test", RecordType::A).is_empty());

    lab.handle.reconfigure(settings(vec![zone(ZONE, &[&bind])])).unwrap();
    lab.until_records(RecordState::Synced, 1).await;
    assert_eq!(bind.find("www.example.test", RecordType::A), ["192.0.2.1"]);

    lab.leader.send_replace(false);
    lab.until("standing by again", |status| {
        status.zones[0].servers[0].state == ServerState::Standby
    })
    .await;
    lab.want(&[("late.example.test", &["192.0.2.1"])]);
    lab.until_records(RecordState::Pending, 1).await;
    assert!(bind.find("late.example.test", RecordType::A).is_empty());
    lab.stop().await;
}

#[tokio::test]
async fn what_somebody_changed_is_repaired_at_the_next_refresh() {
    let Some(bind) = Bind::start("what_somebody_changed_is_repaired") else { return };
    let refreshed = Settings { refresh_secs: 1, ..settings(vec![zone(ZONE, &[&bind])]) };
    let lab = Lab::start(refreshed, true);
    lab.want(&[("www.example.test", &["192.0.2.1"]), ("foreign.example.test", &["192.0.2.1"])]);
    lab.until("written", |status| status.zones[0].servers[0].owned_names == 1).await;
    bind.update_by_hand("update delete www.example.test A");
    bind.until("repaired", || bind.find("www.example.test", RecordType::A) == ["192.0.2.1"]).await;
    // What was in the way is gone: the name is taken.
    bind.update_by_hand("update delete foreign.example.test A");
    bind.until("taken", || bind.find("foreign.example.test", RecordType::A) == ["192.0.2.1"]).await;
    lab.stop().await;
}

#[tokio::test]
async fn a_zone_of_many_messages_is_read_whole() {
    let Some(bind) = Bind::start(LARGE_TEST) else { return };
    let lab = Lab::start(settings(vec![zone("large.test", &[&bind])]), true);
    let last = format!("host{}.large.test", LARGE_NAMES - 1);
    lab.want(&[("host0.large.test", &["192.0.2.1"]), (&last, &["192.0.2.1"])]);
    let status =
        lab.until("two conflicts", |status| status.zones[0].servers[0].conflicts == 2).await;
    assert_eq!(status.zones[0].servers[0].reading, Some(Reading::Transfer));
    lab.stop().await;
}

#[tokio::test]
async fn every_server_is_written_and_a_dead_one_holds_nobody_up() {
    let Some(first) = Bind::start("every_server_is_written") else { return };
    let Some(second) = Bind::start("every_server_is_written") else { return };
    let mut both = zone(ZONE, &[&first, &second]);
    // Nothing listens on the discard port.
    both.servers.push(SocketAddr::from(([127, 0, 0, 1], 9)));
    let lab = Lab::start(settings(vec![both]), true);
    lab.want(&[("www.example.test", &["192.0.2.1"])]);
    let status = lab
        .until("two synced, one failing", |status| {
            let states: Vec<_> =
                status.zones[0].servers.iter().map(|server| server.state).collect();
            states.iter().filter(|state| **state == ServerState::Synced).count() == 2
                && states.contains(&ServerState::Failing)
                && status.zones[0].servers.iter().filter(|s| s.owned_names == 1).count() == 2
        })
        .await;
    assert_eq!(status.records[0].state, RecordState::Pending);
    assert!(status.records[0].server.is_some_and(|server| server.port() == 9));
    for bind in [&first, &second] {
        assert_eq!(bind.find("www.example.test", RecordType::A), ["192.0.2.1"]);
    }
    lab.stop().await;
}
