use haflinger_core::flow::FlowHashKey;
use haflinger_core::forwarding::ForwardingTable;
use haflinger_core::{Backend, Family, ObjectRef, Protocol, SameSite, SourceId, Target};

use super::*;

const ADDRESSES: [&str; 2] = ["192.0.2.10:8080", "192.0.2.11:8080"];

fn key() -> SessionKey {
    SessionKey::derive(&FlowHashKey(*b"sixteen byte key"))
}

fn backends(states: [BackendState; 2], names: [&str; 2]) -> Arc<BackendSet> {
    let backend = |at: usize| Backend {
        address: ADDRESSES[at].parse().unwrap(),
        name: names[at].into(),
        node: None,
        zone: None,
        weight: 100,
        backup: false,
        state: states[at],
        reasons: Vec::new(),
    };
    let object = ObjectRef::service(&SourceId::inventory(), "default", "shop");
    let target = Target { object, port: 80, protocol: Protocol::Tcp, family: Family::V4 };
    let backends: Vec<_> = (0..2).map(backend).collect();
    let table = ForwardingTable::new(backends.iter().map(|b| (b.address, b.weight))).view();
    Arc::new(BackendSet { target, backends, table })
}

fn cookie(change: impl FnOnce(&mut Persistence, &mut SessionCookie)) -> Sessions {
    let mut cookie = SessionCookie::default();
    let mut persistence = Persistence {
        name: "route".into(),
        carrier: SessionCarrier::Header,
        absolute_secs: None,
        idle_secs: None,
    };
    change(&mut persistence, &mut cookie);
    persistence.carrier = SessionCarrier::Cookie(cookie);
    Sessions::compile(&persistence).unwrap()
}

fn fields(name: HeaderName, values: &[&str]) -> HeaderMap {
    values.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
}

/// Token in the value of a `Set-Cookie`, and the rest of it.
fn split(value: &HeaderValue) -> (String, String) {
    let text = value.to_str().unwrap().strip_prefix("route=").unwrap();
    let (token, rest) = text.split_once(';').unwrap();
    (token.to_owned(), rest.to_owned())
}

#[test]
fn a_client_comes_back_to_its_backend_while_that_is_active() {
    let (key, tags) = (key(), Tags::default());
    let desk = Desk { key: &key, now_secs: 1_000 };
    let all = [BackendState::Active; 2];
    let set = backends(all, ["a", "b"]);
    let sessions = cookie(|_, _| {});
    let tag = key.tag(&set.target, &set.backends[1]);
    let (name, value) = sessions.token(None, tag, desk, true).unwrap();
    assert_eq!(name, header::SET_COOKIE);
    let (token, rest) = split(&value);
    assert_eq!(rest, " Path=/; HttpOnly; Secure");
    let shown = fields(header::COOKIE, &["x=1; xroute=no", &format!("y=2;route={token}")]);
    let find = |set: &Arc<BackendSet>| {
        let found = sessions.resume(&shown, desk, |tag| tags.find(set, tag, &key));
        found.map(|(token, address)| (sessions.token(Some(token), token.tag, desk, true), address))
    };
    // It has its token already.
    assert_eq!(find(&set), Some((None, set.backends[1].address)));
    let draining = backends([BackendState::Active, BackendState::Draining], ["a", "b"]);
    assert_eq!(find(&draining), None);
    let replaced = backends(all, ["a", "c"]);
    assert_eq!(find(&replaced), None, "another pod with the address");
    assert_eq!(find(&set).unwrap().1, set.backends[1].address);
}

#[test]
fn nothing_of_a_backend_stands_in_a_token() {
    let (key, set) = (key(), backends([BackendState::Active; 2], ["pod-name", "b"]));
    let tag = key.tag(&set.target, &set.backends[0]);
    let desk = Desk { key: &key, now_secs: 1_000 };
    let (_, value) = cookie(|_, _| {}).token(None, tag, desk, false).unwrap();
    let bytes =
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, split(&value).0)
            .unwrap();
    let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    assert!(!holds(b"pod") && !holds(&[192, 0, 2]) && !holds(b"192"));
}

#[test]
fn a_cookie_has_the_attributes_that_it_was_given() {
    let (key, set) = (key(), backends([BackendState::Active; 2], ["a", "b"]));
    let tag = key.tag(&set.target, &set.backends[0]);
    let sessions = cookie(|limits, cookie| {
        limits.absolute_secs = Some(600);
        limits.idle_secs = Some(60);
        cookie.permanent = true;
        cookie.path = "/shop".into();
        cookie.domain = Some("example.com".into());
        cookie.same_site = Some(SameSite::Lax);
    });
    let at = |shown, now_secs| {
        let value = sessions.token(shown, tag, Desk { key: &key, now_secs }, true);
        value.map(|(_, value)| split(&value))
    };
    let (token, rest) = at(None, 1_000).unwrap();
    assert_eq!(
        rest,
        " Path=/shop; Domain=example.com; Max-Age=600; HttpOnly; Secure; SameSite=Lax"
    );
    let shown = Token::decode(token.as_bytes(), "route", &key);
    assert_eq!(at(shown, 1_001), None);
    // Younger, and its end is where it was.
    assert!(at(shown, 1_030).unwrap().1.contains("; Max-Age=570;"));
    let fields = fields(header::COOKIE, &[&format!("route={token}")]);
    let resumed = |now_secs| {
        let desk = Desk { key: &key, now_secs };
        sessions.resume(&fields, desk, |found| (*found == tag).then_some(())).is_some()
    };
    assert_eq!([1_059, 1_060].map(resumed), [true, false]);
}

#[test]
fn a_field_of_its_own_comes_with_every_answer() {
    let (key, set) = (key(), backends([BackendState::Active; 2], ["a", "b"]));
    let desk = Desk { key: &key, now_secs: 1_000 };
    let tag = key.tag(&set.target, &set.backends[0]);
    let carrier = SessionCarrier::Header;
    let limits =
        Persistence { name: "X-Session".into(), carrier, absolute_secs: None, idle_secs: None };
    let sessions = Sessions::compile(&limits).unwrap();
    let (name, value) = sessions.token(None, tag, desk, false).unwrap();
    assert_eq!(name, "x-session");
    let shown = fields(name, &["made up", value.to_str().unwrap()]);
    let (token, ()) = sessions.resume(&shown, desk, |found| (*found == tag).then_some(())).unwrap();
    assert!(sessions.token(Some(token), tag, desk, false).is_some());
}

#[test]
fn of_many_tokens_only_some_are_looked_at() {
    let (key, set) = (key(), backends([BackendState::Active; 2], ["a", "b"]));
    let desk = Desk { key: &key, now_secs: 1_000 };
    let tag = key.tag(&set.target, &set.backends[0]);
    let sessions = cookie(|_, _| {});
    let (_, value) = sessions.token(None, tag, desk, false).unwrap();
    let good = format!("route={}", split(&value).0);
    let resumed = |bad: usize| {
        let mut all = vec!["route=bad"; bad];
        all.push(&good);
        let fields = fields(header::COOKIE, &[&all.join("; ")]);
        sessions.resume(&fields, desk, |_| Some(())).is_some()
    };
    assert!(resumed(TOKENS_MAX - 1));
    assert!(!resumed(TOKENS_MAX));
}

#[test]
fn a_name_that_no_field_can_have_keeps_nobody() {
    let limits = Persistence {
        name: "a b".into(),
        carrier: SessionCarrier::Header,
        absolute_secs: None,
        idle_secs: None,
    };
    assert!(Sessions::compile(&limits).is_none());
}
