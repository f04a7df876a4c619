//! Which pods are used, as the controllers of the cluster tell them.

use haflinger_core::{BackendState, Service as Served, StateReason};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use super::world::{HERE, World};

/// Names of the backends of one service in one state.
fn named(services: &[&Served], state: BackendState) -> Vec<String> {
    let backends = services.iter().flat_map(|service| &service.backends.backends);
    let mut names: Vec<String> =
        backends.filter(|b| b.state == state).map(|b| b.name.to_string()).collect();
    names.sort();
    names
}

async fn until_active(world: &World, service: &str, wanted: &[&str]) {
    world
        .served(service, &format!("{wanted:?} as the pods of {service}"), |services| {
            (named(services, BackendState::Active) == wanted).then_some(())
        })
        .await;
}

pub(crate) async fn target_ports_are_found_by_name_and_by_number(world: &World) {
    let fields = json!({"selector": {"app": "ports"}, "ports": [
        {"name": "named", "port": 80, "targetPort": "web"},
        {"name": "numbered", "port": 81, "targetPort": 9090},
    ]});
    world.create("ports", fields, json!({})).await;
    world.node(HERE).await;
    // One name, two numbers: each in a slice of its own.
    world.pod("ports-1", "ports", HERE, "10.7.1.1", 8080).await;
    world.pod("ports-2", "ports", HERE, "10.7.1.2", 8081).await;
    let wanted = [
        (80, "10.7.1.1:8080"),
        (80, "10.7.1.2:8081"),
        (81, "10.7.1.1:9090"),
        (81, "10.7.1.2:9090"),
    ];
    world
        .served("ports", "both ports of both pods", |services| {
            let mut found: Vec<(u16, String)> = Vec::new();
            for service in services {
                let active = service.backends.active();
                found.extend(active.map(|b| (service.key.port, b.address.to_string())));
            }
            found.sort();
            found.iter().map(|(port, at)| (*port, at.as_str())).eq(wanted).then_some(())
        })
        .await;
    world.delete("ports").await;
}

pub(crate) async fn pods_of_the_zone_are_preferred_while_there_are_any(world: &World) {
    world.node(HERE).await;
    world.node("there").await;
    world.pod("zone-here", "zone", HERE, "10.7.2.1", 8080).await;
    world.pod("zone-there", "zone", "there", "10.7.2.2", 8080).await;
    let fields = json!({
        "selector": {"app": "zone"}, "trafficDistribution": "PreferSameZone",
        "ports": [{"name": "web", "port": 80, "targetPort": "web"}],
    });
    world.create("zone", fields, json!({})).await;
    until_active(world, "zone", &["zone-here"]).await;
    world
        .served("zone", "the other one to stand by", |services| {
            let other =
                services.first()?.backends.backends.iter().find(|b| &*b.name == "zone-there");
            (other?.reasons == [StateReason::OtherZone]).then_some(())
        })
        .await;
    for (ready, wanted) in [(false, "zone-there"), (true, "zone-here")] {
        world.pod_status("zone-here", "10.7.2.1", ready).await;
        until_active(world, "zone", &[wanted]).await;
    }
    world.patch("zone", json!({"spec": {"trafficDistribution": null}})).await;
    until_active(world, "zone", &["zone-here", "zone-there"]).await;
    for words in ["PreferClose", "PreferSameNode"] {
        world.patch("zone", json!({"spec": {"trafficDistribution": words}})).await;
        until_active(world, "zone", &["zone-here"]).await;
        world.patch("zone", json!({"spec": {"trafficDistribution": null}})).await;
        until_active(world, "zone", &["zone-here", "zone-there"]).await;
    }
    world.delete("zone").await;
}

pub(crate) async fn the_last_pod_serves_until_it_is_gone(world: &World) {
    world.node(HERE).await;
    world.pod("last-1", "last", HERE, "10.7.3.1", 8080).await;
    world.pod("last-2", "last", HERE, "10.7.3.2", 8080).await;
    let fields = json!({
        "selector": {"app": "last"},
        "ports": [{"name": "web", "port": 80, "targetPort": "web"}],
    });
    world.create("last", fields, json!({})).await;
    until_active(world, "last", &["last-1", "last-2"]).await;
    let pods: Api<Pod> = world.api();
    pods.delete("last-1", &DeleteParams::default()).await.unwrap();
    world
        .served("last", "the first to drain", |services| {
            let draining = named(services, BackendState::Draining) == ["last-1"];
            (draining && named(services, BackendState::Active) == ["last-2"]).then_some(())
        })
        .await;
    pods.delete("last-2", &DeleteParams::default()).await.unwrap();
    // Both terminate, and both still serve: better than nobody.
    until_active(world, "last", &["last-1", "last-2"]).await;
    world.pod_status("last-1", "10.7.3.1", false).await;
    until_active(world, "last", &["last-2"]).await;
    pods.delete("last-2", &DeleteParams::default().grace_period(0)).await.unwrap();
    until_active(world, "last", &[]).await;
    world.delete("last").await;
}
