//! What the account may do in its cluster, asked of the server itself.
//!
//! A right that is missing shows where it is needed, as an answer 403, and that may be late: when an
//! object changes, or when a server is older than the last one. So the server is asked about all of
//! them (SelfSubjectAccessReview, which every account may create), and what is lost without one that
//! is missing is named before anybody misses it. Nothing waits for the answers.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Serialize;

use crate::access::describe;
use crate::connection::Forbidden;

/// How often the server is asked while nothing is missing: some twenty small requests each time.
const ASK_EVERY: Duration = Duration::from_secs(300);

/// How often while something is, or when the server has just refused something: somebody may be at
/// work on the rights.
const ASK_AGAIN: Duration = Duration::from_secs(20);

/// One thing that an account may do. docs: packaging/kubernetes/README.md, "Rights".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// `get`, `list`, `watch`, `create`, `update` or `patch`.
    pub verb: &'static str,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// The resource, with its subresource behind a slash.
    pub resource: &'static str,
    /// Where it is needed.
    pub place: Place,
    /// What is lost without it.
    pub without: &'static str,
}

/// Where a right is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the whole cluster.
    Everywhere,
    /// In one namespace: that of the Lease.
    Namespace,
    /// For one object: the Lease.
    Object,
}

/// A right that the account lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct MissingRight {
    /// As in `watch endpointslices.discovery.k8s.io`.
    pub right: String,
    /// What is lost without it.
    pub disables: &'static str,
}

impl Right {
    fn missing(&self) -> MissingRight {
        MissingRight { right: self.to_string(), disables: self.without }
    }
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (resource, below) = self.resource.split_once('/').unwrap_or((self.resource, ""));
        write!(f, "{} {resource}", self.verb)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if below.is_empty() { Ok(()) } else { write!(f, "/{below}") }
    }
}

/// Asks about rights for as long as it is polled, and tells which are missing.
pub struct Inspection {
    /// Of the account that is asked about.
    pub client: Client,
    /// When the server refuses something, by [`crate::Keeper::forbidden`].
    pub forbidden: Forbidden,
    /// Namespace and name of the one object that some rights are for.
    pub object: (String, String),
}

impl Inspection {
    /// Asks again and again; which rights matter is asked each time. May be dropped at any await.
    pub async fn run(self, rights: impl Fn() -> Vec<Right>, tell: impl Fn(Vec<MissingRight>)) {
        loop {
            let wait = match self.missing(&rights()).await {
                Ok(missing) => {
                    let wait = if missing.is_empty() { ASK_EVERY } else { ASK_AGAIN };
                    tell(missing);
                    wait
                }
                // Whoever needs the server says that it is away.
                Err(error) => {
                    tracing::debug!(error = describe(&error), "rights cannot be asked about");
                    ASK_AGAIN
                }
            };
            let jitter = rand::random_range(0.8..=1.0);
            tokio::time::sleep(ASK_AGAIN.mul_f64(jitter)).await;
            tokio::select! {
                () = tokio::time::sleep((wait - ASK_AGAIN).mul_f64(jitter)) => {}
                () = self.forbidden.noticed() => {}
            }
        }
    }

    async fn missing(&self, rights: &[Right]) -> kube::Result<Vec<MissingRight>> {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let mut missing = Vec::new();
        for right in rights {
            let review = self.review(right);
            match reviews.create(&PostParams::default(), &review).await {
                Ok(review) if review.status.as_ref().is_some_and(|status| status.allowed) => {}
                Ok(_) => missing.push(right.missing()),
                // Not even that may be asked: the account lacks what every account has.
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    return Ok(vec![MissingRight {
                        right: "create selfsubjectaccessreviews.authorization.k8s.io".to_owned(),
                        disables: "knowing which rights are missing",
                    }]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }

    fn review(&self, right: &Right) -> SelfSubjectAccessReview {
        let (resource, below) = right.resource.split_once('/').unwrap_or((right.resource, ""));
        let (namespace, name) = match right.place {
            Place::Everywhere => (None, None),
            Place::Namespace => (Some(self.object.0.clone()), None),
            Place::Object => (Some(self.object.0.clone()), Some(self.object.1.clone())),
        };
        SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(right.verb.to_owned()),
                    group: Some(right.group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: Some(below.to_owned()).filter(|below| !below.is_empty()),
                    namespace,
                    name,
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_written_as_kubectl_does() {
        let right = |group, resource| Right {
            verb: "patch",
            group,
            resource,
            place: Place::Everywhere,
            without: "",
        };
        assert_eq!(right("", "services/status").to_string(), "patch services/status");
        let ingresses = right("networking.k8s.io", "ingresses/status").to_string();
        assert_eq!(ingresses, "patch ingresses.networking.k8s.io/status");
    }
}
