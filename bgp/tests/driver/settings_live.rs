//! Settings that change while sessions run.

use std::net::SocketAddr;

use haflinger_bgp::fsm::State;
use haflinger_bgp::model::HoldTime;
use haflinger_bgp::wire::Message;
use tokio::net::{TcpListener, TcpStream};

use crate::by_hand::{Router, Running, address, hosts, settings, within};

#[tokio::test]
async fn peers_come_and_go_without_touching_others() {
    let stays = Router::new("stays", address(21, 1)).await;
    let goes = Router::new("goes", address(21, 2)).await;
    let comes = Router::new("comes", address(21, 3)).await;
    let speaker =
        Running::start(settings(vec![stays.settings.clone(), goes.settings.clone()]), hosts(2));
    let mut kept = stays.establish().await;
    let mut left = goes.establish().await;
    assert_eq!((kept.hear_all().await, left.hear_all().await), (2, 2));
    let names = |speaker: &Running| {
        let mut names = Vec::new();
        for family in speaker.registry.gather() {
            if family.name() == "haflinger_bgp_session_established" {
                let metrics = family.get_metric().iter();
                names.extend(metrics.map(|metric| metric.get_label()[0].value().to_owned()));
            }
        }
        names
    };
    speaker.until_established("goes").await;
    assert_eq!(names(&speaker), ["goes", "stays"]);

    let changed = settings(vec![stays.settings.clone(), comes.settings.clone()]);
    speaker.handle.reconfigure(changed).unwrap();
    assert_eq!(left.farewell().await, (6, 3));
    drop(left);
    let mut new = comes.establish().await;
    assert_eq!(new.hear_all().await, 2);
    speaker.until(|status| status.peers.iter().all(|peer| peer.name != "goes")).await;
    assert_eq!(speaker.until_established("stays").await.established_count, 1);
    speaker.until_established("comes").await;
    assert_eq!(names(&speaker), ["comes", "stays"]);
    speaker.stop().await;
}

#[tokio::test]
async fn communities_and_next_hops_change_on_the_running_session() {
    let router = Router::new("r", address(22, 1)).await;
    let mut prefixes = (*hosts(1)).clone();
    prefixes.insert("2001:db8::1/128".parse().unwrap());
    let speaker = Running::start(settings(vec![router.settings.clone()]), prefixes.into());
    let mut conversation = router.establish().await;
    assert_eq!(conversation.hear_all().await, 1);
    let mut changed = settings(vec![router.settings.clone()]);
    changed.communities = vec!["64512:7".parse().unwrap()];
    changed.peers[0].next_hop_v6 = "2001:db8::9".parse().ok();
    speaker.handle.reconfigure(changed.clone()).unwrap();
    for _ in 0..2 {
        let Some(Message::Update(update)) = conversation.hear().await else { panic!("no UPDATE") };
        assert_eq!(update.attributes.communities[0].to_string(), "64512:7");
    }
    let status = speaker.until_peer("r", |peer| peer.announced.ipv6 == 1).await;
    assert_eq!((status.unannounced.len(), status.established_count), (0, 1));
    // Without a next hop the family is withdrawn again.
    changed.peers[0].next_hop_v6 = None;
    speaker.handle.reconfigure(changed).unwrap();
    let Some(Message::Update(update)) = conversation.hear().await else { panic!("no UPDATE") };
    assert_eq!(update.withdrawn_v6.len(), 1);
    speaker.stop().await;
}

#[tokio::test]
async fn other_changes_of_a_peer_restart_it_alone() {
    let first = Router::new("first", address(23, 1)).await;
    let second = Router::new("second", address(23, 2)).await;
    let good = settings(vec![first.settings.clone(), second.settings.clone()]);
    let speaker = Running::start(good.clone(), hosts(1));
    let mut one = first.establish().await;
    let mut two = second.establish().await;
    assert_eq!((one.hear_all().await, two.hear_all().await), (1, 1));
    let mut changed = good.clone();
    changed.peers[1].distance = haflinger_bgp::settings::Distance::Multihop(3);
    speaker.handle.reconfigure(changed.clone()).unwrap();
    assert_eq!(two.farewell().await, (6, 6));
    drop(two);
    let mut two = second.establish().await;
    assert_eq!(two.hear_all().await, 1);
    assert_eq!(speaker.until_established("first").await.established_count, 1);

    // A bad change is refused and leaves everything as it is.
    let mut bad = changed.clone();
    bad.peers[0].remote_as = 0;
    assert!(speaker.handle.reconfigure(bad).is_err());
    // A new hold time concerns all.
    changed.hold_time = HoldTime::from_secs(30).unwrap();
    speaker.handle.reconfigure(changed).unwrap();
    assert_eq!((one.farewell().await, two.farewell().await), ((6, 6), (6, 6)));
    drop((one, two));
    speaker.stop().await;
}

#[tokio::test]
async fn a_listener_that_cannot_be_opened_is_shown_and_tried_again() {
    let local = address(24, 1);
    let taken = TcpListener::bind((local, 0)).await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let router = Router::new("r", address(24, 2)).await;
    let mut ours = settings(vec![router.settings.clone()]);
    ours.listen = Some(SocketAddr::new(local, port));
    let speaker = Running::start(ours, hosts(1));
    speaker.until(|status| status.listen_error.is_some()).await;
    // Sessions that we open do not need it.
    let mut conversation = router.establish().await;
    assert_eq!(conversation.hear_all().await, 1);
    drop(taken);
    speaker.until(|status| status.listen_error.is_none()).await;
    let mut stranger = within(TcpStream::connect((local, port))).await.unwrap();
    let read = tokio::io::AsyncReadExt::read(&mut stranger, &mut [0; 1]).await;
    assert!(matches!(read, Ok(0) | Err(_)));
    assert_eq!(speaker.until_established("r").await.state, State::Established);
    speaker.until(|status| status.strangers == 1).await;
    speaker.stop().await;
}
