//! Routes to pods: read, decide, write, take back.

use std::collections::BTreeSet;
use std::sync::Arc;

use haflinger_core::PodRoute;
use imbl::OrdMap;
use ipnet::IpNet;
use tracing::{info, warn};

use super::{Due, Work, beyond, jitter};
use crate::kernel::{Kernel, KernelError};
use crate::route::{self, HeldRoute, RouteDecision, RoutePlan, RouteRules};
use crate::settings::ROUTES_MAX;
use crate::status::{Entry, RouteEntry, RouteState};

impl Work {
    pub(super) async fn reconcile_routes(
        &mut self,
        kernel: &Kernel,
        now_ms: u64,
    ) -> Result<(), KernelError> {
        let table = self.settings.pod_route_table;
        if self.routes_due.is_all() {
            let wanted = |prefix: &IpNet| self.pod_routes.contains_key(prefix);
            self.held_routes = kernel.routes(table, wanted).await?;
        }
        let scope: BTreeSet<_> = match std::mem::take(&mut self.routes_due) {
            Due::Keys(mut keys) => {
                keys.extend(self.route_retries.due(now_ms));
                keys
            }
            Due::All => {
                self.published.routes = OrdMap::new();
                self.pod_routes.keys().chain(self.held_routes.keys()).copied().collect()
            }
        };
        // Without a table nothing is wanted, and what was written before goes.
        let limit = beyond(&self.pod_routes, ROUTES_MAX);
        let rules = RouteRules { table: table.unwrap_or(0) };
        let mut plan = RoutePlan::default();
        for prefix in scope {
            let fits = limit.is_none_or(|limit| prefix < limit);
            let wish = self.pod_routes.get(&prefix).filter(|_| table.is_some()).cloned();
            let writable = wish.as_ref().filter(|wish| fits && wish.overlaps.is_none());
            let via = writable.map(|wish| wish.via);
            let decision = route::decide(prefix, via, &rules, &self.held_routes, &mut plan);
            let over = (!fits).then(|| format!("more than {ROUTES_MAX} routes"));
            self.show_route(prefix, wish.as_deref(), decision, over);
        }
        if !self.may_remove {
            // A route in another table, or of a node not yet listed, may still be needed.
            plan.remove.clear();
        }
        self.change_routes(kernel, plan, now_ms).await;
        Ok(())
    }

    fn show_route(
        &mut self,
        prefix: IpNet,
        wish: Option<&PodRoute>,
        decision: RouteDecision,
        over_limit: Option<String>,
    ) {
        let Some(wish) = wish else {
            self.published.routes.remove(&prefix);
            self.route_retries.settled(&prefix);
            return;
        };
        let (state, reason) = match decision {
            RouteDecision::Installed => (RouteState::Installed, None),
            RouteDecision::Write => {
                let refusal = self.route_retries.get(&prefix);
                (RouteState::Failing, refusal.map(|refusal| refusal.reason.clone()))
            }
            RouteDecision::Conflict(protocol) => {
                let text = format!("a foreign route (protocol {protocol}) stands there");
                (RouteState::Conflict, Some(text))
            }
            RouteDecision::Invalid(invalid) => (RouteState::Invalid, Some(invalid.to_string())),
            RouteDecision::Absent => match &wish.overlaps {
                Some(other) => {
                    let (network, node, source) = (other.network, &other.node, &other.source);
                    let text = format!("{network} of node {node} in {source} overlaps");
                    (RouteState::Conflict, Some(text))
                }
                None => (RouteState::Invalid, over_limit),
            },
        };
        if decision != RouteDecision::Write {
            self.route_retries.settled(&prefix);
        }
        let entry = Entry { state, reason: reason.map(Arc::from) };
        let rival =
            wish.rival.as_ref().map(|rival| (Arc::clone(&rival.node), rival.source.clone()));
        let route = RouteEntry {
            via: wish.via,
            node: Arc::clone(&wish.node),
            source: wish.source.clone(),
            origin: wish.origin,
            rival,
            entry,
        };
        self.published.routes.insert(prefix, route);
    }

    /// Writes before it takes back: a route that moves between tables is never gone.
    async fn change_routes(&mut self, kernel: &Kernel, mut plan: RoutePlan, now_ms: u64) {
        plan.add.retain(|route| self.route_is_due(route, now_ms));
        plan.replace.retain(|route| self.route_is_due(route, now_ms));
        for route in plan.add {
            let result = kernel.add_route(&route).await;
            self.route_written("route_add", route, result, now_ms);
        }
        for route in plan.replace {
            let result = kernel.replace_route(&route).await;
            self.route_written("route_replace", route, result, now_ms);
        }
        for route in plan.remove {
            let result = kernel.remove_route(&route).await;
            self.metrics.operation("route_remove", result.is_ok());
            match result {
                Ok(()) | Err(KernelError::Gone) => {
                    info!(prefix = %route.prefix, table = route.table, "route taken back");
                    route::forget(&route, &mut self.held_routes);
                }
                Err(error) => self.route_refused(&route, error, now_ms),
            }
        }
    }

    fn route_is_due(&self, route: &HeldRoute, now_ms: u64) -> bool {
        self.route_retries.is_due(&route.prefix, now_ms)
    }

    fn route_written(
        &mut self,
        kind: &str,
        route: HeldRoute,
        result: Result<(), KernelError>,
        now_ms: u64,
    ) {
        self.metrics.operation(kind, result.is_ok());
        if let Err(error) = result {
            return self.route_refused(&route, error, now_ms);
        }
        info!(prefix = %route.prefix, via = ?route.via, table = route.table, "route written");
        route::note(route, &mut self.held_routes);
        self.route_retries.settled(&route.prefix);
        if let Some(shown) = self.published.routes.get_mut(&route.prefix) {
            shown.entry = Entry { state: RouteState::Installed, reason: None };
        }
    }

    fn route_refused(&mut self, route: &HeldRoute, error: KernelError, now_ms: u64) {
        if error == KernelError::Exists {
            self.routes_due = Due::All;
        }
        self.denied |= error == KernelError::Denied;
        warn!(prefix = %route.prefix, via = ?route.via, %error, "route not changed");
        if let Some(shown) = self.published.routes.get_mut(&route.prefix) {
            let reason = Some(error.to_string().into());
            shown.entry = Entry { state: RouteState::Failing, reason };
        }
        self.route_retries.refused(route.prefix, error.to_string(), now_ms, jitter());
    }
}
