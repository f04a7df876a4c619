//! Connection collision (RFC 4271, 6.8; ties by RFC 6286, 2.3).

use super::State;
use crate::model::RouterId;

/// Which side opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// We did.
    Outgoing,
    /// The peer did.
    Incoming,
}

impl Way {
    /// Both ways.
    pub const BOTH: [Way; 2] = [Way::Outgoing, Way::Incoming];

    /// The opposite way.
    #[must_use]
    pub fn other(self) -> Way {
        match self {
            Way::Outgoing => Way::Incoming,
            Way::Incoming => Way::Outgoing,
        }
    }
}

/// An OPEN came on the connection `way` while the other connection is in state `other`: which of
/// the two is closed, if either. `us` and `them` are identifier and AS of each side.
///
/// Both sides come to the same answer: the connection opened by the side with the higher
/// identifier survives, unless the other one is established already.
#[must_use]
pub fn loser(way: Way, other: State, us: (RouterId, u32), them: (RouterId, u32)) -> Option<Way> {
    match other {
        State::Established => Some(way),
        State::OpenConfirm if us > them => Some(Way::Incoming),
        State::OpenConfirm => Some(Way::Outgoing),
        // Before its OPEN has come nobody knows whose the other connection is.
        _ => None,
    }
}
