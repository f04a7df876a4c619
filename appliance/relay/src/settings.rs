//! What the configuration decides for the relay.

use std::fmt;
use std::time::Duration;

use haflinger_core::flow::FlowHashKey;

use crate::Error;

/// Limits and times that hold for all services; how long a flow may be idle is the service's own
/// matter. All of them can change at run time and then hold for what begins
/// afterwards; a limit that is lowered ends nothing that already runs.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// TCP connections relayed at once, 1 or more. Each costs two descriptors and about 3 KiB;
    /// further ones are reset at once, so that their clients learn it without a wait.
    pub connections_max: u32,
    /// The same for one service, so that one flooded service leaves room for the others.
    pub connections_per_service_max: u32,
    /// UDP flows held at once, 1 or more. Each costs one descriptor and about 2 KiB. Datagrams
    /// of further clients are dropped: strangers must not push out flows that are in use.
    pub udp_flows_max: u32,
    /// How long one connection attempt may take, in milliseconds, 1 or more.
    pub connect_timeout_ms: u32,
    /// Backends tried for one client, 1 or more.
    pub connect_attempts_max: u32,
    /// How long all attempts for one client may take together, in milliseconds, 1 or more.
    pub connect_total_timeout_ms: u32,
    /// How long flows may go on after their backend stopped being active or their service was
    /// removed, and after the relay was told to stop, in seconds. 0 ends them at once.
    pub drain_secs: u32,
    /// Clients whose backend is remembered for `sessionAffinity: ClientIP`, over all services.
    /// About 150 bytes each; the one longest unused is forgotten first. 0 leaves affinity to
    /// the forwarding table alone.
    pub affinity_entries_max: u32,
    /// Pipes for splice(2) that may exist at once; two descriptors and up to 64 KiB each. A
    /// direction holds one only while data flows in bulk; without one it copies. 0 always
    /// copies.
    pub pipes_max: u32,
    /// Key of the flow hash, the same on every appliance of the fleet. Secret.
    pub flow_hash_key: FlowHashKey,
}

impl Settings {
    /// Refuses values with which nothing could be served.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let positive = [
            ("connections_max", self.connections_max),
            ("connections_per_service_max", self.connections_per_service_max),
            ("udp_flows_max", self.udp_flows_max),
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("connect_attempts_max", self.connect_attempts_max),
            ("connect_total_timeout_ms", self.connect_total_timeout_ms),
        ];
        match positive.into_iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => Err(Error::ZeroSetting { field }),
            None => Ok(()),
        }
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.connect_timeout_ms))
    }

    pub(crate) fn connect_total_timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.connect_total_timeout_ms))
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs(u64::from(self.drain_secs))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("connections_max", &self.connections_max)
            .field("connections_per_service_max", &self.connections_per_service_max)
            .field("udp_flows_max", &self.udp_flows_max)
            .field("connect_timeout_ms", &self.connect_timeout_ms)
            .field("connect_attempts_max", &self.connect_attempts_max)
            .field("connect_total_timeout_ms", &self.connect_total_timeout_ms)
            .field("drain_secs", &self.drain_secs)
            .field("affinity_entries_max", &self.affinity_entries_max)
            .field("pipes_max", &self.pipes_max)
            .field("flow_hash_key", &"withheld")
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;

    #[test]
    fn zero_is_refused_where_nothing_could_be_served() {
        assert!(settings().check().is_ok());
        let refused = Settings { udp_flows_max: 0, ..settings() }.check().unwrap_err();
        assert!(refused.to_string().contains("udp_flows_max"));
        assert!(Settings { drain_secs: 0, pipes_max: 0, ..settings() }.check().is_ok());
    }

    #[test]
    fn the_key_is_not_shown() {
        let shown =
            format!("{:?}", Settings { flow_hash_key: FlowHashKey([222; 16]), ..settings() });
        assert!(!shown.contains("222"), "{shown}");
    }
}
