//! Paths that other controllers read as regular expressions. Pure.

use std::sync::Arc;

use haflinger_core::{IngressRule, PathRewrite, PathType};

/// Ways to write "everything below", and what of it the target then names.
const REST: [(&str, &str); 5] =
    [("(/|$)(.*)", "$2"), ("(?:/|$)(.*)", "$1"), ("/(.*)", "$1"), ("/?(.*)", "$1"), ("(.*)", "$1")];

/// Gives the rules of an Ingress the path `target` (ingress-nginx `rewrite-target`). False where
/// it takes over parts of a path in another way than by exchanging what it begins with.
pub(super) fn rewrite(rules: &mut [IngressRule], target: &str) -> bool {
    if !target.contains('$') {
        for rule in rules {
            rule.rewrite = Some(PathRewrite::Full(target.into()));
        }
        return true;
    }
    let rewritten: Option<Vec<(Arc<str>, PathRewrite)>> =
        rules.iter().map(|rule| below(&rule.path, target)).collect();
    let Some(rewritten) = rewritten else { return false };
    for (rule, (path, rewrite)) in rules.iter_mut().zip(rewritten) {
        rule.path = path;
        rule.path_match = PathType::Prefix;
        rule.rewrite = Some(rewrite);
    }
    true
}

/// `/a(/|$)(.*)` with `/b/$2`: what begins with `/a` begins with `/b` instead.
fn below(path: &str, target: &str) -> Option<(Arc<str>, PathRewrite)> {
    REST.iter().find_map(|(end, group)| {
        let prefix = path.strip_suffix(end)?;
        let base = target.strip_suffix(group)?;
        let base = base.strip_suffix('/').unwrap_or(base);
        let plain = is_literal(prefix) && is_literal(base);
        let written =
            |text: &str| -> Arc<str> { if text.is_empty() { "/".into() } else { text.into() } };
        plain.then(|| (written(prefix), PathRewrite::Prefix(written(base))))
    })
}

/// Exchanges `expression` for `target` in every path (HAProxy's controller, `path-rewrite`), as
/// long as it is about what rules' paths begin with.
pub(super) fn exchange(rules: &mut [IngressRule], expression: &str, target: &str) -> bool {
    let target = target.replace("\\", "$");
    let expression = expression.strip_prefix('^').unwrap_or(expression);
    let Some((path, rewrite)) = below(expression, &target) else { return false };
    let meant = |rule: &IngressRule| {
        let of_rule = rule.path.trim_end_matches('/');
        rule.path_match == PathType::Prefix && of_rule == path.trim_end_matches('/')
    };
    let mut found = false;
    for rule in rules.iter_mut().filter(|rule| meant(rule)) {
        rule.rewrite = Some(rewrite.clone());
        found = true;
    }
    found
}

/// Reads the paths as ingress-nginx does with `use-regex`: from the start, whatever the case.
pub(super) fn as_expressions(rules: &mut [IngressRule]) {
    for rule in rules.iter_mut().filter(|rule| rule.path_match == PathType::Prefix) {
        rule.path = format!("(?i){}.*", rule.path).into();
        rule.path_match = PathType::Regex;
    }
}

/// Nothing in it means anything but itself. A dot is taken for one, as it is meant.
fn is_literal(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~%".contains(&byte);
    text.bytes().all(plain)
}
