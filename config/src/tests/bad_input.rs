//! Each case: a text, and for the one problem in it line, field, value and remedy.

use super::*;

struct Case {
    text: &'static str,
    line: usize,
    field: &'static str,
    /// What the message shows of the value; empty when the value is missing or a secret.
    value: &'static str,
    remedy: &'static str,
}

const fn case(
    text: &'static str,
    line: usize,
    field: &'static str,
    value: &'static str,
    remedy: &'static str,
) -> Case {
    Case { text, line, field, value, remedy }
}

const PEER: &str = "[bgp]\nlocal_as = 64512\nrouter_id = \"192.0.2.1\"\nlisten = \"[::]:179\"\n\
                    [[bgp.peer]]\nname = \"a\"\naddress = \"203.0.113.1\"\nremote_as = 64500\n";

const CLUSTER: &str = "[[cluster]]\nname = \"prod\"\nkubeconfig = \"/dev/null\"\n";

const POOL: &str = "[[pool]]\nname = \"a\"\naddresses = [\"192.0.2.0/24\"]\n";

const ZONE: &str = "[[dns.zone]]\nname = \"example.org\"\nservers = [\"192.0.2.53\"]\n";

/// Problems of keys, types and bounds.
const SHAPES: &[Case] = &[
    case("[hsot]\n", 1, "hsot", "[hsot]", "`host`"),
    case("colour = 1\n", 1, "colour", "1", "the keys here are"),
    case("\n[host]\nnmae = \"a\"\n", 3, "host.nmae", "\"a\"", "`name`"),
    case("[bgp]\nhold_time = 9\n", 2, "bgp.hold_time", "9", "`hold_time_secs`"),
    case("host = 5\n", 1, "host", "5", "a table"),
    case("[host]\nname = 5\n", 2, "host.name", "5", "text in double quotes"),
    case("[host]\nname = 2026-11-23\n", 2, "host.name", "2026-11-23", "text in double quotes"),
    case("[vips]\nbind = \"yes\"\n", 2, "vips.bind", "\"yes\"", "true or false"),
    case("[routes]\nenabled = 1\n", 2, "routes.enabled", "1", "true or false"),
    case("pool = \"a\"\n", 1, "pool", "\"a\"", "[[…]]"),
    case("[pool]\nname = \"a\"\n", 1, "pool", "[pool]", "[[…]]"),
    case("[proxy]\naddresses = \"192.0.2.1\"\n", 2, "proxy.addresses", "\"192.0.2.1\"", "a list"),
    case("[proxy]\naddresses = [7]\n", 2, "proxy.addresses[0]", "7", "text in double quotes"),
    case("[log]\nformat = \"jsn\"\n", 2, "log.format", "\"jsn\"", "\"json\""),
    case("[log]\nformat = true\n", 2, "log.format", "true", "\"text\", \"json\""),
    case("[bgp]\nhold_time_secs = 1\n", 2, "bgp.hold_time_secs", "1", "from 3 to 65535"),
    case("[bgp]\nhold_time_secs = 2\n", 2, "bgp.hold_time_secs", "2", "from 3 to 65535"),
    case("[bgp]\nhold_time_secs = 0\n", 2, "bgp.hold_time_secs", "0", "from 3 to 65535"),
    case("[bgp]\nhold_time_secs = 9.5\n", 2, "bgp.hold_time_secs", "9.5", "a whole number"),
    case("[bgp]\nlocal_as = 0\n", 2, "bgp.local_as", "0", "from 1 to 4294967294"),
    case("[bgp]\nlocal_as = 4294967296\n", 2, "bgp.local_as", "4294967296", "to 4294967294"),
    case("[relay]\nconnect_timeout_ms = 0\n", 2, "relay.connect_timeout_ms", "0", "from 10"),
    case("[relay]\npipes_max = -1\n", 2, "relay.pipes_max", "-1", "from 0"),
    case("[relay]\nconnections_max = 0\n", 2, "relay.connections_max", "0", "from 1"),
    case("[proxy]\nhttp_port = 70000\n", 2, "proxy.http_port", "70000", "to 65535"),
    case("[proxy]\nworkers = 0\n", 2, "proxy.workers", "0", "from 1 to 256"),
    case("[dns]\nrefresh_secs = 1\n", 2, "dns.refresh_secs", "1", "from 10"),
    case(
        "[limits]\nupdates_max = 99999999999999999999999\n",
        2,
        "limits.updates_max",
        "99999999999999999999999",
        "to 1048576",
    ),
    case("[l4]\nmode = \"xdp\"\n", 2, "l4.mode", "\"xdp\"", "\"dsr\""),
    case("[l4.timeouts]\nclosed_secs = 0\n", 2, "l4.timeouts.closed_secs", "0", "from 1 to 3600"),
    case("[xdp]\nattach = \"skb\"\n", 2, "xdp.attach", "\"skb\"", "\"generic\""),
    case("[xdp]\nflows_max = 1000\n", 2, "xdp.flows_max", "1000", "from 1024 to 16777216"),
    case("[xdp]\ninterfaces = \"eth0\"\n", 2, "xdp.interfaces", "\"eth0\"", "a list"),
    case("[xdp]\nnat_ports = 1024\n", 2, "xdp.nat_ports", "1024", "text in double quotes"),
    case("[host]\nname = \"a\n", 2, "", "", "text in double quotes"),
    case("[host\n", 1, "", "", "sections as [section]"),
    case("[host]\nname = \"a\"\nname = \"b\"\n", 3, "", "", "one `key = value` a line"),
];

