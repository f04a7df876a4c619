//! Kubernetes objects of the scenarios, as JSON.

use serde_json::{Value, json};

use super::echo_ports::{HTTP, LINE, PROXIED};

/// The namespace that scenarios work in.
pub const NAMESPACE: &str = "default";
/// The class of Services that Haflinger serves.
pub const SERVICE_CLASS: &str = "haflinger.dev/edge";
/// The class of Ingresses that Haflinger serves.
pub const INGRESS_CLASS: &str = "haflinger";
/// How long a pod serves after it was deleted, in seconds.
pub const GRACE_SECS: u32 = 3;

/// A Deployment of echo servers, labelled `app: NAME`.
pub fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": GRACE_SECS,
                    "containers": [{
                        "name": "echo", "image": "echo",
                        "ports": [
                            {"name": "line", "containerPort": LINE},
                            {"name": "line-udp", "containerPort": LINE, "protocol": "UDP"},
                            {"name": "proxied", "containerPort": PROXIED},
                            {"name": "web", "containerPort": HTTP},
                        ],
                    }],
                },
            },
        },
    })
}

/// A dual-stack Service of type LoadBalancer for the pods of the Deployment `app`: ports 7000
/// (TCP and UDP, by name) and 80 (to the HTTP port).
pub fn service(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": {}},
        "spec": {
            "type": "LoadBalancer",
            "loadBalancerClass": SERVICE_CLASS,
            "allocateLoadBalancerNodePorts": false,
            "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": app},
            "ports": [
                {"name": "line", "port": LINE, "targetPort": "line", "protocol": "TCP"},
                {"name": "line-udp", "port": LINE, "targetPort": "line-udp", "protocol": "UDP"},
                {"name": "web", "port": 80, "targetPort": "web", "protocol": "TCP"},
            ],
        },
    })
}

/// The same Service with a further annotation.
pub fn annotated(mut object: Value, key: &str, value: &str) -> Value {
    object["metadata"]["annotations"][key] = value.into();
    object
}

/// A TLS Secret.
pub fn tls_secret(name: &str, chain_pem: &str, key_pem: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": chain_pem, "tls.key": key_pem},
    })
}

/// An Ingress that sends `host` to the port `web` of `service`, with a certificate.
pub fn ingress(name: &str, host: &str, service: &str, secret: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": {}},
        "spec": {
            "ingressClassName": INGRESS_CLASS,
            "tls": [{"hosts": [host], "secretName": secret}],
            "rules": [{
                "host": host,
                "http": {"paths": [{
                    "path": "/", "pathType": "Prefix",
                    "backend": {"service": {"name": service, "port": {"name": "web"}}},
                }]},
            }],
        },
    })
}

/// The path of an object of the core API in the scenarios' namespace.
pub fn core(plural: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/{plural}/{name}")
}

/// The path of a Deployment in the scenarios' namespace.
pub fn deployments(name: &str) -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}")
}
