//! Fields of the Service itself.

use haflinger_core::{Algorithm, Family, FaultReason};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::world::{V4_POOL, World, service};

pub(crate) async fn a_service_of_our_class_gets_an_address_in_each_family(world: &World) {
    world.create("both", json!({"ipFamilyPolicy": "RequireDualStack"}), json!({})).await;
    let vips = world.addresses("both", 2).await;
    let families: Vec<Family> = vips.iter().map(|vip| Family::of(*vip)).collect();
    assert_eq!(families, [Family::V4, Family::V6]);
    let entries: Vec<Value> =
        vips.iter().map(|vip| json!({"ip": vip, "ipMode": "Proxy"})).collect();
    world.status("both", |ingress| (*ingress == json!(entries)).then_some(())).await;
    world.patch("both", json!({"metadata": {"annotations": {"haflinger.dev/mode": "dsr"}}})).await;
    let mode = |ingress: &Value| (ingress[0]["ipMode"] == "VIP").then_some(());
    world.status("both", mode).await;
    world.delete("both").await;
}

pub(crate) async fn the_class_cannot_be_changed_and_another_one_is_not_ours(world: &World) {
    world.create("ours", json!({}), json!({})).await;
    world.addresses("ours", 1).await;
    for class in [json!("example.com/other"), json!(null)] {
        let patch = json!({"spec": {"loadBalancerClass": class}});
        let patch = Patch::Merge(&patch);
        let refused = world.services.patch("ours", &PatchParams::default(), &patch).await;
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("loadBalancerClass"), "{message}");
    }
    let other = json!({"loadBalancerClass": "example.com/other"});
    world.create("theirs", other, json!({})).await;
    world.create("unclassed", json!({"loadBalancerClass": null}), json!({})).await;
    // Created after them, and so told after them.
    world.create("sign", json!({}), json!({})).await;
    world.addresses("sign", 1).await;
    for name in ["theirs", "unclassed"] {
        assert!(world.read(name).await["status"]["loadBalancer"]["ingress"].is_null(), "{name}");
        world.nothing_left(name, &Default::default()).await;
        world.delete(name).await;
    }
    world.delete("ours").await;
    world.delete("sign").await;
}

pub(crate) async fn a_preferred_family_without_a_pool_is_left_out_and_a_required_one_is_told(
    world: &World,
) {
    for (name, policy, reasons) in
        [("preferred", "PreferDualStack", &[][..]), ("required", "RequireDualStack", &["NoPool"])]
    {
        let pool = json!({"haflinger.dev/pool": V4_POOL});
        world.create(name, json!({"ipFamilyPolicy": policy}), pool).await;
        let families = world.read(name).await["spec"]["ipFamilies"].clone();
        assert_eq!(families.as_array().unwrap().len(), 2, "{families}");
        let vips = world.addresses(name, 1).await;
        assert!(vips.iter().all(|vip| vip.is_ipv4()), "{vips:?}");
        world.status(name, |ingress| (ingress.as_array()?.len() == 1).then_some(())).await;
        world.told(name, reasons).await;
        world.delete(name).await;
    }
}

pub(crate) async fn sctp_is_an_error_of_its_port_and_alone_gets_no_address(world: &World) {
    let web = json!({"name": "web", "port": 80, "protocol": "TCP"});
    let sctp = json!({"name": "calls", "port": 5060, "protocol": "SCTP"});
    world.create("mixed", json!({"ports": [web, sctp]}), json!({})).await;
    let vips = world.addresses("mixed", 1).await;
    let listed = json!([
        {"port": 80, "protocol": "TCP"},
        {"port": 5060, "protocol": "SCTP", "error": "haflinger.dev/UnsupportedProtocol"},
    ]);
    world.status("mixed", |ingress| (ingress[0]["ports"] == listed).then_some(())).await;
    let notes = world.told("mixed", &["UnsupportedProtocol"]).await;
    assert!(notes[0].contains("spec.ports[1].protocol") && notes[0].contains("SCTP"), "{notes:?}");

    world.patch("mixed", json!({"spec": {"ports": [web]}})).await;
    world.status("mixed", |ingress| ingress[0]["ports"].is_null().then_some(())).await;
    world.patch("mixed", json!({"spec": {"ports": [sctp]}})).await;
    world.status("mixed", |ingress| ingress.is_null().then_some(())).await;
    let object = world.of("mixed");
    world
        .until("nothing but a report", |snapshot| {
            let free = !vips.iter().any(|vip| snapshot.vips.contains_key(vip));
            let told = snapshot.reports.get(&object)?.faults.iter();
            let told = told.map(|fault| fault.reason);
            (free && told.eq([FaultReason::UnsupportedProtocol])).then_some(())
        })
        .await;
    world.delete("mixed").await;
}

