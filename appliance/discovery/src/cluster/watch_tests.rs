//! The watch against an API server that says exactly what a test wants it to say.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use haflinger_core::{Family, SourceId};
use http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use prometheus::Registry;
use serde_json::{Value, json};

use super::*;
use crate::metrics::Metrics;
use crate::objects::{NodeBody, SliceBody};

/// One answer: its status code and its lines.
pub(in crate::cluster) type Answer = (u16, Vec<Value>);

/// Answers in order, remembers what was asked, and then never answers again.
#[derive(Clone, Default)]
pub(in crate::cluster) struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    pub(in crate::cluster) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers = answers.into_iter().collect();
        Self { answers: Arc::new(Mutex::new(answers)), asked: Arc::default() }
    }

    pub(in crate::cluster) fn client(&self) -> Client {
        let script = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            script.asked.lock().unwrap().push(request.uri().to_string());
            let answer = script.answers.lock().unwrap().pop_front();
            async move {
                let Some((code, lines)) = answer else { return std::future::pending().await };
                let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
                Ok::<_, std::convert::Infallible>(
                    Response::builder()
                        .status(StatusCode::from_u16(code).unwrap())
                        .body(Body::from((text.join("\n") + "\n").into_bytes()))
                        .unwrap(),
                )
            }
        });
        Client::new(service, "default")
    }

    pub(in crate::cluster) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn node(name: &str, version: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": version}})
}

pub(in crate::cluster) fn list(version: &str, token: &str, items: &[Value]) -> Answer {
    let metadata = json!({"resourceVersion": version, "continue": token});
    (
        200,
        vec![json!({"kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": items})],
    )
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

fn bookmark(version: &str, ends: bool) -> Value {
    let annotations = if ends { json!({INITIAL_EVENTS_END: "true"}) } else { json!({}) };
    event(
        "BOOKMARK",
        json!({
            "kind": "Node", "apiVersion": "v1",
            "metadata": {"resourceVersion": version, "annotations": annotations},
        }),
    )
}

pub(in crate::cluster) fn refusal(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
           "reason": reason, "message": format!("{reason} it is")})
}

pub(in crate::cluster) fn board() -> Board {
    let metrics = Metrics::register(&Registry::new()).unwrap();
    Board::new(&SourceId::cluster("c"), &metrics)
}

/// Runs the watch until it has said `count` things, and returns them as text.
async fn said(script: &Script, streaming: bool, count: usize) -> (Vec<String>, Board) {
    said_as(Watched::Nodes, script, streaming, count).await
}

/// As [`said`], the nodes being told as another kind.
async fn said_as(
    watched: Watched,
    script: &Script,
    streaming: bool,
    count: usize,
) -> (Vec<String>, Board) {
    let (sender, mut receiver) = mpsc::channel(64);
    let board = board();
    let watch = Watch {
        api: Api::<Object<NodeBody>>::all(script.client()),
        watched,
        selector: None,
        streaming,
        translate: |object: &Object<NodeBody>| {
            Some(SourceUpdate::Node {
                source: SourceId::cluster("c"),
                name: object.name().into(),
                spec: None,
            })
        },
        heard: sender,
        relists: watch::channel(Relists::default()).1,
        listed_for: 0,
        board: board.clone(),
    };
    let mut said = Vec::new();
    let listen = async {
        while said.len() < count {
            said.push(match receiver.recv().await.unwrap() {
                Heard::ListBegan(_) => "began".to_owned(),
                Heard::ListEnded(_) => "ended".to_owned(),
                Heard::Withheld(_) => "withheld".to_owned(),
                Heard::Object(_, Some(SourceUpdate::Node { name, .. })) => format!("+{name}"),
                Heard::Object(..) => "?".to_owned(),
                Heard::Gone(_) => "-".to_owned(),
            });
        }
    };
    tokio::select! {
        () = watch.run() => panic!("the watch ended by itself"),
        () = listen => {}
    }
    (said, board)
}

// Time is tokio's: it jumps over every wait, so that nothing here depends on a clock.

#[tokio::test(start_paused = true)]
async fn a_paged_list_is_read_to_its_end_and_followed_from_its_version() {
    let script = Script::new([
        list("10", "more", &[node("a", "1"), node("b", "2")]),
        list("10", "", &[node("c", "3")]),
        (200, vec![event("ADDED", node("d", "11")), event("DELETED", node("a", "12"))]),
    ]);
    let (said, board) = said(&script, false, 7).await;
    assert_eq!(said, ["began", "+a", "+b", "+c", "ended", "+d", "-"]);
    let asked = script.asked();
    assert!(asked[0].contains("limit=500") && asked[1].contains("continue=more"), "{asked:?}");
    assert!(asked[2].contains("watch=true") && asked[2].contains("resourceVersion=10"));
    assert!(board.status(std::time::Instant::now(), &[Watched::Nodes]).connected);
}

