//! The XDP program itself, compiled for this machine: whatever packets come from either side, and
//! whatever changes between them, it touches nothing outside its maps and the frame, its table of
//! flows is whole after each, and what leaves is what its mode makes of what came.
//!
//! ```text
//!   bytes -> Plan -> World: maps as the control writes them
//!                 -> Steps: packets, time, changes -> program -> State, Case: what must be true
//! ```

#![no_main]

mod host;
mod oracle;
#[allow(clippy::unwrap_used, dead_code, reason = "shared with the tests of the program")]
#[path = "../../../../appliance/xdp/tests/side_paths/packets.rs"]
mod packets;
mod state;
mod steps;
mod view;
mod world;

use libfuzzer_sys::fuzz_target;

use oracle::Case;
use state::State;
use steps::{Plan, Step};
use world::World;

/// Steps of an input that are taken: longer ones find nothing that these do not, and take longer.
const STEPS_MAX: usize = 200;

fuzz_target!(|plan: Plan| {
    let mut world = World::new(&plan.ground);
    let mut state = State::read();
    for step in plan.steps.iter().take(STEPS_MAX) {
        match step {
            Step::Later { seconds } => {
                host::knobs(|knobs| knobs.nanoseconds += u64::from(*seconds) * 250_000_000);
            }
            Step::Change(change) => world.change(change),
            Step::Sweep => sweep(&world),
            _ => {
                for (ingress, frame) in step.frames(&world, &state) {
                    state = send(&world, state, ingress, &frame);
                }
                continue;
            }
        }
        state = State::read();
        state.check(&world);
    }
});

/// Gives the program a frame, and compares.
fn send(world: &World, before: State, ingress: u32, input: &[u8]) -> State {
    let outcome = host::run(ingress, input);
    let after = State::read();
    after.check(world);
    Case { before: &before, after: &after, input, outcome: &outcome }.check();
    after
}

/// What is swept is what was too old, and is counted.
fn sweep(world: &World) {
    let now = host::knobs(|knobs| knobs.nanoseconds / 1_000_000_000) as u32;
    let before = State::read();
    let released = host::sweep(world.opening + world.established, now);
    let after = State::read();
    let count = |state: &State| state.live().count() as u64;
    assert_eq!(count(&before) - count(&after), u64::from(released));
    assert_eq!(after.counters.expired - before.counters.expired, u64::from(released));
    // No phase lasts longer without a packet than an established connection.
    assert!(after.live().all(|(_, flow)| now.saturating_sub(flow.touched) <= 7200));
}
