//! What a service's listener is to do, and waiting for it to change.

use tokio::sync::watch;

/// What a service's listener is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intake {
    /// Take new flows.
    Open,
    /// Take none; those that have begun go on. TCP needs no listening socket for that, UDP keeps
    /// its socket as long as there is a flow.
    Kept,
    /// Close the socket, for good. UDP flows end with it.
    Closed,
}

/// Waits until a socket is wanted; `false` when none ever will be again.
pub(crate) async fn is_wanted(intake: &mut watch::Receiver<Intake>) -> bool {
    let decided = intake.wait_for(|intake| *intake != Intake::Kept).await;
    decided.is_ok_and(|intake| *intake == Intake::Open)
}

/// Waits until no new flow is wanted.
pub(crate) async fn shut(intake: &mut watch::Receiver<Intake>) {
    // An error means that nobody can want one.
    let _ = intake.wait_for(|intake| *intake != Intake::Open).await;
}
