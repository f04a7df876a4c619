//! Against a real BIRD 2 on the loopback interface.
//!
//! ```text
//!   speaker, AS 4200000001             BIRD 2, AS 64513
//!   127.79.t.1 ────────── TCP ──────── 127.79.t.2
//! ```
//!
//! 1. A session comes up and BIRD shows IPv4 and IPv6 routes with our attributes.
//! 2. What is no longer desired disappears from BIRD's table.
//! 3. A graceful stop withdraws and says why.
//! 4. A BIRD that is killed and started again learns everything anew.
//! 5. MD5 signatures work both ways; with a wrong password no session comes up.
//! 6. BIRD connects to a passive speaker; strangers are closed and counted.
//! 7. A route refresh is answered, new communities are told without a new session.
//! 8. Thousands of prefixes arrive whole.
//! 9. TTL security lets a session up, and nothing less does.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![expect(clippy::disallowed_methods, reason = "these tests run against the clock and the network")]

mod lab;

use std::net::{IpAddr, SocketAddr};

use haflinger_bgp::fsm::State;
use haflinger_bgp::settings::{Distance, PeerSettings, Secret};
use haflinger_bgp::status::PeerStatus;
use lab::{
    BIRD_AS, Bird, HOLD_TIME_SECS, LOCAL_AS, Running, addresses, bird_or_skip, free_port, settings,
};

const ROUTES: &str = "show route table master4";
const ROUTES6: &str = "show route table master6";
const PROTOCOL: &str = "show protocols haflinger";

/// BIRD's side of the session.
fn protocol(us: IpAddr, our_port: u16, them: IpAddr, port: u16, more: &str) -> String {
    format!(
        "protocol bgp haflinger {{\n\
         local {them} port {port} as {BIRD_AS};\n\
         neighbor {us} port {our_port} as {LOCAL_AS};\n\
         strict bind yes;\nmultihop;\nconnect delay time 1;\nconnect retry time 1;\n\
         error wait time 1, 2;\nhold time {HOLD_TIME_SECS};\n{more}\n\
         ipv4 {{ import all; export none; }};\n\
         ipv6 {{ import all; export none; }};\n}}"
    )
}

fn peer(us: IpAddr, them: IpAddr, port: u16) -> PeerSettings {
    let mut peer = PeerSettings::new("bird", them, BIRD_AS);
    peer.port = port;
    peer.local_address = Some(us);
    peer.next_hop_v6 = "2001:db8::1".parse().ok();
    peer
}

/// A BIRD that only listens, and a speaker that connects to it.
fn pair(
    program: std::path::PathBuf,
    test: u8,
    bird_more: &str,
    change: impl FnOnce(&mut PeerSettings),
    prefixes: &str,
) -> (Bird, Running) {
    let (us, them) = addresses(test);
    let port = free_port(them);
    let more = format!("passive yes;\n{bird_more}");
    let bird = Bird::start(program, them, &protocol(us, 179, them, port, &more));
    let mut peer = peer(us, them, port);
    change(&mut peer);
    (bird, Running::start(settings(us, vec![peer]), prefixes))
}

#[tokio::test]
async fn bird_shows_our_routes_until_they_are_withdrawn() {
    let Some(program) = bird_or_skip("bird_shows_our_routes_until_they_are_withdrawn") else {
        return;
    };
    let change = |peer: &mut PeerSettings| peer.communities = vec!["64512:100".parse().unwrap()];
    let prefixes = "192.0.2.1/32 192.0.2.2/32 2001:db8:1::1/128";
    let (bird, speaker) = pair(program, 1, "", change, prefixes);
    let routes = bird.until("show route all table master4", |text| text.contains("192.0.2.2/32"));
    let routes = routes.await;
    for part in ["192.0.2.1/32", "BGP.origin: IGP", "(64512,100)", "BGP.as_path: 4200000001"] {
        assert!(routes.contains(part), "{part} is missing in {routes}");
    }
    assert!(routes.contains("BGP.next_hop: 127.79.1.1"), "{routes}");
    let routes = bird.until("show route all table master6", |text| text.contains("2001:db8:1::1"));
    assert!(routes.await.contains("BGP.next_hop: 2001:db8::1"));
    let status = speaker.until_peer(|peer| peer.settled).await;
    assert_eq!((status.state, status.hold_time_secs), (State::Established, Some(HOLD_TIME_SECS)));
    assert_eq!((status.announced.ipv4, status.announced.ipv6), (2, 1));

    speaker.desired.send_replace(lab::nets("192.0.2.2/32"));
    bird.until(ROUTES6, |text| !text.contains("2001:db8:1::1")).await;
    let routes = bird.until(ROUTES, |text| !text.contains("192.0.2.1/32")).await;
    assert!(routes.contains("192.0.2.2/32"), "{routes}");

    speaker.stop().await;
    bird.until(ROUTES, |text| !text.contains("192.0.2.2/32")).await;
    bird.until("show protocols all haflinger", |text| {
        text.contains("Received: Administrative shutdown")
    })
    .await;
    assert!(bird.log().contains("haflinger is stopping"), "{}", bird.log());
}

