//! Snapshot to intent: which prefixes BGP announces, and which records DNS holds.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use haflinger_core::{Announcement, HostnameIntent, Snapshot};
use haflinger_dns::{DesiredName, DesiredRecords, RecordName};
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Follows the snapshots and keeps both intents up to date.
pub(crate) struct Announcer {
    prefixes: BTreeSet<IpNet>,
    records: DesiredRecords,
    bgp: watch::Sender<Arc<BTreeSet<IpNet>>>,
    dns: watch::Sender<Arc<DesiredRecords>>,
    settled: watch::Sender<bool>,
}

impl Announcer {
    pub(crate) fn new(
        bgp: watch::Sender<Arc<BTreeSet<IpNet>>>,
        dns: watch::Sender<Arc<DesiredRecords>>,
    ) -> Self {
        let settled = watch::Sender::new(false);
        Self { prefixes: BTreeSet::new(), records: DesiredRecords::default(), bgp, dns, settled }
    }

    /// Turns true once both intents follow from a complete snapshot: before that, nothing may be
    /// taken away that they do not name.
    pub(crate) fn settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    /// Runs until `shutdown`. What was announced stays as it was: the speaker withdraws on its
    /// own way out.
    pub(crate) async fn run(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        shutdown: CancellationToken,
    ) {
        let mut done = Arc::new(Snapshot::default());
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            self.advance(&done, &snapshot);
            let complete = snapshot.complete;
            self.settled.send_if_modified(|known| std::mem::replace(known, complete) != complete);
            done = snapshot;
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = snapshots.changed() => if changed.is_err() { return },
            }
        }
    }

    fn advance(&mut self, old: &Snapshot, new: &Snapshot) {
        let mut moved = false;
        for change in old.vips.diff(&new.vips) {
            let (address, announced) = match change {
                DiffItem::Add(address, vip) | DiffItem::Update { new: (address, vip), .. } => {
                    (*address, vip.announcement == Announcement::Announced)
                }
                DiffItem::Remove(address, _) => (*address, false),
            };
            if !is_announceable(address) {
                continue;
            }
            let prefix = IpNet::from(address);
            moved |= if announced {
                self.prefixes.insert(prefix)
            } else {
                self.prefixes.remove(&prefix)
            };
        }
        if moved {
            self.bgp.send_replace(Arc::new(self.prefixes.clone()));
        }
        self.advance_records(old, new);
    }

    fn advance_records(&mut self, old: &Snapshot, new: &Snapshot) {
        let mut renamed = false;
        for change in old.hostnames.diff(&new.hostnames) {
            let (name, intent) = match change {
                DiffItem::Add(name, intent) | DiffItem::Update { new: (name, intent), .. } => {
                    (name, Some(intent))
                }
                DiffItem::Remove(name, _) => (name, None),
            };
            // Discovery reports names that are none at the object; here they are passed over.
            let Ok(record) = RecordName::parse(name) else { continue };
            renamed = true;
            match intent {
                Some(intent) => self.records.names.insert(record, Arc::new(desired(intent))),
                None => self.records.names.remove(&record),
            };
        }
        if renamed {
            self.dns.send_replace(Arc::new(self.records.clone()));
        }
    }
}

/// Loopback and link-local addresses mean another host on every host.
fn is_announceable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

fn desired(intent: &HostnameIntent) -> DesiredName {
    let object = &intent.object;
    DesiredName {
        addresses: intent.addresses.iter().copied().collect(),
        ttl_secs: intent.ttl_secs,
        resource: format!("{}/{}/{}", object.kind, object.namespace, object.name).into(),
    }
}
