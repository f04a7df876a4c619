//! How flows of an inventory's services are forwarded.

use std::num::NonZeroU32;

use haflinger_core::{
    AFFINITY_TIMEOUT_SECS, Algorithm, ConnectionLimits, DEFAULT_AFFINITY_TIMEOUT_SECS,
    ForwardingMode, IDLE_SECS, MAX_CONNECTION_LIMIT, TimeoutRequest,
};
use toml::Spanned;

use super::check::{Check, Checked};
use super::file;

impl Check<'_> {
    /// `mode`.
    pub(super) fn mode(&self, service: &file::Service) -> Checked<Option<ForwardingMode>> {
        let choices = ForwardingMode::ALL.map(|mode| (mode.as_str(), Some(mode)));
        self.choice(&at(service, "mode"), service.mode.as_ref(), &choices, None)
    }

    /// `algorithm`, and `affinity`, which is an older word for `source`.
    pub(super) fn algorithm(&self, service: &file::Service) -> Checked<Algorithm> {
        let field = at(service, "affinity_timeout_secs");
        let written = service.affinity_timeout_secs.as_ref();
        let limits =
            u64::from(*AFFINITY_TIMEOUT_SECS.start())..=u64::from(*AFFINITY_TIMEOUT_SECS.end());
        let timeout_secs = written
            .map(|timeout| self.number(&field, timeout, limits))
            .transpose()?
            .unwrap_or(DEFAULT_AFFINITY_TIMEOUT_SECS);
        let source = Algorithm::Source { timeout_secs };
        let algorithms =
            [Algorithm::Hash, source, Algorithm::RoundRobin, Algorithm::LeastConnections];
        let choices = algorithms.map(|algorithm| (algorithm.as_str(), Some(algorithm)));
        let field = at(service, "algorithm");
        let algorithm = self.choice(&field, service.algorithm.as_ref(), &choices, None)?;
        let choices = [("none", false), ("client_ip", true)];
        let affinity = service.affinity.as_ref();
        let sticky = self.choice(&at(service, "affinity"), affinity, &choices, false)?;
        match (sticky, algorithm, &service.algorithm) {
            (true, Some(other), Some(place)) if other != source => self.refuse(
                place,
                &field,
                other.as_str(),
                "affinity \"client_ip\" is algorithm \"source\"; write one of the two",
            ),
            (true, ..) => Ok(source),
            (false, algorithm, _) => Ok(algorithm.unwrap_or_default()),
        }
    }

    /// `connections_max` and `backend_connections_max`.
    pub(super) fn connection_limits(&self, service: &file::Service) -> Checked<ConnectionLimits> {
        let limit = |name: &str, written: &Option<Spanned<u64>>| -> Checked<Option<NonZeroU32>> {
            let Some(written) = written else { return Ok(None) };
            let limits = 1..=u64::from(MAX_CONNECTION_LIMIT);
            Ok(NonZeroU32::new(self.number(&at(service, name), written, limits)?))
        };
        Ok(ConnectionLimits {
            service: limit("connections_max", &service.connections_max)?,
            backend: limit("backend_connections_max", &service.backend_connections_max)?,
        })
    }

    /// `idle_timeout_secs` and `udp_timeout_secs`.
    pub(super) fn timeouts(&self, service: &file::Service) -> Checked<TimeoutRequest> {
        let seconds = |name: &str, written: &Option<Spanned<u64>>| -> Checked<Option<u32>> {
            let Some(written) = written else { return Ok(None) };
            let limits = u64::from(*IDLE_SECS.start())..=u64::from(*IDLE_SECS.end());
            self.number(&at(service, name), written, limits).map(Some)
        };
        Ok(TimeoutRequest {
            established_secs: seconds("idle_timeout_secs", &service.idle_timeout_secs)?,
            udp_secs: seconds("udp_timeout_secs", &service.udp_timeout_secs)?,
        })
    }
}

fn at(service: &file::Service, field: &str) -> String {
    format!("service \"{}\": {field}", service.name.get_ref())
}
