//! A kind that not every cluster has: watched while the cluster has it.
//!
//! ```text
//!            ┌──── found ───> watch ──┐ not found, three times in a row: all of it is gone
//!  ask now and then <─────────────────┘
//!            └──── not found: nothing is known of it, the source counts as synced without it
//! ```
//!
//! What the cluster has is asked of its discovery document, which every account may read. A list
//! would not tell: a server refuses it for want of rights before it looks whether there is such a
//! kind. Where the document itself is refused, the kind is taken to be there, and the watch says
//! what it lacks.
//!
//! Kinds that every cluster has, and that are of use beside such a kind alone, are watched while
//! the cluster has that one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use haflinger_core::SourceUpdate;
use haflinger_kubernetes::{Pace, describe};
use kube::Client;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::watch::Watch;
use super::{RETRY_FIRST, RETRY_MAX};
use crate::feed::Heard;
use crate::objects::{Kind, Object};

/// How often the kind is asked for, found or not, before jitter: one small request, and the time
/// after which a newly installed pod network is noticed.
const ASK_EVERY: Duration = Duration::from_secs(20);

/// Answers in a row that there is no such kind before what is known of it is taken away: a server
/// that has just started, or one of several that lags, may not have heard of it yet.
const ABSENCES_MIN: u32 = 3;

/// For how long an answer counts for the other kinds of its group: less than any kind waits before
/// it asks again, so that each of its answers is a new one.
const ANSWER_HOLDS: Duration = Duration::from_secs(5);

/// A resource that a cluster may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resource {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
}

impl Resource {
    pub(super) fn of<B: Kind>() -> Self {
        Self { group: B::GROUP, version: B::VERSION, plural: B::PLURAL }
    }
}

/// What the cluster says that it has: one request for all the kinds of a group that ask at about
/// the same time.
#[derive(Clone)]
pub(super) struct Documents {
    client: Client,
    /// By group; the lock of each is held while it is asked for.
    answers: Arc<Mutex<BTreeMap<&'static str, LastAnswer>>>,
}

/// The plural names of a group's resources; `None`: the document is withheld.
type Answer = Result<Option<Vec<String>>, String>;

/// When it was given, if it ever was.
type LastAnswer = Arc<Mutex<Option<(Instant, Answer)>>>;

impl Documents {
    pub(super) fn new(client: Client) -> Self {
        Self { client, answers: Arc::default() }
    }

    async fn has(&self, resource: Resource) -> Result<bool, String> {
        let answer = self.answers.lock().await.entry(resource.group).or_default().clone();
        let mut answer = answer.lock().await;
        let known = match &*answer {
            Some((at, known)) if at.elapsed() < ANSWER_HOLDS => known.clone(),
            _ => {
                let known = self.ask(resource).await;
                *answer = Some((Instant::now(), known.clone()));
                known
            }
        };
        Ok(known?.is_none_or(|plurals| plurals.iter().any(|plural| plural == resource.plural)))
    }

    async fn ask(&self, resource: Resource) -> Answer {
        let version = format!("{}/{}", resource.group, resource.version);
        match self.client.list_api_group_resources(&version).await {
            Ok(list) => Ok(Some(list.resources.into_iter().map(|found| found.name).collect())),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Some(Vec::new())),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
            Err(error) => Err(describe(&error)),
        }
    }
}

/// Watches a kind while its cluster has it.
pub(super) struct Presence<B: Kind, F> {
    pub(super) documents: Documents,
    /// What the cluster has to have.
    pub(super) resource: Resource,
    pub(super) watch: Watch<B, F>,
}

/// Nobody listens any more.
struct Ended;

impl<B, F> Presence<B, F>
where
    B: Kind,
    F: Fn(&Object<B>) -> Option<SourceUpdate> + Clone + Send + Sync,
{
    /// Runs until the feed ends. May be dropped at any await.
    pub(super) async fn run(self) {
        let mut pace = Pace::new(RETRY_FIRST, RETRY_MAX);
        let mut absences = 0;
        loop {
            match self.is_there().await {
                Ok(true) => {
                    pace.succeeded();
                    tokio::select! {
                        () = self.watch.clone().run() => return,
                        () = self.until_gone() => absences = ABSENCES_MIN - 1,
                    }
                    continue;
                }
                Ok(false) => {
                    pace.succeeded();
                    absences = absences.saturating_add(1);
                    if self.missed(absences).await.is_err() {
                        return;
                    }
                }
                Err(text) => {
                    self.watch.board.failed(self.watch.watched, text);
                    tokio::time::sleep(pace.after_failure(rand::random())).await;
                    continue;
                }
            }
            wait().await;
        }
    }

    /// Takes away what an earlier run, or other settings, made known of the kind.
    pub(super) async fn forget(self) {
        while self.none().await.is_ok() {
            wait().await;
        }
    }

    /// The cluster said that it does not have the kind.
    async fn missed(&self, absences: u32) -> Result<(), Ended> {
        let (watched, board) = (self.watch.watched, &self.watch.board);
        if absences == 1 {
            board.absent(watched);
            return self.say(Heard::Withheld(watched)).await;
        }
        if absences < ABSENCES_MIN {
            return Ok(());
        }
        board.absent(watched);
        // Said again and again: so many objects that go at once may have to be confirmed.
        self.none().await
    }

    /// Returns when the cluster has not had the kind for long enough.
    async fn until_gone(&self) {
        let mut absences = 0;
        while absences < ABSENCES_MIN {
            wait().await;
            match self.is_there().await {
                Ok(false) => absences += 1,
                Ok(true) => absences = 0,
                // The watch says what is wrong.
                Err(_) => {}
            }
        }
    }

    /// An empty list.
    async fn none(&self) -> Result<(), Ended> {
        self.say(Heard::ListBegan(self.watch.watched)).await?;
        self.say(Heard::ListEnded(self.watch.watched)).await
    }

    async fn is_there(&self) -> Result<bool, String> {
        self.documents.has(self.resource).await
    }

    async fn say(&self, heard: Heard) -> Result<(), Ended> {
        self.watch.heard.send(heard).await.map_err(|_| Ended)
    }
}

async fn wait() {
    let jitter = rand::random_range(0.5..=1.0);
    tokio::time::sleep(ASK_EVERY.mul_f64(jitter)).await;
}

#[cfg(test)]
#[path = "presence_tests.rs"]
mod tests;
