//! KEEPALIVE: how often.

use std::time::Duration;

use crate::pair::{Pair, config};

#[test]
fn keepalives_come_at_a_third_of_the_hold_time_at_most() {
    let mut pair = Pair::new(config(1), config(2));
    pair.start();
    pair.run(Duration::from_secs(5));
    let before = pair.sent_keepalives(0);
    pair.run(Duration::from_secs(90));
    let sent = pair.sent_keepalives(0) - before;
    // Hold time 9 s: 3 s apart, or as near as 2.25 s by jitter.
    assert!((30..=40).contains(&sent), "{sent}");
}

#[test]
fn a_hold_time_of_zero_sends_none() {
    let mut quiet = config(1);
    quiet.hold_time = haflinger_bgp::model::HoldTime::OFF;
    let mut pair = Pair::new(quiet, config(2));
    pair.start();
    pair.run(Duration::from_secs(5));
    assert!(pair.both_established());
    let before = pair.sent_keepalives(0);
    pair.run(Duration::from_secs(10_000));
    assert_eq!(pair.sent_keepalives(0), before);
    assert!(pair.both_established());
}
