//! Requests about one object against a server that others write to.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Mutex;

use haflinger_core::{IpMode, SourceId, StatusAddress};
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;

use super::*;

#[test]
fn texts_are_cut_between_characters() {
    assert_eq!(cut("häf", 2), "h");
    assert_eq!(cut("häf", 3), "hä");
    assert_eq!(cut("häf", 99), "häf");
}

#[test]
fn only_a_namespace_that_goes_excuses_a_refused_event() {
    let gone = "unable to create new content in namespace x because it is being terminated";
    assert!(is_terminating("Forbidden", gone));
    assert!(!is_terminating("Forbidden", "user cannot create resource events"));
}

/// A server on which somebody else writes the object as often as `conflicts` says, each time just
/// before a patch of ours. Returns it with the requests that it was sent.
fn contested(conflicts: usize) -> (ObjectWriter, Arc<Mutex<Vec<String>>>) {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let (left, log) = (Arc::new(Mutex::new(conflicts)), asked.clone());
    let service = tower::service_fn(move |request: Request<Body>| {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        log.lock().unwrap().push(format!("{method} {path}"));
        let mut left = left.lock().unwrap();
        let refused = method == Method::PATCH && *left > 0;
        if refused {
            *left -= 1;
        }
        let (code, answer) = if refused {
            let text = "the object has been modified";
            (409, json!({"kind": "Status", "code": 409, "reason": "Conflict", "message": text}))
        } else {
            let metadata = json!({"name": "web", "resourceVersion": left.to_string()});
            let event = method == Method::POST;
            let (kind, version) =
                if event { ("Event", "events.k8s.io/v1") } else { ("Service", "v1") };
            (200, json!({"kind": kind, "apiVersion": version, "metadata": metadata}))
        };
        async move {
            let body = Body::from(answer.to_string().into_bytes());
            let status = StatusCode::from_u16(code).unwrap();
            Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
        }
    });
    (ObjectWriter::new(Client::new(service, "default"), "host"), asked)
}

fn task() -> Task {
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let desired = vec![StatusAddress::new(address, IpMode::Proxy)];
    let report = Arc::new(ObjectReport { desired, ..ObjectReport::default() });
    let object = ObjectRef::service(&SourceId::cluster("c"), "ns", "web");
    Task::Report { object, report, news: Vec::new(), events_left: false }
}

fn patches(asked: &Mutex<Vec<String>>) -> usize {
    let patch = "PATCH /api/v1/namespaces/ns/services/web/status";
    asked.lock().unwrap().iter().filter(|request| *request == patch).count()
}

#[tokio::test]
async fn an_object_that_others_write_is_looked_at_again() {
    let (writer, asked) = contested(LOOKS_MAX - 1);
    let done = writer.work(task()).await;
    assert_eq!((done.status, done.error), (Some("written"), None));
    assert_eq!(patches(&asked), LOOKS_MAX);
    let reads = asked.lock().unwrap().iter().filter(|request| request.starts_with("GET")).count();
    assert_eq!(reads, LOOKS_MAX);
}

#[tokio::test]
async fn an_object_that_others_write_without_end_waits_its_turn() {
    let (writer, asked) = contested(usize::MAX);
    let done = writer.work(task()).await;
    assert_eq!(done.status, Some("failed"));
    assert!(done.error.unwrap().contains("modified"));
    assert_eq!(patches(&asked), LOOKS_MAX);
}

#[tokio::test]
async fn objects_without_a_namespace_are_asked_for_where_they_are() {
    let (writer, asked) = contested(0);
    let class = ObjectKind::GatewayClass;
    let object = ObjectRef::of_kind(&SourceId::cluster("c"), class, "", "ours");
    let fault = SourceFault::new(haflinger_core::FaultReason::InvalidField, "a fault");
    let report = Arc::new(ObjectReport { faults: vec![fault.clone()], ..ObjectReport::default() });
    let task = Task::Report { object, report, news: vec![fault], events_left: false };
    assert_eq!(writer.work(task).await.error, None);
    let expected = [
        "GET /apis/gateway.networking.k8s.io/v1/gatewayclasses/ours",
        "POST /apis/events.k8s.io/v1/namespaces/default/events",
    ];
    assert_eq!(*asked.lock().unwrap(), expected);
}
