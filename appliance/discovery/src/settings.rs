//! What discovery is told to read.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::{RouteOrigin, SourceId};
use haflinger_kubernetes::Access;

/// The Ingress class that is ours unless configured otherwise.
pub const INGRESS_CLASS_DEFAULT: &str = "haflinger";

/// Every source, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Kubernetes clusters; names are unique.
    pub clusters: Vec<ClusterSettings>,
    /// The inventory file, for what is in no cluster.
    pub inventory: Option<PathBuf>,
    /// Where the last state of each source is kept, so that the daemon boots without it.
    /// Nothing is kept when absent. Changing it takes a restart.
    pub state_dir: Option<PathBuf>,
}

/// One Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Its name in this configuration: the source is `cluster/NAME`.
    pub name: String,
    /// The kubeconfig file. A changed file is read again.
    pub kubeconfig: PathBuf,
    /// The context in it; its current context when absent.
    pub context: Option<String>,
    /// Whether Services of type LoadBalancer without `spec.loadBalancerClass` are ours.
    pub claim_unclassed: bool,
    /// The Ingress class that is ours (`spec.ingressClassName`, or the older annotation).
    pub ingress_class: String,
    /// Whose word about pod networks is wanted: the objects of others are not asked for.
    pub pod_routes: Vec<RouteOrigin>,
    /// Whether pods may wait for the readiness gate: those that have it are watched.
    pub readiness_gate: bool,
    /// Deletions beyond this wait until they are confirmed.
    pub deletions: DeletionLimits,
    /// Labels by which pools choose: of all labels only these are kept.
    pub labels: LabelKeys,
}

/// How many objects of one kind may go within a minute before it looks as if the cluster had lost
/// its memory. The greater of both limits counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeletionLimits {
    /// Objects. Of few objects a share means little: one of two is half of them.
    pub objects_max: u32,
    /// Percent of the kind's objects, 0 to 100. With 100 nothing is ever held.
    pub percent_max: u8,
    /// Time after which a second full list confirms what the first one, or the watch, said.
    pub confirm_after: Duration,
}

impl Default for DeletionLimits {
    fn default() -> Self {
        Self { objects_max: 10, percent_max: 30, confirm_after: Duration::from_secs(60) }
    }
}

/// Names of labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelKeys {
    /// Of Services and Ingresses.
    pub services: BTreeSet<Arc<str>>,
    /// Of Namespaces, which are read only where there are any.
    pub namespaces: BTreeSet<Arc<str>>,
}

impl ClusterSettings {
    /// The source that this cluster is to the core.
    pub fn source(&self) -> SourceId {
        SourceId::cluster(&self.name)
    }

    pub(crate) fn access(&self) -> Access {
        Access { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() }
    }
}
