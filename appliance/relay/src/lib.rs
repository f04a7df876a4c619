//! The user-space layer 4 path: TCP and UDP from VIP to pod.
