//! One cluster: a client, and a watch for each kind.
//!
//! ```text
//! cluster task ── a watch for each kind ──Heard──> feed
//!      ^ new settings, another server: all watches start again with a new client
//!      ^ new credentials: the watches go on, and sign in with them from their next request on
//! ```
//!
//! While the API is away the last state stands. Nothing is ever written to the API here.

mod presence;
mod watch;

use std::time::Duration;

use haflinger_core::{RouteOrigin, SourceId, SourceUpdate};
use haflinger_kubernetes::{
    EDGE_READY_SELECTOR, Inspection, Keeper, Moved, Pace, Said, describe, explain,
};
use kube::Client;
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::feed::{Heard, Relists};
use crate::ledger::{Key, Watched};
use crate::objects::{GatewayBody, Kind, Object};
use crate::rights::rights_for;
use crate::settings::ClusterSettings;
use crate::status::Board;
use crate::translate::update::{self, Translate};
use crate::translate::{Claims, SERVICE_NAME_LABEL};
use presence::{Documents, Presence, Resource};
use watch::{SILENCE_MAX, Watch};

/// Waits between attempts to reach a server that is away.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The first minor release whose streaming lists are on by default and stay on (1.34).
const STREAMING_SINCE_MINOR: u32 = 34;

/// Secrets that may hold certificates of authorities that somebody names, as far as a selector can
/// say it: those of types that hold none, which in most clusters are nearly all, are left out.
const AUTHORITY_SECRETS: &str = "type!=helm.sh/release.v1,\
    type!=kubernetes.io/service-account-token,type!=kubernetes.io/dockerconfigjson,\
    type!=kubernetes.io/dockercfg,type!=kubernetes.io/basic-auth,type!=kubernetes.io/ssh-auth,\
    type!=bootstrap.kubernetes.io/token";

/// Watches a cluster until `shutdown`, through every failure and change of settings.
pub(crate) async fn run(
    mut settings: channel::Receiver<ClusterSettings>,
    heard: mpsc::Sender<Heard>,
    relists: channel::Receiver<Relists>,
    board: Board,
    shutdown: CancellationToken,
) {
    let mut pace = Pace::new(RETRY_FIRST, RETRY_MAX);
    while !shutdown.is_cancelled() {
        let current = settings.borrow_and_update().clone();
        match current.access().open(SILENCE_MAX).await {
            Ok((client, mut keeper)) => {
                board.credentials(Said::Taken);
                let stop = shutdown.child_token();
                let mut tasks = JoinSet::new();
                let inspection = Inspection {
                    client: client.clone(),
                    forbidden: keeper.forbidden(),
                    // No right of discovery is for one object.
                    object: Default::default(),
                };
                let reason = tokio::select! {
                    reason = until_changed(&mut settings, &current, &shutdown) => reason,
                    reason = until_moved(&mut keeper, &board) => reason,
                    () = async {
                        let streaming = reach(&client, &board, &mut pace).await;
                        let watches = Watches {
                            client: client.clone(),
                            documents: Documents::new(client.clone()),
                            streaming,
                            claims: Claims::of(&current),
                            pod_routes: current.pod_routes.clone(),
                            source: current.source(),
                            heard: heard.clone(),
                            relists: relists.clone(),
                            board: board.clone(),
                            stop: stop.clone(),
                        };
                        watches.start(&mut tasks);
                        inspect(inspection, &board).await;
                    } => "inspection ended",
                };
                tracing::info!(source = %board.source, reason, "watches end");
                stop.cancel();
                while tasks.join_next().await.is_some() {}
                board.disconnected();
            }
            Err(error) => {
                let text = explain(&error);
                board.credentials(Said::Refused(text.clone()));
                let wait = failed(text, &board, &mut pace);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    _ = settings.changed() => pace.succeeded(),
                    () = shutdown.cancelled() => {}
                }
            }
        }
    }
}

/// Says what failed; how long to wait before it is tried again.
fn failed(error: String, board: &Board, pace: &mut Pace) -> Duration {
    let wait = pace.after_failure(rand::random());
    tracing::warn!(
        source = %board.source, error, retry_ms = wait.as_millis(),
        "cluster cannot be reached; the last state stands",
    );
    board.error(Some(error));
    wait
}

