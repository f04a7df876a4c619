//! What a change costs follows the change and not the world; what the world costs is bounded.
//!
//! Counted in bytes and calls of the allocator, which are the same on every machine. Claims:
//! 1. A changed EndpointSlice allocates the same among ten services and among thousands, but for
//!    the depth of the snapshot's trees.
//! 2. It marks no other service.
//! 3. A service with five backends costs no more than some kilobytes, all copies together.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use haflinger_core::index::Index;
use haflinger_core::{Policy, Pool, Snapshot, SourceId, Update};
use haflinger_discovery::{ClusterSettings, DeletionLimits, LabelKeys, Watched, translate_object};
use imbl::ordmap::DiffItem;
use serde_json::{Value, json};

/// Counts what each thread allocates.
struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
    static HELD: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        BYTES.set(BYTES.get() + layout.size());
        HELD.set(HELD.get() + layout.size().cast_signed());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - layout.size().cast_signed());
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls and bytes that `work` allocates.
fn counted<T>(work: impl FnOnce() -> T) -> (usize, usize, T) {
    let before = (CALLS.get(), BYTES.get());
    let done = work();
    (CALLS.get() - before.0, BYTES.get() - before.1, done)
}

fn cluster() -> ClusterSettings {
    ClusterSettings {
        name: "c".into(),
        kubeconfig: "kubeconfig".into(),
        context: None,
        claim_unclassed: false,
        ingress_class: "haflinger".into(),
        deletions: DeletionLimits::default(),
        labels: LabelKeys::default(),
        pod_routes: Vec::new(),
        readiness_gate: false,
    }
}

fn service(number: u32) -> Value {
    let vip = std::net::Ipv4Addr::from(0xc612_0000 + number);
    json!({
        "metadata": {"name": format!("service-{number}"), "namespace": "team",
                     "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"type": "LoadBalancer", "loadBalancerClass": "haflinger.dev/edge",
                 "ipFamilies": ["IPv4"],
                 "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
        "status": {"loadBalancer": {"ingress": [{"ip": vip.to_string(), "ipMode": "Proxy"}]}},
    })
}

/// The service's slice, whose first pod is the given one.
fn slice(number: u32, first: u32) -> Value {
    let endpoint = |address: u32| {
        let node = address % 500;
        json!({"addresses": [std::net::Ipv4Addr::from(address).to_string()],
               "conditions": {"ready": true, "serving": true, "terminating": false},
               "targetRef": {"kind": "Pod", "name": format!("service-{number}-5d9c7b8f6-{address:x}")},
               "nodeName": format!("node-{node}"), "zone": format!("zone-{}", node % 3)})
    };
    let others = (1..5).map(|pod| 0x0a80_0000 + number * 5 + pod);
    let endpoints: Vec<Value> = std::iter::once(first).chain(others).map(endpoint).collect();
    json!({
        "metadata": {"name": format!("service-{number}-x7kq"), "namespace": "team",
                     "labels": {"kubernetes.io/service-name": format!("service-{number}")}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

fn tell(index: &mut Index, watched: Watched, object: &Value) {
    let object = object.to_string();
    let update = translate_object(watched, object.as_bytes(), &cluster()).unwrap().unwrap();
    index.apply(Update::Source(update));
}

/// An index with so many services, and what it holds in bytes.
fn world(services: u32) -> (Index, usize) {
    let before = HELD.get();
    let mut index = Index::new();
    index.apply(Update::Policy(Arc::new(Policy {
        sources: vec![SourceId::cluster("c")],
        pools: vec![Pool::new("all", vec![([198, 18, 0, 0].into(), [198, 19, 255, 255].into())])],
        xdp: true,
        ..Policy::default()
    })));
    for number in 0..services {
        tell(&mut index, Watched::Services, &service(number));
        tell(&mut index, Watched::Slices, &slice(number, 0x0a80_0000 + number * 5));
    }
    index.apply(Update::Synced(SourceId::cluster("c")));
    let first = index.publish(0).unwrap();
    assert_eq!(first.services.len(), services as usize);
    drop(first);
    (index, usize::try_from(HELD.get() - before).unwrap())
}

/// Replaces one pod; calls and bytes, and both snapshots.
fn change(index: &mut Index, now_secs: u64) -> (usize, usize, Snapshot, Arc<Snapshot>) {
    let before = index.current().clone();
    let changed = slice(7, 0x0ac0_0000 + u32::try_from(now_secs).unwrap());
    let object = changed.to_string();
    let (calls, bytes, after) = counted(|| {
        let update = translate_object(Watched::Slices, object.as_bytes(), &cluster());
        index.apply(Update::Source(update.unwrap().unwrap()));
        index.publish(now_secs).unwrap()
    });
    (calls, bytes, before, after)
}

#[test]
fn a_changed_slice_costs_the_same_among_ten_services_and_among_thousands() {
    let cost = |services| {
        let (mut index, _) = world(services);
        // The first change of a table makes its history.
        change(&mut index, 1);
        let (calls, bytes, ..) = change(&mut index, 2);
        (calls, bytes)
    };
    let (few_calls, few_bytes) = cost(10);
    let (many_calls, many_bytes) = cost(5000);
    // Three persistent maps change; each has at most two levels more, whose nodes are copied.
    assert!(many_calls <= few_calls + 16, "{few_calls} calls, then {many_calls}");
    assert!(many_bytes <= few_bytes + 16_384, "{few_bytes} bytes, then {many_bytes}");
}

#[test]
fn a_changed_slice_touches_its_service_alone() {
    let (mut index, _) = world(2000);
    let (.., before, after) = change(&mut index, 1);
    let services: Vec<_> = before.services.diff(&after.services).collect();
    let targets: Vec<_> = before.targets.diff(&after.targets).collect();
    assert!(matches!(services[..], [DiffItem::Update { .. }]), "{} services", services.len());
    assert!(matches!(targets[..], [DiffItem::Update { .. }]), "{} targets", targets.len());
    assert_eq!(before.vips.diff(&after.vips).count(), 0);
    assert_eq!(before.reports.diff(&after.reports).count(), 0);
    assert_eq!(before.hostnames.diff(&after.hostnames).count(), 0);
}

/// Beside what the relay or XDP, ledger and state file keep of it, 50,000 such services are to stay
/// below 500 MB.
const BYTES_EACH_MAX: usize = 5_632;

/// A table that has changed has its own buckets and remembers when.
const CHANGED_BYTES_EACH_MAX: usize = BYTES_EACH_MAX + 2_560;

#[test]
fn a_small_service_costs_some_kilobytes_also_when_all_have_changed() {
    const SERVICES: u32 = 1000;
    let (mut index, fresh) = world(SERVICES);
    assert!(fresh / (SERVICES as usize) < BYTES_EACH_MAX, "{fresh} bytes for {SERVICES}");
    let before = HELD.get();
    for number in 0..SERVICES {
        tell(&mut index, Watched::Slices, &slice(number, 0x0ac0_0000 + number));
    }
    drop(index.publish(1));
    let more = usize::try_from(HELD.get() - before).unwrap();
    let changed = fresh + more;
    assert!(changed / (SERVICES as usize) < CHANGED_BYTES_EACH_MAX, "{changed} bytes");
}
