use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use haflinger_core::{TokenKeys, TokenPlace};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;

use super::*;

const NOW: u64 = 1_000_000;

fn asked() -> Tokens {
    Tokens {
        realm: "shop".into(),
        issuer: None,
        audiences: Vec::new(),
        algorithms: TokenAlgorithm::ALL.to_vec(),
        keys: TokenKeys::Inline("".into()),
        places: vec![TokenPlace::Bearer],
        leeway_secs: 0,
        claims: Vec::new(),
        to_headers: Vec::new(),
        user_claim: "sub".into(),
        pass_on: false,
    }
}

/// Someone who signs by Ed25519.
struct Signer(Ed25519KeyPair);

impl Signer {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn keys(&self) -> KeySet {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key());
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]});
        KeySet::parse(set.to_string().as_bytes()).unwrap()
    }

    fn sign(&self, header: &Value, claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", part(&header.to_string()), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

fn judged(asked: &Tokens, header: Value, claims: Value) -> Result<Claims, TokenFault> {
    let signer = Signer::new(1);
    let token = signer.sign(&header, &claims.to_string());
    verify(token.as_bytes(), asked, &signer.keys(), NOW)
}

fn header() -> Value {
    json!({"alg": "EdDSA", "kid": "k"})
}

fn fault(asked: &Tokens, claims: Value) -> Option<TokenFault> {
    judged(asked, header(), claims).err()
}

const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19y\
                       b290Ijp0cnVlfQ";

/// RFC 7515, appendices A.2 and A.3.
#[test]
fn the_examples_of_rfc_7515_are_accepted_until_they_end() {
    let rsa = r#"{"keys":[{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}]}"#;
    let rsa_signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let ec = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    let ec_signature =
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    for (header, set, signature) in
        [("eyJhbGciOiJSUzI1NiJ9", rsa, rsa_signature), ("eyJhbGciOiJFUzI1NiJ9", ec, ec_signature)]
    {
        let keys = KeySet::parse(set.as_bytes()).unwrap();
        let token = format!("{header}.{PAYLOAD}.{signature}");
        let judged = |at| verify(token.as_bytes(), &asked(), &keys, at);
        let claims = judged(1_300_819_379).unwrap();
        assert_eq!(claims["http://example.com/is_root"], json!(true));
        assert_eq!(judged(1_300_819_380).err(), Some(TokenFault::Expired));
        let other = format!("{header}.{}.{signature}", PAYLOAD.replacen("joe", "eve", 1) + "A");
        let forged = verify(other.as_bytes(), &asked(), &keys, 0).err();
        assert_eq!(forged, Some(TokenFault::Signature));
    }
}

#[test]
fn no_token_without_signature_or_by_a_secret_is_accepted() {
    for alg in ["none", "None", "HS256", "HS384", "HS512", "RSA-OAEP", "dir", ""] {
        let judged = judged(&asked(), json!({"alg": alg}), json!({"exp": NOW + 1}));
        assert_eq!(judged.err(), Some(TokenFault::Algorithm), "{alg}");
    }
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = part(&json!({"exp": NOW + 1}).to_string());
    let bare = format!("{}.{claims}.", part(r#"{"alg":"none"}"#));
    let keys = Signer::new(1).keys();
    let judged = |token: &str| verify(token.as_bytes(), &asked(), &keys, NOW).err();
    assert_eq!(judged(&bare), Some(TokenFault::Algorithm));
    let empty = format!("{}.{claims}.", part(r#"{"alg":"EdDSA"}"#));
    assert_eq!(judged(&empty), Some(TokenFault::Signature));
}

#[test]
fn the_algorithm_has_to_be_asked_for_and_be_that_of_the_key() {
    let claims = || json!({"exp": NOW + 1});
    let only = Tokens { algorithms: vec![TokenAlgorithm::Es256], ..asked() };
    assert_eq!(judged(&only, header(), claims()).err(), Some(TokenFault::Algorithm));
    let other = judged(&asked(), json!({"alg": "ES256", "kid": "k"}), claims());
    assert_eq!(other.err(), Some(TokenFault::UnknownKey));
    assert!(judged(&asked(), header(), claims()).is_ok());
}

#[test]
fn a_token_of_somebody_else_s_key_is_refused() {
    let token = Signer::new(2).sign(&header(), &json!({"exp": NOW + 1}).to_string());
    let judged = verify(token.as_bytes(), &asked(), &Signer::new(1).keys(), NOW);
    assert_eq!(judged.err(), Some(TokenFault::Signature));
    let unknown = judged_with_kid("other");
    assert_eq!(unknown, Some(TokenFault::UnknownKey));
}

fn judged_with_kid(kid: &str) -> Option<TokenFault> {
    judged(&asked(), json!({"alg": "EdDSA", "kid": kid}), json!({"exp": NOW + 1})).err()
}

#[test]
fn its_time_is_kept_to_the_second_but_for_what_clocks_may_differ() {
    let differing = Tokens { leeway_secs: 30, ..asked() };
    for (claims, strict, lenient) in [
        (json!({"exp": NOW + 1}), None, None),
        (json!({"exp": NOW}), Some(TokenFault::Expired), None),
        (json!({"exp": NOW - 29}), Some(TokenFault::Expired), None),
        (json!({"exp": NOW - 30}), Some(TokenFault::Expired), Some(TokenFault::Expired)),
        (json!({}), Some(TokenFault::Expired), Some(TokenFault::Expired)),
        (json!({"exp": 1_000_000.5}), None, None),
        (json!({"exp": NOW + 9, "nbf": NOW}), None, None),
        (json!({"exp": NOW + 9, "nbf": NOW + 30}), Some(TokenFault::NotYet), None),
        (
            json!({"exp": NOW + 9, "nbf": NOW + 31}),
            Some(TokenFault::NotYet),
            Some(TokenFault::NotYet),
        ),
    ] {
        assert_eq!(fault(&asked(), claims.clone()), strict, "{claims}");
        assert_eq!(fault(&differing, claims.clone()), lenient, "{claims}");
    }
    for claims in [json!({"exp": "9999999"}), json!({"exp": null}), json!({"exp": 9e9, "nbf": []})]
    {
        assert_eq!(fault(&asked(), claims.clone()), Some(TokenFault::Malformed), "{claims}");
    }
}

#[test]
fn issuer_and_audience_are_compared() {
    let wanted = Tokens {
        issuer: Some("https://id.example".into()),
        audiences: vec!["shop".into(), "site".into()],
        ..asked()
    };
    let say = |iss: Value, aud: Value| json!({"exp": NOW + 1, "iss": iss, "aud": aud});
    let issuer = "https://id.example";
    assert_eq!(fault(&wanted, say(json!(issuer), json!("site"))), None);
    assert_eq!(fault(&wanted, say(json!(issuer), json!(["x", "shop"]))), None);
    for other in [json!("https://id.example/"), json!([issuer]), Value::Null] {
        assert_eq!(fault(&wanted, say(other, json!("shop"))), Some(TokenFault::Issuer));
    }
    for other in [json!("shop2"), json!([]), json!([["shop"]]), Value::Null, json!({"shop": 1})] {
        assert_eq!(fault(&wanted, say(json!(issuer), other)), Some(TokenFault::Audience));
    }
    assert_eq!(fault(&wanted, json!({"exp": NOW + 1, "iss": issuer})), Some(TokenFault::Audience));
}

#[test]
fn required_claims_have_to_be_there_with_one_of_their_values() {
    let with = |claim: &str, values: &[&str]| {
        let values = values.iter().map(|value| Arc::from(*value)).collect();
        Tokens { claims: vec![ClaimMatch { claim: claim.into(), values }], ..asked() }
    };
    let claims = || {
        json!({"exp": NOW + 1, "scope": "read write", "admin": true, "level": 3, "gone": null,
               "groups": ["a", "b"], "realm_access": {"roles": ["ops"]},
               "https://example.com/team": "blue"})
    };
    for (claim, values) in [
        ("scope", &["write"][..]),
        ("admin", &["true"]),
        ("level", &["2", "3"]),
        ("groups", &["b"]),
        ("realm_access.roles", &["ops"]),
        ("https://example.com/team", &["blue"]),
        ("groups", &[]),
    ] {
        assert_eq!(fault(&with(claim, values), claims()), None, "{claim}");
    }
    for (claim, values) in [
        ("scope", &["writ"][..]),
        ("groups", &["a b"]),
        ("level", &["4"]),
        ("missing", &[]),
        ("gone", &[]),
        ("realm_access", &["ops"]),
        ("realm_access.roles.0", &["ops"]),
    ] {
        assert_eq!(fault(&with(claim, values), claims()), Some(TokenFault::Claims), "{claim}");
    }
}

#[test]
fn what_is_no_token_or_asks_for_more_than_is_understood_is_refused() {
    let signer = Signer::new(1);
    let keys = signer.keys();
    let judged = |token: &str| verify(token.as_bytes(), &asked(), &keys, NOW).err();
    let good = signer.sign(&header(), &json!({"exp": NOW + 1}).to_string());
    assert_eq!(judged(&good), None);
    for bad in ["", "a", "a.b", "..", "a.b.c.d", &format!("{good}."), &format!("{good} "), "é.b.c"]
    {
        assert!(judged(bad).is_some(), "{bad}");
    }
    let padded = good.replacen('.', "=.", 1);
    assert_eq!(judged(&padded), Some(TokenFault::Malformed));
    assert_eq!(judged(&"a".repeat(TOKEN_BYTES_MAX + 1)), Some(TokenFault::Malformed));
    let critical = json!({"alg": "EdDSA", "crit": ["b64"], "b64": false});
    assert_eq!(judged(&signer.sign(&critical, "{}")), Some(TokenFault::Malformed));
    for claims in ["[]", "7", "{", "\"x\""] {
        assert_eq!(
            judged(&signer.sign(&header(), claims)),
            Some(TokenFault::Malformed),
            "{claims}"
        );
    }
}

#[test]
fn what_the_backend_is_told_is_plain_or_nothing() {
    let claims = json!({"sub": "ann", "n": 7, "list": ["a", 1, true], "deep": {"x": "y"},
                        "odd": [{}], "long": "x".repeat(TOLD_BYTES_MAX + 1)});
    let Value::Object(claims) = claims else { unreachable!("an object") };
    let told = |name| told(&claims, name);
    assert_eq!(told("sub").as_deref(), Some("ann"));
    assert_eq!(told("n").as_deref(), Some("7"));
    assert_eq!(told("list").as_deref(), Some("a,1,true"));
    assert_eq!(told("deep.x").as_deref(), Some("y"));
    for name in ["odd", "deep", "long", "missing"] {
        assert_eq!(told(name), None, "{name}");
    }
}

proptest::proptest! {
    #[test]
    fn nothing_panics_and_nothing_unsigned_is_accepted(token in "[a-zA-Z0-9_.-]{0,80}") {
        let keys = Signer::new(1).keys();
        proptest::prop_assert!(verify(token.as_bytes(), &asked(), &keys, NOW).is_err());
    }
}
