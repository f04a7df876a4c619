//! Which routes to pods to write and which to take back: pure.
//!
//! Invariant: only routes that carry our protocol number are replaced or removed. A foreign
//! route to the same prefix in the same table wins, whatever its metric: ours gives way, so that
//! the outcome does not depend on who came first.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

/// Protocol number of our routes, 72, the letter H; free in `/etc/iproute2/rt_protos`.
pub const ROUTE_PROTOCOL: u8 = 72;

/// Metric of our routes in both families: what the kernel gives to IPv6 routes without one.
pub const ROUTE_METRIC: u32 = 1024;

/// A route as the kernel holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldRoute {
    /// Destination.
    pub prefix: IpNet,
    /// Routing table.
    pub table: u32,
    /// Who made it.
    pub protocol: u8,
    /// Metric.
    pub metric: u32,
    /// Next hop; absent for routes of other shapes.
    pub via: Option<IpAddr>,
}

impl HeldRoute {
    fn is_ours(&self) -> bool {
        self.protocol == ROUTE_PROTOCOL
    }
}

/// Routes by destination: ours in every table, and all in our table whose destination we want.
pub type HeldRoutes = BTreeMap<IpNet, Vec<HeldRoute>>;

/// Where routes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRules {
    /// The table.
    pub table: u32,
}

/// Operations on routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutePlan {
    /// Routes to create; refused by the kernel where anything stands.
    pub add: Vec<HeldRoute>,
    /// Routes of ours whose next hop changes, in one step.
    pub replace: Vec<HeldRoute>,
    /// Routes of ours to remove.
    pub remove: Vec<HeldRoute>,
}

/// What stands between a route and the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteDecision {
    /// It is there.
    Installed,
    /// It is to be created or replaced.
    Write,
    /// A foreign route to the same prefix stands there, made by this protocol.
    Conflict(u8),
    /// It cannot be a route to pods.
    Invalid(InvalidRoute),
    /// It is not wanted.
    Absent,
}

/// Why a wanted route is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidRoute {
    /// A default route or another one that no cluster can own.
    #[error("the network is not one that a cluster can own")]
    Prefix,
    /// The next hop is of the other family.
    #[error("the next hop is of the other address family")]
    Family,
    /// The next hop can be reached only through the route itself.
    #[error("the next hop lies within the network")]
    NextHopInside,
    /// The next hop is no address of a neighbour.
    #[error("the next hop is not a unicast address")]
    NextHop,
}

/// Decides about one destination: `via` is the wanted next hop, if the route is wanted.
pub fn decide(
    prefix: IpNet,
    via: Option<IpAddr>,
    rules: &RouteRules,
    held: &HeldRoutes,
    plan: &mut RoutePlan,
) -> RouteDecision {
    let here = held.get(&prefix).map(Vec::as_slice).unwrap_or_default();
    let foreign = here.iter().find(|held| held.table == rules.table && !held.is_ours());
    let wish = via.map(|via| check(prefix, via).map(|()| via));
    let wanted = match (wish, foreign) {
        (Some(Ok(via)), None) => Some(HeldRoute {
            prefix,
            table: rules.table,
            protocol: ROUTE_PROTOCOL,
            metric: ROUTE_METRIC,
            via: Some(via),
        }),
        _ => None,
    };
    let same_place = |held: &HeldRoute| {
        wanted.is_some_and(|wanted| held.table == wanted.table && held.metric == wanted.metric)
    };
    plan.remove.extend(here.iter().filter(|held| held.is_ours() && !same_place(held)));
    match (wish, foreign, wanted) {
        (None, _, _) => RouteDecision::Absent,
        (Some(Err(invalid)), _, _) => RouteDecision::Invalid(invalid),
        (_, Some(foreign), _) => RouteDecision::Conflict(foreign.protocol),
        (_, None, Some(wanted)) if here.contains(&wanted) => RouteDecision::Installed,
        (_, None, Some(wanted)) => {
            let replaces = here.iter().any(|held| held.is_ours() && same_place(held));
            if replaces {
                plan.replace.push(wanted)
            } else {
                plan.add.push(wanted)
            }
            RouteDecision::Write
        }
        (Some(Ok(_)), None, None) => RouteDecision::Absent,
    }
}

fn check(prefix: IpNet, via: IpAddr) -> Result<(), InvalidRoute> {
    let network = prefix.network();
    let odd = prefix.prefix_len() == 0
        || network.is_loopback()
        || network.is_multicast()
        || network.is_unspecified();
    if odd {
        return Err(InvalidRoute::Prefix);
    }
    if prefix.network().is_ipv4() != via.is_ipv4() {
        return Err(InvalidRoute::Family);
    }
    if via.is_loopback() || via.is_multicast() || via.is_unspecified() {
        return Err(InvalidRoute::NextHop);
    }
    if prefix.contains(&via) {
        return Err(InvalidRoute::NextHopInside);
    }
    Ok(())
}

/// Makes the operations in a picture of the kernel, as the kernel makes them.
pub fn apply(plan: &RoutePlan, held: &mut HeldRoutes) {
    for gone in &plan.remove {
        forget(gone, held);
    }
    for route in plan.add.iter().chain(&plan.replace) {
        note(*route, held);
    }
}

