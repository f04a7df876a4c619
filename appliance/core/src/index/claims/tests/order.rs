//! The outcome follows from the facts alone: any order and duplication of events ends in the
//! same claims, and those are what a slow and obvious reading of the rules says.

use proptest::prelude::*;

use super::super::rules::{Claim, Strength, Terms, Turn};
use super::*;

/// The rules, read one claim after another, each looking at everything.
struct Obvious<'a> {
    policy: &'a Policy,
    holders: Vec<(IpAddr, Claim)>,
}

type Facts = BTreeMap<ObjectRef, Want>;

impl Obvious<'_> {
    fn outcomes(policy: &Policy, facts: &Facts) -> BTreeMap<ObjectRef, (Vec<IpAddr>, Vec<IpAddr>)> {
        let mut obvious = Obvious { policy, holders: Vec::new() };
        let mut turns: Vec<Turn> = Vec::new();
        for strength in Strength::ALL {
            turns.extend(facts.iter().map(|(object, want)| Turn {
                strength,
                created_secs: want.created_secs,
                object: object.clone(),
            }));
        }
        turns.sort();
        for turn in &turns {
            let want = &facts[&turn.object];
            for family in &want.families {
                obvious.take(turn, want, *family);
            }
        }
        let results =
            facts.iter().map(|(object, want)| (object.clone(), obvious.result(object, want)));
        results.collect()
    }

    fn of(&self, object: &ObjectRef, strength: Strength, family: Family) -> Vec<IpAddr> {
        let mine = self.holders.iter().filter(|(address, claim)| {
            claim.turn.object == *object
                && claim.turn.strength == strength
                && Family::of(*address) == family
        });
        mine.map(|(address, _)| *address).collect()
    }

    fn fits(&self, claim: &Claim, address: IpAddr) -> bool {
        let there = self.holders.iter().filter(|(held, _)| *held == address);
        there.clone().all(|(_, held)| claim.clash(held).is_none())
    }

    fn take(&mut self, turn: &Turn, want: &Want, family: Family) {
        let terms = Terms::new(&turn.object, want.sharing.clone(), want.ports.clone(), want.fixed);
        let claim = Claim { turn: turn.clone(), terms: Arc::new(terms) };
        let in_family = |list: &[IpAddr]| -> BTreeSet<IpAddr> {
            list.iter().copied().filter(|address| Family::of(*address) == family).collect()
        };
        let kept = self.of(&turn.object, Strength::Recorded, family);
        let requested = in_family(&want.requested);
        let pool_of = |address: IpAddr| self.policy.pools.iter().find(|p| p.contains(address));
        match turn.strength {
            Strength::Recorded => {
                for address in in_family(&want.recorded) {
                    if self.fits(&claim, address) {
                        self.holders.push((address, claim.clone()));
                    }
                }
            }
            Strength::Requested if !want.fixed => {
                for address in requested.iter().filter(|address| !kept.contains(address)) {
                    let allowed = pool_of(*address).is_some_and(|pool| {
                        !pool.skips(*address)
                            && want.pool.as_ref().is_none_or(|name| *name == pool.name)
                            && self.admits(pool, &turn.object)
                    });
                    if allowed && self.fits(&claim, *address) {
                        self.holders.push((*address, claim.clone()));
                    }
                }
            }
            Strength::Chosen if !want.fixed && requested.is_empty() => {
                let in_pool = |address: &IpAddr| {
                    want.pool.is_none() || pool_of(*address).map(|p| &p.name) == want.pool.as_ref()
                };
                if !kept.iter().any(in_pool)
                    && let Some(address) = self.choose(&claim, want, family)
                {
                    self.holders.push((address, claim));
                }
            }
            _ => {}
        }
    }

    fn admits(&self, pool: &Pool, object: &ObjectRef) -> bool {
        pool.selects.admits(&object.namespace, None, &Labels::default()) == Some(true)
    }

    fn choose(&self, claim: &Claim, want: &Want, family: Family) -> Option<IpAddr> {
        let mut pools: Vec<&Pool> = self.policy.pools.iter().collect();
        pools.sort_by_key(|pool| (pool.priority, pool.selects.is_open()));
        for pool in pools {
            let meant = want.pool.as_ref().map_or(pool.auto_assign, |name| *name == pool.name);
            if !meant || !self.admits(pool, &claim.turn.object) {
                continue;
            }
            let all: Vec<IpAddr> = addresses(pool, family);
            if all.is_empty() {
                continue;
            }
            let friends: BTreeSet<IpAddr> = self
                .holders
                .iter()
                .filter(|(address, held)| {
                    claim.group().is_some()
                        && held.group() == claim.group()
                        && all.contains(address)
                })
                .map(|(address, _)| *address)
                .collect();
            let start = usize::try_from(claim.terms.hash % all.len() as u64).unwrap();
            let round = all.iter().cycle().skip(start).take(all.len());
            let free = round.filter(|a| self.holders.iter().all(|(held, _)| held != *a));
            let beside = friends.iter().filter(|address| self.fits(claim, **address));
            if let Some(address) = beside.chain(free).next() {
                return Some(*address);
            }
        }
        None
    }

    fn result(&self, object: &ObjectRef, want: &Want) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let (mut served, mut desired) = (Vec::new(), Vec::new());
        for family in &want.families {
            let kept = self.of(object, Strength::Recorded, *family);
            let requested = want.requested.iter().filter(|a| Family::of(**a) == *family).count();
            let chosen = self.of(object, Strength::Chosen, *family);
            let mut wanted = if want.fixed {
                kept.clone()
            } else if requested > 0 {
                let mut wanted = self.of(object, Strength::Requested, *family);
                wanted.extend(kept.iter().filter(|address| want.requested.contains(address)));
                wanted
            } else if chosen.is_empty() && want.pool.is_some() {
                let pools = &self.policy.pools;
                let pool = pools.iter().find(|pool| Some(&pool.name) == want.pool.as_ref());
                kept.iter().copied().filter(|a| pool.is_some_and(|p| p.contains(*a))).collect()
            } else {
                chosen
            };
            if wanted.is_empty() {
                wanted.clone_from(&kept);
            }
            served.extend(kept);
            desired.extend(wanted);
        }
        served.sort();
        desired.sort();
        (served, desired)
    }
}

