//! The fields that are read of each kind, named as in the API.

use std::collections::BTreeMap;
use std::fmt;

use super::Meta;
use super::lax::{Lax, Shape};
use super::slim::{List, kinds, slim};

/// Text that never appears in a log: a Secret's value, base64.
#[derive(Clone, Default)]
pub(crate) struct Withheld(pub(crate) String);

impl fmt::Debug for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(withheld)")
    }
}

impl Shape for Withheld {
    fn from_text(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
}

/// `true` or `"true"`; everything else is no.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flag(pub(crate) bool);

impl Shape for Flag {
    fn from_bool(value: bool) -> Option<Self> {
        Some(Self(value))
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(Self(text == "true"))
    }
}

slim! {
    /// core/v1 Service.
    ServiceBody { metadata: Meta, spec: ServiceSpecBody, status: LoadBalanced }
    /// `Service.spec`.
    ServiceSpecBody {
        load_balancer_class: String,
        ports: List<ServicePortBody>,
        ip_families: List<String>,
        ip_family_policy: String,
        external_traffic_policy: String,
        traffic_distribution: String,
        session_affinity: String,
        session_affinity_config: SessionAffinityConfig,
        publish_not_ready_addresses: bool,
        selector: BTreeMap<String, Lax<String>>,
        load_balancer_source_ranges: List<String>,
        #[serde(rename = "type")]
        service_type: String,
        #[serde(rename = "loadBalancerIP")]
        load_balancer_ip: String,
    }
    /// `Service.spec.ports[]`.
    ServicePortBody {
        name: String,
        port: i64,
        protocol: String,
        app_protocol: String,
        node_port: i64,
    }
    /// `Service.spec.sessionAffinityConfig`.
    SessionAffinityConfig {
        #[serde(rename = "clientIP")]
        client_ip: ClientIpConfig,
    }
    /// `Service.spec.sessionAffinityConfig.clientIP`.
    ClientIpConfig { timeout_seconds: i64 }
    /// The `status` of Services and Ingresses.
    LoadBalanced { load_balancer: LoadBalancerStatus }
    /// `status.loadBalancer`.
    LoadBalancerStatus { ingress: List<LoadBalancerIngress> }
    /// `status.loadBalancer.ingress[]`.
    LoadBalancerIngress { ip: String, ip_mode: String, ports: List<PortStatusBody> }
    /// `status.loadBalancer.ingress[].ports[]`.
    PortStatusBody { port: i64, protocol: String, error: String }

    /// discovery.k8s.io/v1 EndpointSlice.
    SliceBody {
        metadata: Meta,
        address_type: String,
        endpoints: List<EndpointBody>,
        ports: List<SlicePortBody>,
    }
    /// `EndpointSlice.endpoints[]`.
    EndpointBody {
        addresses: List<String>,
        conditions: Conditions,
        hostname: String,
        node_name: String,
        zone: String,
        hints: EndpointHints,
        target_ref: TargetRef,
    }
    /// `EndpointSlice.endpoints[].hints`.
    EndpointHints { for_zones: List<ForZone> }
    /// `EndpointSlice.endpoints[].hints.forZones[]`.
    ForZone { name: String }
    /// `EndpointSlice.endpoints[].conditions`.
    Conditions { ready: bool, serving: bool, terminating: bool }
    /// `EndpointSlice.endpoints[].targetRef`.
    TargetRef { name: String }
    /// `EndpointSlice.ports[]`.
    SlicePortBody { name: String, port: i64, protocol: String }

    /// core/v1 Namespace.
    NamespaceBody { metadata: Meta }

    /// core/v1 Pod.
    PodBody { metadata: Meta, spec: PodSpecBody, status: PodStatusBody }
    /// `Pod.spec`.
    PodSpecBody { readiness_gates: List<ReadinessGate> }
    /// `Pod.spec.readinessGates[]`.
    ReadinessGate { condition_type: String }
    /// `Pod.status`.
    PodStatusBody {
        conditions: List<PodCondition>,
        #[serde(rename = "podIP")]
        pod_ip: String,
        #[serde(rename = "podIPs")]
        pod_ips: List<PodAddress>,
    }
    /// `Pod.status.conditions[]`.
    PodCondition {
        #[serde(rename = "type")]
        condition_type: String,
        status: String,
        reason: String,
    }
    /// `Pod.status.podIPs[]`.
    PodAddress { ip: String }

    /// core/v1 Node.
    NodeBody { metadata: Meta, spec: NodeSpecBody, status: NodeStatusBody }
    /// `Node.spec`.
    NodeSpecBody {
        #[serde(rename = "podCIDR")]
        pod_cidr: String,
        #[serde(rename = "podCIDRs")]
        pod_cidrs: List<String>,
    }
    /// `Node.status`.
    NodeStatusBody { addresses: List<NodeAddress>, conditions: List<NodeCondition> }
    /// `Node.status.conditions[]`.
    NodeCondition {
        status: String,
        #[serde(rename = "type")]
        condition_type: String,
    }
    /// `Node.status.addresses[]`.
    NodeAddress {
        address: String,
        #[serde(rename = "type")]
        address_type: String,
    }

    /// crd.projectcalico.org/v1 BlockAffinity.
    AffinityBody { metadata: Meta, spec: AffinitySpecBody }
    /// `BlockAffinity.spec`. Releases write `deleted` as text or as a bool.
    AffinitySpecBody {
        state: String,
        node: String,
        cidr: String,
        deleted: Flag,
        #[serde(rename = "type")]
        affinity_type: String,
    }

    /// cilium.io/v2 CiliumNode.
    CiliumNodeBody { metadata: Meta, spec: CiliumNodeSpecBody }
    /// `CiliumNode.spec`.
    CiliumNodeSpecBody { addresses: List<CiliumAddress>, ipam: CiliumIpam }
    /// `CiliumNode.spec.addresses[]`.
    CiliumAddress {
        ip: String,
        #[serde(rename = "type")]
        address_type: String,
    }
    /// `CiliumNode.spec.ipam`.
    CiliumIpam {
        #[serde(rename = "podCIDRs")]
        pod_cidrs: List<String>,
        pools: CiliumPools,
    }
    /// `CiliumNode.spec.ipam.pools`.
    CiliumPools { allocated: List<CiliumPool> }
    /// `CiliumNode.spec.ipam.pools.allocated[]`.
    CiliumPool { cidrs: List<String> }

    /// networking.k8s.io/v1 Ingress.
    IngressBody { metadata: Meta, spec: IngressSpecBody, status: LoadBalanced }
    /// `Ingress.spec`.
    IngressSpecBody {
        ingress_class_name: String,
        default_backend: IngressBackendBody,
        rules: List<IngressRuleBody>,
        tls: List<IngressTlsBody>,
    }
    /// `Ingress.spec.rules[]`.
    IngressRuleBody { host: String, http: IngressHttp }
    /// `Ingress.spec.rules[].http`.
    IngressHttp { paths: List<IngressPath> }
    /// `Ingress.spec.rules[].http.paths[]`.
    IngressPath { path: String, path_type: String, backend: IngressBackendBody }
    /// An Ingress backend.
    IngressBackendBody { service: IngressServiceBody, resource: TargetRef }
    /// `backend.service`.
    IngressServiceBody { name: String, port: IngressPortBody }
    /// `backend.service.port`.
    IngressPortBody { name: String, number: i64 }
    /// `Ingress.spec.tls[]`.
    IngressTlsBody { hosts: List<String>, secret_name: String }

    /// core/v1 Secret.
    SecretBody { metadata: Meta, data: CertificateData }
    /// `Secret.data` of type `kubernetes.io/tls`.
    CertificateData {
        #[serde(rename = "tls.crt")]
        chain: Withheld,
        #[serde(rename = "tls.key")]
        key: Withheld,
        #[serde(rename = "tls.ocsp")]
        ocsp: Withheld,
    }

    /// core/v1 Secret, for its certificates of authorities alone.
    AuthoritySecretBody {
        metadata: Meta,
        #[serde(rename = "type")]
        secret_type: String,
        data: EncodedAuthorities,
    }
    /// `Secret.data`.
    EncodedAuthorities {
        #[serde(rename = "ca.crt")]
        certificates: Withheld,
        #[serde(rename = "ca.crl")]
        revoked: Withheld,
    }

    /// core/v1 Secret, for its users alone.
    UserSecretBody { metadata: Meta, data: EncodedUsers }
    /// `Secret.data`.
    EncodedUsers { auth: Withheld }

    /// core/v1 ConfigMap, for its certificates of authorities alone.
    ConfigMapBody { metadata: Meta, data: AuthorityData }
    /// `ConfigMap.data`.
    AuthorityData {
        #[serde(rename = "ca.crt")]
        certificates: String,
        #[serde(rename = "ca.crl")]
        revoked: String,
    }
}

kinds! {
    ServiceBody: "", "v1", "Service", "services";
    SliceBody: "discovery.k8s.io", "v1", "EndpointSlice", "endpointslices";
    NamespaceBody: "", "v1", "Namespace", "namespaces";
    PodBody: "", "v1", "Pod", "pods";
    NodeBody: "", "v1", "Node", "nodes";
    IngressBody: "networking.k8s.io", "v1", "Ingress", "ingresses";
    SecretBody: "", "v1", "Secret", "secrets";
    AuthoritySecretBody: "", "v1", "Secret", "secrets";
    UserSecretBody: "", "v1", "Secret", "secrets";
    ConfigMapBody: "", "v1", "ConfigMap", "configmaps";
    AffinityBody: "crd.projectcalico.org", "v1", "BlockAffinity", "blockaffinities";
    CiliumNodeBody: "cilium.io", "v2", "CiliumNode", "ciliumnodes";
}