pub(crate) async fn a_port_that_another_service_has_opened_is_not_in_the_way(world: &World) {
    // Each has an address of its own.
    world.create("one", json!({}), json!({})).await;
    world.create("other", json!({}), json!({})).await;
    let (one, other) = (world.addresses("one", 1).await, world.addresses("other", 1).await);
    assert!(one.is_disjoint(&other));
    world.delete("one").await;
    world.delete("other").await;
}

pub(crate) async fn local_gives_a_health_check_port_that_nobody_needs_and_is_told_in_mode_nat(
    world: &World,
) {
    let local = json!({"externalTrafficPolicy": "Local"});
    world.create("local", local.clone(), json!({})).await;
    assert!(world.read("local").await["spec"]["healthCheckNodePort"].is_number());
    world.addresses("local", 1).await;
    let notes = world.told("local", &["ClientAddressHidden"]).await;
    assert!(notes[0].contains("externalTrafficPolicy"), "{notes:?}");
    let routed = json!({"haflinger.dev/mode": "routed"});
    world.create("seen", local, routed).await;
    world.addresses("seen", 1).await;
    world.reported("seen", "no fault", |report| report.faults.is_empty().then_some(())).await;
    world.delete("local").await;
    world.delete("seen").await;
}

pub(crate) async fn node_ports_are_not_needed(world: &World) {
    for (name, allocate) in [("without", false), ("with", true)] {
        world.create(name, json!({"allocateLoadBalancerNodePorts": allocate}), json!({})).await;
        let port = world.read(name).await["spec"]["ports"][0]["nodePort"].clone();
        assert_eq!(port.is_number(), allocate, "{port}");
        world.addresses(name, 1).await;
        world.delete(name).await;
    }
}

pub(crate) async fn affinity_ranges_and_unready_pods_follow_their_fields(world: &World) {
    let fields = json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 77}},
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
        "publishNotReadyAddresses": true,
        "ports": [{"name": "web", "port": 80, "appProtocol": "kubernetes.io/h2c"}],
    });
    world.create("fields", fields, json!({})).await;
    let unready = json!({"addresses": ["10.7.0.1"], "conditions": {"ready": false}});
    world.slice("fields", "fields-1", json!({"endpoints": [unready]})).await;
    world
        .served("fields", "everything asked for", |services| {
            let [service] = services else { return None };
            let ranges: Vec<String> = service.source_ranges.iter().map(|r| r.to_string()).collect();
            (service.algorithm == Algorithm::Source { timeout_secs: 77 }
                && ranges == ["192.0.2.0/24"]
                && service.backends.is_available())
            .then_some(())
        })
        .await;
    let none = json!({"spec": {
        "sessionAffinity": "None", "sessionAffinityConfig": null,
        "loadBalancerSourceRanges": null, "publishNotReadyAddresses": false,
    }});
    world.patch("fields", none).await;
    world
        .served("fields", "nothing asked for", |services| {
            let [service] = services else { return None };
            (service.algorithm == Algorithm::Hash
                && service.source_ranges.is_empty()
                && !service.backends.is_available())
            .then_some(())
        })
        .await;
    // The server itself refuses what is no range.
    let bad = service("bad", json!({"loadBalancerSourceRanges": ["everybody"]}), json!({}));
    assert!(world.try_create::<Service>(bad).await.is_err());
    world.delete("fields").await;
}
