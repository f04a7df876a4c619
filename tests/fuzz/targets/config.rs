//! The configuration file: any text gives a checked configuration or a list of problems, never
//! a panic, and a problem says something.

#![no_main]

use haflinger_config::{Config, Sources};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(errors) = Config::load(&Sources::text("haflinger.toml", text)) {
        assert!(!errors.to_string().is_empty());
    }
});
