//! What is counted for each route and each pod.
//!
//! A tally lives as long as somebody holds it: compiled rules hold those of routes, slots of targets
//! those of pods. Its series go with it, so that nothing is said about what no longer exists. Counting
//! takes no lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use haflinger_core::ObjectRef;
use prometheus::core::Metric;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};
use serde::{Deserialize, Serialize};

use crate::metrics::{CLASSES, DURATION_BUCKETS, class_of};

/// Routes with series of their own: some twenty series each make what a scrape of a second or less
/// can carry. All others share the series `other`.
pub const ROUTES_COUNTED_MAX: usize = 1_000;

/// Pods with series of their own, of which each has two or three. All others share `other`.
pub const PODS_COUNTED_MAX: usize = 5_000;

/// Stands for what is beyond a limit.
const OTHER: &str = "other";

/// The labels of a route or a pod.
type Labels = [Arc<str>; 3];

/// All tallies. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tallies {
    routes: Arc<Book>,
    pods: Arc<Book>,
}

/// The tallies of one kind.
#[derive(Debug)]
struct Book {
    requests: IntCounterVec,
    durations: Option<HistogramVec>,
    limit: usize,
    /// Locked to begin and to end a tally, never to count.
    open: Mutex<HashMap<Labels, Weak<Tally>>>,
}

/// The counts of a route or a pod.
#[derive(Debug)]
pub(crate) struct Tally {
    labels: Labels,
    book: Arc<Book>,
    /// In the order of [`CLASSES`]; a class that never comes has no series.
    classes: [OnceLock<IntCounter>; CLASSES.len()],
    duration: Option<Histogram>,
    /// What is shown and no metric, so that it costs a scrape nothing.
    shown: Shown,
}

/// Counts for those who look on.
#[derive(Debug, Default)]
struct Shown {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    micros: AtomicU64,
    in_flight: AtomicI64,
}

/// The counts of a route or a pod at one moment, since it was first asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TallyView {
    /// Of a route its kind, of a pod the namespace of its service; `other`: beyond the limit.
    pub kind_or_namespace: Arc<str>,
    /// Of a route its namespace, of a pod its service.
    pub namespace_or_service: Arc<str>,
    /// The route's or the pod's name.
    pub name: Arc<str>,
    /// Requests by class of status: without an answer, 1xx, 2xx, 3xx, 4xx, 5xx.
    pub classes: [u64; CLASSES.len()],
    /// Of a route: how many took no longer than each of [`TallyViews::bounds_secs`].
    pub within: Vec<u64>,
    /// Time of all requests together, in microseconds.
    pub micros: u64,
    /// Bytes of the requests' bodies.
    pub bytes_in: u64,
    /// Bytes of the answers' bodies.
    pub bytes_out: u64,
    /// Of a route: requests that have not ended.
    pub in_flight: i64,
}

/// What routes and pods have been asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TallyViews {
    /// When, in milliseconds since the proxy began.
    pub at_ms: u64,
    /// Bounds of the times that are told apart, in seconds.
    pub bounds_secs: Vec<f64>,
    /// Routes that are served.
    pub routes: Vec<TallyView>,
    /// Pods that have been asked.
    pub pods: Vec<TallyView>,
}

/// A request of a route that has not ended: counted for as long as this lives.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Tally>);

