//! Discovery: sources become [`haflinger_core::Update`]s.
//!
//! Purpose: watch Kubernetes clusters and the inventory file, and tell the core, as plain data,
//! exactly what changed. Invariants: a source that is away or says nonsense changes nothing
//! beyond the object concerned; after any interruption exactly the difference is said. It never
//! writes to a cluster, never decides (addresses, states, tables: the core), and lets no
//! Kubernetes type out.
//!
//! ```text
//! Discovery ─┬─ cluster (a client, some watches) ─> feed (ledger, state file) ──┬──> core
//!            └─ inventory reader ────────────────> feed (ledger, state file) ──┘
//! ```
//!
//! Every task may be dropped at any await; only the feeds have something to finish (the state
//! file), and do so when their reader is gone.

mod cluster;
mod discovery;
mod feed;
mod hold;
mod inventory;
mod ledger;
mod metrics;
mod objects;
mod rights;
mod settings;
mod shared_texts;
mod status;
mod store;
mod translate;

pub use discovery::{Discovery, DiscoveryError, DiscoveryHandle, UnknownSource};
pub use haflinger_kubernetes::{MissingRight, RIGHTS_REMEDY};
pub use inventory::{InventoryError, check as check_inventory};
pub use ledger::Watched;
pub use rights::RIGHTS;
pub use settings::{ClusterSettings, DeletionLimits, INGRESS_CLASS_DEFAULT, LabelKeys, Settings};
pub use status::{DiscoveryStatus, KindStatus, SourceStatus};
pub use translate::update::translate_object;
