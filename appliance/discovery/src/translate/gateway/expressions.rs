//! Regular expressions of routes, checked before anybody has to match by them.

use std::sync::Arc;

use haflinger_core::EXPRESSION_BYTES_MAX;
use regex_automata::nfa::thompson;

use super::Reading;
use crate::translate::quoted;

/// Bytes that all expressions of a route may take up when they are compiled: some tens of
/// milliseconds of work each time that the route changes.
const ROUTE_BYTES_MAX: usize = 4 * EXPRESSION_BYTES_MAX;

/// What is left for the expressions of one route.
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn of_route() -> Self {
        Self(ROUTE_BYTES_MAX)
    }

    /// Takes up the room for an expression, or says why it cannot be used.
    fn take(&mut self, text: &str) -> Result<(), &'static str> {
        const TOO_MUCH: &str = "takes too much to be matched, alone or with the others";
        if self.0 == 0 {
            return Err(TOO_MUCH);
        }
        // By itself first: "a)(b" would become one by being put in brackets.
        regex_syntax::parse(text).map_err(|_| "is no regular expression of Rust's syntax")?;
        let whole = anchored(text);
        let hir = regex_syntax::parse(&whole).map_err(|_| "is nested too deeply")?;
        let limit = EXPRESSION_BYTES_MAX.min(self.0);
        let config = thompson::Config::new().nfa_size_limit(Some(limit));
        let compiled = thompson::Compiler::new().configure(config).build_from_hir(&hir);
        // What failed has cost as much as it could.
        let taken = compiled.as_ref().map_or(limit, thompson::NFA::memory_usage);
        self.0 = self.0.saturating_sub(taken);
        compiled.map(drop).map_err(|_| TOO_MUCH)
    }
}

/// As it is matched: by the whole value.
fn anchored(text: &str) -> String {
    format!("^(?:{text})$")
}

/// A text as an expression for itself.
pub(super) fn literal(text: &str) -> String {
    regex_syntax::escape(text)
}

impl Reading<'_> {
    /// A regular expression that can be matched by.
    pub(super) fn expression(
        &mut self,
        field: &str,
        text: &str,
        budget: &mut Budget,
    ) -> Option<Arc<str>> {
        match budget.take(text) {
            Ok(()) => Some(text.into()),
            Err(why) => {
                let text = quoted(text);
                self.refuse(format!("{field}: {text} {why}; write a simpler expression"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_taken_and_what_costs_too_much_is_not() {
        let take = |text: &str| Budget::of_route().take(text);
        for fine in ["/v[0-9]+/.*", r"(?i)chrome/\d+(\.\d+){3}", "a|b", "", r"\d{1,32}"] {
            assert_eq!(take(fine), Ok(()), "{fine}");
        }
        for bad in ["a)(b", "(", "[", r"\9", "(?=a)", "(a{1000}){1000}", r"\w{10000}"] {
            assert!(take(bad).is_err(), "{bad}");
        }
        let nested = "(".repeat(5000) + &")".repeat(5000);
        assert!(take(&nested).is_err());
    }

    #[test]
    fn many_expressions_together_have_an_end() {
        let mut budget = Budget::of_route();
        let large = "x{1000}";
        let taken = (0..10_000).take_while(|_| budget.take(large).is_ok()).count();
        assert!((4..10_000).contains(&taken), "{taken}");
        assert!(budget.take(large).is_err());
    }
}
