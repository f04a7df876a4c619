//! A BGP-4 speaker without I/O, and a thin driver.
//!
//! The lower half is pure: [`wire`] turns messages into octets and back, [`fsm`] is the state
//! machine of one peer with time and randomness as arguments, [`rib`] is what a peer has been
//! told and still has to be told. The upper half, [`driver`], owns sockets and tasks and decides
//! nothing that the lower half could decide.
//!
//! The crate speaks for addresses that its user wants announced. It never installs a route that
//! it hears: received routes are checked, counted and dropped.

#[cfg(feature = "driver")]
#[expect(clippy::disallowed_methods, reason = "clocks, tasks and seeds belong here and only here")]
pub mod driver;
pub mod export;
pub mod fsm;
pub mod model;
pub mod rib;
pub mod settings;
#[cfg(feature = "driver")]
pub mod status;
pub mod wire;
