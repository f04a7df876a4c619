//! The readiness gate: pods that Kubernetes calls ready only once every edge host uses them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ObjectRef, SourceId};

/// Names of labels with their values, sorted by name.
pub type LabelPairs = Box<[(Arc<str>, Arc<str>)]>;

/// One pod of one source. Ordered by source, namespace and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// Where the pod lives.
    pub source: SourceId,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/pod/{}/{}", self.source, self.namespace, self.name)
    }
}

impl fmt::Debug for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A pod with our readiness gate that lacks nothing else: its containers are ready, every other
/// gate of it is set, and it does not terminate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatedPod {
    /// `metadata.uid`: a pod of the same name that comes later has another one.
    pub uid: Arc<str>,
    /// `status.podIPs`: which endpoints it is.
    pub addresses: Box<[IpAddr]>,
    /// Our gate is set: nothing waits any more.
    pub set: bool,
    /// `metadata.labels`, by which services select it; none once the gate is set.
    #[serde(default)]
    pub labels: LabelPairs,
}

/// A pod whose readiness waits for the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodGate {
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// How far this host is.
    pub progress: GateProgress,
}

/// How far this host is with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateProgress {
    /// A service that leads to the pod does not use it on this host: its EndpointSlice does not
    /// name it yet, or our own check has not found it healthy.
    Lacking(ObjectRef),
    /// Every service that leads to the pod uses it.
    Planned {
        /// These services, sorted. Without one there is nothing to do for the pod.
        services: Box<[ObjectRef]>,
        /// The rooms that serve them.
        by: DataPaths,
        /// The snapshot since which it is so: once these rooms have taken it over, new flows reach
        /// the pod.
        generation: u64,
    },
}

/// Rooms that lead flows to backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataPaths {
    /// XDP: modes `nat`, `routed` and `dsr`.
    pub xdp: bool,
    /// The relay: mode `proxy`.
    pub relay: bool,
    /// Layer 7.
    pub proxy: bool,
}

impl DataPaths {
    /// These and those.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            xdp: self.xdp || other.xdp,
            relay: self.relay || other.relay,
            proxy: self.proxy || other.proxy,
        }
    }
}
