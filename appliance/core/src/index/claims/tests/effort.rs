//! What settling costs, counted in claims and places that are looked at.

use super::*;

/// Four times the services that one edge is built for.
const WIDE: (&str, &str) = ("10.0.0.0", "10.15.255.255");
const MANY: i64 = 50_000;

fn wide() -> Vec<Pool> {
    vec![pool("wide", WIDE.0, WIDE.1)]
}

fn name(number: i64) -> String {
    format!("ns{}/s{number}", number % 100)
}

/// What `change` and settling cost.
fn effort(settled: &mut Settled, change: impl FnOnce(&mut Settled)) -> Effort {
    let before = settled.claims.effort();
    change(settled);
    settled.settle();
    let after = settled.claims.effort();
    Effort { turns: after.turns - before.turns, places: after.places - before.places }
}

fn many(wants: impl Fn(i64) -> Want) -> Settled {
    let mut settled = Settled::under(wide());
    for number in 0..MANY {
        settled.want(&name(number), wants(number));
    }
    settled
}

/// The lowest 50,000 addresses of the pool, without a gap.
fn address(number: i64) -> IpAddr {
    let offset = u32::try_from(number).unwrap();
    std::net::Ipv4Addr::from(0x0a00_0000 + offset).into()
}

#[test]
fn choosing_looks_at_a_handful_of_places_however_many_there_are() {
    let mut settled = many(want);
    let all = effort(&mut settled, |_| {});
    assert_eq!(all.turns, 3 * MANY.unsigned_abs());
    assert!(all.places < 2 * MANY.unsigned_abs(), "{all:?}");
    let one = effort(&mut settled, |settled| settled.want("new", want(MANY)));
    assert!(one.turns <= 3 && one.places <= 64, "{one:?}");
}

#[test]
fn a_run_of_any_length_is_passed_in_one_step() {
    let mut settled = many(|number| Want { recorded: vec![address(number)], ..want(number) });
    settled.settle();
    for number in 0..100 {
        let new = format!("new{number}");
        let one = effort(&mut settled, |settled| settled.want(&new, want(MANY + number)));
        assert!(one.turns <= 6 && one.places <= 100, "{one:?}");
    }
}

#[test]
fn a_record_that_arrives_and_an_address_that_is_freed_concern_hardly_anybody() {
    let mut settled = many(want);
    settled.settle();
    for number in 0..200 {
        let name = name(number * 37);
        let proposed = settled.outcome(&name).desired;
        let arrives = effort(&mut settled, |settled| {
            settled.want(&name, Want { recorded: proposed, ..want(number * 37) });
        });
        assert!(arrives.turns <= 6 && arrives.places <= 64, "{arrives:?}");
        let goes = effort(&mut settled, |settled| settled.claims.want(&object(&name), None));
        assert!(goes.turns <= 8 && goes.places <= 64, "{goes:?}");
    }
}

#[test]
fn of_all_that_wait_for_a_full_pool_a_freed_address_wakes_one() {
    let mut settled = Settled::under(vec![pool("main", "192.0.2.0", "192.0.2.255")]);
    for number in 0..256 {
        let address = std::net::Ipv4Addr::from(0xc000_0200 + number).into();
        let holds = Want { recorded: vec![address], ..want(number.into()) };
        settled.want(&format!("holder{number}"), holds);
    }
    for number in 0..20_000 {
        settled.want(&name(number), want(1_000 + number));
    }
    let full = effort(&mut settled, |_| {});
    assert!(full.places <= 25_000, "{full:?}");
    for number in 0..100 {
        let holder = object(&format!("holder{number}"));
        let freed = effort(&mut settled, |settled| settled.claims.want(&holder, None));
        assert!(freed.turns <= 3 && freed.places <= 3, "{freed:?}");
        let next = settled.outcome(&name(number)).desired;
        assert_eq!(next.len(), 1, "the one that waits longest");
        settled.want(&name(number), Want { recorded: next, ..want(1_000 + number) });
        settled.settle();
    }
}

#[test]
fn of_all_that_ask_for_one_address_a_few_are_woken_when_it_is_freed() {
    let mut settled = Settled::under(wide());
    for number in 0..20_000 {
        settled.want(&name(number), requesting(number, "10.0.0.1"));
    }
    settled.settle();
    for number in 0..100 {
        let holder = object(&name(number));
        let freed = effort(&mut settled, |settled| settled.claims.want(&holder, None));
        assert!(freed.turns <= 100, "{freed:?}");
        assert_eq!(settled.desired(&name(number + 1)), ["10.0.0.1"]);
    }
}

#[test]
fn a_namespace_concerns_only_what_is_in_it() {
    let selects =
        PoolSelector { namespace_labels: vec![label("team", "shop")], ..PoolSelector::default() };
    let mut settled = Settled::under(vec![Pool { selects, ..wide().remove(0) }]);
    for number in 0..20_000 {
        settled.want(&name(number), want(number));
    }
    settled.settle();
    let known = effort(&mut settled, |settled| {
        let labels = Some(labels(&[("team", Some("shop"))]));
        settled.claims.note_namespace(&SourceId::cluster("c"), &"ns7".into(), labels);
    });
    assert_eq!(known.turns, 3 * 200);
}
