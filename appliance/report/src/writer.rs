//! Writes what the leader has to say about one cluster's objects.
//!
//! ```text
//! snapshots ──diff──> queue ──at most 4 at a time──> read, compare, patch, tell events
//! leader ────gained: look at everything · lost: drop everything
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use haflinger_core::{ObjectRef, ObjectReport, Snapshot, SourceId};
use imbl::ordmap::DiffItem;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::book::{Allowance, Book};
use crate::object::{Done, ObjectWriter, Task};
use crate::plan::{Left, agrees, has_news, left_behind};
use crate::queue::Queue;
use crate::status::Board;

/// Requests at a time. The API server has other users.
const CONCURRENCY: usize = 4;

/// How often the leader looks at everything again: faults that persist are told again, and
/// what was missed is made up for.
const LOOK_AGAIN: Duration = Duration::from_secs(10 * 60);

/// An object of the Gateway API waits so long after a change: a Gateway to which a hundred routes
/// come at once counts them in a few writes. Short beside the time that a new route takes to be
/// seen by anybody.
const SETTLE: Duration = Duration::from_millis(100);

type Running = FuturesUnordered<BoxFuture<'static, Done>>;

/// See the module's documentation.
pub(crate) struct Writer {
    source: SourceId,
    objects: Arc<ObjectWriter>,
    board: Board,
    queue: Queue,
    book: Book,
    allowance: Allowance,
    seen: Arc<Snapshot>,
    /// Objects that are reported on no more, and what they may hold because of us.
    departed: HashMap<ObjectRef, Left>,
    running: Running,
}

impl Writer {
    pub(crate) fn new(source: SourceId, client: Client, identity: &str, board: Board) -> Self {
        Self {
            source,
            objects: Arc::new(ObjectWriter::new(client, identity)),
            board,
            queue: Queue::default(),
            book: Book::default(),
            allowance: Allowance::new(Instant::now()),
            seen: Arc::default(),
            departed: HashMap::new(),
            running: Running::new(),
        }
    }

