//! What a policy asks reaches clients: from objects through the core.

use std::sync::Arc;

use haflinger_core::index::Index;
use haflinger_core::{
    AddressWish, Algorithm, BackendRef, BackendRefSpec, ConnectionLimits, Distribution, Family,
    GatewayClassSpec, GatewaySpec, HttpListener, ListenerProtocol, ListenerSpec, NamespaceChoice,
    ObjectKind, ObjectRef, ParentFields, ParentSpec, Policy, PolicyTarget, Pool, Protocol,
    ProxyProtocol, RateKey, RateLimit, RequestMatch, RequestPolicySpec, RequestWishes,
    RouteRuleSpec, RouteSpec, ServicePort, ServiceSpec, SourceId, SourceUpdate, Target,
    TimeoutRequest, Update,
};

use crate::support::backend::Backend;
use crate::support::client::RawClient;
use crate::support::{Lab, target};

fn name(kind: ObjectKind, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef::of_kind(&SourceId::inventory(), kind, namespace, name)
}

fn class() -> SourceUpdate {
    let spec = GatewayClassSpec { generation: 1, parameters: None, recorded_status: None };
    let object = name(ObjectKind::GatewayClass, "", "haflinger");
    SourceUpdate::GatewayClass { object, spec: Some(Box::new(spec)) }
}

fn gateway() -> SourceUpdate {
    let listener = ListenerSpec {
        name: "web".into(),
        hostname: None,
        port: 80,
        protocol: ListenerProtocol::Http,
        tls: None,
        allowed_namespaces: NamespaceChoice::Same,
        allowed_kinds: Vec::new(),
    };
    let spec = GatewaySpec {
        generation: 1,
        created_secs: 1,
        class: "haflinger".into(),
        listeners: vec![listener],
        requested: Vec::new(),
        foreign_addresses: Vec::new(),
        allowed_sets: NamespaceChoice::None,
        client_validation: Vec::new(),
        backend_certificate: None,
        pool: None,
        wish: AddressWish::default(),
        recorded: vec!["192.0.2.1".parse().unwrap()],
        ttl_secs: None,
        faults: Vec::new(),
        recorded_status: None,
    };
    let object = name(ObjectKind::Gateway, "default", "edge");
    SourceUpdate::Gateway { object, spec: Some(Box::new(spec)) }
}

fn service() -> SourceUpdate {
    let port = ServicePort {
        name: "http".into(),
        port: target("shop").port,
        protocol: Protocol::Tcp,
        app_protocol: None,
        node_port: None,
    };
    let spec = ServiceSpec {
        ports: vec![port],
        refused_ports: Vec::new(),
        exposure: None,
        created_secs: 1,
        families: vec![Family::V4],
        algorithm: Algorithm::Hash,
        limits: ConnectionLimits::default(),
        timeouts: TimeoutRequest::default(),
        destination: None,
        local_traffic: false,
        publish_not_ready: false,
        distribution: Distribution::Even,
        proxy_protocol: ProxyProtocol::Off,
        health_check: None,
        selector: Box::default(),
        faults: Vec::new(),
    };
    SourceUpdate::Service { object: target("shop").object, spec: Some(Box::new(spec)) }
}

fn route() -> SourceUpdate {
    let Target { object, port, .. } = target("shop");
    let backend = BackendRef::Service { object, port: Some(port) };
    let rule = RouteRuleSpec {
        matches: vec![RequestMatch::default()],
        backends: vec![BackendRefSpec { backend, weight: 1, filters: Vec::new() }],
        ..RouteRuleSpec::default()
    };
    let parent = ParentSpec {
        object: name(ObjectKind::Gateway, "default", "edge"),
        written: ParentFields::default(),
        section: None,
        port: None,
    };
    let spec = RouteSpec {
        generation: 1,
        created_secs: 1,
        parents: vec![parent],
        hostnames: Vec::new(),
        rules: vec![rule],
        faults: Vec::new(),
        recorded_status: None,
    };
    let object = name(ObjectKind::HttpRoute, "default", "shop");
    SourceUpdate::Route { object, spec: Some(Box::new(spec)) }
}

fn policy(rates: Vec<RateLimit>) -> SourceUpdate {
    let route = name(ObjectKind::HttpRoute, "default", "shop");
    let spec = RequestPolicySpec {
        targets: vec![PolicyTarget { object: route, section: None }],
        wishes: Arc::new(RequestWishes { rates: Some(rates), ..RequestWishes::default() }),
        ..RequestPolicySpec::default()
    };
    let object = name(ObjectKind::RequestPolicy, "default", "shop");
    SourceUpdate::RequestPolicy { object, spec: Some(Box::new(spec)) }
}

/// A Gateway with a route to `shop`, as the core has made it.
fn index() -> Index {
    let range = ("192.0.2.1".parse().unwrap(), "192.0.2.9".parse().unwrap());
    let pools = vec![Pool::new("main", vec![range])];
    let sources = vec![SourceId::inventory()];
    let mut index = Index::new();
    index.apply(Update::Policy(Arc::new(Policy { sources, pools, ..Policy::default() })));
    for said in [class(), gateway(), service(), route()] {
        index.apply(Update::Source(said));
    }
    index.apply(Update::Synced(SourceId::inventory()));
    index
}

fn listener(index: &mut Index) -> Arc<HttpListener> {
    let snapshot = index.publish(0).expect("something new");
    snapshot.http.values().next().expect("a listener").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_a_route_limits_a_client_until_it_is_gone() {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start_with(|_| {});
    lab.backends("shop", &[shop.address]);
    let mut index = index();
    // A day, so that nothing is earned while the test runs.
    let limit = RateLimit {
        requests: 1,
        period_ms: 86_400_000,
        burst: 2,
        per: RateKey::Header("x-session".into()),
        status: 429,
    };
    index.apply(Update::Source(policy(vec![limit])));
    lab.snapshot.http.insert(lab.address, listener(&mut index));
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    for (session, expected) in
        [("a", 200), ("a", 200), ("a", 429), ("b", 200), ("b", 200), ("b", 429), ("a", 429)]
    {
        let fields = [("x-session", session)];
        let (status, _) = client.ask("GET", "/", "a.example", &fields).await.unwrap();
        assert_eq!(status, expected, "{session}");
    }
    assert_eq!(shop.requests(), 4, "no backend hears of what is refused");
    let object = name(ObjectKind::RequestPolicy, "default", "shop");
    index.apply(Update::Source(SourceUpdate::RequestPolicy { object, spec: None }));
    lab.snapshot.http.insert(lab.address, listener(&mut index));
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    let (status, _) = client.ask("GET", "/", "a.example", &[("x-session", "a")]).await.unwrap();
    assert_eq!(status, 200);
}
