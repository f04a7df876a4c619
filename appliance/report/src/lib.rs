//! Report: the elected host writes addresses and reasons into the Kubernetes API.
//!
//! Purpose: the addresses in the status of Services, Ingresses and Gateways are the record of who
//! holds which VIP, the conditions of Gateway API objects say what became of them, and events say
//! why somebody holds no address. Invariants: in each cluster only the
//! elected host writes, only for that cluster's objects, and never over a status that differs
//! from the one that the decision was made from; so no address moves by accident. It never
//! decides (the core does), and the data path never waits for it.
//!
//! ```text
//! Reporter ── a task for each cluster ─┬─ lease  (election: pure; one Lease)
//!                                      ├─ writer (queue, plan, merge, book: pure; 4 requests)
//!                                      └─ gate   (own, hosts: pure; a Lease for each host)
//! ```
//!
//! Every task may be dropped at any await: requests are whole in themselves. Only a leader has
//! something to finish, giving its Lease back, and a host whose word the readiness gates of pods
//! wait for: saying that it stops.

mod book;
mod cluster;
mod election;
mod gate;
mod lease;
mod merge;
mod metrics;
mod object;
mod plan;
mod queue;
mod reporter;
mod rights;
mod settings;
mod status;
mod writer;

pub use gate::Applied;
pub use reporter::{ReportError, Reporter, ReporterHandle};
pub use rights::RIGHTS;
pub use settings::{ClusterSettings, Settings};
pub use status::{ClusterReport, GateHost, GateReport, ReportStatus};