#[tokio::test(start_paused = true)]
async fn a_streamed_list_ends_with_its_bookmark() {
    let script = Script::new([
        (200, vec![event("ADDED", node("a", "1")), bookmark("5", true)]),
        (200, vec![bookmark("9", false)]),
        (200, vec![event("MODIFIED", node("a", "10"))]),
    ]);
    let (said, _) = said(&script, true, 4).await;
    assert_eq!(said, ["began", "+a", "ended", "+a"]);
    let asked = script.asked();
    assert!(asked[0].contains("sendInitialEvents=true"), "{asked:?}");
    assert!(asked[1].contains("resourceVersion=5") && !asked[1].contains("sendInitial"));
    assert!(asked[2].contains("resourceVersion=9"), "bookmarks move the position: {asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_position_that_is_gone_leads_to_a_new_list_however_it_is_said() {
    for gone in
        [(200, vec![event("ERROR", refusal(410, "Expired"))]), (410, vec![refusal(410, "Expired")])]
    {
        let script = Script::new([
            list("10", "", &[node("a", "1")]),
            gone,
            list("20", "", &[node("b", "15")]),
        ]);
        let (said, _) = said(&script, false, 6).await;
        assert_eq!(said, ["began", "+a", "ended", "began", "+b", "ended"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_gone_begins_the_list_anew() {
    let script = Script::new([
        list("10", "more", &[node("a", "1")]),
        (410, vec![refusal(410, "Expired")]),
        list("20", "", &[node("b", "15")]),
    ]);
    let (said, _) = said(&script, false, 5).await;
    assert_eq!(said, ["began", "+a", "began", "+b", "ended"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_breaks_is_resumed_and_not_listed_again() {
    let script = Script::new([
        list("10", "", &[]),
        (200, vec![event("ADDED", node("a", "11"))]),
        (500, vec![refusal(500, "InternalError")]),
        (200, vec![event("ADDED", node("b", "12"))]),
    ]);
    let (said, board) = said(&script, false, 4).await;
    assert_eq!(said, ["began", "ended", "+a", "+b"]);
    assert!(script.asked()[3].contains("resourceVersion=11"));
    assert!(board.status(std::time::Instant::now(), &[Watched::Nodes]).last_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_position_that_is_refused_again_and_again_is_given_up() {
    let refused = || (504, vec![refusal(504, "Timeout")]);
    let mut answers = vec![list("10", "", &[])];
    answers.extend((0..REFUSALS_MAX).map(|_| refused()));
    answers.push(list("3", "", &[node("a", "1")]));
    let script = Script::new(answers);
    let (said, _) = said(&script, false, 5).await;
    assert_eq!(said, ["began", "ended", "began", "+a", "ended"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_stream_lists_is_asked_for_pages() {
    let script =
        Script::new([(422, vec![refusal(422, "Invalid")]), list("10", "", &[node("a", "1")])]);
    let (said, _) = said(&script, true, 4).await;
    assert_eq!(said, ["began", "began", "+a", "ended"]);
    assert!(script.asked()[1].contains("limit=500"));
}

#[tokio::test(start_paused = true)]
async fn a_streamed_list_that_is_cut_short_begins_anew() {
    let script = Script::new([
        (200, vec![event("ADDED", node("a", "1"))]),
        (200, vec![event("ADDED", node("b", "2")), bookmark("5", true)]),
    ]);
    let (said, _) = said(&script, true, 5).await;
    assert_eq!(said, ["began", "+a", "began", "+b", "ended"]);
}

#[tokio::test(start_paused = true)]
async fn missing_rights_for_nodes_are_said_and_do_not_hold_up_the_source() {
    let script = Script::new([(403, vec![refusal(403, "Forbidden")])]);
    let (said, board) = said(&script, false, 3).await;
    assert_eq!(said, ["began", "withheld", "began"]);
    let status = board.status(std::time::Instant::now(), &[Watched::Nodes]);
    let error = status.last_error.unwrap();
    assert!(error.contains("403") && error.contains("rbac.yaml"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn pods_that_may_no_longer_be_read_are_given_up() {
    let script = Script::new([(403, vec![refusal(403, "Forbidden")])]);
    let (said, board) = said_as(Watched::Pods, &script, false, 3).await;
    assert_eq!(said, ["began", "ended", "began"], "the end of a list without any");
    let status = board.status(std::time::Instant::now(), &[Watched::Pods]);
    assert!(status.kinds["pods"].disables.is_some());
}

#[tokio::test(start_paused = true)]
async fn one_odd_object_does_not_stop_a_list() {
    let odd = json!({"metadata": {"name": "odd", "namespace": "n", "labels": {
        "kubernetes.io/service-name": "web"}}, "addressType": 7, "endpoints": {"a": 1}});
    let page = json!({"metadata": {"resourceVersion": "1"}, "items": [odd, 7, null, {
        "metadata": {"name": "good"}, "addressType": "IPv6", "endpoints": []}]});
    let objects: kube::core::ObjectList<Object<SliceBody>> = serde_json::from_value(page).unwrap();
    assert_eq!(objects.items.len(), 4);
    assert!(!crate::translate::slice(&objects.items[0]).faults.is_empty());
    assert_eq!(crate::translate::slice(&objects.items[3]).family, Family::V6);
}
