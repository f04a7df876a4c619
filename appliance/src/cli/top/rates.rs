//! What happened between two looks at the counts. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use haflinger_proxy::{TallyView, TallyViews};
use serde::Serialize;

use crate::status::columns::Columns;

/// What happened to a route or a pod in one interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Rate {
    /// Of a route its kind, of a pod the namespace of its service.
    pub(super) kind_or_namespace: Arc<str>,
    /// Of a route its namespace, of a pod its service.
    pub(super) namespace_or_service: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) requests_per_sec: f64,
    /// Without an answer, or with a status of 500 and above.
    pub(super) errors_per_sec: f64,
    /// With a status of 400 to 499.
    pub(super) refusals_per_sec: f64,
    /// Half of the requests took no longer; of routes alone, and of those that were asked.
    pub(super) p50_ms: Option<f64>,
    /// Of a hundred requests 99 took no longer.
    pub(super) p99_ms: Option<f64>,
    pub(super) mean_ms: Option<f64>,
    pub(super) bytes_in_per_sec: f64,
    pub(super) bytes_out_per_sec: f64,
    /// Now; of routes alone.
    pub(super) in_flight: i64,
}

/// What happened between two looks, by name.
pub(super) fn rates(before: &TallyViews, now: &TallyViews, pods: bool) -> Vec<Rate> {
    let of = |views: &TallyViews| match pods {
        true => views.pods.clone(),
        false => views.routes.clone(),
    };
    type Name = (Arc<str>, Arc<str>, Arc<str>);
    let name = |view: &TallyView| -> Name {
        let TallyView { kind_or_namespace, namespace_or_service, name, .. } = view;
        (kind_or_namespace.clone(), namespace_or_service.clone(), name.clone())
    };
    let former: HashMap<Name, TallyView> =
        of(before).into_iter().map(|view| (name(&view), view)).collect();
    let secs = as_f64(now.at_ms.saturating_sub(before.at_ms)) / 1_000.0;
    let mut current = of(now);
    current.sort_by_key(name);
    let none = TallyView::default();
    let rate = |view: &TallyView| {
        let former = former.get(&name(view)).unwrap_or(&none);
        between(former, view, &now.bounds_secs, secs)
    };
    current.iter().map(rate).collect()
}

fn between(before: &TallyView, now: &TallyView, bounds: &[f64], secs: f64) -> Rate {
    // Counts that are lower than before are those of a successor, which began anew.
    let fresh = now.classes.iter().zip(&before.classes).any(|(now, before)| now < before);
    let none = TallyView::default();
    let before = if fresh { &none } else { before };
    let per_sec = |now: u64, before: u64| match secs > 0.0 {
        true => as_f64(now.saturating_sub(before)) / secs,
        false => 0.0,
    };
    let class = |at: usize| now.classes[at].saturating_sub(before.classes[at]);
    let requests: u64 = (0..now.classes.len()).map(class).sum();
    let within: Vec<u64> = (0..now.within.len())
        .map(|at| now.within[at].saturating_sub(before.within.get(at).copied().unwrap_or(0)))
        .collect();
    let micros = as_f64(now.micros.saturating_sub(before.micros));
    Rate {
        kind_or_namespace: now.kind_or_namespace.clone(),
        namespace_or_service: now.namespace_or_service.clone(),
        name: now.name.clone(),
        requests_per_sec: per_sec(requests, 0),
        errors_per_sec: per_sec(class(0) + class(5), 0),
        refusals_per_sec: per_sec(class(4), 0),
        p50_ms: quantile(0.5, requests, &within, bounds).map(|secs| secs * 1e3),
        p99_ms: quantile(0.99, requests, &within, bounds).map(|secs| secs * 1e3),
        mean_ms: (requests > 0).then(|| micros / as_f64(requests) / 1e3),
        bytes_in_per_sec: per_sec(now.bytes_in, before.bytes_in),
        bytes_out_per_sec: per_sec(now.bytes_out, before.bytes_out),
        in_flight: now.in_flight,
    }
}

