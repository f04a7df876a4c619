//! Services of several clusters that are one: the same namespace and name, and the wish at each.
//!
//! ```text
//!  cluster/a n/web ─┐ oldest: leads (ports, addresses asked for, ranges …)
//!  cluster/b n/web ─┼─> shared n/web: one claim, one VIP, one table ──> data path
//!  cluster/c n/web ─┘     └── its outcome is what each of the three is told about itself
//! ```
//!
//! The one service is an object like any other, of a source of its own: claims, tables, probes and
//! the data path know nothing of clusters. It is a function of what its members say, made anew
//! whenever one of them says something else, so that the order of events does not matter. Who leads
//! changes neither its name nor its tables. A member that is away goes on with what it said last.
//! What members say differently is decided by the leader, but for what would let in whom a member
//! keeps out: such a member takes no part. Ingresses lead to the pods of their own cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Index;
use super::services::ServiceEntry;
use crate::{
    BackendSlice, CLUSTER_WEIGHT_DEFAULT, Exposure, FaultReason, MAX_WEIGHT, ObjectKind, ObjectRef,
    ServicePort, ServiceSpec, SlicePort, SourceFault, SourceId, Weight,
};

/// Namespace and name.
type Name = (Arc<str>, Arc<str>);

/// What parts the source of a member from the name of its slice.
const PART: char = '\n';

/// All of them.
#[derive(Default)]
pub(super) struct SharedServices {
    groups: BTreeMap<Name, BTreeMap<SourceId, Member>>,
}

/// One cluster's part in a service.
pub(super) struct Member {
    /// As its source describes it.
    pub(super) spec: Arc<ServiceSpec>,
    /// Ports of its own that are not served.
    unserved: Vec<(u16, crate::Protocol)>,
    /// What it says differently from the leader.
    conflicts: Vec<SourceFault>,
    /// 0 for those that are used first.
    rank: u16,
    takes_part: bool,
}

impl Member {
    fn exposure(&self) -> Option<&Exposure> {
        self.spec.exposure.as_ref()
    }

    /// The oldest leads, and of those of one age the first by the name of its cluster.
    fn seniority<'a>(&self, source: &'a SourceId) -> (i64, &'a SourceId) {
        (self.spec.created_secs, source)
    }
}

fn name_of(object: &ObjectRef) -> Name {
    (object.namespace.clone(), object.name.clone())
}

/// The one service that an object is part of, if it is part of one.
pub(super) fn whole_of(object: &ObjectRef) -> ObjectRef {
    object.in_source(&SourceId::shared())
}

impl SharedServices {
    /// An object's part in a service of several clusters.
    pub(super) fn member(&self, object: &ObjectRef) -> Option<&Member> {
        if self.groups.is_empty() || object.kind != ObjectKind::Service {
            return None;
        }
        self.groups.get(&name_of(object))?.get(&object.source)
    }

    /// The objects that a shared service consists of.
    pub(super) fn members_of(&self, whole: &ObjectRef) -> Vec<ObjectRef> {
        let members = self.groups.get(&name_of(whole)).into_iter().flatten();
        members.map(|(source, _)| whole.in_source(source)).collect()
    }

    /// When backends of a slice are used: 0 first, others while none of a lower rank can be.
    pub(super) fn rank(&self, object: &ObjectRef, slice: &str) -> u16 {
        if !object.source.is_shared() {
            return 0;
        }
        let source = slice.split_once(PART).map_or("", |(source, _)| source);
        let members = self.groups.get(&name_of(object)).into_iter().flatten();
        let mut found = members.filter(|(of, _)| of.as_str() == source);
        found.next().map_or(0, |(_, member)| member.rank)
    }
}

