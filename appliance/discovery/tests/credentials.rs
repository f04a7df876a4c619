//! Credentials that change, against a real API server.
//!
//! Topology: this process and the cluster of `HAFLINGER_TEST_KUBECONFIG`, an administrator's, as
//! tests/with-controlplane makes it: certificates of three users lie as files beside it. Claims:
//! 1. Certificate files that are swapped are followed; a broken key changes nothing and is named.
//! 2. A token file is followed at once where the server refuses the former token.
//! 3. A program is asked once for each of its credentials, before they expire, and when the server
//!    refuses them; one that fails changes nothing and is named.
//! 4. A kubeconfig that names another server is told as that.
//! 5. Watches go on through all of it: nothing is listed anew, and nothing is lost.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use haflinger_core::{SourceUpdate, Update};
use haflinger_discovery::{ClusterSettings, DeletionLimits, Discovery, LabelKeys, Settings};
use haflinger_kubernetes::{Access, CredentialsBoard, Moved, Said};
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use prometheus::Registry;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A wait that is far longer than anything takes: only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The cluster, and a folder for what leads to it.
struct World {
    admin: Client,
    pki: PathBuf,
    server: String,
    dir: tempfile::TempDir,
    namespace: String,
}

impl World {
    async fn begin(test: &str) -> Option<Self> {
        let path = std::env::var_os("HAFLINGER_TEST_KUBECONFIG").map(PathBuf::from);
        let pki = path.as_ref().and_then(|path| Some(path.parent()?.join("pki")));
        let Some((path, pki)) = path.zip(pki).filter(|(_, pki)| pki.join("ca.crt").exists()) else {
            #[expect(clippy::print_stderr, reason = "a skipped test has to say so")]
            {
                eprintln!("SKIPPED {test}: no HAFLINGER_TEST_KUBECONFIG with pki/ beside it");
            }
            return None;
        };
        let kubeconfig = kube::config::Kubeconfig::read_from(path).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
        let config = config.unwrap();
        let server = config.cluster_url.to_string();
        let admin = Client::try_from(config).unwrap();
        let namespace = format!("hf-{}-{}", test.replace('_', "-"), std::process::id());
        let object = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        Api::<Namespace>::all(admin.clone()).create(&PostParams::default(), &object).await.unwrap();
        Some(Self { admin, pki, server, dir: tempfile::tempdir().unwrap(), namespace })
    }

    async fn end(self) {
        let namespaces: Api<Namespace> = Api::all(self.admin);
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// A kubeconfig whose user is described like this.
    fn kubeconfig(&self, user: &str) -> Access {
        let (server, ca) = (&self.server, self.pki.join("ca.crt"));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: '{server}', certificate-authority: {}}}}}]\n\
             users: [{{name: u, user: {user}}}]\n",
            ca.display()
        );
        replace(&self.path("kubeconfig"), &text);
        Access { kubeconfig: self.path("kubeconfig"), context: None }
    }

    fn accounts(&self) -> Api<ServiceAccount> {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    /// A new account and a token for it.
    async fn token(&self, account: &str) -> String {
        let object = json!({"metadata": {"name": account}});
        let object = serde_json::from_value(object).unwrap();
        self.accounts().create(&PostParams::default(), &object).await.unwrap();
        let request = TokenRequest {
            spec: Some(TokenRequestSpec { expiration_seconds: Some(3600), ..Default::default() }),
            ..TokenRequest::default()
        };
        let answer =
            self.accounts().create_token_request(account, &PostParams::default(), &request).await;
        answer.unwrap().status.unwrap().token.unwrap()
    }

    async fn delete_account(&self, account: &str) {
        self.accounts().delete(account, &DeleteParams::default()).await.unwrap();
    }

    fn named(&self, account: &str) -> String {
        format!("system:serviceaccount:{}:{account}", self.namespace)
    }
}

/// Replaces a file as a whole, as whoever rotates credentials should.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// A client, and what is said of its credentials.
struct Signed {
    client: Client,
    board: CredentialsBoard,
    task: tokio::task::JoinHandle<Moved>,
}

impl Signed {
    async fn open(access: &Access) -> Self {
        let (client, mut keeper) = access.open(PATIENCE).await.unwrap();
        let board = CredentialsBoard::default();
        board.note(&Said::Taken);
        let told = board.clone();
        let task = tokio::spawn(async move { keeper.follow(|said| told.note(&said)).await });
        Self { client, board, task }
    }

    /// Who the server says that we are; `None`: it does not know us.
    async fn user(&self) -> Option<String> {
        let reviews: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review = SelfSubjectReview::default();
        match reviews.create(&PostParams::default(), &review).await {
            Ok(review) => review.status.unwrap().user_info.unwrap().username,
            Err(kube::Error::Api(status)) if status.code == 401 => None,
            Err(error) => panic!("{error}"),
        }
    }

