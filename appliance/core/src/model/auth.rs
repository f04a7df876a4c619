//! Who a client has to be: by name and password, by a signed token, or by the word of a server
//! that is asked.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{SourceId, Upstream, UpstreamAuthorities, UpstreamTls};

/// Users of one list: more belong behind an authorizer. Each takes about 200 bytes.
pub const USERS_MAX: usize = 10_000;

/// Bytes of one list of users as written: what the longest hashes of [`USERS_MAX`] come to.
pub const USER_LIST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Bytes of a user's name: what fits into a line of the access log.
pub const USER_NAME_BYTES_MAX: usize = 256;

/// Bytes of a hashed password: argon2id with a salt and a tag of 64 bytes has 240.
pub const PASSWORD_HASH_BYTES_MAX: usize = 512;

/// Bytes of a realm (RFC 9110, section 11.5).
pub const REALM_BYTES_MAX: usize = 256;

/// Bytes of a set of keys (RFC 7517): a hundred RSA keys with their certificates.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;

/// Seconds of difference between clocks that [`Tokens::leeway_secs`] can allow for at most.
pub const LEEWAY_MAX_SECS: u32 = 600;

/// Longest [`Authorizer::timeout_ms`]: the client waits that long.
pub const AUTHORIZER_TIMEOUT_MAX_MS: u32 = 60_000;

/// Entries of any list here: places of tokens, audiences, claims, header fields.
pub const AUTH_LIST_MAX: usize = 64;

/// A name and a password (RFC 7617). Who shows none gets 401.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// What the password is for, as browsers show it. At most [`REALM_BYTES_MAX`], visible ASCII.
    pub realm: Arc<str>,
    /// Who is let in. While there is no such list, nobody is.
    pub list: UserListChoice,
    /// The field in which the backend is told the user's name, lower case; whatever a client sends
    /// in it is taken out. `None`: it is not told.
    pub user_header: Option<Arc<str>>,
    /// `Authorization` goes on to the backend.
    pub pass_on: bool,
}

/// Users with the hashes of their passwords. `Debug` shows neither.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UserList {
    /// In the order of the list, each name once.
    pub users: Vec<User>,
    /// What of it cannot be used, without its contents; `None`: nothing.
    pub fault: Option<Arc<str>>,
}

/// One user.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct User {
    /// The name, without a colon.
    pub name: Arc<str>,
    /// The password's hash as [`UserList::parse`] has it.
    pub hash: Arc<str>,
}

impl fmt::Debug for UserList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserList({} users, fault {:?})", self.users.len(), self.fault)
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("User(withheld)")
    }
}

/// What hashes of passwords begin with: bcrypt, SHA-256 and SHA-512 (`crypt(3)`), argon2, MD5 as
/// Apache has it, SHA-1.
pub const HASH_PREFIXES: [&str; 9] =
    ["$2y$", "$2b$", "$2a$", "$5$", "$6$", "$argon2id$", "$argon2i$", "$apr1$", "{SHA}"];

impl UserList {
    /// Reads `name:hash` lines (htpasswd). What cannot be used is left out, and said by its line;
    /// of several lines for one name the first counts.
    pub fn parse(text: &[u8]) -> Self {
        if text.len() > USER_LIST_BYTES_MAX {
            return Self::faulty(&format!("has more than {USER_LIST_BYTES_MAX} bytes"));
        }
        let Ok(text) = std::str::from_utf8(text) else { return Self::faulty("is not UTF-8") };
        let mut list = Self::default();
        let mut names = std::collections::BTreeSet::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if list.users.len() >= USERS_MAX {
                list.fault = Some(format!("has more than {USERS_MAX} users").into());
                break;
            }
            match user_of(line) {
                Ok((name, hash)) if names.insert(name) => {
                    list.users.push(User { name: name.into(), hash: hash.into() });
                }
                Ok(_) => {}
                Err(why) => {
                    list.fault.get_or_insert_with(|| format!("line {number}: {why}").into());
                }
            }
        }
        if list.users.is_empty() && list.fault.is_none() {
            list.fault = Some("names no user".into());
        }
        list
    }

    /// Nobody, and why.
    pub fn faulty(why: &str) -> Self {
        Self { users: Vec::new(), fault: Some(why.into()) }
    }
}

