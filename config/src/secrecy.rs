//! Which values no message may show, judged by the names of their keys alone: what a misplaced
//! or misspelt password stands under is as secret as the right key.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::suggest::nearest;

/// Parts of a key's name that make an unknown one suspicious.
const SUSPICIOUS: &[&str] = &["pas", "pw", "key", "secret", "token", "auth"];

/// The keys that hold secrets, from the schema.
pub(crate) struct SecretKeys {
    secret: BTreeSet<String>,
    known: BTreeSet<String>,
}

impl SecretKeys {
    /// Reads the schema's `writeOnly` marks.
    pub(crate) fn of(schema: &Json) -> Self {
        let mut keys = Self { secret: BTreeSet::new(), known: BTreeSet::new() };
        let tables = schema["$defs"].as_object().into_iter().flat_map(|tables| tables.values());
        for table in tables.chain([schema]) {
            for (name, key) in table["properties"].as_object().into_iter().flatten() {
                keys.known.insert(name.clone());
                if key["writeOnly"] == true {
                    keys.secret.insert(name.clone());
                }
            }
        }
        keys
    }

    /// Whether the value of a key with this name must be hidden.
    pub(crate) fn contains(&self, name: &str) -> bool {
        if self.known.contains(name) {
            return self.secret.contains(name);
        }
        let lower = name.to_lowercase();
        let secret: Vec<&str> = self.secret.iter().map(String::as_str).collect();
        SUSPICIOUS.iter().any(|part| lower.contains(part)) || nearest(&lower, &secret).is_some()
    }

    /// Whether a text that was not (or could not be) taken apart may hold a secret.
    pub(crate) fn may_be_in(&self, text: &str) -> bool {
        let lower = text.to_lowercase();
        text.contains('=') && SUSPICIOUS.iter().any(|part| lower.contains(part))
    }
}
