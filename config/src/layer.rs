//! Where values come from: the file, environment variables and flags, each one layer of the
//! merge that knows where its values stand.

use std::collections::BTreeMap;
use std::ops::Range;

use figment::value::{Dict, Map, Num, Value};
use figment::{Metadata, Profile, Provider, Source};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::problem::{Place, Problem};
use crate::secrecy::SecretKeys;

/// A value longer than this is cut in messages.
const VALUE_CHARS_MAX: usize = 60;

/// Bytes of an environment variable or flag at most: more than any sensible value, so that a
/// runaway variable cannot cost time or stack.
pub(crate) const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Brackets at most in such a value: figment parses nested ones by recursion.
pub(crate) const BRACKETS_MAX: usize = 4096;

/// Nesting at most of such a value.
pub(crate) const NESTING_MAX: usize = 32;

/// One source of values, from the weakest (the file) to the strongest (flags).
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) origin: Origin,
    data: Dict,
    /// Position among the layers; travels through figment's metadata.
    index: usize,
}

/// What kind of source a layer is.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    File(Document),
    Environment { variable: String, value: Written },
    Flag { flag: String, value: Written },
}

/// The text of one variable or flag.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    path: String,
    /// Absent when the flag's value never was a text.
    raw: Option<String>,
    hidden: bool,
}

/// A parsed file with the position of each key and value.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    name: String,
    text: String,
    spans: BTreeMap<String, Spans>,
    /// Parts of the text that no message may show.
    masks: Vec<Range<usize>>,
}

#[derive(Clone, Debug)]
struct Spans {
    key: Range<usize>,
    value: Range<usize>,
}

impl Layer {
    /// Parses the file. What is not TOML is reported; the rest is kept, so that one slip does
    /// not hide what else is wrong.
    pub(crate) fn file(name: &str, text: &str, problems: &mut Vec<Problem>) -> Self {
        let mut document = Document {
            name: name.into(),
            text: text.into(),
            spans: BTreeMap::new(),
            masks: Vec::new(),
        };
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let at = error.span().unwrap_or(0..0);
            let place = document.syntax_place(at.start);
            // The parser reports what follows from a slip too: one problem a line is enough.
            if problems.iter().any(|known| known.place.line() == place.line()) {
                continue;
            }
            problems.push(Problem {
                place,
                field: String::new(),
                value: None,
                what: format!("not TOML: {}", error.message().replace('\n', ", ")),
                remedy: "write one `key = value` a line, text in double quotes, sections as \
                         [section] and list entries as [[section]]"
                    .into(),
            });
        }
        let data = document.table(root.get_ref(), "");
        Self { origin: Origin::File(document), data, index: 0 }
    }

    /// One environment variable, already split into the path that it names.
    pub(crate) fn environment(variable: &str, path: &[String], raw: &str) -> Self {
        let data = nest(path, parse_text(raw));
        let value = Written { path: joined(path), raw: Some(raw.into()), hidden: false };
        let origin = Origin::Environment { variable: variable.into(), value };
        Self { origin, data, index: 0 }
    }

    /// One flag.
    pub(crate) fn flag(flag: &str, path: &[String], value: Value, raw: Option<String>) -> Self {
        let written = Written { path: joined(path), raw, hidden: false };
        let origin = Origin::Flag { flag: flag.into(), value: written };
        Self { origin, data: nest(path, value), index: 0 }
    }

    /// Tells the layer its position among all layers.
    pub(crate) fn at(mut self, index: usize) -> Self {
        self.index = index;
        self
    }

    /// Where the value at `path` stands.
    pub(crate) fn place(&self, path: &str) -> Place {
        match &self.origin {
            Origin::File(document) => match document.spans.get(path) {
                Some(spans) => document.place(&spans.value),
                None => Place::Nowhere,
            },
            Origin::Environment { variable, .. } => {
                Place::Environment { variable: variable.clone() }
            }
            Origin::Flag { flag, .. } => Place::Flag { flag: flag.clone() },
        }
    }

    /// Where the key at `path` stands.
    pub(crate) fn key_place(&self, path: &str) -> Place {
        match &self.origin {
            Origin::File(document) => match document.spans.get(path) {
                Some(spans) => document.place(&spans.key),
                None => Place::Nowhere,
            },
            _ => self.place(path),
        }
    }

    /// The value at `path` as it was written, cut to a readable length.
    pub(crate) fn written(&self, path: &str) -> Option<String> {
        let text = match &self.origin {
            Origin::File(document) => {
                let range = document.spans.get(path)?.value.clone();
                // Even inside a larger value a secret stays hidden.
                if document.masks.iter().any(|mask| overlap(mask, &range)) {
                    return None;
                }
                document.text.get(range)?
            }
            Origin::Environment { value, .. } | Origin::Flag { value, .. } => {
                value.raw.as_ref().filter(|_| value.path == path && !value.hidden)?
            }
        };
        let line = text.lines().next().unwrap_or_default();
        let cut: String = line.chars().take(VALUE_CHARS_MAX).collect();
        Some(if cut.len() < text.len() { format!("{cut}…") } else { cut })
    }

    /// The unparsed text, when this layer is one variable or flag for exactly `path`.
    pub(crate) fn raw(&self, path: &str) -> Option<&str> {
        match &self.origin {
            Origin::Environment { value, .. } | Origin::Flag { value, .. } => {
                value.raw.as_deref().filter(|_| value.path == path)
            }
            Origin::File(_) => None,
        }
    }

    /// Hides from every message what stands under the name of a secret.
    pub(crate) fn mask(&mut self, secrets: &SecretKeys) {
        match &mut self.origin {
            Origin::File(document) => {
                for (path, spans) in &document.spans {
                    if secrets.contains(last_name(path)) {
                        document.masks.push(spans.value.clone());
                    }
                }
            }
            Origin::Environment { value, .. } | Origin::Flag { value, .. } => {
                let raw = value.raw.as_deref().unwrap_or_default();
                value.hidden = secrets.contains(last_name(&value.path)) || secrets.may_be_in(raw);
            }
        }
    }

    /// Whether this is the file and it has something at `path`.
    pub(crate) fn is_file_with(&self, path: &str) -> bool {
        matches!(&self.origin, Origin::File(document) if document.spans.contains_key(path))
    }

    /// Whether this is the file.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.origin, Origin::File(_))
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::from("configuration layer", Source::Custom(self.index.to_string()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.data.clone()))
    }
}

