//! Environment and flags over the file, secrets, warnings, and differences.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;

fn with_env(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Errors> {
    let environment =
        variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Config::load(&Sources { environment, ..Sources::text("haflinger.toml", text) })
}

#[test]
fn the_environment_is_stronger_than_the_file_and_a_flag_than_both() {
    let mut sources = Sources::text("haflinger.toml", "[l4.timeouts]\nudp_secs = 10\n");
    let idle = |sources: &Sources| Config::load(sources).expect("sound").config.l4.timeouts.udp;
    assert_eq!(idle(&sources), Duration::from_secs(10));
    sources.environment.push(("HAFLINGER_L4__TIMEOUTS__UDP_SECS".into(), "20".into()));
    assert_eq!(idle(&sources), Duration::from_secs(20));
    sources.flags.push(Flag::new("--udp-secs", "l4.timeouts.udp_secs", 30));
    assert_eq!(idle(&sources), Duration::from_secs(30));
    sources.flags.push(Flag::text("--set", "l4.timeouts.udp_secs", "40"));
    assert_eq!(idle(&sources), Duration::from_secs(40));
}

#[test]
fn a_variable_merges_into_the_section_of_the_file() {
    let text = "[bgp]\nlocal_as = 64512\n[[bgp.peer]]\nname = \"a\"\naddress = \"203.0.113.1\"\n\
                remote_as = 1\n";
    let loaded = with_env(text, &[("HAFLINGER_BGP__ROUTER_ID", "192.0.2.7")]).expect("sound");
    let bgp = loaded.config.bgp.expect("there is a peer");
    assert_eq!((bgp.local_as, bgp.router_id.to_string().as_str()), (64512, "192.0.2.7"));
}

#[test]
fn variables_are_read_as_the_type_of_their_key() {
    let loaded = with_env(
        "",
        &[
            ("HAFLINGER_HOST__NAME", "17"),
            ("HAFLINGER_VIPS__BIND", "false"),
            ("HAFLINGER_BGP__LISTEN", "[::]:179"),
            ("HAFLINGER_PROXY__ADDRESSES", "192.0.2.1, 2001:db8::1"),
            ("HAFLINGER_POOL", "[{name=a, addresses=[\"192.0.2.0/24\"]}]"),
            ("HAFLINGER_CONFIG", "/etc/other.toml"),
            ("OTHER", "1"),
        ],
    )
    .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.config.host.name, "17");
    assert!(!loaded.config.vips.bind);
    assert_eq!(loaded.config.pools[0].name, "a");
    let addresses: [IpAddr; 2] = [[192, 0, 2, 1].into(), "2001:db8::1".parse().expect("IPv6")];
    assert_eq!(loaded.config.proxy.addresses, addresses);
    let listen = with_env("", &[("HAFLINGER_ADMIN__LISTEN", "[::1]:9410")]).expect("sound");
    assert!(listen.config.admin.listen.expect("it listens").is_ipv6());
}

#[test]
fn a_problem_of_a_variable_names_the_variable_and_its_value() {
    for (variable, value, field, remedy) in [
        ("HAFLINGER_BGP__HOLD_TIME_SECS", "2", "bgp.hold_time_secs", "from 3 to 65535"),
        ("HAFLINGER_BGP__HOLD_TIM_SECS", "9", "bgp.hold_tim_secs", "hold_time_secs"),
        ("HAFLINGER_BGP", "9", "bgp", "HAFLINGER_SECTION__KEY"),
        ("HAFLINGER_ADMIN__LISTEN", "127.0.0.1", "admin.listen", "127.0.0.1:PORT"),
        ("HAFLINGER_VIPS__BIND", "perhaps", "vips.bind", "true or false"),
        ("HAFLINGER_PROXY__ADDRESSES", "192.0.2.300", "proxy.addresses[0]", "192.0.2.1"),
    ] {
        let shown = with_env("", &[(variable, value)]).expect_err(variable).to_string();
        for part in [variable, field, remedy] {
            assert!(shown.contains(part), "{part} is missing in {shown}");
        }
        let lists = field.ends_with(']');
        assert!(lists || shown.contains(value), "{value} is missing in {shown}");
    }
    let deep = "[".repeat(100_000);
    let shown = with_env("", &[("HAFLINGER_POOL", &deep)]).expect_err("too deep").to_string();
    assert!(shown.contains("HAFLINGER_POOL") && shown.len() < 1000, "{shown}");
    let shown = with_env("", &[("HAFLINGER_", "1")]).expect_err("no key").to_string();
    assert!(shown.contains("it names no key"), "{shown}");
}

