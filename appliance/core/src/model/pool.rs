//! Pools of virtual addresses, and who is served from which.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Family;

/// A pool from which VIPs are assigned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Inclusive ranges, disjoint within and between pools, first and last of one family.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// Whether objects that ask for nothing in particular are served from it.
    pub auto_assign: bool,
    /// IPv4 addresses that end in .0 or .255 are not given to anybody: some old routers and
    /// firewalls take them for network and broadcast addresses wherever they see them.
    pub skip_0_and_255: bool,
    /// Of several pools the one with the lowest number is tried first, then one that selects,
    /// then the one that stands first.
    pub priority: u32,
    /// Who may be served from it.
    pub selects: PoolSelector,
}

impl Pool {
    /// An automatic pool for everybody, of the usual priority.
    pub fn new(name: &str, ranges: Vec<(IpAddr, IpAddr)>) -> Self {
        Self {
            name: name.into(),
            ranges,
            auto_assign: true,
            skip_0_and_255: false,
            priority: Self::PRIORITY_DEFAULT,
            selects: PoolSelector::default(),
        }
    }

    /// The priority of a pool of which nothing is said.
    pub const PRIORITY_DEFAULT: u32 = 100;

    /// Whether the pool's ranges hold the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|(first, last)| {
            first.is_ipv4() == address.is_ipv4() && *first <= address && address <= *last
        })
    }

    /// Whether the address is one that the pool leaves out.
    pub fn skips(&self, address: IpAddr) -> bool {
        self.skip_0_and_255
            && matches!(address, IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255))
    }

    /// Whether it has ranges in a family.
    pub fn has(&self, family: Family) -> bool {
        self.ranges.iter().any(|(first, _)| Family::of(*first) == family)
    }
}

/// Whom a pool serves: objects of any namespace in `namespaces` or with labels as in
/// `namespace_labels` (everywhere, where both are empty), as far as their own labels fit one of
/// `service_labels` (all of them, where that is empty).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSelector {
    /// Names of namespaces.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Labels of namespaces: one selector has to fit.
    pub namespace_labels: Vec<LabelSelector>,
    /// Labels of Services and Ingresses: one selector has to fit.
    pub service_labels: Vec<LabelSelector>,
}

impl PoolSelector {
    /// Whether it lets everybody in.
    pub fn is_open(&self) -> bool {
        self.namespaces.is_empty()
            && self.namespace_labels.is_empty()
            && self.service_labels.is_empty()
    }

    /// Whether an object of `namespace` is served; `None` as long as labels that decide about it
    /// are not known.
    pub fn admits(
        &self,
        namespace: &str,
        namespace_labels: Option<&Labels>,
        labels: &Labels,
    ) -> Option<bool> {
        let unknown = Labels::default();
        let anywhere = self.namespaces.is_empty() && self.namespace_labels.is_empty();
        let place = match anywhere || self.namespaces.contains(namespace) {
            true => Some(true),
            false => any_fits(&self.namespace_labels, namespace_labels.unwrap_or(&unknown)),
        };
        let object = match self.service_labels.is_empty() {
            true => Some(true),
            false => any_fits(&self.service_labels, labels),
        };
        all_of(place, object)
    }
}

/// One part of [`LabelSelector`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LabelRequirement {
    /// The label.
    pub key: Arc<str>,
    /// What is asked of it.
    pub test: LabelTest,
}

/// What is asked of a label (LabelSelector API, `matchExpressions[].operator`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LabelTest {
    /// It is there.
    Exists,
    /// It is not there.
    Absent,
    /// It has one of these values.
    In(BTreeSet<Arc<str>>),
    /// It has none of these values, or is not there.
    NotIn(BTreeSet<Arc<str>>),
}

/// Labels that have to fit in every requirement.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LabelSelector {
    /// As it is written in the configuration.
    pub text: Arc<str>,
    /// All of them have to hold.
    pub requirements: Vec<LabelRequirement>,
}

impl LabelSelector {
    /// Whether labels fit; `None` where a label decides of which nothing is known.
    pub fn fits(&self, labels: &Labels) -> Option<bool> {
        let tests = self.requirements.iter().map(|requirement| {
            let value = labels.0.get(&requirement.key)?.as_ref();
            Some(match &requirement.test {
                LabelTest::Exists => value.is_some(),
                LabelTest::Absent => value.is_none(),
                LabelTest::In(values) => value.is_some_and(|value| values.contains(value)),
                LabelTest::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            })
        });
        tests.fold(Some(true), all_of)
    }
}

/// Labels of an object or of its namespace, as far as a pool's selector names them. `None` as a
/// value: the object does not have the label. A key that is not in the map was not looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(pub BTreeMap<Arc<str>, Option<Arc<str>>>);

/// Both hold; unknown only where the other one does not decide already.
fn all_of(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

fn any_fits(selectors: &[LabelSelector], labels: &Labels) -> Option<bool> {
    let mut result = Some(false);
    for selector in selectors {
        match selector.fits(labels) {
            Some(true) => return Some(true),
            None => result = None,
            Some(false) => {}
        }
    }
    result
}

/// What an object asks about its addresses, beside addresses and pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddressWish {
    /// With whom it shares addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Arc<Sharing>>,
    /// Its labels.
    #[serde(skip_serializing_if = "is_unlabelled")]
    pub labels: Labels,
    /// Annotations and fields of other products that were followed, in the order of the docs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub followed: Vec<Arc<str>>,
}

