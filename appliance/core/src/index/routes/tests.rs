//! Routes against a slow second implementation that reads the final facts alone.

use proptest::prelude::*;

use super::*;

/// One fact: a Node, or an object of a pod network.
#[derive(Clone, Debug)]
enum Fact {
    Node(NodeKey, Option<NodeSpec>),
    Object(ObjectKey, Option<PodNetworkSpec>),
}

/// The last word on each node and object.
#[derive(Clone, Debug, Default)]
struct World {
    nodes: BTreeMap<NodeKey, NodeSpec>,
    objects: BTreeMap<ObjectKey, PodNetworkSpec>,
}

impl World {
    fn note(&mut self, fact: &Fact) {
        match fact.clone() {
            Fact::Node(key, Some(spec)) => drop(self.nodes.insert(key, spec)),
            Fact::Node(key, None) => drop(self.nodes.remove(&key)),
            Fact::Object(key, Some(spec)) => drop(self.objects.insert(key, spec)),
            Fact::Object(key, None) => drop(self.objects.remove(&key)),
        }
    }

    /// Every claim on a network, in the order in which they are honoured.
    fn claims(&self, policy: &Policy) -> Vec<(IpNet, Claimant, Claim)> {
        let mut claims = Vec::new();
        let of_objects = self.objects.iter().map(|((source, ..), o)| (source, &o.node));
        let of_nodes = self.nodes.keys().map(|(source, node)| (source, node));
        let nodes: BTreeSet<NodeKey> =
            of_nodes.chain(of_objects).map(|(s, n)| (s.clone(), n.clone())).collect();
        for (source, node) in nodes {
            let spec = self.nodes.get(&(source.clone(), node.clone())).cloned().unwrap_or_default();
            let objects: Vec<_> = self
                .objects
                .iter()
                .filter(|((of, ..), object)| *of == source && object.node == node)
                .map(|((_, origin, _), object)| (*origin, object))
                .collect();
            let mut addresses = spec.addresses.clone();
            addresses.extend(objects.iter().flat_map(|(_, object)| &object.addresses));
            for v4 in [true, false] {
                let Some(via) = addresses.iter().find(|address| address.is_ipv4() == v4) else {
                    continue;
                };
                let said = |origin: RouteOrigin| -> Vec<IpNet> {
                    let of_family = |net: &&IpNet| net.addr().is_ipv4() == v4;
                    let objects = objects.iter().filter(|(of, _)| *of == origin);
                    let told: Vec<IpNet> = objects
                        .flat_map(|(_, object)| object.networks.iter().filter(of_family).copied())
                        .collect();
                    if !told.is_empty() {
                        return told;
                    }
                    match origin {
                        RouteOrigin::Node => {
                            spec.pod_networks.iter().filter(of_family).copied().collect()
                        }
                        _ => spec
                            .annotated
                            .iter()
                            .filter(|(of, net)| *of == origin && of_family(&net))
                            .map(|(_, net)| *net)
                            .collect(),
                    }
                };
                let order = order(policy, &source).iter().enumerate();
                let mut spoken = order.map(|(place, origin)| (place, *origin, said(*origin)));
                let Some((place, origin, said)) = spoken.find(|(.., said)| !said.is_empty()) else {
                    continue;
                };
                for net in said {
                    claims.push((net, (source.clone(), place, node.clone()), (origin, *via)));
                }
            }
        }
        claims.sort();
        claims.dedup();
        claims
    }

    fn routes(&self, policy: &Policy) -> BTreeMap<IpNet, PodRoute> {
        let claims = self.claims(policy);
        let mut routes = BTreeMap::new();
        for (network, claimant, (origin, via)) in &claims {
            if routes.contains_key(network) {
                continue;
            }
            let second = claims.iter().filter(|(of, ..)| of == network).nth(1);
            let overlaps = claims.iter().find(|(other, theirs, _)| {
                let nested = other.contains(network) || network.contains(other);
                other != network && nested && theirs.0 < claimant.0
            });
            let rival = |(net, claimant, _): &(IpNet, Claimant, Claim)| rival(*net, claimant);
            let route = PodRoute {
                via: *via,
                node: claimant.2.clone(),
                source: claimant.0.clone(),
                origin: *origin,
                overlaps: overlaps.map(rival),
                rival: second.map(rival),
            };
            routes.insert(*network, route);
        }
        routes
    }
}

