use std::cell::RefCell;
use std::io;

use haflinger_core::forwarding::TableView;
use haflinger_core::{BackendSet, CertificateSpec, Family, HostMatch, HttpRule, IngressTls};
use haflinger_core::{ObjectRef, PathMatch, Protocol, SourceId};

use super::*;
use crate::conditions::RequestView;
use crate::routes::Found;

fn tables(listeners_max: usize) -> Tables {
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    Tables::new(metrics, TlsBase::new().unwrap(), listeners_max)
}

fn address(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], n))
}

fn target() -> Target {
    let object = ObjectRef::service(&SourceId::inventory(), "default", "shop");
    Target { object, port: 80, protocol: Protocol::Tcp, family: Family::V4 }
}

fn listener(tls: bool) -> Arc<HttpListener> {
    let object = ObjectRef::ingress(&SourceId::inventory(), "default", "site");
    let rule = HttpRule::simple(HostMatch::Any, PathMatch::every(), Some(target()), object);
    let certificates = vec![IngressTls { hosts: vec!["a.example".into()], certificate: key() }];
    Arc::new(HttpListener::simple(tls.then_some(certificates), vec![rule]))
}

fn key() -> CertificateRef {
    let (namespace, name) = ("default".into(), "site".into());
    CertificateRef { source: SourceId::inventory(), namespace, name }
}

fn snapshot(ports: &[u16]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for port in ports {
        snapshot.http.insert(address(*port), listener(false));
    }
    snapshot
}

/// Binds what is due; `taken` cannot be bound. The ports that were tried.
fn bind_due(tables: &mut Tables, now: Instant, taken: &[u16]) -> Vec<u16> {
    let tried = RefCell::new(Vec::new());
    let bind = |address: SocketAddr| {
        tried.borrow_mut().push(address.port());
        match taken.contains(&address.port()) {
            true => Err(io::ErrorKind::AddrInUse.into()),
            false => TcpListener::bind("127.0.0.1:0"),
        }
    };
    tables.bind_due(now, || 1.0, bind, |_, _| Ok(()));
    tried.into_inner()
}

/// What is said about sockets when binding fails, or does not, at `now`.
fn said(tables: &mut Tables, now: Instant, taken: bool) -> Vec<(u16, bool)> {
    let bind = |_| match taken {
        true => Err(io::ErrorKind::AddrInUse.into()),
        false => TcpListener::bind("127.0.0.1:0"),
    };
    faults(tables.bind_due(now, || 1.0, bind, |_, _| Ok(())))
}

fn faults(words: Vec<SocketWord>) -> Vec<(u16, bool)> {
    words.into_iter().map(|(address, fault)| (address.port(), fault.is_some())).collect()
}

#[test]
fn a_socket_that_cannot_be_opened_is_told_from_the_second_failure_on_until_it_is_open() {
    let mut tables = tables(9);
    let now = Instant::now();
    tables.apply(Arc::new(snapshot(&[1])), now);
    assert_eq!(said(&mut tables, now, true), []);
    let mut due = tables.next_bind().unwrap();
    assert_eq!(said(&mut tables, due, true), [(1, true)]);
    due = tables.next_bind().unwrap();
    assert_eq!(said(&mut tables, due, false), [(1, false)]);
}

#[test]
fn a_refused_listener_is_told_and_one_that_goes_withdraws_what_was_said() {
    let mut tables = tables(1);
    let now = Instant::now();
    let effects = tables.apply(Arc::new(snapshot(&[1, 2])), now);
    assert_eq!(faults(effects.sockets), [(2, true)]);
    said(&mut tables, now, false);
    let effects = tables.apply(Arc::new(snapshot(&[2])), now);
    assert_eq!(faults(effects.sockets), [(1, false)]);
    assert_eq!(said(&mut tables, now, false), [(2, false)]);
}

fn states(tables: &Tables) -> Vec<ListenerState> {
    tables.listener_status().into_iter().map(|listener| listener.state).collect()
}

#[test]
fn binding_is_tried_again_at_growing_and_bounded_intervals() {
    let mut tables = tables(9);
    let mut now = Instant::now();
    tables.apply(Arc::new(snapshot(&[1, 2])), now);
    assert_eq!(bind_due(&mut tables, now, &[1]), [1, 2]);
    assert_eq!(states(&tables), [ListenerState::Retrying, ListenerState::Bound]);
    assert!(tables.listener_status()[0].reason.is_some());
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let due = tables.next_bind().unwrap();
        assert!(bind_due(&mut tables, due - Duration::from_millis(1), &[1]).is_empty());
        pauses.push(due - now);
        now = due;
        assert_eq!(bind_due(&mut tables, now, &[1]), [1], "the bound one is left alone");
    }
    assert_eq!(pauses[..3], [50, 100, 200].map(Duration::from_millis));
    assert_eq!(pauses[11], BIND_RETRY_MAX);
    let due = tables.next_bind().unwrap();
    assert_eq!(bind_due(&mut tables, due, &[]), [1]);
    assert_eq!(tables.next_bind(), None);
    assert_eq!(tables.metrics.listeners_bound.get(), 2);
}

