//! What one object of a cluster tells the core: its name there, and what its kind says.
//!
//! `None` means that the object says nothing to us; the feed then takes back what it said
//! before.

use std::sync::Arc;

use haflinger_core::{
    AuthorityKind, AuthorityRef, AuthoritySpec, CertificateRef, ObjectKind, ObjectRef, PodRef,
    RouteOrigin, RouteSpec, SecretRef, SourceId, SourceUpdate,
};

use super::{Claims, SERVICE_NAME_LABEL, authority, gateway};
use crate::ledger::Watched;
use crate::objects::{
    AffinityBody, AuthoritySecretBody, BackendPolicyBody, BackendTlsPolicyBody, CiliumNodeBody,
    ConfigMapBody, GatewayBody, GatewayClassBody, GrpcRouteBody, HttpRouteBody, IngressBody, Kind,
    ListenerSetBody, NamespaceBody, NodeBody, Object, PodBody, ReferenceGrantBody,
    RequestPolicyBody, SecretBody, ServiceBody, SliceBody, TcpRouteBody, TlsRouteBody,
    UdpRouteBody, UserSecretBody,
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

/// A GatewayClass is told when its controller is ours.
pub(crate) fn gateway_class(
    object: &Object<GatewayClassBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::GatewayClass {
        object: named(object, source, ObjectKind::GatewayClass),
        spec: Some(Box::new(gateway::gateway_class(object)?)),
    })
}

/// Every Gateway is told: which class is ours may be known later.
pub(crate) fn gateway(
    object: &Object<GatewayBody>,
    source: &SourceId,
    claims: &Claims,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::Gateway {
        object: named(object, source, ObjectKind::Gateway),
        spec: Some(Box::new(gateway::gateway(object, source, claims)?)),
    })
}

/// Every ListenerSet of a Gateway is told.
pub(crate) fn listener_set(
    object: &Object<ListenerSetBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::ListenerSet {
        object: named(object, source, ObjectKind::ListenerSet),
        spec: Some(Box::new(gateway::listener_set(object, source)?)),
    })
}

/// Every HTTPRoute is told, also one without a parent of ours: its status may still name one.
pub(crate) fn http_route(
    object: &Object<HttpRouteBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    route(object, source, ObjectKind::HttpRoute, gateway::http_route(object, source)?)
}

/// As HTTPRoutes.
pub(crate) fn grpc_route(
    object: &Object<GrpcRouteBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    route(object, source, ObjectKind::GrpcRoute, gateway::grpc_route(object, source)?)
}

/// As HTTPRoutes.
pub(crate) fn tls_route(
    object: &Object<TlsRouteBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    route(object, source, ObjectKind::TlsRoute, gateway::stream_route(object, source)?)
}

/// As HTTPRoutes.
pub(crate) fn tcp_route(
    object: &Object<TcpRouteBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    route(object, source, ObjectKind::TcpRoute, gateway::stream_route(object, source)?)
}

/// As HTTPRoutes.
pub(crate) fn udp_route(
    object: &Object<UdpRouteBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    route(object, source, ObjectKind::UdpRoute, gateway::stream_route(object, source)?)
}

/// Every ReferenceGrant is told.
pub(crate) fn reference_grant(
    object: &Object<ReferenceGrantBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::ReferenceGrant {
        object: named(object, source, ObjectKind::ReferenceGrant),
        spec: Some(Box::new(gateway::reference_grant(object)?)),
    })
}

/// Every BackendTLSPolicy is told.
pub(crate) fn backend_tls_policy(
    object: &Object<BackendTlsPolicyBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::BackendTlsPolicy {
        object: named(object, source, ObjectKind::BackendTlsPolicy),
        spec: Some(Box::new(gateway::backend_tls_policy(object, source)?)),
    })
}

/// Every RequestPolicy is told.
pub(crate) fn request_policy(
    object: &Object<RequestPolicyBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::RequestPolicy {
        object: named(object, source, ObjectKind::RequestPolicy),
        spec: Some(Box::new(gateway::request_policy(object, source)?)),
    })
}

/// Every BackendPolicy is told.
pub(crate) fn backend_policy(
    object: &Object<BackendPolicyBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::BackendPolicy {
        object: named(object, source, ObjectKind::BackendPolicy),
        spec: Some(Box::new(gateway::backend_policy(object, source)?)),
    })
}

/// A ConfigMap is told when it has certificates of authorities.
pub(crate) fn authority_map(
    object: &Object<ConfigMapBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    let material = authority::config_map(object)?;
    Some(of_authority(object, source, AuthorityKind::ConfigMap, material))
}

/// A Secret is told when it has certificates of authorities that somebody may name.
pub(crate) fn authority_secret(
    object: &Object<AuthoritySecretBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    let material = authority::secret(object)?;
    Some(of_authority(object, source, AuthorityKind::Secret, material))
}

/// A Secret is told when it has users.
pub(crate) fn user_list(
    object: &Object<UserSecretBody>,
    source: &SourceId,
    _: &Claims,
) -> Option<SourceUpdate> {
    let list = super::users(object)?;
    let (namespace, name) = (object.namespace().into(), object.name().into());
    let secret = SecretRef { source: source.clone(), namespace, name };
    Some(SourceUpdate::UserList { secret, list: Some(Arc::new(list)) })
}

fn named<B>(object: &Object<B>, source: &SourceId, kind: ObjectKind) -> ObjectRef {
    ObjectRef::of_kind(source, kind, object.namespace(), object.name())
}

fn route<B>(
    object: &Object<B>,
    source: &SourceId,
    kind: ObjectKind,
    spec: RouteSpec,
) -> Option<SourceUpdate> {
    Some(SourceUpdate::Route { object: named(object, source, kind), spec: Some(Box::new(spec)) })
}

fn of_authority<B>(
    object: &Object<B>,
    source: &SourceId,
    kind: AuthorityKind,
    material: AuthoritySpec,
) -> SourceUpdate {
    SourceUpdate::Authority {
        authority: AuthorityRef {
            source: source.clone(),
            kind,
            namespace: object.namespace().into(),
            name: object.name().into(),
        },
        material: Some(Box::new(material)),
    }
}

/// Tells what one object of a cluster means, as its watch hears it: total for any bytes, and
/// without I/O. `json` is the object as the API writes it in a list or an event.
///
/// `None` when it says nothing: an object without a name, an Ingress of another class, an
/// EndpointSlice of no Service, a ConfigMap without certificates. What cannot be used in an object is a fault in the update.
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
        Watched::GatewayClasses => read(json, cluster, gateway_class),
        Watched::Gateways => read(json, cluster, gateway),
        Watched::ListenerSets => read(json, cluster, listener_set),
        Watched::HttpRoutes => read(json, cluster, http_route),
        Watched::GrpcRoutes => read(json, cluster, grpc_route),
        Watched::TlsRoutes => read(json, cluster, tls_route),
        Watched::TcpRoutes => read(json, cluster, tcp_route),
        Watched::UdpRoutes => read(json, cluster, udp_route),
        Watched::ReferenceGrants => read(json, cluster, reference_grant),
        Watched::BackendTlsPolicies => read(json, cluster, backend_tls_policy),
        Watched::RequestPolicies => read(json, cluster, request_policy),
        Watched::BackendPolicies => read(json, cluster, backend_policy),
        Watched::AuthorityMaps => read(json, cluster, authority_map),
        Watched::AuthoritySecrets => read(json, cluster, authority_secret),
        Watched::UserLists => read(json, cluster, user_list),
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
