//! Annotations that make services of several clusters one (docs/clusters.md).

use haflinger_core::{CLUSTER_WEIGHT_MAX, ClusterShare};

use super::annotations::Annotations;
use crate::objects::Name;

impl<B> Annotations<'_, B> {
    /// `shared`, and the two beside it. Fails towards not sharing: what others open to the same
    /// namespace and name is not theirs to open here.
    pub(super) fn share(&mut self) -> Option<ClusterShare> {
        let shared = match self.value(Name::SHARED).as_deref() {
            Some("true") => true,
            None | Some("false") => false,
            Some(other) => {
                self.refuse(Name::SHARED, other, "write \"true\" or \"false\"");
                false
            }
        };
        let default = ClusterShare::default();
        let weight = self.cluster_number(Name::CLUSTER_WEIGHT, CLUSTER_WEIGHT_MAX);
        let priority = self.cluster_number(Name::CLUSTER_PRIORITY, u16::MAX);
        if !shared {
            for name in [Name::CLUSTER_WEIGHT, Name::CLUSTER_PRIORITY] {
                if let Some(text) = self.value(name) {
                    self.refuse(name, &text, "write haflinger.dev/shared: \"true\" beside it");
                }
            }
            return None;
        }
        Some(ClusterShare {
            weight: weight.unwrap_or(default.weight),
            priority: priority.unwrap_or(default.priority),
        })
    }

    fn cluster_number(&mut self, name: Name, largest: u16) -> Option<u16> {
        let text = self.value(name)?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number: &u16| digits && *number <= largest);
        if number.is_none() {
            self.refuse(name, &text, &format!("write a number from 0 to {largest}"));
        }
        number
    }
}
