//! Pools, sharing keys, and what other products' annotations ask for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::world::{CHOOSY_POOL, V4_POOL, World, service};

fn dual() -> Value {
    json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4"]})
}

fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn web(port: u16) -> Value {
    json!({"ports": [{"name": "web", "port": port}]})
}

pub(crate) async fn a_pair_is_had_by_annotations_of_every_product(world: &World) {
    let names = [
        "haflinger.dev/address",
        "metallb.io/loadBalancerIPs",
        "metallb.universe.tf/loadBalancerIPs",
        "lbipam.cilium.io/ips",
        "io.cilium/lb-ipam-ips",
        "kube-vip.io/loadbalancerIPs",
    ];
    for (at, annotation) in names.into_iter().enumerate() {
        let v4 = format!("198.51.100.{}", 240 + at);
        let name = format!("pair-{at}");
        world.create(&name, json!({}), json!({annotation: v4})).await;
        assert_eq!(world.addresses(&name, 1).await, ips(&[&v4]), "{annotation}");
        let followed = world.reported(&name, "a report", |r| Some(r.followed.clone())).await;
        let theirs: Vec<&str> = followed.iter().map(|name| &**name).collect();
        let expected: &[&str] = if at == 0 { &[] } else { &[annotation] };
        assert_eq!(theirs, expected);
        world.delete(&name).await;
    }
    // Where the cluster has both families, the pair is served; where it has one, one is told.
    let pair = json!({"haflinger.dev/address": "198.51.100.239,2001:db8:51::39"});
    world.create("pair", dual(), pair).await;
    let families = world.read("pair").await["spec"]["ipFamilies"].as_array().unwrap().len();
    let expected = ips(&["198.51.100.239", "2001:db8:51::39"][..families]);
    assert_eq!(world.addresses("pair", families).await, expected);
    if families == 1 {
        world.told("pair", &["InvalidAnnotation"]).await;
    }
    world.delete("pair").await;
}

pub(crate) async fn one_key_puts_services_on_one_address_while_their_ports_differ(world: &World) {
    let key = json!({"metallb.io/allow-shared-ip": "shared"});
    world.create("share-a", web(80), key.clone()).await;
    let first = world.addresses("share-a", 1).await;
    world.create("share-b", web(443), key.clone()).await;
    assert_eq!(world.addresses("share-b", 1).await, first);
    world.create("share-c", web(80), key).await;
    assert_ne!(world.addresses("share-c", 1).await, first);
    // The address stays while one of them is there.
    world.delete("share-a").await;
    world.nothing_left("share-a", &BTreeSet::new()).await;
    assert_eq!(world.addresses("share-b", 1).await, first);
    world.delete("share-b").await;
    world.nothing_left("share-b", &first).await;
    world.delete("share-c").await;
}

pub(crate) async fn who_may_not_share_is_told_why(world: &World) {
    let at = |key: &str| json!({"haflinger.dev/address": "198.51.100.230", "haflinger.dev/sharing-key": key});
    world.create("holder", web(80), at("one")).await;
    world.addresses("holder", 1).await;
    world.create("other-key", web(81), at("two")).await;
    world.create("same-port", web(80), at("one")).await;
    let mut local = web(82);
    local["externalTrafficPolicy"] = "Local".into();
    world.create("share-local", local, at("one")).await;
    for (name, reasons, words) in [
        ("other-key", &["AddressTaken"][..], "sharing key"),
        ("same-port", &["PortTaken"], "80/tcp"),
        ("share-local", &["AddressTaken"], "externalTrafficPolicy"),
    ] {
        let notes = world.told(name, reasons).await;
        assert!(notes[0].contains(words) && notes[0].contains("holder"), "{notes:?}");
        world.delete(name).await;
    }
    world.delete("holder").await;
}

pub(crate) async fn a_pool_chooses_by_labels_of_object_and_namespace(world: &World) {
    let gold = |name: &str| {
        let mut object = service(name, json!({}), json!({}));
        object["metadata"]["labels"] = json!({"hf-tier": "gold"});
        object
    };
    // Of 192.0.2.254 to 192.0.3.1 two are left.
    let mut had = BTreeSet::new();
    for name in ["gold-1", "gold-2"] {
        world.try_create::<k8s_openapi::api::core::v1::Service>(gold(name)).await.unwrap();
        had.extend(world.addresses(name, 1).await);
    }
    assert_eq!(had, ips(&["192.0.2.254", "192.0.3.1"]));
    world.create("plain", json!({}), json!({"haflinger.dev/pool": CHOOSY_POOL})).await;
    let notes = world.told("plain", &["PoolForbidden"]).await;
    assert!(notes[0].contains(CHOOSY_POOL), "{notes:?}");
    // The label that it lacked.
    world.delete("gold-1").await;
    world.patch("plain", json!({"metadata": {"labels": {"hf-tier": "gold"}}})).await;
    assert!(had.is_superset(&world.addresses("plain", 1).await));
    for name in ["gold-2", "plain"] {
        world.delete(name).await;
    }
}

pub(crate) async fn a_service_that_comes_back_finds_its_address(world: &World) {
    world.create("back", json!({}), json!({})).await;
    let before = world.addresses("back", 1).await;
    world.delete("back").await;
    world.nothing_left("back", &before).await;
    world.create("back", json!({}), json!({})).await;
    assert_eq!(world.addresses("back", 1).await, before);
    world.delete("back").await;
}

pub(crate) async fn another_pool_moves_the_address_once_the_status_says_so(world: &World) {
    world.create("moving", json!({}), json!({})).await;
    let before = world.addresses("moving", 1).await;
    let asks = json!({"metadata": {"annotations": {"metallb.io/address-pool": V4_POOL}}});
    world.patch("moving", asks).await;
    let after = world
        .served("moving", "the other pool", |services| {
            let vips: BTreeSet<IpAddr> = services.iter().map(|s| s.key.vip).collect();
            (vips.len() == 1 && vips != before).then_some(vips)
        })
        .await;
    assert!(after.iter().all(|address| address.to_string().starts_with("203.0.113.")));
    world.delete("moving").await;
}