/// Values of the right type that make no sense.
const SENSE: &[Case] = &[
    case("[host]\nname = \"edge one\"\n", 2, "host.name", "\"edge one\"", "\"edge-1\""),
    case("[host]\nstate_dir = \"\"\n", 2, "host.state_dir", "\"\"", "write a path"),
    case("[admin]\nlisten = \"127.0.0.1\"\n", 2, "admin.listen", "\"127.0.0.1\"", "127.0.0.1:PORT"),
    case("[admin]\nlisten = \"::1\"\n", 2, "admin.listen", "\"::1\"", "[::1]:PORT"),
    case("[admin]\nlisten = \"[::1]:0\"\n", 2, "admin.listen", "\"[::1]:0\"", "from 1 to 65535"),
    case("[log]\nlevel = \"inof\"\n", 2, "log.level", "\"inof\"", "\"info\""),
    case("[log]\nlevel = \"=debug\"\n", 2, "log.level", "\"=debug\"", "haflinger_bgp=debug"),
    case("[inventory]\npath = \"\"\n", 2, "inventory.path", "\"\"", "write a path"),
    case("[vips]\ninterface = \"a b\"\n", 2, "vips.interface", "\"a b\"", "15 bytes"),
    case(
        "[vips]\ninterface = \"a-very-long-interface\"\n",
        2,
        "vips.interface",
        "\"a-very-long-interface\"",
        "15 bytes",
    ),
    case("[xdp]\ninterfaces = [\"a b\"]\n", 2, "xdp.interfaces[0]", "\"a b\"", "\"eth0\""),
    case("[xdp]\nnat_addresses = [\"::\"]\n", 2, "xdp.nat_addresses[0]", "\"::\"", "192.0.2.1"),
    case(
        "[xdp]\nnat_addresses = [\"127.0.0.1\"]\n",
        2,
        "xdp.nat_addresses[0]",
        "\"127.0.0.1\"",
        "routes to this host alone",
    ),
    case(
        "[xdp]\nnat_addresses = [\"fe80::1\"]\n",
        2,
        "xdp.nat_addresses[0]",
        "\"fe80::1\"",
        "routes to this host alone",
    ),
    case("[xdp]\nnat_ports = \"1024\"\n", 2, "xdp.nat_ports", "\"1024\"", "\"1024-65535\""),
    case("[xdp]\nnat_ports = \"0-9\"\n", 2, "xdp.nat_ports", "\"0-9\"", "\"1024-65535\""),
    case("[xdp]\nnat_ports = \"9-70000\"\n", 2, "xdp.nat_ports", "\"9-70000\"", "highest port"),
    case("[xdp]\nnat_ports = \"9-1\"\n", 2, "xdp.nat_ports", "\"9-1\"", "write \"1-9\""),
    case("[xdp]\npin_dir = \"\"\n", 2, "xdp.pin_dir", "\"\"", "write a path"),
    case("[routes]\ntable = 255\n", 2, "routes.table", "255", "254"),
    case("[[cluster]]\nkubeconfig = \"/dev/null\"\n", 1, "cluster[0].name", "", "name = \"prod\""),
    case("[[cluster]]\nname = \"prod\"\n", 1, "cluster[0].kubeconfig", "", "kubeconfig file"),
    case("[[pool]]\nname = \"a\"\n", 1, "pool[0].addresses", "", "192.0.2.0/24"),
    case("[[pool]]\naddresses = [\"192.0.2.1\"]\n", 1, "pool[0].name", "", "name = \"public\""),
    case(
        "[[pool]]\nname = \"a\"\naddresses = [\"192.0.2.255\"]\nskip_0_and_255 = true\n",
        4,
        "pool[0].skip_0_and_255",
        "true",
        "add other addresses",
    ),
    pool("x", "192.0.2.10-192.0.2.20"),
    pool("192.0.2.0/33", "\"192.0.2.0/24\""),
    pool("192.0.2.9/24", "write \"192.0.2.0/24\""),
    pool("192.0.2.9-192.0.2.1", "write \"192.0.2.1-192.0.2.9\""),
    pool("192.0.2.9-2001:db8::1", "lowest and the highest"),
    pool("0.0.0.0/0", "a client can connect to"),
    pool("224.0.0.0/24", "a client can connect to"),
    pool("::ffff:192.0.2.1", "a client can connect to"),
    case(
        "[dns]\n[[dns.zone]]\nname = \"example.org\"\n",
        2,
        "dns.zone[0].servers",
        "",
        "192.0.2.53",
    ),
    case(
        "[proxy]\naddresses = [\"192.0.2.1:80\"]\n",
        2,
        "proxy.addresses[0]",
        "\"192.0.2.1:80\"",
        "leave out the port",
    ),
    case(
        "[proxy]\ntrusted_proxies = [\"192.0.2.0/40\"]\n",
        2,
        "proxy.trusted_proxies[0]",
        "\"192.0.2.0/40\"",
        "\"192.0.2.0/24\"",
    ),
    case(
        "[proxy.access_log]\nto = \"access.log\"\n",
        2,
        "proxy.access_log.to",
        "\"access.log\"",
        "a path that begins with",
    ),
    case(
        "[proxy]\nrequest_id_header = \"Request ID\"\n",
        2,
        "proxy.request_id_header",
        "\"Request ID\"",
        "\"X-Request-ID\"",
    ),
    case(
        "[proxy]\nrequest_id_header = \"Cookie\"\n",
        2,
        "proxy.request_id_header",
        "\"Cookie\"",
        "\"X-Request-ID\"",
    ),
];

