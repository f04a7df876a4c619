//! The configuration: as written ([`file`]), as checked ([`Config`]), and the shipped default
//! ([`DEFAULT`]).
//!
//! ```text
//! file ──┐                       shape: keys, types, bounds     check: sense, contradictions
//! env  ──┼─ figment ─> values ─> (from the JSON schema) ─────> file::File ─────> Config
//! flags ─┘                             └────────── every problem with its place ─────┴> Errors
//! ```
//!
//! Invariant: a [`Config`] has passed every check; whoever reads it asks nothing again. The
//! crate never changes anything: it reads the configuration file and the secrets that it names,
//! and no message or `Debug` output shows a secret.

mod check;
mod checked;
mod context;
mod diff;
pub mod file;
mod layer;
mod manual;
mod problem;
mod secrecy;
mod shape;
mod socket;
mod source;
mod suggest;

use std::sync::LazyLock;

use figment::Figment;
use figment::value::Value;

pub use checked::*;
pub use diff::{Change, changes};
pub use manual::manual;
pub use problem::{Errors, Place, Problem, Warning};
pub use socket::socket_of;
pub use source::{
    ENVIRONMENT_PREFIX, ENVIRONMENT_RESERVED, FILE_BYTES_MAX, FileSource, Flag, Sources,
};

/// The shipped default: every key with its unit, default and cost.
pub const DEFAULT: &str = include_str!("../haflinger.toml");

/// Where the packages put the file.
pub const DEFAULT_PATH: &str = "/etc/haflinger/haflinger.toml";

/// A configuration that passed every check.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is unwise about it.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// Reads, merges and checks.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, each with its place, field, value and remedy.
    pub fn load(sources: &Sources) -> Result<Loaded, Errors> {
        let mut problems = Vec::new();
        let secrets = secrecy::SecretKeys::of(&SCHEMA);
        let mut layers = sources.layers(&mut problems);
        layers.iter_mut().for_each(|layer| layer.mask(&secrets));
        let mut figment = Figment::new();
        for layer in &layers {
            figment = figment.merge(layer);
        }
        let mut root =
            figment.find_value("").expect("layers hold plain values, whose merge cannot fail");
        let mut context = context::Context::new(layers, figment, sources.directory(), problems);
        shape::check(&mut context, &mut root, &SCHEMA);
        let file = written(&mut context, &root);
        let config = check::config(&mut context, &file, &sources.host_name);
        let context::Context { mut problems, warnings, .. } = context;
        // The order of the file; what stands elsewhere comes after it.
        problems.sort_by_key(|problem| problem.place.position());
        match config {
            Some(config) if problems.is_empty() => Ok(Loaded { config, warnings }),
            _ => Err(Errors::new(problems)),
        }
    }
}

/// What is left after the check of shapes always fits the types that the schema came from; if
/// the two ever disagreed, serde has the last word.
fn written(context: &mut context::Context, root: &Value) -> file::File {
    match root.deserialize::<file::File>() {
        Ok(file) => file,
        Err(error) => {
            let at = error.path.join(".");
            context.refuse(&at, &error.kind.to_string(), "write a value of the right type");
            file::File::default()
        }
    }
}

/// Made once: it takes longer than reading a short file.
static SCHEMA: LazyLock<serde_json::Value> = LazyLock::new(|| {
    let mut schema = schemars::schema_for!(file::File);
    schema.insert("title".into(), "haflinger.toml".into());
    schema.to_value()
});

/// The JSON schema of the file, indented.
pub fn schema() -> String {
    serde_json::to_string_pretty(&*SCHEMA).expect("a JSON value always has a text form")
}

#[cfg(test)]
mod tests;
