//! `[[cluster]]` and `[inventory]`.

use std::path::PathBuf;

use super::text::{self, Distinct, path};
use crate::checked::Cluster;
use crate::context::Context;
use crate::file;
use crate::layer::item;

pub(crate) fn clusters(context: &mut Context, file: &[file::Cluster]) -> Vec<Cluster> {
    let mut names = Distinct::new("the cluster name");
    let mut homes = Distinct::new("the kubeconfig and context");
    let mut clusters = Vec::with_capacity(file.len());
    for (index, written) in file.iter().enumerate() {
        let at = item("cluster", index);
        let Some(cluster) = cluster(context, &at, written) else { continue };
        let home = format!(
            "{} ({})",
            cluster.kubeconfig.display(),
            cluster.context.as_deref().unwrap_or("current context")
        );
        // Twice the same cluster would be two sources that claim the same addresses.
        let fresh = homes.add(context, &format!("{at}.kubeconfig"), &home);
        if names.add(context, &format!("{at}.name"), &cluster.name) && fresh {
            clusters.push(cluster);
        }
    }
    clusters
}

fn cluster(context: &mut Context, at: &str, file: &file::Cluster) -> Option<Cluster> {
    let key = |name: &str| format!("{at}.{name}");
    let name = text::required(
        context,
        &key("name"),
        file.name.as_ref(),
        "give the cluster a name, such as name = \"prod\"",
    )
    .and_then(|name| text::label(context, &key("name"), name));
    let kubeconfig = text::required(
        context,
        &key("kubeconfig"),
        file.kubeconfig.as_ref(),
        "name a kubeconfig file, such as kubeconfig = \"/etc/haflinger/prod.kubeconfig\"",
    )
    .and_then(|kubeconfig| path(context, &key("kubeconfig"), kubeconfig));
    if let Some(kubeconfig) = &kubeconfig
        && !kubeconfig.exists()
    {
        let remedy = "put the file there; until then this cluster is served from its last state";
        context.warn(&key("kubeconfig"), "the file does not exist", remedy);
    }
    let ingress_class = text::domain(context, &key("ingress_class"), &file.ingress_class);
    let mut pod_routes = Vec::with_capacity(file.pod_routes.len());
    for origin in &file.pod_routes {
        if pod_routes.contains(origin) {
            let remedy = "name each once, in the order in which they are believed";
            context.refuse(&key("pod_routes"), "it names one of them twice", remedy);
        } else {
            pod_routes.push(*origin);
        }
    }
    let lease_namespace = text::label(context, &key("lease_namespace"), &file.lease_namespace);
    let lease_name = text::domain(context, &key("lease_name"), &file.lease_name);
    if file.lease_duration_secs < 2 * file.lease_renew_secs {
        let (at, what) = (
            key("lease_renew_secs"),
            format!("the lease of {} s must allow one lost renewal", file.lease_duration_secs),
        );
        let remedy = format!("write at most {}, or a longer lease", file.lease_duration_secs / 2);
        context.refuse(&at, &what, &remedy);
    }
    Some(Cluster {
        name: name?,
        kubeconfig: kubeconfig?,
        context: file.context.clone().filter(|context| !context.is_empty()),
        claim_unclassed: file.claim_unclassed,
        ingress_class: ingress_class?,
        pod_routes,
        readiness_gate: file.readiness_gate,
        lease_namespace: lease_namespace?,
        lease_name: lease_name?,
        lease_duration: text::secs(file.lease_duration_secs),
        lease_renew: text::secs(file.lease_renew_secs),
        deletes_max: file.deletes_max,
        deletes_percent_max: file.deletes_percent_max,
        deletes_confirm: text::secs(file.deletes_confirm_secs),
    })
}

pub(crate) fn inventory(context: &mut Context, file: &file::Inventory) -> Option<PathBuf> {
    let written = file.path.as_ref()?;
    let path = path(context, "inventory.path", written)?;
    if !path.exists() {
        let remedy = "put the file there; it is read as soon as it appears";
        context.warn("inventory.path", "the file does not exist", remedy);
    }
    Some(path)
}
