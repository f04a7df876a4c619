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
//! 5. A zone that cannot be transferred is read name by name.
//! 6. Without leadership nothing is written; a dry run writes nothing.
//! 7. Every server of a zone is written.
//! 8. What somebody changed is repaired; a zone of many messages is read whole.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU8;
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

/// A name server that ends with the test.
struct Bind {
    child: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Bind {
    /// Starts `named`, or says why not.
    fn start(test: &str) -> Option<Self> {
        if Command::new("named").arg("-v").output().is_err() {
            #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
            {
                eprintln!("SKIPPED {test}: named is not installed");
            }
            return None;
        }
        // The port was free a moment ago; if it no longer is, another one is.
        (0..5).find_map(|_| Self::start_once(test)).or_else(|| panic!("named does not answer"))
    }

    fn start_once(test: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let large = if test == LARGE_TEST { LARGE_NAMES } else { 1 };
        write_configuration(directory.path(), port, large);
        let child = Command::new("named")
            .arg("-g")
            .arg("-c")
            .arg(directory.path().join("named.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut bind = Self { child, address, directory };
        bind.answers().then_some(bind)
    }

    /// Waits until it answers; false when it has ended instead.
    fn answers(&mut self) -> bool {
        while self.child.try_wait().unwrap().is_none() {
            if self.ask(ZONE, RecordType::SOA).is_some_and(|answers| !answers.is_empty()) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// What a plain query finds, as text, sorted; `None` when nobody answers.
    fn ask(&self, name: &str, kind: RecordType) -> Option<Vec<String>> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.connect(self.address).unwrap();
        let mut query = Message::query();
        query.add_query(Query::query(wire_name(name), kind));
        socket.send(&query.to_vec().unwrap()).unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).ok()?;
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        let mut found: Vec<_> =
            answer.answers.iter().map(|record| record.data.to_string()).collect();
        found.sort();
        Some(found)
    }

    fn find(&self, name: &str, kind: RecordType) -> Vec<String> {
        self.ask(name, kind).expect("named answers")
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        for _ in 0..600 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
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

fn write_configuration(directory: &Path, port: u16, large_names: usize) {
    let zone = |name: &str, update: &str, transfer: &str| {
        let many = if name == "large.test" { large_names } else { 0 };
        let hosts: String = (0..many).map(|at| format!("host{at} IN A 192.0.2.202\n")).collect();
        std::fs::write(
            directory.join(format!("{name}.zone")),
            format!(
                "$TTL 300\n@ IN SOA ns.{name}. admin.{name}. 1 3600 600 86400 60\n\
                 @ IN NS ns.{name}.\nns IN A 127.0.0.1\nforeign IN A 192.0.2.200\n\
                 alias IN CNAME foreign\n*.wild IN A 192.0.2.201\n{hosts}"
            ),
        )
        .unwrap();
        format!(
            "zone \"{name}\" {{ type primary; file \"{name}.zone\"; \
             allow-update {{ {update}; }}; allow-transfer {{ {transfer}; }}; }};\n"
        )
    };
    let zones = [
        zone(ZONE, "key edge", "key edge"),
        zone("closed.test", "none", "key edge"),
        zone("blind.test", "key edge", "none"),
        zone("large.test", "key edge", "key edge"),
    ]
    .concat();
    let directory_text = directory.display();
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
    desired: watch::Sender<Arc<DesiredRecords>>,
    leader: watch::Sender<bool>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Lab {
    fn start(settings: Settings, leader: bool) -> Self {
        let writer = Writer::new(settings, &Registry::new()).unwrap();
        let handle = writer.handle();
        let (desired, desired_receiver) = watch::channel(Arc::default());
        let (leader, leader_receiver) = watch::channel(leader);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(writer.run(desired_receiver, leader_receiver, shutdown.clone()));
        Self { handle, desired, leader, shutdown, task }
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
        for _ in 0..600 {
            let status = self.handle.status();
            if holds(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
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