    /// Works until `stop`. What is under way then is dropped: every request is whole in
    /// itself, and the next leader makes up for the rest.
    pub(crate) async fn run(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        mut leader: watch::Receiver<bool>,
        stop: &CancellationToken,
    ) {
        let mut look_again = tokio::time::interval(LOOK_AGAIN);
        self.seen = snapshots.borrow_and_update().clone();
        loop {
            let leads = *leader.borrow_and_update();
            if leads {
                self.start_work();
            }
            self.board.pending(self.queue.len());
            let next = self.queue.next_at().filter(|_| leads && self.running.len() < CONCURRENCY);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = leader.changed() => match changed {
                    Ok(()) => self.leadership(*leader.borrow_and_update()),
                    Err(_) => return,
                },
                changed = snapshots.changed() => match changed {
                    Ok(()) => {
                        let snapshot = snapshots.borrow_and_update().clone();
                        self.compare(snapshot, leads);
                    }
                    Err(_) => return,
                },
                Some(done) = self.running.next(), if !self.running.is_empty() => self.finish(done),
                _ = look_again.tick(), if leads => self.look_at_everything(),
                () = until(next) => {}
            }
        }
    }

    fn leadership(&mut self, leads: bool) {
        // Requests of a former term must not outlive it.
        self.running = Running::new();
        self.queue.clear();
        self.departed.clear();
        if leads {
            self.look_at_everything();
        }
    }

    fn look_at_everything(&mut self) {
        let now = Instant::now();
        let seen = self.seen.clone();
        for (object, report) in &seen.reports {
            self.consider(object, report, now);
        }
    }

    /// Queues an object of which there is something to be told.
    fn consider(&mut self, object: &ObjectRef, report: &ObjectReport, now: Instant) {
        if object.source != self.source || !has_news(object.kind, report) {
            return;
        }
        if !object.kind.has_conditions() {
            self.queue.add(object, now);
        // Before everything has been heard of, a route only seems to have no Gateway.
        } else if self.seen.complete {
            self.queue.add(object, now + SETTLE);
        }
    }

    fn compare(&mut self, snapshot: Arc<Snapshot>, leads: bool) {
        let former = std::mem::replace(&mut self.seen, snapshot);
        if !leads {
            return;
        }
        let (now, seen) = (Instant::now(), self.seen.clone());
        if seen.complete && !former.complete {
            self.look_at_everything();
        }
        let mut departed = Vec::new();
        for change in former.reports.diff(&seen.reports) {
            match change {
                DiffItem::Add(object, report) | DiffItem::Update { new: (object, report), .. } => {
                    self.consider(object, report, now);
                }
                DiffItem::Remove(object, report) if object.source == self.source => {
                    let left = left_behind(object.kind, report);
                    departed.extend(left.map(|left| (object.clone(), left)));
                }
                DiffItem::Remove(..) => {}
            }
        }
        if departed.is_empty() || !self.is_reported_on() {
            return;
        }
        for (object, left) in departed {
            self.queue.add(&object, now);
            self.departed.insert(object, left);
        }
    }

    /// Whether anything of the cluster is reported on. If nothing is, the cluster was taken out
    /// of this host's configuration: others may still serve what its statuses say.
    fn is_reported_on(&self) -> bool {
        self.seen.reports.keys().any(|object| object.source == self.source)
    }

    fn start_work(&mut self) {
        while self.running.len() < CONCURRENCY {
            let now = Instant::now();
            let Some(object) = self.queue.take(now) else { return };
            let Some(task) = self.task(&object, now) else { continue };
            let objects = self.objects.clone();
            self.running.push(Box::pin(async move { objects.work(task).await }));
        }
    }

    /// What there is to do about an object, as of the newest snapshot.
    fn task(&mut self, object: &ObjectRef, now: Instant) -> Option<Task> {
        let Some(report) = self.seen.reports.get(object).map(Arc::clone) else {
            let left = self.departed.remove(object);
            if left.is_none() {
                self.queue.succeeded(object, now);
            }
            return left.map(|left| Task::Clear { object: object.clone(), left });
        };
        self.departed.remove(object);
        let news: Vec<_> = report
            .faults
            .iter()
            .filter(|fault| {
                let digest = crate::book::digest(object, fault.reason.as_str(), &fault.message);
                self.book.is_news(digest, now)
            })
            .cloned()
            .collect();
        if let Err(from) = self.allowance.take(news.len(), now) {
            self.board.metrics.events(&self.board.cluster, "postponed", news.len());
            // The address does not wait for the events.
            if agrees(object.kind, &report) {
                self.queue.postponed(object, from);
                return None;
            }
            let (news, events_left) = (Vec::new(), true);
            return Some(Task::Report { object: object.clone(), report, news, events_left });
        }
        Some(Task::Report { object: object.clone(), report, news, events_left: false })
    }

    fn finish(&mut self, done: Done) {
        let now = Instant::now();
        let cluster = self.board.cluster.clone();
        for digest in done.told {
            self.book.told(digest, now);
            self.board.metrics.events(&cluster, "told", 1);
        }
        if let Some(result) = done.status {
            self.board.metrics.write(&cluster, result);
        }
        if done.cut {
            self.board.metrics.cut(&cluster);
            tracing::warn!(
                %cluster, object = %done.object,
                "a limit of the API leaves no room for all that the status should say",
            );
        }
        match done.error {
            None => {
                self.board.write_error(None);
                self.queue.succeeded(&done.object, now);
                // Events that found no allowance get another turn.
                if done.events_left {
                    self.queue.add(&done.object, now + Duration::from_secs(1));
                }
            }
            Some(error) => {
                if let Some(left) = done.left {
                    self.departed.insert(done.object.clone(), left);
                }
                let wait = self.queue.failed(&done.object, now, rand::random());
                tracing::warn!(
                    %cluster, object = %done.object, error, retry_secs = wait.as_secs(),
                    "object cannot be written",
                );
                self.board.write_error(Some(format!("{}: {error}", done.object)));
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
