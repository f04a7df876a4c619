//! The readiness gate against a real API server and its controllers.
//!
//! Topology: this process as two edge hosts, each with discovery, index and report of its own, that
//! sign in with the shipped rights and no other (`haflinger.kubeconfig` beside the administrator's
//! `HAFLINGER_TEST_KUBECONFIG`); and as the kubelet of one Node. What a host's data path has taken
//! over is for the test to say. Claims, in this order:
//! 1. Without the rights in readiness.yaml the gate is off, by name, and nothing else; it comes on
//!    with them.
//! 2. A pod is used before its EndpointSlice calls it ready, and ready once both hosts use it.
//! 3. A rollout that outruns the edge keeps the old pods until the edge has the new ones.
//! 4. A host that dies is not waited for once its Lease has ended.
//! 5. A host that stops says so, and is not waited for.
//! 6. The gate is set for the very pod and for none that follows it by the same name.
//! 7. The admission policy gives gate and label to pods of labelled namespaces, and completes others.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail, and says so")]

mod cluster;
#[path = "../fold/mod.rs"]
mod fold;
mod host;

use cluster::{Cluster, GATE, until, until_or};
use haflinger_core::{BackendState, StateReason};
use host::Host;
use serde_json::json;

struct World {
    cluster: Cluster,
    first: Host,
    second: Host,
}

#[tokio::test]
async fn pods_become_ready_once_every_edge_host_uses_them() {
    let test = "pods_become_ready_once_every_edge_host_uses_them";
    let Some(cluster) = Cluster::begin(test).await else { return };
    let first = Host::start("first", &cluster);
    let second = Host::start("second", &cluster);
    let mut world = World { cluster, first, second };
    world.without_its_rights_the_gate_is_off_and_nothing_else().await;
    world.a_pod_is_ready_once_both_hosts_use_it().await;
    world.a_rollout_waits_for_the_edge().await;
    world.a_host_that_dies_is_not_waited_for_any_longer().await;
    world.a_host_that_stops_is_not_waited_for().await;
    world.the_gate_is_set_for_the_very_pod().await;
    world.the_admission_policy_gives_gate_and_label().await;
    let World { cluster, first, second } = world;
    first.stop().await;
    second.stop().await;
    cluster.end().await;
}

impl World {
    async fn without_its_rights_the_gate_is_off_and_nothing_else(&mut self) {
        self.cluster.service("web", &json!({"app": "web"})).await;
        for host in [&self.first, &self.second] {
            until("the missing rights by name", || async {
                let pods = host.kind("pods");
                let told = pods.disables == Some("readiness gates of pods") && !pods.connected;
                let refused = host.gate().error.is_some_and(|error| error.contains("403"));
                (told && refused && host.is_synced()).then_some(())
            })
            .await;
            until("an address", || async { host.backends("web").map(drop) }).await;
        }
        self.cluster.apply("readiness.yaml").await;
        for host in [&self.first, &self.second] {
            until("two hosts that see each other", || async {
                let gate = host.gate();
                let sees = gate.error.is_none() && gate.hosts.len() == 2;
                (sees && host.kind("pods").connected).then_some(())
            })
            .await;
        }
    }

    /// Waits until the first host has said that it is done with so many pods, for which the second
    /// one is waited.
    async fn until_the_second_is_waited_for(&self, pods: usize) {
        let second = self.second.identity.clone();
        let look = || async {
            let gate = self.first.gate();
            let lacking = |name: &str| {
                gate.hosts.iter().find(|host| host.host == name).map(|host| host.lacking)
            };
            let waits = lacking(&second) == Some(pods);
            (waits && lacking(&self.first.identity) == Some(0) && gate.done == pods).then_some(())
        };
        let instead = || format!("{:?}", (self.first.gate(), self.second.gate()));
        until_or("the second host to be waited for", look, instead).await;
    }

    /// Has a pod set that nobody has to do anything for: whatever could be set before has been.
    async fn a_round_goes_by(&self, name: &str) {
        self.cluster.pod(name, &json!({"app": name, GATE: "enabled"}), true).await;
        self.cluster.until_gate(name, true).await;
    }

    async fn a_pod_is_ready_once_both_hosts_use_it(&mut self) {
        self.second.hold();
        self.cluster.deploy("web", 2).await;
        self.until_the_second_is_waited_for(2).await;
        for host in [&self.first, &self.second] {
            let used = host.backends("web").unwrap();
            assert_eq!(used.len(), 2, "{used:?}");
            for (state, reasons) in used {
                assert_eq!(state, BackendState::Active);
                assert_eq!(reasons, [StateReason::AwaitsGate], "its slice does not call it ready");
            }
        }
        self.a_round_goes_by("bystander-1").await;
        for pod in self.cluster.pods("web").await {
            assert!(!pod.gate && !pod.ready, "{pod:?}");
        }
        self.second.catch_up();
        until("both pods ready, for the slices too", || async {
            let pods = self.cluster.pods("web").await;
            let used = self.second.backends("web")?;
            let plain = used
                .iter()
                .all(|(state, reasons)| *state == BackendState::Active && reasons.is_empty());
            let ready = pods.iter().all(|pod| pod.gate && pod.ready);
            (pods.len() == 2 && ready && used.len() == 2 && plain).then_some(())
        })
        .await;
        until("nobody to wait", || async { (self.first.gate().waiting == 0).then_some(()) }).await;
    }

