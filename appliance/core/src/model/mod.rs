//! The words of the field as types: what the sources say (updates), and what the actuators
//! read (snapshot).

mod address;
mod auth;
mod balance;
mod gate;
mod gateway;
mod guard;
mod http;
mod identity;
mod ingress;
mod l4;
mod pages;
mod persistence;
mod pool;
mod report;
mod requests;
mod rule;
mod service;
mod snapshot;
mod status;
mod update;

pub use address::*;
pub use auth::*;
pub use balance::*;
pub use gate::*;
pub use gateway::*;
pub use guard::*;
pub use http::*;
pub use identity::*;
pub use ingress::*;
pub use l4::*;
pub use pages::*;
pub use persistence::*;
pub use pool::*;
pub use report::*;
pub use requests::*;
pub use rule::*;
pub use service::*;
pub use snapshot::*;
pub use status::*;
pub use update::*;
