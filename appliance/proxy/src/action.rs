//! What a rule does, compiled: backends by weight, and filters whose contents have been checked.

use std::net::SocketAddr;
use std::sync::Arc;

use haflinger_core::{
    Balance, Filter, HttpRule, Mirror, ObjectRef, Redirect, RetryPolicy, Rewrite, RuleAction,
    RuleBackend, RuleTimeouts, Upstream, UpstreamProtocol,
};

use crate::auth::{AuthShelf, AuthorizerCheck, TokensCheck, UsersCheck};
use crate::coding::Compressor;
use crate::cors::CorsPolicy;
use crate::edits::Edits;
use crate::guards::Guard;
use crate::pages::{Closed, Pages};
use crate::sessions::{SessionKey, Sessions, Tag};
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
    plain: bool,
    sessions: Option<Sessions>,
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
    /// A name and a password are asked for.
    Users(Arc<UsersCheck>),
    /// A token is asked for.
    Tokens(Arc<TokensCheck>),
    /// A server is asked.
    Authorizer(Arc<AuthorizerCheck>),
    /// Bytes of an answer at most.
    AnswerMax(u64),
    /// Answers are compressed.
    Compress(Compressor),
    /// Pages in the place of errors.
    Pages(Pages),
    /// Nothing is passed on for now.
    Closed(Closed),
    /// Something that this proxy cannot do: requests get 500.
    Unfollowed,
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
    /// of fields that rules may not edit. `tally` is that of the rule's object; checks of clients
    /// share what `auth` finds.
    pub(crate) fn compile(
        rule: &HttpRule,
        tally: Arc<Tally>,
        auth: &mut AuthShelf,
        mut upstream: impl FnMut(&Upstream) -> ActionUpstream,
        mut refuse: impl FnMut(&str),
    ) -> Self {
        let from = &rule.action;
        let mut weight = 0;
        let mut steps = |filters: &[Filter], upstream: &mut dyn FnMut(&Upstream) -> _| {
            let step = |filter| Step::compile(filter, auth, upstream, &mut refuse);
            filters.iter().map(step).collect::<Vec<_>>()
        };
        let mut backends = Vec::with_capacity(from.backends.len());
        for RuleBackend { weight: own, to, filters } in &from.backends {
            weight += u64::from(*own);
            let to = to.as_ref().map(&mut upstream).map_err(|status| *status);
            backends.push(ActionBackend { upto: weight, to, steps: steps(filters, &mut upstream) });
        }
        let mut steps = steps(&from.filters, &mut upstream);
        let sessions = from.persistence.as_ref().and_then(Sessions::compile);
        if sessions.is_none() && from.persistence.is_some() {
            steps.push(Step::Unfollowed);
        }
        let (from, object, plain) = (from.clone(), rule.object.clone(), is_plain(from));
        Self { from, object, tally, backends, weight, steps, plain, sessions }
    }

    /// Whether requests pass as they are, over plain HTTP/1.1, with the configured patience alone.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// What is counted about requests.
    pub(crate) fn tally(&self) -> &Arc<Tally> {
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

    /// What keeps clients at their backends.
    pub(crate) fn sessions(&self) -> Option<&Sessions> {
        self.sessions.as_ref()
    }

    /// The active backend with this tag, after the place of the rule's backend that it is one of.
    pub(crate) fn find(&self, tag: &Tag, key: &SessionKey) -> Option<(usize, SocketAddr)> {
        let mut places = self.backends.iter().enumerate();
        places.find_map(|(at, backend)| Some((at, backend.to.as_ref().ok()?.slot.find(tag, key)?)))
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

    /// What it was compiled from.
    pub(crate) fn from(&self) -> &RuleAction {
        &self.from
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
        auth: &mut AuthShelf,
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
            Filter::HeaderMax(max) => {
                Self::Guard(Guard::HeaderMax(usize::try_from(*max).unwrap_or(usize::MAX)))
            }
            Filter::AnswerMax(max) => Self::AnswerMax(*max),
            Filter::Compress(compression) => Self::Compress(Compressor::compile(compression)),
            Filter::ErrorPages(pages) => {
                Pages::compile(pages).map_or(Self::Unfollowed, Self::Pages)
            }
            Filter::Maintenance(closed) => {
                Closed::compile(closed).map_or(Self::Unfollowed, Self::Closed)
            }
            Filter::Mirror(Mirror { to, numerator, denominator }) => Self::Mirror(ActionMirror {
                to: upstream(to),
                numerator: *numerator,
                denominator: *denominator,
            }),
            Filter::Users(_) | Filter::Tokens(_) | Filter::Authorizer(_) => {
                auth.step(from, upstream)
            }
        }
    }
}

/// See [`Action::is_plain`]. Every field is named: one that is added has to be thought of here.
fn is_plain(action: &RuleAction) -> bool {
    let RuleAction { name: _, backends, filters, timeouts, retry, persistence } = action;
    let goes_plainly = |backend: &RuleBackend| {
        let RuleBackend { weight: _, to, filters } = backend;
        let Ok(Upstream { target: _, speaks, tls, balance }) = to else { return true };
        let plain = *speaks == UpstreamProtocol::Http1 && tls.is_none();
        plain && filters.is_empty() && *balance == Balance::usual()
    };
    let patient = *timeouts == RuleTimeouts::default() && retry.is_none();
    patient && persistence.is_none() && filters.is_empty() && backends.iter().all(goes_plainly)
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
        let tally = tallies.route(&rule.object);
        let auth = &mut AuthShelf::default();
        Action::compile(&rule, tally, auth, |_| unreachable!("no target"), |_| {})
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
