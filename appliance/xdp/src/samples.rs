//! Two pictures of the counters, some seconds apart: what went through a second lately. Pure.

use std::collections::{BTreeMap, HashMap};

use haflinger_core::ServiceKey;

use crate::control::Traffic;
use crate::control::report::{READS_MAX, Totals};

/// Seconds between pictures: long enough for a steady figure, short enough to see a change.
const APART_SECS: u64 = 5;

/// Backends that are read in one go, while a snapshot may wait: half a millisecond.
const READS_PER_PART: usize = 500;

/// What was counted until a time.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    /// What went through each service, as far as it was read.
    pub(crate) services: HashMap<ServiceKey, Traffic>,
    /// Packets by reason.
    pub(crate) reasons: BTreeMap<String, u64>,
}

/// A picture that is being taken.
#[derive(Debug)]
struct Taking {
    since: u64,
    picture: Picture,
    /// The service that was read last.
    after: Option<ServiceKey>,
    reads: usize,
}

/// The last two pictures.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    before: Option<(u64, Picture)>,
    last: Option<(u64, Picture)>,
    taking: Option<Taking>,
}

impl Samples {
    /// Begins a picture when it is time.
    pub(crate) fn begin(&mut self, now: u64, reasons: impl FnOnce() -> BTreeMap<String, u64>) {
        let is_time =
            self.last.as_ref().is_none_or(|(then, _)| now.saturating_sub(*then) >= APART_SECS);
        if is_time && self.taking.is_none() {
            let picture = Picture { services: HashMap::new(), reasons: reasons() };
            self.taking = Some(Taking { since: now, picture, after: None, reads: 0 });
        }
    }

    /// Goes on with a picture that has begun: `totals` reads the services behind one, as many as
    /// it is told. Whether there is more to read.
    pub(crate) fn go_on(
        &mut self,
        totals: impl FnOnce(Option<ServiceKey>, usize) -> Totals,
    ) -> bool {
        let Some(taking) = &mut self.taking else { return false };
        let Totals { services, reads, next } = totals(taking.after, READS_PER_PART);
        taking.picture.services.extend(services);
        taking.reads += reads;
        taking.after = next;
        if next.is_some() && taking.reads < READS_MAX {
            return true;
        }
        if let Some(Taking { since, picture, .. }) = self.taking.take() {
            self.before = self.last.replace((since, picture));
        }
        false
    }

    /// What went through a service a second, between the pictures.
    pub(crate) fn rate(&self, service: &ServiceKey) -> Option<Traffic> {
        let (seconds, before, last) = self.pair()?;
        let last = last.services.get(service)?;
        let before = before.services.get(service).copied().unwrap_or_default();
        // A service that went and came again counts from zero.
        let rate = |last: u64, before: u64| last.saturating_sub(before) / seconds;
        Some(Traffic {
            packets_in: rate(last.packets_in, before.packets_in),
            packets_out: rate(last.packets_out, before.packets_out),
            bytes_in: rate(last.bytes_in, before.bytes_in),
            bytes_out: rate(last.bytes_out, before.bytes_out),
            flows: rate(last.flows, before.flows),
        })
    }

    /// Packets a second by reason, between the pictures: rounded up, so that what happens is not
    /// shown as nothing; what did not happen is left out.
    pub(crate) fn reasons(&self) -> BTreeMap<String, u64> {
        let Some((seconds, before, last)) = self.pair() else { return BTreeMap::new() };
        let rate = |(name, count): (&String, &u64)| {
            let before = before.reasons.get(name).copied().unwrap_or(0);
            (name.clone(), count.saturating_sub(before).div_ceil(seconds))
        };
        last.reasons.iter().map(rate).filter(|(_, rate)| *rate > 0).collect()
    }

    /// The pictures and the seconds between them.
    fn pair(&self) -> Option<(u64, &Picture, &Picture)> {
        let (then, before) = self.before.as_ref()?;
        let (now, last) = self.last.as_ref()?;
        Some((now.saturating_sub(*then).max(1), before, last))
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::Protocol;

    use super::*;

    #[test]
    fn a_rate_is_the_difference_over_the_time_between() {
        let key = ServiceKey { vip: [192, 0, 2, 1].into(), port: 80, protocol: Protocol::Tcp };
        let totals = |bytes_in| Totals {
            services: vec![(key, Traffic { bytes_in, ..Default::default() })],
            reads: 1,
            next: None,
        };
        let mut samples = Samples::default();
        let mut take = |now, bytes_in| {
            samples.begin(now, BTreeMap::new);
            assert!(!samples.go_on(|_, _| totals(bytes_in)));
            samples.rate(&key).map(|rate| rate.bytes_in)
        };
        assert_eq!(take(100, 1_000), None);
        assert_eq!(take(110, 6_000), Some(500));
        assert_eq!(take(112, 7_000), Some(500), "too early");
        assert_eq!(take(120, 10), Some(0));
    }

    #[test]
    fn a_reason_that_was_rare_is_not_shown_as_never_and_one_that_was_not_is_left_out() {
        let mut samples = Samples::default();
        let mut take = |now, drops: u64| {
            let reasons = [("no_route".to_owned(), drops), ("malformed".to_owned(), 7)];
            samples.begin(now, || reasons.into());
            samples.go_on(|_, _| Totals::default());
            samples.reasons()
        };
        assert!(take(100, 0).is_empty(), "one picture tells no rate");
        assert_eq!(take(105, 3), [("no_route".to_owned(), 1)].into());
        assert_eq!(take(110, 5_003), [("no_route".to_owned(), 1_000)].into());
    }

    #[test]
    fn a_picture_is_taken_in_parts_until_enough_is_read() {
        let key = |port| ServiceKey { vip: [192, 0, 2, 1].into(), port, protocol: Protocol::Tcp };
        let mut samples = Samples::default();
        samples.begin(100, BTreeMap::new);
        let mut parts = 0;
        let mut next = |after: Option<ServiceKey>, reads| {
            parts += 1;
            let port = after.map_or(1, |after| after.port + 1);
            Totals { services: vec![(key(port), Traffic::default())], reads, next: Some(key(port)) }
        };
        while samples.go_on(&mut next) {}
        assert_eq!(parts, READS_MAX / READS_PER_PART);
        let (_, last) = samples.last.expect("a picture");
        assert_eq!(last.services.len(), parts, "each part goes on behind the one before");
    }
}