/// Notes a route of ours in a picture; it takes the place of the one before.
pub fn note(route: HeldRoute, held: &mut HeldRoutes) {
    let here = held.entry(route.prefix).or_default();
    here.retain(|old| !(old.is_ours() && old.table == route.table && old.metric == route.metric));
    here.push(route);
}

/// Takes one route out of a picture.
pub fn forget(gone: &HeldRoute, held: &mut HeldRoutes) {
    if let Some(here) = held.get_mut(&gone.prefix) {
        here.retain(|held| held != gone);
        if here.is_empty() {
            held.remove(&gone.prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    const RULES: RouteRules = RouteRules { table: 254 };

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn any_prefix() -> impl Strategy<Value = IpNet> {
        prop::sample::select(vec![
            "10.1.0.0/24",
            "10.1.1.0/24",
            "192.0.2.0/24",
            "2001:db8:1::/64",
            "0.0.0.0/0",
        ])
        .prop_map(net)
    }

    fn any_next_hop() -> impl Strategy<Value = IpAddr> {
        prop::sample::select(vec!["192.0.2.1", "192.0.2.2", "2001:db8::1", "127.0.0.1"])
            .prop_map(|text| text.parse().unwrap())
    }

    fn any_held() -> impl Strategy<Value = HeldRoutes> {
        let tables = prop::sample::select(vec![RULES.table, 100]);
        let protocols = prop::sample::select(vec![ROUTE_PROTOCOL, 4, 12]);
        let metrics = prop::sample::select(vec![ROUTE_METRIC, 50]);
        let one = (any_prefix(), tables, protocols, metrics, any_next_hop());
        vec(one, 0..8).prop_map(|all| {
            let mut held = HeldRoutes::new();
            for (prefix, table, protocol, metric, via) in all {
                let here: &mut Vec<HeldRoute> = held.entry(prefix).or_default();
                // The kernel holds one route per table and metric.
                if here.iter().all(|held| (held.table, held.metric) != (table, metric)) {
                    here.push(HeldRoute { prefix, table, protocol, metric, via: Some(via) });
                }
            }
            held
        })
    }

    fn plan_all(
        wanted: &BTreeMap<IpNet, IpAddr>,
        held: &HeldRoutes,
    ) -> (RoutePlan, BTreeMap<IpNet, RouteDecision>) {
        let mut plan = RoutePlan::default();
        let all: BTreeSet<_> = wanted.keys().chain(held.keys()).copied().collect();
        let decisions = all
            .into_iter()
            .map(|at| (at, decide(at, wanted.get(&at).copied(), &RULES, held, &mut plan)))
            .collect();
        (plan, decisions)
    }

    proptest! {
        #[test]
        fn foreign_routes_stay_and_every_other_wish_is_met_once(
            wanted in btree_map(any_prefix(), any_next_hop(), 0..5),
            before in any_held(),
        ) {
            let (plan, decisions) = plan_all(&wanted, &before);
            prop_assert!(plan.remove.iter().all(HeldRoute::is_ours));
            for route in &plan.add {
                let here = before.get(&route.prefix).cloned().unwrap_or_default();
                prop_assert!(
                    here.iter().all(|held| {
                        (held.table, held.metric) != (route.table, route.metric)
                    }),
                    "the kernel would refuse {route:?}"
                );
            }
            for route in &plan.replace {
                prop_assert!(before[&route.prefix].iter().any(|held| held.is_ours()
                    && (held.table, held.metric) == (route.table, route.metric)));
            }
            let mut after = before.clone();
            apply(&plan, &mut after);
            for (prefix, decision) in decisions {
                let here = after.get(&prefix).cloned().unwrap_or_default();
                let ours: Vec<_> = here.iter().filter(|held| held.is_ours()).collect();
                if matches!(decision, RouteDecision::Write | RouteDecision::Installed) {
                    prop_assert_eq!(ours.len(), 1);
                    prop_assert_eq!(ours[0].via, wanted.get(&prefix).copied());
                } else {
                    prop_assert!(ours.is_empty());
                }
                let foreign = |held: &HeldRoutes| -> Vec<HeldRoute> {
                    let here = held.get(&prefix).cloned().unwrap_or_default();
                    here.into_iter().filter(|held| !held.is_ours()).collect()
                };
                prop_assert_eq!(foreign(&before), foreign(&after));
            }
            prop_assert_eq!(plan_all(&wanted, &after).0, RoutePlan::default());
        }
    }

    #[test]
    fn routes_that_no_node_can_own_are_refused_with_their_reason() {
        for (prefix, via, invalid) in [
            ("0.0.0.0/0", "192.0.2.1", InvalidRoute::Prefix),
            ("10.0.0.0/24", "2001:db8::1", InvalidRoute::Family),
            ("10.0.0.0/24", "10.0.0.1", InvalidRoute::NextHopInside),
            ("10.0.0.0/24", "127.0.0.1", InvalidRoute::NextHop),
        ] {
            let mut plan = RoutePlan::default();
            let via = Some(via.parse().unwrap());
            let decision = decide(net(prefix), via, &RULES, &HeldRoutes::new(), &mut plan);
            assert_eq!(decision, RouteDecision::Invalid(invalid), "{prefix}");
            assert_eq!(plan, RoutePlan::default());
        }
    }
}
