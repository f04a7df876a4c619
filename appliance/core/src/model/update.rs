//! What sources say.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    BackendSlice, CertificateRef, CertificateSpec, IngressSpec, NodeSpec, ObjectRef, Policy,
    ProbeKey, ServiceSpec, SourceFault, SourceId,
};

/// One change. Absent content means that the object is gone. Updates about different objects
/// commute, and repeating one changes nothing.
#[derive(Clone, Debug)]
pub enum Update {
    /// A fact about an object of a source; what can be kept on disk.
    Source(SourceUpdate),
    /// A source has listed everything once (or was restored from disk as a whole).
    Synced(SourceId),
    /// A source was taken out of the configuration: everything it said is gone.
    Retired(SourceId),
    /// A check of ours decided.
    Health {
        /// Which backend under which object's check.
        probe: ProbeKey,
        /// `None` when the probe has ended: nothing is known any more.
        healthy: Option<bool>,
    },
    /// Whether this host has a VIP among its addresses.
    Bound {
        /// The VIP.
        address: IpAddr,
        /// Packets for it are taken.
        bound: bool,
    },
    /// The proxy could, or could no longer, use a certificate.
    Certificate {
        /// Which.
        certificate: CertificateRef,
        /// What is wrong with the newest material.
        fault: Option<SourceFault>,
    },
    /// The checked configuration's part for the core.
    Policy(Arc<Policy>),
}

/// A fact about an object of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceUpdate {
    /// A service object.
    Service {
        /// Which.
        object: ObjectRef,
        /// What it says now.
        spec: Option<Box<ServiceSpec>>,
    },
    /// Backends of a service object from one slice.
    Slice {
        /// The service object.
        service: ObjectRef,
        /// The slice's name, unique in the namespace.
        slice: Arc<str>,
        /// What it says now.
        content: Option<Box<BackendSlice>>,
    },
    /// A node.
    Node {
        /// Its cluster.
        source: SourceId,
        /// Its name.
        name: Arc<str>,
        /// What it says now.
        spec: Option<Box<NodeSpec>>,
    },
    /// An Ingress.
    Ingress {
        /// Which.
        object: ObjectRef,
        /// What it says now.
        spec: Option<Box<IngressSpec>>,
    },
    /// A certificate with its key.
    Certificate {
        /// Which.
        certificate: CertificateRef,
        /// What it says now.
        material: Option<Box<CertificateSpec>>,
    },
}
