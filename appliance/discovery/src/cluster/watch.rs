//! List and watch one kind, for ever.
//!
//! Own loop instead of `kube::runtime::watcher`, which does not say when a watch stands again
//! after a failure (the connected flag), repeats a position for ever that the server refuses
//! with an HTTP 410, and waits for ever for the end of a streaming list that a server ignores.
//!
//! ```text
//!            ┌──────────────── 410, lost position ───────────────┐
//!            v                                                    │
//! list (paged, or streamed as the head of a watch) ──version──> follow ─┐
//!                                                                ^      │ closed, failed
//!                                                                └─wait─┘
//! ```

use std::time::Duration;

use futures::{StreamExt, pin_mut};
use haflinger_core::SourceUpdate;
use haflinger_kubernetes::{Pace, describe};
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use tokio::sync::{mpsc, watch};

use super::{RETRY_FIRST, RETRY_MAX, Selector, key};
use crate::feed::{Heard, Relists};
use crate::ledger::Watched;
use crate::objects::{Kind, Object};
use crate::status::Board;

/// The server ends a watch after this time, in seconds, and we resume it. So a connection that
/// died without a word is noticed soon after; the price is one request a kind in that time.
const WATCH_SECS: u32 = 150;

/// No byte for this long means that the connection is dead: the watch should have ended.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(WATCH_SECS as u64 + 15);

/// Objects in one page of a list, as client-go asks for.
const PAGE_OBJECTS: u32 = 500;

/// Refusals of one position in a row after which everything is listed again.
const REFUSALS_MAX: u32 = 5;

/// Marks the end of a streaming list (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// The watch of one kind; `translate` says what an object means, if anything.
#[derive(Clone)]
pub(super) struct Watch<B: Kind, F> {
    pub(super) api: Api<Object<B>>,
    pub(super) watched: Watched,
    pub(super) selector: Option<Selector>,
    pub(super) streaming: bool,
    pub(super) translate: F,
    pub(super) heard: mpsc::Sender<Heard>,
    /// The feed's wish that everything be listed once more.
    pub(super) relists: watch::Receiver<Relists>,
    /// The number of the wish that the last list began for.
    pub(super) listed_for: u32,
    pub(super) board: Board,
}

/// Where to go on.
#[derive(Clone, Debug, PartialEq)]
enum Position {
    /// Nothing is known: list everything.
    Unknown,
    /// Everything up to this resourceVersion has been heard.
    At(String),
}

enum Failure {
    /// The position is too old (410), or cannot be continued.
    Lost(String),
    /// The server answered, and refused.
    Refused { code: u16, text: String },
    /// The server could not be reached or went away.
    Away(String),
    /// The feed has ended.
    Ended,
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        let text = describe(&error);
        match error {
            kube::Error::Api(status) if status.code == 410 => Self::Lost(text),
            kube::Error::Api(status) => Self::Refused { code: status.code, text },
            _ => Self::Away(text),
        }
    }
}