const fn pool(address: &'static str, remedy: &'static str) -> Case {
    Case { text: "", line: 3, field: "pool[0].addresses[0]", value: address, remedy }
}

/// What follows a sound pool of three lines.
const AFTER_POOL: &[Case] = &[
    case("namespaces = [\"Shop\"]\n", 4, "pool[0].namespaces[0]", "\"Shop\"", "lower-case"),
    case("namespace_labels = [\"\"]\n", 4, "pool[0].namespace_labels[0]", "\"\"", "env in (prod"),
    case(
        "service_labels = [\"a in (b\"]\n",
        4,
        "pool[0].service_labels[0]",
        "\"a in (b\"",
        "kubectl",
    ),
    case("priority = 1001\n", 4, "pool[0].priority", "1001", "from 0 to 1000"),
    case("skip_0_and_255 = 1\n", 4, "pool[0].skip_0_and_255", "1", "true or false"),
];

/// What follows a sound cluster (3 lines), peer (8 lines) or zone (3 lines).
const AFTER_CLUSTER: &[Case] = &[
    case("lease_renew_secs = 10\n", 4, "cluster[0].lease_renew_secs", "10", "at most 7"),
    case("ingress_class = \"a b\"\n", 4, "cluster[0].ingress_class", "\"a b\"", "example.org"),
    case("lease_namespace = \"A\"\n", 4, "cluster[0].lease_namespace", "\"A\"", "lower-case"),
    case(
        "[[cluster]]\nname = \"prod\"\nkubeconfig = \"/dev/zero\"\n",
        5,
        "cluster[1].name",
        "\"prod\"",
        "choose another",
    ),
    case(
        "[[cluster]]\nname = \"other\"\nkubeconfig = \"/dev/null\"\n",
        6,
        "cluster[1].kubeconfig",
        "\"/dev/null\"",
        "choose another",
    ),
];

