//! A kind that comes and goes, by an API server that says what a test wants it to say. Time is
//! tokio's: it jumps over every wait.

use haflinger_core::{PodNetworkSpec, RouteOrigin, SourceId};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::super::watch::tests::{Answer, Script, board, list, refusal};
use super::*;
use crate::ledger::Watched;
use crate::objects::AffinityBody;
use crate::status::{Board, KindStatus};

const KIND: Watched = Watched::BlockAffinities;

fn document(plurals: &[&str]) -> Answer {
    let resources: Vec<Value> = plurals
        .iter()
        .map(|plural| {
            json!({"name": plural, "singularName": "", "namespaced": false, "kind": "K",
                   "verbs": ["list", "watch"]})
        })
        .collect();
    let document = json!({"kind": "APIResourceList", "apiVersion": "v1",
                          "groupVersion": "crd.projectcalico.org/v1", "resources": resources});
    (200, vec![document])
}

fn missing() -> Answer {
    (404, vec![refusal(404, "NotFound")])
}

fn affinity(name: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": "1"}})
}

/// Runs until `count` things were said, and returns them as text.
async fn said(script: &Script, count: usize) -> (Vec<String>, Board) {
    said_until(script, |said| said.len() == count).await
}

async fn said_until(script: &Script, enough: impl Fn(&[String]) -> bool) -> (Vec<String>, Board) {
    said_of(script, Resource::of::<AffinityBody>(), enough).await
}

async fn said_of(
    script: &Script,
    resource: Resource,
    enough: impl Fn(&[String]) -> bool,
) -> (Vec<String>, Board) {
    let (sender, mut receiver) = mpsc::channel(64);
    let board = board();
    let translate = |object: &Object<AffinityBody>| {
        Some(SourceUpdate::PodNetwork {
            source: SourceId::cluster("c"),
            origin: RouteOrigin::Calico,
            name: object.name().into(),
            spec: Some(Box::new(PodNetworkSpec::default())),
        })
    };
    let watch = Watch {
        api: kube::Api::<Object<AffinityBody>>::all(script.client()),
        watched: KIND,
        selector: None,
        streaming: false,
        translate,
        heard: sender,
        board: board.clone(),
        relists: tokio::sync::watch::channel(Default::default()).1,
        listed_for: 0,
    };
    let documents = Documents::new(script.client());
    let presence = Presence { documents, resource, watch };
    let mut said = Vec::new();
    let listen = async {
        while !enough(&said) {
            said.push(match receiver.recv().await.unwrap() {
                Heard::ListBegan(_) => "began".to_owned(),
                Heard::ListEnded(_) => "ended".to_owned(),
                Heard::Withheld(_) => "withheld".to_owned(),
                Heard::Object(_, Some(SourceUpdate::PodNetwork { name, .. })) => format!("+{name}"),
                Heard::Object(..) | Heard::Gone(_) => "-".to_owned(),
            });
        }
    };
    tokio::select! {
        () = presence.run() => panic!("it ended by itself"),
        () = listen => {}
    }
    (said, board)
}

fn kind(board: &Board) -> KindStatus {
    board.status(std::time::Instant::now(), &[KIND]).kinds[KIND.as_str()].clone()
}

#[tokio::test(start_paused = true)]
async fn an_absent_kind_holds_nothing_up_and_is_taken_up_when_it_appears() {
    let script = Script::new([
        missing(),
        document(&["ippools"]),
        document(&["ippools", "blockaffinities"]),
        list("10", "", &[affinity("a")]),
    ]);
    let (said, board) = said(&script, 4).await;
    assert_eq!(said, ["withheld", "began", "+a", "ended"]);
    assert!(kind(&board).connected && !kind(&board).absent);
    assert!(script.asked().iter().take(3).all(|asked| asked == "/apis/crd.projectcalico.org/v1"));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_knew_goes_when_the_kind_stays_absent() {
    let script = Script::new([missing(), missing(), missing()]);
    let (said, board) = said(&script, 3).await;
    assert_eq!(said, ["withheld", "began", "ended"], "not at the first answer");
    assert_eq!(script.asked().len(), 3);
    assert!(kind(&board).absent && kind(&board).last_error.is_none());
    assert!(board.status(std::time::Instant::now(), &[KIND]).connected, "nothing is wrong");
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_goes_takes_its_objects_with_it() {
    let mut answers = vec![document(&["blockaffinities"]), list("10", "", &[affinity("a")])];
    // Both the watch and the questions whether the kind is there; far more than are asked.
    answers.extend(std::iter::repeat_with(missing).take(100));
    let script = Script::new(answers);
    // The watch lists again by itself, in vain; once it is given up an empty list is said.
    let emptied = |said: &[String]| said.ends_with(&["began".to_owned(), "ended".to_owned()]);
    let (said, board) = said_until(&script, emptied).await;
    assert_eq!(&said[..3], ["began", "+a", "ended"]);
    assert!(kind(&board).absent);
}

#[tokio::test(start_paused = true)]
async fn missing_rights_are_named_with_what_they_disable() {
    let forbidden = || (403, vec![refusal(403, "Forbidden")]);
    let script = Script::new([document(&["blockaffinities"]), forbidden()]);
    let (said, board) = said(&script, 3).await;
    assert_eq!(said, ["began", "withheld", "began"]);
    let kind = kind(&board);
    assert_eq!(kind.disables, Some("routes to pods by Calico's block affinities"));
    assert!(kind.last_error.unwrap().contains("403"));
    assert!(board.status(std::time::Instant::now(), &[KIND]).connected, "the rest is served");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_withholds_the_document_is_asked_for_the_list() {
    let script =
        Script::new([(403, vec![refusal(403, "Forbidden")]), list("10", "", &[affinity("a")])]);
    assert_eq!(said(&script, 3).await.0, ["began", "+a", "ended"]);
}

#[tokio::test(start_paused = true)]
async fn kinds_of_one_group_share_an_answer_that_each_of_them_hears_once() {
    let script = Script::new([document(&["blockaffinities"]), missing()]);
    let documents = Documents::new(script.client());
    let of = |plural| Resource { plural, ..Resource::of::<AffinityBody>() };
    let (first, second) =
        tokio::join!(documents.has(of("blockaffinities")), documents.has(of("ippools")));
    assert_eq!((first, second), (Ok(true), Ok(false)));
    assert_eq!(script.asked().len(), 1);
    // Nobody asks again sooner than this.
    tokio::time::advance(ASK_EVERY / 2).await;
    assert_eq!(documents.has(of("blockaffinities")).await, Ok(false));
    assert_eq!(script.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_of_use_beside_another_kind_is_watched_while_the_cluster_has_that_one() {
    let gateways =
        Resource { group: "gateway.networking.k8s.io", version: "v1", plural: "gateways" };
    let script = Script::new([
        document(&["gatewayclasses"]),
        document(&["gateways"]),
        list("10", "", &[affinity("a")]),
    ]);
    let (said, _) = said_of(&script, gateways, |said| said.len() == 4).await;
    assert_eq!(said, ["withheld", "began", "+a", "ended"]);
    let asked = script.asked();
    assert!(asked.iter().take(2).all(|asked| asked == "/apis/gateway.networking.k8s.io/v1"));
    assert!(asked[2].starts_with("/apis/crd.projectcalico.org/v1/blockaffinities"), "{asked:?}");
}