/// Asks the server until it answers; whether it streams lists.
async fn reach(client: &Client, board: &Board, pace: &mut Pace) -> bool {
    loop {
        let streaming = match client.apiserver_version().await {
            Ok(version) => {
                let minor = version.minor.trim_end_matches('+').parse().unwrap_or(0);
                version.major == "1" && minor >= STREAMING_SINCE_MINOR
            }
            // The version may be withheld from us; the lists need not be.
            Err(kube::Error::Api(status)) if status.code == 403 => false,
            Err(error) => {
                let wait = failed(describe(&error), board, pace);
                tokio::time::sleep(wait).await;
                continue;
            }
        };
        pace.succeeded();
        board.error(None);
        return streaming;
    }
}

async fn until_changed(
    settings: &mut channel::Receiver<ClusterSettings>,
    current: &ClusterSettings,
    shutdown: &CancellationToken,
) -> &'static str {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return "shutdown",
            changed = settings.changed() => match changed {
                Ok(()) if *settings.borrow() == *current => {}
                Ok(()) => return "settings changed",
                // The owner of the settings is gone, so the daemon is going.
                Err(_) => return "settings ended",
            },
        }
    }
}

/// Says which rights are missing, and never ends.
async fn inspect(inspection: Inspection, board: &Board) {
    let rights = || rights_for(|kind| board.is_wanted(kind));
    inspection.run(rights, |missing| board.missing_rights(missing)).await;
}

async fn until_moved(keeper: &mut Keeper, board: &Board) -> &'static str {
    let Moved = keeper.follow(|said| board.credentials(said)).await;
    "the kubeconfig names another server"
}

struct Watches {
    client: Client,
    documents: Documents,
    streaming: bool,
    claims: Claims,
    pod_routes: Vec<RouteOrigin>,
    source: SourceId,
    heard: mpsc::Sender<Heard>,
    relists: channel::Receiver<Relists>,
    board: Board,
    stop: CancellationToken,
}

impl Watches {
    fn start(self, tasks: &mut JoinSet<()>) {
        let of_services = Some(Selector::Label(SERVICE_NAME_LABEL));
        let tls = Some(Selector::Field("type=kubernetes.io/tls"));
        self.spawn(tasks, Watched::Services, None, update::service);
        self.spawn(tasks, Watched::Slices, of_services, update::slice);
        self.spawn(tasks, Watched::Nodes, None, update::node);
        self.spawn(tasks, Watched::Ingresses, None, update::ingress);
        self.spawn(tasks, Watched::Certificates, tls, update::certificate);
        let opaque = Some(Selector::Field("type=Opaque"));
        self.spawn(tasks, Watched::UserLists, opaque, update::user_list);
        let gated = Some(Selector::Label(EDGE_READY_SELECTOR));
        self.board.wanted(Watched::Pods, self.claims.readiness_gate);
        if self.claims.readiness_gate {
            self.spawn(tasks, Watched::Pods, gated, update::pod);
        } else {
            self.leave_out(tasks, Watched::Pods);
        }
        if self.claims.labels.namespaces.is_empty() {
            self.spawn_beside_gateways(tasks, Watched::Namespaces, None, update::namespace);
        } else {
            self.spawn(tasks, Watched::Namespaces, None, update::namespace);
        }
        self.spawn_optional(tasks, Watched::BlockAffinities, update::block_affinity);
        self.spawn_optional(tasks, Watched::CiliumNodes, update::cilium_node);
        self.start_gateway_api(tasks);
    }

    /// The Gateway API, and what is of use beside it alone.
    fn start_gateway_api(&self, tasks: &mut JoinSet<()>) {
        self.spawn_optional(tasks, Watched::GatewayClasses, update::gateway_class);
        self.spawn_optional(tasks, Watched::Gateways, update::gateway);
        self.spawn_optional(tasks, Watched::ListenerSets, update::listener_set);
        self.spawn_optional(tasks, Watched::HttpRoutes, update::http_route);
        self.spawn_optional(tasks, Watched::GrpcRoutes, update::grpc_route);
        self.spawn_optional(tasks, Watched::TlsRoutes, update::tls_route);
        self.spawn_optional(tasks, Watched::TcpRoutes, update::tcp_route);
        self.spawn_optional(tasks, Watched::UdpRoutes, update::udp_route);
        self.spawn_optional(tasks, Watched::ReferenceGrants, update::reference_grant);
        self.spawn_optional(tasks, Watched::BackendTlsPolicies, update::backend_tls_policy);
        self.spawn_optional(tasks, Watched::RequestPolicies, update::request_policy);
        self.spawn_optional(tasks, Watched::BackendPolicies, update::backend_policy);
        self.spawn_beside_gateways(tasks, Watched::AuthorityMaps, None, update::authority_map);
        let secrets = Some(Selector::Field(AUTHORITY_SECRETS));
        self.spawn_beside_gateways(
            tasks,
            Watched::AuthoritySecrets,
            secrets,
            update::authority_secret,
        );
    }

