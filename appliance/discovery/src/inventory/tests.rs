use std::net::IpAddr;

use haflinger_core::*;

use super::*;

fn load_text(text: &str) -> Result<Vec<SourceUpdate>, InventoryError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("inventory.toml");
    std::fs::write(&path, text).unwrap();
    for (name, content) in [("site.crt", "chain"), ("site.key", "key"), ("site.ocsp", "ocsp")] {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    load(&path).map(|inventory| inventory.updates)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(updates: &[SourceUpdate], name: &str) -> ServiceSpec {
    updates
        .iter()
        .find_map(|update| match update {
            SourceUpdate::Service { object, spec } if *object.name == *name => spec.clone(),
            _ => None,
        })
        .map(|spec| *spec)
        .unwrap()
}

fn slices(updates: &[SourceUpdate]) -> Vec<(String, BackendSlice)> {
    updates
        .iter()
        .filter_map(|update| match update {
            SourceUpdate::Slice { slice, content, .. } => {
                Some((slice.to_string(), *content.clone().unwrap()))
            }
            _ => None,
        })
        .collect()
}

const SMALL: &str = r#"
[[service]]
name = "echo"
addresses = ["127.0.0.1"]
ports = [{ port = 8080 }]
"#;

#[test]
fn a_service_with_everything_is_read() {
    let updates = load_text(
        r#"
        [[service]]
        name = "echo"
        addresses = ["192.0.2.1", "2001:db8::1"]
        ports = [
            { name = "http", port = 80, target_port = 8080 },
            { name = "dns", port = 53, protocol = "udp" },
        ]
        backends = [
            { name = "a", address = "10.0.0.1", weight = 50, zone = "z" },
            { address = "10.0.0.2" },
            { address = "10.0.0.2", ports = { http = 8081 } },
            { address = "2001:db8:1::1" },
        ]
        health_check = { kind = "http", path = "/healthz", port = 9000, interval_ms = 1000 }
        affinity = "client_ip"
        affinity_timeout_secs = 60
        proxy_protocol = "v1"
        source_ranges = ["198.51.100.7/24"]
        hostnames = ["Echo.example.com"]
        ttl_secs = 30
        "#,
    )
    .unwrap();
    let spec = service(&updates, "echo");
    assert_eq!(spec.families, [Family::V4, Family::V6]);
    assert_eq!(spec.algorithm, Algorithm::Source { timeout_secs: 60 });
    assert_eq!(spec.proxy_protocol, ProxyProtocol::V1);
    let check = spec.health_check.unwrap();
    assert_eq!((check.port, check.interval_ms, check.timeout_ms), (Some(9000), 1000, 1000));
    let exposure = spec.exposure.unwrap();
    assert_eq!(exposure.requested, [ip("192.0.2.1"), ip("2001:db8::1")]);
    assert_eq!(exposure.recorded, exposure.requested);
    assert_eq!(exposure.source_ranges, ["198.51.100.0/24".parse().unwrap()]);
    assert_eq!(&*exposure.hostnames[0], "echo.example.com");
    let slices = slices(&updates);
    let names: Vec<_> = slices.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["echo-ipv4-8080-53", "echo-ipv4-8081-53", "echo-ipv6-8080-53"]);
    let backends: Vec<_> =
        slices[0].1.backends.iter().map(|b| (&*b.name, b.weight, b.ready)).collect();
    assert_eq!(backends, [("a", 50, true), ("10.0.0.2", 100, true)]);
    assert_eq!(slices[1].1.ports[0].port, 8081);
}

#[test]
fn backends_may_share_an_address_on_different_ports() {
    let text = format!(
        "{SMALL}backends = [{{ address = \"127.0.0.1\", port = 9001 }}, \
         {{ address = \"127.0.0.1\", port = 9002 }}]"
    );
    let updates = load_text(&text).unwrap();
    let ports: Vec<_> = slices(&updates).iter().map(|(_, slice)| slice.ports[0].port).collect();
    assert_eq!(ports, [9001, 9002]);
}

