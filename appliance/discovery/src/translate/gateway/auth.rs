//! Who clients have to be, as a policy asks it.

use std::sync::Arc;

use haflinger_core::{
    AUTH_LIST_MAX, AUTHORIZER_TIMEOUT_MAX_MS, AuthorizerWish, ClaimHeader, ClaimMatch,
    HeaderChoice, JWKS_BYTES_MAX, LEEWAY_MAX_SECS, REALM_BYTES_MAX, SecretRef, SignIn,
    TokenAlgorithm, TokenKeysChoice, TokenPlace, TokensWish, UserListChoice, Users, WebUrl,
};

use super::Reading;
use crate::objects::lax::Lax;
use crate::objects::{AuthorizerBody, TokensBody, UsersBody};
use crate::translate::quoted;

/// The realm of a policy that names none.
const REALM: &str = "restricted";

/// Algorithms of a policy that names none: those that issuers use.
const ALGORITHMS: [TokenAlgorithm; 3] =
    [TokenAlgorithm::Rs256, TokenAlgorithm::Es256, TokenAlgorithm::EdDsa];

/// Seconds by which clocks may differ, and for which keys are kept, unless it is said.
const LEEWAY_SECS: u32 = 30;
const REFRESH_SECS: u32 = 600;

/// Milliseconds for an authorizer's answer, unless it is said.
const TIMEOUT_MS: u32 = 5_000;

