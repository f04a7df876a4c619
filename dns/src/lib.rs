//! Records, ownership and plans; RFC 2136 updates with TSIG.