#[test]
fn a_problem_of_a_flag_names_the_flag() {
    let mut sources = Sources::text("haflinger.toml", "[bgp]\nhold_time_secs = 30\n");
    sources.flags.push(Flag::text("--set bgp.hold_time_secs", "bgp.hold_time_secs", "1"));
    let shown = Config::load(&sources).expect_err("too short").to_string();
    assert!(shown.starts_with("error: flag --set bgp.hold_time_secs"), "{shown}");
    assert!(shown.contains("value:  1"), "{shown}");
}

#[test]
fn a_list_of_a_stronger_layer_replaces_the_whole_list() {
    let text = "[[pool]]\nname = \"a\"\naddresses = [\"192.0.2.0/24\"]\n\
                [[pool]]\nname = \"b\"\naddresses = [\"198.51.100.0/24\"]\n";
    let shown = with_env(text, &[("HAFLINGER_POOL", "[{name=c}]")]).expect_err("no addresses");
    assert_eq!(shown.problems().len(), 1);
    assert!(shown.to_string().contains("environment variable HAFLINGER_POOL"), "{shown}");
}

#[test]
fn no_message_and_no_debug_output_shows_a_secret() {
    let text = "[bgp]\nlocal_as = 1\nrouter_id = \"192.0.2.1\"\n[[bgp.peer]]\nname = \"a\"\n\
                address = \"203.0.113.1\"\nremote_as = 2\npassword = \"hunter2\"\n";
    let loaded = load(text).expect("sound");
    let shown = format!("{loaded:?}");
    assert!(!shown.contains("hunter2") && shown.contains("withheld"), "{shown}");
    assert!(loaded.warnings.iter().any(|warning| warning.to_string().contains("password_file")));
    for bad in [
        format!("{text}pasword = \"hunter2\"\n"),
        format!("{text}password_file = \"x\"\n"),
        text.replace("\"hunter2\"", "[\"hunter2\"]"),
        text.replace("\"hunter2\"", &format!("\"hunter2{}\"", "x".repeat(99))),
        text.replace("\"hunter2\"", "\"hunter2"),
        "bgp = { peer = [{ name = 5, password = \"hunter2\", address = \"x\" }] }\n".into(),
        "bgp = [{ password = \"hunter2\" }]\n".into(),
        "[bgp]\npeer = { password = \"hunter2\" }\n".into(),
        "[[dns.zone]]\nname = \"a\"\nservers = [\"192.0.2.1\"]\nkey_name = \"k\"\nkey = \"hunter2!\"\n"
            .into(),
    ] {
        let shown = format!("{0} {0:?}", load(&bad).expect_err(&bad));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let shown = with_env(
        "",
        &[("HAFLINGER_BGP__PEER", "[{name=5, password=hunter2, address=x, remote_as=true}]")],
    )
    .expect_err("not an address");
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
}

#[test]
fn a_secret_file_that_everyone_may_read_is_warned_about() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("password");
    std::fs::write(&path, "hunter2\r\n").expect("a file");
    let config = home.path().join("haflinger.toml");
    let text = "[bgp]\nlocal_as = 1\nrouter_id = \"192.0.2.1\"\n[[bgp.peer]]\nname = \"a\"\n\
                address = \"203.0.113.1\"\nremote_as = 2\npassword_file = \"password\"\n";
    std::fs::write(&config, text).expect("a file");
    let load = |mode: u32| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode).expect("the mode is set");
        let file = FileSource::Path(config.clone());
        Config::load(&Sources { file, ..Sources::text("", "") }).expect("sound")
    };
    let mentions = |loaded: &Loaded| {
        let shown: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        shown.iter().any(|warning| warning.contains("chmod o-rwx") && warning.contains(":8:"))
    };
    let loose = load(0o644);
    assert!(mentions(&loose), "{:?}", loose.warnings);
    let tight = load(0o640);
    assert!(!mentions(&tight), "{:?}", tight.warnings);
    let password = tight.config.bgp.expect("a peer").peers[0].password.clone();
    assert_eq!(password.expect("a password").expose(), b"hunter2");
}

