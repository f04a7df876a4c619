//! The check by name and password. Pure.

use std::sync::Arc;

use haflinger_core::Users;
use http::HeaderValue;
use http::header::{self, HeaderName};

use super::users::Known;
use super::{Credentials, Denied, Grants, Outcome, Question, Shown, UserSlot, Verdict, quoted};

/// A name and a password are asked for.
#[derive(Debug)]
pub(crate) struct UsersCheck {
    challenge: HeaderValue,
    users: Arc<UserSlot>,
    user_header: Option<HeaderName>,
    pass_on: bool,
}

impl UsersCheck {
    /// Checks `from`; `None` when it cannot be followed.
    pub(crate) fn compile(from: &Users, users: Arc<UserSlot>) -> Option<Self> {
        let challenge = format!("Basic realm={}, charset=\"UTF-8\"", quoted(&from.realm));
        let user_header = match &from.user_header {
            Some(name) => Some(name.parse().ok()?),
            None => None,
        };
        let challenge = HeaderValue::from_str(&challenge).ok()?;
        Some(Self { challenge, users, user_header, pass_on: from.pass_on })
    }

    /// What can be said at once.
    pub(crate) fn begin(&self, shown: Shown<'_>) -> Outcome {
        let Some(credentials) = Credentials::of(shown.fields) else {
            return Denied::challenge("users", "missing", 401, self.challenge.clone());
        };
        let Some(known) = self.users.load() else { return Denied::failure("users", "no_list") };
        match known.recall(&credentials) {
            Known::Right(name) => self.pass(name),
            Known::Unknown => Outcome::Ask(Question::Compare(known, credentials)),
        }
    }

    /// What can be said now.
    pub(crate) fn conclude(&self, verdict: Verdict) -> Outcome {
        match verdict {
            Verdict::User(Some(name)) => self.pass(name),
            Verdict::User(None) => Denied::challenge("users", "wrong", 401, self.challenge.clone()),
            _ => Denied::failure("users", "busy"),
        }
    }

    fn pass(&self, name: Arc<str>) -> Outcome {
        let mut grants = Grants::default();
        if !self.pass_on {
            grants.remove.push(header::AUTHORIZATION);
        }
        if let Some(field) = &self.user_header {
            grants.remove.push(field.clone());
            let value = HeaderValue::from_bytes(name.as_bytes());
            grants.add.extend(value.ok().map(|value| (field.clone(), value)));
        }
        grants.user = Some(name);
        Outcome::Pass(grants)
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::{UserList, UserListChoice};
    use http::HeaderMap;

    use super::*;

    fn check(pass_on: bool) -> UsersCheck {
        let list = Arc::new(UserList::parse(b"ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="));
        let slot = Arc::new(UserSlot::new(Some(&list)));
        let (user_header, list) = (Some("x-user".into()), UserListChoice::Here(list));
        let users = Users { realm: "the \"shop\"".into(), list, user_header, pass_on };
        UsersCheck::compile(&users, slot).unwrap()
    }

    fn begin(check: &UsersCheck, authorization: Option<&'static str>) -> Outcome {
        let mut fields = HeaderMap::new();
        fields.extend(authorization.map(|v| (header::AUTHORIZATION, HeaderValue::from_static(v))));
        check.begin(Shown::example(&fields))
    }

    #[test]
    fn who_shows_nothing_is_told_what_to_show() {
        let Outcome::Deny(denied) = begin(&check(false), None) else { panic!("let in") };
        let expected = r#"Basic realm="the \"shop\"", charset="UTF-8""#;
        assert_eq!(denied.status, 401);
        assert_eq!(denied.fields, [(header::WWW_AUTHENTICATE, expected.parse().unwrap())]);
        assert_eq!(denied.grpc_status(), 16);
    }

    #[test]
    fn credentials_are_compared_once_and_then_remembered() {
        let check = check(false);
        let ask = || begin(&check, Some("Basic YW5uOnNlY3JldA=="));
        let Outcome::Ask(Question::Compare(known, credentials)) = ask() else { panic!("known") };
        let user = known.compare(&credentials);
        let Outcome::Pass(grants) = check.conclude(Verdict::User(user)) else { panic!("wrong") };
        assert_eq!(grants.user.as_deref(), Some("ann"));
        assert_eq!(grants.add, [("x-user".parse().unwrap(), HeaderValue::from_static("ann"))]);
        assert!(grants.remove.contains(&header::AUTHORIZATION));
        assert!(matches!(ask(), Outcome::Pass(_)));
    }

    #[test]
    fn what_is_wrong_or_cannot_be_compared_is_not_let_in() {
        let check = check(true);
        let status = |verdict| match check.conclude(verdict) {
            Outcome::Deny(denied) => denied.status,
            other => panic!("{other:?}"),
        };
        assert_eq!(status(Verdict::User(None)), 401);
        assert_eq!(status(Verdict::Busy), 503);
        assert_eq!(status(Verdict::KeysLookedFor), 503);
    }

    #[test]
    fn a_name_for_a_field_that_none_can_have_is_not_followed() {
        let list = UserListChoice::Here(Arc::default());
        let user_header = Some("no name".into());
        let users = Users { realm: "x".into(), list, user_header, pass_on: false };
        assert!(UsersCheck::compile(&users, Arc::new(UserSlot::new(None))).is_none());
    }

    #[test]
    fn while_there_is_no_list_nobody_is_let_in() {
        let check = check(false);
        check.users.store(None);
        match begin(&check, Some("Basic YW5uOnNlY3JldA==")) {
            Outcome::Deny(denied) => assert_eq!((denied.status, denied.reason), (503, "no_list")),
            other => panic!("{other:?}"),
        }
    }
}