impl Document {
    fn table(&mut self, table: &DeTable<'_>, path: &str) -> Dict {
        let mut dict = Dict::new();
        for (key, value) in table.iter() {
            let name: &str = key.get_ref();
            let at = child(path, name);
            self.spans.insert(at.clone(), Spans { key: key.span(), value: value.span() });
            dict.insert(name.to_owned(), self.value(value, &at));
        }
        dict
    }

    fn array(&mut self, array: &DeArray<'_>, path: &str) -> Value {
        let values = array.iter().enumerate().map(|(index, value)| {
            let at = item(path, index);
            self.spans.insert(at.clone(), Spans { key: value.span(), value: value.span() });
            self.value(value, &at)
        });
        Value::from(values.collect::<Vec<Value>>())
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, path: &str) -> Value {
        match value.get_ref() {
            DeValue::String(text) => Value::from(text.as_ref()),
            DeValue::Integer(number) => {
                // What no integer type holds is beyond every bound, and is refused there.
                let number =
                    i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX);
                match i64::try_from(number) {
                    Ok(small) => Value::from(small),
                    Err(_) => Value::from(Num::I128(number)),
                }
            }
            DeValue::Float(number) => Value::from(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(boolean) => Value::from(*boolean),
            // No key takes a date: an empty value is refused as the wrong type.
            DeValue::Datetime(_) => Value::from(figment::value::Empty::Unit),
            DeValue::Array(array) => self.array(array, path),
            DeValue::Table(table) => Value::from(self.table(table, path)),
        }
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let (line, start, end) = self.line_at(span.start);
        let width = self.text.get(span.start..span.end.min(end).max(span.start));
        Place::File {
            name: self.name.clone(),
            line,
            column: self.text.get(start..span.start).map_or(1, |text| text.chars().count() + 1),
            text: Some(self.shown(start, end)),
            width: width.map_or(1, |text| text.chars().count()),
        }
    }

    /// The place of a slip of syntax. Nothing is known about such a line, so one that may hold a
    /// secret is not shown.
    fn syntax_place(&self, offset: usize) -> Place {
        let offset = self.floor(offset);
        let mut place = self.place(&(offset..offset));
        if let Place::File { text: shown, .. } = &mut place
            && shown.as_ref().is_some_and(|text| text.contains("password") || text.contains("key"))
        {
            *shown = None;
        }
        place
    }

    /// Number, start and end of the line around `offset`.
    fn line_at(&self, offset: usize) -> (usize, usize, usize) {
        let offset = self.floor(offset);
        let before = &self.text[..offset];
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let end = self.text[offset..].find('\n').map_or(self.text.len(), |at| offset + at);
        (before.matches('\n').count() + 1, start, end)
    }

    fn floor(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }

    fn shown(&self, start: usize, end: usize) -> String {
        let line = self.text[start..end].trim_end();
        line.char_indices()
            .map(|(at, letter)| {
                let hidden = self.masks.iter().any(|mask| mask.contains(&(start + at)));
                match letter {
                    _ if hidden => '*',
                    '\t' => ' ',
                    letter if letter.is_control() => '?',
                    letter => letter,
                }
            })
            .collect()
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// `path.name`, quoted where a bare name would be misread.
pub(crate) fn child(path: &str, name: &str) -> String {
    let bare = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    let name = if bare { name.to_owned() } else { format!("{name:?}") };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

/// The key's own name, without the index of a list.
fn last_name(path: &str) -> &str {
    let name = path.rsplit('.').next().unwrap_or(path);
    name.split('[').next().unwrap_or(name)
}

/// `path[index]`.
pub(crate) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

fn joined(path: &[String]) -> String {
    path.iter().fold(String::new(), |at, name| child(&at, name))
}

fn nest(path: &[String], value: Value) -> Dict {
    let (last, parents) = path.split_last().expect("a path has at least one key");
    let mut dict = Dict::from([(last.clone(), value)]);
    for parent in parents.iter().rev() {
        dict = Dict::from([(parent.clone(), Value::from(dict))]);
    }
    dict
}

/// figment's reading of text: booleans, numbers, `[lists]`, `{key=value}`, else the text.
pub(crate) fn parse_text(raw: &str) -> Value {
    raw.parse().unwrap_or_else(|never: std::convert::Infallible| match never {})
}

/// Whether the text nests so deep, or is so long, that it must not be parsed.
pub(crate) fn is_unreasonable(raw: &str) -> bool {
    let mut depth = 0_usize;
    let mut deepest = 0_usize;
    let mut brackets = 0_usize;
    for byte in raw.bytes() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                brackets += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    raw.len() > TEXT_BYTES_MAX || deepest > NESTING_MAX || brackets > BRACKETS_MAX
}
