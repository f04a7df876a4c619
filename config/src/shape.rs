//! The first check: every value has a key that exists, the right type, and lies within its
//! bounds. It reads the JSON schema, which comes from the same types that serde fills, and so
//! reports everything at once where serde would stop at the first surprise.
//!
//! What is refused is taken out (or emptied, inside a list), so that the rest can be checked.

use figment::value::{Dict, Num, Value};
use serde_json::Value as Json;

use crate::context::Context;
use crate::layer::{child, item};
use crate::suggest::nearest;

/// Walks the merged values along the schema.
pub(crate) fn check(context: &mut Context, root: &mut Value, schema: &Json) {
    let walker = Walker { schema };
    walker.table(context, root, schema, "");
}

struct Walker<'a> {
    schema: &'a Json,
}

impl Walker<'_> {
    /// Follows `$ref` and drops the `null` of an optional value.
    fn resolve<'s>(&'s self, schema: &'s Json) -> &'s Json {
        if let Some(name) = schema["$ref"].as_str().and_then(|to| to.strip_prefix("#/$defs/")) {
            return self.resolve(&self.schema["$defs"][name]);
        }
        match schema["anyOf"].as_array().and_then(|any| any.iter().find(|one| !is_null(one))) {
            Some(one) => self.resolve(one),
            None => schema,
        }
    }

    /// Returns whether the value may stay.
    fn value(&self, context: &mut Context, value: &mut Value, schema: &Json, at: &str) -> bool {
        context.note(at, value);
        let resolved = self.resolve(schema);
        if resolved["properties"].is_object() {
            return self.table(context, value, resolved, at);
        }
        if let Some(words) = words_of(resolved) {
            return self.word(context, value, &words, at);
        }
        match type_of(resolved) {
            "array" => self.array(context, value, &resolved["items"], at),
            "string" => self.text(context, value, at),
            "integer" => self.integer(context, value, resolved, at),
            "boolean" => match value {
                Value::Bool(..) => true,
                _ => refuse_type(context, value, at, "true or false"),
            },
            other => unreachable!("the schema uses no values of type {other:?}"),
        }
    }

    fn table(&self, context: &mut Context, value: &mut Value, schema: &Json, at: &str) -> bool {
        let Value::Dict(_, dict) = value else {
            let remedy = if context.raw_of(value, at).is_some() {
                "a table: name the key too, as in HAFLINGER_SECTION__KEY"
            } else {
                "a table of keys"
            };
            return refuse_type(context, value, at, remedy);
        };
        let keys: Vec<&str> = match schema["properties"].as_object() {
            Some(properties) => properties.keys().map(String::as_str).collect(),
            None => Vec::new(),
        };
        let mut stays = Dict::new();
        for (name, mut inner) in std::mem::take(dict) {
            let path = child(at, &name);
            if !keys.contains(&name.as_str()) {
                refuse_unknown(context, &inner, at, &path, &name, &keys);
            } else if self.value(context, &mut inner, &schema["properties"][&name], &path) {
                stays.insert(name, inner);
            }
        }
        *dict = stays;
        true
    }

    fn array(&self, context: &mut Context, value: &mut Value, items: &Json, at: &str) -> bool {
        let tables = self.resolve(items)["properties"].is_object();
        // In a variable or flag `a,b` is as clear as `[a, b]`.
        if !tables
            && !matches!(value, Value::Array(..))
            && let Some(raw) = context.raw_of(value, at)
        {
            let parts = raw.split(',').map(str::trim).filter(|part| !part.is_empty());
            let tag = value.tag();
            let parts = parts.map(|part| Value::String(tag, part.to_owned())).collect();
            *value = Value::Array(tag, parts);
        }
        let Value::Array(_, values) = value else {
            let wanted =
                if tables { "a list of tables, as in [[…]]" } else { "a list, as in [\"…\"]" };
            return refuse_type(context, value, at, wanted);
        };
        for (index, inner) in values.iter_mut().enumerate() {
            let path = item(at, index);
            if !self.value(context, inner, items, &path) {
                let tag = inner.tag();
                *inner = if tables {
                    Value::Dict(tag, Dict::new())
                } else {
                    Value::String(tag, String::new())
                };
            }
        }
        true
    }

    fn text(&self, context: &mut Context, value: &mut Value, at: &str) -> bool {
        if matches!(value, Value::String(..)) {
            return true;
        }
        // A variable such as HAFLINGER_HOST__NAME=12 is text, whatever it looks like.
        if let Some(raw) = context.raw_of(value, at) {
            *value = Value::String(value.tag(), raw);
            return true;
        }
        refuse_type(context, value, at, "text in double quotes")
    }

    fn word(&self, context: &mut Context, value: &Value, words: &[&str], at: &str) -> bool {
        let Value::String(_, text) = value else {
            return refuse_type(context, value, at, &one_of(words));
        };
        if words.contains(&text.as_str()) {
            return true;
        }
        let remedy = match nearest(text, words) {
            Some(near) => format!("write \"{near}\" ({} are allowed)", words.join(", ")),
            None => format!("write {}", one_of(words)),
        };
        context.refuse(at, &format!("\"{text}\" is not one of the allowed words"), &remedy);
        false
    }

    fn integer(&self, context: &mut Context, value: &mut Value, schema: &Json, at: &str) -> bool {
        let minimum = schema["minimum"].as_i64().unwrap_or(0);
        let maximum = schema["maximum"].as_i64().unwrap_or(i64::MAX);
        let wanted = format!("a whole number from {minimum} to {maximum}");
        let Some(number) = whole(value) else {
            return refuse_type(context, value, at, &wanted);
        };
        if number < i128::from(minimum) || number > i128::from(maximum) {
            let bound = if number < i128::from(minimum) { "below" } else { "above" };
            let limit = if number < i128::from(minimum) { minimum } else { maximum };
            context.refuse(at, &format!("it is {bound} {limit}"), &format!("write {wanted}"));
            return false;
        }
        true
    }
}

fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Num(_, Num::F32(_) | Num::F64(_)) => None,
        Value::Num(_, number) => Some(
            number
                .to_i128()
                .or_else(|| number.to_u128().map(|big| i128::try_from(big).unwrap_or(i128::MAX)))
                .unwrap_or(i128::MAX),
        ),
        _ => None,
    }
}

fn refuse_type(context: &mut Context, value: &Value, at: &str, wanted: &str) -> bool {
    context.refuse(at, &format!("it is {}", kind(value)), &format!("write {wanted}"));
    false
}

fn refuse_unknown(
    context: &mut Context,
    value: &Value,
    table: &str,
    path: &str,
    name: &str,
    keys: &[&str],
) {
    let what = if table.is_empty() {
        format!("there is no section or key `{name}`")
    } else {
        format!("there is no key `{name}` in `{table}`")
    };
    let remedy = match nearest(name, keys) {
        Some(near) => format!("did you mean `{near}`? Otherwise take it out"),
        None => format!("take it out; the keys here are {}", keys.join(", ")),
    };
    context.note(path, value);
    context.refuse_key(path, &what, &remedy);
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(..) | Value::Char(..) => "text",
        Value::Bool(..) => "a yes or no (true or false)",
        Value::Num(_, Num::F32(_) | Num::F64(_)) => "a number with a fraction",
        Value::Num(..) => "a number",
        Value::Dict(..) => "a table",
        Value::Array(..) => "a list",
        Value::Empty(..) => "a date",
    }
}

fn type_of(schema: &Json) -> &str {
    match &schema["type"] {
        Json::String(one) => one,
        Json::Array(several) => {
            several.iter().filter_map(Json::as_str).find(|one| *one != "null").unwrap_or_default()
        }
        _ => "",
    }
}

fn is_null(schema: &Json) -> bool {
    schema["type"] == "null"
}

/// The words of an enumeration, in either of the forms in which schemars writes one.
fn words_of(schema: &Json) -> Option<Vec<&str>> {
    if let Some(words) = schema["enum"].as_array() {
        return Some(words.iter().filter_map(Json::as_str).collect());
    }
    let variants = schema["oneOf"].as_array()?;
    Some(variants.iter().filter_map(|variant| variant["const"].as_str()).collect())
}

fn one_of(words: &[&str]) -> String {
    format!("one of \"{}\"", words.join("\", \""))
}
