//! What one object of a cluster tells the core: its name there, and what its kind says.
//!
//! `None` means that the object says nothing to us; the feed then takes back what it said
//! before.

use haflinger_core::{CertificateRef, ObjectRef, PodRef, RouteOrigin, SourceId, SourceUpdate};

use super::{Claims, SERVICE_NAME_LABEL};
use crate::ledger::Watched;
use crate::objects::{
    AffinityBody, CiliumNodeBody, IngressBody, Kind, NamespaceBody, NodeBody, Object, PodBody,
    SecretBody, ServiceBody, SliceBody,
};
use crate::settings::ClusterSettings;

/// Reads an object of one kind.
pub(crate) type Translate<B> = fn(&Object<B>, &SourceId, &Claims) -> Option<SourceUpdate>;

/// Every Service is told, also those that are not of our class.
pub(crate) fn service(
    object: &Object<ServiceBody>,
    source: &SourceId,
    claims: &Claims,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::Service {
        object: ObjectRef::service(source, object.namespace(), object.name()),
        spec: Some(Box::new(super::service(object, claims))),
    })
}

/// A slice is told under the Service that its label names.
pub(crate) fn slice(
    object: &Object<SliceBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    let service = object.label(SERVICE_NAME_LABEL)?;
    Some(SourceUpdate::Slice {
        service: ObjectRef::service(source, object.namespace(), service),
        slice: object.name().into(),
        content: Some(Box::new(super::slice(object))),
    })
}

/// Every Node is told.
pub(crate) fn node(
    object: &Object<NodeBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::Node {
        source: source.clone(),
        name: object.name().into(),
        spec: Some(Box::new(super::node(object))),
    })
}

/// Every Namespace is told.
pub(crate) fn namespace(
    object: &Object<NamespaceBody>,
    source: &SourceId,
    claims: &Claims,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::Namespace {
        source: source.clone(),
        name: object.name().into(),
        spec: Some(Box::new(super::namespace(object, &claims.labels))),
    })
}

/// A pod is told while it lacks nothing but our gate.
pub(crate) fn pod(object: &Object<PodBody>, source: &SourceId, _: &Claims) -> Option<SourceUpdate> {
    Some(SourceUpdate::Pod {
        pod: PodRef {
            source: source.clone(),
            namespace: object.namespace().into(),
            name: object.name().into(),
        },
        spec: Some(Box::new(super::pod(object)?)),
    })
}

/// A block that Calico has given to a node.
pub(crate) fn block_affinity(
    object: &Object<AffinityBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::PodNetwork {
        source: source.clone(),
        origin: RouteOrigin::Calico,
        name: object.name().into(),
        spec: Some(Box::new(super::block_affinity(object)?)),
    })
}

/// Every CiliumNode is told.
pub(crate) fn cilium_node(
    object: &Object<CiliumNodeBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::PodNetwork {
        source: source.clone(),
        origin: RouteOrigin::Cilium,
        name: object.name().into(),
        spec: Some(Box::new(super::cilium_node(object)?)),
    })
}

/// An Ingress is told when it is of our class.
pub(crate) fn ingress(
    object: &Object<IngressBody>,
    source: &SourceId,
    claims: &Claims,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::Ingress {
        object: ObjectRef::ingress(source, object.namespace(), object.name()),
        spec: Some(Box::new(super::ingress(object, source, claims)?)),
    })
}

/// Every Secret is told: the server was asked for those of type `kubernetes.io/tls` alone.
pub(crate) fn certificate(
    object: &Object<SecretBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::Certificate {
        certificate: CertificateRef {
            source: source.clone(),
            namespace: object.namespace().into(),
            name: object.name().into(),
        },
        material: Some(Box::new(super::certificate(object))),
    })
}

/// Tells what one object of a cluster means, as its watch hears it: total for any bytes, and
/// without I/O. `json` is the object as the API writes it in a list or an event.
///
/// `None` when it says nothing: an object without a name, an Ingress of another class, an
/// EndpointSlice of no Service. What cannot be used in an object is a fault in the update.
///
/// # Errors
/// The bytes are no JSON.
pub fn translate_object(
    watched: Watched,
    json: &[u8],
    cluster: &ClusterSettings,
) -> Result<Option<SourceUpdate>, serde_json::Error> {
    match watched {
        Watched::Services => read(json, cluster, service),
        Watched::Slices => read(json, cluster, slice),
        Watched::Nodes => read(json, cluster, node),
        Watched::Ingresses => read(json, cluster, ingress),
        Watched::Certificates => read(json, cluster, certificate),
        Watched::Namespaces => read(json, cluster, namespace),
        Watched::BlockAffinities => read(json, cluster, block_affinity),
        Watched::CiliumNodes => read(json, cluster, cilium_node),
        Watched::Pods => read(json, cluster, pod),
        _ => Ok(None),
    }
}

fn read<B: Kind>(
    json: &[u8],
    cluster: &ClusterSettings,
    translate: Translate<B>,
) -> Result<Option<SourceUpdate>, serde_json::Error> {
    let object: Object<B> = serde_json::from_slice(json)?;
    if object.name().is_empty() {
        return Ok(None);
    }
    Ok(translate(&object, &cluster.source(), &Claims::of(cluster)))
}
