//! This host's own address in each family: the source of tunnels, and of ICMP errors of its own.
//!
//! The one that routes to backends name, kept as long as any of them names it. Pure.

use std::net::IpAddr;

/// An address, and whether a route of this round named it.
type Known = Option<(IpAddr, bool)>;

/// This host's own addresses.
#[derive(Debug, Default)]
pub(super) struct Selves {
    v4: Known,
    v6: Known,
    /// Addresses that no route named in the last round: anything else is better.
    v4_is_stale: bool,
    v6_is_stale: bool,
}

impl Selves {
    /// A route names an address; whether it is taken in the place of another.
    pub(super) fn note(&mut self, named: IpAddr) -> bool {
        let (known, is_stale) = match named {
            IpAddr::V4(_) => (&mut self.v4, &mut self.v4_is_stale),
            IpAddr::V6(_) => (&mut self.v6, &mut self.v6_is_stale),
        };
        match known {
            Some((address, was_named)) if *address == named => {
                (*was_named, *is_stale) = (true, false);
                false
            }
            Some(_) if !*is_stale => false,
            _ => {
                (*known, *is_stale) = (Some((named, true)), false);
                true
            }
        }
    }

    /// All routes are about to be looked at again.
    pub(super) fn begin_round(&mut self) {
        for (known, is_stale) in
            [(&mut self.v4, &mut self.v4_is_stale), (&mut self.v6, &mut self.v6_is_stale)]
        {
            if let Some((_, was_named)) = known {
                *is_stale = !std::mem::take(was_named);
            }
        }
    }

    /// The IPv4 one.
    pub(super) fn v4(&self) -> Option<IpAddr> {
        self.v4.map(|(address, _)| address)
    }

    /// The IPv6 one.
    pub(super) fn v6(&self) -> Option<IpAddr> {
        self.v6.map(|(address, _)| address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stays_as_long_as_a_route_names_it() {
        let [a, b]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let mut selves = Selves::default();
        assert!(selves.note(a) && !selves.note(b));
        selves.begin_round();
        assert!(!selves.note(b) && !selves.note(a));
        selves.begin_round();
        assert!(!selves.note(b));
        // Nobody named the first one in that round.
        selves.begin_round();
        assert!(selves.note(b));
        assert_eq!((selves.v4(), selves.v6()), (Some(b), None));
    }
}
