//! What report says about itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
}

/// Where the tasks of one cluster say how they are; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    pub(crate) cluster: Arc<str>,
    told: Arc<Mutex<ClusterReport>>,
    pub(crate) metrics: Metrics,
}

impl Board {
    pub(crate) fn new(cluster: &str, metrics: &Metrics) -> Self {
        let told = ClusterReport { cluster: cluster.to_owned(), ..ClusterReport::default() };
        metrics.leader(cluster).set(0);
        Self { cluster: cluster.into(), told: Arc::new(Mutex::new(told)), metrics: metrics.clone() }
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

    pub(crate) fn status(&self) -> ClusterReport {
        self.told().clone()
    }
}
