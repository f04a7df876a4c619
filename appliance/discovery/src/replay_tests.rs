//! Streams of events through the feed and the index: whatever their order, repetition and
//! interruption, the snapshot is that of a fresh list.

use std::collections::BTreeMap;

use haflinger_core::forwarding::TableView;
use haflinger_core::index::Index;
use haflinger_core::{BackendSet, Policy, Pool, Service, Snapshot, SourceUpdate};
use prometheus::Registry;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::metrics::Metrics;
use crate::settings::DeletionLimits;
use crate::translate::update::translate_object;

/// An object that may exist: its kind and its number.
type Name = (Watched, u8);

/// The objects there are, with the variant that each is in.
type World = BTreeMap<Name, u8>;

fn cluster() -> ClusterSettings {
    ClusterSettings {
        name: "c".into(),
        kubeconfig: "kubeconfig".into(),
        context: None,
        claim_unclassed: false,
        ingress_class: "haflinger".into(),
        deletions: DeletionLimits { percent_max: 100, ..DeletionLimits::default() },
        labels: Default::default(),
        pod_routes: Vec::new(),
        readiness_gate: false,
    }
}

/// What the API says of an object. Two slices belong to each service; variants of a slice have
/// other pods, and one belongs to another service.
fn update((watched, number): Name, variant: u8) -> SourceUpdate {
    let object = match watched {
        Watched::Services => json!({
            "metadata": {"name": format!("s{number}"), "namespace": "n"},
            "spec": {"type": "LoadBalancer", "loadBalancerClass": "haflinger.dev/edge",
                     "publishNotReadyAddresses": variant == 1,
                     "ports": [{"port": 80 + i64::from(variant / 2)}]},
            "status": {"loadBalancer": {"ingress": [{"ip": format!("192.0.2.{number}")}]}},
        }),
        Watched::Slices => {
            let owner = if variant == 3 { (number / 2 + 1) % 3 } else { number / 2 };
            let pods = (0..=variant).map(|pod| {
                let address = format!("10.{number}.{variant}.{}", pod + 1);
                json!({"addresses": [address], "conditions": {"ready": pod != 1}})
            });
            json!({
                "metadata": {"name": format!("e{number}"), "namespace": "n",
                             "labels": {"kubernetes.io/service-name": format!("s{owner}")}},
                "addressType": "IPv4", "endpoints": pods.collect::<Vec<_>>(),
                "ports": [{"port": 8080}],
            })
        }
        _ => json!({
            "metadata": {"name": format!("n{number}")},
            "spec": {"podCIDRs": [format!("10.{variant}.0.0/16")]},
            "status": {"addresses": [{"type": "InternalIP",
                                      "address": format!("172.16.0.{number}")}]},
        }),
    };
    translate_object(watched, object.to_string().as_bytes(), &cluster()).unwrap().unwrap()
}

/// A feed with its index behind it.
struct Bench {
    heard: mpsc::Sender<Heard>,
    feed: tokio::task::JoinHandle<()>,
    updates: mpsc::Receiver<Update>,
}

impl Bench {
    fn start() -> Self {
        let source = SourceId::cluster("c");
        let board = Board::new(&source, &Metrics::register(&Registry::new()).unwrap());
        let (heard, receiver) = mpsc::channel(HEARD_MAX);
        // Nobody reads before the end.
        let (sender, updates) = mpsc::channel(1 << 16);
        let settings = Some(watch::channel(cluster()).1);
        let orders = mpsc::channel(1).1;
        let relists = watch::channel(Relists::default()).0;
        let stop = CancellationToken::new();
        let reins = Reins { settings, relists, orders, stop };
        let feed = Feed::new(source, &Watched::ALL, sender, board, reins);
        Self { heard, feed: tokio::spawn(feed.run(receiver)), updates }
    }

    async fn hear(&self, heard: Heard) {
        self.heard.send(heard).await.unwrap();
    }

    async fn apply(&self, name: Name, variant: u8) {
        let update = update(name, variant);
        self.hear(Heard::Object(Key::of(&update), Some(update))).await;
    }

    async fn delete(&self, name: Name) {
        self.hear(Heard::Gone(Key::of(&update(name, 0)))).await;
    }

    /// Lists the objects of every kind, the last first if `reverse`; without their ends if `cut`.
    async fn list(&self, world: &World, reverse: bool, cut: bool) {
        for watched in Watched::ALL {
            self.hear(Heard::ListBegan(watched)).await;
            let mut objects: Vec<_> =
                world.iter().filter(|((kind, _), _)| *kind == watched).collect();
            if reverse {
                objects.reverse();
            }
            for (name, variant) in objects {
                self.apply(*name, *variant).await;
            }
            if !cut {
                self.hear(Heard::ListEnded(watched)).await;
            }
        }
    }

    /// Everything that the core was told, as a snapshot, published after every so many updates.
    async fn end(mut self, batch: usize) -> Snapshot {
        drop(self.heard);
        self.feed.await.unwrap();
        let mut index = Index::new();
        index.apply(Update::Policy(std::sync::Arc::new(Policy {
            sources: vec![SourceId::cluster("c")],
            pools: vec![Pool::new("all", vec![([192, 0, 2, 0].into(), [192, 0, 2, 255].into())])],
            ..Policy::default()
        })));
        let mut applied = 0;
        while let Ok(update) = self.updates.try_recv() {
            index.apply(update);
            applied += 1;
            if applied % batch == 0 {
                index.publish(applied as u64);
            }
        }
        index.publish(u64::MAX);
        index.current().clone()
    }
}

