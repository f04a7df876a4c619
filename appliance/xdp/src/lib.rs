//! The XDP data path: the program that forwards, its loader, and the control that keeps its maps
//! equal to the snapshot. The only room that knows libbpf.

mod buddy;
mod mapped;
mod slots;

/// The compiled program: its bytes, maps and types, generated from the C sources and their BTF.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    non_snake_case,
    reason = "generated"
)]
pub mod program {
    include!(concat!(env!("OUT_DIR"), "/haflinger.skel.rs"));
}
