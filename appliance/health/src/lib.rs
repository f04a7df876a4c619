//! Probes: sockets that feed the core's rise and fall machine.
