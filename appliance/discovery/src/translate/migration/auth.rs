//! Who clients have to be, by annotations. Pure.
//!
//! What cannot be read lets nobody in: whoever wrote it wanted to keep somebody out.

use std::sync::Arc;

use haflinger_core::{
    AuthorizerWish, HeaderChoice, IngressRequests, REALM_BYTES_MAX, SecretRef, SignIn, UserList,
    UserListChoice, Users, WebUrl,
};

use super::{Given, values};

/// The realm of an Ingress that names none.
const REALM: &str = "restricted";

/// Time for an authorizer's answer, in milliseconds: a client waits that long for nothing.
const AUTHORIZER_TIMEOUT_MS: u32 = 10_000;

/// The parameter in which ingress-nginx says where to come back to.
const BACK: &str = "rd";

/// Names and passwords: `auth-type`, which has to be `kind`, `auth-secret`, `auth-realm`.
pub(super) fn users(given: &mut Given<'_>, requests: &mut IngressRequests, kind: &str) {
    if given.values.get("auth-type").is_none_or(|written| written.is_empty()) {
        return;
    }
    let known = format!("write {kind:?}");
    let is_known = given.parsed("auth-type", &known, |text| (text == kind).then_some(()));
    let form = "write \"auth-file\", and the users under the key auth of the Secret";
    let by_file = |text: &str| (text == "auth-file").then_some(());
    let of_file = given.text("auth-secret-type").is_none()
        || given.parsed("auth-secret-type", form, by_file).is_some();
    let namespace = given.namespace;
    let own = "name a Secret of the Ingress's namespace";
    let secret = given.parsed("auth-secret", own, |text| match text.split_once('/') {
        None => Some(Arc::from(text)),
        Some((place, name)) => (place == namespace && !name.is_empty()).then(|| name.into()),
    });
    if secret.is_none() && given.text("auth-secret").is_none() {
        given.refuse("auth-type", kind, "write auth-secret too");
    }
    let realm = given.text("auth-realm").filter(|realm| realm.len() <= REALM_BYTES_MAX);
    let list = match (is_known, of_file, secret) {
        (Some(()), true, Some(name)) => {
            let (source, namespace) = (given.source.clone(), given.namespace.into());
            UserListChoice::Secret(SecretRef { source, namespace, name })
        }
        _ => nobody(),
    };
    requests.wishes.users = Some(asked(realm.as_deref().unwrap_or(REALM), list));
}

fn nobody() -> UserListChoice {
    UserListChoice::Here(Arc::new(UserList::faulty("the annotations cannot be read")))
}

fn asked(realm: &str, list: UserListChoice) -> Arc<Users> {
    // The password has always gone on to the backend.
    Arc::new(Users { realm: realm.into(), list, user_header: None, pass_on: true })
}

/// The word of a server: `auth-url` and those beside it, of ingress-nginx.
pub(super) fn authorizer(given: &mut Given<'_>, requests: &mut IngressRequests) {
    if given.text("auth-url").is_none() {
        return;
    }
    let remedy = "write an http or https URL without variables, whose host the edge can resolve";
    let url = given.parsed("auth-url", remedy, |text| {
        WebUrl::parse(text).ok().filter(|url| !url.path.contains('$'))
    });
    let visible = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| Arc::<str>::from(text))
    };
    let sign_in = given.parsed("auth-signin", "write a URL", visible);
    let back = given.parsed("auth-signin-redirect-param", "write a name", visible);
    let token = |text: &str| text.bytes().all(|b| b.is_ascii_uppercase()).then(|| text.into());
    let method = given.parsed("auth-method", "write a method such as GET", token);
    let names = "write names of fields, separated by commas";
    let told = given.parsed("auth-response-headers", names, |text| {
        let names = values::list(text)?;
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let fine = names.iter().all(|name| name.bytes().all(fine));
        fine.then(|| names.iter().map(|name| name.to_ascii_lowercase().into()).collect())
    });
    let Some(url) = url else {
        requests.wishes.users = Some(asked(REALM, nobody()));
        return;
    };
    let back = back.unwrap_or_else(|| BACK.into());
    let sign_in = sign_in.map(|url| {
        let told = url.contains(&format!("{back}="));
        SignIn { url, back: (!told).then_some(back) }
    });
    requests.wishes.authorizer = Some(AuthorizerWish {
        url,
        method: Some(method.unwrap_or_else(|| "GET".into())),
        request_headers: HeaderChoice::All,
        to_backend: HeaderChoice::Only(told.unwrap_or_default()),
        to_client: HeaderChoice::Only(Vec::new()),
        cookies: true,
        sign_in,
        timeout_ms: AUTHORIZER_TIMEOUT_MS,
        fail_open: false,
    });
}