#[tokio::test]
async fn a_bird_that_is_killed_learns_everything_again() {
    let Some(program) = bird_or_skip("a_bird_that_is_killed_learns_everything_again") else {
        return;
    };
    let (mut bird, speaker) = pair(program, 2, "", |_| {}, "192.0.2.1/32");
    bird.until(ROUTES, |text| text.contains("192.0.2.1/32")).await;
    bird.kill();
    speaker.until_peer(|peer| peer.state != State::Established).await;
    speaker.desired.send_replace(lab::nets("192.0.2.1/32 192.0.2.3/32"));
    bird.spawn();
    let routes = bird.until(ROUTES, |text| text.contains("192.0.2.3/32")).await;
    assert!(routes.contains("192.0.2.1/32"), "{routes}");
    assert_eq!(speaker.handle.status().peers[0].established_count, 2);
    speaker.stop().await;
}

#[tokio::test]
async fn md5_signatures_let_only_the_right_password_in() {
    let Some(program) = bird_or_skip("md5_signatures_let_only_the_right_password_in") else {
        return;
    };
    let password = |text: &'static str| {
        move |peer: &mut PeerSettings| peer.md5_password = Some(Secret::new(text))
    };
    let (bird, speaker) =
        pair(program, 3, "password \"secret\";", password("secret"), "192.0.2.1/32");
    bird.until(ROUTES, |text| text.contains("192.0.2.1/32")).await;

    // The same peer with a wrong password: the session ends and none comes up.
    let (us, them) = addresses(3);
    let port = speaker.handle.status().peers[0].port;
    let mut wrong = peer(us, them, port);
    wrong.md5_password = Some(Secret::new("guess"));
    speaker.handle.reconfigure(settings(us, vec![wrong])).unwrap();
    let failed = |peer: &PeerStatus| {
        peer.last_error.as_deref().is_some_and(|error| error.starts_with("connect:"))
    };
    let status = speaker.until_peer(failed).await;
    assert_eq!(status.established_count, 0);
    bird.until(ROUTES, |text| !text.contains("192.0.2.1/32")).await;
    speaker.stop().await;
}

#[tokio::test]
async fn bird_connects_to_a_passive_speaker_with_a_password_and_strangers_are_closed() {
    let test = "bird_connects_to_a_passive_speaker_with_a_password_and_strangers_are_closed";
    let Some(program) = bird_or_skip(test) else { return };
    let (us, them) = addresses(4);
    let (our_port, port) = (free_port(us), free_port(them));
    let more = "password \"secret\";";
    let bird = Bird::start(program, them, &protocol(us, our_port, them, port, more));
    let mut peer = peer(us, them, port);
    peer.passive = true;
    peer.md5_password = Some(Secret::new("secret"));
    let mut settings = settings(us, vec![peer]);
    settings.listen = Some(SocketAddr::new(us, our_port));
    let speaker = Running::start(settings, "192.0.2.1/32 2001:db8:1::1/128");
    bird.until(ROUTES, |text| text.contains("192.0.2.1/32")).await;
    bird.until(ROUTES6, |text| text.contains("2001:db8:1::1/128")).await;

    let mut stranger = tokio::net::TcpStream::connect((us, our_port)).await.unwrap();
    let closed = tokio::io::AsyncReadExt::read(&mut stranger, &mut [0; 1]).await;
    assert!(matches!(closed, Ok(0) | Err(_)));
    speaker.until(|status| status.strangers == 1).await;
    assert_eq!(speaker.handle.status().peers[0].state, State::Established);
    speaker.stop().await;
}

