//! RFC 4271, filed by section: each module holds the rules of its section as tests.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod pair;
mod raw;
mod section_4_1;
mod section_4_2;
mod section_4_3;
mod section_4_4;
mod section_6_1;
mod section_6_2;
mod section_6_3;
mod section_6_5;
mod section_6_6;
mod section_6_8;
mod section_8;
