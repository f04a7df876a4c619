//! What is asked for requests, as filters and other parts of rules. Pure.
//!
//! Several objects may ask something of the same requests: they come as layers, the closest to the
//! request first, and of each wish the first layer counts that has it. One layer that cannot be
//! followed refuses everything: what it asks is not known, and nobody gets past it.

use std::sync::Arc;

use crate::{
    ClientRanges, Filter, ObjectRef, Persistence, RateLimit, RequestWishes, RetryPolicy,
    RuleAction, RuleBackend, RuleTimeouts,
};

/// The answer to requests that are under wishes that cannot be followed.
pub(super) const UNFOLLOWED: u16 = 500;

/// What one object asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    /// The object. Requests that are under its limits count together.
    pub(super) object: ObjectRef,
    /// `None`: it cannot be followed.
    pub(super) wishes: Option<Arc<RequestWishes>>,
}

/// What layers come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Followed {
    /// In the order in which they are asked, those that refuse first.
    pub(super) filters: Vec<Filter>,
    pub(super) timeouts: RuleTimeouts,
    pub(super) retry: Option<RetryPolicy>,
    pub(super) persistence: Option<Persistence>,
}

/// What the layers ask together, the closest first; nothing, where one cannot be followed.
pub(super) fn followed<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> Option<Followed> {
    let layers = layers.into_iter().map(|layer| Some((&layer.object, layer.wishes.as_deref()?)));
    let layers: Vec<(&ObjectRef, &RequestWishes)> = layers.collect::<Option<_>>()?;
    let of_timeouts = layers.iter().map(|(_, wishes)| wishes.timeouts);
    Some(Followed {
        filters: filters(&layers),
        timeouts: of_timeouts.fold(RuleTimeouts::default(), RuleTimeouts::or),
        retry: first(&layers, |wishes| wishes.retry.as_ref()).map(|(_, retry)| retry.clone()),
        persistence: first(&layers, |wishes| wishes.sessions.as_ref()).map(|(_, s)| s.clone()),
    })
}

/// The first that says something, and who does.
fn first<'a, T: ?Sized>(
    layers: &[(&'a ObjectRef, &'a RequestWishes)],
    wish: impl Fn(&'a RequestWishes) -> Option<&'a T>,
) -> Option<(&'a ObjectRef, &'a T)> {
    layers.iter().find_map(|(object, wishes)| Some((*object, wish(wishes)?)))
}

/// Each wish that is a filter, in the order in which they are asked.
fn filters(layers: &[(&ObjectRef, &RequestWishes)]) -> Vec<Filter> {
    let mut filters = Vec::new();
    if let Some((_, clients)) = first(layers, |wishes| wishes.clients.as_ref())
        && *clients != ClientRanges::default()
    {
        filters.push(Filter::Clients(clients.clone()));
    }
    filters.extend(first(layers, |w| w.header_max.as_ref()).map(|(_, n)| Filter::HeaderMax(*n)));
    let closed = first(layers, |wishes| wishes.maintenance.as_ref());
    filters.extend(closed.map(|(_, closed)| Filter::Maintenance(closed.clone())));
    if let Some((object, rates)) = first(layers, |wishes| wishes.rates.as_deref()) {
        let scope: Arc<str> = object.to_string().into();
        let rate = |limit: &RateLimit| Filter::Rate { limit: limit.clone(), scope: scope.clone() };
        filters.extend(rates.iter().map(rate));
    }
    // Whoever may not ask at all, or not now, is not asked who it is.
    let users = first(layers, |wishes| wishes.users.as_ref());
    filters.extend(users.map(|(_, users)| Filter::Users(users.clone())));
    let tokens = first(layers, |wishes| wishes.tokens.as_ref());
    filters.extend(tokens.map(|(_, wish)| Filter::Tokens(Arc::new(wish.tokens()))));
    let authorizer = first(layers, |wishes| wishes.authorizer.as_ref());
    filters.extend(authorizer.map(|(_, w)| Filter::Authorizer(Arc::new(w.authorizer()))));
    filters.extend(first(layers, |w| w.body_max.as_ref()).map(|(_, max)| Filter::BodyMax(*max)));
    filters.extend(first(layers, |w| w.cors.as_ref()).map(|(_, cors)| Filter::Cors(cors.clone())));
    filters.extend(first(layers, |w| w.answer_max.as_ref()).map(|(_, n)| Filter::AnswerMax(*n)));
    let pages = first(layers, |wishes| wishes.error_pages.as_ref());
    filters.extend(pages.map(|(_, pages)| Filter::ErrorPages(pages.clone())));
    let compression = first(layers, |wishes| wishes.compression.as_ref());
    let compression = compression.filter(|(_, compression)| !compression.codings.is_empty());
    filters.extend(compression.map(|(_, wish)| Filter::Compress(wish.clone())));
    filters
}

impl RuleTimeouts {
    /// These, and where they say nothing, those of `wider`.
    fn or(self, wider: Self) -> Self {
        Self {
            request_ms: self.request_ms.or(wider.request_ms),
            backend_ms: self.backend_ms.or(wider.backend_ms),
        }
    }
}

