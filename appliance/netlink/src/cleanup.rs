//! Taking everything back: for the end of an appliance's life, not for its restart.

use std::collections::BTreeSet;
use std::path::PathBuf;

use thiserror::Error;

use crate::address::HeldAddress;
use crate::kernel::{Kernel, KernelError, Mark};
use crate::remembered::Remembered;
use crate::route::ROUTE_PROTOCOL;
use crate::settings::remembered_sources;

/// What is taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// VIPs that we bound, on every interface.
    pub addresses: bool,
    /// Source addresses of `nat` that we bound, on every interface. Flows may still use them while
    /// the data path runs on.
    pub sources: bool,
    /// Routes that we wrote, in every table.
    pub routes: bool,
    /// The file of remembered addresses ([`Settings::remembered`](crate::Settings)).
    pub remembered: Option<PathBuf>,
}

/// What was taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Addresses.
    pub addresses: usize,
    /// Routes.
    pub routes: usize,
}

/// Why not everything was taken back.
#[derive(Debug, Error)]
pub enum CleanupError {
    /// No connection to the kernel.
    #[error("netlink cannot be opened")]
    Open(#[from] std::io::Error),
    /// The kernel refused.
    #[error("the kernel did not give back {what}: {reason}")]
    Kernel {
        /// The address or route.
        what: String,
        /// Why.
        reason: String,
    },
}

fn failed(what: impl ToString) -> impl FnOnce(KernelError) -> CleanupError {
    let what = what.to_string();
    move |error| CleanupError::Kernel { what, reason: error.to_string() }
}

/// Lets go of what carries a mark; answers with how many.
async fn let_go(
    kernel: &Kernel,
    mut remembered: Remembered,
    mark: Mark,
) -> Result<usize, CleanupError> {
    let nothing = BTreeSet::new();
    let held = match mark {
        Mark::Vip => kernel.addresses(&remembered.addresses, &nothing).await,
        Mark::Source => kernel.addresses(&nothing, &remembered.addresses).await,
    };
    let held = held.map_err(failed("its list of addresses"))?;
    let of_mark = |address: &&HeldAddress| match mark {
        Mark::Vip => address.is_ours(),
        Mark::Source => address.is_source(),
    };
    let mut removed = 0;
    for address in held.values().flatten().filter(of_mark) {
        match kernel.remove_address(address).await {
            Ok(()) => removed += 1,
            Err(KernelError::Gone) => {}
            Err(error) => return Err(failed(address.address)(error)),
        }
        remembered.update(&[], &[address.address]).await;
    }
    Ok(removed)
}

/// Removes what carries our mark, and nothing else. To be called when the reconciler does not
/// run.
pub async fn cleanup(what: &Cleanup) -> Result<Removed, CleanupError> {
    let kernel = Kernel::open()?;
    let mut removed = Removed::default();
    if what.addresses {
        let remembered = Remembered::load(what.remembered.clone()).await;
        removed.addresses += let_go(&kernel, remembered, Mark::Vip).await?;
    }
    if what.sources {
        let path = what.remembered.as_deref().map(remembered_sources);
        let remembered = Remembered::load(path).await;
        removed.addresses += let_go(&kernel, remembered, Mark::Source).await?;
    }
    if what.routes {
        let held = kernel.routes(None, |_| false).await;
        let held = held.map_err(failed("its list of routes"))?;
        for route in held.values().flatten().filter(|route| route.protocol == ROUTE_PROTOCOL) {
            match kernel.remove_route(route).await {
                Ok(()) => removed.routes += 1,
                Err(KernelError::Gone) => {}
                Err(error) => return Err(failed(route.prefix)(error)),
            }
        }
    }
    Ok(removed)
}
