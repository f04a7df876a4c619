//! The fields that are read of the kinds of the Gateway API that are no routes, named as in the
//! API (gateway.networking.k8s.io/v1).

use std::collections::BTreeMap;

use super::lax::Lax;
use super::slim::{List, kinds, slim};
use super::{Meta, RouteParentBody};

slim! {
    /// GatewayClass.
    GatewayClassBody { metadata: Meta, spec: GatewayClassSpecBody, status: GatewayClassStatus }
    /// `GatewayClass.spec`.
    GatewayClassSpecBody { controller_name: String, parameters_ref: ReferenceBody }
    /// `GatewayClass.status`.
    GatewayClassStatus {
        conditions: List<ConditionBody>,
        supported_features: List<SupportedFeature>,
    }
    /// `GatewayClass.status.supportedFeatures[]`.
    SupportedFeature { name: String }

    /// Gateway.
    GatewayBody { metadata: Meta, spec: GatewaySpecBody, status: GatewayStatusBody }
    /// `Gateway.spec`.
    GatewaySpecBody {
        gateway_class_name: String,
        listeners: List<ListenerBody>,
        addresses: List<GatewayAddress>,
        infrastructure: GatewayInfrastructure,
        allowed_listeners: AllowedListeners,
        tls: GatewayTls,
        default_scope: String,
    }
    /// `Gateway.spec.addresses[]`, `Gateway.status.addresses[]`.
    GatewayAddress {
        value: String,
        #[serde(rename = "type")]
        address_type: String,
    }
    /// `Gateway.spec.infrastructure`.
    GatewayInfrastructure { parameters_ref: LocalReferenceBody }
    /// `Gateway.spec.allowedListeners`.
    AllowedListeners { namespaces: NamespacesBody }
    /// `namespaces` of what may attach.
    NamespacesBody { from: String, selector: SelectorBody }
    /// A LabelSelector.
    SelectorBody {
        match_labels: BTreeMap<String, Lax<String>>,
        match_expressions: List<SelectorRequirement>,
    }
    /// `selector.matchExpressions[]`.
    SelectorRequirement { key: String, operator: String, values: List<String> }
    /// `Gateway.spec.tls`.
    GatewayTls { backend: GatewayBackendTls, frontend: GatewayFrontendTls }
    /// `Gateway.spec.tls.backend`.
    GatewayBackendTls { client_certificate_ref: ReferenceBody }
    /// `Gateway.spec.tls.frontend`.
    GatewayFrontendTls { default: FrontendTls, per_port: List<FrontendPort> }
    /// `Gateway.spec.tls.frontend.perPort[]`.
    FrontendPort { port: i64, tls: FrontendTls }
    /// What is asked of clients.
    FrontendTls { validation: FrontendValidation }
    /// `validation`.
    FrontendValidation {
        #[serde(rename = "caCertificateRefs")]
        authorities: List<ReferenceBody>,
        mode: String,
    }
    /// `spec.listeners[]`.
    ListenerBody {
        name: String,
        hostname: String,
        port: i64,
        protocol: String,
        tls: ListenerTls,
        allowed_routes: AllowedRoutes,
    }
    /// `spec.listeners[].tls`.
    ListenerTls {
        mode: String,
        certificate_refs: List<ReferenceBody>,
        options: BTreeMap<String, Lax<String>>,
    }
    /// `spec.listeners[].allowedRoutes`.
    AllowedRoutes { namespaces: NamespacesBody, kinds: List<GroupKindBody> }
    /// A kind of route.
    GroupKindBody { group: String, kind: String }
    /// `Gateway.status`.
    GatewayStatusBody {
        addresses: List<GatewayAddress>,
        conditions: List<ConditionBody>,
        listeners: List<ListenerStatusBody>,
        attached_listener_sets: i64,
    }
    /// `status.listeners[]`.
    ListenerStatusBody {
        name: String,
        supported_kinds: List<GroupKindBody>,
        attached_routes: i64,
        conditions: List<ConditionBody>,
    }

    /// ListenerSet.
    ListenerSetBody { metadata: Meta, spec: ListenerSetSpecBody, status: ListenerSetStatus }
    /// `ListenerSet.spec`.
    ListenerSetSpecBody { parent_ref: ReferenceBody, listeners: List<ListenerBody> }
    /// `ListenerSet.status`.
    ListenerSetStatus { conditions: List<ConditionBody>, listeners: List<ListenerStatusBody> }

    /// ReferenceGrant.
    ReferenceGrantBody { metadata: Meta, spec: ReferenceGrantSpecBody }
    /// `ReferenceGrant.spec`.
    ReferenceGrantSpecBody { from: List<GrantFromBody>, to: List<GrantToBody> }
    /// `ReferenceGrant.spec.from[]`.
    GrantFromBody { group: String, kind: String, namespace: String }
    /// `ReferenceGrant.spec.to[]`.
    GrantToBody { group: String, kind: String, name: String }

    /// BackendTLSPolicy.
    BackendTlsPolicyBody { metadata: Meta, spec: BackendTlsPolicySpecBody, status: PolicyStatusBody }
    /// `BackendTLSPolicy.spec`.
    BackendTlsPolicySpecBody { target_refs: List<PolicyTarget>, validation: BackendValidation }
    /// `BackendTLSPolicy.spec.targetRefs[]`.
    PolicyTarget { group: String, kind: String, name: String, section_name: String }
    /// `BackendTLSPolicy.spec.validation`.
    BackendValidation {
        #[serde(rename = "caCertificateRefs")]
        authorities: List<LocalReferenceBody>,
        #[serde(rename = "wellKnownCACertificates")]
        well_known_authorities: String,
        hostname: String,
        subject_alt_names: List<SubjectAltName>,
    }
    /// `BackendTLSPolicy.spec.validation.subjectAltNames[]`.
    SubjectAltName {
        hostname: String,
        uri: String,
        #[serde(rename = "type")]
        name_type: String,
    }
    /// `BackendTLSPolicy.status`.
    PolicyStatusBody { ancestors: List<PolicyAncestor> }
    /// `BackendTLSPolicy.status.ancestors[]`.
    PolicyAncestor {
        ancestor_ref: RouteParentBody,
        controller_name: String,
        conditions: List<ConditionBody>,
    }

    /// A reference that may cross namespaces.
    ReferenceBody { group: String, kind: String, name: String, namespace: String }
    /// A reference within a namespace.
    LocalReferenceBody { group: String, kind: String, name: String }
    /// A condition.
    ConditionBody {
        status: String,
        reason: String,
        message: String,
        observed_generation: i64,
        #[serde(rename = "type")]
        condition_type: String,
    }
}

kinds! {
    GatewayClassBody: "gateway.networking.k8s.io", "v1", "GatewayClass", "gatewayclasses";
    GatewayBody: "gateway.networking.k8s.io", "v1", "Gateway", "gateways";
    ListenerSetBody: "gateway.networking.k8s.io", "v1", "ListenerSet", "listenersets";
    ReferenceGrantBody: "gateway.networking.k8s.io", "v1", "ReferenceGrant", "referencegrants";
    BackendTlsPolicyBody: "gateway.networking.k8s.io", "v1", "BackendTLSPolicy",
        "backendtlspolicies";
}
