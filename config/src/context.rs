//! What the checks share: where each value stands, and what was found wrong so far.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::value::Value;

use crate::layer::Layer;
use crate::problem::{Place, Problem, Warning};

/// Collects problems while a configuration is checked.
pub(crate) struct Context {
    layers: Vec<Layer>,
    figment: Figment,
    /// Which layer the value at a path is from.
    origin: BTreeMap<String, usize>,
    refused: BTreeSet<String>,
    directory: PathBuf,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Warning>,
}

impl Context {
    pub(crate) fn new(
        layers: Vec<Layer>,
        figment: Figment,
        directory: PathBuf,
        problems: Vec<Problem>,
    ) -> Self {
        Self {
            layers,
            figment,
            origin: BTreeMap::new(),
            refused: BTreeSet::new(),
            directory,
            problems,
            warnings: Vec::new(),
        }
    }

    fn layer_of(&self, value: &Value) -> Option<usize> {
        let source = self.figment.get_metadata(value.tag())?.source.as_ref()?;
        source.custom()?.parse().ok().filter(|index| *index < self.layers.len())
    }

    /// Remembers where the value at `at` is from. A table that several layers share counts as
    /// the file's, where it has a line.
    pub(crate) fn note(&mut self, at: &str, value: &Value) {
        // A list, and all in it, is one layer's alone; only tables are merged.
        let shared = matches!(value, Value::Dict(..)) && !at.contains('[');
        let file = self.layers.iter().position(|layer| shared && layer.is_file_with(at));
        if let Some(index) = file.or_else(|| self.layer_of(value)) {
            self.origin.insert(at.to_owned(), index);
        }
    }

    /// The unparsed text of the variable or flag that is exactly this value.
    pub(crate) fn raw_of(&self, value: &Value, at: &str) -> Option<String> {
        let layer = &self.layers[self.layer_of(value)?];
        layer.raw(at).map(str::to_owned)
    }

    /// Where the value at `at` stands; where it is missing, the table that should hold it.
    pub(crate) fn place(&self, at: &str) -> Place {
        let mut path = at;
        loop {
            if let Some(index) = self.origin.get(path) {
                return self.layers[*index].place(path);
            }
            match path.rfind(['.', '[']) {
                Some(cut) => path = &path[..cut],
                None => return Place::Nowhere,
            }
        }
    }

    fn written(&self, at: &str) -> Option<String> {
        self.origin.get(at).and_then(|index| self.layers[*index].written(at))
    }

    /// Whether the value at `at` was written by someone.
    pub(crate) fn is_set(&self, at: &str) -> bool {
        self.origin.contains_key(at)
    }

    /// Whether the value at `at`, a part of it, or what it is part of, was refused already.
    pub(crate) fn is_refused(&self, at: &str) -> bool {
        self.refused.iter().any(|path| path == at || is_below(path, at) || is_below(at, path))
    }

    /// Reports the value at `at`, unless it was reported before.
    pub(crate) fn refuse(&mut self, at: &str, what: &str, remedy: &str) {
        let place = self.place(at);
        self.report(at, place, what, remedy);
    }

    /// Reports the key at `at` itself.
    pub(crate) fn refuse_key(&mut self, at: &str, what: &str, remedy: &str) {
        let place = match self.origin.get(at) {
            Some(index) => self.layers[*index].key_place(at),
            None => Place::Nowhere,
        };
        self.report(at, place, what, remedy);
    }

    fn report(&mut self, at: &str, place: Place, what: &str, remedy: &str) {
        if !self.refused.insert(at.to_owned()) {
            return;
        }
        self.problems.push(Problem {
            place,
            field: at.to_owned(),
            value: self.written(at),
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    /// Reports that `at` is missing, unless something was written there and refused.
    pub(crate) fn missing(&mut self, at: &str, remedy: &str) {
        if !self.is_refused(at) {
            self.refuse(at, "it is missing", remedy);
        }
    }

    /// Says that something is unwise.
    pub(crate) fn warn(&mut self, at: &str, what: &str, remedy: &str) {
        self.warnings.push(Warning(Problem {
            place: self.place(at),
            field: at.to_owned(),
            value: self.written(at),
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        }));
    }

    /// The line on which `at` stands, for a message about two values.
    pub(crate) fn whereabouts(&self, at: &str) -> String {
        match self.place(at) {
            Place::File { line, .. } => format!("line {line}"),
            place => place.to_string(),
        }
    }

    /// A path as the operator means it: relative ones in the file are relative to its directory.
    pub(crate) fn resolve(&self, at: &str, path: &str) -> PathBuf {
        let in_file = self.origin.get(at).is_some_and(|index| self.layers[*index].is_file());
        if in_file { self.directory.join(path) } else { Path::new(path).to_path_buf() }
    }
}

/// Whether `path` is strictly below `above`.
fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with(['.', '[']))
}