impl Index {
    /// Takes note of what an object says about sharing; what is left for it alone.
    pub(super) fn share(
        &mut self,
        object: &ObjectRef,
        spec: Option<Box<ServiceSpec>>,
    ) -> Option<Box<ServiceSpec>> {
        let shares = |spec: &ServiceSpec| spec.exposure.as_ref().is_some_and(|e| e.share.is_some());
        if !spec.as_deref().is_some_and(shares) {
            self.stop_sharing(object);
            return spec;
        }
        let mut own = spec?;
        let known = self.shared.member(object);
        if known.is_none_or(|known| *known.spec != *own) {
            let member = Member {
                spec: Arc::new((*own).clone()),
                unserved: Vec::new(),
                conflicts: Vec::new(),
                rank: 0,
                takes_part: true,
            };
            let group = self.shared.groups.entry(name_of(object)).or_default();
            group.insert(object.source.clone(), member);
            self.dirty.shared.insert(whole_of(object));
        }
        // Its Ingresses still need the pods of its own cluster.
        own.exposure = None;
        Some(own)
    }

    fn stop_sharing(&mut self, object: &ObjectRef) {
        if self.shared.member(object).is_none() {
            return;
        }
        let name = name_of(object);
        if let Some(group) = self.shared.groups.get_mut(&name) {
            group.remove(&object.source);
            if group.is_empty() {
                self.shared.groups.remove(&name);
            }
        }
        self.dirty.shared.insert(whole_of(object));
    }

    /// Marks the shared service that an object is part of, because its slices have changed.
    pub(super) fn slices_changed(&mut self, object: &ObjectRef) {
        if self.shared.member(object).is_some() {
            self.dirty.shared.insert(whole_of(object));
        }
    }

    /// Brings everything that is shared up to what its members say.
    pub(super) fn settle_shared(&mut self) {
        for whole in std::mem::take(&mut self.dirty.shared) {
            let spec = self.weigh_members(&whole);
            let slices = self.slices_of_members(&whole, spec.as_deref());
            self.services.entry(whole.clone()).or_default().slices.replace(slices);
            // Ranks alone may have changed.
            self.dirty.services.insert(whole.clone());
            for member in self.shared.members_of(&whole) {
                self.dirty.reports.insert(member);
            }
            self.note_alone(whole, spec);
        }
    }

    /// Finds out who leads, and what the others say differently; what they say together.
    fn weigh_members(&mut self, whole: &ObjectRef) -> Option<Box<ServiceSpec>> {
        let Some(group) = self.shared.groups.get_mut(&name_of(whole)) else {
            self.claims.house(whole, None);
            return None;
        };
        let mut order: Vec<SourceId> = group.keys().cloned().collect();
        order.sort_by(|a, b| group[a].seniority(a).cmp(&group[b].seniority(b)));
        let leader = order.first()?.clone();
        let led = group[&leader].spec.clone();
        let led_by = whole.in_source(&leader);
        for (source, member) in group.iter_mut() {
            let differs = Differences::between(&member.spec, &led);
            member.takes_part = *source == leader || differs.keeps_out.is_empty();
            member.conflicts = differs.faults(&led_by);
            member.unserved = differs.unserved;
        }
        let parts = || group.values().filter(|member| member.takes_part);
        let priority = |member: &Member| share_of(member).priority;
        let first = parts().map(priority).min().unwrap_or_default();
        let mut spec = (*led).clone();
        spec.faults = Vec::new();
        if let Some(exposure) = &mut spec.exposure {
            let recorded = order.iter().filter_map(|source| group[source].exposure());
            let recorded = recorded.map(|exposure| &exposure.recorded);
            let recorded = recorded.into_iter().find(|recorded| !recorded.is_empty());
            exposure.recorded = recorded.cloned().unwrap_or_default();
            (exposure.recorded_ip_mode, exposure.recorded_ports) = (None, Vec::new());
            let names: BTreeSet<Arc<str>> =
                parts().filter_map(Member::exposure).flat_map(|e| e.hostnames.clone()).collect();
            exposure.hostnames = names.into_iter().collect();
            exposure.share = None;
        }
        for member in group.values_mut() {
            member.rank = share_of(member).priority.saturating_sub(first);
        }
        self.claims.house(whole, Some(&leader));
        Some(Box::new(spec))
    }

