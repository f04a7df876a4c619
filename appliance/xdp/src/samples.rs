//! Two pictures of the counters, some seconds apart: what went through a second lately. Pure.

use std::collections::HashMap;

use haflinger_core::ServiceKey;

use crate::control::Traffic;

/// Seconds between pictures: long enough for a steady figure, short enough to see a change.
const APART_SECS: u64 = 5;

type Picture = HashMap<ServiceKey, Traffic>;

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
        let (then, before) = self.before.as_ref()?;
        let (now, last) = self.last.as_ref()?;
        let seconds = now.saturating_sub(*then).max(1);
        let (last, before) = (last.get(service)?, before.get(service).copied().unwrap_or_default());
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
}

#[cfg(test)]
mod tests {
    use haflinger_core::Protocol;

    use super::*;

    #[test]
    fn a_rate_is_the_difference_over_the_time_between() {
        let key = ServiceKey { vip: [192, 0, 2, 1].into(), port: 80, protocol: Protocol::Tcp };
        let picture = |bytes_in| [(key, Traffic { bytes_in, ..Default::default() })].into();
        let mut samples = Samples::default();
        samples.take(100, || picture(1_000));
        assert_eq!(samples.rate(&key), None);
        samples.take(102, || unreachable!("too early"));
        samples.take(110, || picture(6_000));
        assert_eq!(samples.rate(&key).map(|rate| rate.bytes_in), Some(500));
        samples.take(120, || picture(10));
        assert_eq!(samples.rate(&key).map(|rate| rate.bytes_in), Some(0));
    }
}
