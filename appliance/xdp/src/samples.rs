//! Two pictures of the counters, some seconds apart: what went through a second lately. Pure.

use std::collections::{BTreeMap, HashMap};

use haflinger_core::ServiceKey;

use crate::control::Traffic;

/// Seconds between pictures: long enough for a steady figure, short enough to see a change.
const APART_SECS: u64 = 5;

/// What was counted until a time.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    /// What went through each service.
    pub(crate) services: HashMap<ServiceKey, Traffic>,
    /// Packets by reason.
    pub(crate) reasons: BTreeMap<String, u64>,
}

/// The last two pictures.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    before: Option<(u64, Picture)>,
    last: Option<(u64, Picture)>,
}

impl Samples {
    /// Takes a picture when it is time.
    pub(crate) fn take(&mut self, now: u64, picture: impl FnOnce() -> Picture) {
        if self.last.as_ref().is_none_or(|(then, _)| now.saturating_sub(*then) >= APART_SECS) {
            self.before = self.last.replace((now, picture()));
        }
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
        let picture = |bytes_in| Picture {
            services: [(key, Traffic { bytes_in, ..Default::default() })].into(),
            reasons: BTreeMap::new(),
        };
        let mut samples = Samples::default();
        samples.take(100, || picture(1_000));
        assert_eq!(samples.rate(&key), None);
        samples.take(102, || unreachable!("too early"));
        samples.take(110, || picture(6_000));
        assert_eq!(samples.rate(&key).map(|rate| rate.bytes_in), Some(500));
        samples.take(120, || picture(10));
        assert_eq!(samples.rate(&key).map(|rate| rate.bytes_in), Some(0));
    }

    #[test]
    fn a_reason_that_was_rare_is_not_shown_as_never_and_one_that_was_not_is_left_out() {
        let picture = |drops: u64| Picture {
            services: HashMap::new(),
            reasons: [("no_route".to_owned(), drops), ("malformed".to_owned(), 7)].into(),
        };
        let mut samples = Samples::default();
        samples.take(100, || picture(0));
        assert!(samples.reasons().is_empty(), "one picture tells no rate");
        samples.take(105, || picture(3));
        assert_eq!(samples.reasons(), [("no_route".to_owned(), 1)].into());
        samples.take(110, || picture(5_003));
        assert_eq!(samples.reasons(), [("no_route".to_owned(), 1_000)].into());
    }
}
