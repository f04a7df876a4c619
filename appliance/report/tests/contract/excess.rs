//! What the server accepts and makes no sense: it costs a bounded amount and one reason each.

use serde_json::{Value, json};

use super::world::World;

pub(crate) async fn thousands_of_ports_are_bounded_with_one_reason(world: &World) {
    let ports: Vec<Value> =
        (1..=3000).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
    world.create("ports-many", json!({"ports": ports}), json!({})).await;
    let notes = world.told("ports-many", &["TooManyPorts"]).await;
    assert!(notes[0].contains("3000") && notes[0].contains("1024"), "{notes:?}");
    let served = |services: &[&_]| (services.len() == 1024).then_some(());
    world.served("ports-many", "1024 ports", served).await;
    world.status("ports-many", |ingress| ingress[0]["ports"].is_null().then_some(())).await;
    world.delete("ports-many").await;
    world.nothing_left("ports-many", &Default::default()).await;
}

pub(crate) async fn endpoints_without_end_are_bounded_with_one_reason(world: &World) {
    world.create("endless", json!({}), json!({})).await;
    for slice in 0..18_u32 {
        let endpoints: Vec<Value> = (0..1000_u32)
            .map(|n| json!({"addresses": [std::net::Ipv4Addr::from(0x0a10_0000 + slice * 1000 + n)]}))
            .collect();
        let name = format!("endless-{slice:02}");
        world.slice("endless", &name, json!({"endpoints": endpoints})).await;
    }
    world.told("endless", &["TooManyBackends"]).await;
    world
        .served("endless", "as many as are used", |services| {
            let [service] = services else { return None };
            let backends = &service.backends.backends;
            // The first by the slices' names, whatever came first.
            let last = backends.last()?.address.ip().to_string();
            (backends.len() == 16_384 && last == "10.16.63.255").then_some(())
        })
        .await;
    world.delete("endless").await;
    world.nothing_left("endless", &Default::default()).await;
}

pub(crate) async fn huge_annotations_are_refused_with_one_reason_each(world: &World) {
    // All annotations together may have 256 KiB.
    let long = "192.0.2.1,".repeat(26_000);
    world.create("huge", json!({}), json!({"haflinger.dev/address": long})).await;
    world.addresses("huge", 1).await;
    let notes = world.told("huge", &["InvalidAnnotation"]).await;
    assert!(notes[0].contains("haflinger.dev/address") && notes[0].len() < 300, "{notes:?}");
    world.delete("huge").await;
}

pub(crate) async fn names_instead_of_addresses_are_refused_with_one_reason_each(world: &World) {
    world.create("names", json!({"loadBalancerIP": "lb.example.com"}), json!({})).await;
    world.addresses("names", 1).await;
    for slice in ["names-1", "names-2"] {
        let fields =
            json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.example.com"]}]});
        world.slice("names", slice, fields).await;
    }
    let reasons = ["InvalidEndpointSlice", "InvalidEndpointSlice", "InvalidField"];
    let notes = world.told("names", &reasons).await;
    assert!(notes[0].contains("names-1") && notes[0].contains("FQDN"), "{notes:?}");
    assert!(notes[2].contains("spec.loadBalancerIP") && notes[2].contains("lb.example.com"));
    world.delete("names").await;
}

pub(crate) async fn a_port_by_name_without_a_number_is_refused_with_one_reason(world: &World) {
    world.create("numberless", json!({}), json!({})).await;
    let endpoints = json!([{"addresses": ["10.7.5.1"]}]);
    let fields = json!({"ports": [{"name": "web"}], "endpoints": endpoints});
    world.slice("numberless", "numberless-1", fields).await;
    let notes = world.told("numberless", &["InvalidEndpointSlice", "PortUnmatched"]).await;
    assert!(notes[0].contains("ports[0].port"), "{notes:?}");
    let good = json!({"endpoints": endpoints});
    world.slice("numberless", "numberless-2", good).await;
    let available = |services: &[&haflinger_core::Service]| {
        services.first()?.backends.is_available().then_some(())
    };
    world.served("numberless", "the other slice to serve", available).await;
    world.delete("numberless").await;
}