/// What an index does with routes, without the rest of it.
#[derive(Default)]
struct Lived {
    networks: PodNetworks,
    routes: BTreeMap<IpNet, PodRoute>,
}

impl Lived {
    fn publish(&mut self, touched: BTreeSet<IpNet>) {
        for network in touched {
            match self.networks.route(&network) {
                Some(route) => drop(self.routes.insert(network, route)),
                None => drop(self.routes.remove(&network)),
            }
        }
    }

    fn note(&mut self, fact: Fact, policy: &Policy) {
        let touched = match fact {
            Fact::Node(key, spec) => self.networks.note_node(key, spec, policy),
            Fact::Object((source, origin, name), spec) => {
                self.networks.note_object(source, origin, name, spec, policy)
            }
        };
        self.publish(touched);
    }
}

fn cluster(name: &str) -> SourceId {
    SourceId::cluster(name)
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| net(text)).collect()
}

fn any_nets() -> impl Strategy<Value = Vec<IpNet>> {
    let some = ["10.1.0.0/24", "10.1.0.64/26", "10.1.0.0/26", "10.1.0.0/16", "2001:db8::/64"];
    prop::collection::vec(prop::sample::select(nets(&some)), 0..3)
}

fn any_addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    let some = ["192.0.2.1", "192.0.2.2", "2001:db8:1::1"];
    let some: Vec<IpAddr> = some.iter().map(|text| text.parse().unwrap()).collect();
    prop::collection::vec(prop::sample::select(some), 0..3)
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let source = || prop::sample::select(vec![cluster("a"), cluster("b")]);
    let node = || prop::sample::select(vec![Arc::<str>::from("n1"), "n2".into()]);
    let origins = vec![RouteOrigin::Calico, RouteOrigin::Cilium];
    let written = prop::sample::select(vec![RouteOrigin::Cilium, RouteOrigin::Ovn]);
    let spec = (any_nets(), any_nets(), written, any_addresses()).prop_map(
        |(pod_networks, written, origin, addresses)| NodeSpec {
            pod_networks,
            annotated: written.into_iter().map(|network| (origin, network)).collect(),
            addresses,
            ..NodeSpec::default()
        },
    );
    let of_nodes = ((source(), node()), prop::option::weighted(0.8, spec));
    let name = prop::sample::select(vec![Arc::<str>::from("x"), "y".into()]);
    let key = (source(), prop::sample::select(origins), name);
    let spec = (node(), any_nets(), any_addresses())
        .prop_map(|(node, networks, addresses)| PodNetworkSpec { node, networks, addresses });
    let objects = (key, prop::option::weighted(0.7, spec));
    prop_oneof![
        of_nodes.prop_map(|(key, spec)| Fact::Node(key, spec)),
        objects.prop_map(|(key, spec)| Fact::Object(key, spec)),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let origins = prop::sample::subsequence(RouteOrigin::ALL.to_vec(), 0..=4).prop_shuffle();
    prop::option::of(origins).prop_map(|order| Policy {
        pod_routes: order.into_iter().map(|order| (cluster("a"), order)).collect(),
        ..Policy::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Nodes that flap, blocks that wander, clusters that overlap and orders that change: what
    /// counts is how things stand at the end, and nothing is left of what was in between.
    #[test]
    fn any_order_of_events_ends_in_the_routes_of_the_final_facts(
        facts in prop::collection::vec(any_fact(), 0..25),
        before in any_policy(),
        after in any_policy(),
        turn in 0..25_usize,
        forgotten in prop::option::of(0..25_usize),
    ) {
        let (mut world, mut lived) = (World::default(), Lived::default());
        let mut policy = &before;
        for (at, fact) in facts.iter().enumerate() {
            if at == turn {
                let touched = lived.networks.reorder(policy, &after);
                policy = &after;
                lived.publish(touched);
            }
            if forgotten == Some(at) {
                world.nodes.retain(|key, _| key.0 != cluster("a"));
                world.objects.retain(|key, _| key.0 != cluster("a"));
                let touched = lived.networks.forget_source(&cluster("a"), policy);
                lived.publish(touched);
            }
            world.note(fact);
            lived.note(fact.clone(), policy);
        }
        prop_assert_eq!(&lived.routes, &world.routes(policy));
        for key in world.nodes.keys() {
            lived.note(Fact::Node(key.clone(), None), policy);
        }
        for key in world.objects.keys() {
            lived.note(Fact::Object(key.clone(), None), policy);
        }
        prop_assert!(lived.routes.is_empty() && lived.networks.wanted.is_empty());
        prop_assert!(lived.networks.clusters.is_empty() && lived.networks.of_node.is_empty());
    }
}

fn node(name: &str, pod_networks: &[&str], address: &str) -> Fact {
    let addresses = vec![address.parse().unwrap()];
    let spec = NodeSpec { pod_networks: nets(pod_networks), addresses, ..NodeSpec::default() };
    Fact::Node((cluster("a"), name.into()), Some(spec))
}

fn block(name: &str, node: &str, network: &str) -> Fact {
    let spec =
        PodNetworkSpec { node: node.into(), networks: vec![net(network)], ..Default::default() };
    Fact::Object((cluster("a"), RouteOrigin::Calico, name.into()), Some(spec))
}

fn routes(facts: impl IntoIterator<Item = Fact>) -> Vec<(String, RouteOrigin, String)> {
    let mut lived = Lived::default();
    for fact in facts {
        lived.note(fact, &Policy::default());
    }
    let told = lived.routes.into_iter();
    told.map(|(net, route)| (net.to_string(), route.origin, route.via.to_string())).collect()
}

#[test]
fn several_blocks_of_a_node_take_the_place_of_its_pod_cidr() {
    let routes = routes([
        block("n1-a", "n1", "10.8.0.0/26"),
        node("n1", &["10.244.1.0/24"], "192.0.2.1"),
        node("n2", &["10.244.2.0/24"], "192.0.2.2"),
        block("n1-b", "n1", "10.8.3.64/26"),
    ]);
    assert_eq!(
        routes,
        [
            ("10.8.0.0/26".to_owned(), RouteOrigin::Calico, "192.0.2.1".to_owned()),
            ("10.8.3.64/26".to_owned(), RouteOrigin::Calico, "192.0.2.1".to_owned()),
            ("10.244.2.0/24".to_owned(), RouteOrigin::Node, "192.0.2.2".to_owned()),
        ]
    );
}

#[test]
fn a_better_origin_gets_a_network_that_two_nodes_claim() {
    let routes = routes([
        node("n1", &["10.8.0.0/24"], "192.0.2.1"),
        node("n2", &[], "192.0.2.2"),
        block("n2-a", "n2", "10.8.0.0/24"),
    ]);
    assert_eq!(routes, [("10.8.0.0/24".to_owned(), RouteOrigin::Calico, "192.0.2.2".to_owned())]);
}

#[test]
fn networks_that_overlap_across_clusters_are_withheld_from_the_later_one() {
    let mut lived = Lived::default();
    let policy = Policy::default();
    lived.note(node("n1", &["10.8.0.0/16"], "192.0.2.1"), &policy);
    let spec = NodeSpec {
        pod_networks: nets(&["10.8.7.0/24", "10.9.0.0/24"]),
        addresses: vec!["192.0.2.9".parse().unwrap()],
        ..NodeSpec::default()
    };
    let other = (cluster("b"), Arc::from("m"));
    lived.note(Fact::Node(other, Some(spec)), &policy);
    let withheld = lived.routes[&net("10.8.7.0/24")].overlaps.clone().unwrap();
    assert_eq!((withheld.source, &*withheld.node), (cluster("a"), "n1"));
    assert!(lived.routes[&net("10.8.0.0/16")].overlaps.is_none());
    assert!(lived.routes[&net("10.9.0.0/24")].overlaps.is_none());
    // The first cluster's node goes: nothing stands against the other any more.
    lived.note(Fact::Node((cluster("a"), "n1".into()), None), &policy);
    assert!(lived.routes[&net("10.8.7.0/24")].overlaps.is_none());
}