fn addresses(pool: &Pool, family: Family) -> Vec<IpAddr> {
    let ranges = pool.ranges.iter().filter(|(first, _)| Family::of(*first) == family);
    let mut all: Vec<IpAddr> = ranges
        .flat_map(|(first, last)| match (first, last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (u32::from(*a)..=u32::from(*b)).map(|n| IpAddr::V4(n.into())).collect::<Vec<_>>()
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (u128::from(*a)..=u128::from(*b)).map(|n| IpAddr::V6(n.into())).collect()
            }
            _ => Vec::new(),
        })
        .filter(|address| !pool.skips(*address))
        .collect();
    all.sort();
    all
}

fn pools(variant: usize) -> Vec<Pool> {
    let mut main = pool("main", "192.0.2.1", "192.0.2.3");
    main.ranges.push((ip("2001:db8::1"), ip("2001:db8::2")));
    let skipping = Pool { skip_0_and_255: true, ..pool("skip", "198.51.100.254", "198.51.101.1") };
    let selects =
        PoolSelector { namespaces: BTreeSet::from(["shop".into()]), ..Default::default() };
    let special = Pool { selects, priority: 50, ..pool("shop", "203.0.113.1", "203.0.113.1") };
    match variant {
        0 => vec![main, skipping, special],
        1 => vec![pool("main", "192.0.2.2", "192.0.2.2"), Pool { priority: 1, ..skipping }],
        _ => vec![special, Pool { auto_assign: false, ..main }],
    }
}

#[derive(Clone, Debug)]
enum Event {
    Want(ObjectRef, Option<Box<Want>>),
    Pools(usize),
    Settle(bool),
}

