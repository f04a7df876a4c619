//! A peer played by the test, and a speaker to play it to.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use haflinger_bgp::driver::{Speaker, SpeakerHandle};
use haflinger_bgp::fsm::State;
use haflinger_bgp::model::{HoldTime, RouterId};
use haflinger_bgp::settings::{PeerSettings, Settings};
use haflinger_bgp::status::{PeerStatus, SpeakerStatus};
use haflinger_bgp::wire::{
    Capabilities, Context, Framing, Message, Open, decode_message, encode_message, frame,
};
use ipnet::IpNet;
use prometheus::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const LOCAL_AS: u32 = 64_512;
pub(crate) const PEER_AS: u32 = 64_513;
/// Bounds a failing test only.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn address(test: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 81, test, host))
}

pub(crate) fn router_id(last: u8) -> RouterId {
    RouterId::new(Ipv4Addr::new(192, 0, 2, last)).unwrap()
}

/// Settings with a long hold time: peers played by hand send no keepalives.
pub(crate) fn settings(peers: Vec<PeerSettings>) -> Settings {
    Settings {
        local_as: LOCAL_AS,
        router_id: router_id(1),
        hold_time: HoldTime::from_secs(90).unwrap(),
        connect_retry_secs: 1,
        listen: None,
        communities: Vec::new(),
        peers,
    }
}

/// `count` host prefixes of IPv4.
pub(crate) fn hosts(count: u32) -> Arc<BTreeSet<IpNet>> {
    let host = |index: u32| IpNet::from(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + index)));
    Arc::new((0..count).map(host).collect())
}

/// A running speaker.
pub(crate) struct Running {
    pub(crate) handle: SpeakerHandle,
    pub(crate) desired: watch::Sender<Arc<BTreeSet<IpNet>>>,
    pub(crate) registry: Registry,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(settings: Settings, prefixes: Arc<BTreeSet<IpNet>>) -> Running {
        let registry = Registry::new();
        let speaker = Speaker::new(settings, &registry).unwrap();
        let (desired, seen) = watch::channel(prefixes);
        let shutdown = CancellationToken::new();
        let handle = speaker.handle();
        let task = tokio::spawn(speaker.run(seen, shutdown.clone()));
        Running { handle, desired, registry, shutdown, task }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        within(self.task).await.unwrap();
    }

    pub(crate) async fn until(&self, good: impl Fn(&SpeakerStatus) -> bool) -> SpeakerStatus {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let status = self.handle.status();
            if good(&status) {
                return status;
            }
            assert!(tokio::time::Instant::now() < end, "{status:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the peer of a name is as it should be.
    pub(crate) async fn until_peer(
        &self,
        name: &str,
        good: impl Fn(&PeerStatus) -> bool,
    ) -> PeerStatus {
        let find = |status: &SpeakerStatus| {
            status.peers.iter().find(|peer| peer.name == name).filter(|peer| good(peer)).cloned()
        };
        find(&self.until(|status| find(status).is_some()).await).unwrap()
    }

    pub(crate) async fn until_established(&self, name: &str) -> PeerStatus {
        self.until_peer(name, |peer| peer.state == State::Established).await
    }
}

/// What a future comes to, or a failed test.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Where a peer played by hand is connected to.
pub(crate) struct Router {
    listener: TcpListener,
    pub(crate) settings: PeerSettings,
}

impl Router {
    pub(crate) async fn new(name: &str, address: IpAddr) -> Router {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let mut settings = PeerSettings::new(name, address, PEER_AS);
        settings.port = listener.local_addr().unwrap().port();
        Router { listener, settings }
    }

    /// The next connection of the speaker, before any word.
    pub(crate) async fn accept(&self) -> Conversation {
        let (stream, _) = within(self.listener.accept()).await.unwrap();
        let context = Context { four_octet_as: true, internal: false };
        Conversation { stream, inbox: Vec::new(), context }
    }

    /// The next connection, brought up to Established.
    pub(crate) async fn establish(&self) -> Conversation {
        self.establish_with(Capabilities::ours()).await
    }

    pub(crate) async fn establish_with(&self, capabilities: Capabilities) -> Conversation {
        let mut conversation = self.accept().await;
        conversation.context.four_octet_as = capabilities.four_octet_as;
        let open = Open {
            asn: PEER_AS,
            hold_time: HoldTime::OFF,
            router_id: router_id(200),
            capabilities,
        };
        conversation.say(&Message::Open(open)).await;
        assert!(matches!(conversation.hear().await, Some(Message::Open(_))));
        conversation.say(&Message::Keepalive).await;
        assert_eq!(conversation.hear().await, Some(Message::Keepalive));
        conversation
    }
}

/// One connection, spoken by hand.
pub(crate) struct Conversation {
    pub(crate) stream: TcpStream,
    inbox: Vec<u8>,
    context: Context,
}

impl Conversation {
    pub(crate) async fn say(&mut self, message: &Message) {
        let mut octets = Vec::new();
        encode_message(message, &self.context, &mut octets).unwrap();
        self.stream.write_all(&octets).await.unwrap();
    }

    /// The next message, or `None` when the connection is closed.
    pub(crate) async fn hear(&mut self) -> Option<Message> {
        loop {
            if let Framing::Frame(length) = frame(&self.inbox) {
                let octets: Vec<u8> = self.inbox.drain(..length).collect();
                return Some(decode_message(&octets, &self.context).unwrap());
            }
            let read = within(self.stream.read_buf(&mut self.inbox)).await.unwrap_or(0);
            if read == 0 {
                return None;
            }
        }
    }

    /// Everything up to the end of a family's first announcement: how many prefixes.
    pub(crate) async fn hear_all(&mut self) -> usize {
        let mut prefixes = 0;
        loop {
            match self.hear().await.expect("closed too soon") {
                Message::Update(update) => prefixes += update.announced(),
                Message::EndOfRib(_) => return prefixes,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Everything up to the connection's end.
    pub(crate) async fn hear_out(&mut self) -> Vec<Message> {
        let mut heard = Vec::new();
        while let Some(message) = self.hear().await {
            heard.push(message);
        }
        heard
    }

    /// The NOTIFICATION with which the connection ends.
    pub(crate) async fn farewell(&mut self) -> (u8, u8) {
        match self.hear_out().await.pop() {
            Some(Message::Notification(reason)) => (reason.code, reason.subcode),
            other => panic!("{other:?}"),
        }
    }
}