fn user_of(line: &str) -> Result<(&str, &str), &'static str> {
    let (name, rest) = line.split_once(':').ok_or("has no colon")?;
    // What stands behind a second colon is a comment, as in Apache's and nginx's files.
    let hash = rest.split(':').next().unwrap_or_default();
    if name.is_empty() || name.len() > USER_NAME_BYTES_MAX || name.contains(char::is_control) {
        return Err("the name is empty, longer than 256 bytes, or has control characters");
    }
    if hash.len() > PASSWORD_HASH_BYTES_MAX {
        return Err("the hash has more than 512 bytes");
    }
    if !HASH_PREFIXES.iter().any(|prefix| hash.starts_with(prefix)) {
        return Err("the hash is none of bcrypt, argon2, sha256-crypt, sha512-crypt, apr1 and \
                    {SHA}; make it by `htpasswd -B`");
    }
    Ok((name, hash))
}

/// A JSON Web Token with a signature (RFC 7519, RFC 8725). Who shows none gets 401, whose token
/// lacks a required claim 403.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// What the token is for, as told in `WWW-Authenticate`.
    pub realm: Arc<str>,
    /// `iss` has to be this; `None`: it is not looked at.
    pub issuer: Option<Arc<str>>,
    /// `aud` has to have one of these; empty: it is not looked at.
    pub audiences: Vec<Arc<str>>,
    /// How it may be signed: never empty. Each key of the set is used with those alone that are
    /// its own kind's.
    pub algorithms: Vec<TokenAlgorithm>,
    /// By whom it has to be signed.
    pub keys: TokenKeys,
    /// Where it is looked for, in this order: never empty.
    pub places: Vec<TokenPlace>,
    /// Seconds by which clocks may differ, for `exp` and `nbf`. At most [`LEEWAY_MAX_SECS`].
    pub leeway_secs: u32,
    /// What it has to say beside.
    pub claims: Vec<ClaimMatch>,
    /// What the backend is told of it; whatever a client sends in such a field is taken out.
    pub to_headers: Vec<ClaimHeader>,
    /// The claim that names the user in the access log.
    pub user_claim: Arc<str>,
    /// The token goes on to the backend.
    pub pass_on: bool,
}

/// How a token may be signed (RFC 7518, section 3.1; RFC 8037). There is none by which both sides
/// know the secret, and none without a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TokenAlgorithm {
    /// RSA PKCS #1 v1.5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// The same with SHA-384.
    #[serde(rename = "RS384")]
    Rs384,
    /// The same with SHA-512.
    #[serde(rename = "RS512")]
    Rs512,
    /// RSA PSS with SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
    /// The same with SHA-384.
    #[serde(rename = "PS384")]
    Ps384,
    /// The same with SHA-512.
    #[serde(rename = "PS512")]
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA on P-384 with SHA-384.
    #[serde(rename = "ES384")]
    Es384,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl TokenAlgorithm {
    /// All.
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// As `alg` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// By its name, case sensitive.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }
}

/// The keys of those who sign.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TokenKeys {
    /// A JSON Web Key Set (RFC 7517, section 5) as it stands. At most [`JWKS_BYTES_MAX`].
    Inline(Arc<str>),
    /// One that is fetched and kept.
    Fetched(KeySource),
}

/// Where a set of keys is fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeySource {
    /// The server.
    pub server: WebServer,
    /// Path and query.
    pub path: Arc<str>,
    /// Seconds for which a set is kept unless the server says; its word counts within bounds.
    pub refresh_secs: u32,
}