impl InFlight {
    pub(crate) fn begin(tally: &Arc<Tally>) -> Self {
        tally.shown.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(tally.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.shown.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tallies {
    /// Registers the metrics.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let routes = IntCounterVec::new(
            Opts::new(
                "haflinger_proxy_route_requests_total",
                "Requests that followed a rule of an Ingress or route, by class of status; none: \
                 the client went away before. Beyond 1000 routes: other.",
            ),
            &["kind", "namespace", "route", "class"],
        )?;
        let durations = HistogramVec::new(
            HistogramOpts::new(
                "haflinger_proxy_route_duration_seconds",
                "Time from a request's header to the end of its response, by Ingress or route.",
            )
            .buckets(DURATION_BUCKETS.to_vec()),
            &["kind", "namespace", "route"],
        )?;
        let pods = IntCounterVec::new(
            Opts::new(
                "haflinger_proxy_pod_requests_total",
                "Requests by the pod that was asked last, by class of status. Beyond 5000 pods: \
                 other.",
            ),
            &["namespace", "service", "pod", "class"],
        )?;
        registry.register(Box::new(routes.clone()))?;
        registry.register(Box::new(durations.clone()))?;
        registry.register(Box::new(pods.clone()))?;
        Ok(Self {
            routes: Book::new(routes, Some(durations), ROUTES_COUNTED_MAX),
            pods: Book::new(pods, None, PODS_COUNTED_MAX),
        })
    }

    /// The tally of an Ingress or route.
    pub(crate) fn route(&self, object: &ObjectRef) -> Arc<Tally> {
        let kind = object.kind.as_str().into();
        Book::tally(&self.routes, [kind, object.namespace.clone(), object.name.clone()])
    }

    /// The tally of a pod as a backend of a service.
    pub(crate) fn pod(&self, service: &ObjectRef, pod: &Arc<str>) -> Arc<Tally> {
        let labels = [service.namespace.clone(), service.name.clone(), pod.clone()];
        Book::tally(&self.pods, labels)
    }
}

impl Tallies {
    /// All counts, at a moment so many milliseconds after the proxy began.
    pub(crate) fn views(&self, at_ms: u64) -> TallyViews {
        let views = |book: &Book| {
            // Held for as long as it takes to copy the pointers; a tally that ends here ends after
            // the lock, which its own end takes.
            let open: Vec<Arc<Tally>> = book.open().values().filter_map(Weak::upgrade).collect();
            open.iter().map(|tally| tally.view()).collect()
        };
        TallyViews {
            at_ms,
            bounds_secs: DURATION_BUCKETS.to_vec(),
            routes: views(&self.routes),
            pods: views(&self.pods),
        }
    }
}

impl Book {
    fn new(requests: IntCounterVec, durations: Option<HistogramVec>, limit: usize) -> Arc<Self> {
        Arc::new(Self { requests, durations, limit, open: Mutex::default() })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Labels, Weak<Tally>>> {
        // Whole between any two statements.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tally(book: &Arc<Self>, labels: Labels) -> Arc<Tally> {
        let mut open = book.open();
        if let Some(tally) = open.get(&labels).and_then(Weak::upgrade) {
            return tally;
        }
        let full = open.len() >= book.limit && !open.contains_key(&labels);
        let labels = if full { [(); 3].map(|()| OTHER.into()) } else { labels };
        if let Some(tally) = open.get(&labels).and_then(Weak::upgrade) {
            return tally;
        }
        let names = labels.each_ref().map(|label| &**label);
        let tally = Arc::new(Tally {
            book: book.clone(),
            classes: Default::default(),
            duration: book.durations.as_ref().map(|vec| vec.with_label_values(&names)),
            labels: labels.clone(),
            shown: Shown::default(),
        });
        open.insert(labels, Arc::downgrade(&tally));
        tally
    }
}

impl Tally {
    /// Whether it is the pod's of this name, and its alone.
    pub(crate) fn is_of(&self, pod: &str) -> bool {
        &*self.labels[2] == pod
    }

    /// Bytes of bodies have passed.
    pub(crate) fn bytes_passed(&self, bytes_in: u64, bytes_out: u64) {
        self.shown.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
        self.shown.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
    }

    fn view(&self) -> TallyView {
        let [kind_or_namespace, namespace_or_service, name] = self.labels.clone();
        let histogram = self.duration.as_ref().map(Metric::metric);
        let buckets = histogram.as_ref().map(|metric| metric.get_histogram().get_bucket());
        let buckets = buckets.unwrap_or_default().iter();
        let Shown { bytes_in, bytes_out, micros, in_flight } = &self.shown;
        TallyView {
            kind_or_namespace,
            namespace_or_service,
            name,
            classes: self.classes.each_ref().map(|class| class.get().map_or(0, IntCounter::get)),
            within: buckets
                .filter(|bucket| bucket.upper_bound().is_finite())
                .map(|bucket| bucket.cumulative_count())
                .collect(),
            micros: micros.load(Ordering::Relaxed),
            bytes_in: bytes_in.load(Ordering::Relaxed),
            bytes_out: bytes_out.load(Ordering::Relaxed),
            in_flight: in_flight.load(Ordering::Relaxed),
        }
    }

