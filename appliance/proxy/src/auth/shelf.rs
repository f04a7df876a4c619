//! What checks share while any of them holds it: users of a list with the passwords that were
//! right, fetched keys, addresses of servers.

use std::sync::{Arc, Weak};

use haflinger_core::{
    Authorizer, AuthorizerPlace, Filter, KeySource, SecretRef, Upstream, UserList, UserListChoice,
    WebServer,
};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::{AuthorizerCheck, KeySlot, ServerNames, TokensCheck, UserSlot, UsersCheck, Whom};
use crate::action::{ActionUpstream, Step};
use crate::slots::Slots;
use crate::tls::{BackendGreetings, BackendTls};

/// Finds what checks share.
#[derive(Debug, Default)]
pub(crate) struct AuthShelf {
    users: Slots<UserListChoice, UserSlot>,
    lists: OrdMap<SecretRef, Arc<UserList>>,
    keys: Slots<KeySource, KeySlot>,
    names: Slots<WebServer, ServerNames>,
    greetings: BackendGreetings,
    /// Places of keys that nobody fetches yet.
    unfetched: Vec<Weak<KeySlot>>,
}

impl AuthShelf {
    /// Compiles a filter that asks who the client is. One that cannot be followed, or is none, lets
    /// nobody pass.
    pub(crate) fn step(
        &mut self,
        from: &Filter,
        upstream: &mut dyn FnMut(&Upstream) -> ActionUpstream,
    ) -> Step {
        let step = match from {
            Filter::Users(from) => {
                let lists = &self.lists;
                let slot = self.users.slot(&from.list, || match &from.list {
                    UserListChoice::Here(list) => UserSlot::new(Some(list)),
                    UserListChoice::Secret(secret) => UserSlot::new(lists.get(secret)),
                });
                UsersCheck::compile(from, slot).map(Arc::new).map(Step::Users)
            }
            Filter::Tokens(from) => {
                let check = TokensCheck::compile(from, |source| self.key_slot(source));
                check.map(Arc::new).map(Step::Tokens)
            }
            Filter::Authorizer(from) => self.authorizer(from, upstream).map(Step::Authorizer),
            _ => None,
        };
        step.unwrap_or_else(|| {
            tracing::error!("a check of clients cannot be followed; its requests get 500");
            Step::Unfollowed
        })
    }

    /// Puts other lists in service.
    pub(crate) fn renew(&mut self, lists: &OrdMap<SecretRef, Arc<UserList>>) {
        let former = std::mem::replace(&mut self.lists, lists.clone());
        for item in former.diff(lists) {
            let (secret, list) = match item {
                DiffItem::Add(secret, list) | DiffItem::Update { new: (secret, list), .. } => {
                    (secret, Some(list))
                }
                DiffItem::Remove(secret, _) => (secret, None),
            };
            if let Some(slot) = self.users.find(&UserListChoice::Secret(secret.clone())) {
                slot.store(list);
            }
        }
    }

    /// Places of keys that have come since, for somebody to fetch.
    pub(crate) fn take_unfetched(&mut self) -> Vec<Weak<KeySlot>> {
        std::mem::take(&mut self.unfetched)
    }

    fn authorizer(
        &mut self,
        from: &Arc<Authorizer>,
        upstream: &mut dyn FnMut(&Upstream) -> ActionUpstream,
    ) -> Option<Arc<AuthorizerCheck>> {
        let whom = match &from.to {
            AuthorizerPlace::Backends(to) => Whom::Backends(upstream(to)),
            AuthorizerPlace::Server(server) => {
                let tls = self.greeting(server);
                let fill = || ServerNames::new(server.clone());
                Whom::Server { names: self.names.slot(server, fill), tls }
            }
            AuthorizerPlace::Nowhere(status) => Whom::Nowhere(*status),
        };
        AuthorizerCheck::compile(from, whom).map(Arc::new)
    }

    fn key_slot(&mut self, source: &KeySource) -> Arc<KeySlot> {
        if let Some(slot) = self.keys.find(source) {
            return slot;
        }
        let tls = self.greeting(&source.server);
        let fill = || ServerNames::new(source.server.clone());
        let names = self.names.slot(&source.server, fill);
        let slot = self.keys.slot(source, || KeySlot::new(source.clone(), names, tls));
        self.unfetched.push(Arc::downgrade(&slot));
        slot
    }

    /// Servers that are known by their names are shown no certificate.
    fn greeting(&mut self, server: &WebServer) -> Option<Arc<BackendTls>> {
        let tls = server.tls.as_ref()?;
        Some(self.greetings.greeting(tls, |_| Arc::default()))
    }
}