    async fn becomes(&self, user: &str) {
        until(&format!("to be {user}"), async || {
            (self.user().await.as_deref() == Some(user)).then_some(())
        })
        .await;
    }

    /// Waits until an error is shown, or none.
    async fn shows(&self, words: Option<&str>) {
        until(&format!("to say {words:?}"), async || {
            let error = self.board.status().last_error;
            let fits = match words {
                Some(words) => error.is_some_and(|error| error.contains(words)),
                None => error.is_none(),
            };
            fits.then_some(())
        })
        .await;
    }
}

async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{what}: never"))
}

#[tokio::test]
async fn certificate_files_are_followed_and_a_broken_key_changes_nothing() {
    let Some(world) = World::begin("certificate_files").await else { return };
    let copy = |user: &str, kind: &str| {
        let content = std::fs::read_to_string(world.pki.join(format!("{user}.{kind}"))).unwrap();
        replace(&world.path(&format!("client.{kind}")), &content);
    };
    let swap = |user: &str| ["crt", "key"].map(|kind| copy(user, kind));
    swap("haflinger");
    let access = world.kubeconfig("{client-certificate: client.crt, client-key: client.key}");
    let signed = Signed::open(&access).await;
    signed.becomes("system:serviceaccount:haflinger:haflinger").await;
    swap("controller-manager");
    signed.becomes("system:kube-controller-manager").await;
    assert_eq!(signed.board.status().loads, 2);

    replace(&world.path("client.key"), "no key at all");
    signed.shows(Some(access.kubeconfig.to_str().unwrap())).await;
    assert_eq!(signed.user().await.as_deref(), Some("system:kube-controller-manager"));
    copy("controller-manager", "key");
    signed.shows(None).await;
    assert_eq!(signed.board.status().loads, 2, "nothing else was taken into use");

    std::fs::remove_file(&access.kubeconfig).unwrap();
    signed.shows(Some("kubeconfig")).await;
    assert_eq!(signed.user().await.as_deref(), Some("system:kube-controller-manager"));

    let elsewhere = world.server.replace("127.0.0.1", "localhost");
    assert_ne!(elsewhere, world.server);
    let text = std::fs::read_to_string(world.kubeconfig("{}").kubeconfig).unwrap();
    replace(&access.kubeconfig, &text.replace(&world.server, &elsewhere));
    assert_eq!(tokio::time::timeout(PATIENCE, signed.task).await.unwrap().unwrap(), Moved);
    world.end().await;
}

#[tokio::test]
async fn a_token_file_is_followed_when_the_former_token_is_refused() {
    let Some(world) = World::begin("token_file").await else { return };
    let (first, second) = (world.token("first").await, world.token("second").await);
    replace(&world.path("token"), &format!("{first}\n"));
    let signed = Signed::open(&world.kubeconfig("{tokenFile: token}")).await;
    signed.becomes(&world.named("first")).await;
    replace(&world.path("token"), &second);
    world.delete_account("first").await;
    signed.becomes(&world.named("second")).await;
    std::fs::remove_file(world.path("token")).unwrap();
    signed.shows(Some(world.path("token").to_str().unwrap())).await;
    assert_eq!(signed.user().await, Some(world.named("second")));
    world.end().await;
}

/// A program that counts how often it is asked, and says what stands in a file.
fn program(world: &World) -> Access {
    let script = world.path("login");
    let text = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho asked >> asked\nexec cat answer\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    world.kubeconfig(
        "{exec: {apiVersion: client.authentication.k8s.io/v1, command: ./login, \
         interactiveMode: IfAvailable}}",
    )
}

fn answer(world: &World, token: &str, lives_secs: u64) {
    let until = std::time::SystemTime::now() + Duration::from_secs(lives_secs);
    let until = jiff::Timestamp::try_from(until).unwrap();
    let answer = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": token, "expirationTimestamp": until},
    });
    replace(&world.path("answer"), &answer.to_string());
}

#[tokio::test]
async fn a_program_is_asked_once_for_each_of_its_credentials() {
    let Some(world) = World::begin("program").await else { return };
    let asked = || std::fs::read_to_string(world.path("asked")).unwrap().lines().count();
    let (first, second) = (world.token("first").await, world.token("second").await);
    answer(&world, &first, 15);
    let signed = Signed::open(&program(&world)).await;
    for _ in 0..20 {
        assert_eq!(signed.user().await, Some(world.named("first")));
    }
    assert_eq!(asked(), 1, "one token, one question");
    answer(&world, &second, 3600);
    signed.becomes(&world.named("second")).await;
    assert_eq!(asked(), 2, "before the first one expired");

    // Refused by the server long before its time: the program is asked, and cannot help.
    replace(&world.path("answer"), "no credentials");
    world.delete_account("second").await;
    until("to be refused", async || signed.user().await.is_none().then_some(())).await;
    signed.shows(Some("login answered with no ExecCredential")).await;
    let third = world.token("third").await;
    answer(&world, &third, 3600);
    signed.becomes(&world.named("third")).await;
    signed.shows(None).await;
    assert_eq!(signed.board.status().loads, 3);
    world.end().await;
}

