//! Clients that come back to their backend, by cookie or header.

use haflinger_core::flow::FlowHashKey;
use haflinger_core::{Persistence, RuleAction, SessionCarrier, SessionCookie};

use crate::support::backend::{Backend, dead_address, field};
use crate::support::client::RawClient;
use crate::support::{Lab, action, route, weighted};

fn persistence(carrier: SessionCarrier) -> Option<Persistence> {
    Some(Persistence { name: "route".into(), carrier, absolute_secs: None, idle_secs: None })
}

fn cookie() -> Option<Persistence> {
    persistence(SessionCarrier::Cookie(SessionCookie::default()))
}

async fn lab(names: &[&str], persistence: Option<Persistence>) -> (Lab, Vec<Backend>) {
    let mut backends = Vec::new();
    for name in names {
        backends.push(Backend::start(name).await);
    }
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let mut lab = Lab::start();
    lab.backends("shop", &addresses);
    lab.listen(vec![route("/", RuleAction { persistence, ..action("shop", Vec::new()) })]);
    lab.publish().await;
    (lab, backends)
}

/// Status, name of the backend, and the field that an answer carries.
async fn ask(lab: &Lab, path: &str, shown: &[(&str, &str)]) -> (u16, String, Option<String>) {
    let mut client = RawClient::connect(lab.address).await;
    let (status, answer) = client.ask("GET", path, "shop.example", shown).await.unwrap();
    let name = answer.split("\r\n\r\n").nth(1).unwrap().to_owned();
    let given = field(&answer, "set-cookie").or_else(|| field(&answer, "route"));
    (status, name, given.map(str::to_owned))
}

fn token(set_cookie: &str) -> String {
    set_cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_leads_to_the_same_backend_until_that_has_left() {
    let (mut lab, backends) = lab(&["a", "b", "c", "d"], cookie()).await;
    let (_, first, given) = ask(&lab, "/", &[]).await;
    let given = given.unwrap();
    assert!(given.ends_with("; Path=/; HttpOnly"), "{given}");
    let shown = token(&given);
    for _ in 0..20 {
        let answer = ask(&lab, "/", &[("cookie", &format!("x=1; {shown}"))]).await;
        assert_eq!(answer, (200, first.clone(), None));
    }
    let left = backends.iter().filter(|backend| backend.requests() == 0);
    let left: Vec<_> = left.map(|backend| backend.address).collect();
    assert_eq!(left.len(), 3, "one backend has had all");
    lab.backends("shop", &left);
    lab.publish().await;
    let (status, next, given) = ask(&lab, "/", &[("cookie", &shown)]).await;
    assert_eq!(status, 200);
    assert_ne!(next, first);
    let shown = token(&given.expect("a token of the new session"));
    assert_eq!(ask(&lab, "/", &[("cookie", &shown)]).await, (200, next, None));
    assert_eq!(lab.metric("haflinger_proxy_session_tokens_total", "begun"), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_proxy_with_the_key_goes_on_with_a_session_and_one_without_does_not() {
    let (one, backends) = lab(&["a", "b", "c", "d"], cookie()).await;
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let (_, first, given) = ask(&one, "/", &[]).await;
    let shown = token(&given.unwrap());
    for same_key in [true, false] {
        let mut other = Lab::start_with(|settings| {
            if !same_key {
                settings.flow_hash_key = FlowHashKey(*b"of another fleet");
            }
        });
        other.backends("shop", &addresses);
        let action = RuleAction { persistence: cookie(), ..action("shop", Vec::new()) };
        other.listen(vec![route("/", action)]);
        other.publish().await;
        let (_, name, given) = ask(&other, "/", &[("cookie", &shown)]).await;
        assert_eq!(given.is_none(), same_key);
        assert!(name == first || !same_key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_is_given_with_every_answer_and_leads_back() {
    let (lab, _backends) = lab(&["a", "b", "c", "d"], persistence(SessionCarrier::Header)).await;
    let (_, first, given) = ask(&lab, "/", &[]).await;
    let mut given = given.unwrap();
    for _ in 0..10 {
        let (status, name, next) = ask(&lab, "/", &[("route", &given)]).await;
        assert_eq!((status, &name), (200, &first));
        given = next.expect("a token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_stays_on_its_side_of_a_split_whatever_the_weights_become() {
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    let mut lab = Lab::start();
    lab.backends("old", &[old.address]);
    lab.backends("new", &[new.address]);
    let split = |old, new| {
        let backends = vec![weighted(old, "old"), weighted(new, "new")];
        route("/", RuleAction { backends, persistence: cookie(), ..RuleAction::default() })
    };
    lab.listen(vec![split(1, 0)]);
    lab.publish().await;
    let (_, name, given) = ask(&lab, "/", &[]).await;
    assert_eq!(name, "old");
    lab.listen(vec![split(0, 1)]);
    lab.publish().await;
    let shown = token(&given.unwrap());
    assert_eq!(ask(&lab, "/", &[("cookie", &shown)]).await.1, "old");
    assert_eq!(ask(&lab, "/", &[]).await.1, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_cannot_be_connected_to_hands_its_clients_to_another() {
    let (mut lab, backends) = lab(&["a"], cookie()).await;
    let dead = dead_address().await;
    // A token of a backend that has died and of which nobody knows it yet.
    let shown = {
        let (_, _, given) = ask(&lab, "/", &[]).await;
        token(&given.unwrap())
    };
    let b = Backend::start("b").await;
    let gone = backends[0].address;
    drop(backends);
    lab.backends("shop", &[gone, dead, b.address]);
    lab.publish().await;
    let (status, name, given) = ask(&lab, "/", &[("cookie", &shown)]).await;
    assert_eq!((status, &*name), (200, "b"));
    let shown = token(&given.expect("a token of the backend that answered"));
    assert_eq!(ask(&lab, "/", &[("cookie", &shown)]).await, (200, "b".into(), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_our_own_and_a_made_up_token_begin_no_session() {
    let (mut lab, _backends) = lab(&["a", "b"], cookie()).await;
    let (status, _, given) = ask(&lab, "/", &[("cookie", "route=AQAAAAAAAAAA")]).await;
    assert_eq!(status, 200);
    assert!(given.is_some());
    lab.backends("shop", &[]);
    lab.publish().await;
    let (status, _, given) = ask(&lab, "/", &[]).await;
    assert_eq!((status, given), (503, None));
}
