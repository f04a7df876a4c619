//! What the kernel hands to the daemon beside the maps: samples of deferred packets, and answers of
//! its routing.

#![no_main]

use haflinger_xdp::fuzzed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, bool, &[u8])| {
    let (mtu, v6, bytes) = input;
    fuzzed::deferred(bytes, mtu.into());
    let address = if v6 { "2001:db8::1" } else { "192.0.2.1" };
    fuzzed::answer(address.parse().expect("an address"), bytes);
});
