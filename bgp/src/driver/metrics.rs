//! Metrics of the speaker. Labels: one per configured peer, two families, two directions.

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

use crate::fsm::State;
use crate::model::Family;
use crate::status::PeerStatus;

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub(super) established: IntGaugeVec,
    pub(super) announced: IntGaugeVec,
    pub(super) transitions: IntCounterVec,
    pub(super) received_prefixes: IntCounterVec,
    pub(super) treated_as_withdraw: IntCounterVec,
    pub(super) notifications: IntCounterVec,
    pub(super) messages: IntCounterVec,
    pub(super) connect_failures: IntCounterVec,
    pub(super) strangers: IntCounter,
    pub(super) offers_dropped: IntCounter,
    pub(super) desired: IntGauge,
    pub(super) refused: IntGauge,
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> prometheus::Result<C> {
    let collector = collector?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauge(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntGaugeVec> {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Metrics> {
        Ok(Metrics {
            established: gauge(
                registry,
                "haflinger_bgp_session_established",
                "Whether routes are exchanged with the peer (1) or not (0).",
                &["peer"],
            )?,
            announced: gauge(
                registry,
                "haflinger_bgp_announced_prefixes",
                "Prefixes that the peer has been told and that were not withdrawn.",
                &["peer", "family"],
            )?,
            transitions: counter(
                registry,
                "haflinger_bgp_session_changes_total",
                "How often the session came up (to=\"up\") or went down (to=\"down\").",
                &["peer", "to"],
            )?,
            received_prefixes: counter(
                registry,
                "haflinger_bgp_received_prefixes_total",
                "Prefixes in the peer's announcements. They are checked and not kept.",
                &["peer"],
            )?,
            treated_as_withdraw: counter(
                registry,
                "haflinger_bgp_treated_as_withdraw_total",
                "UPDATEs of the peer with attributes that RFC 7606 calls malformed.",
                &["peer"],
            )?,
            notifications: counter(
                registry,
                "haflinger_bgp_notifications_total",
                "NOTIFICATIONs sent to and received from the peer.",
                &["peer", "direction"],
            )?,
            messages: counter(
                registry,
                "haflinger_bgp_messages_total",
                "BGP messages sent to and received from the peer.",
                &["peer", "direction"],
            )?,
            connect_failures: counter(
                registry,
                "haflinger_bgp_connect_failures_total",
                "Attempts to open a TCP connection to the peer that failed.",
                &["peer"],
            )?,
            strangers: registered(
                registry,
                IntCounter::new(
                    "haflinger_bgp_strangers_total",
                    "Connections from addresses that are no peer's. They were closed.",
                ),
            )?,
            offers_dropped: registered(
                registry,
                IntCounter::new(
                    "haflinger_bgp_offers_dropped_total",
                    "Connections of peers that were closed because more were waiting than fit.",
                ),
            )?,
            desired: registered(
                registry,
                IntGauge::new(
                    "haflinger_bgp_desired_prefixes",
                    "Prefixes that should be announced.",
                ),
            )?,
            refused: registered(
                registry,
                IntGauge::new(
                    "haflinger_bgp_refused_prefixes",
                    "Prefixes beyond the speaker's limit, which are not announced.",
                ),
            )?,
        })
    }

    /// Shows a peer's status.
    pub(super) fn show(&self, status: &PeerStatus) {
        let name = status.name.as_str();
        let up = i64::from(status.state == State::Established);
        self.established.with_label_values(&[name]).set(up);
        for family in Family::ALL {
            let count = i64::try_from(*status.announced.of(family)).unwrap_or(i64::MAX);
            self.announced.with_label_values(&[name, family.name()]).set(count);
        }
    }

    /// Forgets a peer that is no longer configured. A label that was never used is no error.
    pub(super) fn forget(&self, name: &str) {
        let _ = self.established.remove_label_values(&[name]);
        for family in Family::ALL {
            let _ = self.announced.remove_label_values(&[name, family.name()]);
        }
        for to in ["up", "down"] {
            let _ = self.transitions.remove_label_values(&[name, to]);
        }
        for single in [&self.received_prefixes, &self.treated_as_withdraw, &self.connect_failures] {
            let _ = single.remove_label_values(&[name]);
        }
        for direction in ["sent", "received"] {
            let _ = self.notifications.remove_label_values(&[name, direction]);
            let _ = self.messages.remove_label_values(&[name, direction]);
        }
    }
}
