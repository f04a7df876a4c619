//! What an object asks about its addresses: our annotations, and those of MetalLB, Cilium and
//! kube-vip, so that manifests written for them go on working (docs/annotations.md). Ours win.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use haflinger_core::{AddressWish, FaultReason, Labels, Sharing, SharingNamespaces};

use super::annotations::{Annotations, is_usable_vip};
use super::quoted;
use crate::objects::Name;
use crate::settings::LabelKeys;

/// Addresses that one object may ask for: one a family and some room for renumbering.
const REQUESTED_MAX: usize = 8;

/// Characters of a sharing key: as many as of any name in Kubernetes.
const SHARING_KEY_MAX: usize = 253;

/// Namespaces that one object may name to share with. More want `*`.
const SHARING_NAMESPACES_MAX: usize = 64;

/// Where each is looked for. The first that says anything counts, ours even when it is empty.
const ADDRESSES: &[Name] = &[
    Name::ADDRESS,
    Name::METALLB_ADDRESSES,
    Name::METALLB_OLD_ADDRESSES,
    Name::CILIUM_ADDRESSES,
    Name::CILIUM_OLD_ADDRESSES,
    Name::KUBE_VIP_ADDRESSES,
];
const POOLS: &[Name] = &[Name::POOL, Name::METALLB_POOL, Name::METALLB_OLD_POOL];
const SHARING_KEYS: &[Name] = &[
    Name::SHARING_KEY,
    Name::METALLB_SHARING,
    Name::METALLB_OLD_SHARING,
    Name::CILIUM_SHARING,
    Name::CILIUM_OLD_SHARING,
];
const SHARING_NAMESPACES: &[Name] =
    &[Name::SHARING_NAMESPACES, Name::CILIUM_NAMESPACES, Name::CILIUM_OLD_NAMESPACES];

/// MetalLB's keys hold throughout the cluster.
const CLUSTER_WIDE: [Name; 2] = [Name::METALLB_SHARING, Name::METALLB_OLD_SHARING];

/// Annotations that ask for what there is not, and what to do instead. Those that are switches
/// count only when they are on.
const REFUSED: &[(Name, bool, &str)] = &[
    (
        Name::KUBE_VIP_HOSTNAME,
        false,
        "there is no DHCP here: write haflinger.dev/hostname for a DNS name, or leave it out",
    ),
    (Name::KUBE_VIP_INTERFACE, false, "addresses are bound as the hosts' [vips] say: leave it out"),
    (Name::KUBE_VIP_EGRESS, true, "pods' own packets leave by their nodes: leave it out"),
    (Name::KUBE_VIP_UPNP, true, "no router is asked to forward: leave it out"),
];

/// What is asked.
pub(super) struct Asked {
    pub(super) requested: Vec<IpAddr>,
    pub(super) pool: Option<Arc<str>>,
    pub(super) wish: AddressWish,
}

impl<B> Annotations<'_, B> {
    /// Everything about addresses. `field` is `spec.loadBalancerIP`, the weakest; `backends` the
    /// pods' selector where it matters to those who share.
    pub(super) fn asked(
        &mut self,
        field: Option<&str>,
        backends: Option<Arc<str>>,
        keys: &LabelKeys,
    ) -> Asked {
        for (name, switch, remedy) in REFUSED {
            if let Some(text) = self.value(*name).filter(|text| !switch || text == "true") {
                let text = quoted(&text);
                let message = format!("annotation {name}: {text} is not honoured: {remedy}");
                self.faults.add(FaultReason::UnsupportedFeature, message);
            }
        }
        let mut followed = Vec::new();
        let mut requested = self.addresses(&mut followed);
        if requested.is_empty()
            && let Some(text) = field
        {
            requested.extend(self.load_balancer_ip(text));
        }
        let pool = self.pool(&mut followed);
        let sharing = self.sharing(backends, &mut followed);
        let labels = keys.services.iter().map(|key| (key.clone(), self.object.label(key)));
        let labels = Labels(labels.map(|(key, value)| (key, value.map(Into::into))).collect());
        Asked { requested, pool, wish: AddressWish { sharing, labels, followed } }
    }

    /// The first annotation of these that is there. Notes it if it is not ours.
    fn first(&mut self, names: &[Name], followed: &mut Vec<Arc<str>>) -> Option<(Name, String)> {
        for (at, name) in names.iter().enumerate() {
            match self.value(*name) {
                Some(text) if at == 0 => return Some((*name, text)),
                Some(text) if !text.is_empty() => {
                    followed.push(name.as_str().into());
                    return Some((*name, text));
                }
                _ => {}
            }
        }
        None
    }

    /// `address`: a comma list of IP addresses.
    fn addresses(&mut self, followed: &mut Vec<Arc<str>>) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        let Some((name, list)) = self.first(ADDRESSES, followed) else {
            return addresses;
        };
        for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match item.parse::<IpAddr>() {
                Ok(address) if is_usable_vip(address) && addresses.len() < REQUESTED_MAX => {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                // kube-vip's word for DHCP.
                Ok(address) if address.is_unspecified() => {
                    self.refuse(name, item, "write an address of a pool: there is no DHCP here");
                }
                _ => self.refuse(
                    name,
                    item,
                    "write at most 8 unicast IPv4 or IPv6 addresses of a pool, separated by commas",
                ),
            }
        }
        addresses
    }

    fn load_balancer_ip(&mut self, text: &str) -> Option<IpAddr> {
        let address = text.parse().ok().filter(|address| is_usable_vip(*address));
        if address.is_none() {
            self.faults.add(
                FaultReason::InvalidField,
                format!(
                    "spec.loadBalancerIP: {} cannot be used; write a unicast address of a pool",
                    quoted(text)
                ),
            );
        }
        address
    }

    /// `pool`: the name of a pool.
    fn pool(&mut self, followed: &mut Vec<Arc<str>>) -> Option<Arc<str>> {
        let (annotation, name) = self.first(POOLS, followed)?;
        if name.is_empty() {
            self.refuse(annotation, &name, "write the name of a configured pool");
            return None;
        }
        Some(name.into())
    }

    /// `sharing-key` and `sharing-namespaces`.
    fn sharing(
        &mut self,
        backends: Option<Arc<str>>,
        followed: &mut Vec<Arc<str>>,
    ) -> Option<Arc<Sharing>> {
        let (annotation, key) = self.first(SHARING_KEYS, followed)?;
        if key.is_empty() || key.chars().count() > SHARING_KEY_MAX {
            self.refuse(annotation, &key, "write a key of 1 to 253 characters");
            return None;
        }
        let listed = self.first(SHARING_NAMESPACES, followed);
        let namespaces = match listed {
            Some((annotation, list)) => self.sharing_namespaces(annotation, &list),
            None if CLUSTER_WIDE.contains(&annotation) => SharingNamespaces::Any,
            None => SharingNamespaces::Listed(BTreeSet::new()),
        };
        Some(Arc::new(Sharing { key: key.into(), namespaces, backends }))
    }

    fn sharing_namespaces(&mut self, annotation: Name, list: &str) -> SharingNamespaces {
        let names: BTreeSet<&str> =
            list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if names.contains("*") {
            return SharingNamespaces::Any;
        }
        if names.len() > SHARING_NAMESPACES_MAX {
            let remedy = "the first 64 namespaces in the alphabet are let in; write \"*\" for all";
            self.refuse(annotation, list, remedy);
        }
        let names = names.into_iter().take(SHARING_NAMESPACES_MAX).map(Into::into);
        SharingNamespaces::Listed(names.collect())
    }
}
