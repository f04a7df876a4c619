//! The requests of the gate: this host's Lease, the Leases of all hosts, and conditions of pods.

use std::time::Duration;

use haflinger_core::PodRef;
use haflinger_kubernetes::{EDGE_READY, describe};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::Status;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::hosts::{HOSTS_MAX, HostLease};
use super::own::lease_name;
use crate::settings::ClusterSettings;

/// Who is shown to have written a field.
const MANAGER: &str = "haflinger";

/// Marks the Leases of hosts; the value is the fleet: the name of the Lease that it elects by.
const FLEET_LABEL: &str = "haflinger.dev/fleet";

/// The uids of pods that a host is done with, separated by spaces.
const DONE_ANNOTATION: &str = "haflinger.dev/edge-ready-pods";

/// Longest value of a label.
const LABEL_BYTES_MAX: usize = 63;

/// How setting a gate went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is set.
    Set,
    /// The pod is gone, or another one has its name.
    Gone,
}

/// Requests to one cluster.
pub(super) struct Requests {
    client: Client,
    leases: Api<Lease>,
    identity: String,
    own_name: String,
    fleet: String,
    promise: Duration,
}

impl Requests {
    pub(super) fn new(client: Client, settings: &ClusterSettings, identity: &str) -> Self {
        let mut fleet = settings.lease_name.clone();
        fleet.truncate(LABEL_BYTES_MAX);
        Self {
            leases: Api::namespaced(client.clone(), &settings.lease_namespace),
            client,
            identity: identity.to_owned(),
            own_name: lease_name(&settings.lease_name, identity),
            fleet: fleet.trim_end_matches(['-', '.']).to_owned(),
            promise: settings.timing().duration,
        }
    }

    /// The name of this host's Lease.
    pub(super) fn own_name(&self) -> &str {
        &self.own_name
    }

    /// Renews this host's Lease; it says then that the host is done with these pods.
    pub(super) async fn renew(&self, done: &str) -> Result<(), String> {
        self.write(&self.identity, done).await
    }

    /// Says that this host has stopped.
    pub(super) async fn release(&self) -> Result<(), String> {
        self.write("", "").await
    }

    async fn write(&self, holder: &str, done: &str) -> Result<(), String> {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.own_name,
                "labels": { FLEET_LABEL: self.fleet },
                "annotations": { DONE_ANNOTATION: done },
            },
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": self.promise.as_secs(),
                "renewTime": MicroTime(Timestamp::now()),
            },
        });
        let params = PatchParams::apply(MANAGER).force();
        let written = self.leases.patch(&self.own_name, &params, &Patch::Apply(&lease)).await;
        written.map(drop).map_err(|error| describe(&error))
    }

    /// The Leases of all hosts of the fleet.
    pub(super) async fn leases(&self) -> Result<Vec<HostLease>, String> {
        let limit = u32::try_from(HOSTS_MAX).unwrap_or(u32::MAX);
        let params =
            ListParams::default().labels(&format!("{FLEET_LABEL}={}", self.fleet)).limit(limit);
        let list = self.leases.list(&params).await.map_err(|error| describe(&error))?;
        Ok(list.items.into_iter().map(read).collect())
    }

    /// Sets the gate of a pod. The uid in the patch has the server refuse it for any other pod.
    pub(super) async fn set(
        &self,
        pod: &PodRef,
        uid: &str,
        hosts: usize,
    ) -> Result<Outcome, String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let patch = json!({
            "metadata": { "uid": uid },
            "status": { "conditions": [{
                "type": EDGE_READY,
                "status": "True",
                "reason": "Programmed",
                "message": format!("used by every edge host ({hosts})"),
                "lastTransitionTime": Time(Timestamp::now()),
            }] },
        });
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        match pods.patch_status(&pod.name, &params, &Patch::Strategic(&patch)).await {
            Ok(_) => Ok(Outcome::Set),
            Err(kube::Error::Api(status)) if is_gone(&status) => Ok(Outcome::Gone),
            Err(error) => Err(format!("{pod}: {}", describe(&error))),
        }
    }
}

/// Whether there is no such pod any more: none of the name, or one with another uid, which the
/// server takes for an attempt to change it.
fn is_gone(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let names_uid = { causes }.any(|cause| cause.field == "metadata.uid");
    status.code == 404 || status.code == 422 && names_uid
}

fn read(lease: Lease) -> HostLease {
    let done = lease.annotations().get(DONE_ANNOTATION).map(String::as_str).unwrap_or_default();
    let done = done.split_ascii_whitespace().map(str::to_owned).collect();
    let name = lease.name_any();
    let version = lease.resource_version().unwrap_or_default();
    let spec = lease.spec.unwrap_or_default();
    let secs = spec.lease_duration_seconds.and_then(|secs| u64::try_from(secs).ok());
    HostLease {
        name,
        version,
        holder: spec.holder_identity.unwrap_or_default(),
        promise: Duration::from_secs(secs.unwrap_or_default()),
        done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, field: &str) -> Status {
        let causes = json!([{"reason": "FieldValueInvalid", "message": "", "field": field}]);
        let status = json!({"status": "Failure", "code": code, "details": {"causes": causes}});
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn a_pod_that_went_or_was_followed_by_another_is_no_failure() {
        assert!(is_gone(&status(404, "")) && is_gone(&status(422, "metadata.uid")));
        for (code, field) in [(422, "status.conditions"), (403, "metadata.uid"), (409, "")] {
            assert!(!is_gone(&status(code, field)), "{code} {field}");
        }
    }

    #[test]
    fn a_lease_is_read_as_it_is_written_and_nonsense_counts_for_nothing() {
        let lease = json!({
            "metadata": {
                "name": "haflinger-host-a", "resourceVersion": "7",
                "annotations": {DONE_ANNOTATION: "u1  u2"},
            },
            "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15},
        });
        let read_back = read(serde_json::from_value(lease).unwrap());
        assert_eq!((&*read_back.holder, &*read_back.version), ("a", "7"));
        assert_eq!(read_back.promise, Duration::from_secs(15));
        assert!(read_back.done.iter().eq(["u1", "u2"]));
        let odd = json!({"metadata": {"name": "x"}, "spec": {"leaseDurationSeconds": -1}});
        let odd = read(serde_json::from_value(odd).unwrap());
        assert!(odd.done.is_empty() && odd.holder.is_empty() && odd.promise.is_zero());
    }
}
