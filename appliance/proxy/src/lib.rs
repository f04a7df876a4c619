//! Layer 7: routes, certificates and Pingora behind a small seam.