impl<B, F> Watch<B, F>
where
    B: Kind,
    F: Fn(&Object<B>) -> Option<SourceUpdate> + Send + Sync,
{
    /// Runs until the feed ends. May be dropped at any await.
    pub(super) async fn run(mut self) {
        let mut position = Position::Unknown;
        let mut pace = Pace::new(RETRY_FIRST, RETRY_MAX);
        let mut refusals = 0;
        loop {
            let before = position.clone();
            let failure = match self.go_on(&mut position).await {
                // Ended by the server's clock after something was heard: go on at once.
                Ok(true) => {
                    pace.succeeded();
                    refusals = 0;
                    continue;
                }
                // A server that closes at once, every time, must not be hammered.
                Ok(false) => None,
                Err(Failure::Ended) => return,
                Err(failure) => Some(failure),
            };
            if position != before {
                pace.succeeded();
            }
            if let Some(failure) = failure
                && self.note(failure, &mut position, &mut refusals).await.is_err()
            {
                return;
            }
            tokio::time::sleep(pace.after_failure(rand::random())).await;
        }
    }

    /// Says what failed and decides from where to go on.
    async fn note(
        &mut self,
        failure: Failure,
        position: &mut Position,
        refusals: &mut u32,
    ) -> Result<(), Failure> {
        let text = match failure {
            Failure::Lost(text) => {
                *position = Position::Unknown;
                text
            }
            Failure::Refused { code, text } => {
                let listing = *position == Position::Unknown;
                *refusals += 1;
                // A server before 1.27, or with the feature off, refuses streaming lists.
                if listing && self.streaming && matches!(code, 400 | 422) {
                    self.streaming = false;
                }
                // The cluster may serve without some: what they are for then fails, and the
                // status says so, but addresses of everything else are not held up.
                let dispensable = self.watched.missed_without().is_some();
                if listing && dispensable && matches!(code, 403 | 404) {
                    self.board.withheld(self.watched);
                    // The list has begun: its end says that there is nothing.
                    let word = match self.watched.is_dropped_unconfirmed() {
                        true => Heard::ListEnded,
                        false => Heard::Withheld,
                    };
                    self.say(word(self.watched)).await?;
                }
                if *refusals >= REFUSALS_MAX {
                    *refusals = 0;
                    *position = Position::Unknown;
                }
                text
            }
            Failure::Away(text) => text,
            Failure::Ended => return Err(Failure::Ended),
        };
        tracing::warn!(
            source = %self.board.source, kind = self.watched.as_str(), error = text,
            relist = (*position == Position::Unknown),
            "watch failed; the last state stands",
        );
        self.board.failed(self.watched, text);
        Ok(())
    }

    /// Lists if need be, then follows until the server ends it. Returns whether anything was
    /// heard.
    async fn go_on(&mut self, position: &mut Position) -> Result<bool, Failure> {
        let mut listed = false;
        if *position == Position::Unknown && !self.streaming {
            *position = Position::At(self.list().await?);
            listed = true;
        }
        Ok(self.follow(position).await? || listed)
    }

    /// Lists page by page and returns the list's version.
    async fn list(&mut self) -> Result<String, Failure> {
        let mut params = ListParams::default().limit(PAGE_OBJECTS);
        match self.selector {
            Some(Selector::Label(label)) => params.label_selector = Some(label.to_owned()),
            Some(Selector::Field(field)) => params.field_selector = Some(field.to_owned()),
            None => {}
        }
        self.begin_list().await?;
        loop {
            let page = self.api.list(&params).await?;
            self.board.connected(self.watched);
            self.board.heard(self.watched);
            for object in &page.items {
                self.apply(object).await?;
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    self.say(Heard::ListEnded(self.watched)).await?;
                    return page
                        .metadata
                        .resource_version
                        .filter(|version| !version.is_empty())
                        .ok_or_else(|| Failure::Lost("the list has no resourceVersion".into()));
                }
            }
        }
    }

    async fn begin_list(&mut self) -> Result<(), Failure> {
        self.listed_for = self.relists.borrow()[self.watched.index()];
        self.say(Heard::ListBegan(self.watched)).await
    }

    /// Watches from the position, or with a streaming list at its head.
    async fn follow(&mut self, position: &mut Position) -> Result<bool, Failure> {
        let mut params = WatchParams { timeout: Some(WATCH_SECS), ..WatchParams::default() };
        match self.selector {
            Some(Selector::Label(label)) => params.label_selector = Some(label.to_owned()),
            Some(Selector::Field(field)) => params.field_selector = Some(field.to_owned()),
            None => {}
        }
        let version = match position {
            Position::Unknown => {
                params.send_initial_events = true;
                self.begin_list().await?;
                // No version asks for the newest state, as a consistent list does.
                String::new()
            }
            Position::At(version) => version.clone(),
        };
        let stream = self.api.watch(&params, &version).await?;
        pin_mut!(stream);
        self.board.connected(self.watched);
        let mut anything = false;
        let (mut relists, watched, listed_for) =
            (self.relists.clone(), self.watched.index(), self.listed_for);
        loop {
            let next = tokio::select! {
                next = tokio::time::timeout(SILENCE_MAX, stream.next()) => next,
                Ok(_) = relists.wait_for(|relists| relists[watched] != listed_for) => {
                    *position = Position::Unknown;
                    return Ok(true);
                }
            };
            let Ok(next) = next else {
                return Err(Failure::Away("the watch fell silent".to_owned()));
            };
            let Some(event) = next else {
                return match position {
                    // The head of the list was cut off: it has to begin anew.
                    Position::Unknown => Err(Failure::Away("the list was cut short".to_owned())),
                    Position::At(_) => Ok(anything),
                };
            };
            anything = true;
            self.board.heard(self.watched);
            self.hear(event?, position).await?;
        }
    }

    async fn hear(
        &self,
        event: WatchEvent<Object<B>>,
        position: &mut Position,
    ) -> Result<(), Failure> {
        let version = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.apply(&object).await?;
                object.resource_version().to_owned()
            }
            WatchEvent::Deleted(object) => {
                self.say(Heard::Gone(key(self.watched, &object))).await?;
                object.resource_version().to_owned()
            }
            WatchEvent::Bookmark(mark) => {
                if mark.metadata.annotations.contains_key(INITIAL_EVENTS_END) {
                    self.say(Heard::ListEnded(self.watched)).await?;
                    *position = Position::At(mark.metadata.resource_version);
                    return Ok(());
                }
                mark.metadata.resource_version
            }
            WatchEvent::Error(status) => {
                return Err(kube::Error::Api(status).into());
            }
        };
        // Within a streaming list no version is a position yet.
        if let Position::At(at) = position
            && !version.is_empty()
        {
            *at = version;
        }
        Ok(())
    }

    async fn apply(&self, object: &Object<B>) -> Result<(), Failure> {
        if object.name().is_empty() {
            // Not an object at all; nothing could be said about it.
            return Ok(());
        }
        self.say(Heard::Object(key(self.watched, object), (self.translate)(object))).await
    }

    async fn say(&self, heard: Heard) -> Result<(), Failure> {
        self.heard.send(heard).await.map_err(|_| Failure::Ended)
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
pub(super) mod tests;
