//! Why a packet left the program as it did, in words: the numbers of `enum reason`, in order.
//!
//! `program/reasons.h` gives the numbers, `docs/reasons.md` says what to do; tests compare.

/// A reason of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reason {
    /// Its name, as metrics and documentation have it.
    pub name: &'static str,
    /// What it means, in one line.
    pub meaning: &'static str,
}

/// The reason of a number; what a newer program counts has no words here.
pub fn reason(number: u32) -> Reason {
    let known = usize::try_from(number).ok().and_then(|at| REASONS.get(at));
    known.copied().unwrap_or(Reason { name: "unknown", meaning: "a reason of another version" })
}

/// The reasons for which packets are dropped: those from `malformed` on, as the header groups them.
pub fn drops() -> &'static [Reason] {
    let first = REASONS.iter().position(|known| known.name == "malformed");
    &REASONS[first.unwrap_or(REASONS.len())..]
}

const fn means(name: &'static str, meaning: &'static str) -> Reason {
    Reason { name, meaning }
}

/// Every reason, by its number.
pub const REASONS: &[Reason] = &[
    means("forwarded", "a packet of a known flow"),
    means("forwarded_new", "it opened a flow"),
    means("forwarded_astray", "no flow is known, the table chose its backend"),
    means("fragment", "a later fragment, sent where its first went"),
    means("icmp_to_backend", "an error about a packet of the backend"),
    means("icmp_to_client", "an error about a packet of the client"),
    means("deferred", "sent by the daemon: neighbour unknown, or to be cut"),
    means("not_ip", "neither IPv4 nor IPv6"),
    means("not_ours", "to no service, of no flow"),
    means("not_understood", "a protocol, header chain or option outside the program's bounds"),
    means("local_socket", "a socket of this host has the connection"),
    means("fragment_unknown", "a later fragment whose first was not seen"),
    means("icmp_unknown", "an error about no flow"),
    means("not_routed", "sent by the daemon: a route that a program cannot follow"),
    means("reset", "TCP of no flow: the client was sent a reset"),
    means("ttl_exceeded", "its hops were used up: the sender was told"),
    means("too_big", "too large for the way: the sender was told the MTU"),
    means("limit_reset", "a connection limit is reached: the client was sent a reset"),
    means("no_backend_reset", "no backend takes new flows: the client was sent a reset"),
    means("malformed", "truncated, or its lengths contradict each other"),
    means("source_range", "the client is outside of loadBalancerSourceRanges"),
    means("no_backend", "no backend takes new flows"),
    means("service_limit", "the service's connection limit is reached"),
    means("backend_limit", "every backend that was tried has reached its connection limit"),
    means("flow_rate", "more new flows a second than a CPU may open"),
    means("flows_full", "no record was free for a new flow"),
    means("sources_exhausted", "no source address and port is free towards the backend"),
    means("no_route", "the kernel has no route, or one that prohibits"),
    means("defer_failed", "the daemon is not there or does not keep up"),
    means("untransmittable", "the interface cannot transmit redirected frames"),
    means("no_room", "no room in the frame for another header"),
    means("internal", "a broken invariant of the program: report it"),
    means("answer_rate", "to be answered, but this CPU has answered enough this second"),
    means("reset_unknown", "a TCP reset of no flow"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::types;

    #[test]
    fn names_stand_at_their_numbers() {
        let numbers = [
            (types::reason::REASON_FORWARDED, "forwarded"),
            (types::reason::REASON_RESET, "reset"),
            (types::reason::REASON_SOURCE_RANGE, "source_range"),
            (types::reason::REASON_RESET_UNKNOWN, "reset_unknown"),
        ];
        for (number, name) in numbers {
            assert_eq!(reason(number.0).name, name);
        }
        assert_eq!(reason(types::reason::REASONS.0).name, "unknown");
        let first_drop = usize::try_from(types::reason::REASON_MALFORMED.0).unwrap();
        assert_eq!(drops(), &REASONS[first_drop..]);
    }
}