/// A snapshot without what is history: generations, and which bucket has which backend.
fn content(snapshot: &Snapshot) -> String {
    let targets: Vec<_> = snapshot
        .targets
        .iter()
        .map(|(target, set)| {
            let members: Vec<_> = set.table.shares().into_keys().collect();
            format!("{target:?} {:?} {members:?}", set.backends)
        })
        .collect();
    let services: Vec<_> = snapshot
        .services
        .values()
        .map(|service| {
            let target = service.backends.target.clone();
            let (backends, table) = (Vec::new(), TableView::empty());
            let backends = std::sync::Arc::new(BackendSet { target, backends, table });
            format!("{:?}", Service { backends, ..(**service).clone() })
        })
        .collect();
    format!(
        "{} {targets:#?} {services:#?} {:?} {:?} {:?} {:?} {:?} {:?}",
        snapshot.complete,
        snapshot.http,
        snapshot.vips,
        snapshot.pod_routes,
        snapshot.hostnames,
        snapshot.reports,
        snapshot.probes,
    )
}

#[derive(Clone, Debug)]
enum Happening {
    /// An object is made or changed.
    Set(Name, u8),
    Deleted(Name),
}

/// What a watch does with what happens.
#[derive(Clone, Debug)]
enum Hitch {
    /// It goes on.
    None,
    /// It is resumed so many events earlier, and says these once more.
    Resumed(usize),
    /// Its position is gone (410): a list follows, as of so many events earlier, from where the
    /// watch goes on.
    Lost(usize),
    /// The same, and the list is cut short first.
    Cut(usize),
}

fn name() -> impl Strategy<Value = Name> {
    prop_oneof![
        2 => (0u8..3).prop_map(|number| (Watched::Services, number)),
        4 => (0u8..6).prop_map(|number| (Watched::Slices, number)),
        1 => (0u8..3).prop_map(|number| (Watched::Nodes, number)),
    ]
}

fn happenings() -> impl Strategy<Value = Vec<(Happening, Hitch)>> {
    let happening = prop_oneof![
        3 => (name(), 0u8..4).prop_map(|(name, variant)| Happening::Set(name, variant)),
        1 => name().prop_map(Happening::Deleted),
    ];
    let hitch = prop_oneof![
        8 => Just(Hitch::None),
        1 => (0usize..12).prop_map(Hitch::Resumed),
        1 => (0usize..12).prop_map(Hitch::Lost),
        1 => (0usize..12).prop_map(Hitch::Cut),
    ];
    prop::collection::vec((happening, hitch), 0..60)
}

fn happen(world: &mut World, happening: &Happening) {
    match happening {
        Happening::Set(name, variant) => world.insert(*name, *variant),
        Happening::Deleted(name) => world.remove(name),
    };
}

async fn say(bench: &Bench, happening: &Happening) {
    match happening {
        Happening::Set(name, variant) => bench.apply(*name, *variant).await,
        Happening::Deleted(name) => bench.delete(*name).await,
    }
}

/// The kinds' watches run beside each other: what happens to one kind is heard in order, and
/// between them in any order.
fn interleaved(mut events: Vec<Happening>, seed: u64) -> Vec<Happening> {
    let kind = |event: &Happening| match event {
        Happening::Set((kind, _), _) | Happening::Deleted((kind, _)) => *kind,
    };
    let mut state = seed | 1;
    for at in (1..events.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if state >> 63 == 1 && kind(&events[at]) != kind(&events[at - 1]) {
            events.swap(at, at - 1);
        }
    }
    events
}

async fn replayed(happenings: &[(Happening, Hitch)], seed: u64, batch: usize) -> String {
    let bench = Bench::start();
    bench.list(&World::new(), false, false).await;
    let mut pending = Vec::new();
    for (at, (happening, hitch)) in happenings.iter().enumerate() {
        pending.push(happening.clone());
        let (back, relist, cut) = match hitch {
            Hitch::None => continue,
            Hitch::Resumed(back) => (*back, false, false),
            Hitch::Lost(back) => (*back, true, false),
            Hitch::Cut(back) => (*back, true, true),
        };
        for event in interleaved(std::mem::take(&mut pending), seed) {
            say(&bench, &event).await;
        }
        let from = (at + 1).saturating_sub(back);
        if relist {
            let mut world = World::new();
            happenings[..from].iter().for_each(|(event, _)| happen(&mut world, event));
            if cut {
                bench.list(&world, false, true).await;
            }
            bench.list(&world, seed.is_multiple_of(2), false).await;
        }
        for (event, _) in &happenings[from..=at] {
            say(&bench, event).await;
        }
    }
    for event in interleaved(pending, seed) {
        say(&bench, &event).await;
    }
    content(&bench.end(batch).await)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_stream_ends_in_the_snapshot_of_a_fresh_list(
        happenings in happenings(),
        seed in any::<u64>(),
        batch in 1usize..20,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let replayed = replayed(&happenings, seed, batch).await;
            let mut world = World::new();
            happenings.iter().for_each(|(event, _)| happen(&mut world, event));
            let fresh = Bench::start();
            fresh.list(&world, false, false).await;
            prop_assert_eq!(replayed, content(&fresh.end(usize::MAX).await));
            Ok(())
        })?;
    }
}
