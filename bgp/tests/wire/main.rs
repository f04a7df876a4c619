//! The codec as a whole: what we write is read back, by us and by two codecs of others; what
//! anybody writes is survived; and no message is ever too long.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod generate;
mod oracles;
mod packing;
mod total;