/// A server by its name. It is looked up again and again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WebServer {
    /// Host name or address; of IPv6 without brackets.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// How it is greeted; `None`: without TLS.
    pub tls: Option<Arc<UpstreamTls>>,
}

impl WebServer {
    /// `Host` for it: without the port where that is the scheme's usual one.
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.to_string(),
        };
        match (self.port, self.tls.is_some()) {
            (443, true) | (80, false) => host,
            (port, _) => format!("{host}:{port}"),
        }
    }
}

/// Where a token is looked for. Names of fields are lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenPlace {
    /// `Authorization: Bearer` (RFC 6750, section 2.1).
    Bearer,
    /// Another field; `prefix` stands before the token and is left out of it.
    Header {
        /// The field.
        name: Arc<str>,
        /// What comes before the token, case sensitive.
        #[serde(default)]
        prefix: Arc<str>,
    },
    /// A cookie.
    Cookie(Arc<str>),
    /// A parameter of the query (RFC 6750, section 2.3): addresses end up in logs.
    Query(Arc<str>),
}

/// What a token has to say.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClaimMatch {
    /// The claim: by this name, or else, split at dots, from object to object.
    pub claim: Arc<str>,
    /// It has to be one of these, or a list that has one; `scope` is a list with spaces between.
    /// Empty: it has to be there.
    #[serde(default)]
    pub values: Vec<Arc<str>>,
}

/// What of a token the backend is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClaimHeader {
    /// The claim, as in [`ClaimMatch::claim`]. Text, numbers and truth values, and lists of them
    /// with commas between; anything else is not told.
    pub claim: Arc<str>,
    /// The field, lower case.
    pub header: Arc<str>,
}

/// A server that is asked about each request (GEP-1494; nginx's `auth_request`): 2xx lets it pass,
/// 3xx and 4xx go to the client, and anything else is a failure. It never gets the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorizer {
    /// Who is asked.
    pub to: AuthorizerPlace,
    /// What it is asked for.
    pub path: AuthorizerPath,
    /// The method; `None`: the request's own.
    pub method: Option<Arc<str>>,
    /// Fields of the request that are sent, beside `Authorization` and what tells of the request.
    pub request_headers: HeaderChoice,
    /// Fields of its answer that the backend is told when the request passes; whatever a client
    /// sends in them is taken out.
    pub to_backend: HeaderChoice,
    /// Fields of its answer that the client is told when the request does not pass, beside
    /// `WWW-Authenticate`, `Location` and those of the content.
    pub to_client: HeaderChoice,
    /// `Set-Cookie` of its answer goes to the client, also when the request passes.
    pub cookies: bool,
    /// Where who has to sign in is sent instead of 401.
    pub sign_in: Option<SignIn>,
    /// Milliseconds for an answer, 1 to [`AUTHORIZER_TIMEOUT_MAX_MS`].
    pub timeout_ms: u32,
    /// Requests pass when it fails. Otherwise they get 503.
    pub fail_open: bool,
    /// 200 alone lets a request pass (GEP-1494), no other 2xx.
    pub only_200: bool,
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorizerPlace {
    /// Backends of a service.
    Backends(Upstream),
    /// Another server.
    Server(WebServer),
    /// Nobody: what was named does not exist or may not be named. Requests get this status.
    Nowhere(u16),
}

/// What an authorizer is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorizerPath {
    /// This path and query.
    Fixed(Arc<str>),
    /// The request's own, with this before it.
    Before(Arc<str>),
}

/// Some fields of a header.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderChoice {
    /// All that mean something beyond one connection.
    All,
    /// Only these, lower case.
    Only(Vec<Arc<str>>),
}

/// Where who has to sign in is sent, with status 302.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SignIn {
    /// The address, absolute or a path on the same host.
    pub url: Arc<str>,
    /// The parameter that says where to come back to; `None`: nothing is added.
    pub back: Option<Arc<str>>,
}

