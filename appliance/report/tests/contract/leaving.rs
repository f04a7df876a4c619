//! A Service that stops asking for something leaves nothing of it behind.

use std::collections::BTreeSet;
use std::net::IpAddr;

use haflinger_core::ForwardingMode;
use serde_json::json;

use super::world::World;

/// A Service that asks for everything, served, named and checked; its addresses.
async fn everything(world: &World, name: &str) -> BTreeSet<IpAddr> {
    let annotations = json!({
        "haflinger.dev/hostname": format!("{name}.example.com"),
        "haflinger.dev/health-check": "tcp",
        "haflinger.dev/mode": "proxy",
    });
    world.create(name, json!({"ipFamilyPolicy": "RequireDualStack"}), annotations).await;
    world
        .slice(name, &format!("{name}-1"), json!({"endpoints": [{"addresses": ["10.7.4.1"]}]}))
        .await;
    let addresses = world.addresses(name, 2).await;
    let hostname = format!("{name}.example.com");
    let object = world.of(name);
    world
        .until("name, probe and announced addresses", |snapshot| {
            let named = snapshot.hostnames.contains_key(&*hostname);
            let probed = snapshot.probes.keys().any(|probe| probe.object == object);
            let held = addresses.iter().all(|address| snapshot.vips.contains_key(address));
            (named && probed && held).then_some(())
        })
        .await;
    addresses
}

/// Another Service can have the addresses at once.
async fn free_again(world: &World, addresses: &BTreeSet<IpAddr>) {
    let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let asked = json!({"haflinger.dev/address": list.join(",")});
    world.create("heir", json!({"ipFamilyPolicy": "RequireDualStack"}), asked).await;
    assert_eq!(world.addresses("heir", 2).await, *addresses);
    world.delete("heir").await;
    world.nothing_left("heir", addresses).await;
}

pub(crate) async fn another_type_leaves_nothing(world: &World) {
    let addresses = everything(world, "type").await;
    world.patch("type", json!({"spec": {"type": "ClusterIP"}})).await;
    world.nothing_left("type", &addresses).await;
    world.status("type", |ingress| ingress.is_null().then_some(())).await;
    assert!(world.read("type").await["spec"]["loadBalancerClass"].is_null());
    free_again(world, &addresses).await;
    // As a Service of another class it is not ours, although its type is.
    let other = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/other"});
    world.patch("type", json!({"spec": other})).await;
    world.create("sign", json!({}), json!({})).await;
    world.addresses("sign", 1).await;
    world.nothing_left("type", &BTreeSet::new()).await;
    world.delete("sign").await;
    world.delete("type").await;
}

pub(crate) async fn other_ports_leave_nothing_of_the_old_ones(world: &World) {
    let addresses = everything(world, "moved").await;
    world.patch("moved", json!({"spec": {"ports": [{"name": "web", "port": 8443}]}})).await;
    let object = world.of("moved");
    world
        .until("the new port alone", |snapshot| {
            let services = snapshot.services.values().filter(|service| service.object == object);
            let keys: BTreeSet<_> = services.map(|s| (s.key.vip, s.key.port)).collect();
            let targets = snapshot.targets.keys().filter(|target| target.object == object);
            let old = targets.filter(|target| target.port != 8443).count();
            let wanted = addresses.iter().map(|vip| (*vip, 8443)).collect();
            (keys == wanted && old == 0).then_some(())
        })
        .await;
    world.delete("moved").await;
    world.nothing_left("moved", &addresses).await;
}

pub(crate) async fn lost_annotations_leave_nothing_but_the_address(world: &World) {
    let addresses = everything(world, "lost").await;
    let none = json!({
        "haflinger.dev/hostname": null, "haflinger.dev/health-check": null,
        "haflinger.dev/mode": null,
    });
    world.patch("lost", json!({"metadata": {"annotations": none}})).await;
    let object = world.of("lost");
    world
        .until("neither name nor probe", |snapshot| {
            let named = snapshot.hostnames.contains_key("lost.example.com");
            let probed = snapshot.probes.keys().any(|probe| probe.object == object);
            let mut services = snapshot.services.values().filter(|s| s.object == object);
            let asked = services.all(|s| s.asked_mode == ForwardingMode::Nat);
            (!named && !probed && asked).then_some(())
        })
        .await;
    assert_eq!(world.addresses("lost", 2).await, addresses);
    world.delete("lost").await;
    world.nothing_left("lost", &addresses).await;
}

pub(crate) async fn a_deleted_service_leaves_nothing(world: &World) {
    let addresses = everything(world, "deleted").await;
    world.delete("deleted").await;
    world.nothing_left("deleted", &addresses).await;
    free_again(world, &addresses).await;
}

pub(crate) async fn a_service_that_waits_for_its_deletion_leaves_nothing(world: &World) {
    // A cluster of which nothing is left was taken out of the configuration, and is left alone.
    world.create("stays", json!({}), json!({})).await;
    world.addresses("stays", 1).await;
    let addresses = everything(world, "waits").await;
    world.patch("waits", json!({"metadata": {"finalizers": ["example.com/waits"]}})).await;
    world.delete("waits").await;
    world.nothing_left("waits", &addresses).await;
    assert!(!world.read("waits").await["metadata"]["deletionTimestamp"].is_null());
    world.status("waits", |ingress| ingress.is_null().then_some(())).await;
    free_again(world, &addresses).await;
    world.patch("waits", json!({"metadata": {"finalizers": null}})).await;
    world.delete("stays").await;
}
