//! Kubernetes objects as far as they are read: slim, and lax in every field.
//!
//! The official types cost 24 times the memory in bulk, and refuse a list for one odd object.

mod fields;
pub(crate) mod lax;

mod gateway;
#[cfg(test)]
mod honours;
mod kinds;
mod names;
mod policies;
mod routes;
mod slim;

use std::borrow::Cow;
use std::collections::BTreeMap;

use kube::api::ObjectMeta;
use kube::core::NamespaceResourceScope;
use serde::{Deserialize, Deserializer};

pub(crate) use fields::Fields;
pub(crate) use gateway::*;
pub(crate) use kinds::*;
use lax::{Lax, Shape, shape_from_object};
pub(crate) use names::Name;
pub(crate) use policies::*;
pub(crate) use routes::*;

/// A kind of object that discovery watches.
pub(crate) trait Kind:
    Shape + Clone + Default + Send + Sync + std::fmt::Debug + 'static
{
    /// API group; empty for the core group.
    const GROUP: &'static str;
    /// API version.
    const VERSION: &'static str;
    /// Kind, CamelCase.
    const KIND: &'static str;
    /// Resource name in URLs.
    const PLURAL: &'static str;

    /// `metadata`, which moves into [`Object`].
    fn metadata(&mut self) -> &mut Lax<Meta>;
}

/// One object: its metadata and what `B` reads of the rest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object<B> {
    meta: ObjectMeta,
    /// `metadata.creationTimestamp` in seconds since 1970; 0 when unreadable.
    pub(crate) created_secs: i64,
    /// `metadata.generation`; 0 where the kind has none.
    pub(crate) generation: i64,
    /// `metadata.deletionTimestamp` is set.
    pub(crate) deleting: bool,
    /// Everything but the metadata.
    pub(crate) body: B,
}

impl<B> Object<B> {
    pub(crate) fn namespace(&self) -> &str {
        self.meta.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.meta.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn resource_version(&self) -> &str {
        self.meta.resource_version.as_deref().unwrap_or_default()
    }

    pub(crate) fn uid(&self) -> Option<&str> {
        self.meta.uid.as_deref()
    }

    /// Names and values, sorted by name.
    pub(crate) fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let labels = self.meta.labels.iter().flatten();
        labels.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.meta.labels.as_ref()?.get(name).map(String::as_str)
    }

    pub(crate) fn annotation(&self, name: Name) -> Option<&str> {
        self.meta.annotations.as_ref()?.get(name.as_str()).map(String::as_str)
    }

    /// Annotations whose names begin with `prefix`, which is left out, and their values. For those
    /// that are answered one by one whether they are known or not ([`crate::translate`]).
    pub(crate) fn annotations_under<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.meta.annotations.iter().flatten();
        all.filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }
}

/// `metadata`, without the bulky and unread rest (managedFields, owners).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    name: Lax<String>,
    namespace: Lax<String>,
    uid: Lax<String>,
    resource_version: Lax<String>,
    creation_timestamp: Lax<String>,
    generation: Lax<i64>,
    deletion_timestamp: Lax<String>,
    labels: Lax<BTreeMap<String, Lax<String>>>,
    annotations: Lax<BTreeMap<String, Lax<String>>>,
}

shape_from_object!(Meta);

fn texts(entries: Lax<BTreeMap<String, Lax<String>>>) -> Option<BTreeMap<String, String>> {
    let entries = entries.into_option()?;
    Some(entries.into_iter().filter_map(|(key, text)| Some((key, text.into_option()?))).collect())
}

impl<'de, B: Kind> Deserialize<'de> for Object<B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut body = Lax::<B>::deserialize(deserializer)?.into_option().unwrap_or_default();
        let meta = std::mem::take(body.metadata()).into_option().unwrap_or_default();
        let created: Option<jiff::Timestamp> =
            meta.creation_timestamp.text().and_then(|text| text.parse().ok());
        Ok(Self {
            created_secs: created.map_or(0, jiff::Timestamp::as_second),
            generation: meta.generation.get().copied().unwrap_or_default(),
            deleting: meta.deletion_timestamp.text().is_some(),
            meta: ObjectMeta {
                name: meta.name.into_option(),
                namespace: meta.namespace.into_option(),
                uid: meta.uid.into_option(),
                resource_version: meta.resource_version.into_option(),
                labels: texts(meta.labels),
                annotations: texts(meta.annotations),
                ..ObjectMeta::default()
            },
            body,
        })
    }
}

impl<B: Kind> kube::Resource for Object<B> {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        B::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        B::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        B::VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        B::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