impl RuleAction {
    /// What is done with requests that are also under these layers: what the rule itself says counts
    /// more than they do.
    pub(super) fn under<'a>(&self, layers: impl IntoIterator<Item = &'a Layer>) -> Self {
        let Some(mut followed) = followed(layers) else {
            return Self::unfollowed(self.name.clone());
        };
        let is_cors = |filter: &Filter| matches!(filter, Filter::Cors(_));
        if self.filters.iter().any(is_cors) {
            followed.filters.retain(|filter| !is_cors(filter));
        }
        followed.filters.extend(self.filters.iter().cloned());
        Self {
            name: self.name.clone(),
            backends: self.backends.clone(),
            filters: followed.filters,
            timeouts: self.timeouts.or(followed.timeouts),
            retry: self.retry.clone().or(followed.retry),
            persistence: self.persistence.clone().or(followed.persistence),
        }
    }

    /// What is done where something that a rule asks for cannot be followed.
    pub(super) fn unfollowed(name: Option<Arc<str>>) -> Self {
        let backend = RuleBackend { weight: 1, to: Err(UNFOLLOWED), filters: Vec::new() };
        Self { name, backends: vec![backend], ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compression, Cors, ErrorPages, Maintenance, ObjectKind, RateKey, SourceId};

    fn layer(name: &str, wishes: RequestWishes) -> Layer {
        let source = SourceId::cluster("c");
        let object = ObjectRef::of_kind(&source, ObjectKind::RequestPolicy, "shop", name);
        Layer { object, wishes: Some(Arc::new(wishes)) }
    }

    fn rate(requests: u32) -> RateLimit {
        RateLimit { requests, period_ms: 1000, burst: 1, per: RateKey::All, status: 429 }
    }

    #[test]
    fn of_each_wish_the_closest_layer_counts_that_has_it() {
        let close = RequestWishes {
            rates: Some(vec![rate(1)]),
            timeouts: RuleTimeouts { request_ms: Some(1), backend_ms: None },
            ..RequestWishes::default()
        };
        let wide = RequestWishes {
            rates: Some(vec![rate(2)]),
            body_max: Some(7),
            timeouts: RuleTimeouts { request_ms: Some(3), backend_ms: Some(4) },
            retry: Some(RetryPolicy::default()),
            ..RequestWishes::default()
        };
        let layers = [layer("close", close), layer("wide", wide)];
        let scope: Arc<str> = layers[0].object.to_string().into();
        let wanted = Followed {
            filters: vec![Filter::Rate { limit: rate(1), scope }, Filter::BodyMax(7)],
            timeouts: RuleTimeouts { request_ms: Some(1), backend_ms: Some(4) },
            retry: Some(RetryPolicy::default()),
            persistence: None,
        };
        assert_eq!(followed(&layers), Some(wanted));
    }

    #[test]
    fn an_empty_list_of_rates_takes_away_those_of_wider_layers() {
        let none = RequestWishes { rates: Some(Vec::new()), ..RequestWishes::default() };
        let some = RequestWishes { rates: Some(vec![rate(2)]), ..RequestWishes::default() };
        let layers = [layer("close", none), layer("wide", some)];
        assert_eq!(followed(&layers), Some(Followed::default()));
    }

    #[test]
    fn what_changes_answers_comes_after_what_refuses_and_can_be_taken_away() {
        let (closed, pages) =
            (Maintenance::default(), ErrorPages { pages: vec![], intercept: true });
        let wide = RequestWishes {
            compression: Some(Compression::default()),
            error_pages: Some(pages.clone()),
            maintenance: Some(closed.clone()),
            header_max: Some(1),
            answer_max: Some(2),
            body_max: Some(3),
            ..RequestWishes::default()
        };
        let off = Compression { codings: Vec::new(), ..Compression::default() };
        let close = RequestWishes { compression: Some(off), ..RequestWishes::default() };
        let mut wanted = vec![
            Filter::HeaderMax(1),
            Filter::Maintenance(closed),
            Filter::BodyMax(3),
            Filter::AnswerMax(2),
            Filter::ErrorPages(pages),
        ];
        let layers = [layer("close", close), layer("wide", wide)];
        assert_eq!(followed(&layers).unwrap().filters, wanted);
        wanted.push(Filter::Compress(Compression::default()));
        assert_eq!(followed(&layers[1..]).unwrap().filters, wanted);
    }

    #[test]
    fn what_the_rule_itself_says_counts_more() {
        let cors = |secs| Cors { max_age_secs: secs, ..Cors::default() };
        let asked = RequestWishes {
            cors: Some(cors(1)),
            body_max: Some(7),
            timeouts: RuleTimeouts { request_ms: Some(1), backend_ms: Some(2) },
            ..RequestWishes::default()
        };
        let rule = RuleAction {
            filters: vec![Filter::Cors(cors(9))],
            timeouts: RuleTimeouts { request_ms: Some(9), backend_ms: None },
            ..RuleAction::default()
        };
        let action = rule.under(&[layer("a", asked)]);
        assert_eq!(action.filters, [Filter::BodyMax(7), Filter::Cors(cors(9))]);
        assert_eq!(action.timeouts, RuleTimeouts { request_ms: Some(9), backend_ms: Some(2) });
    }

    #[test]
    fn nobody_gets_past_a_layer_that_cannot_be_followed() {
        let mut broken = layer("broken", RequestWishes::default());
        broken.wishes = None;
        let fine = layer("fine", RequestWishes { body_max: Some(1), ..RequestWishes::default() });
        let action = RuleAction::default().under(&[fine, broken]);
        assert_eq!(action, RuleAction::unfollowed(None));
        assert_eq!(action.backends[0].to, Err(500));
    }
}