#[test]
fn a_site_is_served_with_its_files_and_its_service_needs_no_address() {
    let updates = load_text(
        r#"
        [[service]]
        name = "web"
        ports = [{ name = "http", port = 80 }]
        backends = [{ address = "10.0.0.1" }]

        [[site]]
        name = "shop"
        hosts = ["shop.example.com"]
        addresses = ["127.0.0.1"]
        http_port = 8080
        https_port = 8443
        service = "web"
        paths = [{ path = "/api", match = "exact", service = "web", port = "http" }]
        tls = [{ certificate = "site.crt", key = "site.key", ocsp = "site.ocsp" }]
        "#,
    )
    .unwrap();
    assert!(service(&updates, "web").exposure.is_none());
    let site = updates
        .iter()
        .find_map(|update| match update {
            SourceUpdate::Ingress { spec, .. } => spec.clone(),
            _ => None,
        })
        .unwrap();
    assert_eq!((site.http_port, site.https_port), (Some(8080), Some(8443)));
    let rules: Vec<_> = site.rules.iter().map(|r| (r.path_match, &*r.path)).collect();
    assert_eq!(rules, [(PathType::Exact, "/api"), (PathType::Prefix, "/")]);
    let material = updates.iter().find_map(|update| match update {
        SourceUpdate::Certificate { certificate, material } => {
            Some((certificate.clone(), material.clone().unwrap()))
        }
        _ => None,
    });
    let (certificate, material) = material.unwrap();
    assert_eq!(site.tls[0].certificate, certificate);
    assert_eq!(material.key_pem, b"key");
    assert_eq!(material.ocsp_der, b"ocsp");
}

#[test]
fn how_flows_are_forwarded_is_read() {
    let updates = load_text(&format!(
        "{SMALL}{}",
        r#"
        mode = "dsr"
        algorithm = "source"
        affinity_timeout_secs = 60
        connections_max = 1000
        backend_connections_max = 100
        idle_timeout_secs = 900
        udp_timeout_secs = 30
        backends = [
            { address = "10.0.0.1" },
            { address = "10.0.0.2", backup = true },
        ]
        "#
    ))
    .unwrap();
    let spec = service(&updates, "echo");
    assert_eq!(spec.exposure.unwrap().mode, Some(ForwardingMode::Dsr));
    assert_eq!(spec.algorithm, Algorithm::Source { timeout_secs: 60 });
    let limits = [spec.limits.service, spec.limits.backend].map(|limit| limit.map(u32::from));
    assert_eq!(limits, [Some(1000), Some(100)]);
    let timeouts = TimeoutRequest { established_secs: Some(900), udp_secs: Some(30) };
    assert_eq!(spec.timeouts, timeouts);
    let (_, slice) = &slices(&updates)[0];
    assert_eq!(slice.backends.iter().map(|b| b.backup).collect::<Vec<_>>(), [false, true]);

    let plain = load_text(SMALL).unwrap();
    let plain = service(&plain, "echo");
    assert_eq!((plain.algorithm, plain.exposure.unwrap().mode), (Algorithm::Hash, None));
}

#[test]
fn a_site_says_what_its_backends_speak() {
    for (written, speaks) in [
        ("", None),
        ("backend_protocol = \"http1\"", Some(UpstreamProtocol::Http1)),
        ("backend_protocol = \"h2c\"", Some(UpstreamProtocol::Http2)),
        ("backends = { protocol = \"HTTP2\" }", Some(UpstreamProtocol::Http2)),
    ] {
        let text = format!("{SMALL}[[site]]\nname = \"s\"\nservice = \"echo\"\n{written}");
        let updates = load_text(&text).unwrap();
        let found = updates.iter().find_map(|update| match update {
            SourceUpdate::Ingress { spec, .. } => Some(spec.as_ref()?.requests.backends.speaks),
            _ => None,
        });
        assert_eq!(found, Some(speaks), "{written}");
    }
}

