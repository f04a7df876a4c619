//! Taking everything back: for the end of an appliance's life, not for its restart.

use std::path::PathBuf;

use thiserror::Error;

use crate::kernel::{Kernel, KernelError};
use crate::remembered::Remembered;
use crate::route::ROUTE_PROTOCOL;

/// What is taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// VIPs that we bound, on every interface.
    pub addresses: bool,
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

/// Removes what carries our mark, and nothing else. To be called when the reconciler does not
/// run.
pub async fn cleanup(what: &Cleanup) -> Result<Removed, CleanupError> {
    let kernel = Kernel::open()?;
    let mut removed = Removed::default();
    let failed = |what: String| {
        move |error: KernelError| CleanupError::Kernel { what, reason: error.to_string() }
    };
    if what.addresses {
        let mut remembered = Remembered::load(what.remembered.clone()).await;
        let held = kernel.addresses(&remembered.addresses).await;
        let held = held.map_err(failed("its list of addresses".to_owned()))?;
        for address in held.values().flatten().filter(|address| address.is_ours()) {
            match kernel.remove_address(address).await {
                Ok(()) => removed.addresses += 1,
                Err(KernelError::Gone) => {}
                Err(error) => return Err(failed(address.address.to_string())(error)),
            }
            remembered.update(&[], &[address.address]).await;
        }
    }
    if what.routes {
        let held = kernel.routes(None, |_| false).await;
        let held = held.map_err(failed("its list of routes".to_owned()))?;
        for route in held.values().flatten().filter(|route| route.protocol == ROUTE_PROTOCOL) {
            match kernel.remove_route(route).await {
                Ok(()) => removed.routes += 1,
                Err(KernelError::Gone) => {}
                Err(error) => return Err(failed(route.prefix.to_string())(error)),
            }
        }
    }
    Ok(removed)
}
