//! Every annotation that is read. An object gives an annotation for a [`Name`] alone, so nothing
//! is read that is not listed here; docs/honours.md lists the same, which a test compares.

use std::fmt;

/// The full name of an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name(&'static str);

impl Name {
    pub(crate) fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

macro_rules! names {
    ($($constant:ident = $text:literal;)*) => {
        impl Name {
            $(pub(crate) const $constant: Self = Self($text);)*
            /// All of them.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$constant),*];
        }
    };
}

names! {
    ADDRESS = "haflinger.dev/address";
    POOL = "haflinger.dev/pool";
    SHARING_KEY = "haflinger.dev/sharing-key";
    SHARING_NAMESPACES = "haflinger.dev/sharing-namespaces";
    SHARED = "haflinger.dev/shared";
    CLUSTER_WEIGHT = "haflinger.dev/cluster-weight";
    CLUSTER_PRIORITY = "haflinger.dev/cluster-priority";
    MODE = "haflinger.dev/mode";
    TARGETS = "haflinger.dev/targets";
    ALGORITHM = "haflinger.dev/algorithm";
    CONNECTIONS_MAX = "haflinger.dev/connections-max";
    BACKEND_CONNECTIONS_MAX = "haflinger.dev/backend-connections-max";
    IDLE_TIMEOUT = "haflinger.dev/idle-timeout";
    UDP_TIMEOUT = "haflinger.dev/udp-timeout";
    PROXY_PROTOCOL = "haflinger.dev/proxy-protocol";
    HEALTH_CHECK = "haflinger.dev/health-check";
    HEALTH_CHECK_HOST = "haflinger.dev/health-check-host";
    HEALTH_CHECK_PORT = "haflinger.dev/health-check-port";
    HEALTH_CHECK_INTERVAL = "haflinger.dev/health-check-interval";
    HEALTH_CHECK_TIMEOUT = "haflinger.dev/health-check-timeout";
    HEALTH_CHECK_RISE = "haflinger.dev/health-check-rise";
    HEALTH_CHECK_FALL = "haflinger.dev/health-check-fall";
    HOSTNAME = "haflinger.dev/hostname";
    TTL = "haflinger.dev/ttl";
    // external-dns renamed its prefix in 0.22; both are in use.
    EXTERNAL_DNS_HOSTNAME = "external-dns.kubernetes.io/hostname";
    EXTERNAL_DNS_TTL = "external-dns.kubernetes.io/ttl";
    EXTERNAL_DNS_ALPHA_HOSTNAME = "external-dns.alpha.kubernetes.io/hostname";
    EXTERNAL_DNS_ALPHA_TTL = "external-dns.alpha.kubernetes.io/ttl";
    // What other load balancers are asked about addresses. Both renamed their prefixes.
    METALLB_ADDRESSES = "metallb.io/loadBalancerIPs";
    METALLB_OLD_ADDRESSES = "metallb.universe.tf/loadBalancerIPs";
    METALLB_POOL = "metallb.io/address-pool";
    METALLB_OLD_POOL = "metallb.universe.tf/address-pool";
    METALLB_SHARING = "metallb.io/allow-shared-ip";
    METALLB_OLD_SHARING = "metallb.universe.tf/allow-shared-ip";
    CILIUM_ADDRESSES = "lbipam.cilium.io/ips";
    CILIUM_OLD_ADDRESSES = "io.cilium/lb-ipam-ips";
    CILIUM_SHARING = "lbipam.cilium.io/sharing-key";
    CILIUM_OLD_SHARING = "io.cilium/lb-ipam-sharing-key";
    CILIUM_NAMESPACES = "lbipam.cilium.io/sharing-cross-namespace";
    CILIUM_OLD_NAMESPACES = "io.cilium/lb-ipam-sharing-cross-namespace";
    KUBE_VIP_ADDRESSES = "kube-vip.io/loadbalancerIPs";
    // What is asked of kube-vip and refused.
    KUBE_VIP_HOSTNAME = "kube-vip.io/loadbalancerHostname";
    KUBE_VIP_INTERFACE = "kube-vip.io/serviceInterface";
    KUBE_VIP_EGRESS = "kube-vip.io/egress";
    KUBE_VIP_UPNP = "kube-vip.io/forwardUPNP";
    // What a field was before it became one.
    LEGACY_SOURCE_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges";
    LEGACY_INGRESS_CLASS = "kubernetes.io/ingress.class";
    // What pod networks write at Nodes; Cilium renamed its own in 1.13.
    CILIUM_V4 = "network.cilium.io/ipv4-pod-cidr";
    CILIUM_V6 = "network.cilium.io/ipv6-pod-cidr";
    CILIUM_OLD_V4 = "io.cilium.network.ipv4-pod-cidr";
    CILIUM_OLD_V6 = "io.cilium.network.ipv6-pod-cidr";
    OVN_SUBNETS = "k8s.ovn.org/node-subnets";
}
