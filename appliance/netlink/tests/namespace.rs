//! The reconciler in a network namespace of its own.
//!
//! ```text
//! ┌─ namespace of the test's thread ────────────────────┐
//! │  lo (VIPs)   edge0 192.0.2.1/24, 2001:db8::1/64     │
//! │                │ veth                               │
//! │              edge1 (nodes 192.0.2.11, 2001:db8::11) │
//! └─────────────────────────────────────────────────────┘
//! ```
//!
//! 1. VIPs and pod routes of both families come and go with the snapshot.
//! 2. Foreign addresses and routes survive, and are reported.
//! 3. What a crashed daemon left behind is adopted or removed, but only once sources have spoken.
//! 4. What somebody takes away is put back.
//! 5. A next hop that is out of reach is retried, and used once it is within reach.
//! 6. Switched off, the feature takes its own back; so does `cleanup`.
//! 7. Without CAP_NET_ADMIN the status says so and nothing breaks.
//! 8. Source addresses of `nat` are bound; they outlive a restart, and the configuration by as long
//!    as flows may. Nobody else's are touched.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::future::Future;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::{
    Announcement, PodRoute, RouteOrigin, RouteRival, Snapshot, SourceId, Update, Vip,
};
use haflinger_netlink::{
    AddressState, Cleanup, Reconciler, ReconcilerHandle, Removed, RouteState, Settings, Status,
    cleanup,
};
use prometheus::Registry;
use rustix::thread::{CapabilitySet, UnshareFlags};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Runs a test on a thread with its own network namespace, which ends with the thread. The
/// commands that it starts are in that namespace too.
fn in_namespace<F: Future<Output = ()>>(test: &str, body: impl FnOnce() -> F + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
        {
            eprintln!("SKIPPED {test}: only root can make network namespaces");
        }
        return;
    }
    let thread = std::thread::spawn(move || {
        // SAFETY: only the network namespace of this thread changes; it shares no descriptor
        // table or file system state anew.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        for line in [
            "link set lo up",
            "link add edge0 type veth peer name edge1",
            "link set edge0 up",
            "link set edge1 up",
            "addr add 192.0.2.1/24 dev edge0",
            "addr add 2001:db8::1/64 dev edge0 nodad",
        ] {
            ip(line);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
    });
    thread.join().unwrap();
}

/// Runs `ip` in the namespace of this thread.
fn ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {line}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn has_address(address: &str) -> bool {
    ip("-o addr show").contains(&format!(" {address} "))
}

fn route(prefix: &str) -> String {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    ip(&format!("{family} -N route show {prefix}")).trim().to_owned()
}

