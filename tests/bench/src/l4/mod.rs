//! Layer 4: what the XDP program costs by itself, and what a connection gets through it.

pub(crate) mod datapath;
pub(crate) mod paths;
pub(crate) mod program;
mod world;
