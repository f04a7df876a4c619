//! The words of the field as types: what the sources say (updates), and what the actuators
//! read (snapshot).

mod address;
mod gate;
mod http;
mod identity;
mod l4;
mod pool;
mod report;
mod service;
mod snapshot;
mod update;

pub use address::*;
pub use gate::*;
pub use http::*;
pub use identity::*;
pub use l4::*;
pub use pool::*;
pub use report::*;
pub use service::*;
pub use snapshot::*;
pub use update::*;
