//! VIP addresses and pod routes in the kernel, reconciled through netlink.
//!
//! ```text
//! snapshot.vips       ─> /32 and /128 on the VIP interface   (IFA_PROTO 72)
//! settings.sources    ─> /32 and /128 for nat to send from   (IFA_PROTO 73)
//! snapshot.pod_routes ─> routes via nodes in the route table (protocol 72)
//! ```
//!
//! Invariant: nothing is changed or removed that does not carry our mark; where somebody else
//! has the same address, or a route to the same network in the same table, theirs stands and
//! the conflict is reported. What a crash left behind carries the mark too: a new daemon adopts
//! what is still wanted and removes the rest.
//!
//! Fail static: a stopped daemon leaves everything in place. Addresses and routes go when the
//! snapshot no longer wants them, when the feature is switched off, or by [`cleanup()`]; source
//! addresses only after the flows that send from them can have ended.
//!
//! The pure half ([`address`], [`source`], [`route`]) decides; the driver dumps, asks and listens.

pub mod address;
mod cleanup;
mod kernel;
mod metrics;
mod reconciler;
mod remembered;
mod retry;
pub mod route;
mod settings;
pub mod source;
mod status;
mod work;

pub use address::ADDRESS_PROTOCOL;
pub use cleanup::{Cleanup, CleanupError, Removed, cleanup};
pub use reconciler::{Reconciler, ReconcilerError, ReconcilerHandle};
pub use route::{ROUTE_METRIC, ROUTE_PROTOCOL};
pub use settings::{
    ADDRESSES_MAX, INTERFACE_NAME_BYTES_MAX, MAIN_TABLE, ROUTES_MAX, SOURCE_LINGER_SECS_MAX,
    SOURCES_MAX, Settings, SettingsError,
};
pub use source::SOURCE_PROTOCOL;
pub use status::{AddressState, AddressStatus, RouteState, RouteStatus, Status};
