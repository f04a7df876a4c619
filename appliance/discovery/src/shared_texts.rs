//! Short texts that thousands of objects repeat, kept once: namespaces, nodes, zones, port names;
//! and lists that keep no room for more than they have.
//!
//! Purely a saving: whether a text is shared changes nothing that anybody can see.

use std::collections::HashSet;
use std::sync::Arc;

use haflinger_core::SourceUpdate;

/// Texts that are kept: more than a cluster has nodes, namespaces and port names together. Beyond,
/// those that nobody else holds are forgotten; if none is, new ones are not shared.
const TEXTS_MAX: usize = 1 << 16;

/// The texts of one source.
#[derive(Debug, Default)]
pub(crate) struct SharedTexts(HashSet<Arc<str>>);

impl SharedTexts {
    fn share(&mut self, text: &mut Arc<str>) {
        if let Some(known) = self.0.get(text) {
            *text = known.clone();
            return;
        }
        if self.0.len() >= TEXTS_MAX {
            self.0.retain(|known| Arc::strong_count(known) > 1);
        }
        if self.0.len() < TEXTS_MAX {
            self.0.insert(text.clone());
        }
    }

    /// Has an update hold the texts that are kept, instead of its own.
    pub(crate) fn share_in(&mut self, update: &mut SourceUpdate) {
        match update {
            SourceUpdate::Service { object, spec } => {
                self.share(object.namespace_mut());
                let Some(spec) = spec else { return };
                for port in &mut spec.ports {
                    self.share(&mut port.name);
                }
                for (name, _) in &mut spec.selector {
                    self.share(name);
                }
                spec.ports.shrink_to_fit();
                spec.families.shrink_to_fit();
                if let Some(exposure) = &mut spec.exposure {
                    exposure.families.shrink_to_fit();
                    exposure.recorded.shrink_to_fit();
                }
            }
            SourceUpdate::Pod { pod, spec } => {
                self.share(&mut pod.namespace);
                for (name, _) in spec.iter_mut().flat_map(|spec| &mut spec.labels) {
                    self.share(name);
                }
            }
            SourceUpdate::Slice { service, content, .. } => {
                self.share(service.namespace_mut());
                let Some(content) = content else { return };
                for port in &mut content.ports {
                    self.share(&mut port.name);
                }
                for backend in &mut content.backends {
                    for text in backend.node.iter_mut().chain(&mut backend.zone) {
                        self.share(text);
                    }
                }
                content.ports.shrink_to_fit();
                content.backends.shrink_to_fit();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_become_one_and_the_number_is_bounded() {
        let mut texts = SharedTexts::default();
        let (mut one, mut other): (Arc<str>, Arc<str>) = ("zone-a".into(), "zone-a".into());
        texts.share(&mut one);
        texts.share(&mut other);
        assert!(Arc::ptr_eq(&one, &other));
        for number in 0..2 * TEXTS_MAX {
            texts.share(&mut number.to_string().into());
        }
        assert!(texts.0.len() <= TEXTS_MAX && texts.0.contains("zone-a"), "what is held stays");
    }
}