/// A Secret by its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SecretRef {
    /// Where it lives.
    pub source: SourceId,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// Where a list of users stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UserListChoice {
    /// In a Secret, under the key `auth`.
    Secret(SecretRef),
    /// Here.
    Here(Arc<UserList>),
}

/// [`Tokens`] as an object asks for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokensWish {
    /// See [`Tokens::realm`].
    pub realm: Arc<str>,
    /// See [`Tokens::issuer`].
    pub issuer: Option<Arc<str>>,
    /// See [`Tokens::audiences`].
    pub audiences: Vec<Arc<str>>,
    /// See [`Tokens::algorithms`].
    pub algorithms: Vec<TokenAlgorithm>,
    /// See [`Tokens::keys`].
    pub keys: TokenKeysChoice,
    /// See [`Tokens::places`].
    pub places: Vec<TokenPlace>,
    /// See [`Tokens::leeway_secs`].
    pub leeway_secs: u32,
    /// See [`Tokens::claims`].
    pub claims: Vec<ClaimMatch>,
    /// See [`Tokens::to_headers`].
    pub to_headers: Vec<ClaimHeader>,
    /// See [`Tokens::user_claim`].
    pub user_claim: Arc<str>,
    /// See [`Tokens::pass_on`].
    pub pass_on: bool,
}

/// Where keys of tokens stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenKeysChoice {
    /// Here: see [`TokenKeys::Inline`].
    Here(Arc<str>),
    /// At a URL; of `https` the authorities of the host sign the server's certificate.
    Url {
        /// The URL.
        url: WebUrl,
        /// See [`KeySource::refresh_secs`].
        refresh_secs: u32,
    },
}

/// [`Authorizer`] as an object asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizerWish {
    /// Who is asked, and for what; of `https` the authorities of the host sign its certificate.
    pub url: WebUrl,
    /// See [`Authorizer::method`].
    pub method: Option<Arc<str>>,
    /// See [`Authorizer::request_headers`].
    pub request_headers: HeaderChoice,
    /// See [`Authorizer::to_backend`].
    pub to_backend: HeaderChoice,
    /// See [`Authorizer::to_client`].
    pub to_client: HeaderChoice,
    /// See [`Authorizer::cookies`].
    pub cookies: bool,
    /// See [`Authorizer::sign_in`].
    pub sign_in: Option<SignIn>,
    /// See [`Authorizer::timeout_ms`].
    pub timeout_ms: u32,
    /// See [`Authorizer::fail_open`].
    pub fail_open: bool,
}

impl TokensWish {
    /// What is asked of requests.
    pub fn tokens(&self) -> Tokens {
        let keys = match &self.keys {
            TokenKeysChoice::Here(set) => TokenKeys::Inline(set.clone()),
            TokenKeysChoice::Url { url, refresh_secs } => TokenKeys::Fetched(KeySource {
                server: url.server(),
                path: url.path.clone(),
                refresh_secs: *refresh_secs,
            }),
        };
        Tokens {
            realm: self.realm.clone(),
            issuer: self.issuer.clone(),
            audiences: self.audiences.clone(),
            algorithms: self.algorithms.clone(),
            keys,
            places: self.places.clone(),
            leeway_secs: self.leeway_secs,
            claims: self.claims.clone(),
            to_headers: self.to_headers.clone(),
            user_claim: self.user_claim.clone(),
            pass_on: self.pass_on,
        }
    }
}

impl AuthorizerWish {
    /// What is asked of requests.
    pub fn authorizer(&self) -> Authorizer {
        Authorizer {
            to: AuthorizerPlace::Server(self.url.server()),
            path: AuthorizerPath::Fixed(self.url.path.clone()),
            method: self.method.clone(),
            request_headers: self.request_headers.clone(),
            to_backend: self.to_backend.clone(),
            to_client: self.to_client.clone(),
            cookies: self.cookies,
            sign_in: self.sign_in.clone(),
            timeout_ms: self.timeout_ms,
            fail_open: self.fail_open,
            only_200: false,
        }
    }
}

