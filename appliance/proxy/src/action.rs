//! What a rule does, compiled: backends by weight, and filters whose contents have been checked.

use std::sync::Arc;

use haflinger_core::{
    Filter, HttpRule, Mirror, ObjectRef, Redirect, RetryPolicy, Rewrite, RuleAction, RuleBackend,
    RuleTimeouts, Upstream, UpstreamProtocol,
};

use crate::cors::CorsPolicy;
use crate::edits::Edits;
use crate::guards::Guard;
use crate::tally::Tally;
use crate::tls::BackendTls;
use crate::upstream::{TargetSlot, mixed, request_hash};

/// What is done with the requests of a rule. Rules that share an action share the compiled one.
#[derive(Debug)]
pub(crate) struct Action {
    /// Kept, so that its address stays its own for as long as this lives.
    from: Arc<RuleAction>,
    object: ObjectRef,
    tally: Arc<Tally>,
    backends: Vec<ActionBackend>,
    weight: u64,
    steps: Vec<Step>,
}

/// One backend of a rule.
#[derive(Debug)]
pub(crate) struct ActionBackend {
    /// The sum of the weights up to and with this one.
    upto: u64,
    /// Where to, or the status that requests are answered with.
    pub(crate) to: Result<ActionUpstream, u16>,
    steps: Vec<Step>,
}

/// Where requests go.
#[derive(Debug)]
pub(crate) struct ActionUpstream {
    /// The backends now.
    pub(crate) slot: Arc<TargetSlot>,
    /// What they speak.
    pub(crate) speaks: UpstreamProtocol,
    /// How they are greeted.
    pub(crate) tls: Option<Arc<BackendTls>>,
}

/// A filter.
#[derive(Debug)]
pub(crate) enum Step {
    /// Something is asked of the client.
    Guard(Guard),
    /// Fields of the request.
    Request(Edits),
    /// Fields of the answer.
    Response(Edits),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// Host or path.
    Rewrite(Rewrite),
    /// What other origins may do.
    Cors(CorsPolicy),
    /// A copy goes there too.
    Mirror(ActionMirror),
}

/// Where copies of requests go.
#[derive(Debug)]
pub(crate) struct ActionMirror {
    /// The backends.
    pub(crate) to: ActionUpstream,
    numerator: u32,
    denominator: u32,
}

impl Action {
    /// Compiles what `rule` does; `upstream` finds where requests go, and `refuse` is told the names
    /// of fields that rules may not edit. `tally` is that of the rule's object.
    pub(crate) fn compile(
        rule: &HttpRule,
        tally: Arc<Tally>,
        mut upstream: impl FnMut(&Upstream) -> ActionUpstream,
        mut refuse: impl FnMut(&str),
    ) -> Self {
        let from = &rule.action;
        let mut weight = 0;
        let mut steps = |filters: &[Filter], upstream: &mut dyn FnMut(&Upstream) -> _| {
            let step = |filter| Step::compile(filter, upstream, &mut refuse);
            filters.iter().map(step).collect::<Vec<_>>()
        };
        let mut backends = Vec::with_capacity(from.backends.len());
        for RuleBackend { weight: own, to, filters } in &from.backends {
            weight += u64::from(*own);
            let to = to.as_ref().map(&mut upstream).map_err(|status| *status);
            backends.push(ActionBackend { upto: weight, to, steps: steps(filters, &mut upstream) });
        }
        let steps = steps(&from.filters, &mut upstream);
        let (from, object) = (from.clone(), rule.object.clone());
        Self { from, object, tally, backends, weight, steps }
    }

    /// What is counted about requests.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The Ingress or route that it is from.
    pub(crate) fn object(&self) -> &ObjectRef {
        &self.object
    }

    /// The name of its rule.
    pub(crate) fn rule_name(&self) -> Option<&str> {
        self.from.name.as_deref()
    }

    /// The backend for a request with `hash`: of `weight` parts each has as many as its own weight.
    /// `None` when no backend has any.
    pub(crate) fn choose(&self, hash: u64) -> Option<usize> {
        if self.weight == 0 {
            return None;
        }
        // Mixed once more: the bits as they are choose the bucket of the forwarding table.
        let part = (u128::from(mixed(hash)) * u128::from(self.weight)) >> 64;
        let part = u64::try_from(part).unwrap_or(u64::MAX);
        Some(self.backends.partition_point(|backend| backend.upto <= part))
    }

    /// One of its backends.
    pub(crate) fn backend(&self, at: usize) -> Option<&ActionBackend> {
        self.backends.get(at)
    }

    /// The filters for a request that goes to the backend, in their order.
    pub(crate) fn steps(&self, backend: Option<usize>) -> impl Iterator<Item = &Step> {
        let of_backend = backend.and_then(|at| self.backends.get(at)).map(|backend| &backend.steps);
        self.steps.iter().chain(of_backend.into_iter().flatten())
    }

