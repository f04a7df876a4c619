//! Which hosts count, and which pods they are done with. Pure.
//!
//! A host counts while its Lease changes within the time that it promises, measured by the clock of
//! whoever looks, as in the election: clocks of hosts are never compared. A Lease without a holder
//! is one of a host that has stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Hosts that are looked at, in the order of their Leases' names: several times the largest fleet.
pub(crate) const HOSTS_MAX: usize = 256;

/// The longest promise that is believed: what the settings allow.
const PROMISE_MAX: Duration = Duration::from_secs(3600);

/// A host's Lease as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostLease {
    /// `metadata.name`.
    pub(crate) name: String,
    /// `metadata.resourceVersion`.
    pub(crate) version: String,
    /// `spec.holderIdentity`; empty: the host has stopped.
    pub(crate) holder: String,
    /// `spec.leaseDurationSeconds`.
    pub(crate) promise: Duration,
    /// Uids of pods that the host is done with.
    pub(crate) done: BTreeSet<String>,
}

/// One host that counts.
#[derive(Debug)]
struct Seen {
    lease: HostLease,
    /// Since when its Lease has had this version, by our clock.
    since: Instant,
}

/// The hosts, as this one sees them.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    hosts: BTreeMap<String, Seen>,
}

impl Fleet {
    /// All Leases of hosts, as they were just read. Whether any says something new.
    pub(crate) fn observe(&mut self, now: Instant, leases: Vec<HostLease>) -> bool {
        let mut before = std::mem::take(&mut self.hosts);
        let mut news = false;
        for lease in leases.into_iter().take(HOSTS_MAX) {
            let known = before.remove(&lease.name);
            news |= known.as_ref().is_none_or(|seen| {
                seen.lease.done != lease.done || seen.lease.holder != lease.holder
            });
            let same = known.filter(|seen| seen.lease.version == lease.version);
            let since = same.map_or(now, |seen| seen.since);
            self.hosts.insert(lease.name.clone(), Seen { lease, since });
        }
        news || !before.is_empty()
    }

    /// Hosts that are waited for.
    pub(crate) fn live(&self, now: Instant) -> impl Iterator<Item = &HostLease> {
        let counts = move |seen: &&Seen| {
            let promise = seen.lease.promise.min(PROMISE_MAX);
            let silent = now.saturating_duration_since(seen.since);
            !seen.lease.holder.is_empty() && silent <= promise
        };
        self.hosts.values().filter(counts).map(|seen| &seen.lease)
    }

    /// Of these pods those that every live host is done with. None, as long as this host does not
    /// see its own Lease: what it sees is then not the fleet.
    pub(crate) fn agreed<'a>(
        &self,
        now: Instant,
        own: &str,
        pods: impl Iterator<Item = &'a str>,
    ) -> Vec<&'a str> {
        let live: Vec<&HostLease> = self.live(now).collect();
        if !live.iter().any(|lease| lease.name == own) {
            return Vec::new();
        }
        pods.filter(|uid| live.iter().all(|lease| lease.done.contains(*uid))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "haflinger-host-a";

    fn lease(name: &str, version: u32, done: &[&str]) -> HostLease {
        HostLease {
            name: format!("haflinger-host-{name}"),
            version: version.to_string(),
            holder: name.to_owned(),
            promise: Duration::from_secs(15),
            done: done.iter().map(|uid| (*uid).to_owned()).collect(),
        }
    }

    fn agreed(fleet: &Fleet, now: Instant) -> Vec<&'static str> {
        fleet.agreed(now, OWN, ["p", "q"].into_iter())
    }

    #[test]
    fn a_pod_is_agreed_on_once_every_host_is_done_with_it() {
        let now = Instant::now();
        let mut fleet = Fleet::default();
        assert!(fleet.observe(now, vec![lease("a", 1, &["p", "q"]), lease("b", 1, &["q"])]));
        assert_eq!(agreed(&fleet, now), ["q"]);
        let renewed = vec![lease("a", 2, &["p", "q"]), lease("b", 2, &["q"])];
        assert!(!fleet.observe(now, renewed), "to live on is no news");
        assert!(fleet.observe(now, vec![lease("a", 1, &["p", "q"]), lease("b", 3, &["p", "q"])]));
        assert_eq!(agreed(&fleet, now), ["p", "q"]);
        // A third one comes, and has a word in it from then on.
        fleet.observe(
            now,
            vec![lease("a", 1, &["p", "q"]), lease("b", 2, &["p", "q"]), lease("c", 1, &[])],
        );
        assert!(agreed(&fleet, now).is_empty());
    }

    #[test]
    fn a_host_that_falls_silent_is_waited_for_as_long_as_it_promised_and_no_longer() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut fleet = Fleet::default();
        for secs in 0..=16 {
            // Its Lease stays as it is; ours is renewed.
            let own = lease("a", u32::try_from(secs).unwrap() + 1, &["p"]);
            fleet.observe(at(secs), vec![own, lease("b", 1, &[])]);
            let alone = secs > 15;
            assert_eq!(agreed(&fleet, at(secs)), if alone { vec!["p"] } else { vec![] });
        }
        // It comes back.
        fleet.observe(at(17), vec![lease("a", 20, &["p"]), lease("b", 2, &[])]);
        assert!(agreed(&fleet, at(17)).is_empty());
    }

    #[test]
    fn a_host_that_stopped_or_whose_lease_is_gone_is_not_waited_for() {
        let now = Instant::now();
        let mut fleet = Fleet::default();
        let stopped = HostLease { holder: String::new(), ..lease("b", 2, &[]) };
        fleet.observe(now, vec![lease("a", 1, &["p"]), stopped]);
        assert_eq!(agreed(&fleet, now), ["p"]);
        fleet.observe(now, vec![lease("a", 1, &["p"])]);
        assert_eq!(agreed(&fleet, now), ["p"]);
    }

    #[test]
    fn whoever_does_not_see_its_own_lease_decides_nothing() {
        let now = Instant::now();
        let mut fleet = Fleet::default();
        assert!(agreed(&fleet, now).is_empty());
        fleet.observe(now, vec![lease("b", 1, &["p", "q"])]);
        assert!(agreed(&fleet, now).is_empty());
        let later = now + Duration::from_secs(16);
        fleet.observe(now, vec![lease("a", 1, &["p"]), lease("b", 1, &["p"])]);
        assert!(agreed(&fleet, later).is_empty(), "it could not renew its own for so long");
    }

    #[test]
    fn no_promise_is_believed_for_ever_and_no_more_hosts_than_the_limit() {
        let now = Instant::now();
        let mut fleet = Fleet::default();
        let endless = HostLease { promise: Duration::from_secs(u64::MAX), ..lease("b", 1, &[]) };
        fleet.observe(now, vec![lease("a", 1, &["p"]), endless.clone()]);
        let later = now + PROMISE_MAX + Duration::from_secs(1);
        fleet.observe(later, vec![lease("a", 2, &["p"]), endless]);
        assert_eq!(agreed(&fleet, later), ["p"]);
        let many = (0..2 * HOSTS_MAX).map(|n| lease(&n.to_string(), 1, &[])).collect();
        fleet.observe(now, many);
        assert_eq!(fleet.live(now).count(), HOSTS_MAX);
    }
}