fn is_unlabelled(labels: &Labels) -> bool {
    labels.0.is_empty()
}

/// An object that may share its addresses. Two of one cluster do if their keys are the same,
/// either lets the other's namespace in, and `backends` are the same; each port of an address
/// belongs to one of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sharing {
    /// The sharing key.
    pub key: Arc<str>,
    /// Namespaces beside its own whose objects it shares with.
    pub namespaces: SharingNamespaces,
    /// The pods' selector, where `externalTrafficPolicy: Local` makes it count.
    pub backends: Option<Arc<str>>,
}

/// Namespaces with whose objects one shares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SharingNamespaces {
    /// All of them.
    Any,
    /// These, and its own.
    Listed(BTreeSet<Arc<str>>),
}

impl SharingNamespaces {
    /// Whether `namespace`, which is not its own, is among them.
    pub fn include(&self, namespace: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(names) => names.contains(namespace),
        }
    }
}

/// A namespace of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceSpec {
    /// Its labels, as far as a pool's selector names them.
    pub labels: Labels,
    /// All of its labels, where the cluster has Gateways, whose listeners choose by them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub all_labels: BTreeMap<Arc<str>, Arc<str>>,
}

/// How far one pool is used in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// The pool.
    pub pool: Arc<Pool>,
    /// The family.
    pub family: Family,
    /// Addresses that can be given away. A pool may hold nearly all of IPv6.
    pub size: u128,
    /// Addresses held by objects, and those kept for Ingresses.
    pub used: u128,
    /// Objects that would have an address of it, and wait or make do with a later pool.
    pub waiting: usize,
}

impl PoolUse {
    /// Addresses that nobody has.
    pub fn free(&self) -> u128 {
        self.size.saturating_sub(self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(entries: &[(&str, Option<&str>)]) -> Labels {
        let entries = entries.iter().map(|(key, value)| ((*key).into(), value.map(Into::into)));
        Labels(entries.collect())
    }

    fn selector(key: &str, test: LabelTest) -> LabelSelector {
        let requirements = vec![LabelRequirement { key: key.into(), test }];
        LabelSelector { text: key.into(), requirements }
    }

    fn is(key: &str, value: &str) -> LabelSelector {
        selector(key, LabelTest::In(BTreeSet::from([value.into()])))
    }

    #[test]
    fn each_test_says_what_the_api_says() {
        let known = labels(&[("a", Some("1")), ("b", None)]);
        let not_in = |value: &str| LabelTest::NotIn(BTreeSet::from([value.into()]));
        for (selector, expected) in [
            (is("a", "1"), true),
            (is("a", "2"), false),
            (is("b", "1"), false),
            (selector("a", LabelTest::Exists), true),
            (selector("b", LabelTest::Exists), false),
            (selector("a", LabelTest::Absent), false),
            (selector("b", LabelTest::Absent), true),
            (selector("a", not_in("1")), false),
            (selector("a", not_in("2")), true),
            (selector("b", not_in("1")), true),
        ] {
            assert_eq!(selector.fits(&known), Some(expected), "{selector:?}");
        }
        assert_eq!(is("unknown", "1").fits(&known), None);
    }

    #[test]
    fn what_is_not_known_decides_nothing_that_something_else_decides() {
        let known = labels(&[("a", Some("1"))]);
        let both = |first: LabelSelector, second: LabelSelector| LabelSelector {
            text: "both".into(),
            requirements: [first.requirements, second.requirements].concat(),
        };
        assert_eq!(both(is("a", "2"), is("unknown", "1")).fits(&known), Some(false));
        assert_eq!(both(is("unknown", "1"), is("a", "1")).fits(&known), None);
        assert_eq!(any_fits(&[is("unknown", "1"), is("a", "1")], &known), Some(true));
        assert_eq!(any_fits(&[is("unknown", "1"), is("a", "2")], &known), None);
    }

    #[test]
    fn a_namespace_fits_by_name_or_labels_and_the_object_has_to_fit_too() {
        let selects = PoolSelector {
            namespaces: BTreeSet::from(["shop".into()]),
            namespace_labels: vec![is("team", "web")],
            service_labels: vec![is("tier", "edge")],
        };
        let edge = labels(&[("tier", Some("edge"))]);
        let inner = labels(&[("tier", None)]);
        let web = labels(&[("team", Some("web"))]);
        let other = labels(&[("team", None)]);
        assert_eq!(selects.admits("shop", None, &edge), Some(true));
        assert_eq!(selects.admits("shop", None, &inner), Some(false));
        assert_eq!(selects.admits("blog", Some(&web), &edge), Some(true));
        assert_eq!(selects.admits("blog", Some(&other), &edge), Some(false));
        assert_eq!(selects.admits("blog", None, &edge), None);
        assert_eq!(selects.admits("blog", None, &inner), Some(false));
        assert!(PoolSelector::default().admits("blog", None, &Labels::default()).unwrap());
    }
}