const AFTER_PEER: &[Case] = &[
    case("local_address = \"::1\"\n", 9, "bgp.peer[0].local_address", "\"::1\"", "family"),
    case(
        "local_address = \"203.0.113.1\"\n",
        9,
        "bgp.peer[0].local_address",
        "\"203.0.113.1\"",
        "of this host",
    ),
    case("next_hop_v4 = \"::1\"\n", 9, "bgp.peer[0].next_hop_v4", "\"::1\"", "next_hop_v6"),
    case(
        "next_hop_v6 = \"192.0.2.1\"\n",
        9,
        "bgp.peer[0].next_hop_v6",
        "\"192.0.2.1\"",
        "next_hop_v4",
    ),
    case("next_hop_v6 = \"::\"\n", 9, "bgp.peer[0].next_hop_v6", "\"::\"", "2001:db8::1"),
    case("multihop = 0\n", 9, "bgp.peer[0].multihop", "0", "from 1 to 255"),
    case("password = \"\"\n", 9, "bgp.peer[0].password", "", "1 to 80 bytes"),
    case(
        "password = \"a\"\npassword_file = \"b\"\n",
        9,
        "bgp.peer[0].password",
        "",
        "take `password` out",
    ),
    case(
        "password_file = \"/missing/file\"\n",
        9,
        "bgp.peer[0].password_file",
        "\"/missing/file\"",
        "create the file",
    ),
    case("communities = [\"1\"]\n", 9, "bgp.peer[0].communities[0]", "\"1\"", "AS:VALUE"),
    case("communities = [\"1:70000\"]\n", 9, "bgp.peer[0].communities[0]", "\"1:70000\"", "65535"),
    case(
        "[[bgp.peer]]\nname = \"b\"\naddress = \"203.0.113.1\"\nremote_as = 1\n",
        11,
        "bgp.peer[1].address",
        "\"203.0.113.1\"",
        "choose another",
    ),
    case(
        "[[bgp.peer]]\nname = \"a\"\naddress = \"203.0.113.2\"\nremote_as = 1\n",
        10,
        "bgp.peer[1].name",
        "\"a\"",
        "choose another",
    ),
    case(
        "[[bgp.peer]]\nname = \"b\"\naddress = \"fe80::1\"\nremote_as = 1\n",
        11,
        "bgp.peer[1].address",
        "\"fe80::1\"",
        "global",
    ),
    case(
        "[[bgp.peer]]\nname = \"b\"\naddress = \"203.0.113.2\"\nremote_as = 23456\n",
        12,
        "bgp.peer[1].remote_as",
        "23456",
        "64512 to 65534",
    ),
    case(
        "[[bgp.peer]]\nname = \"b\"\nremote_as = 1\n",
        9,
        "bgp.peer[1].address",
        "",
        "203.0.113|192.0.2.254",
    ),
    case(
        "[[pool]]\nname = \"p\"\naddresses = [\"2001:db8::/64\"]\n",
        11,
        "pool[0].addresses",
        "[\"2001:db8::/64\"]",
        "`next_hop_v6`",
    ),
    case(
        "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.0/24\"]\n",
        7,
        "bgp.peer[0].address",
        "\"203.0.113.1\"",
        "out of the pool",
    ),
    case("[admin]\nlisten = \"[::]:179\"\n", 4, "bgp.listen", "\"[::]:179\"", "another port"),
];