    /// The slices of everyone who takes part, as the leader calls their ports.
    fn slices_of_members(
        &self,
        whole: &ObjectRef,
        led: Option<&ServiceSpec>,
    ) -> Vec<(Arc<str>, Arc<BackendSlice>)> {
        let group = self.shared.groups.get(&name_of(whole));
        let (Some(group), Some(led)) = (group, led) else { return Vec::new() };
        let mut slices: Vec<(Arc<str>, Arc<BackendSlice>)> = Vec::new();
        for (source, member) in group.iter().filter(|(_, member)| member.takes_part) {
            let object = whole.in_source(source);
            let Some(entry) = self.services.get(&object) else { continue };
            for (name, slice) in entry.slices.iter() {
                let slice = Arc::new(translated(slice, member, &led.ports));
                slices.push((format!("{source}{PART}{name}").into(), slice));
            }
        }
        slices.sort_by(|(one, _), (other, _)| one.cmp(other));
        slices
    }

    /// What a member should say about itself.
    pub(super) fn member_report(&self, object: &ObjectRef) -> Option<crate::ObjectReport> {
        let member = self.shared.member(object)?;
        let whole = whole_of(object);
        let mut report = self.report_for(&whole, Some(member))?;
        let alone = self.services.get(object);
        let faults = alone.into_iter().flat_map(|entry: &ServiceEntry| &entry.faults);
        // Of its own slices; that a port has no pods here is no fault of the whole.
        let faults = faults.filter(|fault| fault.reason == FaultReason::InvalidEndpointSlice);
        report.faults.extend(faults.cloned());
        report.faults.extend(member.spec.faults.iter().chain(&member.conflicts).cloned());
        Some(report)
    }
}

fn share_of(member: &Member) -> crate::ClusterShare {
    member.exposure().and_then(|exposure| exposure.share).unwrap_or_default()
}

/// A slice of a member, with the leader's names of its ports, and its cluster's weight.
fn translated(slice: &BackendSlice, member: &Member, led: &[ServicePort]) -> BackendSlice {
    let own_name = |port: &ServicePort| {
        let own = &member.spec.ports;
        let own = own.iter().find(|own| (own.port, own.protocol) == (port.port, port.protocol));
        own.map(|own| &own.name)
    };
    let ports = led.iter().filter_map(|port| {
        let name = own_name(port)?;
        let mut there = slice.ports.iter();
        let there = there.find(|at| at.name == *name && at.protocol == port.protocol)?;
        Some(SlicePort { name: port.name.clone(), protocol: port.protocol, port: there.port })
    });
    let weight = share_of(member).weight;
    let mut backends = slice.backends.clone();
    for backend in &mut backends {
        backend.weight = weighted(backend.weight, weight);
    }
    BackendSlice { family: slice.family, ports: ports.collect(), backends, faults: Vec::new() }
}

/// A backend's weight in a cluster of this weight. Nothing that takes flows comes to take none.
fn weighted(weight: Weight, of_cluster: u16) -> Weight {
    if weight == 0 || of_cluster == 0 {
        return 0;
    }
    let product = u64::from(weight) * u64::from(of_cluster) / u64::from(CLUSTER_WEIGHT_DEFAULT);
    u32::try_from(product).unwrap_or(MAX_WEIGHT).clamp(1, MAX_WEIGHT)
}

/// What a member says differently from the leader.
#[derive(Default)]
struct Differences {
    /// Fields that keep clients out, or are spoken to the pods: no connection may be led to pods
    /// whose own cluster would not allow it, or that could not read it.
    keeps_out: Vec<&'static str>,
    /// Fields of which the leader's are followed.
    led: Vec<&'static str>,
    /// Ports that the leader does not have.
    unserved: Vec<(u16, crate::Protocol)>,
    /// Ports of the leader that lead to no pod of the member.
    absent: Vec<(u16, crate::Protocol)>,
}

fn numbers(spec: &ServiceSpec) -> BTreeSet<(u16, crate::Protocol)> {
    spec.ports.iter().map(|port| (port.port, port.protocol)).collect()
}

