//! Peers that misbehave.

use haflinger_bgp::driver::MESSAGES_PER_WAKEUP_MAX;
use haflinger_bgp::fsm::State;
use haflinger_bgp::wire::{Attributes, Message, Origin, Segment, Update};
use tokio::io::AsyncWriteExt as _;

use crate::by_hand::{Router, Running, address, hosts, settings, within};

#[tokio::test]
async fn garbage_resets_its_sender_alone() {
    let good = Router::new("good", address(1, 1)).await;
    let bad = Router::new("bad", address(1, 2)).await;
    let speaker =
        Running::start(settings(vec![good.settings.clone(), bad.settings.clone()]), hosts(3));
    let mut kept = good.establish().await;
    assert_eq!(kept.hear_all().await, 3);

    let mut wrong = bad.establish().await;
    wrong.stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(wrong.farewell().await, (1, 1));
    let status = speaker.until_peer("bad", |peer| peer.last_notification_sent.is_some()).await;
    assert_ne!(status.state, State::Established);
    assert_eq!(status.last_notification_sent.unwrap().code, 1);

    // It is met again, and what it is told is whole.
    let mut again = bad.establish().await;
    assert_eq!(again.hear_all().await, 3);
    let status = speaker.until_established("good").await;
    assert_eq!(status.established_count, 1);
    drop(kept);
    speaker.stop().await;
}

#[tokio::test]
async fn a_flood_is_counted_and_holds_nobody_up() {
    let good = Router::new("good", address(2, 1)).await;
    let loud = Router::new("loud", address(2, 2)).await;
    let speaker =
        Running::start(settings(vec![good.settings.clone(), loud.settings.clone()]), hosts(1));
    let mut kept = good.establish().await;
    let mut flood = loud.establish().await;
    let update = Message::Update(Update {
        announced_v4: vec!["198.51.100.0/24".parse().unwrap()],
        attributes: Attributes {
            origin: Some(Origin::Igp),
            as_path: Some(vec![Segment::Sequence(vec![64_513])]),
            next_hop: Some([192, 0, 2, 9].into()),
            ..Attributes::default()
        },
        ..Update::default()
    });
    let count = 20 * MESSAGES_PER_WAKEUP_MAX;
    for _ in 0..count {
        flood.say(&update).await;
    }
    assert_eq!(kept.hear_all().await, 1);
    let all = u64::try_from(count).unwrap();
    let status = speaker.until_peer("loud", |peer| peer.received_prefixes == all).await;
    assert_eq!(status.state, State::Established);
    speaker.stop().await;
}

#[tokio::test]
async fn a_peer_that_never_reads_delays_neither_others_nor_the_stop() {
    let good = Router::new("good", address(3, 1)).await;
    let deaf = Router::new("deaf", address(3, 2)).await;
    let speaker =
        Running::start(settings(vec![good.settings.clone(), deaf.settings.clone()]), hosts(0));
    let silent = deaf.establish().await;
    let mut kept = good.establish().await;
    assert_eq!(kept.hear_all().await, 0);
    // More than both kernels buffer for a peer that takes nothing.
    let count = 200_000;
    speaker.desired.send_replace(hosts(count));
    let (mut announced, mut withdrawn) = (0, 0);
    while announced < 200_000 {
        let Some(Message::Update(update)) = kept.hear().await else { panic!("no UPDATE") };
        announced += update.announced();
    }
    assert!(!speaker.until_established("deaf").await.settled);
    speaker.desired.send_replace(hosts(0));
    while withdrawn < 200_000 {
        let Some(Message::Update(update)) = kept.hear().await else { panic!("no UPDATE") };
        withdrawn += update.withdrawn_v4.len();
    }
    speaker.until_peer("good", |peer| peer.settled && peer.announced.ipv4 == 0).await;
    drop(kept);
    // The deaf peer is never told everything; the stop does not wait for that.
    speaker.stop().await;
    drop(silent);
}

#[tokio::test]
async fn a_peer_of_a_wrong_as_is_told_so() {
    let mut router = Router::new("r", address(4, 1)).await;
    router.settings.remote_as = 64_999;
    let speaker = Running::start(settings(vec![router.settings.clone()]), hosts(1));
    let mut conversation = router.accept().await;
    let open = haflinger_bgp::wire::Open {
        asn: 64_513,
        hold_time: haflinger_bgp::model::HoldTime::OFF,
        router_id: crate::by_hand::router_id(9),
        capabilities: haflinger_bgp::wire::Capabilities::ours(),
    };
    conversation.say(&Message::Open(open)).await;
    assert_eq!(conversation.farewell().await, (2, 2));
    let status = speaker.until_peer("r", |peer| peer.last_error.is_some()).await;
    assert_eq!(status.last_error.as_deref(), Some("sent bad peer AS (2/2)"));
    within(speaker.stop()).await;
}
