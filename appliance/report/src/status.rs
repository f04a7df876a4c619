//! What report says about itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use haflinger_kubernetes::{CredentialsBoard, CredentialsStatus, MissingRight, Said};
use serde::Serialize;

use crate::metrics::Metrics;

/// The state of every cluster's election and writing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReportStatus {
    /// This host among the candidates.
    pub identity: String,
    /// In the order of the configuration.
    pub clusters: Vec<ClusterReport>,
}

/// The state of one cluster's election and writing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterReport {
    /// Its configured name.
    pub cluster: String,
    /// This host is the elected one.
    pub leader: bool,
    /// Who is, as last seen in the Lease.
    pub holder: Option<String>,
    /// Objects that wait to be written, or are being written.
    pub pending: usize,
    /// What went wrong last with the Lease, until it works again.
    pub lease_error: Option<String>,
    /// What went wrong last with a status or an event, until one works again.
    pub write_error: Option<String>,
    /// What the cluster is spoken to with.
    pub credentials: CredentialsStatus,
    /// Rights that the cluster does not give us, and what is lost without each.
    pub missing_rights: Vec<MissingRight>,
    /// Readiness gates; absent where no pod may wait for this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateReport>,
}

/// Pods of one cluster whose readiness waits for the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GateReport {
    /// Pods that wait.
    pub waiting: usize,
    /// Of these, pods that this host is done with.
    pub done: usize,
    /// Of these, pods that its Lease has no room for.
    pub unlisted: usize,
    /// Hosts that are waited for, by the names of their Leases.
    pub hosts: Vec<GateHost>,
    /// One of the pods that this host does not use yet, and the Service that lacks it.
    pub lacking: Option<String>,
    /// What went wrong last, until it works again.
    pub error: Option<String>,
}

/// A host that pods wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GateHost {
    /// Its name.
    pub host: String,
    /// Pods that wait for it, as last read.
    pub lacking: usize,
}

/// Where the tasks of one cluster say how they are; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    pub(crate) cluster: Arc<str>,
    told: Arc<Mutex<ClusterReport>>,
    credentials: CredentialsBoard,
    pub(crate) metrics: Metrics,
}

impl Board {
    pub(crate) fn new(cluster: &str, metrics: &Metrics) -> Self {
        let told = ClusterReport { cluster: cluster.to_owned(), ..ClusterReport::default() };
        metrics.leader(cluster).set(0);
        Self {
            cluster: cluster.into(),
            told: Arc::new(Mutex::new(told)),
            credentials: CredentialsBoard::default(),
            metrics: metrics.clone(),
        }
    }

    /// Nothing panics while holding the lock; plain data stays usable anyway.
    fn told(&self) -> MutexGuard<'_, ClusterReport> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.metrics.leader(&self.cluster).set(i64::from(leads));
        self.told().leader = leads;
    }

    pub(crate) fn holder(&self, holder: Option<&str>) {
        self.told().holder = holder.map(str::to_owned);
    }

    pub(crate) fn pending(&self, pending: usize) {
        self.metrics.pending(&self.cluster).set(i64::try_from(pending).unwrap_or(i64::MAX));
        self.told().pending = pending;
    }

    pub(crate) fn lease_error(&self, error: Option<String>) {
        if error.is_some() {
            self.metrics.lease_failed(&self.cluster);
        }
        self.told().lease_error = error;
    }

    pub(crate) fn write_error(&self, error: Option<String>) {
        self.told().write_error = error;
    }

    /// Which rights are missing.
    pub(crate) fn missing_rights(&self, missing: Vec<MissingRight>) {
        self.metrics.missing_rights(&self.cluster, missing.len());
        let mut told = self.told();
        if told.missing_rights != missing {
            let rights: Vec<&str> = missing.iter().map(|missing| &*missing.right).collect();
            tracing::warn!(cluster = %self.cluster, ?rights, "rights that are missing have changed");
            told.missing_rights = missing;
        }
    }

    /// What became of the credentials.
    pub(crate) fn credentials(&self, said: Said) {
        self.credentials.note(&said);
        match said {
            Said::Taken => {
                let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.metrics.credentials_loaded(&self.cluster, unix.as_secs_f64());
                tracing::info!(cluster = %self.cluster, "credentials taken into use");
            }
            Said::Refused(error) => {
                self.metrics.credentials_failed(&self.cluster);
                tracing::warn!(
                    cluster = %self.cluster, error,
                    "credentials cannot be used; those in use, if any, stay so",
                );
            }
            Said::Settled => {
                tracing::info!(cluster = %self.cluster, "credentials are those in use again");
            }
        }
    }

    /// How the gates are; `None`: nobody looks at them (any more).
    pub(crate) fn gate(&self, gate: Option<GateReport>) {
        self.metrics.gate.show(&self.cluster, gate.as_ref());
        self.told().gate = gate;
    }

    pub(crate) fn status(&self) -> ClusterReport {
        ClusterReport { credentials: self.credentials.status(), ..self.told().clone() }
    }
}