#[tokio::test]
async fn a_refresh_is_answered_and_new_communities_need_no_new_session() {
    let test = "a_refresh_is_answered_and_new_communities_need_no_new_session";
    let Some(program) = bird_or_skip(test) else { return };
    let (bird, speaker) = pair(program, 5, "", |_| {}, "192.0.2.1/32");
    bird.until(ROUTES, |text| text.contains("192.0.2.1/32")).await;
    // An import filter that refuses all makes BIRD forget; only a refresh brings the route back.
    let updates = |text: &str| {
        let line = text.lines().find(|line| line.contains("Import updates:")).unwrap_or("");
        line.split_whitespace().nth(2).and_then(|count| count.parse::<u32>().ok())
    };
    let question = "show protocols all haflinger";
    let before = updates(&bird.until(question, |text| updates(text) > Some(0)).await);
    bird.ask("reload in haflinger");
    bird.until(question, |text| updates(text) > before).await;

    let mut changed = settings(addresses(5).0, vec![]);
    let mut peer = peer(addresses(5).0, addresses(5).1, speaker.handle.status().peers[0].port);
    peer.communities = vec!["no-export".parse().unwrap()];
    changed.peers.push(peer);
    speaker.handle.reconfigure(changed).unwrap();
    bird.until("show route all table master4", |text| text.contains("(65535,65281)")).await;
    assert_eq!(speaker.handle.status().peers[0].established_count, 1);
    speaker.stop().await;
}

#[tokio::test]
async fn thousands_of_prefixes_arrive_whole() {
    let Some(program) = bird_or_skip("thousands_of_prefixes_arrive_whole") else { return };
    let prefixes: Vec<String> = (0..20_000u32)
        .map(|index| match index % 2 {
            0 => format!("10.{}.{}.{}/32", index >> 16, index >> 8 & 255, index & 255),
            _ => format!("2001:db8:2::{index:x}/128"),
        })
        .collect();
    let (bird, speaker) = pair(program, 6, "", |_| {}, &prefixes.join(" "));
    let all = |text: &str| text.contains("10000 of 10000 routes");
    bird.until("show route count table master4", all).await;
    bird.until("show route count table master6", all).await;
    speaker.until_peer(|peer| peer.settled).await;
    speaker.desired.send_replace(lab::nets(""));
    let none = |text: &str| text.contains("0 of 0 routes");
    bird.until("show route count table master4", none).await;
    bird.until("show route count table master6", none).await;
    bird.until(PROTOCOL, |text| text.contains("Established")).await;
    speaker.stop().await;
}

#[tokio::test]
async fn ttl_security_lets_only_packets_with_a_full_ttl_in() {
    let test = "ttl_security_lets_only_packets_with_a_full_ttl_in";
    let Some(program) = bird_or_skip(test) else { return };
    let secured = |peer: &mut PeerSettings| peer.distance = Distance::Security(1);
    let (bird, speaker) = pair(program, 7, "ttl security yes;", secured, "192.0.2.1/32");
    bird.until(ROUTES, |text| text.contains("192.0.2.1/32")).await;
    // Longer than the hold time: BIRD hears what we say.
    tokio::time::sleep(std::time::Duration::from_secs(u64::from(HOLD_TIME_SECS) + 1)).await;
    let status = speaker.until_peer(|peer| peer.state == State::Established).await;
    assert_eq!((status.established_count, status.last_error), (1, None));

    let (us, them) = addresses(7);
    let mut plain = peer(us, them, speaker.handle.status().peers[0].port);
    plain.distance = Distance::Multihop(64);
    speaker.handle.reconfigure(settings(us, vec![plain])).unwrap();
    // BIRD arms its check after the handshake, so the first words may pass; the session dies.
    let unheard = |peer: &PeerStatus| {
        let error = peer.last_error.as_deref().unwrap_or("");
        error.starts_with("connect:") || error.contains("hold timer expired")
    };
    speaker.until_peer(unheard).await;
    speaker.stop().await;
}