    /// A request ended with `status`, or without any answer, after `took`.
    pub(crate) fn request_ended(&self, status: Option<u16>, took: Duration) {
        let class = class_of(status);
        let counter = self.classes[class].get_or_init(|| {
            let [one, two, three] = self.labels.each_ref().map(|label| &**label);
            self.book.requests.with_label_values(&[one, two, three, CLASSES[class]])
        });
        counter.inc();
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.shown.micros.fetch_add(micros, Ordering::Relaxed);
        if let Some(duration) = &self.duration {
            duration.observe(took.as_secs_f64());
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let mut open = self.book.open();
        // Somebody may have begun another one with the same labels by now, which counts on.
        if open.get(&self.labels).is_none_or(|held| !std::ptr::eq(held.as_ptr(), self)) {
            return;
        }
        open.remove(&self.labels);
        let [one, two, three] = self.labels.each_ref().map(|label| &**label);
        // Errors only say that there is no such series.
        for class in CLASSES {
            let _ = self.book.requests.remove_label_values(&[one, two, three, class]);
        }
        if let Some(durations) = &self.book.durations {
            let _ = durations.remove_label_values(&[one, two, three]);
        }
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::SourceId;

    use super::*;

    fn route(name: &str) -> ObjectRef {
        ObjectRef::ingress(&SourceId::inventory(), "default", name)
    }

    /// Series whose labels include `label`.
    fn series(registry: &Registry, label: &str) -> usize {
        let families = registry.gather();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        metrics.filter(|m| m.get_label().iter().any(|l| l.value() == label)).count()
    }

    #[test]
    fn a_route_is_counted_by_class_and_its_series_go_with_it() {
        let registry = Registry::new();
        let tallies = Tallies::new(&registry).unwrap();
        let shop = tallies.route(&route("shop"));
        shop.request_ended(Some(200), Duration::from_millis(3));
        shop.request_ended(None, Duration::ZERO);
        assert_eq!(series(&registry, "shop"), 3, "two classes and the histogram");
        let again = tallies.route(&route("shop"));
        assert!(Arc::ptr_eq(&shop, &again));
        drop(shop);
        again.request_ended(Some(204), Duration::ZERO);
        assert_eq!(series(&registry, "shop"), 3);
        drop(again);
        assert_eq!(series(&registry, "shop"), 0);
    }

    #[test]
    fn what_is_shown_of_a_route_is_what_was_counted_and_a_request_in_flight_until_it_ends() {
        let tallies = Tallies::new(&Registry::new()).unwrap();
        let shop = tallies.route(&route("shop"));
        let first = InFlight::begin(&shop);
        let second = InFlight::begin(&shop);
        shop.request_ended(Some(200), Duration::from_millis(3));
        shop.request_ended(Some(503), Duration::from_secs(2));
        shop.bytes_passed(5, 7);
        drop(first);
        let views = tallies.views(9);
        let view = &views.routes[0];
        assert_eq!((views.at_ms, &*view.name, view.in_flight), (9, "shop", 1));
        assert_eq!(view.classes, [0, 0, 1, 0, 0, 1]);
        assert_eq!((view.micros, view.bytes_in, view.bytes_out), (2_003_000, 5, 7));
        assert_eq!(view.within.len(), views.bounds_secs.len());
        let under = |bound: f64| views.bounds_secs.iter().position(|own| *own == bound).unwrap();
        assert_eq!([0.0025, 0.005, 2.5].map(|bound| view.within[under(bound)]), [0, 1, 2]);
        drop(second);
        assert_eq!(tallies.views(9).routes[0].in_flight, 0);
        drop(shop);
        assert!(tallies.views(9).routes.is_empty());
    }

    #[test]
    fn beyond_the_limit_routes_share_a_series_until_there_is_room() {
        let registry = Registry::new();
        let tallies = Tallies::new(&registry).unwrap();
        let name = |n: usize| route(&format!("route-{n}"));
        let mut held: Vec<_> = (0..ROUTES_COUNTED_MAX).map(|n| tallies.route(&name(n))).collect();
        let (more, most) = (tallies.route(&route("more")), tallies.route(&route("most")));
        assert!(Arc::ptr_eq(&more, &most));
        more.request_ended(Some(200), Duration::ZERO);
        assert_eq!((series(&registry, "more"), series(&registry, OTHER)), (0, 2));
        held.truncate(10);
        let late = tallies.route(&route("late"));
        late.request_ended(Some(200), Duration::ZERO);
        assert_eq!(series(&registry, "late"), 2);
    }

    #[test]
    fn a_pod_that_comes_again_before_the_former_is_forgotten_goes_on_counting() {
        let registry = Registry::new();
        let tallies = Tallies::new(&registry).unwrap();
        let service = ObjectRef::service(&SourceId::inventory(), "default", "shop");
        let former = tallies.pod(&service, &"shop-0".into());
        former.request_ended(Some(200), Duration::ZERO);
        // As between the last holder's end and the drop: the entry is another's already.
        let labels = former.labels.clone();
        tallies.pods.open().remove(&labels);
        let next = tallies.pod(&service, &"shop-0".into());
        drop(former);
        next.request_ended(Some(200), Duration::ZERO);
        assert_eq!(series(&registry, "shop-0"), 1);
        drop(next);
        assert_eq!(series(&registry, "shop-0"), 0);
    }
}
