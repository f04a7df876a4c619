use haflinger_core::{AuthorizerPlace, WebServer};

use super::*;

fn server() -> WebServer {
    WebServer { host: "auth.example".into(), port: 8080, tls: None }
}

fn asked() -> Authorizer {
    Authorizer {
        to: AuthorizerPlace::Server(server()),
        path: AuthorizerPath::Fixed("/check?x".into()),
        method: Some("GET".into()),
        request_headers: HeaderChoice::All,
        to_backend: HeaderChoice::Only(vec!["x-user".into()]),
        to_client: HeaderChoice::Only(vec!["x-why".into()]),
        cookies: false,
        sign_in: None,
        timeout_ms: 1_000,
        fail_open: false,
        only_200: false,
    }
}

fn check(asked: Authorizer) -> Arc<AuthorizerCheck> {
    let whom = Whom::Server { names: Arc::new(ServerNames::new(server())), tls: None };
    Arc::new(AuthorizerCheck::compile(&Arc::new(asked), whom).unwrap())
}

fn fields(all: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in all {
        fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    fields
}

const CLIENT: [(&str, &str); 7] = [
    ("authorization", "Bearer a.b.c"),
    ("cookie", "s=1"),
    ("x-other", "o"),
    ("connection", "keep-alive"),
    ("content-length", "7"),
    ("x-original-url", "https://elsewhere.example/"),
    ("host", "shop.example"),
];

fn sent(asked: Authorizer) -> (Method, String, HeaderMap) {
    let own = fields(&CLIENT);
    check(asked).request(Shown::example(&own), (Vec::new(), Vec::new()))
}

fn value<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a str> {
    fields.get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn it_is_told_of_the_request_and_given_what_it_is_allowed_to_see() {
    let (method, path, all) = sent(asked());
    assert_eq!((method, &*path), (Method::GET, "/check?x"));
    assert_eq!(value(&all, "host"), Some("auth.example:8080"));
    assert_eq!(value(&all, "x-original-url"), Some("https://shop.example/a?b=c"));
    assert_eq!(value(&all, "x-original-method"), Some("GET"));
    assert_eq!(value(&all, "x-auth-request-redirect"), Some("/a?b=c"));
    assert_eq!([value(&all, "cookie"), value(&all, "x-other")], [Some("s=1"), Some("o")]);
    assert_eq!([value(&all, "connection"), value(&all, "content-length")], [None, None]);
    let request_headers = HeaderChoice::Only(vec!["x-other".into(), "connection".into()]);
    let (_, _, some) = sent(Authorizer { request_headers, ..asked() });
    assert_eq!([value(&some, "cookie"), value(&some, "connection")], [None, None]);
    assert_eq!(value(&some, "x-other"), Some("o"));
    assert_eq!(value(&some, "authorization"), Some("Bearer a.b.c"), "always");
}

#[test]
fn where_asked_for_it_gets_method_and_path_of_the_request() {
    let path = AuthorizerPath::Before("/ext/".into());
    let (method, path, _) = sent(Authorizer { path, method: None, ..asked() });
    assert_eq!((method, &*path), (Method::GET, "/ext/a?b=c"));
}

fn concluded(asked: Authorizer, status: u16, all: &[(&'static str, &'static str)]) -> Outcome {
    let own = fields(&CLIENT);
    let body = Some(Bytes::from_static(b"sorry"));
    let status = StatusCode::from_u16(status).unwrap();
    let told = Told { status, fields: fields(all), body };
    check(asked).conclude(Shown::example(&own), Verdict::Told(Ok(told)))
}

fn denied(outcome: Outcome) -> Denied {
    match outcome {
        Outcome::Deny(denied) => *denied,
        other => panic!("{other:?}"),
    }
}

fn granted(outcome: Outcome) -> Grants {
    match outcome {
        Outcome::Pass(grants) => grants,
        other => panic!("{other:?}"),
    }
}

const ANSWER: [(&str, &str); 6] = [
    ("x-user", "ann"),
    ("x-why", "late"),
    ("x-inner", "secret"),
    ("set-cookie", "s=2"),
    ("content-type", "text/html"),
    ("www-authenticate", "Bearer"),
];

#[test]
fn who_passes_brings_the_fields_that_the_backend_is_told_and_no_others() {
    let grants = granted(concluded(asked(), 204, &ANSWER));
    let named =
        |grants: &Grants| grants.add.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    assert_eq!(named(&grants), ["x-user"]);
    assert_eq!(grants.remove, [HeaderName::from_static("x-user")]);
    assert!(grants.to_client.is_empty());
    let silent = granted(concluded(asked(), 200, &[]));
    assert_eq!(silent.remove, [HeaderName::from_static("x-user")], "what the client sent goes");
    let all = Authorizer { to_backend: HeaderChoice::All, cookies: true, ..asked() };
    let grants = granted(concluded(all, 200, &ANSWER));
    assert_eq!(named(&grants), ["x-user", "x-why", "x-inner", "www-authenticate"]);
    assert_eq!(grants.to_client.len(), 1);
}

#[test]
fn only_200_lets_pass_where_the_gateway_api_says_so() {
    let strict = || Authorizer { only_200: true, ..asked() };
    granted(concluded(strict(), 200, &[]));
    assert_eq!(denied(concluded(strict(), 204, &[])).status, 503);
}

#[test]
fn a_refusal_goes_to_the_client_as_it_is_with_the_fields_that_it_may_see() {
    for status in [302, 401, 403, 404, 429] {
        let denied = denied(concluded(asked(), status, &ANSWER));
        assert_eq!(denied.status, status);
        let names: Vec<&str> = denied.fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x-why", "content-type", "www-authenticate"]);
        assert_eq!(denied.body.as_deref(), Some(&b"sorry"[..]));
    }
}

#[test]
fn who_has_to_sign_in_is_sent_there_and_told_where_to_come_back_to() {
    let url = |url: &str, back: Option<&str>| {
        let sign_in = Some(SignIn { url: url.into(), back: back.map(Into::into) });
        let asked = Authorizer { sign_in, cookies: true, ..asked() };
        let denied = denied(concluded(asked, 401, &ANSWER));
        assert_eq!(denied.status, 302);
        assert_eq!(denied.fields[0].0, header::SET_COOKIE);
        denied.fields[1].1.to_str().unwrap().to_owned()
    };
    assert_eq!(
        url("https://id.example/start", Some("rd")),
        "https://id.example/start?rd=https%3A%2F%2Fshop.example%2Fa%3Fb%3Dc"
    );
    assert_eq!(
        url("https://$host/oauth2/start?rd=$escaped_request_uri", None),
        "https://shop.example/oauth2/start?rd=%2Fa%3Fb%3Dc"
    );
    let sign_in = Some(SignIn { url: "/in".into(), back: None });
    let asked = Authorizer { sign_in, ..asked() };
    assert_eq!(denied(concluded(asked, 403, &[])).status, 403, "signing in would not help");
}

#[test]
fn when_it_fails_nobody_passes_unless_it_is_said() {
    let own = fields(&CLIENT);
    let failures = || {
        let failed =
            [AuthorizerFailure::Failed, AuthorizerFailure::Timeout, AuthorizerFailure::Busy];
        failed.map(|failure| Verdict::Told(Err(failure)))
    };
    for verdict in failures() {
        let outcome = check(asked()).conclude(Shown::example(&own), verdict);
        assert_eq!(denied(outcome).status, 503);
    }
    assert_eq!(denied(concluded(asked(), 500, &ANSWER)).status, 503);
    let open = || Authorizer { fail_open: true, ..asked() };
    for verdict in failures() {
        let grants = granted(check(open()).conclude(Shown::example(&own), verdict));
        assert_eq!(grants.remove, [HeaderName::from_static("x-user")], "nobody says who it is");
        assert!(grants.add.is_empty());
    }
    granted(concluded(open(), 500, &ANSWER));
    let whom = Whom::Nowhere(500);
    let lost = Arc::new(AuthorizerCheck::compile(&Arc::new(open()), whom).unwrap());
    assert_eq!(denied(lost.begin()).status, 500);
}
