//! What a peer is told: its Adj-RIB-Out from the moment the session is up to its end.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::stream::OUTBOX_MAX;
use super::{Established, PREFIXES_PER_BATCH, Peer};
use crate::fsm::collision::Way;
use crate::fsm::{Input, Negotiated};
use crate::model::{Family, PerFamily};
use crate::rib::{AdjRibOut, Delta};
use crate::status::UnannouncedFamily;
use crate::wire::{Message, Update, announcements, withdrawals};

impl Peer {
    pub(super) fn up(&mut self, way: Way, negotiated: Negotiated) {
        let Some(local) = self.stream(way).as_ref().map(|stream| stream.local) else { return };
        let path = |family| self.export.path(family, &negotiated, local);
        let paths = PerFamily { ipv4: path(Family::Ipv4), ipv6: path(Family::Ipv6) };
        let sendable = PerFamily { ipv4: paths.ipv4.is_ok(), ipv6: paths.ipv6.is_ok() };
        let nothing = self.draining.is_some();
        let desired = self.seen.set.iter().filter(|_| !nothing);
        let rib = AdjRibOut::new(desired, sendable);
        tracing::info!(peer = self.name(), router_id = %negotiated.router_id, "bgp session up");
        self.seat.shared.metrics.transitions.with_label_values(&[self.name(), "up"]).inc();
        let status = &mut self.status;
        status.hold_time_secs = Some(negotiated.hold_time.secs());
        status.router_id = Some(negotiated.router_id);
        status.capabilities = Some(negotiated.capabilities.clone());
        status.local_address = Some(local);
        status.established_count += 1;
        status.received_prefixes = 0;
        self.refresh = PerFamily::default();
        self.established = Some(Established { way, negotiated, paths, rib });
        self.show_unannounced();
    }

    fn show_unannounced(&mut self) {
        let Some(up) = &self.established else { return };
        let families = Family::ALL.into_iter();
        let reasons = families.filter_map(|family| {
            let reason = up.paths.of(family).as_ref().err().copied()?;
            Some(UnannouncedFamily { family, reason })
        });
        self.status.unannounced = reasons.collect();
        for UnannouncedFamily { family, reason } in &self.status.unannounced {
            tracing::info!(peer = self.name(), ?family, ?reason, "family is not announced");
        }
    }

    pub(super) fn down(&mut self) {
        self.established = None;
        tracing::warn!(peer = self.name(), error = self.status.last_error, "bgp session down");
        self.seat.shared.metrics.transitions.with_label_values(&[self.name(), "down"]).inc();
        let status = &mut self.status;
        (status.hold_time_secs, status.router_id, status.capabilities) = (None, None, None);
        (status.local_address, status.unannounced) = (None, Vec::new());
    }

    /// Received routes are counted and dropped: this speaker installs none.
    pub(super) fn learned(&mut self, update: &Update) {
        let announced = u64::try_from(update.announced()).unwrap_or(u64::MAX);
        let metrics = &self.seat.shared.metrics;
        metrics.received_prefixes.with_label_values(&[self.name()]).inc_by(announced);
        if let Some(fault) = &update.treated_as_withdraw {
            metrics.treated_as_withdraw.with_label_values(&[self.name()]).inc();
            tracing::debug!(peer = self.name(), %fault, "update treated as withdraw");
            self.status.treated_as_withdraw += 1;
        }
        self.status.received_prefixes += announced;
    }

    pub(super) fn take_desired(&mut self) {
        let new = Arc::clone(&self.seat.desired.borrow_and_update());
        let old = std::mem::replace(&mut self.seen, Arc::clone(&new));
        let Some(up) = &mut self.established else { return };
        if self.draining.is_some() {
            return;
        }
        if new.version == old.version + 1 {
            up.rib.apply(&new.delta);
        } else {
            up.rib.apply(&Delta::between(&old.set, &new.set));
        }
    }

    /// Tells the running session about new communities or next hops.
    pub(super) fn export_changed(&mut self) {
        let Some(way) = self.established.as_ref().map(|up| up.way) else { return };
        let Some(local) = self.stream(way).as_ref().map(|stream| stream.local) else { return };
        let Some(up) = &mut self.established else { return };
        for family in Family::ALL {
            let path = self.export.path(family, &up.negotiated, local);
            let (was, is) = (up.paths.of(family).is_ok(), path.is_ok());
            if was != is {
                up.rib.set_sendable(family, is, &self.seen.set);
            } else if *up.paths.of(family) != path {
                up.rib.refresh(family);
            }
            *up.paths.of_mut(family) = path;
        }
        self.show_unannounced();
    }

    /// Encodes what the peer should be told, as far as the outbox has room.
    pub(super) fn fill(&mut self) {
        let Some(mut up) = self.established.take() else { return };
        for family in Family::ALL {
            if std::mem::take(self.refresh.of_mut(family)) {
                up.rib.refresh(family);
            }
        }
        while !up.rib.is_settled() && self.has_room(up.way) {
            let batch = up.rib.take(PREFIXES_PER_BATCH);
            for update in withdrawals(&batch.withdraw) {
                self.send(up.way, &Message::Update(update));
            }
            for family in Family::ALL {
                let Ok(path) = up.paths.of(family) else { continue };
                match announcements(&batch.announce, path, &up.negotiated.context) {
                    Ok(updates) => {
                        for update in updates {
                            self.send(up.way, &Message::Update(update));
                        }
                    }
                    Err(error) => tracing::error!(peer = self.name(), %error, "cannot announce"),
                }
            }
            for family in batch.end_of_rib {
                self.send(up.way, &Message::EndOfRib(family));
            }
        }
        self.established = Some(up);
    }

    fn has_room(&self, way: Way) -> bool {
        let stream = match way {
            Way::Outgoing => &self.outgoing,
            Way::Incoming => &self.incoming,
        };
        stream.as_ref().is_some_and(|stream| stream.outbox.len() < OUTBOX_MAX)
    }

    /// Whether [`Peer::fill`] would do something.
    pub(super) fn has_more(&self) -> bool {
        let up = self.established.as_ref();
        up.is_some_and(|up| !up.rib.is_settled() && self.has_room(up.way))
    }

    pub(super) fn flush(&mut self) {
        let now = Instant::now();
        for way in Way::BOTH {
            let failed = self.stream(way).as_mut().and_then(|stream| stream.flush(now).err());
            if failed.is_some() {
                self.feed(Input::Closed(way));
            }
        }
    }

    /// Whether the peer has been told everything, to the last octet.
    pub(super) fn is_settled(&self) -> bool {
        let streams = [&self.outgoing, &self.incoming].into_iter().flatten();
        let settled = self.established.as_ref().is_none_or(|up| up.rib.is_settled());
        settled && streams.into_iter().all(|stream| stream.outbox.is_empty())
    }
}