impl WebUrl {
    /// Its server.
    pub fn server(&self) -> WebServer {
        let tls = || UpstreamTls {
            server_name: self.host.clone(),
            subject_names: Vec::new(),
            authorities: UpstreamAuthorities::System,
            client_certificate: None,
        };
        let tls = self.tls.then(|| Arc::new(tls()));
        WebServer { host: self.host.clone(), port: self.port, tls }
    }
}

/// A URL of `http` or `https`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WebUrl {
    /// `https`.
    pub tls: bool,
    /// Host name in lower case, or address; of IPv6 without brackets.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// Path and query, beginning with `/`.
    pub path: Arc<str>,
}

impl WebUrl {
    /// Takes `text` apart; why it is none.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("is no http or https URL")?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err("is no http or https URL"),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = path.split('#').next().unwrap_or_default();
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has characters in its path that have to be percent-encoded");
        }
        if authority.contains('@') {
            return Err("has a user name, which is not sent");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or("has a malformed host")?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| "has a malformed host")?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')) })
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(Some(port))),
                None => (authority, None),
            },
        };
        let port = match port {
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(port) => {
                let digits = port.filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
                let port = digits.and_then(|port| port.parse().ok()).filter(|port| *port != 0);
                port.ok_or("has a port that is not from 1 to 65535")?
            }
        };
        let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
        if host.is_empty() || host.len() > 253 || !host.bytes().all(named) {
            return Err("has no host, or a malformed one");
        }
        let path = match path.as_bytes().first() {
            Some(b'/') => path.to_owned(),
            _ => format!("/{path}"),
        };
        Ok(Self { tls, host: host.to_ascii_lowercase().into(), port, path: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_the_users_that_can_be_read_and_says_the_line_that_cannot() {
        let text =
            "# people\n\nann:$2y$05$abc\nbob:$apr1$x$y:a comment\nann:$6$other\nclear:text\n";
        let list = UserList::parse(text.as_bytes());
        let users: Vec<_> = list.users.iter().map(|u| (&*u.name, &*u.hash)).collect();
        assert_eq!(users, [("ann", "$2y$05$abc"), ("bob", "$apr1$x$y")]);
        assert!(list.fault.as_deref().is_some_and(|fault| fault.starts_with("line 6: the hash")));
        assert!(!format!("{list:?}").contains("ann"), "no name is shown");
    }

    #[test]
    fn an_empty_list_and_one_of_other_bytes_are_faults() {
        assert_eq!(UserList::parse(b"\n# none\n").fault.as_deref(), Some("names no user"));
        assert_eq!(UserList::parse(b"\xff:x").fault.as_deref(), Some("is not UTF-8"));
        let long = vec![b'\n'; USER_LIST_BYTES_MAX + 1];
        assert!(UserList::parse(&long).fault.is_some());
    }

    #[test]
    fn a_url_is_taken_apart() {
        let parts = |text| {
            let url = WebUrl::parse(text).unwrap();
            (url.tls, url.host.to_string(), url.port, url.path.to_string())
        };
        assert_eq!(
            parts("https://Auth.example/keys?x=1#top"),
            (true, "auth.example".into(), 443, "/keys?x=1".into())
        );
        assert_eq!(parts("http://[::1]:8080"), (false, "::1".into(), 8080, "/".into()));
        assert_eq!(parts("http://a?x"), (false, "a".into(), 80, "/?x".into()));
        for text in [
            "ftp://a/",
            "a/b",
            "http://",
            "http://a:0/",
            "http://a:x/",
            "http://u@a/",
            "http://a/ b",
            "http://[::1/",
            "http://a b/",
            "http://[::1]8/",
        ] {
            assert!(WebUrl::parse(text).is_err(), "{text}");
        }
    }
}
