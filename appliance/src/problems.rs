//! How many faults objects have, by reason.

use std::sync::Arc;

use haflinger_core::{ObjectRef, ObjectReport, Snapshot};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use prometheus::{IntGaugeVec, Opts, Registry};

/// Counts by what has changed between two snapshots: a host may report on 50,000 objects.
pub(crate) struct Problems {
    gauge: IntGaugeVec,
    seen: OrdMap<ObjectRef, Arc<ObjectReport>>,
}

impl Problems {
    /// Registers the metric.
    ///
    /// # Errors
    /// Its name is taken.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = IntGaugeVec::new(
            Opts::new(
                "haflinger_core_problems",
                "Faults of Services, Ingresses and objects of the inventory, by reason: what their \
                 events and PROBLEMS in the status say.",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(Self { gauge, seen: OrdMap::new() })
    }

    /// Counts what the snapshot says.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot) {
        for item in self.seen.diff(&snapshot.reports) {
            match item {
                DiffItem::Add(_, report) => self.add(report, 1),
                DiffItem::Remove(_, report) => self.add(report, -1),
                DiffItem::Update { old: (_, old), new: (_, new) } => {
                    self.add(old, -1);
                    self.add(new, 1);
                }
            }
        }
        self.seen = snapshot.reports.clone();
    }

    fn add(&self, report: &ObjectReport, by: i64) {
        for fault in &report.faults {
            self.gauge.with_label_values(&[fault.reason.as_str()]).add(by);
        }
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::{FaultReason, SourceFault, SourceId};

    use super::*;

    #[test]
    fn faults_are_counted_as_they_come_change_and_go() {
        let mut problems = Problems::register(&Registry::new()).unwrap();
        let object = ObjectRef::service(&SourceId::inventory(), "default", "web");
        let count = |problems: &Problems, reason: FaultReason| {
            problems.gauge.with_label_values(&[reason.as_str()]).get()
        };
        for reasons in [
            vec![FaultReason::TooManyPorts, FaultReason::NoPool],
            vec![FaultReason::NoPool, FaultReason::NoPool],
            vec![],
        ] {
            let mut snapshot = Snapshot::default();
            let faults = reasons.iter().map(|reason| SourceFault::new(*reason, "x")).collect();
            let report = ObjectReport { faults, ..ObjectReport::default() };
            snapshot.reports.insert(object.clone(), Arc::new(report));
            problems.follow(&snapshot);
            for reason in [FaultReason::TooManyPorts, FaultReason::NoPool] {
                let wanted = reasons.iter().filter(|r| **r == reason).count();
                assert_eq!(count(&problems, reason), i64::try_from(wanted).unwrap());
            }
        }
        problems.follow(&Snapshot::default());
        assert_eq!(count(&problems, FaultReason::NoPool), 0);
    }
}
