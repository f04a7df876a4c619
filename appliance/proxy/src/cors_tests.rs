use super::*;

fn policy(origins: &[&str], credentials: bool, names: &[&str]) -> CorsPolicy {
    let all = |all: &[&str]| all.iter().map(|one| (*one).into()).collect::<Vec<_>>();
    CorsPolicy::compile(&Cors {
        origins: all(origins),
        credentials,
        methods: all(names),
        headers: all(names),
        expose: all(names),
        max_age_secs: 5,
    })
}

fn map(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
    };
    pairs.iter().map(pair).collect()
}

fn shown(fields: &HeaderMap) -> Vec<String> {
    let pair = |(name, value): (&HeaderName, &HeaderValue)| {
        format!("{}: {}", name.as_str().replace("access-control-", ""), value.to_str().unwrap())
    };
    let mut all: Vec<_> = fields.iter().map(pair).collect();
    all.sort();
    all
}

fn preflight(policy: &CorsPolicy, asked: &[(&str, &str)]) -> Vec<String> {
    shown(&policy.preflight(&map(asked)).into_iter().collect())
}

fn decorated(policy: &CorsPolicy, origin: &str, answer: &[(&str, &str)]) -> Vec<String> {
    let mut answer = map(answer);
    let names = |answer: &HeaderMap| answer.keys().cloned().collect();
    policy.decorate(&map(&[("origin", origin)]), &mut answer, names);
    shown(&answer)
}

#[test]
fn an_origin_fits_by_scheme_host_and_port() {
    for (own, origin, expected) in [
        ("https://www.foo.com", "https://www.foo.com", true),
        ("https://www.foo.com", "https://WWW.foo.com", true),
        ("https://www.foo.com", "https://www.foo.com:443", true),
        ("https://www.foo.com", "http://www.foo.com", false),
        ("https://www.foo.com", "https://www.foo.com:8443", false),
        ("https://www.foo.com:8443", "https://www.foo.com:8443", true),
        ("https://*.bar.com", "https://www.bar.com", true),
        ("https://*.bar.com", "https://xpto.www.bar.com", true),
        ("https://*.bar.com", "https://bar.com", false),
        ("https://*.bar.com", "https://xbar.com", false),
        ("http://*", "http://any.where", true),
        ("http://*", "http://any.where:81", false),
        ("http://*:81", "http://any.where:81", true),
        ("*", "https://foobar.com:12345", true),
        ("*", "null", true),
        ("https://*", "null", false),
        ("nonsense", "nonsense", false),
    ] {
        let allowed = policy(&[own], false, &[]).allowed(&map(&[("origin", origin)])).is_some();
        assert_eq!(allowed, expected, "{own} {origin}");
    }
}

#[test]
fn a_preflight_request_is_told_what_is_allowed() {
    let asked = [
        ("origin", "https://a.example"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-a, x-b"),
    ];
    assert!(is_preflight(&Method::OPTIONS, &map(&asked)));
    assert!(!is_preflight(&Method::GET, &map(&asked)));
    assert!(!is_preflight(&Method::OPTIONS, &map(&asked[..1])));
    assert_eq!(
        preflight(&policy(&["https://a.example"], true, &["GET", "PUT"]), &asked),
        [
            "allow-credentials: true",
            "allow-headers: GET, PUT",
            "allow-methods: GET, PUT",
            "allow-origin: https://a.example",
            "expose-headers: GET, PUT",
            "max-age: 5",
            "vary: Origin",
        ]
    );
    assert_eq!(preflight(&policy(&["https://b.example"], true, &["*"]), &asked), ["vary: Origin"]);
}

#[test]
fn of_every_name_those_that_are_asked_for_are_allowed() {
    let asked = [
        ("origin", "https://a.example"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-a, x-b"),
    ];
    for credentials in [false, true] {
        let told = preflight(&policy(&["*"], credentials, &["*"]), &asked);
        assert!(told.contains(&"allow-methods: PUT".to_owned()), "{told:?}");
        assert!(told.contains(&"allow-headers: x-a, x-b".to_owned()), "{told:?}");
        assert!(told.contains(&"allow-origin: https://a.example".to_owned()), "{told:?}");
        let told = preflight(&policy(&["*"], credentials, &["*"]), &asked[..2]);
        assert!(!told.iter().any(|field| field.starts_with("allow-headers")), "{told:?}");
    }
}

#[test]
fn the_rule_alone_decides_what_an_answer_says_about_origins() {
    let answer = [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("content-type", "a/b"),
        ("x-a", "1"),
    ];
    let kept = ["content-type: a/b", "vary: Origin", "x-a: 1"];
    let strict = policy(&["https://a.example"], true, &["*"]);
    assert_eq!(decorated(&strict, "https://b.example", &answer), kept);
    let told = decorated(&strict, "https://a.example", &answer);
    let own = ["allow-credentials: true", "allow-origin: https://a.example", "expose-headers: x-a"];
    assert_eq!(told, [&own[..1], &own[1..2], &kept[..1], &own[2..], &kept[1..]].concat());
    let open = policy(&["*"], false, &["*"]);
    let told = decorated(&open, "https://b.example", &answer[2..]);
    assert!(told.contains(&"expose-headers: *".to_owned()), "{told:?}");
    assert!(!told.iter().any(|field| field.starts_with("allow-credentials")), "{told:?}");
}