#[test]
fn a_listener_beyond_the_limit_waits_for_one_to_go() {
    let mut tables = tables(2);
    let now = Instant::now();
    tables.apply(Arc::new(snapshot(&[1, 2, 3])), now);
    bind_due(&mut tables, now, &[]);
    let (bound, refused) = (ListenerState::Bound, ListenerState::Refused);
    assert_eq!(states(&tables), [bound, bound, refused]);
    assert_eq!(tables.metrics.listeners_bound.get(), 2);
    let effects = tables.apply(Arc::new(snapshot(&[2, 3])), now);
    assert_eq!(effects.retired.len(), 1);
    bind_due(&mut tables, now, &[]);
    assert_eq!(states(&tables), [bound, bound]);
}

#[test]
fn only_what_differs_is_touched() {
    let mut tables = tables(9);
    let now = Instant::now();
    let first = snapshot(&[1, 2]);
    tables.apply(Arc::new(first.clone()), now);
    let routes = |tables: &Tables, port| {
        let served = &tables.listeners[&address(port)];
        (Arc::as_ptr(&served.listener), Arc::as_ptr(&served.listener.routes.load_full()))
    };
    let (one, two) = (routes(&tables, 1), routes(&tables, 2));
    let mut second = first;
    second.http.insert(address(2), Arc::new(HttpListener::simple(None, Vec::new())));
    assert!(tables.apply(Arc::new(second.clone()), now).retired.is_empty());
    assert_eq!(routes(&tables, 1), one);
    assert_eq!(routes(&tables, 2).0, two.0, "the listener stays");
    assert_ne!(routes(&tables, 2).1, two.1, "its routes are compiled anew");
    second.http.insert(address(2), listener(true));
    assert_eq!(tables.apply(Arc::new(second), now).retired.len(), 1, "TLS needs another one");
}

#[test]
fn a_target_reaches_rules_that_were_compiled_before_it_came() {
    let mut tables = tables(9);
    let now = Instant::now();
    let mut changing = snapshot(&[1]);
    tables.apply(Arc::new(changing.clone()), now);
    let routes = tables.listeners[&address(1)].listener.routes.load_full();
    let (method, fields) = (http::Method::GET, http::HeaderMap::new());
    let view = RequestView { host: None, path: "/", query: None, method: &method, fields: &fields };
    let Found::Rule { action, .. } = routes.find(None, &view) else { panic!("no route") };
    let slot = &action.backend(0).unwrap().to.as_ref().unwrap().slot;
    assert!(slot.load().is_none());
    let set = BackendSet { target: target(), backends: Vec::new(), table: TableView::empty() };
    changing.targets.insert(target(), Arc::new(set));
    tables.apply(Arc::new(changing.clone()), now);
    assert!(slot.load().is_some());
    changing.targets.remove(&target());
    tables.apply(Arc::new(changing), now);
    assert!(slot.load().is_none());
}

#[test]
fn a_certificate_is_reported_when_its_state_changes_and_not_otherwise() {
    let mut tables = tables(9);
    let now = Instant::now();
    let mut changing = Snapshot::default();
    let mut say = |material: Option<(&[u8], &[u8])>| {
        match material {
            Some((chain, key_pem)) => {
                let spec = CertificateSpec {
                    chain_pem: chain.to_vec(),
                    key_pem: key_pem.to_vec(),
                    ..CertificateSpec::default()
                };
                changing.certificates.insert(key(), Arc::new(spec));
            }
            None => {
                changing.certificates.remove(&key());
            }
        }
        let reports = tables.apply(Arc::new(changing.clone()), now).reports;
        reports.into_iter().map(|(_, fault)| fault.is_some()).collect::<Vec<_>>()
    };
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    let (chain, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
    let good = Some((chain.as_bytes(), key_pem.as_bytes()));
    assert!(say(good).is_empty(), "nothing is owed about a good one");
    assert_eq!(say(Some((b"", b""))), [true]);
    assert!(say(Some((b"\n", b""))).is_empty(), "the same fault is said once");
    assert_eq!(say(good), [false]);
    assert_eq!(say(Some((b"", b""))), [true]);
    assert_eq!(say(None), [false], "a fault ends with its certificate");
}