fn settings(kubeconfig: &Path) -> Settings {
    Settings {
        clusters: vec![ClusterSettings {
            name: "test".into(),
            kubeconfig: kubeconfig.to_owned(),
            context: None,
            claim_unclassed: false,
            ingress_class: "haflinger".into(),
            deletions: DeletionLimits::default(),
            labels: LabelKeys::default(),
            pod_routes: Vec::new(),
            readiness_gate: false,
        }],
        inventory: None,
        state_dir: None,
    }
}

/// Complete lists so far of the kinds that every cluster has.
fn lists(registry: &Registry) -> f64 {
    let families = registry.gather();
    let of_lists = families.iter().find(|f| f.name() == "haflinger_discovery_lists_total");
    let of_kinds = of_lists.unwrap().get_metric().iter().filter(|metric| {
        let kinds = ["services", "slices", "nodes", "ingresses", "certificates"];
        metric.get_label().iter().any(|label| kinds.contains(&label.value()))
    });
    of_kinds.map(|metric| metric.get_counter().get_value()).sum()
}

#[tokio::test]
async fn watches_go_on_while_credentials_come_break_and_go() {
    let Some(world) = World::begin("watches").await else { return };
    let bindings: Api<ClusterRoleBinding> = Api::all(world.admin.clone());
    let mut tokens = Vec::new();
    for account in ["first", "second"] {
        tokens.push(world.token(account).await);
        let mut name = world.namespace.clone();
        write!(name, "-{account}").unwrap();
        let binding = json!({
            "metadata": {"name": name},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": "cluster-admin",
            },
            "subjects": [{
                "kind": "ServiceAccount", "name": account, "namespace": world.namespace,
            }],
        });
        let binding = serde_json::from_value(binding).unwrap();
        bindings.create(&PostParams::default(), &binding).await.unwrap();
    }
    replace(&world.path("token"), &tokens[0]);
    let access = world.kubeconfig("{tokenFile: token}");
    let registry = Registry::new();
    let discovery = Discovery::new(settings(&access.kubeconfig), &registry).unwrap();
    let (handle, shutdown) = (discovery.handle(), CancellationToken::new());
    let (sender, mut updates) = mpsc::channel(64);
    let task = tokio::spawn(discovery.run(sender, shutdown.clone()));
    let next = async |updates: &mut mpsc::Receiver<Update>| {
        tokio::time::timeout(PATIENCE, updates.recv()).await.expect("an update").unwrap()
    };
    while !matches!(next(&mut updates).await, Update::Synced(_)) {}
    let before = lists(&registry);
    let services: Api<Service> = Api::namespaced(world.admin.clone(), &world.namespace);
    let told = async |name: &str, updates: &mut mpsc::Receiver<Update>| {
        let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
        let service = serde_json::from_value(service).unwrap();
        services.create(&PostParams::default(), &service).await.unwrap();
        loop {
            if let Update::Source(SourceUpdate::Service { object, spec }) = next(updates).await {
                assert!(spec.is_some(), "{object} was withdrawn");
                if *object.name == *name {
                    return;
                }
            }
        }
    };
    let credentials = || handle.status().sources[0].credentials.clone().unwrap();
    told("before", &mut updates).await;

    replace(&world.path("token"), &tokens[1]);
    until("new credentials", async || (credentials().loads == 2).then_some(())).await;
    world.delete_account("first").await;
    told("with-new-ones", &mut updates).await;

    replace(&access.kubeconfig, "nonsense");
    until("broken credentials", async || credentials().last_error).await;
    told("with-broken-ones", &mut updates).await;
    let status = &handle.status().sources[0];
    let error = status.last_error.clone().unwrap();
    assert!(error.contains(access.kubeconfig.to_str().unwrap()), "{error}");
    assert!(status.connected && status.synced, "{status:?}");

    world.kubeconfig("{tokenFile: token}");
    until("good ones", async || credentials().last_error.is_none().then_some(())).await;
    assert_eq!((before, lists(&registry)), (5.0, 5.0), "nothing was listed anew");
    assert!(handle.status().sources[0].last_error.is_none());

    shutdown.cancel();
    while updates.recv().await.is_some() {}
    task.await.unwrap();
    for account in ["first", "second"] {
        let name = format!("{}-{account}", world.namespace);
        bindings.delete(&name, &DeleteParams::default()).await.unwrap();
    }
    world.end().await;
}
