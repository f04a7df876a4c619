//! One connection to a peer: from our OPEN to its end.

use std::time::Duration;

use super::{Config, STABLE_AFTER, State};
use crate::model::{Family, HoldTime, Moment, PerFamily, RouterId};
use crate::wire::{Capabilities, Context, Notification, Open, notification};

/// What two OPENs agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The smaller of both offers.
    pub hold_time: HoldTime,
    /// The peer's BGP identifier.
    pub router_id: RouterId,
    /// What the peer offered.
    pub capabilities: Capabilities,
    /// Families whose prefixes may be sent.
    pub families: PerFamily<bool>,
    /// How messages are read and written.
    pub context: Context,
}

impl Negotiated {
    /// Checks an OPEN against what is expected of the peer (RFC 4271, 6.2).
    pub(super) fn of(config: &Config, open: &Open) -> Result<Negotiated, Notification> {
        if open.asn != config.remote_as {
            return Err(Notification::new(notification::OPEN, 2, &[]));
        }
        let internal = config.local_as == config.remote_as;
        // RFC 6286, 2.2: within an AS identifiers are unique.
        if internal && open.router_id == config.router_id {
            return Err(Notification::new(notification::OPEN, 3, &[]));
        }
        let families = PerFamily {
            ipv4: open.capabilities.accepts(Family::Ipv4),
            ipv6: open.capabilities.accepts(Family::Ipv6),
        };
        Ok(Negotiated {
            hold_time: config.hold_time.negotiate(open.hold_time),
            router_id: open.router_id,
            capabilities: open.capabilities.clone(),
            families,
            context: Context { four_octet_as: open.capabilities.four_octet_as, internal },
        })
    }
}

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum Phase {
    OpenSent,
    OpenConfirm(Negotiated),
    /// And since when.
    Established(Negotiated, Moment),
}

impl Phase {
    pub(super) fn state(&self) -> State {
        match self {
            Phase::OpenSent => State::OpenSent,
            Phase::OpenConfirm(_) => State::OpenConfirm,
            Phase::Established(..) => State::Established,
        }
    }

    pub(super) fn negotiated(&self) -> Option<&Negotiated> {
        match self {
            Phase::OpenSent => None,
            Phase::OpenConfirm(negotiated) | Phase::Established(negotiated, _) => Some(negotiated),
        }
    }

    /// The subcode for a message that has no place in this phase (RFC 6608, 3).
    pub(super) fn unexpected_subcode(&self) -> u8 {
        match self {
            Phase::OpenSent => 1,
            Phase::OpenConfirm(_) => 2,
            Phase::Established(..) => 3,
        }
    }
}

/// One connection and its timers.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) phase: Phase,
    /// When the peer has been silent for too long.
    pub(super) hold: Option<Moment>,
    /// When the next KEEPALIVE is due.
    pub(super) keepalive: Option<Moment>,
}

impl Link {
    pub(super) fn new(open_deadline: Moment) -> Link {
        Link { phase: Phase::OpenSent, hold: Some(open_deadline), keepalive: None }
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        [self.hold, self.keepalive].into_iter().flatten().min()
    }

    pub(super) fn confirm(
        &mut self,
        negotiated: Negotiated,
        keepalive: Option<Duration>,
        now: Moment,
    ) {
        self.hold = negotiated.hold_time.limit().map(|limit| now + limit);
        self.keepalive = keepalive.map(|interval| now + interval);
        self.phase = Phase::OpenConfirm(negotiated);
    }

    pub(super) fn establish(&mut self, now: Moment) {
        if let Phase::OpenConfirm(negotiated) = &self.phase {
            self.phase = Phase::Established(negotiated.clone(), now);
            self.heard(now);
        }
    }

    /// The peer is alive: the hold timer starts anew.
    pub(super) fn heard(&mut self, now: Moment) {
        if let Some(negotiated) = self.phase.negotiated() {
            self.hold = negotiated.hold_time.limit().map(|limit| now + limit);
        }
    }

    pub(super) fn was_stable(&self, now: Moment) -> bool {
        match &self.phase {
            Phase::Established(_, since) => now.saturating_sub(*since) >= STABLE_AFTER,
            _ => false,
        }
    }
}
