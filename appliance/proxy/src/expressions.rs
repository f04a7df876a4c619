//! Regular expressions of rules: compiled once, shared, and bounded.
//!
//! Matching is linear in the text (crate `regex`). An expression is compared with the whole text.

use std::sync::Arc;

use haflinger_core::EXPRESSION_BYTES_MAX;
use regex::bytes::{Regex, RegexBuilder};

use crate::slots::Slots;

/// Most bytes of a compiled expression. Discovery has refused what takes more than
/// [`EXPRESSION_BYTES_MAX`]; here the automaton that reads backwards counts too, which is several
/// times as large where letters of all scripts are meant.
const COMPILED_BYTES_MAX: usize = 8 * EXPRESSION_BYTES_MAX;

/// Most memory that a thread may spend on one expression's lazily built automaton, in bytes.
/// Beyond it matching goes on, more slowly.
const AUTOMATON_BYTES_MAX: usize = 256 * 1024;

/// A regular expression, or why it cannot be had.
#[derive(Debug)]
pub(crate) struct Expression(Result<Regex, Box<str>>);

impl Expression {
    /// Compiles `text`.
    pub(crate) fn new(text: &str) -> Self {
        // First alone, because `a)|(b` is none, while it would be one in parentheses.
        let whole = format!("^(?:{text})$");
        Self(build(text).and_then(|_| build(&whole)).map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => {
                format!("takes more than {limit} bytes when compiled").into()
            }
            other => last_line(&other.to_string()).into(),
        }))
    }

    /// Whether all of `text` fits; an expression that is broken fits nothing.
    pub(crate) fn fits(&self, text: &[u8]) -> bool {
        self.0.as_ref().is_ok_and(|expression| expression.is_match(text))
    }

    /// Why it is broken.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.0.as_ref().err().map(|fault| &**fault)
    }
}

fn build(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(AUTOMATON_BYTES_MAX)
        .build()
}

/// The crate draws an arrow below the expression; what is wrong stands in the last line.
fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default().trim_start_matches("error: ")
}

/// Finds compiled expressions again, for as long as a rule holds them.
pub(crate) type Expressions = Slots<Arc<str>, Expression>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_fits_the_whole_text_or_nothing() {
        let one = Expression::new("a|ab");
        assert!(one.fits(b"a") && one.fits(b"ab"));
        assert!(!one.fits(b"abc") && !one.fits(b"cab") && !one.fits(b"ab\n"));
        assert!(Expression::new("(?s-u:.*)").fits(b"\xff"), "fields need not be UTF-8");
    }

    #[test]
    fn what_is_broken_or_too_costly_says_why_and_fits_nothing() {
        for (text, fault) in [
            ("(", "unclosed group"),
            ("a)|(b", "unopened group"),
            ("[a-z]{1000}{1000}", "takes more than 4194304 bytes when compiled"),
            ("(?x) a # (", "unclosed group"),
        ] {
            let expression = Expression::new(text);
            assert_eq!(expression.fault(), Some(fault), "{text}");
            assert!(!expression.fits(b"") && !expression.fits(b"a"), "{text}");
        }
        let deep = format!("{}{}", "(".repeat(1_000), ")".repeat(1_000));
        assert!(Expression::new(&deep).fault().is_some());
        for fine in ["[a-z0-9-]{1,253}", r"\w{1,64}", "x{1000}"] {
            assert_eq!(Expression::new(fine).fault(), None, "{fine}");
        }
    }
}
