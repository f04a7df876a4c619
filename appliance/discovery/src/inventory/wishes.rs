//! `[site.requests]` and `[site.backends]`: what a policy of a cluster may ask, with the same fields in
//! snake case, read by the same code (`translate/gateway/wishes.rs`).

use std::collections::BTreeSet;

use haflinger_core::{BackendWishes, RequestWishes, SourceFault};
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check::{Check, Checked, NAMESPACE};
use super::{InventoryError, file, line_of};
use crate::objects::lax::{Lax, Shape};
use crate::objects::{BackendWishesBody, Fields, RequestWishesBody};
use crate::translate::{Faults, gateway, quoted};

/// Targets are of policies: a table is for its own site.
const OF_POLICIES: &str = "targetRefs";

/// One table of a site.
#[derive(Clone, Copy)]
struct Table<'a> {
    /// The site's place among the sites, and its name.
    site: (usize, &'a str),
    /// `requests` or `backends`.
    name: &'static str,
}

impl Check<'_> {
    /// What `[site.requests]` asks.
    pub(super) fn requests(
        &self,
        site: (usize, &str),
        written: &file::Site,
    ) -> Checked<RequestWishes> {
        let table = Table { site, name: "requests" };
        let Some(written) = &written.requests else { return Ok(RequestWishes::default()) };
        let body: RequestWishesBody = self.body(table, written)?;
        let mut faults = Faults::default();
        let source = self.source();
        let wishes = gateway::request_wishes(table.name, &body, source, NAMESPACE, &mut faults);
        self.unless_wrong(table, faults).map(|()| wishes)
    }

    /// What `[site.backends]` asks.
    pub(super) fn backends_of_site(
        &self,
        site: (usize, &str),
        written: &file::Site,
    ) -> Checked<BackendWishes> {
        let table = Table { site, name: "backends" };
        let Some(written) = &written.backends else { return Ok(BackendWishes::default()) };
        let body: BackendWishesBody = self.body(table, written)?;
        let mut faults = Faults::default();
        let source = self.source();
        let wishes = gateway::backend_wishes(table.name, &body, source, NAMESPACE, &mut faults);
        self.unless_wrong(table, faults).map(|()| wishes)
    }

    /// The table as a policy would have it.
    fn body<B: Shape + Fields + Default>(
        &self,
        table: Table<'_>,
        written: &toml::Table,
    ) -> Checked<B> {
        let mut known = BTreeSet::new();
        B::fields("", &mut known);
        known.retain(|field| !field.starts_with(OF_POLICIES));
        let mut fields = serde_json::Map::new();
        for (key, value) in written {
            let (key, value) = self.field(table, &known, "", key, value)?;
            fields.insert(key, value);
        }
        // Lax reading refuses nothing: what is of another type is a fault of its field.
        let body = serde_json::from_value::<Lax<B>>(Value::Object(fields));
        Ok(body.ok().and_then(Lax::into_option).unwrap_or_default())
    }

    /// A key and its value as the API would write them; `at` is the path of what it stands in.
    fn field(
        &self,
        table: Table<'_>,
        known: &BTreeSet<String>,
        at: &str,
        key: &str,
        value: &toml::Value,
    ) -> Checked<(String, Value)> {
        let name = camel(key);
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        let below = [format!("{path}."), format!("{path}[]")];
        let is_known = snake(&name) == key
            && known.iter().any(|field| {
                *field == path || below.iter().any(|start| field.starts_with(start.as_str()))
            });
        if !is_known {
            let place = format!("{}.{path}", table.name);
            let key = quoted(key);
            let message = format!("{place}: key {key} is not known; docs/policies.md lists them");
            return self.wrong(table, &message);
        }
        Ok((name, self.value(table, known, &path, value)?))
    }

    fn value(
        &self,
        table: Table<'_>,
        known: &BTreeSet<String>,
        path: &str,
        value: &toml::Value,
    ) -> Checked<Value> {
        Ok(match value {
            toml::Value::String(text) => Value::String(text.clone()),
            toml::Value::Integer(number) => Value::from(*number),
            toml::Value::Float(number) => Value::from(*number),
            toml::Value::Boolean(value) => Value::Bool(*value),
            toml::Value::Datetime(time) => Value::String(time.to_string()),
            toml::Value::Array(list) => {
                let path = format!("{path}[]");
                let list = list.iter().map(|value| self.value(table, known, &path, value));
                Value::Array(list.collect::<Checked<_>>()?)
            }
            toml::Value::Table(fields) => {
                let fields = fields.iter();
                let fields = fields.map(|(key, value)| self.field(table, known, path, key, value));
                Value::Object(fields.collect::<Checked<_>>()?)
            }
        })
    }

    fn unless_wrong(&self, table: Table<'_>, faults: Faults) -> Checked<()> {
        match faults.into_vec().first() {
            None => Ok(()),
            Some(SourceFault { message, .. }) => self.wrong(table, message),
        }
    }

    /// Refuses the file for a fault, whose message begins with the path of a field.
    fn wrong<T>(&self, table: Table<'_>, message: &str) -> Checked<T> {
        let (path, said) = message.split_once(": ").unwrap_or((table.name, message));
        Err(InventoryError::Syntax {
            path: self.inventory_path().to_owned(),
            line: line_of(self.text().as_bytes(), place(self.text(), table.site.0, path)),
            message: format!("site \"{}\": {}: {said}", table.site.1, snake(path)),
        })
    }
}

/// Where a field stands in the text of the file; where what is around it stands, if it does not.
fn place(text: &str, site: usize, path: &str) -> usize {
    let Ok(root) = DeTable::parse(text) else { return 0 };
    let sites = root.get_ref().get("site").map(Spanned::get_ref);
    let Some(mut at) = sites.and_then(|sites: &DeValue<'_>| sites.get(site)) else { return 0 };
    for part in path.split(['.', '[']) {
        let next = match part.strip_suffix(']') {
            Some(index) => index.parse::<usize>().ok().and_then(|index| at.get_ref().get(index)),
            None => at.get_ref().get(snake(part).as_str()),
        };
        let Some(next) = next else { break };
        at = next;
    }
    at.span().start
}

/// `body_max` as `bodyMax`.
fn camel(key: &str) -> String {
    let mut parts = key.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut name, part| {
        let mut letters = part.chars();
        name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        name.push_str(letters.as_str());
        name
    })
}

/// `bodyMax` as `body_max`.
fn snake(name: &str) -> String {
    name.chars().fold(String::new(), |mut key, letter| {
        if letter.is_ascii_uppercase() {
            key.push('_');
        }
        key.push(letter.to_ascii_lowercase());
        key
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_both_ways() {
        for (snaked, cameled) in
            [("body_max", "bodyMax"), ("cors", "cors"), ("allow_origins", "allowOrigins")]
        {
            assert_eq!((camel(snaked).as_str(), snake(cameled).as_str()), (cameled, snaked));
        }
    }
}
