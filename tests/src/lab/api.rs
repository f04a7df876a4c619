//! The Kubernetes API as the lab's administrator: plain HTTPS and JSON.
//!
//! Requests run on a runtime inside the control plane's namespace, whoever asks.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::{Certificate, Identity, Method, StatusCode};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::Place;
use super::control::{ControlPlane, PORT};
use super::topology::CONTROL;

/// A request that takes longer has failed.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// How server-side apply calls whoever owns the fields that the lab sets.
const FIELD_OWNER: &str = "lab";

/// A client with all rights. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    client: reqwest::Client,
    base: String,
    inside: Handle,
}

/// An answer other than success.
#[derive(Debug)]
pub struct Refused {
    /// HTTP status.
    pub status: StatusCode,
    /// What the API server says.
    pub message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.status, self.message)
    }
}

impl std::error::Error for Refused {}

impl Api {
    /// A client for the lab's control plane, which must have written its certificates.
    pub fn new(place: &Place, inside: Handle) -> Result<Self> {
        let pki = ControlPlane::directory(place).join("pki");
        let read = |name: &str| {
            let path = pki.join(name);
            fs::read(&path).with_context(|| format!("read {}", path.display()))
        };
        let mut identity = read("admin.key")?;
        identity.extend(read("admin.crt")?);
        let client = reqwest::Client::builder()
            .add_root_certificate(Certificate::from_pem(&read("ca.crt")?)?)
            .identity(Identity::from_pem(&identity)?)
            .timeout(REQUEST_MAX)
            .no_proxy()
            .build()?;
        let base = format!("https://{}:{PORT}", IpAddr::from(CONTROL.v4()));
        Ok(Self { client, base, inside })
    }

    /// One request; `content_type` matters for patches.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Value> {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.header("content-type", content_type).body(body);
        }
        let exchange = async move {
            let response = request.send().await?;
            let status = response.status();
            anyhow::Ok((status, response.bytes().await?))
        };
        let (status, body) =
            self.inside.spawn(exchange).await?.with_context(|| format!("{method} {path}"))?;
        let value: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(value);
        }
        let message = value["message"]
            .as_str()
            .map_or_else(|| String::from_utf8_lossy(&body).into_owned(), str::to_owned);
        Err(Refused { status, message }).with_context(|| format!("{method} {path}"))
    }

    /// Reads an object or a list.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.request(Method::GET, path, "", None).await
    }

    /// Reads an object that may not exist.
    pub async fn find(&self, path: &str) -> Result<Option<Value>> {
        absent_as_none(self.get(path).await)
    }

    /// The items of a list.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>> {
        match self.get(path).await?["items"].take() {
            Value::Array(items) => Ok(items),
            other => bail!("{path} is no list: {other}"),
        }
    }

    /// Creates an object in the collection at `path`.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.request(Method::POST, path, "application/json", Some(serde_json::to_vec(object)?))
            .await
    }

    /// Creates or changes an object by server-side apply.
    pub async fn apply(&self, object: &Value) -> Result<Value> {
        let path = object_path(object)?;
        let path = format!("{path}?fieldManager={FIELD_OWNER}&force=true");
        let body = serde_json::to_vec(object)?;
        self.request(Method::PATCH, &path, "application/apply-patch+yaml", Some(body)).await
    }

    /// Changes an object by a merge patch.
    pub async fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        let body = Some(serde_json::to_vec(patch)?);
        self.request(Method::PATCH, path, "application/merge-patch+json", body).await
    }

    /// Changes an object by a patch that merges lists by their elements' keys.
    pub async fn merge_lists(&self, path: &str, patch: &Value) -> Result<Value> {
        let body = Some(serde_json::to_vec(patch)?);
        self.request(Method::PATCH, path, "application/strategic-merge-patch+json", body).await
    }

    /// Deletes an object; one that is gone already is as good.
    pub async fn delete(&self, path: &str) -> Result<()> {
        absent_as_none(self.request(Method::DELETE, path, "", None).await).map(|_| ())
    }

    /// Takes the very object `uid` out of the API at once, as a kubelet does at the end.
    pub async fn finish(&self, path: &str, uid: &str) -> Result<()> {
        let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
        let body = Some(serde_json::to_vec(&options)?);
        let answer = self.request(Method::DELETE, path, "application/json", body).await;
        absent_as_none(answer).map(|_| ())
    }

    /// Applies every document of a manifest file, such as packaging/kubernetes/rbac.yaml.
    pub async fn apply_manifest(&self, yaml: &str) -> Result<usize> {
        let mut applied = 0;
        for document in documents(yaml) {
            let head = document_head(document)?;
            let path = object_path(&head)?;
            let path = format!("{path}?fieldManager={FIELD_OWNER}&force=true");
            let body = Some(document.as_bytes().to_vec());
            self.request(Method::PATCH, &path, "application/apply-patch+yaml", body).await?;
            applied += 1;
        }
        Ok(applied)
    }

    /// Fetches a URL from the control plane's namespace, which has routes to all pods.
    pub async fn fetch(&self, method: Method, url: &str) -> Result<(StatusCode, String)> {
        let request = self.client.request(method, url);
        let exchange = async move {
            let response = request.send().await?;
            anyhow::Ok((response.status(), response.text().await?))
        };
        self.inside.spawn(exchange).await?.with_context(|| format!("fetch {url}"))
    }
}