    /// A kind that the settings leave out is nothing to wait for. What is known of it from an
    /// earlier run is used by nobody, or dropped.
    fn leave_out(&self, tasks: &mut JoinSet<()>, watched: Watched) {
        let (heard, board, stop) = (self.heard.clone(), self.board.clone(), self.stop.clone());
        tasks.spawn(async move {
            board.connected(watched);
            let words = match watched.is_dropped_unconfirmed() {
                true => vec![Heard::ListBegan(watched), Heard::ListEnded(watched)],
                false => vec![Heard::Withheld(watched)],
            };
            for word in words {
                tokio::select! {
                    // Fails only when the feed is gone, and everything with it.
                    _ = heard.send(word) => {}
                    () = stop.cancelled() => return,
                }
            }
        });
    }

    fn spawn<B: Kind>(
        &self,
        tasks: &mut JoinSet<()>,
        watched: Watched,
        selector: Option<Selector>,
        translate: Translate<B>,
    ) {
        self.until_stopped(tasks, self.watch(watched, selector, translate).run());
    }

    /// A kind that not every cluster has, or that the settings leave out.
    fn spawn_optional<B: Kind>(
        &self,
        tasks: &mut JoinSet<()>,
        watched: Watched,
        translate: Translate<B>,
    ) {
        let wanted = watched.origin().is_none_or(|origin| self.pod_routes.contains(&origin));
        self.board.wanted(watched, wanted);
        let presence = self.presence(watched, Resource::of::<B>(), None, translate);
        if wanted {
            self.until_stopped(tasks, presence.run());
        } else {
            self.until_stopped(tasks, presence.forget());
        }
    }

    /// A kind that is of use where the cluster has Gateways alone.
    fn spawn_beside_gateways<B: Kind>(
        &self,
        tasks: &mut JoinSet<()>,
        watched: Watched,
        selector: Option<Selector>,
        translate: Translate<B>,
    ) {
        let resource = Resource::of::<GatewayBody>();
        self.until_stopped(tasks, self.presence(watched, resource, selector, translate).run());
    }

    fn presence<B: Kind>(
        &self,
        watched: Watched,
        resource: Resource,
        selector: Option<Selector>,
        translate: Translate<B>,
    ) -> Presence<B, impl Fn(&Object<B>) -> Option<SourceUpdate> + Clone + Send + Sync + use<B>>
    {
        let watch = self.watch(watched, selector, translate);
        Presence { documents: self.documents.clone(), resource, watch }
    }

    fn watch<B: Kind>(
        &self,
        watched: Watched,
        selector: Option<Selector>,
        translate: Translate<B>,
    ) -> Watch<B, impl Fn(&Object<B>) -> Option<SourceUpdate> + Clone + Send + Sync + use<B>> {
        let (source, claims) = (self.source.clone(), self.claims.clone());
        Watch {
            api: kube::Api::<Object<B>>::all(self.client.clone()),
            watched,
            selector,
            streaming: self.streaming,
            translate: move |object: &Object<B>| translate(object, &source, &claims),
            heard: self.heard.clone(),
            relists: self.relists.clone(),
            listed_for: 0,
            board: self.board.clone(),
        }
    }

    /// Every await of a watch may be dropped: the ledger tolerates any cut.
    fn until_stopped(
        &self,
        tasks: &mut JoinSet<()>,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }
}

/// Which objects of a kind the server is asked for.
#[derive(Clone, Copy, Debug)]
enum Selector {
    Label(&'static str),
    Field(&'static str),
}

/// The key of a watched object.
fn key<B>(watched: Watched, object: &Object<B>) -> Key {
    Key::new(watched, object.namespace(), object.name())
}