const AFTER_ZONE: &[Case] = &[
    case("key = \"c2VjcmV0\"\n", 1, "dns.zone[0].key_name", "", "the key's name"),
    case("key_name = \"k\"\n", 1, "dns.zone[0].key_file", "", "take `key_name` out"),
    case("key_name = \"k\"\nkey = \"%%\"\n", 5, "dns.zone[0].key", "", "tsig-keygen"),
    case(
        "key_name = \"k\"\nkey = \"YQ==\"\nkey_file = \"b\"\n",
        5,
        "dns.zone[0].key",
        "",
        "keep `key_file`",
    ),
    case(
        "key_algorithm = \"hmac-md5\"\n",
        4,
        "dns.zone[0].key_algorithm",
        "\"hmac-md5\"",
        "hmac-sha256",
    ),
    case(
        "policy = \"upsert_only\"\n",
        4,
        "dns.zone[0].policy",
        "\"upsert_only\"",
        "\"upsert-only\"",
    ),
    case("ttl_secs = 0\n", 4, "dns.zone[0].ttl_secs", "0", "from 1"),
    case("owner = \"a b\"\n", 4, "dns.zone[0].owner", "\"a b\"", "1 to 63"),
    case(
        "[[dns.zone]]\nname = \"EXAMPLE.org.\"\nservers = [\"192.0.2.53\"]\n",
        5,
        "dns.zone[1].name",
        "\"EXAMPLE.org.\"",
        "choose another",
    ),
    case(
        "[[dns.zone]]\nname = \"a..b\"\nservers = [\"192.0.2.53\"]\n",
        5,
        "dns.zone[1].name",
        "\"a..b\"",
        "example.org",
    ),
    case(
        "[[dns.zone]]\nname = \"b\"\nservers = [\"ns.example.org\"]\n",
        6,
        "dns.zone[1].servers[0]",
        "\"ns.example.org\"",
        "192.0.2.53",
    ),
];

/// Two values that cannot both be meant.
const CONTRADICTIONS: &[Case] = &[
    case("[proxy]\nhttp_port = 443\n", 2, "proxy.http_port", "443", "two different ports"),
    case("[proxy]\nhttps_port = 80\n", 2, "proxy.https_port", "80", "two different ports"),
    case("[limits]\nstop_secs = 10\n", 2, "limits.stop_secs", "10", "stop_secs = 31"),
    case("[relay]\ndrain_secs = 600\n", 2, "relay.drain_secs", "600", "stop_secs = 601"),
    case("[relay]\nconnections_max = 9\n", 2, "relay.connections_max", "9", "not above the whole"),
    case(
        "[relay]\nconnect_timeout_ms = 9000\n",
        2,
        "relay.connect_timeout_ms",
        "9000",
        "not below the time of one",
    ),
    case(
        "[proxy]\naddresses = [\"192.0.2.1\", \"192.0.2.1\"]\n",
        2,
        "proxy.addresses[1]",
        "\"192.0.2.1\"",
        "choose another",
    ),
    case("[xdp]\nflows_max = 1024\n", 2, "xdp.flows_max", "1024", "not above the other"),
    case(
        "[xdp]\nopening_flows_max = 1000000\n",
        2,
        "xdp.opening_flows_max",
        "1000000",
        "not above the other",
    ),
    case(
        "[xdp]\ninterfaces = [\"eth0\", \"eth0\"]\n",
        2,
        "xdp.interfaces[1]",
        "\"eth0\"",
        "choose another",
    ),
    case(
        "[xdp]\nnat_addresses = [\"192.0.2.1\", \"192.0.2.1\"]\n",
        2,
        "xdp.nat_addresses[1]",
        "\"192.0.2.1\"",
        "choose another",
    ),
    case(
        "[xdp]\nnat_addresses = [\"192.0.2.9\"]\n[[pool]]\nname = \"a\"\n\
         addresses = [\"192.0.2.0/24\"]\n",
        2,
        "xdp.nat_addresses[0]",
        "\"192.0.2.9\"",
        "in no pool",
    ),
    case(
        "[xdp]\nnat_addresses = [\"192.0.2.9\"]\n[proxy]\naddresses = [\"192.0.2.9\"]\n",
        2,
        "xdp.nat_addresses[0]",
        "\"192.0.2.9\"",
        "no VIP",
    ),
    case(
        "[admin]\nlisten = \"0.0.0.0:80\"\n[proxy]\naddresses = [\"192.0.2.1\"]\n",
        4,
        "proxy.addresses[0]",
        "\"192.0.2.1\"",
        "another port",
    ),
    case(
        "[[pool]]\nname = \"a\"\naddresses = [\"192.0.2.0/24\"]\n\
         [[pool]]\nname = \"b\"\naddresses = [\"192.0.2.128-192.0.3.9\"]\n",
        6,
        "pool[1].addresses[0]",
        "\"192.0.2.128-192.0.3.9\"",
        "one pool only",
    ),
    case(
        "[[pool]]\nname = \"a\"\naddresses = [\"192.0.2.0/24\", \"192.0.2.7\"]\n",
        3,
        "pool[0].addresses[1]",
        "\"192.0.2.7\"",
        "one pool only",
    ),
    case(
        "[[pool]]\nname = \"a\"\naddresses = [\"192.0.2.1\"]\n\
         [[pool]]\nname = \"a\"\naddresses = [\"192.0.2.2\"]\n",
        5,
        "pool[1].name",
        "\"a\"",
        "choose another",
    ),
    case(
        "[bgp]\nlocal_as = 1\nrouter_id = \"192.0.2.1\"\n[[bgp.peer]]\nname = \"a\"\n\
         address = \"203.0.113.1\"\nremote_as = 2\npassive = true\n",
        8,
        "bgp.peer[0].passive",
        "true",
        "listen = \"[::]:179\"",
    ),
    case(
        "[bgp]\nlocal_as = 1\n[[bgp.peer]]\nname = \"a\"\naddress = \"203.0.113.1\"\nremote_as = 2\n",
        1,
        "bgp.router_id",
        "",
        "router_id = \"192.0.2.1\"",
    ),
    case(
        "[bgp]\nrouter_id = \"192.0.2.1\"\n[[bgp.peer]]\nname = \"a\"\naddress = \"203.0.113.1\"\n\
         remote_as = 2\n",
        1,
        "bgp.local_as",
        "",
        "autonomous system",
    ),
    case(
        "[bgp]\nrouter_id = \"2001:db8::1\"\n",
        2,
        "bgp.router_id",
        "\"2001:db8::1\"",
        "four numbers",
    ),
    case("[bgp]\nrouter_id = \"0.0.0.0\"\n", 2, "bgp.router_id", "\"0.0.0.0\"", "of this host"),
    case("[bgp]\nlisten = \"179\"\n", 2, "bgp.listen", "\"179\"", "[::]:179"),
];

