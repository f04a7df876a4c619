//! What the readiness gate is called, for whoever reads it and whoever sets it.

/// The condition of a pod that is set once every edge host uses the pod, named in
/// `spec.readinessGates`; and the label of pods that have the gate, by which they are found, and of
/// namespaces whose pods are to get it.
pub const EDGE_READY: &str = "haflinger.dev/edge-ready";

/// Finds pods with the gate: a server that filters keeps every other pod away.
pub const EDGE_READY_SELECTOR: &str = "haflinger.dev/edge-ready=enabled";
