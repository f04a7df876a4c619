//! Label selectors as `kubectl --selector` takes them: `team=shop`, `team!=shop`,
//! `env in (prod, stage)`, `env notin (test)`, `team`, `!team`, joined by commas.

use std::collections::BTreeSet;

use crate::checked::{LabelRequirement, LabelSelector, LabelTest};
use crate::context::Context;

const REMEDY: &str =
    "write it as for kubectl: \"team=shop\", \"env in (prod, stage)\", \"team\" or \"!team\"";

/// Reads a selector that asks for something.
pub(crate) fn read(context: &mut Context, at: &str, text: &str) -> Option<LabelSelector> {
    match parse(text) {
        Ok(requirements) => Some(LabelSelector { text: text.trim().to_owned(), requirements }),
        Err(what) => {
            context.refuse(at, &what, REMEDY);
            None
        }
    }
}

fn parse(text: &str) -> Result<Vec<LabelRequirement>, String> {
    if text.trim().is_empty() {
        return Err("it is empty, which would fit everything".to_owned());
    }
    parts(text)?.into_iter().map(requirement).collect()
}

/// Splits at the commas outside of parentheses.
fn parts(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut begin, mut inside) = (Vec::new(), 0, false);
    for (at, character) in text.char_indices() {
        match character {
            '(' if inside => return Err("it has a parenthesis within parentheses".to_owned()),
            '(' => inside = true,
            ')' if !inside => return Err("it has a closing parenthesis too many".to_owned()),
            ')' => inside = false,
            ',' if !inside => {
                parts.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err("its parenthesis is not closed".to_owned());
    }
    parts.push(text[begin..].trim());
    Ok(parts)
}

fn requirement(part: &str) -> Result<LabelRequirement, String> {
    let (key, test) = if let Some(key) = part.strip_prefix('!') {
        (key, LabelTest::Absent)
    } else if let Some((key, value)) = part.split_once("!=") {
        (key, LabelTest::NotIn(values(value)?))
    } else if let Some((key, value)) = part.split_once('=') {
        (key, LabelTest::In(values(value.strip_prefix('=').unwrap_or(value))?))
    } else if let Some((words, list)) = part.split_once('(') {
        let list = list.strip_suffix(')').ok_or("something stands behind its list".to_owned())?;
        let words: Vec<&str> = words.split_whitespace().collect();
        match words[..] {
            [key, "in"] => (key, LabelTest::In(values(list)?)),
            [key, "notin"] => (key, LabelTest::NotIn(values(list)?)),
            _ => return Err("before its list stands neither \"in\" nor \"notin\"".to_owned()),
        }
    } else {
        (part, LabelTest::Exists)
    };
    let key = key.trim();
    if !is_key(key) {
        return Err(format!("{key:?} is no name of a label"));
    }
    Ok(LabelRequirement { key: key.to_owned(), test })
}

fn values(list: &str) -> Result<BTreeSet<String>, String> {
    let values =
        list.split(',').map(str::trim).map(|value| match value.is_empty() || is_name(value) {
            true => Ok(value.to_owned()),
            false => Err(format!("{value:?} is no value of a label")),
        });
    values.collect()
}

/// A label's key: a name, with a domain and a slash before it or not.
fn is_key(text: &str) -> bool {
    let (domain, name) = match text.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, text),
    };
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fine = |domain: &str| {
        domain.len() <= 253
            && domain.split('.').all(|part| !part.is_empty() && part.bytes().all(inner))
    };
    domain.is_none_or(fine) && is_name(name)
}

/// Letters, digits, `-`, `_` and `.`, the first and the last a letter or digit; 63 at most.
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> (String, LabelTest) {
        let mut requirements = parse(text).unwrap();
        let requirement = requirements.pop().unwrap();
        assert!(requirements.is_empty());
        (requirement.key, requirement.test)
    }

    fn set(values: &[&str]) -> BTreeSet<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn every_form_is_read() {
        let team = || "team".to_owned();
        assert_eq!(one("team=shop"), (team(), LabelTest::In(set(&["shop"]))));
        assert_eq!(one(" team == shop "), (team(), LabelTest::In(set(&["shop"]))));
        assert_eq!(one("team="), (team(), LabelTest::In(set(&[""]))));
        assert_eq!(one("team!=shop"), (team(), LabelTest::NotIn(set(&["shop"]))));
        assert_eq!(one("team in (a, b)"), (team(), LabelTest::In(set(&["a", "b"]))));
        assert_eq!(one("team notin(a)"), (team(), LabelTest::NotIn(set(&["a"]))));
        assert_eq!(one("team"), (team(), LabelTest::Exists));
        assert_eq!(one("!team"), (team(), LabelTest::Absent));
        let (key, _) = one("app.kubernetes.io/name=web");
        assert_eq!(key, "app.kubernetes.io/name");
    }

    #[test]
    fn all_parts_have_to_hold() {
        let requirements = parse("team in (a,b), !old,env=prod").unwrap();
        let keys: Vec<&str> = requirements.iter().map(|part| &*part.key).collect();
        assert_eq!(keys, ["team", "old", "env"]);
    }

    #[test]
    fn what_is_no_selector_is_refused_with_what_is_wrong() {
        for (text, words) in [
            ("", "empty"),
            ("a,,b", "no name of a label"),
            ("-a=b", "no name of a label"),
            ("A.B/c=d", "no name of a label"),
            ("a=b c", "no value of a label"),
            ("a in (b", "not closed"),
            ("a in b)", "too many"),
            ("a in (b) c", "behind its list"),
            ("a is (b)", "neither"),
            ("a in ((b))", "within parentheses"),
            ("team shop", "no name of a label"),
        ] {
            let refusal = parse(text).unwrap_err();
            assert!(refusal.contains(words), "{text:?}: {refusal}");
        }
    }
}
