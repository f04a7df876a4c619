//! The requests about one object: read, compare, patch, tell events.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use haflinger_core::{ObjectKind, ObjectRef, ObjectReport, SourceFault};
use haflinger_kubernetes::describe;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::book::digest;
use crate::plan::{self, Left, Plan, Seen, Write};

/// Who is shown to have written a field, and to report events.
const CONTROLLER: &str = "haflinger.dev/edge";

/// Longest note of an event (events.k8s.io/v1), in bytes.
const NOTE_BYTES_MAX: usize = 1024;

/// Longest part of an object's name in its events' names; 17 bytes are appended.
const NAME_BYTES_MAX: usize = 230;

/// Where events of objects without a namespace live.
const EVENTS_OF_CLUSTER: &str = "default";

/// Looks at an object that others change while it is written. Beyond these it waits its turn, with
/// growing pauses, like any other that cannot be written.
const LOOKS_MAX: usize = 3;

/// What there is to do about one object.
#[derive(Debug)]
pub(crate) enum Task {
    /// Bring its status to what the report says, and tell these faults.
    Report {
        object: ObjectRef,
        report: Arc<ObjectReport>,
        news: Vec<SourceFault>,
        /// Faults are left to be told when there is allowance again.
        events_left: bool,
    },
    /// Take out of its status exactly what we left there.
    Clear { object: ObjectRef, left: Left },
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) object: ObjectRef,
    /// Result of writing the status, if it was tried.
    pub(crate) status: Option<&'static str>,
    /// Events that were told.
    pub(crate) told: Vec<u64>,
    pub(crate) events_left: bool,
    /// What a clearing that failed was about.
    pub(crate) left: Option<Left>,
    /// A limit of the API made something of the status go.
    pub(crate) cut: bool,
    /// Why it has to be tried again.
    pub(crate) error: Option<String>,
}

/// Requests to one cluster.
pub(crate) struct ObjectWriter {
    client: Client,
    identity: String,
}

impl ObjectWriter {
    pub(crate) fn new(client: Client, identity: &str) -> Self {
        Self { client, identity: identity.to_owned() }
    }

    /// Does what the task says, once.
    pub(crate) async fn work(&self, task: Task) -> Done {
        let (object, left, events_left) = match &task {
            Task::Report { object, events_left, .. } => (object.clone(), None, *events_left),
            Task::Clear { object, left } => (object.clone(), Some(left.clone()), false),
        };
        let told = Vec::new();
        let mut done =
            Done { object, status: None, told, events_left, left, cut: false, error: None };
        let result = match task {
            Task::Report { object, report, news, .. } => {
                self.report(&object, &report, &news, &mut done).await
            }
            Task::Clear { object, left } => self.clear(&object, &left, &mut done).await,
        };
        if let Err(error) = result {
            done.error = Some(describe(&error));
        }
        done
    }

    fn api(&self, object: &ObjectRef) -> Api<DynamicObject> {
        let resource = match object.kind {
            ObjectKind::Service => ApiResource::erase::<Service>(&()),
            ObjectKind::Ingress => ApiResource::erase::<Ingress>(&()),
            kind => {
                let (group, version) = kind.api_version();
                let kind = GroupVersionKind::gvk(group, version, kind.api_kind());
                ApiResource::from_gvk(&kind)
            }
        };
        let client = self.client.clone();
        if object.namespace.is_empty() {
            return Api::all_with(client, &resource);
        }
        Api::namespaced_with(client, &object.namespace, &resource)
    }

    async fn report(
        &self,
        object: &ObjectRef,
        report: &ObjectReport,
        news: &[SourceFault],
        done: &mut Done,
    ) -> kube::Result<()> {
        let mut decide = |seen: &Seen<'_>| plan::plan(seen, report, &wall_clock());
        let Some((found, status)) = self.settle(object, &mut decide, done).await? else {
            return Ok(());
        };
        if let Ok(Some(Write { addresses: Some(addresses), .. })) = &status {
            let (reason, note) = assigned(addresses);
            // The address is what matters; its event is not worth a retry.
            if let Err(error) = self.tell(object, &found, "Normal", reason, &note).await {
                tracing::debug!(%object, %error, "event not told");
            }
        }
        for fault in news {
            self.tell(object, &found, "Warning", fault.reason.as_str(), &fault.message).await?;
            done.told.push(digest(object, fault.reason.as_str(), &fault.message));
        }
        status.map(drop)
    }

    async fn clear(&self, object: &ObjectRef, left: &Left, done: &mut Done) -> kube::Result<()> {
        let mut decide = |seen: &Seen<'_>| plan::clearing(seen, left);
        match self.settle(object, &mut decide, done).await? {
            Some((_, written)) => written.map(drop),
            None => Ok(()),
        }
    }