#[test]
fn a_site_asks_what_a_policy_may_ask() {
    let text = format!(
        r#"{SMALL}[[site]]
name = "s"
service = "echo"
[site.requests]
clients = {{ deny = ["192.0.2.7"] }}
body_max = "8Mi"
timeouts = {{ request = "10s", backend_request = "2s" }}
retry = {{ codes = [503], attempts = 1 }}
cors = {{ allow_origins = ["https://a.test"] }}
[[site.requests.rates]]
requests = 5
period = "1m"
per = "Header"
header = "X-Key"
"#
    );
    let updates = load_text(&text).unwrap();
    let site = updates.iter().find_map(|update| match update {
        SourceUpdate::Ingress { spec, .. } => spec.clone(),
        _ => None,
    });
    let asked = site.unwrap().requests.wishes;
    assert_eq!(asked.clients.unwrap().deny, ["192.0.2.7/32".parse().unwrap()]);
    assert_eq!(asked.body_max, Some(8 << 20));
    assert_eq!(asked.timeouts, RuleTimeouts { request_ms: Some(10_000), backend_ms: Some(2_000) });
    assert_eq!(asked.retry.unwrap().codes, [503]);
    assert_eq!(asked.cors.unwrap().origins, ["https://a.test".into()]);
    let rate = &asked.rates.unwrap()[0];
    assert_eq!((rate.requests, rate.period_ms, rate.burst, rate.status), (5, 60_000, 5, 429));
    assert_eq!(rate.per, RateKey::Header("x-key".into()));
}

#[test]
fn what_a_site_asks_in_vain_is_said_with_its_line() {
    let head = format!("{SMALL}[[site]]\nname = \"a\"\nservice = \"echo\"\n");
    let base = head.lines().count();
    let site = format!("{head}[[site]]\nname = \"b\"\nservice = \"echo\"\n[site.requests]\n");
    for (written, line, said) in [
        ("body_max = \"8M\"", 5, "requests.body_max: \"8M\" is no size"),
        ("\nrates = [\n{ requests = 1 },\n{ requests = 0 }]", 8, "requests.rates[1].requests"),
        ("timeouts = { request = \"1d\" }", 5, "requests.timeouts.request: \"1d\" is no duration"),
        ("bodyMax = 1", 4, "is not known"),
        ("target_refs = []", 5, "requests.target_refs: key \"target_refs\" is not known"),
        ("clients = { alow = [] }", 5, "requests.clients.alow: key \"alow\" is not known"),
        ("clients = 7", 5, "requests.clients: is of another type"),
    ] {
        let error = load_text(&format!("{site}{written}")).unwrap_err().to_string();
        let place = format!("inventory.toml:{}: site \"b\": ", base + line);
        assert!(error.contains(&place), "{written}: {error}, not at {place}");
        assert!(error.contains(said), "{written}: {error}");
    }
}

