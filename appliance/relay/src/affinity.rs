//! Which backend an affine client was last sent to (`sessionAffinity: ClientIP`).
//!
//! The table alone keeps a client at its backend as long as its bucket does not move; this
//! memory keeps it there when the bucket moved and the backend still takes flows. It is bounded:
//! the client longest unused is forgotten first. Pure: time is an argument.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use haflinger_core::ServiceKey;

/// An affine client of a service.
pub(crate) type Client = (ServiceKey, IpAddr);

/// End of a list of entries.
const NONE: u32 = u32::MAX;

struct Entry {
    client: Client,
    backend: SocketAddr,
    last_used: Duration,
    older: u32,
    newer: u32,
}

/// Clients and their backends, threaded on a list from the least to the most recently used.
pub(crate) struct AffinityTable {
    positions: HashMap<Client, u32>,
    entries: Vec<Entry>,
    oldest: u32,
    newest: u32,
}

impl AffinityTable {
    pub(crate) fn new() -> Self {
        Self { positions: HashMap::new(), entries: Vec::new(), oldest: NONE, newest: NONE }
    }

    /// Entries held.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The client's backend, if it was used less than `timeout` ago. Does not count as a use.
    pub(crate) fn recall(
        &mut self,
        client: &Client,
        timeout: Duration,
        now: Duration,
    ) -> Option<SocketAddr> {
        let at = *self.positions.get(client)?;
        let entry = &self.entries[at as usize];
        if now.saturating_sub(entry.last_used) < timeout {
            return Some(entry.backend);
        }
        self.remove(at);
        None
    }

    /// Notes a use. Answers how many clients had to be forgotten to stay within `entries_max`.
    pub(crate) fn note(
        &mut self,
        client: Client,
        backend: SocketAddr,
        now: Duration,
        entries_max: usize,
    ) -> usize {
        if let Some(&at) = self.positions.get(&client) {
            self.unlink(at);
            let entry = &mut self.entries[at as usize];
            entry.backend = backend;
            entry.last_used = now;
            self.link_newest(at);
        } else if let Ok(at) = u32::try_from(self.entries.len())
            && at != NONE
            && entries_max > 0
        {
            self.entries.push(Entry { client, backend, last_used: now, older: NONE, newer: NONE });
            self.positions.insert(client, at);
            self.link_newest(at);
        }
        let mut evicted = 0;
        while self.entries.len() > entries_max {
            self.remove(self.oldest);
            evicted += 1;
        }
        evicted
    }

    fn unlink(&mut self, at: u32) {
        let Entry { older, newer, .. } = self.entries[at as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let entry = &mut self.entries[at as usize];
        entry.older = self.newest;
        entry.newer = NONE;
        match self.newest {
            NONE => self.oldest = at,
            newest => self.entries[newest as usize].newer = at,
        }
        self.newest = at;
    }

    /// Removes an entry and moves the last one of the vector into its place.
    fn remove(&mut self, at: u32) {
        self.unlink(at);
        let removed = self.entries.swap_remove(at as usize);
        self.positions.remove(&removed.client);
        let Some(&Entry { client, older, newer, .. }) = self.entries.get(at as usize) else {
            return;
        };
        self.positions.insert(client, at);
        match older {
            NONE => self.oldest = at,
            older => self.entries[older as usize].newer = at,
        }
        match newer {
            NONE => self.newest = at,
            newer => self.entries[newer as usize].older = at,
        }
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::Protocol;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::member;

    fn client(id: u8) -> Client {
        let key =
            ServiceKey { vip: IpAddr::from([198, 51, 100, 1]), port: 80, protocol: Protocol::Tcp };
        (key, IpAddr::from([192, 0, 2, id]))
    }

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn an_affinity_ends_a_timeout_after_its_last_use() {
        let mut table = AffinityTable::new();
        table.note(client(1), member(1).0, at(0), 10);
        table.note(client(1), member(1).0, at(5), 10);
        assert_eq!(table.recall(&client(1), at(10), at(14)), Some(member(1).0));
        assert_eq!(table.recall(&client(1), at(10), at(15)), None);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn the_client_longest_unused_is_forgotten_first_and_counted() {
        let mut table = AffinityTable::new();
        for id in 1..=3 {
            assert_eq!(table.note(client(id), member(1).0, at(u64::from(id)), 3), 0);
        }
        table.note(client(1), member(1).0, at(4), 3);
        assert_eq!(table.note(client(4), member(1).0, at(5), 3), 1);
        assert_eq!(table.recall(&client(2), at(100), at(5)), None);
        assert!(table.recall(&client(1), at(100), at(5)).is_some());
    }

    #[test]
    fn a_lowered_limit_holds_at_the_next_use_and_zero_remembers_nobody() {
        let mut table = AffinityTable::new();
        for id in 1..=5 {
            table.note(client(id), member(1).0, at(1), 5);
        }
        assert_eq!(table.note(client(5), member(1).0, at(2), 2), 3);
        assert_eq!(table.note(client(5), member(1).0, at(2), 0), 2);
        assert_eq!(table.note(client(6), member(1).0, at(2), 0), 0);
        assert_eq!(table.len(), 0);
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_sorted_list(
            steps in proptest::collection::vec((0_u8..12, 1_u16..4, any::<bool>()), 0..200),
        ) {
            const ENTRIES_MAX: usize = 5;
            let timeout = at(20);
            let mut table = AffinityTable::new();
            // The slow way: least recently used first.
            let mut model: Vec<(Client, SocketAddr, Duration)> = Vec::new();
            for (step, (id, backend, note)) in steps.into_iter().enumerate() {
                let now = at(step as u64);
                let (client, backend) = (client(id), member(backend).0);
                if note {
                    model.retain(|entry| entry.0 != client);
                    model.push((client, backend, now));
                    let evicted = model.len().saturating_sub(ENTRIES_MAX);
                    model.drain(..evicted);
                    prop_assert_eq!(table.note(client, backend, now, ENTRIES_MAX), evicted);
                } else {
                    let known = model.iter().find(|entry| entry.0 == client).copied();
                    let fresh = known.filter(|entry| now - entry.2 < timeout);
                    if fresh.is_none() {
                        model.retain(|entry| entry.0 != client);
                    }
                    let recalled = table.recall(&client, timeout, now);
                    prop_assert_eq!(recalled, fresh.map(|entry| entry.1));
                }
                prop_assert_eq!(table.len(), model.len());
            }
        }
    }
}