    async fn a_rollout_waits_for_the_edge(&mut self) {
        self.second.hold();
        self.cluster.roll("web", "2").await;
        self.until_the_second_is_waited_for(1).await;
        self.a_round_goes_by("bystander-2").await;
        let pods = self.cluster.pods("web").await;
        let (new, old): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| pod.version == "2");
        assert!(new.len() == 1 && !new[0].ready && !new[0].gate, "{new:?}");
        assert!(old.len() == 2 && old.iter().all(|pod| pod.ready && !pod.leaves), "{old:?}");
        self.second.catch_up();
        until("the rollout to end", || async {
            let pods = self.cluster.pods("web").await;
            let done = pods.iter().all(|pod| pod.version == "2" && pod.ready);
            (pods.len() == 2 && done).then_some(())
        })
        .await;
    }

    async fn a_host_that_dies_is_not_waited_for_any_longer(&mut self) {
        self.second.hold();
        self.cluster.pod("lone-1", &json!({"app": "web", GATE: "enabled"}), true).await;
        self.until_the_second_is_waited_for(1).await;
        assert!(!self.cluster.gate("lone-1").await);
        self.second.die().await;
        self.cluster.until_gate("lone-1", true).await;
        assert_eq!(self.first.gate().hosts.len(), 1);
    }

    async fn a_host_that_stops_is_not_waited_for(&mut self) {
        let held = Host::start("third", &self.cluster);
        held.hold();
        let dead = std::mem::replace(&mut self.second, held);
        until("the third to be seen", || async {
            let hosts = self.first.gate().hosts;
            hosts.iter().any(|host| host.host == self.second.identity).then_some(())
        })
        .await;
        self.cluster.pod("lone-2", &json!({"app": "web", GATE: "enabled"}), true).await;
        self.until_the_second_is_waited_for(1).await;
        assert!(!self.cluster.gate("lone-2").await);
        let fresh = Host::start(&dead.name, &self.cluster);
        std::mem::replace(&mut self.second, fresh).stop().await;
        assert_eq!(self.cluster.holder("third").await, "");
        self.cluster.until_gate("lone-2", true).await;
    }

    async fn the_gate_is_set_for_the_very_pod(&mut self) {
        self.cluster.pod("same", &json!({"app": "same"}), true).await;
        let kube::Error::Api(status) = self.cluster.patch_gate("same", "another-uid").await else {
            panic!("refused in another way")
        };
        // What requests.rs takes for a pod that is gone.
        let causes = status.details.as_ref().unwrap().causes.iter();
        assert_eq!(status.code, 422, "{status:?}");
        assert!(causes.map(|cause| &*cause.field).any(|field| field == "metadata.uid"));
        assert!(!self.cluster.gate("same").await);
    }

    async fn the_admission_policy_gives_gate_and_label(&mut self) {
        let cluster = &self.cluster;
        cluster.apply("readiness-injection.yaml").await;
        cluster.pod("late-0", &json!({"app": "late"}), false).await;
        assert_eq!(cluster.opted("late-0").await, (false, false), "the namespace is not labelled");
        cluster.label_namespace("enabled").await;
        // The API server compiles a policy within moments.
        let mut number = 0;
        until("a pod with gate and label", || {
            number += 1;
            async move {
                let name = format!("given-{number}");
                cluster.pod(&name, &json!({"app": "given"}), false).await;
                (cluster.opted(&name).await == (true, true)).then_some(())
            }
        })
        .await;
        cluster.pod("left-out", &json!({"app": "given", GATE: "disabled"}), false).await;
        assert!(!cluster.opted("left-out").await.0);
        cluster.pod("other-gate", &json!({"app": "given"}), false).await;
        cluster.label_namespace("disabled").await;
        until("a pod that is left alone again", || {
            number += 1;
            async move {
                let name = format!("alone-{number}");
                cluster.pod(&name, &json!({"app": "alone"}), false).await;
                (cluster.opted(&name).await == (false, false)).then_some(())
            }
        })
        .await;
        cluster.pod("gate-alone", &json!({"app": "alone"}), true).await;
        assert_eq!(cluster.opted("gate-alone").await, (true, true), "the label is added");
        cluster.pod("label-alone", &json!({"app": "alone", GATE: "enabled"}), false).await;
        assert_eq!(cluster.opted("label-alone").await, (true, true), "the gate is added");
        for name in ["gate-alone", "label-alone", "given-1"] {
            if cluster.opted(name).await == (true, true) {
                cluster.until_gate(name, true).await;
            }
        }
    }
}
