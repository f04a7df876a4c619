//! Node → [`NodeSpec`].

use haflinger_core::NodeSpec;

use crate::objects::lax::Lax;
use crate::objects::{NodeBody, Object};

/// A Node's pod networks and internal addresses. Entries that cannot be read are left out:
/// there is then no route, which the status of the routes shows.
pub(crate) fn node(object: &Object<NodeBody>) -> NodeSpec {
    let spec = object.body.spec.get();
    let mut networks: Vec<&str> = spec
        .map(|spec| spec.pod_cidrs.elements().iter().filter_map(Lax::text).collect())
        .unwrap_or_default();
    if networks.is_empty() {
        networks.extend(spec.and_then(|spec| spec.pod_cidr.text()));
    }
    let addresses = object.body.status.get().map(|status| status.addresses.elements());
    NodeSpec {
        pod_networks: networks.into_iter().filter_map(|text| text.parse().ok()).collect(),
        addresses: addresses
            .unwrap_or_default()
            .iter()
            .filter_map(Lax::get)
            .filter(|address| address.address_type.text() == Some("InternalIP"))
            .filter_map(|address| address.address.text()?.parse().ok())
            .collect(),
    }
}
