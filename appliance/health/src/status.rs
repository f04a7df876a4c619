//! What `haflinger status` shows of the checks.

use std::time::Duration;

use haflinger_core::health::Health;
use haflinger_core::{ProbeKey, ProbeWay};
use serde::Serialize;

use crate::schedule::Probe;

/// Every probe, by object and backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthStatus {
    /// The probes.
    pub probes: Vec<ProbeStatus>,
}

/// One backend under one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeStatus {
    /// The service object that configures the check, as `source/kind/namespace/name`.
    pub object: String,
    /// The backend.
    pub backend: std::net::SocketAddr,
    /// What the results so far say.
    pub health: Health,
    /// For how long they have been saying so, in seconds.
    pub for_secs: u64,
    /// Results in a row that contradict it.
    pub results_against: u32,
    /// Why the last probe failed; absent when it succeeded or none has ended.
    pub last_failure: Option<String>,
    /// What this host lacked for the last probe, which therefore said nothing; absent when the
    /// backend could be asked.
    pub hindrance: Option<String>,
    /// The VIPs through which the backend is asked, as `dsr` sends; empty: at its own address.
    pub through: Vec<std::net::IpAddr>,
    /// How long ago the last probe ended, in seconds; absent when none has.
    pub last_probe_secs: Option<u64>,
    #[serde(skip)]
    pub(crate) key: ProbeKey,
}

impl ProbeStatus {
    pub(crate) fn of(probe: &Probe, now: Duration) -> Self {
        let since = |moment: Duration| now.saturating_sub(moment).as_secs();
        let through = probe.check.ways().iter().filter_map(|way| match way {
            ProbeWay::Through(vip) => Some(*vip),
            ProbeWay::Direct => None,
        });
        Self {
            object: probe.key.object.to_string(),
            backend: probe.key.backend,
            health: probe.machine.health(),
            for_secs: since(probe.machine.since()),
            results_against: probe.machine.results_against(),
            last_failure: probe.failure.clone(),
            hindrance: probe.hindrance.clone(),
            through: through.collect(),
            last_probe_secs: probe.last_ended.map(since),
            key: probe.key.clone(),
        }
    }
}
