//! What is said about an object: in its status, in events, in `haflinger status`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ApiStatus;

/// Why an object, or part of it, is not served. The name is the event's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FaultReason {
    /// Every address of the eligible pools is taken.
    PoolFull,
    /// No pool has the name asked for, or none assigns automatically.
    NoPool,
    /// The address asked for belongs to another object.
    AddressTaken,
    /// The address asked for lies outside every pool.
    AddressOutsidePools,
    /// The pool asked for, or that of the address asked for, does not serve this object.
    PoolForbidden,
    /// Pools choose by labels that are not known yet, or may not be read.
    LabelsUnknown,
    /// Another object already serves this VIP, port and protocol.
    PortTaken,
    /// An annotation's value cannot be used.
    InvalidAnnotation,
    /// A field's value cannot be used.
    InvalidField,
    /// A part of an EndpointSlice cannot be used.
    InvalidEndpointSlice,
    /// No slice has a port of the service port's name and protocol.
    PortUnmatched,
    /// The protocol is not supported.
    UnsupportedProtocol,
    /// The feature is not supported.
    UnsupportedFeature,
    /// An Ingress rule names a service or port that does not exist.
    BackendMissing,
    /// A TLS Secret is missing.
    CertificateMissing,
    /// A certificate or key cannot be used; the former one stays in service.
    CertificateInvalid,
    /// A certificate in service expires soon.
    CertificateExpires,
    /// A certificate in service has expired.
    CertificateExpired,
    /// An OCSP response is not handed to clients: it cannot be used, or no longer.
    StapleUnusable,
    /// Another Ingress already serves this host and path.
    RouteTaken,
    /// The forwarding mode asked for cannot be had.
    ModeUnavailable,
    /// A port cannot be opened on the host.
    NotServed,
    /// A service has more ports than are served.
    TooManyPorts,
    /// A service has more backends than are used.
    TooManyBackends,
    /// Backends do not see the client's address, although the object wants them to.
    ClientAddressHidden,
    /// Pods cannot be reached from the host, or nodes' ports cannot stand in for them.
    PodsUnreachable,
    /// The object is one service with those of other clusters, and says something else than the one
    /// that leads.
    SharedDiffers,
    /// Another policy, which is older, has the target.
    PolicyConflicted,
    /// A policy targets what is not there, or not of this controller.
    TargetMissing,
}

impl FaultReason {
    /// The event reason, CamelCase.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PoolFull => "PoolFull",
            Self::NoPool => "NoPool",
            Self::AddressTaken => "AddressTaken",
            Self::AddressOutsidePools => "AddressOutsidePools",
            Self::PoolForbidden => "PoolForbidden",
            Self::LabelsUnknown => "LabelsUnknown",
            Self::PortTaken => "PortTaken",
            Self::InvalidAnnotation => "InvalidAnnotation",
            Self::InvalidField => "InvalidField",
            Self::InvalidEndpointSlice => "InvalidEndpointSlice",
            Self::PortUnmatched => "PortUnmatched",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::UnsupportedFeature => "UnsupportedFeature",
            Self::BackendMissing => "BackendMissing",
            Self::CertificateMissing => "CertificateMissing",
            Self::CertificateInvalid => "CertificateInvalid",
            Self::CertificateExpires => "CertificateExpires",
            Self::CertificateExpired => "CertificateExpired",
            Self::StapleUnusable => "StapleUnusable",
            Self::RouteTaken => "RouteTaken",
            Self::ModeUnavailable => "ModeUnavailable",
            Self::NotServed => "NotServed",
            Self::TooManyPorts => "TooManyPorts",
            Self::TooManyBackends => "TooManyBackends",
            Self::ClientAddressHidden => "ClientAddressHidden",
            Self::PodsUnreachable => "PodsUnreachable",
            Self::SharedDiffers => "SharedDiffers",
            Self::PolicyConflicted => "PolicyConflicted",
            Self::TargetMissing => "TargetMissing",
        }
    }
}

impl FaultReason {
    /// The reason as a value of `ports[].error`: names of a vendor carry its domain.
    pub fn port_error(self) -> Arc<str> {
        format!("haflinger.dev/{self}").into()
    }
}

impl fmt::Display for FaultReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One reason at one object. Equal faults are said once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceFault {
    /// The class.
    pub reason: FaultReason,
    /// One sentence without a final stop: field, value, what is wrong, remedy.
    pub message: String,
}

impl SourceFault {
    /// A fault with its sentence.
    pub fn new(reason: FaultReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What one object should say about itself (`Snapshot::reports`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectReport {
    /// What `status.loadBalancer.ingress` should hold, sorted. Includes proposals: addresses
    /// that nobody serves before the status records them.
    pub desired: Vec<StatusAddress>,
    /// What it holds, as last seen.
    pub recorded: Vec<IpAddr>,
    /// Of these, what is served: the object has the strongest claim on it.
    pub served: Vec<IpAddr>,
    /// Annotations and fields of other products that decided about the addresses.
    pub followed: Vec<Arc<str>>,
    /// What it holds says something else of those addresses than it should: `ipMode`, `ports`.
    pub details_outdated: bool,
    /// Everything that is wrong with the object.
    pub faults: Vec<SourceFault>,
    /// What the status of an object of the Gateway API should say beside its addresses; `None`:
    /// nothing that is ours.
    pub status: Option<Arc<ApiStatus>>,
    /// What it says, as last seen.
    pub recorded_status: Option<Arc<ApiStatus>>,
}

/// One address of a status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StatusAddress {
    /// The VIP.
    pub address: IpAddr,
    /// `ipMode`, which Services have and Ingresses do not.
    pub ip_mode: IpMode,
    /// Every port of the object, where one of them is not served on the address; otherwise empty
    /// (`status.loadBalancer.ingress[].ports`).
    pub ports: Vec<PortStatus>,
}

impl StatusAddress {
    /// An address on which every port is served.
    pub fn new(address: IpAddr, ip_mode: IpMode) -> Self {
        Self { address, ip_mode, ports: Vec::new() }
    }
}

/// How a port of an address is, as the API writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortStatus {
    /// The port on the address.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Arc<str>,
    /// Why it is not served, as [`FaultReason::port_error`] writes it; `None`: it is.
    pub error: Option<Arc<str>>,
}

/// `status.loadBalancer.ingress[].ipMode` (KEP-1860).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpMode {
    /// Packets arrive with the VIP as destination: nodes may short-cut.
    #[serde(rename = "VIP")]
    Vip,
    /// The edge rewrites: nodes must send through it.
    Proxy,
}
