//! What is wrong with a configuration, where it stands, and what to do about it.

use std::fmt;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the file.
    File {
        /// Its name as given.
        name: String,
        /// Line, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
        /// The line's text, unless it holds a secret.
        text: Option<String>,
        /// Characters to underline.
        width: usize,
    },
    /// In an environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// In a flag of the command line.
    Flag {
        /// The flag as typed, such as `--admin-listen`.
        flag: String,
    },
    /// Nowhere: the value is missing, or a default.
    Nowhere,
}

impl Place {
    /// The line in the file, where there is one.
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::File { line, .. } => Some(*line),
            _ => None,
        }
    }

    /// Sorts as one reads: the file from its top, then what stands elsewhere.
    pub(crate) fn position(&self) -> (usize, usize) {
        match self {
            Self::File { line, column, .. } => (*line, *column),
            _ => (usize::MAX, 0),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line, column, .. } => write!(f, "{name}:{line}:{column}"),
            Self::Environment { variable } => write!(f, "environment variable {variable}"),
            Self::Flag { flag } => write!(f, "flag {flag}"),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

/// One thing that is wrong, or (as a warning) unwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// Which field, such as `bgp.peer[0].address`; empty when none can be named.
    pub field: String,
    /// The offending value as written, unless it is a secret or missing.
    pub value: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    fn block(&self, f: &mut fmt::Formatter<'_>, severity: &str) -> fmt::Result {
        write!(f, "{severity}: {}", self.place)?;
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        writeln!(f)?;
        if let Place::File { line, column, text: Some(text), width, .. } = &self.place {
            let gutter = line.to_string();
            let pad = " ".repeat(gutter.len());
            writeln!(f, " {pad} |")?;
            writeln!(f, " {gutter} | {text}")?;
            writeln!(f, " {pad} | {}{}", " ".repeat(column - 1), "^".repeat((*width).max(1)))?;
        }
        if let Some(value) = &self.value {
            writeln!(f, "  value:  {value}")?;
        }
        writeln!(f, "  reason: {}", self.what)?;
        write!(f, "  remedy: {}", self.remedy)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.block(f, "error")
    }
}

/// Something unwise that does not keep the configuration from being used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub Problem);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.block(f, "warning")
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(Vec<Problem>);

impl Errors {
    /// Panics without a problem: whoever refuses a value says so.
    pub(crate) fn new(problems: Vec<Problem>) -> Self {
        assert!(!problems.is_empty(), "a configuration was refused without a reason");
        Self(problems)
    }

    /// The problems, in the order of the file.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}\n")?;
        }
        match self.0.len() {
            1 => f.write_str("the configuration has 1 error"),
            n => write!(f, "the configuration has {n} errors"),
        }
    }
}

impl std::error::Error for Errors {}
