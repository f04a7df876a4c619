//! Deserialisation that never fails.
//!
//! A list arrives as one document: if one value of an unexpected type made it fail, one odd
//! object would stop the watch of its whole kind. So every field is read as [`Lax`]: it is
//! absent, it is what it should be, or it is wrong, and the translation names the wrong ones.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A field as it was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Lax<T> {
    /// Missing or null.
    #[default]
    Absent,
    /// Of the expected type.
    Is(T),
    /// Of another type.
    Wrong,
}

impl<T> Lax<T> {
    pub(crate) fn get(&self) -> Option<&T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(crate) fn into_option(self) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(crate) fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong)
    }
}

impl<T> Lax<Vec<T>> {
    /// The elements; none when absent or wrong.
    pub(crate) fn elements(&self) -> &[T] {
        self.get().map_or(&[], Vec::as_slice)
    }
}

impl Lax<String> {
    /// The text, unless it is empty.
    pub(crate) fn text(&self) -> Option<&str> {
        self.get().map(String::as_str).filter(|text| !text.is_empty())
    }
}

/// What JSON value a type is read from. Each answer defaults to "not from this".
pub(crate) trait Shape: Sized {
    fn from_text(_: &str) -> Option<Self> {
        None
    }

    fn from_integer(_: i64) -> Option<Self> {
        None
    }

    fn from_bool(_: bool) -> Option<Self> {
        None
    }

    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn from_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl Shape for String {
    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Shape for i64 {
    fn from_integer(value: i64) -> Option<Self> {
        Some(value)
    }
}

impl Shape for bool {
    fn from_bool(value: bool) -> Option<Self> {
        Some(value)
    }
}

impl<T: Shape> Shape for Vec<Lax<T>> {
    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut elements = Self::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(Some(elements))
    }
}

impl<T: Shape> Shape for BTreeMap<String, Lax<T>> {
    fn from_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        let mut entries = Self::new();
        while let Some((key, value)) = object.next_entry()? {
            entries.insert(key, value);
        }
        Ok(Some(entries))
    }
}

/// Reads structs whose fields are all lax, and so cannot fail, from JSON objects.
macro_rules! shape_from_object {
    ($($name:ty),* $(,)?) => {$(
        impl $crate::objects::lax::Shape for $name {
            fn from_object<'de, A: serde::de::MapAccess<'de>>(
                object: A,
            ) -> Result<Option<Self>, A::Error> {
                let object = serde::de::value::MapAccessDeserializer::new(object);
                <Self as serde::Deserialize>::deserialize(object).map(Some)
            }
        }
    )*};
}
pub(crate) use shape_from_object;

impl<'de, T: Shape> Deserialize<'de> for Lax<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LaxVisitor(PhantomData))
    }
}

struct LaxVisitor<T>(PhantomData<T>);

fn lax<T>(value: Option<T>) -> Lax<T> {
    value.map_or(Lax::Wrong, Lax::Is)
}

impl<'de, T: Shape> Visitor<'de> for LaxVisitor<T> {
    type Value = Lax<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Lax::Absent)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Lax::Absent)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Self::Value, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(lax(T::from_bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(lax(T::from_integer(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(lax(i64::try_from(value).ok().and_then(T::from_integer)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Lax::Wrong)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(lax(T::from_text(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        T::from_list(list).map(lax)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        T::from_object(object).map(lax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Shape>(json: &str) -> Lax<T> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_value_of_another_type_is_wrong_and_not_an_error() {
        assert_eq!(read::<String>("\"a\""), Lax::Is("a".to_owned()));
        assert_eq!(read::<String>("null"), Lax::Absent);
        for odd in ["1", "1.5", "true", "[1,[2]]", "{\"a\":{\"b\":[]}}"] {
            assert_eq!(read::<String>(odd), Lax::Wrong, "{odd}");
        }
        assert_eq!(read::<i64>("18446744073709551615"), Lax::Wrong);
        assert_eq!(read::<bool>("\"true\""), Lax::Wrong);
    }

    #[test]
    fn one_wrong_element_leaves_the_others() {
        let list = read::<Vec<Lax<i64>>>("[1, \"two\", 3]");
        assert_eq!(list, Lax::Is(vec![Lax::Is(1), Lax::Wrong, Lax::Is(3)]));
    }
}
