//! The immutable picture that actuators read.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;

use super::{
    BackendSet, CertificateRef, CertificateSpec, HealthCheck, HttpListener, ObjectRef,
    ObjectReport, PodGate, PodRef, PodRoute, PoolUse, SecretRef, Service, ServiceKey, Target,
    UserList, Vip,
};

/// Everything that the appliance should be doing, at one generation.
///
/// The maps are persistent: a clone shares its nodes with the snapshot before it, and
/// [`OrdMap::diff`] skips what is shared, so both publishing and applying a change cost in
/// proportion to the change. Values compare by pointer first (`Arc::ptr_eq`).
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Rises by one with every published snapshot.
    pub generation: u64,
    /// Every configured source has listed once, or was restored from disk. Before that, what is
    /// missing here may only not have been heard of yet: actuators add and take nothing away.
    pub complete: bool,
    /// L4 services, for relay and XDP.
    pub services: OrdMap<ServiceKey, Arc<Service>>,
    /// Backends and tables of everything that a service or an L7 rule points at.
    pub targets: OrdMap<Target, Arc<BackendSet>>,
    /// L7 listeners.
    pub http: OrdMap<SocketAddr, Arc<HttpListener>>,
    /// Certificates that listeners name.
    pub certificates: OrdMap<CertificateRef, Arc<CertificateSpec>>,
    /// Users by the Secrets that rules name.
    pub user_lists: OrdMap<SecretRef, Arc<UserList>>,
    /// Virtual addresses in use, for netlink and BGP.
    pub vips: OrdMap<IpAddr, Arc<Vip>>,
    /// How far the pools are used, in the order in which they are tried, IPv4 first.
    pub pools: Arc<Vec<PoolUse>>,
    /// Routes to pods, for netlink.
    pub pod_routes: OrdMap<IpNet, Arc<PodRoute>>,
    /// Host names, for DNS.
    pub hostnames: OrdMap<Arc<str>, Arc<HostnameIntent>>,
    /// What objects should say about themselves.
    pub reports: OrdMap<ObjectRef, Arc<ObjectReport>>,
    /// Addresses of pods and nodes of which it has to be known whether packets of this host reach
    /// them, each with a number that no other question has.
    pub reach: OrdMap<SocketAddr, u64>,
    /// Backends to check.
    pub probes: OrdMap<ProbeKey, Arc<HealthCheck>>,
    /// Pods whose readiness waits for the fleet.
    pub gates: OrdMap<PodRef, Arc<PodGate>>,
}

/// The addresses that a host name should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostnameIntent {
    /// VIPs, sorted.
    pub addresses: Vec<IpAddr>,
    /// Time to live in seconds; the zone's default when absent.
    pub ttl_secs: Option<u32>,
    /// The object that asks for it (the first one, where several do).
    pub object: ObjectRef,
}

/// One backend under one check.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeKey {
    /// The service object that configures the check.
    pub object: ObjectRef,
    /// The backend.
    pub backend: SocketAddr,
}
