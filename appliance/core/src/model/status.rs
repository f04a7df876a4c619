//! What a Gateway API object holds about itself: conditions (metav1.Condition) at the places where
//! its kind has them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ParentSpec;

/// What an object's status says, but for its addresses: what it should, and what it does. Only
/// what is this controller's: what others say in the same status is theirs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiStatus {
    /// GatewayClass.
    Class {
        /// `conditions`.
        conditions: Vec<Condition>,
        /// `supportedFeatures`, sorted.
        features: Vec<Arc<str>>,
    },
    /// Gateway, ListenerSet.
    Listeners {
        /// `conditions`.
        conditions: Vec<Condition>,
        /// `listeners`, in the order of the object.
        listeners: Vec<ListenerStatus>,
        /// `attachedListenerSets` of a Gateway.
        attached_sets: Option<u32>,
    },
    /// A route: one for each of its parents that are ours, in the order of the object.
    Route(Vec<ParentStatus>),
    /// A policy: one for each of the Gateways for which it counts, sorted.
    Policy(Vec<ParentStatus>),
}

/// One of `status.listeners`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// `name`.
    pub name: Arc<str>,
    /// `supportedKinds`: kinds of group `gateway.networking.k8s.io`, sorted.
    pub kinds: Vec<Arc<str>>,
    /// `attachedRoutes`.
    pub attached_routes: u32,
    /// `conditions`.
    pub conditions: Vec<Condition>,
}

/// One of `status.parents` of a route, or `status.ancestors` of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ParentStatus {
    /// `parentRef`, as the object writes it.
    pub parent: ParentSpec,
    /// `conditions`.
    pub conditions: Vec<Condition>,
}

/// One condition. The time of its last change is whoever writes it's to know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Condition {
    /// `type`.
    pub kind: Arc<str>,
    /// `status`.
    pub holds: Holds,
    /// `reason`.
    pub reason: Arc<str>,
    /// `message`: a sentence without a final stop.
    pub message: Arc<str>,
    /// `observedGeneration`: the generation of the object that this is about.
    pub generation: i64,
}

/// `status` of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Holds {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows.
    Unknown,
}
