//! The XDP data path: the program that forwards, its loader, and the control that keeps its maps
//! equal to the snapshot. The only room that knows libbpf.

mod attach;
mod audit;
mod buddy;
mod carry;
mod cleanup;
mod control;
mod deferrals;
mod engine;
mod error;
mod faults;
#[cfg(feature = "fuzz")]
pub mod fuzzed;
#[cfg(feature = "bench")]
pub mod harness;
mod interfaces;
mod layout;
mod loader;
mod mapped;
mod maps;
mod metrics;
mod neighbours;
mod netlink;
mod samples;
pub mod seeing;
mod settings;
mod slots;
mod status;
mod sweep;
mod sys;
mod watch;
mod words;
mod xdp;

pub use attach::Attached;
pub use audit::NarrowExit;
pub use carry::Carried;
pub use cleanup::{DEFAULT_PIN_DIR, Removed, take_off};
pub use control::report::{BackendReport, Refusal, ServiceReport, SourcePool};
pub use control::{Fill, Traffic};
pub use engine::InterfaceStatus;
pub use error::{Error, LoadError};
pub use metrics::{BACKEND_SERIES_MAX, SERVICE_SERIES_MAX};
pub use settings::{
    AttachWish, BACKENDS_MAX, BUCKETS_MAX, Capacities, FLOWS_MAX, INTERFACES_MAX,
    NAT_ADDRESSES_MAX, SERVICES_MAX, Settings,
};
pub use status::XdpStatus;
pub use sys::AttachMode;
pub use xdp::{Xdp, XdpHandle};

/// The compiled program: its bytes, maps and types, generated from the C sources and their BTF.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction,
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

/// The compiled programs that count changed neighbours, likewise.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::restriction,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    non_snake_case,
    reason = "generated"
)]
pub mod watch_program {
    include!(concat!(env!("OUT_DIR"), "/watch.skel.rs"));
}