    /// Reads the object, decides, and writes; looks again where others wrote in between. Returns
    /// what was read last, and what was written or why it could not be; nothing: there is no such
    /// object.
    async fn settle(
        &self,
        object: &ObjectRef,
        decide: &mut (dyn FnMut(&Seen<'_>) -> Plan + Send),
        done: &mut Done,
    ) -> kube::Result<Option<(DynamicObject, kube::Result<Option<Write>>)>> {
        let api = self.api(object);
        for look in 1.. {
            let Some(found) = api.get_opt(&object.name).await? else { return Ok(None) };
            let generation = found.metadata.generation;
            let plan = decide(&Seen { kind: object.kind, generation, content: &found.data });
            let write = match plan {
                Plan::Keep => return Ok(Some((found, Ok(None)))),
                Plan::Stale => {
                    done.status = Some("stale");
                    return Ok(Some((found, Ok(None))));
                }
                Plan::Write(write) => write,
            };
            let patch = write.patch(&found.resource_version().unwrap_or_default());
            match write_status(&api, object, &patch, done).await {
                Err(kube::Error::Api(status)) if status.code == 409 && look < LOOKS_MAX => {}
                Err(error) => return Ok(Some((found, Err(error)))),
                Ok(()) => {
                    done.cut = write.cut;
                    return Ok(Some((found, Ok(Some(write)))));
                }
            }
        }
        Ok(None)
    }

    /// Tells an event, or counts one that is told again.
    async fn tell(
        &self,
        object: &ObjectRef,
        found: &DynamicObject,
        kind: &str,
        reason: &str,
        note: &str,
    ) -> kube::Result<()> {
        let namespace = match &*object.namespace {
            "" => EVENTS_OF_CLUSTER,
            namespace => namespace,
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let mut hasher = DefaultHasher::new();
        (&self.identity, found.uid(), kind, reason, note).hash(&mut hasher);
        let name = format!("{}.{:016x}", cut(&object.name, NAME_BYTES_MAX), hasher.finish());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.identity.clone()),
            action: Some("Assign".to_owned()),
            reason: Some(reason.to_owned()),
            note: Some(cut(note, NOTE_BYTES_MAX).to_owned()),
            type_: Some(kind.to_owned()),
            regarding: Some(ObjectReference {
                api_version: found.types.as_ref().map(|types| types.api_version.clone()),
                kind: found.types.as_ref().map(|types| types.kind.clone()),
                namespace: Some(object.namespace.to_string()).filter(|name| !name.is_empty()),
                name: Some(object.name.to_string()),
                uid: found.uid(),
                resource_version: found.resource_version(),
                ..ObjectReference::default()
            }),
            ..Event::default()
        };
        match events.create(&PostParams::default(), &event).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => count(&events, &name).await,
            // The namespace is being deleted, and the object with it.
            Err(kube::Error::Api(status)) if is_terminating(&status.reason, &status.message) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn is_terminating(reason: &str, message: &str) -> bool {
    reason == "Forbidden" && message.contains("because it is being terminated")
}

async fn write_status(
    api: &Api<DynamicObject>,
    object: &ObjectRef,
    patch: &Value,
    done: &mut Done,
) -> kube::Result<()> {
    let params = PatchParams { field_manager: Some("haflinger".into()), ..PatchParams::default() };
    match api.patch_status(&object.name, &params, &Patch::Merge(patch)).await {
        Ok(_) => {
            done.status = Some("written");
            tracing::info!(%object, "status written");
            Ok(())
        }
        // Deleted in the meantime.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => {
            done.status = Some("failed");
            Err(error)
        }
    }
}

/// One more of an event that the server already has.
async fn count(events: &Api<Event>, name: &str) -> kube::Result<()> {
    let Some(event) = events.get_opt(name).await? else { return Ok(()) };
    // A series begins with the second occurrence.
    let count = event.series.map_or(2, |series| series.count.saturating_add(1));
    let patch = json!({
        "series": { "count": count, "lastObservedTime": MicroTime(Timestamp::now()) },
    });
    events.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(|_| ())
}

/// Now, to the second, as times of conditions are written (metav1.Time).
fn wall_clock() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn assigned(addresses: &[haflinger_core::StatusAddress]) -> (&'static str, String) {
    if addresses.is_empty() {
        return ("AddressReleased", "the object no longer holds an address".to_owned());
    }
    let list: Vec<String> = addresses.iter().map(|entry| entry.address.to_string()).collect();
    ("AddressAssigned", format!("served at {}", list.join(", ")))
}

/// The first `limit` bytes, never within a character.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
#[path = "object_tests.rs"]
mod tests;
