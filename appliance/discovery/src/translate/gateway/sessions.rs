//! `sessionPersistence` of rules (GEP-1619).

use std::sync::Arc;

use haflinger_core::{
    Persistence, SESSION_NAME_BYTES_MAX, SESSION_SECS_MAX, SessionCarrier, SessionCookie,
};

use super::Reading;
use super::durations::duration_ms;
use crate::objects::SessionBody;
use crate::objects::lax::Lax;
use crate::translate::quoted;

impl Reading<'_> {
    /// What a policy says about sessions, which have to have a name there: it may hold for many rules.
    pub(super) fn policy_sessions(
        &mut self,
        field: &str,
        written: &Lax<SessionBody>,
    ) -> Option<Persistence> {
        let body = written.get()?;
        if body.session_name.text().is_none() {
            self.refuse(format!(
                "{field}.sessionPersistence.sessionName: is missing; name the sessions"
            ));
            return None;
        }
        self.persistence(field, || None, written)
    }

    /// What a rule says about sessions, of which those without a name have this.
    pub(super) fn persistence(
        &mut self,
        field: &str,
        default_name: impl FnOnce() -> Option<Arc<str>>,
        written: &Lax<SessionBody>,
    ) -> Option<Persistence> {
        let body = written.get()?;
        let field = format!("{field}.sessionPersistence");
        let lifetime = body.cookie_config.get().and_then(|config| config.lifetime_type.text());
        let permanent = match lifetime {
            None | Some("Session") => false,
            Some("Permanent") => true,
            Some(other) => {
                let other = quoted(other);
                self.decline(format!(
                    "{field}.cookieConfig.lifetimeType: {other} is none; write Session or Permanent"
                ));
                false
            }
        };
        let carrier = match body.session_type.text() {
            None | Some("Cookie") => {
                SessionCarrier::Cookie(SessionCookie { permanent, ..SessionCookie::default() })
            }
            Some("Header") => SessionCarrier::Header,
            Some(other) => {
                let other = quoted(other);
                self.decline(format!("{field}.type: {other} is none; write Cookie or Header"));
                SessionCarrier::Header
            }
        };
        let absolute_secs =
            self.session_secs(&format!("{field}.absoluteTimeout"), &body.absolute_timeout);
        if permanent && absolute_secs.is_none() {
            self.refuse(format!(
                "{field}.absoluteTimeout: is missing; a cookie with lifetimeType Permanent needs one"
            ));
        }
        let name = match body.session_name.text() {
            None => default_name()?,
            Some(name) => self.session_name(&format!("{field}.sessionName"), name)?.into(),
        };
        let idle_secs = self.session_secs(&format!("{field}.idleTimeout"), &body.idle_timeout);
        Some(Persistence { name, carrier, absolute_secs, idle_secs })
    }

    fn session_name<'b>(&mut self, field: &str, name: &'b str) -> Option<&'b str> {
        if Persistence::is_name(name) {
            return Some(name);
        }
        let name = quoted(name);
        self.refuse(format!(
            "{field}: {name} is no name of a cookie or header field; write up to \
             {SESSION_NAME_BYTES_MAX} letters, digits and \"-_.\""
        ));
        None
    }

    /// Whole seconds, rounded up: a session lives no shorter than it says.
    fn session_secs(&mut self, field: &str, written: &Lax<String>) -> Option<u32> {
        let text = written.text()?;
        let secs = duration_ms(text).map(|ms| ms.div_ceil(1_000));
        if secs.is_none_or(|secs| secs == 0) {
            let text = quoted(text);
            self.refuse(format!("{field}: {text} is no time; write one above 0s, as in 1h or 30m"));
            return None;
        }
        secs.map(|secs| secs.min(SESSION_SECS_MAX))
    }
}
