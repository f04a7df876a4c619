//! Namespace → [`NamespaceSpec`].

use haflinger_core::{Labels, NamespaceSpec};

use crate::objects::{NamespaceBody, Object};
use crate::settings::LabelKeys;

/// A Namespace's labels: those by which pools choose, with those of them that it does not have,
/// and all that it has.
pub(crate) fn namespace(object: &Object<NamespaceBody>, keys: &LabelKeys) -> NamespaceSpec {
    let labels = keys.namespaces.iter().map(|key| (key.clone(), object.label(key)));
    let labels = labels.map(|(key, value)| (key, value.map(Into::into)));
    let all_labels = object.labels().map(|(key, value)| (key.into(), value.into()));
    NamespaceSpec { labels: Labels(labels.collect()), all_labels: all_labels.collect() }
}
