//! Namespace → [`NamespaceSpec`].

use haflinger_core::{Labels, NamespaceSpec};

use crate::objects::{NamespaceBody, Object};
use crate::settings::LabelKeys;

/// A Namespace's labels by which pools choose, those that it does not have included.
pub(crate) fn namespace(object: &Object<NamespaceBody>, keys: &LabelKeys) -> NamespaceSpec {
    let labels = keys.namespaces.iter().map(|key| (key.clone(), object.label(key)));
    let labels = labels.map(|(key, value)| (key, value.map(Into::into)));
    NamespaceSpec { labels: Labels(labels.collect()), ..NamespaceSpec::default() }
}