impl Reading<'_> {
    pub(super) fn users(&mut self, field: &str, body: &UsersBody) -> Option<Arc<Users>> {
        let Some(name) = body.secret.text() else {
            self.refuse(format!("{field}.secret: is missing; name a Secret with the key auth"));
            return None;
        };
        let (source, namespace) = (self.source.clone(), self.namespace.into());
        Some(Arc::new(Users {
            realm: self.realm(field, &body.realm),
            list: UserListChoice::Secret(SecretRef { source, namespace, name: name.into() }),
            user_header: self.header(&format!("{field}.userHeader"), &body.user_header),
            pass_on: body.pass_on.get().copied().unwrap_or_default(),
        }))
    }

    pub(super) fn tokens(&mut self, field: &str, body: &TokensBody) -> Option<TokensWish> {
        let keys = self.keys(field, body);
        let mut places = vec![TokenPlace::Bearer];
        let header = self.header(&format!("{field}.header"), &body.header);
        places.extend(header.map(|name| TokenPlace::Header { name, prefix: "".into() }));
        places.extend(body.cookie.text().map(|name| TokenPlace::Cookie(name.into())));
        places.extend(body.parameter.text().map(|name| TokenPlace::Query(name.into())));
        let leeway = self.seconds(&format!("{field}.leeway"), &body.leeway, LEEWAY_MAX_SECS);
        let mut algorithms = Vec::new();
        for (field, name) in self.some(&format!("{field}.algorithms"), &body.algorithms) {
            match TokenAlgorithm::named(name) {
                Some(algorithm) => algorithms.push(algorithm),
                None => {
                    let names = TokenAlgorithm::ALL.map(TokenAlgorithm::as_str).join(", ");
                    let name = quoted(name);
                    self.refuse(format!("{field}: {name} is not verified; write one of {names}"));
                }
            }
        }
        if algorithms.is_empty() {
            algorithms.extend(ALGORITHMS);
        }
        let audiences = self.some(&format!("{field}.audiences"), &body.audiences);
        Some(TokensWish {
            realm: self.realm(field, &body.realm),
            issuer: body.issuer.text().map(Into::into),
            audiences: audiences.into_iter().map(|(_, name)| (**name).into()).collect(),
            algorithms,
            keys: keys?,
            places,
            leeway_secs: leeway.unwrap_or(LEEWAY_SECS),
            claims: self.claims(&format!("{field}.claims"), body),
            to_headers: self.claim_headers(&format!("{field}.headers"), body),
            user_claim: body.user_claim.text().unwrap_or("sub").into(),
            pass_on: body.pass_on.get().copied().unwrap_or_default(),
        })
    }

    fn keys(&mut self, field: &str, body: &TokensBody) -> Option<TokenKeysChoice> {
        match (body.keys.text(), body.keys_url.text()) {
            (Some(set), None) if set.len() <= JWKS_BYTES_MAX => {
                Some(TokenKeysChoice::Here(set.into()))
            }
            (None, Some(_)) => {
                let url = self.url(&format!("{field}.keysUrl"), &body.keys_url)?;
                let refresh = self.seconds(&format!("{field}.refresh"), &body.refresh, 86_400);
                let refresh_secs = refresh.unwrap_or(REFRESH_SECS);
                Some(TokenKeysChoice::Url { url, refresh_secs })
            }
            _ => {
                self.refuse(format!(
                    "{field}: has no keys, too many, or both keys and keysUrl; write one of them"
                ));
                None
            }
        }
    }

    fn claims(&mut self, field: &str, body: &TokensBody) -> Vec<ClaimMatch> {
        let mut claims = Vec::new();
        for (field, written) in self.some(field, &body.claims) {
            let Some(claim) = written.name.text() else {
                self.refuse(format!("{field}.name: is missing; name a claim"));
                continue;
            };
            let values = self.some(&format!("{field}.values"), &written.values);
            let values = values.into_iter().map(|(_, value)| (**value).into()).collect();
            claims.push(ClaimMatch { claim: claim.into(), values });
        }
        claims
    }

    fn claim_headers(&mut self, field: &str, body: &TokensBody) -> Vec<ClaimHeader> {
        let mut headers = Vec::new();
        for (field, written) in self.some(field, &body.headers) {
            let header = self.header(&format!("{field}.header"), &written.header);
            match (written.claim.text(), header) {
                (Some(claim), Some(header)) => {
                    headers.push(ClaimHeader { claim: claim.into(), header });
                }
                _ => self.refuse(format!("{field}: lacks a claim or a header; write both")),
            }
        }
        headers
    }

    pub(super) fn authorizer(
        &mut self,
        field: &str,
        body: &AuthorizerBody,
    ) -> Option<AuthorizerWish> {
        if body.url.text().is_none() {
            self.refuse(format!("{field}.url: is missing; write an http or https URL"));
        }
        let url = self.url(&format!("{field}.url"), &body.url);
        let timeout = self.duration(&format!("{field}.timeout"), &body.timeout);
        if timeout.is_some_and(|ms| !(1..=AUTHORIZER_TIMEOUT_MAX_MS).contains(&ms)) {
            self.refuse(format!("{field}.timeout: is not within 1ms and 1m; write one that is"));
        }
        let request = match body.request_headers {
            Lax::Absent => HeaderChoice::All,
            _ => self.names(&format!("{field}.requestHeaders"), &body.request_headers),
        };
        let sign_in = body
            .sign_in
            .text()
            .map(|url| SignIn { url: url.into(), back: body.sign_in_back.text().map(Into::into) });
        Some(AuthorizerWish {
            url: url?,
            method: Some(body.method.text().unwrap_or("GET").into()),
            request_headers: request,
            to_backend: self.names(&format!("{field}.backendHeaders"), &body.backend_headers),
            to_client: self.names(&format!("{field}.refusalHeaders"), &body.refusal_headers),
            cookies: body.cookies.get().copied().unwrap_or_default(),
            sign_in,
            timeout_ms: timeout.unwrap_or(TIMEOUT_MS),
            fail_open: body.fail_open.get().copied().unwrap_or_default(),
        })
    }

    fn realm(&mut self, field: &str, written: &Lax<String>) -> Arc<str> {
        let realm = written.text().unwrap_or(REALM);
        if realm.len() > REALM_BYTES_MAX || !realm.bytes().all(|b| matches!(b, b' '..=b'~')) {
            self.refuse(format!(
                "{field}.realm: is longer than {REALM_BYTES_MAX} bytes, or not ASCII; write another"
            ));
        }
        realm.into()
    }

    fn header(&mut self, field: &str, written: &Lax<String>) -> Option<Arc<str>> {
        self.field_name(field, written.text()?)
    }

    fn url(&mut self, field: &str, written: &Lax<String>) -> Option<WebUrl> {
        let text = written.text()?;
        match WebUrl::parse(text) {
            Ok(url) => Some(url),
            Err(why) => {
                let text = quoted(text);
                self.refuse(format!("{field}: {text} {why}; write it anew"));
                None
            }
        }
    }

    fn seconds(&mut self, field: &str, written: &Lax<String>, most: u32) -> Option<u32> {
        let secs = self.duration(field, written)?.div_ceil(1_000);
        if secs > most {
            self.refuse(format!("{field}: is more than {most}s; write less"));
        }
        Some(secs)
    }

    fn names(&mut self, field: &str, list: &Lax<Vec<Lax<String>>>) -> HeaderChoice {
        let names = self.some(field, list);
        let names = names.into_iter().filter_map(|(field, name)| self.field_name(&field, name));
        HeaderChoice::Only(names.collect())
    }

    /// The elements of a list that is not too long.
    fn some<'b, T>(&mut self, field: &str, list: &'b Lax<Vec<Lax<T>>>) -> Vec<(String, &'b T)> {
        if list.is_wrong() {
            self.refuse(format!("{field}: is no list; write one"));
        }
        if list.elements().len() > AUTH_LIST_MAX {
            self.refuse(format!("{field}: are more than {AUTH_LIST_MAX}; write fewer"));
        }
        self.each(field, list.elements())
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::{RequestPolicySpec, SourceId};
    use serde_json::{Value, json};

    use super::*;
    use crate::translate::gateway::wishes::request_policy;

    fn read(spec: Value) -> RequestPolicySpec {
        let object = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
        let object = serde_json::from_value(object).unwrap();
        request_policy(&object, &SourceId::cluster("a")).unwrap()
    }

    #[test]
    fn what_is_not_written_has_its_documented_value() {
        let spec = read(json!({
            "users": {"secret": "people"},
            "tokens": {"keysUrl": "https://id.example/keys"},
            "authorizer": {"url": "http://auth.example:8080/check"},
        }));
        assert_eq!(spec.faults, []);
        let users = spec.wishes.users.clone().unwrap();
        let UserListChoice::Secret(secret) = &users.list else { panic!("{users:?}") };
        assert_eq!((&*secret.namespace, &*secret.name, &*users.realm), ("shop", "people", REALM));
        let tokens = spec.wishes.tokens.as_ref().unwrap();
        assert_eq!(tokens.algorithms, ALGORITHMS);
        assert_eq!(tokens.places, [TokenPlace::Bearer]);
        assert_eq!((&*tokens.user_claim, tokens.leeway_secs), ("sub", 30));
        let TokenKeysChoice::Url { url, refresh_secs: 600 } = &tokens.keys else { panic!("keys") };
        assert_eq!((url.tls, &*url.host, &*url.path), (true, "id.example", "/keys"));
        let authorizer = spec.wishes.authorizer.as_ref().unwrap();
        assert_eq!(authorizer.request_headers, HeaderChoice::All);
        assert_eq!(authorizer.to_backend, HeaderChoice::Only(Vec::new()));
        assert_eq!((authorizer.timeout_ms, authorizer.fail_open), (5_000, false));
    }

    #[test]
    fn what_is_written_is_taken_over() {
        let spec = read(json!({
            "tokens": {
                "keys": "{}", "algorithms": ["ES384"], "header": "X-Token", "cookie": "t",
                "parameter": "token", "leeway": "1500ms", "passOn": true,
                "claims": [{"name": "scope", "values": ["buy"]}],
                "headers": [{"claim": "sub", "header": "X-User"}],
            },
            "authorizer": {
                "url": "http://a/", "requestHeaders": ["Cookie"], "backendHeaders": ["X-User"],
                "signIn": "https://id.example/", "signInBack": "rd", "failOpen": true,
            },
        }));
        assert_eq!(spec.faults, []);
        let tokens = spec.wishes.tokens.as_ref().unwrap();
        assert_eq!((tokens.places.len(), tokens.leeway_secs, tokens.pass_on), (4, 2, true));
        assert_eq!(&*tokens.to_headers[0].header, "x-user");
        assert_eq!(&*tokens.claims[0].values[0], "buy");
        let authorizer = spec.wishes.authorizer.as_ref().unwrap();
        assert_eq!(authorizer.request_headers, HeaderChoice::Only(vec!["cookie".into()]));
        assert_eq!(authorizer.sign_in.as_ref().unwrap().back.as_deref(), Some("rd"));
        assert!(authorizer.fail_open);
    }

    #[test]
    fn what_cannot_be_followed_is_said_with_its_field() {
        for (spec, expected) in [
            (json!({"users": {}}), "spec.users.secret"),
            (json!({"users": {"secret": "s", "userHeader": "no name"}}), "spec.users.userHeader"),
            (json!({"users": {"secret": "s", "realm": "\u{e9}"}}), "spec.users.realm"),
            (json!({"tokens": {}}), "spec.tokens: has no keys"),
            (json!({"tokens": {"keys": "{}", "keysUrl": "http://a/"}}), "spec.tokens: has no keys"),
            (json!({"tokens": {"keysUrl": "id.example"}}), "spec.tokens.keysUrl"),
            (
                json!({"tokens": {"keys": "{}", "algorithms": ["HS256"]}}),
                "spec.tokens.algorithms[0]",
            ),
            (
                json!({"tokens": {"keys": "{}", "algorithms": ["none"]}}),
                "spec.tokens.algorithms[0]",
            ),
            (json!({"tokens": {"keys": "{}", "leeway": "1h"}}), "spec.tokens.leeway"),
            (json!({"tokens": {"keys": "{}", "claims": [{}]}}), "spec.tokens.claims[0].name"),
            (
                json!({"tokens": {"keys": "{}", "headers": [{"claim": "a"}]}}),
                "spec.tokens.headers[0]",
            ),
            (json!({"tokens": {"keys": "{}", "audiences": "shop"}}), "spec.tokens.audiences"),
            (json!({"authorizer": {}}), "spec.authorizer.url"),
            (
                json!({"authorizer": {"url": "http://a/", "timeout": "2m"}}),
                "spec.authorizer.timeout",
            ),
        ] {
            let spec_text = spec.to_string();
            let faults = read(spec).faults;
            assert!(
                faults.iter().any(|fault| fault.message.starts_with(expected)),
                "{spec_text}: {faults:?}"
            );
        }
    }
}
