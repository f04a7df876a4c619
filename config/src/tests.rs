//! Tests of the whole: the shipped default, bad input, layers, secrets, and that nothing panics.

mod bad_input;
mod layers;
mod never_panics;
mod shipped_default;

use crate::*;

fn load(text: &str) -> Result<Loaded, Errors> {
    Config::load(&Sources::text("haflinger.toml", text))
}

fn defaults() -> Config {
    load("").expect("nothing written is sound").config
}