fn absent_as_none(answer: Result<Value>) -> Result<Option<Value>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.downcast_ref::<Refused>() {
            // A conflict of the uid precondition: the object of that name is another one.
            Some(refused) if [404, 409].contains(&refused.status.as_u16()) => Ok(None),
            _ => Err(error),
        },
    }
}

/// The API path of an object, from its apiVersion, kind and metadata.
pub(super) fn object_path(object: &Value) -> Result<String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let kind = text("/kind").context("an object without kind")?;
    let version = text("/apiVersion").context("an object without apiVersion")?;
    let name = text("/metadata/name").context("an object without a name")?;
    let root = if version.contains('/') { "apis" } else { "api" };
    let plural = match kind.to_lowercase() {
        kind if kind.ends_with("ss") => format!("{kind}es"),
        kind => match kind.strip_suffix("cy") {
            Some(stem) => format!("{stem}cies"),
            None => format!("{kind}s"),
        },
    };
    let namespace = match kind {
        "Namespace"
        | "Node"
        | "ClusterRole"
        | "ClusterRoleBinding"
        | "GatewayClass"
        | "CustomResourceDefinition" => String::new(),
        kind if kind.starts_with("ValidatingAdmissionPolicy") => String::new(),
        _ => format!("/namespaces/{}", text("/metadata/namespace").unwrap_or("default")),
    };
    Ok(format!("/{root}/{version}{namespace}/{plural}/{name}"))
}

fn documents(yaml: &str) -> impl Iterator<Item = &str> {
    yaml.split("\n---").filter(|document| document.contains("kind:"))
}

/// apiVersion, kind, name and namespace of a YAML document, each on a line of its own as
/// manifests are written.
fn document_head(document: &str) -> Result<Value> {
    let value = |key: &str| {
        document.lines().find_map(|line| {
            let value = line.strip_prefix(key)?.trim();
            Some(value.trim_matches('"').to_owned())
        })
    };
    let kind = value("kind:").context("a document without kind")?;
    let version = value("apiVersion:").context("a document without apiVersion")?;
    let name = value("  name:").context("a document without a name")?;
    let mut head = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
    if let Some(namespace) = value("  namespace:") {
        head["metadata"]["namespace"] = namespace.into();
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_version_kind_and_namespace() {
        let path = |version: &str, kind: &str, namespace: Option<&str>| {
            object_path(&json!({
                "apiVersion": version, "kind": kind,
                "metadata": {"name": "x", "namespace": namespace},
            }))
            .expect("a complete object")
        };
        assert_eq!(path("v1", "Node", None), "/api/v1/nodes/x");
        assert_eq!(path("v1", "Service", None), "/api/v1/namespaces/default/services/x");
        assert_eq!(
            path("gateway.networking.k8s.io/v1", "BackendTLSPolicy", Some("shop")),
            "/apis/gateway.networking.k8s.io/v1/namespaces/shop/backendtlspolicies/x"
        );
        assert_eq!(
            path("gateway.networking.k8s.io/v1", "GatewayClass", None),
            "/apis/gateway.networking.k8s.io/v1/gatewayclasses/x"
        );
        assert_eq!(
            path("networking.k8s.io/v1", "Ingress", Some("shop")),
            "/apis/networking.k8s.io/v1/namespaces/shop/ingresses/x"
        );
    }

    #[test]
    fn manifests_are_split_and_their_heads_read() {
        let yaml = "# comment\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata:\n  \
                    name: haflinger\n  namespace: \"edge\"\n---\n# nothing\n";
        let all: Vec<&str> = documents(yaml).collect();
        assert_eq!(all.len(), 1);
        let head = document_head(all[0]).expect("a head");
        assert_eq!(
            object_path(&head).expect("a path"),
            "/api/v1/namespaces/edge/serviceaccounts/haflinger"
        );
    }
}