fn any_want() -> impl Strategy<Value = Want> {
    let address = || {
        prop::sample::select(vec![
            "192.0.2.1",
            "192.0.2.2",
            "198.51.100.255",
            "198.51.101.1",
            "203.0.113.1",
            "203.0.113.9",
            "2001:db8::1",
        ])
        .prop_map(ip)
    };
    let few = || prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(address(), 1..3)];
    let families = prop::sample::select(vec![
        vec![Family::V4],
        vec![Family::V6],
        vec![Family::V4, Family::V6],
    ]);
    let pool = prop_oneof![
        3 => Just(None),
        1 => prop::sample::select(vec!["main", "skip", "shop", "absent"])
            .prop_map(|name| Some(name.into())),
    ];
    let sharing = prop_oneof![
        1 => Just(None),
        2 => (prop::sample::select(vec!["k", "l"]), any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(key, open, local)| Some(Arc::new(Sharing {
                key: key.into(),
                namespaces: match open {
                    true => SharingNamespaces::Any,
                    false => SharingNamespaces::Listed(BTreeSet::new()),
                },
                backends: local.then(|| "app=web".into()),
            }))),
    ];
    let ports = prop::collection::btree_set(prop::sample::select(vec![80, 81, 443]), 1..3);
    (families, few(), few(), pool, sharing, ports, 0..3_i64).prop_map(
        |(families, requested, recorded, pool, sharing, numbers, created_secs)| Want {
            families,
            requested,
            recorded,
            pool,
            sharing,
            ports: ports_of(&numbers),
            ..want(created_secs)
        },
    )
}

fn ports_of(numbers: &BTreeSet<u16>) -> Vec<WantedPort> {
    ports(&numbers.iter().copied().collect::<Vec<_>>())
}

fn any_object() -> impl Strategy<Value = ObjectRef> {
    let name = prop::sample::select(vec!["a", "b", "c", "d"]);
    (prop::sample::select(vec!["shop", "blog"]), name)
        .prop_map(|(namespace, name)| object(&format!("{namespace}/{name}")))
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (any_object(), prop::option::weighted(0.8, any_want()))
            .prop_map(|(object, want)| Event::Want(object, want.map(Box::new))),
        1 => (0..3_usize).prop_map(Event::Pools),
        4 => prop::bool::weighted(0.9).prop_map(Event::Settle),
    ]
}

fn fresh<'a>(variant: usize, facts: impl Iterator<Item = (&'a ObjectRef, &'a Want)>) -> Settled {
    let mut settled = Settled::under(pools(variant));
    for (object, want) in facts {
        settled.claims.want(object, Some(want.clone()));
    }
    settled.settle();
    settled
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn any_order_and_duplication_of_events_ends_in_the_same_claims(
        events in prop::collection::vec(any_event(), 1..60),
    ) {
        let mut lived = Settled::under(pools(0));
        let (mut variant, mut facts) = (0, Facts::new());
        for event in events {
            match event {
                Event::Want(object, want) => {
                    lived.claims.want(&object, want.as_deref().cloned());
                    // Said twice.
                    lived.claims.want(&object, want.as_deref().cloned());
                    match want {
                        Some(want) => drop(facts.insert(object, *want)),
                        None => drop(facts.remove(&object)),
                    }
                }
                Event::Pools(other) => {
                    variant = other;
                    lived.set_pools(pools(other));
                }
                Event::Settle(may_propose) => drop(lived.claims.settle(may_propose)),
            }
        }
        lived.settle();
        let listed = fresh(variant, facts.iter());
        let reversed = fresh(variant, facts.iter().rev());
        prop_assert_eq!(&lived.claims.outcomes, &listed.claims.outcomes);
        prop_assert_eq!(&reversed.claims.outcomes, &listed.claims.outcomes);
        prop_assert_eq!(lived.claims.uses(), listed.claims.uses());
        let obvious = Obvious::outcomes(&lived.policy, &facts);
        let got = lived.claims.outcomes.iter();
        let got: BTreeMap<_, _> = got
            .map(|(object, outcome)| {
                (object.clone(), (outcome.served.clone(), outcome.desired.clone()))
            })
            .collect();
        prop_assert_eq!(got, obvious);
    }

    /// Nothing is left behind: neither claims, nor whoever waits, nor groups.
    #[test]
    fn when_everybody_has_gone_nothing_is_left(
        wants in prop::collection::vec((any_object(), any_want()), 1..20),
    ) {
        let mut settled = Settled::under(pools(0));
        for (object, want) in &wants {
            settled.claims.want(object, Some(want.clone()));
            settled.settle();
        }
        for (object, _) in &wants {
            settled.claims.want(object, None);
        }
        settled.settle();
        let claims = &settled.claims;
        prop_assert!(claims.holders.is_empty() && claims.contenders.is_empty());
        prop_assert!(claims.groups.is_empty() && claims.standings.is_empty());
        prop_assert!(claims.outcomes.is_empty() && claims.queue.is_empty());
        prop_assert!(claims.uses().iter().all(|pool| pool.used == 0 && pool.waiting == 0));
    }
}
