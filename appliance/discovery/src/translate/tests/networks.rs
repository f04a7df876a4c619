//! What nodes and their networks give of pod networks.

use super::*;

#[test]
fn a_node_gives_its_pod_networks_and_internal_addresses() {
    let addresses = json!([
        {"type": "Hostname", "address": "n1"},
        {"type": "InternalIP", "address": "192.168.0.11"},
        {"type": "ExternalIP", "address": "192.0.2.11"},
        {"type": "InternalIP", "address": "fd00::11"},
    ]);
    let node = super::super::node(&object::<NodeBody>(json!({
        "metadata": {"name": "n1"},
        "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd01::/64", "nonsense"]},
        "status": {"addresses": addresses},
    })));
    let networks: Vec<_> = node.pod_networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.1.0.0/24", "fd01::/64"]);
    assert_eq!(node.addresses, [ip("192.168.0.11"), ip("fd00::11")]);
    let old = json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.1.0.0/24"}});
    assert_eq!(super::super::node(&object::<NodeBody>(old)).pod_networks.len(), 1);
}

#[test]
fn a_node_takes_packets_for_its_ports_while_it_is_ready_and_not_excluded() {
    let read = |labels: Value, conditions: Value| {
        let node = json!({"metadata": {"name": "n1", "labels": labels},
                          "status": {"conditions": conditions}});
        let node = super::super::node(&object::<NodeBody>(node));
        (node.not_ready, node.excluded)
    };
    let ready = |status: &str| json!([{"type": "MemoryPressure", "status": "True"}, {"type": "Ready", "status": status}]);
    assert_eq!(read(json!({"a": "b"}), ready("True")), (false, false));
    for status in ["False", "Unknown", "true"] {
        assert_eq!(read(json!({}), ready(status)), (true, false));
    }
    assert_eq!(read(json!({}), json!([7, {"type": "Ready"}])), (true, false));
    for value in ["", "true", "false"] {
        let label = json!({"node.kubernetes.io/exclude-from-external-load-balancers": value});
        assert_eq!(read(label, ready("True")), (false, true), "{value:?}");
    }
}

#[test]
fn pod_networks_in_the_annotations_of_a_node_are_read_and_lose_the_bits_of_a_host() {
    let read = |annotations: Value| {
        let node = json!({"metadata": {"name": "n1", "annotations": annotations}});
        let annotated = super::super::node(&object::<NodeBody>(node)).annotated;
        let told = annotated.iter().map(|(origin, network)| format!("{origin:?} {network}"));
        told.collect::<Vec<_>>()
    };
    let cilium = json!({
        "network.cilium.io/ipv4-pod-cidr": "10.1.0.7/24",
        "io.cilium.network.ipv4-pod-cidr": "10.1.0.0/24",
        "io.cilium.network.ipv6-pod-cidr": "fd01::/64",
    });
    assert_eq!(read(cilium), ["Cilium 10.1.0.0/24", "Cilium fd01::/64"]);
    for (ovn, expected) in [
        (r#"{"default":"10.128.0.0/23","blue":"10.9.0.0/24"}"#, vec!["Ovn 10.128.0.0/23"]),
        (
            r#"{"default":["10.128.0.0/23","fd02::/64"]}"#,
            vec!["Ovn 10.128.0.0/23", "Ovn fd02::/64"],
        ),
        (r#"{"default":[7,"nonsense"]}"#, vec![]),
        (r#"["10.128.0.0/23"]"#, vec![]),
        ("not JSON", vec![]),
    ] {
        assert_eq!(read(json!({"k8s.ovn.org/node-subnets": ovn})), expected, "{ovn}");
    }
}

#[test]
fn a_block_counts_while_it_is_a_node_s_for_good() {
    let read = |spec: Value| {
        let affinity = json!({"metadata": {"name": "n1-10-8-0-0-26"}, "spec": spec});
        super::super::block_affinity(&object::<AffinityBody>(affinity))
    };
    let block = |changes: Value| {
        let mut spec = json!({
            "cidr": "10.8.0.0/26", "node": "n1", "state": "confirmed", "deleted": "false",
        });
        spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        spec
    };
    let told = read(block(json!({"type": "host"}))).unwrap();
    assert_eq!((&*told.node, told.networks[0].to_string()), ("n1", "10.8.0.0/26".to_owned()));
    for absent in [
        json!({"state": "pending"}),
        json!({"state": "pendingDeletion"}),
        json!({"deleted": "true"}),
        json!({"deleted": true}),
        json!({"type": "virtual"}),
        json!({"node": ""}),
        json!({"cidr": "nonsense"}),
    ] {
        assert_eq!(read(block(absent.clone())), None, "{absent}");
    }
}

#[test]
fn a_cilium_node_gives_the_networks_of_all_its_pools_and_its_addresses() {
    let node = json!({"metadata": {"name": "n1"}, "spec": {
        "addresses": [
            {"type": "CiliumInternalIP", "ip": "10.1.0.9"},
            {"type": "InternalIP", "ip": "192.168.0.11"},
        ],
        "ipam": {
            "podCIDRs": ["10.1.0.0/24"],
            "pools": {"allocated": [{"pool": "blue", "cidrs": ["10.2.0.0/27", "10.1.0.0/24"]}]},
        },
    }});
    let told = super::super::cilium_node(&object::<CiliumNodeBody>(node)).unwrap();
    let networks: Vec<_> = told.networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.1.0.0/24", "10.2.0.0/27"]);
    assert_eq!(told.addresses, [ip("192.168.0.11")]);
}

#[test]
fn an_object_cannot_fill_the_routing_table() {
    let many: Vec<String> = (0..1000).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
    let node = json!({"metadata": {"name": "n1"}, "spec": {"ipam": {"podCIDRs": many}}});
    let told = super::super::cilium_node(&object::<CiliumNodeBody>(node)).unwrap();
    assert_eq!(told.networks.len(), super::super::node::NETWORKS_MAX);
}
