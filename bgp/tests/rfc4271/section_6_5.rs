//! Hold timer expired.

use std::time::Duration;

use crate::pair::{Pair, config};

#[test]
fn a_silent_peer_is_given_up_after_the_hold_time_and_met_again() {
    let mut pair = Pair::new(config(1), config(2));
    pair.start();
    pair.run(Duration::from_secs(5));
    assert!(pair.both_established());
    pair.network_down();
    pair.run(Duration::from_millis(8900));
    let up = pair.both_established();
    pair.run(Duration::from_secs(4));
    assert!(!pair.established(0) && !pair.established(1), "up before: {up}");
    pair.network_up();
    pair.run(Duration::from_secs(150));
    assert!(pair.both_established());
}