#[test]
fn what_is_wrong_is_said_with_file_line_field_value_and_remedy() {
    let backend = |text: &str| format!("{SMALL}backends = [{{ {text} }}]");
    for (text, line, words) in [
        (SMALL.replace("8080", "0"), 5, vec!["ports.port", "\"0\"", "1 to 65535"]),
        (SMALL.replace("127.0.0.1", "x"), 4, vec!["addresses", "\"x\"", "192.0.2.1"]),
        (SMALL.replace("[\"127.0.0.1\"]", "[]"), 3, vec!["echo", "addresses", "site"]),
        (format!("{SMALL}{SMALL}"), 8, vec!["service.name", "\"echo\"", "its own name"]),
        (format!("{SMALL}affinity = \"maybe\""), 6, vec!["affinity", "\"maybe\"", "client_ip"]),
        (format!("{SMALL}mode = \"xdp\""), 6, vec!["mode", "\"xdp\"", "\"dsr\""]),
        (format!("{SMALL}algorithm = \"rr\""), 6, vec!["algorithm", "\"rr\"", "round-robin"]),
        (
            format!("{SMALL}affinity = \"client_ip\"\nalgorithm = \"hash\""),
            7,
            vec!["algorithm", "\"hash\"", "one of the two"],
        ),
        (format!("{SMALL}connections_max = 0"), 6, vec!["connections_max", "1 to 10000000"]),
        (
            format!("{SMALL}backend_connections_max = 10000001"),
            6,
            vec!["backend_connections_max", "1 to 10000000"],
        ),
        (format!("{SMALL}idle_timeout_secs = 0"), 6, vec!["idle_timeout_secs", "1 to 604800"]),
        (format!("{SMALL}udp_timeout_secs = 604801"), 6, vec!["udp_timeout_secs", "1 to 604800"]),
        (
            format!(
                "{}mode = \"nat\"\n[[site]]\nname = \"s\"\nservice = \"echo\"",
                SMALL.replace("[\"127.0.0.1\"]", "[]")
            ),
            6,
            vec!["mode", "\"nat\"", "without addresses"],
        ),
        (format!("{SMALL}source_ranges = [\"all\"]"), 6, vec!["source_ranges", "\"all\"", "CIDR"]),
        (format!("{SMALL}hostnames = [\"a b\"]"), 6, vec!["hostnames", "\"a b\"", "host name"]),
        (format!("{SMALL}ttl_secs = 0"), 6, vec!["ttl_secs", "\"0\"", "1 to 2147483647"]),
        (backend("address = \"10.0.0.1\", weight = 2000000"), 6, vec!["weight", "1000000"]),
        (backend("address = \"10.0.0.1\", ports = { x = 1 }"), 6, vec!["backends.ports", "\"x\""]),
        (
            format!("{SMALL}health_check = {{ kind = \"http\", path = \"x\" }}"),
            6,
            vec!["health_check.path", "\"x\"", "/healthz"],
        ),
        (
            format!(
                "{SMALL}health_check = {{ kind = \"tcp\", interval_ms = 200, timeout_ms = 300 }}"
            ),
            6,
            vec!["timeout_ms", "\"300\"", "1 to 200"],
        ),
        (
            format!("{SMALL}[[site]]\nname = \"s\"\nservice = \"nope\""),
            8,
            vec!["service", "\"nope\"", "[[service]]"],
        ),
        (
            format!("{SMALL}[[site]]\nname = \"s\"\nservice = \"echo\"\nport = 1"),
            9,
            vec!["port", "\"1\"", "one of the service's ports"],
        ),
        (format!("{SMALL}[[site]]\nname = \"s\""), 7, vec!["service", "name a service"]),
        (
            format!("{SMALL}[[site]]\nname = \"s\"\nservice = \"echo\"\nbackend_protocol = \"h2\""),
            9,
            vec!["backend_protocol", "\"h2\"", "h2c"],
        ),
    ] {
        let error = load_text(&text).unwrap_err();
        let message = error.to_string();
        let InventoryError::Value { line: found, .. } = error else {
            panic!("{message} for {text}");
        };
        assert_eq!(found, line, "{message}");
        assert!(message.contains("inventory.toml:"), "{message}");
        for word in words {
            assert!(message.contains(word), "{message} lacks {word}");
        }
    }
}

#[test]
fn unknown_keys_and_wrong_types_are_refused_with_their_line() {
    for (text, line, word) in [
        (format!("{SMALL}adress = 1"), 6, "adress"),
        (SMALL.replace("8080", "\"http\""), 5, "invalid type"),
        (format!("{SMALL}[[sites]]"), 6, "sites"),
        ("[[service]\n".to_owned(), 1, ""),
        (SMALL.replace("port = 8080", "port = 8080, nodeport = 1"), 5, "nodeport"),
    ] {
        let error = load_text(&text).unwrap_err();
        let message = error.to_string();
        let InventoryError::Syntax { line: found, .. } = error else { panic!("{message}") };
        assert_eq!(found, line, "{message}");
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn a_missing_certificate_file_is_named() {
    let text = format!(
        "{SMALL}[[site]]\nname = \"s\"\nservice = \"echo\"\n\
         tls = [{{ certificate = \"none.crt\", key = \"site.key\" }}]"
    );
    let error = load_text(&text).unwrap_err();
    assert!(error.to_string().contains("none.crt"), "{error}");
}

#[test]
fn what_is_no_regular_file_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let refused = load(dir.path()).unwrap_err();
    let InventoryError::Read { source, .. } = refused else { panic!("{refused}") };
    assert_eq!(source.to_string(), "not a regular file");
}

#[test]
fn an_empty_file_is_an_empty_inventory() {
    assert!(load_text("").unwrap().is_empty());
}