fn check(text: &str, case: &Case) {
    let errors = load(text).expect_err(text);
    let found: Vec<&Problem> = errors.problems().iter().collect();
    assert_eq!(found.len(), 1, "one problem was expected in\n{text}\n{errors}");
    let shown = errors.to_string();
    assert_eq!(found[0].place.line(), Some(case.line), "{shown}");
    assert!(shown.starts_with(&format!("error: haflinger.toml:{}:", case.line)), "{shown}");
    assert_eq!(found[0].field, case.field, "{shown}");
    assert!(shown.contains(case.field), "{shown}");
    match (&found[0].value, case.value) {
        (None, "") => {}
        (Some(value), wanted) => assert!(shown.contains(wanted) && value == wanted, "{shown}"),
        (None, wanted) => panic!("the value {wanted} is not shown: {shown}"),
    }
    let any = case.remedy.split('|').any(|remedy| found[0].remedy.contains(remedy));
    assert!(any && shown.contains(&found[0].remedy), "{shown}");
    assert!(shown.ends_with("the configuration has 1 error"), "{shown}");
}

#[test]
fn keys_types_and_bounds_are_refused_with_place_and_remedy() {
    for case in SHAPES {
        check(case.text, case);
    }
}

#[test]
fn values_without_sense_are_refused_with_place_and_remedy() {
    for case in SENSE {
        if case.text.is_empty() {
            let text = format!("[[pool]]\nname = \"a\"\naddresses = [\"{}\"]\n", case.value);
            let value: &'static str = format!("\"{}\"", case.value).leak();
            check(&text, &Case { text: "", value, ..*case });
        } else {
            check(case.text, case);
        }
    }
}

#[test]
fn clusters_peers_and_zones_are_refused_with_place_and_remedy() {
    for (sound, cases) in
        [(POOL, AFTER_POOL), (CLUSTER, AFTER_CLUSTER), (PEER, AFTER_PEER), (ZONE, AFTER_ZONE)]
    {
        load(sound).unwrap_or_else(|errors| panic!("{errors}"));
        for case in cases {
            check(&format!("{sound}{}", case.text), case);
        }
    }
}

#[test]
fn contradictions_are_refused_with_place_and_remedy() {
    for case in CONTRADICTIONS {
        check(case.text, case);
    }
}

