//! VIP addresses and pod routes in the kernel, reconciled through netlink.
