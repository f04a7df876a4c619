use std::time::Duration;

use haflinger_core::{ObjectRef, SourceId};
use proptest::prelude::*;

use super::*;
use crate::access::format::LineFormat;

fn shop() -> ObjectRef {
    ObjectRef::ingress(&SourceId::inventory(), "default", "shop")
}

/// A request with something in every field.
fn record(route: &ObjectRef) -> Record<'_> {
    Record {
        began: "2026-11-03T07:08:09.123456Z".parse().unwrap(),
        client: "[::ffff:192.0.2.7]:50000".parse().unwrap(),
        user: Some("ann"),
        listener: "198.51.100.1:443".parse().unwrap(),
        tls_version: Some("TLSv1.3"),
        tls_cipher: Some("TLS13_AES_128_GCM_SHA256"),
        server_name: Some("shop.example"),
        method: "GET",
        host: Some(b"Shop.example"),
        path: "/a/b",
        query: Some("x=1"),
        protocol: "HTTP/1.1",
        status: Some(200),
        bytes_in: 5,
        bytes_out: 1_234,
        duration: Duration::from_micros(12_345),
        first_byte: Some(Duration::from_micros(9_001)),
        end: "answered",
        route: Some(route),
        rule: Some("main"),
        service: Some("shop"),
        pod: Some("shop-7f"),
        upstream: Some("10.0.0.9:8080".parse().unwrap()),
        attempts: 1,
        request_id: Some(b"7e57"),
        trace_id: Some(0xabc),
        user_agent: Some(b"curl/8.1 (x)"),
        referer: Some(b"https://example.org/"),
    }
}

fn written(format: &str, record: &Record<'_>) -> String {
    String::from_utf8(line(&AccessFormat::parse(format).unwrap(), record)).unwrap()
}

#[test]
fn the_combined_format_is_that_of_apache_and_nginx() {
    let route = shop();
    assert_eq!(
        written("combined", &record(&route)),
        "192.0.2.7 - ann [03/Nov/2026:07:08:09 +0000] \"GET /a/b?x=1 HTTP/1.1\" 200 1234 \
         \"https://example.org/\" \"curl/8.1 (x)\""
    );
}

#[test]
fn the_haproxy_like_format_has_times_backend_and_end() {
    let route = shop();
    assert_eq!(
        written("haproxy", &record(&route)),
        "192.0.2.7:50000 [2026-11-03T07:08:09.123Z] 198.51.100.1:443 default/shop/shop-7f \
         9.001/12.345 200 1234 answered 1 \"GET /a/b?x=1 HTTP/1.1\""
    );
}

#[test]
fn json_has_numbers_as_numbers_and_leaves_out_what_is_absent() {
    let route = shop();
    let full: serde_json::Value = serde_json::from_str(&written("json", &record(&route))).unwrap();
    let fields = Field::ALL.into_iter().filter(|field| field.stands_alone());
    assert!(fields.clone().all(|field| full.get(field.name()).is_some()), "{full}");
    assert_eq!(full.as_object().unwrap().len(), fields.count());
    assert_eq!(full["status"], 200);
    assert_eq!(full["duration_ms"], 12.345);
    assert_eq!(full["trace_id"], "00000000000000000000000000000abc");
    let bare = Record { status: None, route: None, pod: None, referer: None, ..record(&route) };
    let bare: serde_json::Value = serde_json::from_str(&written("json", &bare)).unwrap();
    for gone in ["status", "kind", "namespace", "route", "pod", "referer"] {
        assert_eq!(bare.get(gone), None);
    }
    assert_eq!(bare["service"], "shop");
}

#[test]
fn what_is_absent_or_empty_is_a_hyphen() {
    let route = shop();
    let bare = Record { status: None, route: None, user_agent: Some(b""), ..record(&route) };
    assert_eq!(written("{status} {route} \"{user_agent}\"", &bare), "- - \"-\"");
}

#[test]
fn a_value_cannot_leave_its_field() {
    let route = shop();
    let forged =
        Record { user_agent: Some(b"x\" 200\r\n10.0.0.1 - - [\\\x7f\xc3\xa4"), ..record(&route) };
    assert_eq!(
        written("\"{user_agent}\" {user_agent}", &forged),
        "\"x\\x22 200\\x0D\\x0A10.0.0.1 - - [\\x5C\\x7F\\xC3\\xA4\" \
         x\\x22\\x20200\\x0D\\x0A10.0.0.1\\x20-\\x20-\\x20[\\x5C\\x7F\\xC3\\xA4"
    );
    let json: serde_json::Value = serde_json::from_str(&written("json", &forged)).unwrap();
    assert_eq!(json["user_agent"], "x\" 200\r\n10.0.0.1 - - [\\\x7fä");
}

#[test]
fn a_value_beyond_the_limit_is_cut_and_says_so() {
    let route = shop();
    let long = vec![b'a'; VALUE_BYTES_MAX + 1];
    let record = Record { referer: Some(&long), ..record(&route) };
    let line = written("{referer}", &record);
    assert_eq!(line.len(), VALUE_BYTES_MAX + 3);
    assert!(line.ends_with("a..."));
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    let byte =
        prop_oneof![any::<u8>(), Just(b'\n'), Just(b'"'), Just(b'\\'), Just(b' '), 0x80..=0xa0_u8];
    prop::collection::vec(byte, 0..40)
}

proptest! {
    #[test]
    fn a_line_is_printable_and_has_as_many_quotes_and_blanks_as_its_format(
        host in values(), agent in values(), referer in values(), id in values(),
        path in any::<String>(), query in any::<String>(), name in any::<String>(),
    ) {
        let route = ObjectRef::ingress(&SourceId::inventory(), &name, &name);
        let record = Record {
            host: Some(&host),
            user_agent: Some(&agent),
            referer: Some(&referer),
            request_id: Some(&id),
            path: &path,
            query: Some(&query),
            server_name: Some(&name),
            ..record(&route)
        };
        let all: Vec<String> =
            Field::ALL.iter().map(|field| format!("{{{}}}", field.name())).collect();
        let format = LineFormat::parse(&all.join("|")).unwrap();
        let text = line(&AccessFormat::Line(format), &record);
        prop_assert!(text.iter().all(|byte| (b' '..=b'~').contains(byte)));
        prop_assert!(!text.contains(&b'"'));
        // The one of the Common Log Format's time.
        prop_assert_eq!(text.iter().filter(|byte| **byte == b' ').count(), 1);

        let json = String::from_utf8(line(&AccessFormat::Json, &record)).unwrap();
        let ends_a_line = |c: char| c.is_control() || ['\u{2028}', '\u{2029}'].contains(&c);
        let found = json.contains(ends_a_line);
        prop_assert!(!found, "{}", json);
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        if !agent.is_empty() {
            prop_assert_eq!(&read["user_agent"], &*String::from_utf8_lossy(&agent));
        }
    }
}