#[test]
fn there_are_enough_cases() {
    let cases = [SHAPES, SENSE, AFTER_POOL, AFTER_CLUSTER, AFTER_PEER, AFTER_ZONE, CONTRADICTIONS];
    assert!(cases.iter().map(|cases| cases.len()).sum::<usize>() > 100);
}

#[test]
fn everything_that_is_wrong_is_reported_at_once_in_the_order_of_the_file() {
    let text = "[host]\nnmae = 1\nname = 2\n[relay]\nconnect_timeout_ms = 0\n[[pool]]\n\
                addresses = [5, \"x\", \"192.0.2.0/24\"]\n[log]\nx = [\n";
    let errors = load(text).expect_err("it is full of problems");
    let found: Vec<(Option<usize>, &str)> = errors
        .problems()
        .iter()
        .map(|problem| (problem.place.line(), problem.field.as_str()))
        .collect();
    let wanted = [
        (Some(2), "host.nmae"),
        (Some(3), "host.name"),
        (Some(5), "relay.connect_timeout_ms"),
        (Some(6), "pool[0].name"),
        (Some(7), "pool[0].addresses[0]"),
        (Some(7), "pool[0].addresses[1]"),
        (Some(9), "log.x"),
    ];
    for problem in wanted {
        assert!(found.contains(&problem), "{problem:?} is missing in {found:?}");
    }
    let mut sorted = found.clone();
    sorted.sort_by_key(|(line, _)| *line);
    assert_eq!(found, sorted);
}

#[test]
fn a_problem_of_a_part_does_not_cause_a_second_one() {
    let errors = load("[[cluster]]\nname = 5\nkubeconfig = \"/dev/null\"\n").expect_err("a number");
    assert_eq!(errors.problems().len(), 1, "{errors}");
    let errors = load("[[cluster]]\n[[cluster]]\n").expect_err("both are empty");
    assert_eq!(errors.problems().len(), 4, "{errors}");
    let errors = load("cluster = [5]\n").expect_err("a number");
    assert_eq!(errors.problems().len(), 1, "{errors}");
}

#[test]
fn a_contradiction_names_the_line_of_the_other_value() {
    let text = "[[pool]]\nname = \"a\"\naddresses = [\"192.0.2.0/24\"]\n\
                [[pool]]\nname = \"b\"\naddresses = [\"192.0.2.200-192.0.3.9\"]\n";
    let shown = load(text).expect_err("they overlap").to_string();
    assert!(shown.contains("pool[0].addresses[0] (line 3)"), "{shown}");
    assert!(shown.contains("192.0.2.200-192.0.2.255"), "{shown}");
}

#[test]
fn a_block_shows_the_line_and_underlines_the_value() {
    let shown = load("[bgp]\nhold_time_secs = 2\n").expect_err("too short").to_string();
    let wanted = "error: haflinger.toml:2:18: bgp.hold_time_secs\n   |\n 2 | hold_time_secs = 2\n   \
                  |                  ^\n  value:  2\n  reason: it is below 3\n  remedy: write a \
                  whole number from 3 to 65535\n\nthe configuration has 1 error";
    assert_eq!(shown, wanted);
}

#[test]
fn a_file_that_cannot_be_read_is_refused_with_its_name() {
    let home = tempfile::tempdir().expect("a directory");
    let load = |path: std::path::PathBuf| {
        let file = FileSource::Path(path);
        Config::load(&Sources { file, ..Sources::text("", "") }).expect_err("unreadable")
    };
    let shown = load(home.path().join("missing.toml")).to_string();
    assert!(shown.contains("missing.toml") && shown.contains("name a file that exists"), "{shown}");
    let latin = home.path().join("latin.toml");
    std::fs::write(&latin, b"[host]\nzone = \"\xe4\"\n").expect("a file");
    let shown = load(latin).to_string();
    assert!(shown.contains("UTF-8 from line 2"), "{shown}");
    let large = home.path().join("large.toml");
    let size = usize::try_from(FILE_BYTES_MAX).expect("a size") + 1;
    std::fs::write(&large, vec![b'\n'; size]).expect("a file");
    assert!(load(large).to_string().contains("more than"), "too large");
    assert!(load(home.path().into()).to_string().contains("cannot be read"), "a directory");
}
