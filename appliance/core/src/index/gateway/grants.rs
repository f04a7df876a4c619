//! Who may name what in another namespace (ReferenceGrant, GEP-709).

use std::sync::Arc;

use super::{GatewayApi, note};
use crate::{ObjectKind, ObjectRef, ReferenceGrantSpec};

/// The group of everything that may be granted something here.
const GROUP: &str = "gateway.networking.k8s.io";

/// What is named: of the core group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) kind: &'static str,
    pub(super) namespace: &'a Arc<str>,
    pub(super) name: &'a str,
}

impl GatewayApi {
    /// Whether `from` may name `to`, which is of the same source: it lies in its own namespace, or
    /// a grant there says so.
    pub(super) fn is_granted(&self, from: &ObjectRef, to: Named<'_>) -> bool {
        if from.namespace == *to.namespace {
            return true;
        }
        let first = ObjectRef::first_of(&from.source, ObjectKind::ReferenceGrant, to.namespace);
        let there = self.grants.range(&first..).take_while(|(grant, _)| {
            grant.source == from.source
                && grant.kind == ObjectKind::ReferenceGrant
                && grant.namespace == *to.namespace
        });
        let mut there = there.map(|(_, grant)| grant);
        there.any(|grant| {
            let from_fits = grant.from.iter().any(|granted| {
                &*granted.group == GROUP
                    && &*granted.kind == from.kind.api_kind()
                    && granted.namespace == from.namespace
            });
            from_fits
                && grant.to.iter().any(|granted| {
                    granted.group.is_empty()
                        && &*granted.kind == to.kind
                        && granted.name.as_deref().is_none_or(|name| name == to.name)
                })
        })
    }

    /// Notes what a grant says, and marks the Gateways that name something in its namespace.
    pub(super) fn note_grant(&mut self, grant: &ObjectRef, spec: Option<ReferenceGrantSpec>) {
        if note(&mut self.grants, grant, spec).is_none() {
            return;
        }
        let (source, namespace) = (&grant.source, &grant.namespace);
        let named = self.gateways.iter().filter(|(gateway, entry)| {
            gateway.source == *source && entry.built.uses.foreign.contains(namespace)
        });
        let named: Vec<ObjectRef> = named.map(|(gateway, _)| gateway.clone()).collect();
        self.stale.extend(named);
    }
}
