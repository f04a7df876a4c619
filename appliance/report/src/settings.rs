//! Where to report, and as whom.

use std::path::PathBuf;

use haflinger_core::SourceId;
use haflinger_kubernetes::Access;

use crate::ReportError;
use crate::election::Timing;

/// Every cluster that is reported to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The clusters; names are unique and the same as in discovery. The election of the first
    /// one also decides who writes DNS.
    pub clusters: Vec<ClusterSettings>,
    /// This host among the candidates: unique in the fleet, 1 to 128 characters. Shown as the
    /// holder of Leases and the reporting instance of events.
    pub identity: String,
}

/// One cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Its name in this configuration.
    pub name: String,
    /// The kubeconfig file. A changed file is read again.
    pub kubeconfig: PathBuf,
    /// The context in it; its current context when absent.
    pub context: Option<String>,
    /// The namespace of the Lease; it must exist.
    pub lease_namespace: String,
    /// The name of the Lease; one for the whole fleet.
    pub lease_name: String,
    /// How long others wait for a silent leader, in seconds (client-go: 15).
    pub lease_duration_secs: u64,
    /// How long a leader goes on without a successful renewal, in seconds; below the
    /// duration (client-go: 10).
    pub renew_deadline_secs: u64,
    /// Time between two attempts, in seconds; below the renew deadline (client-go: 2).
    pub retry_period_secs: u64,
    /// Whether the readiness gates of pods wait for this host, and are set where it is elected.
    pub readiness_gate: bool,
}

impl ClusterSettings {
    pub(crate) fn source(&self) -> SourceId {
        SourceId::cluster(&self.name)
    }

    pub(crate) fn access(&self) -> Access {
        Access { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() }
    }

    pub(crate) fn timing(&self) -> Timing {
        use std::time::Duration;
        Timing {
            duration: Duration::from_secs(self.lease_duration_secs),
            renew_deadline: Duration::from_secs(self.renew_deadline_secs),
            retry_period: Duration::from_secs(self.retry_period_secs),
        }
    }
}

impl Settings {
    /// What the election's safety rests on.
    pub(crate) fn check(&self) -> Result<(), ReportError> {
        if self.identity.is_empty() || self.identity.len() > 128 {
            return Err(ReportError::Identity(self.identity.clone()));
        }
        for cluster in &self.clusters {
            let (duration, deadline, retry) = (
                cluster.lease_duration_secs,
                cluster.renew_deadline_secs,
                cluster.retry_period_secs,
            );
            if !(retry >= 1 && deadline > retry && duration > deadline && duration <= 3600) {
                return Err(ReportError::Timing {
                    cluster: cluster.name.clone(),
                    duration,
                    deadline,
                    retry,
                });
            }
        }
        Ok(())
    }
}