/// The time that a share of the requests did not exceed, in seconds, spread evenly within a bucket
/// as Prometheus does; of what lies beyond the last bound, that bound.
fn quantile(share: f64, requests: u64, within: &[u64], bounds: &[f64]) -> Option<f64> {
    if requests == 0 || within.is_empty() {
        return None;
    }
    let rank = share * as_f64(requests);
    let Some(at) = within.iter().position(|count| as_f64(*count) >= rank) else {
        return bounds.last().copied();
    };
    let (low, below) = match at.checked_sub(1) {
        Some(at) => (bounds.get(at).copied()?, within[at]),
        None => (0.0, 0),
    };
    let inside = as_f64(within[at] - below.min(within[at]));
    let part = if inside > 0.0 { (rank - as_f64(below)) / inside } else { 1.0 };
    Some(low + (bounds.get(at).copied()? - low) * part)
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people needs three digits")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

/// The rows for people.
pub(super) fn table(rates: &[Rate], pods: bool) -> Columns {
    let mut columns = Columns::new("");
    let (first, second, name) = match pods {
        false => ("kind", "namespace", "route"),
        true => ("namespace", "service", "pod"),
    };
    let titles =
        [first, second, name, "req/s", "4xx/s", "err/s", "p50", "p99", "mean", "in", "out", "open"];
    columns.row(titles.map(str::to_owned));
    for rate in rates {
        columns.row([
            rate.kind_or_namespace.to_string(),
            rate.namespace_or_service.to_string(),
            rate.name.to_string(),
            number(rate.requests_per_sec),
            number(rate.refusals_per_sec),
            number(rate.errors_per_sec),
            time(rate.p50_ms),
            time(rate.p99_ms),
            time(rate.mean_ms),
            bytes(rate.bytes_in_per_sec),
            bytes(rate.bytes_out_per_sec),
            if pods { "-".to_owned() } else { rate.in_flight.to_string() },
        ]);
    }
    columns
}

fn number(value: f64) -> String {
    if value >= 100.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn time(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.1} ms"),
        Some(ms) if ms < 10_000.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.0} s", ms / 1e3),
    }
}

fn bytes(per_sec: f64) -> String {
    match per_sec {
        ..1e3 => format!("{per_sec:.0} B/s"),
        ..1e6 => format!("{:.1} kB/s", per_sec / 1e3),
        ..1e9 => format!("{:.1} MB/s", per_sec / 1e6),
        _ => format!("{:.1} GB/s", per_sec / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: Option<f64>, expected: f64) -> bool {
        value.is_some_and(|value| (value - expected).abs() < 1e-9)
    }

    #[test]
    fn a_quantile_lies_evenly_within_its_bucket() {
        let bounds = [0.001, 0.01, 0.1];
        assert!(close(quantile(0.5, 100, &[50, 100, 100], &bounds), 0.001));
        assert!(close(quantile(0.75, 100, &[50, 100, 100], &bounds), 0.0055));
        assert!(close(quantile(0.25, 100, &[50, 100, 100], &bounds), 0.0005));
        assert!(close(quantile(0.99, 100, &[10, 20, 30], &bounds), 0.1), "beyond all bounds");
        assert_eq!(quantile(0.5, 0, &[0, 0, 0], &bounds), None);
        assert_eq!(quantile(0.5, 9, &[], &[]), None, "pods have no times");
    }

    fn view(classes: [u64; 6], bytes_out: u64) -> TallyView {
        let within = vec![classes.iter().sum()];
        TallyView {
            name: "shop".into(),
            classes,
            within,
            bytes_out,
            micros: 9_000,
            ..TallyView::default()
        }
    }

    #[test]
    fn what_happened_in_the_interval_is_told_and_not_what_was_before() {
        let (before, now) = (view([0, 0, 10, 0, 1, 1], 100), view([1, 0, 30, 0, 5, 3], 4_100));
        let rate = between(&before, &now, &[0.001], 2.0);
        assert!(close(Some(rate.requests_per_sec), 13.5));
        assert!(close(Some(rate.errors_per_sec), 1.5) && close(Some(rate.refusals_per_sec), 2.0));
        assert!(close(Some(rate.bytes_out_per_sec), 2_000.0));
    }

    #[test]
    fn counts_that_began_anew_are_not_taken_for_negative_ones() {
        let (before, now) = (view([0, 0, 100, 0, 0, 0], 9_000), view([0, 0, 4, 0, 0, 0], 8));
        let rate = between(&before, &now, &[0.001], 1.0);
        assert!(
            close(Some(rate.requests_per_sec), 4.0) && close(Some(rate.bytes_out_per_sec), 8.0)
        );
        assert!(close(Some(between(&now, &now, &[0.001], 0.0).requests_per_sec), 0.0));
    }

    #[test]
    fn values_have_a_unit_and_three_digits_or_so() {
        assert_eq!([0.0, 0.25, 99.94, 1234.4].map(number), ["0", "0.2", "99.9", "1234"]);
        let times = [None, Some(0.42), Some(250.0), Some(12_345.0)].map(time);
        assert_eq!(times, ["-", "0.4 ms", "250 ms", "12 s"]);
        assert_eq!(
            [12.0, 1_500.0, 2e6, 3e9].map(bytes),
            ["12 B/s", "1.5 kB/s", "2.0 MB/s", "3.0 GB/s"]
        );
    }
}
