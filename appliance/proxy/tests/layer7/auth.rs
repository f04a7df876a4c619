//! Who clients have to be: passwords, tokens, the word of a server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use haflinger_core::{
    Authorizer, AuthorizerPath, AuthorizerPlace, ClaimHeader, ClaimMatch, Cors, Filter,
    HeaderChoice, KeySource, SecretRef, SignIn, SourceId, TokenAlgorithm, TokenKeys, TokenPlace,
    Tokens, Upstream, UserList, UserListChoice, Users, WebServer,
};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::support::backend::{Backend, dead_address, field};
use crate::support::client::RawClient;
use crate::support::grpc::{Caller, EchoServer};
use crate::support::{Lab, action, route, target, until};

async fn lab(filters: Vec<Filter>) -> (Lab, Backend) {
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.listen(vec![route("/", action("shop", filters))]);
    lab.publish().await;
    (lab, shop)
}

async fn ask(lab: &Lab, path: &str, fields: &[(&str, &str)]) -> (u16, String) {
    let mut client = RawClient::connect(lab.address).await;
    let (status, answer) = client.ask("GET", path, "shop.example", fields).await.unwrap();
    (status, answer)
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

fn ann() -> Arc<UserList> {
    Arc::new(UserList::parse(b"ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"))
}

/// ann has the password `secret`, by SHA-1 so that nothing takes long.
fn users(pass_on: bool) -> Filter {
    Filter::Users(Arc::new(Users {
        realm: "shop".into(),
        list: UserListChoice::Here(ann()),
        user_header: Some("x-user".into()),
        pass_on,
    }))
}

const REFUSED: &str = "haflinger_proxy_auth_refused_total";
const COMPARED: &str = "haflinger_proxy_password_comparisons_total";

#[tokio::test(flavor = "multi_thread")]
async fn a_password_lets_in_and_is_compared_once() {
    let (lab, shop) = lab(vec![users(false)]).await;
    let (status, answer) = ask(&lab, "/", &[]).await;
    assert_eq!(status, 401);
    assert!(answer.contains("basic realm=\"shop\"") || answer.contains("Basic realm=\"shop\""));
    for wrong in ["ann:Secret", "bob:secret", "ann:"] {
        assert_eq!(ask(&lab, "/", &[("authorization", &basic(wrong))]).await.0, 401, "{wrong}");
    }
    assert_eq!(shop.requests(), 0);
    let right = basic("ann:secret");
    let spoofed = [("authorization", &*right), ("x-user", "root"), ("x_user", "root")];
    for _ in 0..5 {
        assert_eq!(ask(&lab, "/", &spoofed).await.0, 200);
    }
    assert_eq!(lab.metric(COMPARED, "right"), 1.0);
    assert_eq!(lab.metric(COMPARED, "wrong"), 3.0);
    assert_eq!(lab.metric(REFUSED, "users"), 4.0);
    let (header, _) = shop.seen().pop().unwrap();
    assert_eq!(field(&header, "x-user"), Some("ann"));
    assert_eq!([field(&header, "x_user"), field(&header, "authorization")], [None, None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_list_forgets_who_was_right() {
    let (mut lab, shop) = lab(vec![users(true)]).await;
    let right = basic("ann:secret");
    assert_eq!(ask(&lab, "/", &[("authorization", &right)]).await.0, 200);
    let (header, _) = shop.seen().pop().unwrap();
    assert_eq!(field(&header, "authorization"), Some(&*right), "it is passed on");
    let list = Arc::new(UserList::parse(b"ann:$apr1$abcdefgh$xxxxxxxxxxxxxxxxxxxxxx\n"));
    let list = UserListChoice::Here(list);
    let other = Users { realm: "shop".into(), list, user_header: None, pass_on: false };
    lab.listen(vec![route("/", action("shop", vec![Filter::Users(Arc::new(other))]))]);
    lab.publish().await;
    assert_eq!(ask(&lab, "/", &[("authorization", &right)]).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_of_a_secret_come_and_go_with_it() {
    let (source, namespace, name) = (SourceId::inventory(), "default".into(), "people".into());
    let secret = SecretRef { source, namespace, name };
    let list = UserListChoice::Secret(secret.clone());
    let asked = Users { realm: "shop".into(), list, user_header: None, pass_on: false };
    let (mut lab, _shop) = lab(vec![Filter::Users(Arc::new(asked))]).await;
    let right = [("authorization", &*basic("ann:secret"))];
    assert_eq!(ask(&lab, "/", &right).await.0, 503, "there is none yet");
    lab.snapshot.user_lists.insert(secret.clone(), ann());
    lab.publish().await;
    assert_eq!(ask(&lab, "/", &right).await.0, 200);
    lab.snapshot.user_lists.remove(&secret);
    lab.publish().await;
    assert_eq!(ask(&lab, "/", &right).await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_browsers_ask_beforehand_needs_no_password_and_a_refusal_can_be_read() {
    let cors = Cors { origins: vec!["https://a.example".into()], ..Cors::default() };
    let (lab, shop) = lab(vec![users(false), Filter::Cors(cors)]).await;
    let mut client = RawClient::connect(lab.address).await;
    let asked = [("origin", "https://a.example"), ("access-control-request-method", "PUT")];
    let (status, _) = client.ask("OPTIONS", "/", "shop.example", &asked).await.unwrap();
    assert_eq!(status, 204);
    let (status, answer) = ask(&lab, "/", &asked[..1]).await;
    assert_eq!(status, 401);
    assert!(answer.to_ascii_lowercase().contains("access-control-allow-origin: https://a.example"));
    assert_eq!(shop.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_grpc_are_told_in_their_own_way() {
    let server = EchoServer::start().await;
    let mut lab = Lab::start();
    lab.backends("echo", &[server.address]);
    lab.listen(vec![route("/", action("echo", vec![users(false)]))]);
    lab.publish().await;
    let mut caller = Caller::connect(lab.address).await;
    let call = caller.call("shop.example", "/echo.Echo/Talk").await;
    assert_eq!(call.field("grpc-status"), Some("16"));
}

/// Someone who signs tokens.
enum Signer {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    fn rsa() -> Self {
        let pem = include_bytes!("support/rsa-2048.pem");
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem).unwrap();
        Self::Rsa(RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap())
    }

    fn p256() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }

    fn ed25519() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    fn key(&self, id: &str) -> Value {
        match self {
            Self::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                let (n, e) = (encoded(public.n), encoded(public.e));
                json!({"kty": "RSA", "kid": id, "n": n, "e": e})
            }
            Self::P256(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = point[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": id, "x": encoded(x), "y": encoded(y)})
            }
            Self::Ed25519(pair) => {
                let x = encoded(pair.public_key());
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": x})
            }
        }
    }

    /// `Authorization` with a token.
    fn bearer(&self, id: &str, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm(), "typ": "JWT", "kid": id});
        format!("Bearer {}", self.token(&header, claims))
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
        let (bytes, random) = (message.as_bytes(), SystemRandom::new());
        let signature = match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, bytes, &mut signature).unwrap();
                signature
            }
            Self::P256(pair) => pair.sign(&random, bytes).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(bytes).as_ref().to_vec(),
        };
        format!("{message}.{}", encoded(signature))
    }
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs()
}

fn claims() -> Value {
    json!({"iss": "https://id.example", "aud": ["shop"], "sub": "ann", "exp": now() + 600,
           "scope": "buy look", "groups": ["a", "b"]})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn tokens(keys: TokenKeys) -> Tokens {
    Tokens {
        realm: "shop".into(),
        issuer: Some("https://id.example".into()),
        audiences: vec!["shop".into()],
        algorithms: TokenAlgorithm::ALL.to_vec(),
        keys,
        places: vec![TokenPlace::Bearer],
        leeway_secs: 5,
        claims: vec![ClaimMatch { claim: "scope".into(), values: vec!["buy".into()] }],
        to_headers: vec![
            ClaimHeader { claim: "sub".into(), header: "x-sub".into() },
            ClaimHeader { claim: "groups".into(), header: "x-groups".into() },
            ClaimHeader { claim: "email".into(), header: "x-email".into() },
        ],
        user_claim: "sub".into(),
        pass_on: false,
    }
}

fn inline(keys: &[Value]) -> TokenKeys {
    TokenKeys::Inline(json!({"keys": keys}).to_string().into())
}

fn filter(tokens: Tokens) -> Filter {
    Filter::Tokens(Arc::new(tokens))
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_each_kind_of_key_let_in_and_the_backend_is_told_of_them() {
    let signers = [Signer::rsa(), Signer::p256(), Signer::ed25519()];
    let keys: Vec<Value> = signers.iter().map(|signer| signer.key(signer.algorithm())).collect();
    let (lab, shop) = lab(vec![filter(tokens(inline(&keys)))]).await;
    for signer in &signers {
        let bearer = signer.bearer(signer.algorithm(), &claims());
        let fields = [("authorization", &*bearer), ("x-sub", "root"), ("x-email", "root@a")];
        assert_eq!(ask(&lab, "/", &fields).await.0, 200, "{}", signer.algorithm());
        let (header, _) = shop.seen().pop().unwrap();
        assert_eq!(field(&header, "x-sub"), Some("ann"));
        assert_eq!(field(&header, "x-groups"), Some("a,b"));
        assert_eq!([field(&header, "x-email"), field(&header, "authorization")], [None, None]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_right_get_401_or_403_with_the_reason() {
    let (signer, other) = (Signer::p256(), Signer::p256());
    let (lab, shop) = lab(vec![filter(tokens(inline(&[signer.key("k")])))]).await;
    // Signed by what everybody knows: the point of the public key.
    let secret = ring::hmac::Key::new(
        ring::hmac::HMAC_SHA256,
        signer.key("k")["x"].as_str().unwrap().as_bytes(),
    );
    let message =
        format!("{}.{}", encoded(r#"{"alg":"HS256","kid":"k"}"#), encoded(claims().to_string()));
    let confused = encoded(ring::hmac::sign(&secret, message.as_bytes()));
    let unsigned = format!("{}.{}.", encoded(r#"{"alg":"none"}"#), encoded(claims().to_string()));
    for (bearer, status, reason) in [
        (signer.bearer("k", &with("exp", json!(now() - 60))), 401, "expired"),
        (signer.bearer("k", &with("nbf", json!(now() + 60))), 401, "not_yet"),
        (signer.bearer("k", &with("aud", json!("blog"))), 401, "audience"),
        (signer.bearer("k", &with("iss", json!("https://evil.example"))), 401, "issuer"),
        (signer.bearer("k", &with("scope", json!("look"))), 403, "claims"),
        (signer.bearer("l", &claims()), 401, "unknown_key"),
        (other.bearer("k", &claims()), 401, "signature"),
        (format!("Bearer {message}.{confused}"), 401, "algorithm"),
        (format!("Bearer {unsigned}"), 401, "algorithm"),
        ("Bearer x".to_owned(), 401, "malformed"),
        ("Basic YTpi".to_owned(), 401, "missing"),
    ] {
        let before = lab.metric(REFUSED, reason);
        let (own, answer) = ask(&lab, "/", &[("authorization", &bearer)]).await;
        assert_eq!(own, status, "{reason}");
        assert_eq!(lab.metric(REFUSED, reason), before + 1.0, "{reason}");
        let error = if status == 403 { "insufficient_scope" } else { "invalid_token" };
        assert!(answer.contains("Bearer realm=\"shop\""), "{answer}");
        assert_eq!(answer.contains(&format!("error=\"{error}\"")), reason != "missing");
    }
    assert_eq!(shop.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_taken_out_of_cookies_and_queries() {
    let signer = Signer::ed25519();
    let places = vec![TokenPlace::Cookie("t".into()), TokenPlace::Query("access_token".into())];
    let asked = Tokens { places, ..tokens(inline(&[signer.key("k")])) };
    let (lab, shop) = lab(vec![filter(asked)]).await;
    let token = signer.token(&json!({"alg": "EdDSA"}), &claims());
    let cookie = format!("a=1; t={token}; b=2");
    assert_eq!(ask(&lab, "/x?y=1", &[("cookie", &cookie)]).await.0, 200);
    let (header, _) = shop.seen().pop().unwrap();
    assert_eq!(field(&header, "cookie"), Some("a=1; b=2"));
    assert_eq!(ask(&lab, &format!("/x?access_token={token}&y=1"), &[]).await.0, 200);
    let (header, _) = shop.seen().pop().unwrap();
    assert!(header.starts_with("GET /x?y=1 HTTP/1.1\r\n"), "{header}");
}

/// A server whose answers a test decides on.
struct Oracle {
    address: SocketAddr,
    answer: Arc<Mutex<String>>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Oracle {
    async fn start(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let oracle = Self {
            address,
            answer: Arc::new(Mutex::new(answer.to_owned())),
            heard: Arc::default(),
        };
        let (answer, heard) = (oracle.answer.clone(), oracle.heard.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::serve(stream, answer.clone(), heard.clone()));
            }
        });
        oracle
    }

    async fn serve(
        stream: TcpStream,
        answer: Arc<Mutex<String>>,
        heard: Arc<Mutex<Vec<String>>>,
    ) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut header = String::new();
            while !header.ends_with("\r\n\r\n") {
                if stream.read_line(&mut header).await.ok()? == 0 {
                    return None;
                }
            }
            heard.lock().unwrap().push(header);
            let answer = answer.lock().unwrap().clone();
            if answer.is_empty() {
                // Never an answer: until the other side has gone.
                let _ = stream.read_u8().await;
                return None;
            }
            stream.get_mut().write_all(answer.as_bytes()).await.ok()?;
        }
    }

    fn say(&self, answer: &str) {
        *self.answer.lock().unwrap() = answer.to_owned();
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    fn server(&self) -> WebServer {
        let (host, port) = (self.address.ip().to_string().into(), self.address.port());
        WebServer { host, port, tls: None }
    }
}

fn answer(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len())
}

fn key_set(keys: &[Value]) -> String {
    answer("200 OK", "Cache-Control: max-age=3600\r\n", &json!({"keys": keys}).to_string())
}

fn fetched(server: WebServer) -> TokenKeys {
    TokenKeys::Fetched(KeySource { server, path: "/keys?a".into(), refresh_secs: 300 })
}

const FETCHES: &str = "haflinger_proxy_key_fetches_total";

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_once_for_all_and_kept() {
    let signer = Signer::ed25519();
    let oracle = Oracle::start(&key_set(&[signer.key("k")])).await;
    let (mut lab, _shop) = lab(vec![filter(tokens(fetched(oracle.server())))]).await;
    let bearer = signer.bearer("k", &claims());
    for _ in 0..3 {
        assert_eq!(ask(&lab, "/", &[("authorization", &bearer)]).await.0, 200);
    }
    // Another rule with the same keys, and the server gone wrong: what is known stands.
    oracle.say(&answer("500 Broken", "", ""));
    let same = Tokens { claims: Vec::new(), ..tokens(fetched(oracle.server())) };
    lab.listen(vec![route("/", action("shop", vec![filter(same)]))]);
    lab.publish().await;
    assert_eq!(ask(&lab, "/", &[("authorization", &bearer)]).await.0, 200);
    // Fetched a moment ago: invented keys do not load the server.
    for n in 0..5 {
        let unknown = signer.bearer(&format!("new-{n}"), &claims());
        assert_eq!(ask(&lab, "/", &[("authorization", &unknown)]).await.0, 401);
    }
    let heard = oracle.heard();
    assert_eq!(heard.len(), 1);
    assert!(heard[0].starts_with("GET /keys?a HTTP/1.1\r\n"), "{heard:?}");
    assert_eq!(field(&heard[0], "host"), Some(&*oracle.address.to_string()));
    assert_eq!(lab.metric(FETCHES, "fetched"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_keys_can_be_had_nobody_is_let_in_and_then_everybody() {
    let signer = Signer::ed25519();
    let oracle = Oracle::start(&answer("200 OK", "", "<html>")).await;
    let (lab, shop) = lab(vec![filter(tokens(fetched(oracle.server())))]).await;
    let bearer = signer.bearer("k", &claims());
    until("a fetch has failed", || lab.metric(FETCHES, "failed") >= 1.0).await;
    assert_eq!(ask(&lab, "/", &[("authorization", &bearer)]).await.0, 503);
    assert_eq!(lab.metric("haflinger_proxy_key_sets_failing", ""), 1.0);
    assert_eq!(shop.requests(), 0);
    oracle.say(&key_set(&[signer.key("k")]));
    until("keys are fetched", || lab.metric(FETCHES, "fetched") == 1.0).await;
    assert_eq!(ask(&lab, "/", &[("authorization", &bearer)]).await.0, 200);
    assert_eq!(lab.metric("haflinger_proxy_key_sets_failing", ""), 0.0);
}

fn authorizer(to: AuthorizerPlace) -> Authorizer {
    Authorizer {
        to,
        path: AuthorizerPath::Fixed("/check".into()),
        method: Some("GET".into()),
        request_headers: HeaderChoice::All,
        to_backend: HeaderChoice::Only(vec!["x-user".into()]),
        to_client: HeaderChoice::Only(Vec::new()),
        cookies: true,
        sign_in: None,
        timeout_ms: 5_000,
        fail_open: false,
        only_200: false,
    }
}

fn asks(authorizer: Authorizer) -> Filter {
    Filter::Authorizer(Arc::new(authorizer))
}

const AUTHORIZED: &str = "haflinger_proxy_authorizations_total";

#[tokio::test(flavor = "multi_thread")]
async fn an_authorizer_lets_pass_refuses_and_sends_to_sign_in() {
    let oracle =
        Oracle::start(&answer("202 Accepted", "X-User: ann\r\nSet-Cookie: s=1\r\n", "")).await;
    let place = || AuthorizerPlace::Server(oracle.server());
    let (mut lab, shop) = lab(vec![asks(authorizer(place()))]).await;
    let fields = [("cookie", "c=1"), ("x-user", "root"), ("x-original-url", "lie")];
    let (status, said) = ask(&lab, "/a?b=c", &fields).await;
    assert_eq!(status, 200);
    assert!(said.to_ascii_lowercase().contains("set-cookie: s=1\r\n"), "{said}");
    let (header, _) = shop.seen().pop().unwrap();
    assert_eq!(field(&header, "x-user"), Some("ann"));
    assert_eq!(field(&header, "cookie"), Some("c=1"));
    let heard = oracle.heard().pop().unwrap();
    assert!(heard.starts_with("GET /check HTTP/1.1\r\n"), "{heard}");
    assert_eq!(field(&heard, "cookie"), Some("c=1"));
    assert_eq!(field(&heard, "x-original-url"), Some("http://shop.example/a?b=c"));
    assert_eq!(field(&heard, "x-forwarded-for"), Some("127.0.0.1"));
    oracle.say(&answer("403 No", "X-Inner: x\r\nContent-Type: text/x\r\n", "not you"));
    let (status, said) = ask(&lab, "/", &[]).await;
    assert_eq!(status, 403);
    assert!(said.ends_with("not you") && !said.to_ascii_lowercase().contains("x-inner"), "{said}");
    oracle.say(&answer("302 Go", "Location: https://id.example/\r\n", ""));
    let (status, said) = ask(&lab, "/", &[]).await;
    assert_eq!(status, 302);
    assert!(said.to_ascii_lowercase().contains("location: https://id.example/\r\n"), "{said}");
    oracle.say(&answer("401 Who", "", ""));
    let sign_in = Some(SignIn { url: "https://id.example/in".into(), back: Some("rd".into()) });
    let signing = Authorizer { sign_in, ..authorizer(place()) };
    lab.listen(vec![route("/", action("shop", vec![asks(signing)]))]);
    lab.publish().await;
    let (status, said) = ask(&lab, "/a", &[]).await;
    assert_eq!(status, 302);
    let to = "location: https://id.example/in?rd=http%3a%2f%2fshop.example%2fa\r\n";
    assert!(said.to_ascii_lowercase().contains(to), "{said}");
    assert_eq!(shop.requests(), 1);
    assert_eq!(lab.metric(AUTHORIZED, "passed"), 1.0);
    assert_eq!(lab.metric(AUTHORIZED, "refused"), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorizer_of_a_service_is_asked_at_its_pods_and_a_dead_one_is_passed_over() {
    let oracle = Oracle::start(&answer("200 OK", "", "")).await;
    let shop = Backend::start("shop").await;
    let mut lab = Lab::start();
    lab.backends("shop", &[shop.address]);
    lab.backends("auth", &[oracle.address, dead_address().await]);
    let to = AuthorizerPlace::Backends(Upstream::plain(target("auth")));
    let path = AuthorizerPath::Before("/ext".into());
    let asked = Authorizer { path, method: None, ..authorizer(to) };
    lab.listen(vec![route("/", action("shop", vec![asks(asked)]))]);
    lab.publish().await;
    let mut client = RawClient::connect(lab.address).await;
    for _ in 0..20 {
        assert_eq!(client.get("/a?b").await.unwrap().0, 200);
    }
    let heard = oracle.heard();
    assert_eq!(heard.len(), 20);
    assert!(heard[0].starts_with("GET /ext/a?b HTTP/1.1\r\n"), "{heard:?}");
    lab.backends("auth", &[]);
    lab.publish().await;
    assert_eq!(client.get("/").await.unwrap().0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorizer_that_is_slow_or_away_lets_nobody_pass_unless_it_is_said() {
    let (slow, dead) = (Oracle::start("").await, dead_address().await);
    let dead = WebServer { host: dead.ip().to_string().into(), port: dead.port(), tls: None };
    let (mut lab, shop) = lab(Vec::new()).await;
    for (server, outcome) in [(slow.server(), "timeout"), (dead, "failed")] {
        for (fail_open, status) in [(false, 503), (true, 200)] {
            let place = AuthorizerPlace::Server(server.clone());
            let asked = Authorizer { timeout_ms: 50, fail_open, ..authorizer(place) };
            lab.listen(vec![route("/", action("shop", vec![asks(asked)]))]);
            lab.publish().await;
            assert_eq!(ask(&lab, "/", &[("x-user", "root")]).await.0, status, "{outcome}");
        }
        assert_eq!(lab.metric(AUTHORIZED, outcome), 2.0);
    }
    assert_eq!(shop.requests(), 2);
    assert!(shop.seen().iter().all(|(header, _)| field(header, "x-user").is_none()));
    lab.listen(vec![route(
        "/",
        action("shop", vec![asks(authorizer(AuthorizerPlace::Nowhere(500)))]),
    )]);
    lab.publish().await;
    assert_eq!(ask(&lab, "/", &[]).await.0, 500);
}
