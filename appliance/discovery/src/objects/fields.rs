//! Which fields are read of a type, as it tells itself: for those that must not be ignored in silence
//! (the inventory), and for what the documentation has to list.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::lax::Lax;
use super::{Flag, Meta, SameFilters, Size, Withheld};

/// What tells the fields that are read of it.
pub(crate) trait Fields {
    /// Adds the fields of a value that stands at `at`.
    fn fields(at: &str, found: &mut BTreeSet<String>);
}

macro_rules! leaves {
    ($($leaf:ty),*) => {$(
        impl Fields for $leaf {
            fn fields(at: &str, found: &mut BTreeSet<String>) {
                found.insert(at.to_owned());
            }
        }
    )*};
}

leaves!(String, i64, bool, Withheld, Flag, SameFilters, Size);

impl<T> Fields for BTreeMap<String, Lax<T>> {
    fn fields(at: &str, found: &mut BTreeSet<String>) {
        found.insert(at.to_owned());
    }
}

impl<T: Fields> Fields for Vec<Lax<T>> {
    fn fields(at: &str, found: &mut BTreeSet<String>) {
        T::fields(&format!("{at}[]"), found);
    }
}

impl Fields for Meta {
    fn fields(at: &str, found: &mut BTreeSet<String>) {
        found.extend(names_of::<Self>().iter().map(|name| below(at, Some(name))));
    }
}

/// The path of a field of what stands at `at`.
pub(crate) fn below(at: &str, name: Option<&&str>) -> String {
    // There are as many names as fields.
    let name = name.copied().unwrap_or_default();
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

/// The names by which a struct is read, as it tells whoever deserialises it; of anything else none.
pub(crate) fn names_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    T::deserialize(Asked).err().and_then(|told| told.0).unwrap_or_default()
}

/// Reads nothing, and answers with the names that it is asked for.
struct Asked;

#[derive(Debug)]
struct Told(Option<&'static [&'static str]>);

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Told {}

impl Error for Told {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self(None)
    }
}

impl<'de> Deserializer<'de> for Asked {
    type Error = Told;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Told> {
        Err(Told(None))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Told> {
        Err(Told(Some(fields)))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
