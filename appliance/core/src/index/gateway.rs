//! What Gateway API objects say, as it was last said.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{
    AuthorityRef, AuthoritySpec, BackendTlsPolicySpec, GatewayClassSpec, GatewaySpec,
    ListenerSetSpec, ObjectRef, ReferenceGrantSpec, RouteSpec, SourceId, SourceUpdate,
};

/// Objects of the Gateway API, by name.
#[derive(Default)]
pub(super) struct GatewayApi {
    classes: BTreeMap<ObjectRef, Arc<GatewayClassSpec>>,
    gateways: BTreeMap<ObjectRef, Arc<GatewaySpec>>,
    listener_sets: BTreeMap<ObjectRef, Arc<ListenerSetSpec>>,
    routes: BTreeMap<ObjectRef, Arc<RouteSpec>>,
    grants: BTreeMap<ObjectRef, Arc<ReferenceGrantSpec>>,
    tls_policies: BTreeMap<ObjectRef, Arc<BackendTlsPolicySpec>>,
    authorities: BTreeMap<AuthorityRef, Arc<AuthoritySpec>>,
}

impl GatewayApi {
    /// Notes what a source says of such an object; of another nothing.
    pub(super) fn note(&mut self, update: SourceUpdate) {
        match update {
            SourceUpdate::GatewayClass { object, spec } => note(&mut self.classes, object, spec),
            SourceUpdate::Gateway { object, spec } => note(&mut self.gateways, object, spec),
            SourceUpdate::ListenerSet { object, spec } => {
                note(&mut self.listener_sets, object, spec);
            }
            SourceUpdate::Route { object, spec } => note(&mut self.routes, object, spec),
            SourceUpdate::ReferenceGrant { object, spec } => note(&mut self.grants, object, spec),
            SourceUpdate::BackendTlsPolicy { object, spec } => {
                note(&mut self.tls_policies, object, spec);
            }
            SourceUpdate::Authority { authority, material } => {
                note(&mut self.authorities, authority, material);
            }
            _ => {}
        }
    }

    /// Forgets everything that a source said.
    pub(super) fn forget_source(&mut self, source: &SourceId) {
        self.classes.retain(|object, _| object.source != *source);
        self.gateways.retain(|object, _| object.source != *source);
        self.listener_sets.retain(|object, _| object.source != *source);
        self.routes.retain(|object, _| object.source != *source);
        self.grants.retain(|object, _| object.source != *source);
        self.tls_policies.retain(|object, _| object.source != *source);
        self.authorities.retain(|authority, _| authority.source != *source);
    }
}

fn note<K: Ord, V>(map: &mut BTreeMap<K, Arc<V>>, key: K, value: Option<Box<V>>) {
    match value {
        Some(value) => drop(map.insert(key, Arc::from(value))),
        None => drop(map.remove(&key)),
    }
}