impl Differences {
    fn between(own: &ServiceSpec, led: &ServiceSpec) -> Self {
        let (Some(ours), Some(theirs)) = (&own.exposure, &led.exposure) else {
            return Self::default();
        };
        let mut differs = Self::default();
        let ranges =
            |exposure: &Exposure| exposure.source_ranges.iter().copied().collect::<BTreeSet<_>>();
        if ranges(ours) != ranges(theirs) {
            differs.keeps_out.push("spec.loadBalancerSourceRanges");
        }
        if own.proxy_protocol != led.proxy_protocol {
            differs.keeps_out.push("haflinger.dev/proxy-protocol");
        }
        let asked = |exposure: &Exposure| {
            let requested: BTreeSet<IpAddr> = exposure.requested.iter().copied().collect();
            (requested, exposure.pool.clone(), exposure.wish.sharing.clone())
        };
        let families = |exposure: &Exposure| (exposure.families.clone(), exposure.family_policy);
        let led_fields = [
            (own.algorithm != led.algorithm, "spec.sessionAffinity or haflinger.dev/algorithm"),
            (families(ours) != families(theirs), "spec.ipFamilies and spec.ipFamilyPolicy"),
            (asked(ours) != asked(theirs), "the addresses, pool or sharing key asked for"),
            (ours.mode != theirs.mode, "haflinger.dev/mode"),
            (own.limits != led.limits, "the limits of connections"),
            (own.timeouts != led.timeouts, "the timeouts"),
            (own.distribution != led.distribution, "spec.trafficDistribution"),
            (own.publish_not_ready != led.publish_not_ready, "spec.publishNotReadyAddresses"),
            (own.health_check != led.health_check, "the health check"),
        ];
        let fields = led_fields.into_iter().filter(|(differ, _)| *differ);
        differs.led = fields.map(|(_, field)| field).collect();
        let (own, led) = (numbers(own), numbers(led));
        differs.unserved = own.difference(&led).copied().collect();
        differs.absent = led.difference(&own).copied().collect();
        if !differs.keeps_out.is_empty() {
            differs.unserved = own.into_iter().collect();
        }
        differs
    }

    fn faults(&self, leader: &ObjectRef) -> Vec<SourceFault> {
        let fault = |text: String| SourceFault::new(FaultReason::SharedDiffers, text);
        let mut faults = Vec::new();
        if !self.keeps_out.is_empty() {
            faults.push(fault(format!(
                "{} differs from {leader}, which is older and leads the shared service: no \
                 connection is led to this cluster; write the same",
                self.keeps_out.join(" and ")
            )));
        } else if !self.unserved.is_empty() {
            faults.push(fault(format!(
                "{} is not one of {leader}, which is older and leads the shared service: not \
                 served; add it there",
                ports(&self.unserved)
            )));
        }
        if !self.absent.is_empty() {
            faults.push(fault(format!(
                "{} of {leader}, which is older and leads the shared service, is missing: no \
                 connection to it is led to this cluster; add it",
                ports(&self.absent)
            )));
        }
        if !self.led.is_empty() {
            faults.push(fault(format!(
                "not as in {leader}, which is older and leads the shared service: {}; what it says \
                 is followed; write the same",
                self.led.join(", ")
            )));
        }
        faults
    }
}

/// As in `port 80/tcp, 443/tcp`, a few of them.
fn ports(ports: &[(u16, crate::Protocol)]) -> String {
    const SHOWN_MAX: usize = 8;
    let shown = ports.iter().take(SHOWN_MAX).map(|(port, protocol)| format!("{port}/{protocol}"));
    let more = if ports.len() > SHOWN_MAX { " and more" } else { "" };
    format!("port {}{more}", shown.collect::<Vec<_>>().join(", "))
}

impl Member {
    /// Whether a port of its own is one of the whole's.
    pub(super) fn is_served(&self, port: &ServicePort) -> bool {
        !self.unserved.contains(&(port.port, port.protocol))
    }
}
