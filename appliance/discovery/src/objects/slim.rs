//! How the fields that are read of a kind are declared.

use super::lax::Lax;

pub(crate) type List<T> = Vec<Lax<T>>;

/// Structs of lax fields, named as in the API.
macro_rules! slim {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, serde::Deserialize)]
            #[serde(rename_all = "camelCase", default)]
            pub(crate) struct $name { $($(#[$attribute])* pub(crate) $field: $crate::objects::lax::Lax<$type>,)* }

            impl $crate::objects::Fields for $name {
                fn fields(at: &str, found: &mut std::collections::BTreeSet<String>) {
                    // Named as they are read, in the order in which they are declared.
                    let mut names = $crate::objects::fields::names_of::<Self>().iter();
                    $(<$type as $crate::objects::Fields>::fields(
                        &$crate::objects::fields::below(at, names.next()),
                        found,
                    );)*
                }
            }
        )*
        $crate::objects::lax::shape_from_object!($($name),*);
    };
}
pub(crate) use slim;

/// Kinds by group, version, name and plural.
macro_rules! kinds {
    ($($body:ident: $group:literal, $version:literal, $kind:literal, $plural:literal;)*) => {
        /// These kinds, with the fields that are read of it.
        #[cfg(test)]
        pub(crate) fn fields_by_kind() -> Vec<(&'static str, std::collections::BTreeSet<String>)> {
            vec![$(($kind, $crate::objects::honours::fields_of::<$body>())),*]
        }

        $(impl $crate::objects::Kind for $body {
            const GROUP: &'static str = $group;
            const VERSION: &'static str = $version;
            const KIND: &'static str = $kind;
            const PLURAL: &'static str = $plural;

            fn metadata(&mut self) -> &mut $crate::objects::lax::Lax<$crate::objects::Meta> {
                &mut self.metadata
            }
        })*
    };
}
pub(crate) use kinds;
