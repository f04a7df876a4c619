//! How flows are forwarded: annotations under `haflinger.dev/` and session affinity
//! (docs/annotations.md).

use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use haflinger_core::{
    AFFINITY_TIMEOUT_SECS, Algorithm, ConnectionLimits, DEFAULT_AFFINITY_TIMEOUT_SECS, FaultReason,
    ForwardingMode, IDLE_SECS, MAX_CONNECTION_LIMIT, TimeoutRequest,
};

use super::annotations::{Annotations, duration_ms};
use super::{Faults, quoted};
use crate::objects::{Name, ServiceBody, ServiceSpecBody};

impl<B> Annotations<'_, B> {
    /// `mode`: how packets reach the backends.
    pub(super) fn mode(&mut self) -> Option<ForwardingMode> {
        let text = self.value(Name::MODE)?;
        let mode = ForwardingMode::ALL.into_iter().find(|mode| mode.as_str() == text);
        if mode.is_none() {
            let remedy = "write \"nat\", \"routed\", \"dsr\" or \"proxy\"";
            self.refuse(Name::MODE, &text, remedy);
        }
        mode
    }

    /// `connections-max` and `backend-connections-max`.
    pub(super) fn connection_limits(&mut self) -> ConnectionLimits {
        ConnectionLimits {
            service: self.connection_limit(Name::CONNECTIONS_MAX),
            backend: self.connection_limit(Name::BACKEND_CONNECTIONS_MAX),
        }
    }

    fn connection_limit(&mut self, name: Name) -> Option<NonZeroU32> {
        let text = self.value(name)?;
        let limit = text.parse().ok().filter(|limit: &NonZeroU32| {
            limit.get() <= MAX_CONNECTION_LIMIT && text.bytes().all(|b| b.is_ascii_digit())
        });
        if limit.is_none() {
            self.refuse(name, &text, "write a number from 1 to 10000000");
        }
        limit
    }

    /// `idle-timeout` and `udp-timeout`.
    pub(super) fn timeouts(&mut self) -> TimeoutRequest {
        TimeoutRequest {
            established_secs: self.seconds(Name::IDLE_TIMEOUT, IDLE_SECS),
            udp_secs: self.seconds(Name::UDP_TIMEOUT, IDLE_SECS),
        }
    }

    fn seconds(&mut self, name: Name, limits: RangeInclusive<u32>) -> Option<u32> {
        let text = self.value(name)?;
        let seconds = duration_ms(&text)
            .and_then(|time| u32::try_from(time / 1000).ok())
            .filter(|seconds| limits.contains(seconds));
        if seconds.is_none() {
            self.refuse(name, &text, "write a time from 1s to 168h, as in 15m");
        }
        seconds
    }

    /// `algorithm`; `Source` with the timeout of a Service that says nothing of its own.
    fn algorithm(&mut self) -> Option<Algorithm> {
        const CHOICES: [Algorithm; 4] = [
            Algorithm::Hash,
            Algorithm::Source { timeout_secs: DEFAULT_AFFINITY_TIMEOUT_SECS },
            Algorithm::RoundRobin,
            Algorithm::LeastConnections,
        ];
        let text = self.value(Name::ALGORITHM)?;
        let algorithm = CHOICES.into_iter().find(|choice| choice.as_str() == text);
        if algorithm.is_none() {
            let remedy = "write \"hash\", \"source\", \"round-robin\" or \"least-connections\"";
            self.refuse(Name::ALGORITHM, &text, remedy);
        }
        algorithm
    }
}

/// `spec.sessionAffinity`, or else the annotation. The field wins: a client that is promised
/// its pod stays with it.
pub(super) fn algorithm(
    spec: &ServiceSpecBody,
    annotations: &mut Annotations<'_, ServiceBody>,
) -> Algorithm {
    let annotated = annotations.algorithm();
    let Some(affinity) = affinity(spec, annotations.faults) else {
        return annotated.unwrap_or_default();
    };
    if let Some(other) = annotated
        && !matches!(other, Algorithm::Source { .. })
    {
        let remedy = "spec.sessionAffinity is ClientIP, which wins; remove one of the two";
        annotations.refuse(Name::ALGORITHM, other.as_str(), remedy);
    }
    affinity
}

/// `spec.sessionAffinity`; nothing for `None`.
fn affinity(spec: &ServiceSpecBody, faults: &mut Faults) -> Option<Algorithm> {
    match spec.session_affinity.text() {
        None | Some("None") => None,
        Some("ClientIP") => {
            let config = spec.session_affinity_config.get().and_then(|c| c.client_ip.get());
            let written = config.and_then(|c| c.timeout_seconds.get().copied());
            let timeout_secs = match written.map(u32::try_from) {
                None => DEFAULT_AFFINITY_TIMEOUT_SECS,
                Some(Ok(secs)) if AFFINITY_TIMEOUT_SECS.contains(&secs) => secs,
                Some(_) => {
                    faults.add(
                        FaultReason::InvalidField,
                        "spec.sessionAffinityConfig.clientIP.timeoutSeconds: is not from 1 to \
                         86400; 10800 is used",
                    );
                    DEFAULT_AFFINITY_TIMEOUT_SECS
                }
            };
            Some(Algorithm::Source { timeout_secs })
        }
        Some(other) => {
            faults.add(
                FaultReason::InvalidField,
                format!(
                    "spec.sessionAffinity: {} is unknown; write ClientIP or None",
                    quoted(other)
                ),
            );
            None
        }
    }
}
