//! What objects ask about their addresses, in the words of several products.

use super::*;

fn exposure(annotations: Value) -> Exposure {
    let spec = read_service(json!({}), annotations);
    assert!(spec.faults.is_empty(), "{:?}", spec.faults);
    spec.exposure.unwrap()
}

fn followed(exposure: &Exposure) -> Vec<&str> {
    exposure.wish.followed.iter().map(|name| &**name).collect()
}

#[test]
fn addresses_are_read_as_each_product_writes_them() {
    for name in [
        "metallb.io/loadBalancerIPs",
        "metallb.universe.tf/loadBalancerIPs",
        "lbipam.cilium.io/ips",
        "io.cilium/lb-ipam-ips",
        "kube-vip.io/loadbalancerIPs",
    ] {
        let exposure = exposure(json!({name: "192.0.2.7, 2001:db8::7"}));
        assert_eq!(exposure.requested, [ip("192.0.2.7"), ip("2001:db8::7")], "{name}");
        assert_eq!(followed(&exposure), [name]);
    }
}

#[test]
fn ours_wins_then_the_first_in_the_documented_order_then_the_field() {
    let all = json!({
        "haflinger.dev/address": "192.0.2.1",
        "metallb.io/loadBalancerIPs": "192.0.2.2",
        "kube-vip.io/loadbalancerIPs": "192.0.2.3",
        "metallb.universe.tf/address-pool": "old",
        "metallb.io/address-pool": "new",
    });
    let ours = exposure(all.clone());
    assert_eq!(ours.requested, [ip("192.0.2.1")]);
    assert_eq!(ours.pool.as_deref(), Some("new"));
    assert_eq!(followed(&ours), ["metallb.io/address-pool"]);
    let mut others = all;
    others.as_object_mut().unwrap().remove("haflinger.dev/address");
    assert_eq!(exposure(others).requested, [ip("192.0.2.2")]);
    let spec = json!({"loadBalancerIP": "192.0.2.9"});
    let field = read_service(spec.clone(), json!({})).exposure.unwrap();
    assert_eq!((field.requested, field.wish.followed), (vec![ip("192.0.2.9")], vec![]));
    let both = read_service(spec, json!({"lbipam.cilium.io/ips": "192.0.2.8"}));
    assert_eq!(both.exposure.unwrap().requested, [ip("192.0.2.8")]);
}

#[test]
fn a_sharing_key_lets_in_whom_its_product_lets_in() {
    let terms = |annotations: Value| {
        let sharing = exposure(annotations).wish.sharing.unwrap();
        (sharing.key.to_string(), sharing.namespaces.clone())
    };
    let own = || SharingNamespaces::Listed([].into());
    let listed = || SharingNamespaces::Listed(["blog".into(), "shop".into()].into());
    for (annotations, namespaces) in [
        (json!({"haflinger.dev/sharing-key": "k"}), own()),
        (
            json!({
                "haflinger.dev/sharing-key": "k",
                "haflinger.dev/sharing-namespaces": "shop, blog",
            }),
            listed(),
        ),
        (json!({"metallb.io/allow-shared-ip": "k"}), SharingNamespaces::Any),
        (
            json!({
                "metallb.universe.tf/allow-shared-ip": "k",
                "haflinger.dev/sharing-namespaces": "",
            }),
            own(),
        ),
        (json!({"io.cilium/lb-ipam-sharing-key": "k"}), own()),
        (
            json!({
                "lbipam.cilium.io/sharing-key": "k",
                "lbipam.cilium.io/sharing-cross-namespace": "blog,*",
            }),
            SharingNamespaces::Any,
        ),
        (
            json!({
                "io.cilium/lb-ipam-sharing-key": "k",
                "io.cilium/lb-ipam-sharing-cross-namespace": "blog,shop",
            }),
            listed(),
        ),
    ] {
        assert_eq!(terms(annotations.clone()), ("k".to_owned(), namespaces), "{annotations}");
    }
}

#[test]
fn the_selector_counts_with_the_policy_local_alone() {
    let backends = |policy: &str| {
        let spec = json!({"externalTrafficPolicy": policy, "selector": {"b": "2", "a": "1"}});
        let spec = read_service(spec, json!({"haflinger.dev/sharing-key": "k"}));
        spec.exposure.unwrap().wish.sharing.unwrap().backends.clone()
    };
    assert_eq!(backends("Cluster"), None);
    assert_eq!(backends("Local").as_deref(), Some("a=1,b=2"));
}

#[test]
fn only_labels_by_which_pools_choose_are_kept() {
    let keys = crate::settings::LabelKeys {
        services: ["tier".into(), "zone".into()].into(),
        namespaces: ["team".into()].into(),
    };
    let cluster = ClusterSettings { labels: keys, ..cluster() };
    let object = json!({
        "metadata": {
            "name": "web", "namespace": "shop",
            "labels": {"tier": "edge", "helm.sh/chart": "web-1.2.3"},
        },
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "haflinger.dev/edge",
            "ports": [{"port": 80}],
        },
    });
    let text = object.to_string();
    let told = translate_object(Watched::Services, text.as_bytes(), &cluster).unwrap().unwrap();
    let SourceUpdate::Service { spec: Some(spec), .. } = told else { panic!("{told:?}") };
    let labels = spec.exposure.unwrap().wish.labels.0;
    // One that it does not have is known not to be there.
    assert_eq!(labels, [("tier".into(), Some("edge".into())), ("zone".into(), None)].into());

    let namespace = json!({"metadata": {"name": "shop", "labels": {"team": "web", "x": "y"}}});
    let text = namespace.to_string();
    let told = translate_object(Watched::Namespaces, text.as_bytes(), &cluster).unwrap().unwrap();
    let SourceUpdate::Namespace { name, spec: Some(spec), .. } = told else { panic!("{told:?}") };
    assert_eq!(&*name, "shop");
    assert_eq!(spec.labels.0, [("team".into(), Some("web".into()))].into());
}

#[test]
fn what_others_do_and_we_do_not_is_refused_with_what_to_write_instead() {
    for (name, value, words) in [
        ("kube-vip.io/loadbalancerHostname", "web", "haflinger.dev/hostname"),
        ("kube-vip.io/serviceInterface", "eth1", "[vips]"),
        ("kube-vip.io/egress", "true", "leave it out"),
        ("kube-vip.io/forwardUPNP", "true", "leave it out"),
    ] {
        let spec = read_service(json!({}), json!({name: value}));
        assert_eq!(reasons(&spec.faults), [FaultReason::UnsupportedFeature]);
        let message = &spec.faults[0].message;
        assert!(message.contains(name) && message.contains(words), "{message}");
    }
    exposure(json!({"kube-vip.io/egress": "false"}));
    let dhcp = read_service(json!({}), json!({"kube-vip.io/loadbalancerIPs": "0.0.0.0"}));
    assert!(dhcp.faults[0].message.contains("DHCP"), "{:?}", dhcp.faults);
}