    /// How long requests may take.
    pub(crate) fn timeouts(&self) -> RuleTimeouts {
        self.from.timeouts
    }

    /// What is tried again.
    pub(crate) fn retry(&self) -> Option<&RetryPolicy> {
        self.from.retry.as_ref()
    }
}

impl Step {
    fn compile(
        from: &Filter,
        upstream: &mut dyn FnMut(&Upstream) -> ActionUpstream,
        refuse: impl FnMut(&str),
    ) -> Self {
        match from {
            Filter::Clients(ranges) => Self::Guard(Guard::clients(ranges)),
            Filter::Rate { limit, scope } => Self::Guard(Guard::rate(limit, scope)),
            Filter::BodyMax(max) => Self::Guard(Guard::BodyMax(*max)),
            Filter::RequestHeaders(edits) => Self::Request(Edits::compile(edits, refuse)),
            Filter::ResponseHeaders(edits) => Self::Response(Edits::compile(edits, refuse)),
            Filter::Redirect(redirect) => Self::Redirect(redirect.clone()),
            Filter::Rewrite(rewrite) => Self::Rewrite(rewrite.clone()),
            Filter::Cors(cors) => Self::Cors(CorsPolicy::compile(cors)),
            Filter::Mirror(Mirror { to, numerator, denominator }) => Self::Mirror(ActionMirror {
                to: upstream(to),
                numerator: *numerator,
                denominator: *denominator,
            }),
        }
    }
}

impl ActionMirror {
    /// Whether a copy of the request with `hash` goes there: of `denominator` so many as the
    /// numerator says. `place` tells the mirrors of a rule apart.
    pub(crate) fn wants(&self, hash: u64, place: u64) -> bool {
        let own = request_hash(hash, place + 1);
        let part = (u128::from(own) * u128::from(self.denominator)) >> 64;
        part < u128::from(self.numerator)
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::{HostMatch, PathMatch, SourceId};

    use super::*;
    use crate::tally::Tallies;

    fn action(weights: &[u32]) -> Action {
        let backend =
            |weight: &u32| RuleBackend { weight: *weight, to: Err(500), filters: Vec::new() };
        let backends = weights.iter().map(backend).collect();
        let mut rule = HttpRule::simple(
            HostMatch::Any,
            PathMatch::every(),
            None,
            ObjectRef::ingress(&SourceId::inventory(), "default", "site"),
        );
        rule.action = Arc::new(RuleAction { backends, ..RuleAction::default() });
        let tallies = Tallies::new(&prometheus::Registry::new()).unwrap();
        Action::compile(&rule, tallies.route(&rule.object), |_| unreachable!("no target"), |_| {})
    }

    #[test]
    fn each_backend_has_the_share_of_its_weight_and_none_without_weight() {
        let action = action(&[0, 70, 0, 30, 0]);
        let mut counts = [0; 5];
        for n in 0..100_000_u64 {
            counts[action.choose(crate::upstream::request_hash(7, n)).unwrap()] += 1;
        }
        assert_eq!([counts[0], counts[2], counts[4]], [0; 3]);
        // Binomial with deviation 145: ten deviations.
        assert!((68_550..71_450).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn the_choice_leaves_every_bucket_of_the_table_to_each_backend() {
        let action = action(&[1, 1]);
        let mut seen = [0_u64; 2];
        for n in 0..4_096 {
            let hash = crate::upstream::request_hash(7, n);
            seen[action.choose(hash).unwrap()] |= 1 << (hash >> 58);
        }
        assert_eq!(seen, [u64::MAX; 2], "the first bits of the hash say nothing of the choice");
    }

    #[test]
    fn a_mirror_gets_its_share_and_two_mirrors_not_the_same_requests() {
        let to =
            ActionUpstream { slot: Arc::default(), speaks: UpstreamProtocol::Http1, tls: None };
        let mut mirror = ActionMirror { to, numerator: 25, denominator: 50 };
        let hashes = || (0..10_000).map(|n| crate::upstream::request_hash(7, n));
        let count = |mirror: &ActionMirror, place| {
            hashes().filter(|hash| mirror.wants(*hash, place)).count()
        };
        // Binomial with deviation 50: ten deviations.
        assert!((4_500..5_500).contains(&count(&mirror, 0)));
        let both = hashes().filter(|hash| mirror.wants(*hash, 0) && mirror.wants(*hash, 1)).count();
        assert!((2_000..3_000).contains(&both), "{both}");
        mirror.numerator = 0;
        assert_eq!(count(&mirror, 0), 0);
        mirror.numerator = 50;
        assert_eq!(count(&mirror, 0), 10_000);
    }

    #[test]
    fn without_any_weight_there_is_no_choice() {
        assert_eq!(action(&[]).choose(1), None);
        assert_eq!(action(&[0, 0]).choose(1), None);
        assert_eq!(action(&[u32::MAX, u32::MAX]).choose(u64::MAX).map(|at| at < 2), Some(true));
    }
}