struct Lab {
    handle: ReconcilerHandle,
    snapshots: watch::Sender<Arc<Snapshot>>,
    settled: watch::Sender<bool>,
    updates: mpsc::Receiver<Update>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Lab {
    fn start(settings: Settings) -> Self {
        let reconciler = Reconciler::new(settings, &Registry::new()).unwrap();
        let handle = reconciler.handle();
        let (snapshots, receiver) = watch::channel(Arc::default());
        let (settled, settled_receiver) = watch::channel(true);
        let shutdown = CancellationToken::new();
        // As many as any test causes, so that none waits.
        let (told, updates) = mpsc::channel(64);
        let running = reconciler.run(receiver, settled_receiver, told, shutdown.clone());
        let task = tokio::spawn(running);
        Self { handle, snapshots, settled, updates, shutdown, task }
    }

    fn want(&self, vips: &[&str], routes: &[(&str, &str)]) {
        let vip = |text: &&str| {
            let address: IpAddr = text.parse().unwrap();
            let announcement = Announcement::Announced;
            (address, Arc::new(Vip { address, pool: None, announcement }))
        };
        let route = |(prefix, via): &(&str, &str)| {
            let via = via.parse().unwrap();
            let source = SourceId::cluster("lab");
            (
                prefix.parse::<ipnet::IpNet>().unwrap(),
                Arc::new(PodRoute {
                    via,
                    node: "node".into(),
                    source,
                    origin: RouteOrigin::Node,
                    overlaps: None,
                    rival: None,
                }),
            )
        };
        self.snapshots.send_modify(|snapshot| {
            *snapshot = Arc::new(Snapshot {
                generation: snapshot.generation + 1,
                vips: vips.iter().map(vip).collect(),
                pod_routes: routes.iter().map(route).collect(),
                ..Snapshot::default()
            });
        });
    }

    /// The route to `network` is overlapped by `other`, of another cluster.
    fn withhold(&self, network: &str, other: &str) {
        self.snapshots.send_modify(|snapshot| {
            let mut changed = (**snapshot).clone();
            let network = network.parse().unwrap();
            let mut route = (*changed.pod_routes[&network]).clone();
            let other = other.parse().unwrap();
            let source = SourceId::cluster("first");
            route.overlaps = Some(RouteRival { network: other, node: "other".into(), source });
            changed.pod_routes.insert(network, Arc::new(route));
            changed.generation += 1;
            *snapshot = Arc::new(changed);
        });
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(&Status) -> bool) -> Status {
        for _ in 0..1000 {
            let status = self.handle.status();
            if holds(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("never {what}: {:#?}\n{}", self.handle.status(), ip("-o addr show"));
    }

    /// Waits until so many VIPs are bound and so many routes installed, and no more are known.
    async fn until_done(&self, addresses: usize, routes: usize) {
        self.until("done", |status| {
            status.addresses.len() == addresses
                && status.routes.len() == routes
                && status.addresses.iter().all(|entry| entry.state == AddressState::Bound)
                && status.routes.iter().all(|entry| entry.state == RouteState::Installed)
        })
        .await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never {what}:\n{}\n{}", ip("-o addr show"), ip("route show table all"));
}

const NODE4: &str = "192.0.2.11";
const NODE6: &str = "2001:db8::11";

#[test]
fn addresses_and_routes_of_both_families_follow_the_snapshot() {
    in_namespace("addresses_and_routes_of_both_families", || async {
        let mut lab = Lab::start(Settings::default());
        lab.want(
            &["198.51.100.1", "2001:db8:f::1"],
            &[("10.1.0.0/24", NODE4), ("fd00:1::/64", NODE6)],
        );
        lab.until_done(2, 2).await;
        assert!(has_address("198.51.100.1/32") && has_address("2001:db8:f::1/128"));
        for _ in 0..2 {
            assert!(matches!(lab.updates.recv().await, Some(Update::Bound { bound: true, .. })));
        }
        assert!(route("10.1.0.0/24").contains("via 192.0.2.11 dev edge0 proto 72"));
        assert!(route("fd00:1::/64").contains("via 2001:db8::11 dev edge0 proto 72"));

        let moved = [("10.1.0.0/24", "192.0.2.12"), ("fd00:1::/64", "2001:db8::12")];
        lab.want(&["2001:db8:f::1"], &moved);
        lab.until("moved", |status| {
            status.addresses.len() == 1
                && status.routes.len() == 2
                && status.routes.iter().all(|route| {
                    route.state == RouteState::Installed && route.via.to_string().ends_with("12")
                })
        })
        .await;
        assert!(!has_address("198.51.100.1/32") && has_address("2001:db8:f::1/128"));
        match lab.updates.recv().await {
            Some(Update::Bound { address, bound: false }) => {
                assert_eq!(address.to_string(), "198.51.100.1");
            }
            other => panic!("{other:?}"),
        }
        for (prefix, via) in moved {
            let shown = route(prefix);
            assert!(shown.contains(via) && shown.lines().count() == 1, "{shown}");
        }

        lab.want(&["2001:db8:f::1"], &moved[..1]);
        lab.until_done(1, 1).await;
        assert_eq!(route("fd00:1::/64"), "");

        // A stopped daemon leaves everything in place.
        lab.stop().await;
        assert!(has_address("2001:db8:f::1/128"));
        assert!(route("10.1.0.0/24").contains("via 192.0.2.12"));
    });
}

#[test]
fn foreign_addresses_and_routes_survive_and_are_reported() {
    in_namespace("foreign_addresses_and_routes_survive", || async {
        ip("addr add 198.51.100.1/32 dev edge0");
        ip("route add 10.1.0.0/24 via 192.0.2.99 metric 50 proto static");
        let lab = Lab::start(Settings::default());
        let routes = [("10.1.0.0/24", NODE4), ("10.2.0.0/24", NODE4), ("0.0.0.0/0", NODE4)];
        lab.want(&["198.51.100.1", "198.51.100.2", "127.0.0.9"], &routes);
        let status = lab
            .until("conflicts", |status| {
                status.addresses.len() == 3
                    && status.routes.len() == 3
                    && status.addresses.iter().any(|a| a.state == AddressState::Bound)
                    && status.routes.iter().any(|r| r.state == RouteState::Installed)
            })
            .await;
        let addresses: Vec<_> = status.addresses.iter().map(|entry| entry.state).collect();
        assert_eq!(addresses, [AddressState::Skipped, AddressState::Foreign, AddressState::Bound]);
        let routes: Vec<_> = status.routes.iter().map(|entry| entry.state).collect();
        assert_eq!(routes, [RouteState::Invalid, RouteState::Conflict, RouteState::Installed]);
        assert!(route("10.1.0.0/24").contains("via 192.0.2.99"));

        // A foreign route that comes later wins too.
        ip("route add 10.2.0.0/24 via 192.0.2.99 metric 50 proto static");
        lab.until("a second conflict", |status| status.routes[2].state == RouteState::Conflict)
            .await;
        assert!(!route("10.2.0.0/24").contains("proto 72"));

        lab.want(&[], &[]);
        lab.until("nothing", |status| status.addresses.is_empty() && status.routes.is_empty())
            .await;
        assert!(has_address("198.51.100.1/32") && !has_address("198.51.100.2/32"));
        assert!(route("10.1.0.0/24").contains("via 192.0.2.99"));
        lab.stop().await;
    });
}

#[test]
fn a_network_that_overlaps_another_cluster_s_is_taken_back_while_it_does_and_says_why() {
    in_namespace("a_network_that_overlaps", || async {
        let lab = Lab::start(Settings::default());
        let both = [("10.1.0.0/24", NODE4), ("10.1.0.0/16", "192.0.2.12")];
        // As a node that comes and goes does it: the end is what counts.
        for _ in 0..3 {
            lab.want(&[], &both);
            lab.until_done(0, 2).await;
            lab.withhold("10.1.0.0/24", "10.1.0.0/16");
            let status = lab
                .until("a conflict", |status| {
                    status.routes.iter().any(|route| route.state == RouteState::Conflict)
                })
                .await;
            let withheld = status.routes.iter().find(|route| route.reason.is_some()).unwrap();
            assert_eq!(withheld.prefix.to_string(), "10.1.0.0/24");
            let reason = withheld.reason.as_deref().unwrap();
            assert_eq!(reason, "10.1.0.0/16 of node other in cluster/first overlaps");
            eventually("taken back", || route("10.1.0.0/24").is_empty()).await;
            assert!(route("10.1.0.0/16").contains("via 192.0.2.12"));
        }
        lab.want(&[], &both);
        lab.until_done(0, 2).await;
        assert!(route("10.1.0.0/24").contains("proto 72"));
        lab.stop().await;
    });
}

#[test]
fn what_a_crash_left_behind_is_adopted_or_removed_once_sources_have_spoken() {
    in_namespace("what_a_crash_left_behind", || async {
        // Two daemons that crash: the first had another interface.
        let edge0 = Settings { vip_interface: Some("edge0".to_owned()), ..Settings::default() };
        for (settings, vips) in [
            (edge0, &["2001:db8:f::2"][..]),
            (Settings::default(), &["198.51.100.1", "198.51.100.2"][..]),
        ] {
            let crashing = Lab::start(settings);
            crashing.settled.send_replace(false);
            crashing.want(vips, &[]);
            crashing.until_done(vips.len(), 0).await;
            // Duplicate address detection would keep an address unusable for a second or more.
            assert_eq!(ip("-6 addr show to 2001:db8:f::2/128 tentative"), "");
            crashing.task.abort();
        }
        ip("route add 10.1.0.0/24 via 192.0.2.11 proto 72 metric 1024");
        ip("route add 10.2.0.0/24 via 192.0.2.11 proto 72 metric 1024");
        ip("route add 10.3.0.0/24 via 192.0.2.11 proto 72 table 100");
        let lab = Lab::start(Settings::default());
        lab.settled.send_replace(false);
        lab.want(&["198.51.100.1", "198.51.100.3"], &[("10.1.0.0/24", NODE4)]);
        lab.until_done(2, 1).await;
        assert!(has_address("198.51.100.2/32"), "sources have not spoken yet");
        assert!(route("10.2.0.0/24").contains("proto 72"), "sources have not spoken yet");

        lab.settled.send_replace(true);
        eventually("cleared", || {
            !has_address("198.51.100.2/32") && !has_address("2001:db8:f::2/128")
        })
        .await;
        eventually("cleared", || {
            route("10.2.0.0/24").is_empty()
                && ip("route show table all").lines().all(|line| !line.contains("10.3.0.0/24"))
        })
        .await;
        assert!(has_address("198.51.100.1/32") && has_address("198.51.100.3/32"));
        assert!(route("10.1.0.0/24").contains("proto 72"));
        lab.stop().await;
    });
}

#[test]
fn what_somebody_takes_away_is_put_back() {
    in_namespace("what_somebody_takes_away", || async {
        // The timer cannot be what repairs it within the test.
        let lab = Lab::start(Settings { resync_secs: 3600, ..Settings::default() });
        lab.want(&["198.51.100.1"], &[("10.1.0.0/24", NODE4)]);
        lab.until_done(1, 1).await;
        ip("addr del 198.51.100.1/32 dev lo");
        ip("route del 10.1.0.0/24");
        eventually("back", || {
            has_address("198.51.100.1/32") && route("10.1.0.0/24").contains("proto 72")
        })
        .await;
        // The kernel drops routes with their interface and says nothing about them.
        ip("link set edge0 down");
        lab.until("failing", |status| status.routes[0].state == RouteState::Failing).await;
        ip("link set edge0 up");
        lab.until_done(1, 1).await;
        assert!(route("10.1.0.0/24").contains("proto 72"));
        lab.stop().await;
    });
}

#[test]
fn a_next_hop_out_of_reach_is_used_once_it_is_within_reach() {
    in_namespace("a_next_hop_out_of_reach", || async {
        let lab = Lab::start(Settings { resync_secs: 3600, ..Settings::default() });
        let routes = [
            ("10.1.0.0/24", "203.0.113.9"),
            ("fd00:1::/64", "2001:db8:9::9"),
            ("10.2.0.0/24", NODE4),
        ];
        lab.want(&[], &routes);
        let status = lab
            .until("two failing", |status| {
                let failing = status.routes.iter().filter(|r| r.state == RouteState::Failing);
                failing.count() == 2 && status.routes.len() == 3
            })
            .await;
        assert_eq!(status.routes[1].state, RouteState::Installed, "the others go on");
        assert!(
            status.routes[0].reason.as_deref().unwrap().contains("not on any connected network")
        );
        ip("addr add 203.0.113.1/24 dev edge0");
        ip("addr add 2001:db8:9::1/64 dev edge0 nodad");
        lab.until_done(0, 3).await;
        lab.stop().await;
    });
}

#[test]
fn switched_off_the_feature_takes_its_own_back_and_so_does_cleanup() {
    in_namespace("switched_off_the_feature", || async {
        ip("route add 10.9.0.0/24 via 192.0.2.99");
        let lab = Lab::start(Settings::default());
        lab.want(&["198.51.100.1"], &[("10.1.0.0/24", NODE4)]);
        lab.until_done(1, 1).await;

        // Another table and interface: everything moves.
        let moved = Settings {
            vip_interface: Some("edge1".to_owned()),
            pod_route_table: Some(70_000),
            ..Settings::default()
        };
        lab.handle.reconfigure(moved).unwrap();
        eventually("moved", || {
            ip("-o addr show dev edge1").contains("198.51.100.1/32")
                && !ip("-o addr show dev lo").contains("198.51.100.1/32")
                && route("10.1.0.0/24").is_empty()
                && ip("route show table all")
                    .contains("10.1.0.0/24 via 192.0.2.11 dev edge0 table 70000")
        })
        .await;

        let off = Settings { vip_interface: None, pod_route_table: None, ..Settings::default() };
        lab.handle.reconfigure(off).unwrap();
        eventually("gone", || {
            !has_address("198.51.100.1/32") && !ip("route show table all").contains("10.1.0.0/24")
        })
        .await;
        lab.until("nothing shown", |status| {
            status.addresses.is_empty() && status.routes.is_empty()
        })
        .await;

        lab.handle.reconfigure(Settings::default()).unwrap();
        lab.until_done(1, 1).await;
        lab.stop().await;
        let all = Cleanup { addresses: true, sources: true, routes: true, remembered: None };
        assert_eq!(cleanup(&all).await.unwrap(), Removed { addresses: 1, routes: 1 });
        assert!(!has_address("198.51.100.1/32") && route("10.1.0.0/24").is_empty());
        assert!(route("10.9.0.0/24").contains("192.0.2.99"));
    });
}

#[test]
fn an_interface_that_does_not_exist_is_named_and_used_once_it_does() {
    in_namespace("an_interface_that_does_not_exist", || async {
        let vip_interface = Some("vips0".to_owned());
        let lab = Lab::start(Settings { vip_interface, resync_secs: 3600, ..Settings::default() });
        lab.want(&["198.51.100.1"], &[("10.1.0.0/24", NODE4)]);
        lab.until("named", |status| {
            status.error.as_deref() == Some("interface vips0 does not exist")
                && status.routes.iter().any(|route| route.state == RouteState::Installed)
        })
        .await;
        ip("link add vips0 type veth peer name vips1");
        lab.until_done(1, 1).await;
        assert!(ip("-o addr show dev vips0").contains("198.51.100.1/32"));
        lab.stop().await;
    });
}

#[test]
fn without_the_privilege_the_status_says_so() {
    in_namespace("without_the_privilege", || async {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        sets.permitted.remove(CapabilitySet::NET_ADMIN);
        sets.inheritable.remove(CapabilitySet::NET_ADMIN);
        rustix::thread::set_capabilities(None, sets).unwrap();
        let lab = Lab::start(Settings::default());
        lab.want(&["198.51.100.1"], &[("10.1.0.0/24", NODE4)]);
        let status = lab
            .until("denied", |status| {
                status.error.as_deref().is_some_and(|error| error.contains("CAP_NET_ADMIN"))
                    && !status.addresses.is_empty()
            })
            .await;
        assert_eq!(status.addresses[0].state, AddressState::Failing);
        assert_eq!(status.routes[0].state, RouteState::Failing);
        lab.stop().await;
    });
}

fn with_sources(sources: &[&str], source_linger_secs: u32) -> Settings {
    let sources = sources.iter().map(|text| text.parse().unwrap()).collect();
    Settings { sources, source_linger_secs, ..Settings::default() }
}

const SOURCES: [&str; 2] = ["198.51.100.77", "2001:db8:77::1"];

fn states(status: &Status) -> Vec<AddressState> {
    status.sources.iter().map(|source| source.state).collect()
}

fn is_bound(address: &str) -> bool {
    has_address(&format!("{address}/{}", if address.contains(':') { 128 } else { 32 }))
}

#[test]
fn sources_of_nat_are_bound_and_put_back_and_foreign_ones_left_alone() {
    in_namespace("sources_of_nat_are_bound", || async {
        let [v4, v6] = SOURCES;
        ip("addr add 198.51.100.99/32 dev edge0");
        let lab = Lab::start(with_sources(&[v4, v6, "198.51.100.99"], 3600));
        let all = |status: &Status| {
            states(status) == [AddressState::Bound, AddressState::Foreign, AddressState::Bound]
        };
        lab.until("bound", all).await;
        assert!(is_bound(v4) && is_bound(v6));
        // No VIP by that, of which the core is told.
        lab.want(&["198.51.100.1"], &[]);
        lab.until_done(1, 0).await;
        ip(&format!("addr del {v4}/32 dev lo"));
        eventually("put back", || is_bound(v4)).await;
        let off = Settings { sources: vec![], source_linger_secs: 0, ..Settings::default() };
        lab.handle.reconfigure(off).unwrap();
        eventually("let go", || !is_bound(v4) && !is_bound(v6)).await;
        assert!(is_bound("198.51.100.99") && is_bound("198.51.100.1"));
        lab.until("forgotten", |status| status.sources.is_empty()).await;
        lab.stop().await;
    });
}

#[test]
fn a_source_that_leaves_the_configuration_stays_until_flows_have_ended_also_over_a_restart() {
    in_namespace("a_source_that_leaves_the_configuration_stays", || async {
        let [v4, v6] = SOURCES;
        let lab = Lab::start(with_sources(&[v4, v6], 3600));
        lab.until("bound", |status| states(status) == [AddressState::Bound; 2]).await;
        lab.handle.reconfigure(with_sources(&[v6], 3600)).unwrap();
        let lingers =
            |status: &Status| states(status) == [AddressState::Lingering, AddressState::Bound];
        lab.until("lingering", lingers).await;
        lab.stop().await;
        assert!(is_bound(v4) && is_bound(v6));
        // The next daemon finds both, of which it is told of one. Its sources have settled.
        let lab = Lab::start(with_sources(&[v6], 3600));
        lab.want(&["198.51.100.1"], &[]);
        lab.until_done(1, 0).await;
        let status = lab.until("still lingering", lingers).await;
        assert!(status.sources[0].reason.as_deref().unwrap().contains("not configured any more"));
        // One that comes back is as before.
        lab.handle.reconfigure(with_sources(&[v4, v6], 3600)).unwrap();
        lab.until("back", |status| states(status) == [AddressState::Bound; 2]).await;
        lab.handle.reconfigure(with_sources(&[v6], 1)).unwrap();
        eventually("let go when the time is over", || !is_bound(v4)).await;
        assert!(is_bound(v6));
        lab.stop().await;
        // A stop takes VIPs back, and sources only the end of the host's service.
        let vips = Cleanup { addresses: true, sources: false, routes: false, remembered: None };
        assert_eq!(cleanup(&vips).await.unwrap(), Removed { addresses: 1, routes: 0 });
        assert!(is_bound(v6));
        let all = Cleanup { sources: true, ..vips };
        assert_eq!(cleanup(&all).await.unwrap(), Removed { addresses: 1, routes: 0 });
        assert!(!is_bound(v6));
    });
}