#[test]
fn what_is_unwise_is_warned_about_with_its_place() {
    let warned = |text: &str, part: &str| {
        let loaded = load(text).unwrap_or_else(|errors| panic!("{errors}"));
        let shown: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert!(shown.iter().any(|warning| warning.contains(part)), "{part}: {shown:?}");
    };
    warned("", "there is no cluster and no inventory");
    warned("[admin]\nlisten = \"0.0.0.0:9410\"\n", "haflinger.toml:2:10: admin.listen");
    warned("[[dns.zone]]\nname = \"a\"\nservers = [\"192.0.2.1\"]\n", "are not signed");
    warned("[[cluster]]\nname = \"a\"\nkubeconfig = \"/missing\"\n", "does not exist");
    warned("[[cluster]]\nname = \"a\"\nkubeconfig = \"/dev/null\"\n", "there is no pool");
    warned("[inventory]\npath = \"/missing\"\n", "does not exist");
    warned("[xdp]\nnat_ports = \"2048-4095\"\n", "haflinger.toml:2:13: xdp.nat_ports");
    warned("[l4]\nmode = \"dsr\"\n[xdp]\nenabled = false\n", "every service is relayed");
}

#[test]
fn the_host_name_is_the_kernels_unless_written() {
    let mut sources = Sources::text("haflinger.toml", "");
    sources.host_name = "rack7-3".into();
    assert_eq!(Config::load(&sources).expect("sound").config.host.name, "rack7-3");
    sources.host_name = "(none)".into();
    let shown = Config::load(&sources).expect_err("no name").to_string();
    assert!(shown.contains("host.name") && shown.contains("(none)"), "{shown}");
}

#[test]
fn communities_of_host_and_peer_are_joined() {
    let text = "[bgp]\nlocal_as = 1\nrouter_id = \"192.0.2.1\"\ncommunities = [\"64512:1\", \"no-export\"]\n\
                [[bgp.peer]]\nname = \"a\"\naddress = \"203.0.113.1\"\nremote_as = 2\n\
                communities = [\"64512:2\", \"64512:1\"]\n";
    let bgp = load(text).expect("sound").config.bgp.expect("a peer");
    let shown: Vec<String> = bgp.peers[0].communities.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["64512:1", "64512:2", "65535:65281"]);
    assert_eq!(bgp.hold_time.secs(), 9);
}

#[test]
fn a_change_says_whether_it_needs_a_restart() {
    let changed = |text: &str| changes(&defaults(), &load(text).expect("sound").config);
    assert_eq!(changed(""), []);
    let live = changed("[relay]\ndrain_secs = 5\n[bgp]\n[log]\nlevel = \"debug\"\n");
    let fields: Vec<&str> = live.iter().map(|change| change.field).collect();
    assert_eq!(fields, ["log.level", "relay"]);
    assert!(live.iter().all(|change| change.restart.is_none()));
    let xdp =
        changed("[l4.timeouts]\nudp_secs = 5\n[xdp]\nattach = \"native\"\nflows_max = 1000000\n");
    let fields: Vec<(&str, bool)> =
        xdp.iter().map(|change| (change.field, change.restart.is_some())).collect();
    assert_eq!(fields, [("l4", false), ("xdp.flows_max", true), ("xdp", false)]);
    let both = changed("[proxy]\nworkers = 3\nretries_max = 1\n[admin]\nlisten = \"\"\n");
    let fields: Vec<(&str, bool)> =
        both.iter().map(|change| (change.field, change.restart.is_some())).collect();
    assert_eq!(fields, [("admin", true), ("proxy.workers", true), ("proxy", false)]);
}
