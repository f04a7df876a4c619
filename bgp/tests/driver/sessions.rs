//! Sessions from up to down.

use std::net::SocketAddr;

use haflinger_bgp::driver::DESIRED_MAX;
use haflinger_bgp::export::Unannounced;
use haflinger_bgp::fsm::State;
use haflinger_bgp::model::{Family, PerFamily};
use haflinger_bgp::settings::PeerSettings;
use haflinger_bgp::status::UnannouncedFamily;
use haflinger_bgp::wire::{Capabilities, Message, Segment};

use crate::by_hand::{LOCAL_AS, Router, Running, address, hosts, router_id, settings};

#[tokio::test]
async fn a_stop_withdraws_then_says_why_then_closes() {
    let router = Router::new("r", address(11, 1)).await;
    let speaker = Running::start(settings(vec![router.settings.clone()]), hosts(5000));
    let mut conversation = router.establish().await;
    assert_eq!(conversation.hear_all().await, 5000);
    speaker.shutdown.cancel();
    let heard = conversation.hear_out().await;
    let (farewell, before) = heard.split_last().unwrap();
    let Message::Notification(farewell) = farewell else { panic!("{farewell:?}") };
    assert_eq!(farewell.shutdown_message(), Some("haflinger is stopping"));
    let withdrawn: usize = before
        .iter()
        .map(|message| match message {
            Message::Update(update) => update.withdrawn_v4.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(withdrawn, 5000);
    drop(conversation);
    speaker.stop().await;
}

#[tokio::test]
async fn families_that_cannot_be_announced_are_named_with_the_reason() {
    let bare = Router::new("bare", address(12, 1)).await;
    let dual = Router::new("dual", address(12, 2)).await;
    let mut prefixes = (*hosts(2)).clone();
    prefixes.insert("2001:db8::1/128".parse().unwrap());
    let speaker = Running::start(
        settings(vec![bare.settings.clone(), dual.settings.clone()]),
        prefixes.into(),
    );
    let mut first = bare.establish_with(Capabilities::default()).await;
    assert_eq!(first.hear_all().await, 2);
    let mut second = dual.establish().await;
    assert_eq!(second.hear_all().await, 2);
    for (name, reason) in [("bare", Unannounced::NotNegotiated), ("dual", Unannounced::NoNextHop)] {
        let status = speaker.until_established(name).await;
        let expected = UnannouncedFamily { family: Family::Ipv6, reason };
        assert_eq!(status.unannounced, [expected], "{name}");
        assert_eq!(status.announced, PerFamily { ipv4: 2, ipv6: 0 });
    }
    speaker.stop().await;
}

#[tokio::test]
async fn a_refresh_brings_everything_again() {
    let router = Router::new("r", address(13, 1)).await;
    let speaker = Running::start(settings(vec![router.settings.clone()]), hosts(3));
    let mut conversation = router.establish().await;
    assert_eq!(conversation.hear_all().await, 3);
    conversation.say(&Message::RouteRefresh(Some(Family::Ipv4))).await;
    let Some(Message::Update(update)) = conversation.hear().await else { panic!("no UPDATE") };
    assert_eq!(update.announced_v4.len(), 3);
    speaker.stop().await;
}

#[tokio::test]
async fn within_an_as_the_path_is_empty_and_local_pref_is_there() {
    let mut router = Router::new("r", address(14, 1)).await;
    router.settings.remote_as = LOCAL_AS;
    let mut ours = settings(vec![router.settings.clone()]);
    ours.local_as = crate::by_hand::PEER_AS;
    ours.peers[0].remote_as = crate::by_hand::PEER_AS;
    let speaker = Running::start(ours, hosts(1));
    let mut conversation = router.establish().await;
    let Some(Message::Update(update)) = conversation.hear().await else { panic!("no UPDATE") };
    assert_eq!(update.attributes.as_path, Some(Vec::<Segment>::new()));
    // The peer played by hand reads as an external one, which drops LOCAL_PREF.
    assert_eq!(update.attributes.local_pref, None);
    speaker.stop().await;
}

#[tokio::test]
async fn two_speakers_that_connect_to_each_other_end_with_one_session() {
    let (one, two) = (address(15, 1), address(15, 2));
    let side = |local, remote, last: u8, ours: u32, theirs: u32| {
        let mut peer = PeerSettings::new("other", remote, theirs);
        peer.port = 17_979;
        peer.local_address = Some(local);
        let mut side = settings(vec![peer]);
        side.router_id = router_id(last);
        side.local_as = ours;
        side.listen = Some(SocketAddr::new(local, 17_979));
        side
    };
    let first = Running::start(side(one, two, 1, 64_512, 64_513), hosts(10));
    let second = Running::start(side(two, one, 2, 64_513, 64_512), hosts(20));
    first.until_peer("other", |peer| peer.settled && peer.received_prefixes == 20).await;
    second.until_peer("other", |peer| peer.settled && peer.received_prefixes == 10).await;
    // One goes: the other one hears why and waits for it.
    second.stop().await;
    let status = first.until_peer("other", |peer| peer.state != State::Established).await;
    let text = status.last_notification_received.unwrap().text;
    assert_eq!(text, "administrative shutdown (6/2): \"haflinger is stopping\"");
    let third = Running::start(side(two, one, 2, 64_513, 64_512), hosts(1));
    first.until_peer("other", |peer| peer.settled && peer.received_prefixes == 1).await;
    third.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn over_ipv6_the_local_address_is_the_next_hop_of_ipv6_and_ipv4_needs_a_configured_one() {
    let mut router = Router::new("r", "::1".parse().unwrap()).await;
    let mut prefixes = (*hosts(1)).clone();
    prefixes.insert("2001:db8::1/128".parse().unwrap());
    for (next_hop, count) in [(None, 1), (Some("192.0.2.1".parse().unwrap()), 2)] {
        router.settings.next_hop_v4 = next_hop;
        let ours = settings(vec![router.settings.clone()]);
        let speaker = Running::start(ours, prefixes.clone().into());
        let mut conversation = router.establish().await;
        let mut hops = Vec::new();
        for _ in 0..count {
            let Some(Message::Update(update)) = conversation.hear().await else {
                panic!("no UPDATE")
            };
            hops.extend(update.attributes.next_hop.map(|hop| hop.to_string()));
            hops.extend(update.next_hop_v6.map(|hop| hop.to_string()));
        }
        let expected = if count == 1 { &["::1"][..] } else { &["192.0.2.1", "::1"] };
        assert_eq!(hops, expected);
        let status = speaker.until_established("r").await;
        let reasons: Vec<_> = status.unannounced.iter().map(|family| family.reason).collect();
        assert_eq!(reasons, if count == 1 { vec![Unannounced::NoNextHop] } else { vec![] });
        drop(conversation);
        speaker.stop().await;
    }
}

#[tokio::test]
async fn prefixes_beyond_the_limit_are_refused_and_shown() {
    let limit = u32::try_from(DESIRED_MAX).unwrap();
    let speaker = Running::start(settings(Vec::new()), hosts(limit + 3));
    let status = speaker.until(|status| status.refused_prefixes == 3).await;
    assert_eq!(status.desired_prefixes, DESIRED_MAX);
    speaker.desired.send_replace(hosts(limit));
    speaker.until(|status| status.refused_prefixes == 0).await;
    speaker.stop().await;
}
