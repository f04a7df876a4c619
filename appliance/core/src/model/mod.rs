//! The words of the field as types: what the sources say (updates), and what the actuators
//! read (snapshot).

mod address;
mod gate;
mod gateway;
mod guard;
mod http;
mod identity;
mod ingress;
mod l4;
mod pool;
mod report;
mod rule;
mod service;
mod snapshot;
mod status;
mod update;

pub use address::*;
pub use gate::*;
pub use gateway::*;
pub use guard::*;
pub use http::*;
pub use identity::*;
pub use ingress::*;
pub use l4::*;
pub use pool::*;
pub use report::*;
pub use rule::*;
pub use service::*;
pub use snapshot::*;
pub use status::*;
pub use update::*;
