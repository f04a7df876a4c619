//! A client that follows its credentials.
//!
//! ```text
//!  requests ──> Client ──> the newest inner client ──> API server
//!                 │ 401          ^
//!                 v              │ swapped: what runs goes on, what begins is signed anew
//!               Keeper ── reads what is on disk, or asks the program, now and then
//! ```
//!
//! Invariant: what cannot be used changes nothing; the former client goes on. No clock of the wall
//! decides: of a token's expiry only the time that is left when it arrives is kept.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{Request, StatusCode, Uri};
use kube::Client;
use kube::client::Body;
use serde::Serialize;
use tokio::sync::Notify;

use crate::access::{Access, ConnectError, explain};
use crate::credentials::{self, Credentials, Files};
use crate::pace::Pace;

/// How often the files are looked at. Credentials rotate by the hour; the price is to read some
/// kilobytes.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// Waits before a program is asked again that has failed, or whose credentials the server refuses:
/// it may have to sign in far away.
const ASK_FIRST: Duration = Duration::from_secs(1);
const ASK_MAX: Duration = Duration::from_secs(120);

/// A program is asked again at the latest after this time, however long its credentials say that
/// they are good for: the clock may have been wrong when they came.
const LIFETIME_MAX: Duration = Duration::from_secs(3600);

/// And never earlier than this: credentials that arrive expired must not make it run without end.
const LIFETIME_MIN: Duration = Duration::from_secs(5);

/// Credentials are replaced so long before they expire, or earlier by a fifth of their time.
const MARGIN_MAX: Duration = Duration::from_secs(60);

/// What became of the credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// New ones are in use.
    Taken,
    /// Those on disk, or the program, cannot be used: why. The former ones stay in use.
    Refused(String),
    /// What is in use is again what is on disk.
    Settled,
}

/// The kubeconfig names another server by now: what the client has heard may not be true there.
/// Whoever has it should begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved;

/// What is known of a cluster's credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CredentialsStatus {
    /// Seconds since those in use were read; absent while there are none.
    pub loaded_age_secs: Option<u64>,
    /// How often they were read and taken into use, the first time included.
    pub loads: u64,
    /// Why what is on disk, or what the program says, is not in use, until it is.
    pub last_error: Option<String>,
}

/// Where a [`Keeper`] says how the credentials are; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct CredentialsBoard(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    loaded: Option<Instant>,
    loads: u64,
    error: Option<String>,
}

impl CredentialsBoard {
    /// Notes what became of them.
    pub fn note(&self, said: &Said) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match said {
            Said::Taken => {
                (told.loaded, told.error) = (Some(Instant::now()), None);
                told.loads += 1;
            }
            Said::Refused(text) => told.error = Some(text.clone()),
            Said::Settled => told.error = None,
        }
    }

    /// How they are.
    pub fn status(&self) -> CredentialsStatus {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        CredentialsStatus {
            loaded_age_secs: told.loaded.map(|at| at.elapsed().as_secs()),
            loads: told.loads,
            last_error: told.error.clone(),
        }
    }
}

/// What clones of one client have in common.
struct Shared {
    inner: ArcSwap<Client>,
    /// The server has answered 401.
    refused: Notify,
    /// The server has answered 403.
    forbidden: Notify,
}

/// Tells when the server refuses something for want of rights.
pub struct Forbidden(Arc<Shared>);

impl Forbidden {
    /// Waits until it has done so since it was last asked.
    pub(crate) async fn noticed(&self) {
        self.0.forbidden.notified().await;
    }
}

/// Keeps the credentials of a client up to date while it is asked to ([`Keeper::follow`]).
pub struct Keeper {
    access: Access,
    silence: Duration,
    shared: Arc<Shared>,
    server: Uri,
    files: Files,
    fingerprint: u64,
    from_program: bool,
    /// When a program is to be asked again.
    renew_at: Option<Instant>,
    /// It has been, and gave nothing that could be used.
    program_failed: bool,
    /// When the files are looked at next.
    check_at: Instant,
    /// What the server refuses is looked at then, and not before.
    patience_until: Instant,
    pace: Pace,
    /// The server has refused something since the last look at the files.
    refused: bool,
    /// What was said last, if it was a refusal.
    failing: Option<String>,
}

/// Why the credentials are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    /// The time for it has come.
    Check,
    /// They expire soon.
    Expiry,
    /// The server does not take them.
    Refusal,
}

impl Access {
    /// A client whose requests fail when the server is silent for `silence`, and who keeps its
    /// credentials. For watches `silence` must be longer than the watch's own timeout.
    ///
    /// # Errors
    /// [`ConnectError`] when the kubeconfig cannot be used. An unreachable server is no error
    /// here: the first request says so.
    pub async fn open(&self, silence: Duration) -> Result<(Client, Keeper), ConnectError> {
        let read = credentials::read(self).await?;
        let inner = self.build(&read, silence)?;
        let namespace = inner.default_namespace().to_owned();
        let shared = Arc::new(Shared {
            inner: ArcSwap::from_pointee(inner),
            refused: Notify::new(),
            forbidden: Notify::new(),
        });
        let client = outer(&shared, namespace);
        let keeper = Keeper {
            access: self.clone(),
            silence,
            shared,
            server: read.config.cluster_url.clone(),
            renew_at: renew_at(&read),
            files: read.files,
            fingerprint: read.fingerprint,
            from_program: read.from_program,
            program_failed: false,
            check_at: Instant::now() + CHECK_EVERY,
            patience_until: Instant::now(),
            pace: Pace::new(ASK_FIRST, ASK_MAX),
            refused: false,
            failing: None,
        };
        Ok((client, keeper))
    }
}

/// A client whose every request goes through the newest inner one.
fn outer(shared: &Arc<Shared>, namespace: String) -> Client {
    let shared = shared.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let shared = shared.clone();
        async move {
            let inner = Client::clone(&shared.inner.load());
            let answer = inner.send(request).await?;
            match answer.status() {
                StatusCode::UNAUTHORIZED => shared.refused.notify_one(),
                StatusCode::FORBIDDEN => shared.forbidden.notify_one(),
                _ => {}
            }
            Ok::<_, kube::Error>(answer)
        }
    });
    Client::new(service, namespace)
}

/// When credentials of a program are to be replaced.
fn renew_at(read: &Credentials) -> Option<Instant> {
    read.from_program.then(|| Instant::now() + renewal(read.lifetime))
}

/// How long after their arrival credentials of this lifetime are replaced.
fn renewal(lifetime: Option<Duration>) -> Duration {
    let Some(lifetime) = lifetime else { return LIFETIME_MAX };
    let margin = (lifetime / 5).min(MARGIN_MAX);
    lifetime.saturating_sub(margin).clamp(LIFETIME_MIN, LIFETIME_MAX)
}

impl Keeper {
    /// When the server refuses something for want of rights; for one to wait for it.
    pub fn forbidden(&self) -> Forbidden {
        Forbidden(self.shared.clone())
    }

    /// Follows the credentials, and says what becomes of them. Returns when the client leads to
    /// a server that the kubeconfig no longer names. May be dropped at any await, and called again.
    pub async fn follow(&mut self, mut tell: impl FnMut(Said)) -> Moved {
        loop {
            let occasion = self.occasion().await;
            match self.renew(occasion).await {
                Ok(Renewed::Not) if self.program_failed => {}
                Ok(Renewed::Not) => {
                    if self.failing.take().is_some() {
                        tell(Said::Settled);
                    }
                }
                Ok(Renewed::Here) => {
                    self.failing = None;
                    tell(Said::Taken);
                }
                Ok(Renewed::Elsewhere) => return Moved,
                Err(error) => {
                    let text = explain(&error);
                    // The same again is no news.
                    if self.failing.as_ref() != Some(&text) {
                        tell(Said::Refused(text.clone()));
                    }
                    self.failing = Some(text);
                }
            }
        }
    }

    /// Waits until there is something to look at.
    async fn occasion(&mut self) -> Occasion {
        let expiry = async {
            match self.renew_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let refusal = async {
            tokio::time::sleep_until(self.patience_until.into()).await;
            self.shared.refused.notified().await;
        };
        let occasion = tokio::select! {
            () = tokio::time::sleep_until(self.check_at.into()) => Occasion::Check,
            () = expiry => Occasion::Expiry,
            () = refusal => Occasion::Refusal,
        };
        match occasion {
            Occasion::Check => {
                self.check_at = Instant::now() + CHECK_EVERY;
                if !std::mem::take(&mut self.refused) && !self.program_failed {
                    self.pace.succeeded();
                }
            }
            Occasion::Expiry => {}
            Occasion::Refusal => self.refused = true,
        }
        occasion
    }

    /// Reads everything anew if there is a reason to.
    async fn renew(&mut self, occasion: Occasion) -> Result<Renewed, ConnectError> {
        let files = self.files.clone();
        let now = tokio::task::spawn_blocking(move || files.fingerprint()).await;
        // The blocking pool refuses work only while the daemon is torn down.
        let changed = now.is_ok_and(|now| now != self.fingerprint);
        let ask = self.from_program && occasion != Occasion::Check;
        if occasion != Occasion::Check {
            self.patience_until = Instant::now() + self.pace.after_failure(rand::random());
        }
        if !changed && !ask {
            return Ok(Renewed::Not);
        }
        if ask {
            // Until it has answered, and for the case that whoever asks is dropped meanwhile.
            self.program_failed = true;
            self.renew_at = Some(self.patience_until);
        }
        let read = credentials::read(&self.access).await?;
        if read.config.cluster_url != self.server {
            return Ok(Renewed::Elsewhere);
        }
        let inner = self.access.build(&read, self.silence)?;
        self.shared.inner.store(Arc::new(inner));
        self.renew_at = renew_at(&read);
        self.files = read.files;
        self.fingerprint = read.fingerprint;
        self.from_program = read.from_program;
        self.program_failed = false;
        Ok(Renewed::Here)
    }
}

enum Renewed {
    /// There is no reason to.
    Not,
    /// The client signs in with them from now on.
    Here,
    /// They are for another server.
    Elsewhere,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_replaced_before_they_expire_and_never_without_end() {
        let secs = |secs: u64| Some(Duration::from_secs(secs));
        for (lifetime, after) in [(900, 840), (100, 80), (10, 8), (0, 5), (1 << 40, 3600)] {
            assert_eq!(renewal(secs(lifetime)).as_secs(), after, "of {lifetime} s");
        }
        assert_eq!(renewal(None), LIFETIME_MAX);
    }

    #[test]
    fn the_status_keeps_an_error_until_it_is_settled() {
        let board = CredentialsBoard::default();
        board.note(&Said::Refused("bad".into()));
        assert_eq!(board.status().last_error.as_deref(), Some("bad"));
        assert_eq!(board.status().loaded_age_secs, None);
        board.note(&Said::Taken);
        assert_eq!((board.status().last_error, board.status().loads), (None, 1));
        board.note(&Said::Refused("bad".into()));
        board.note(&Said::Settled);
        let status = board.status();
        assert_eq!((status.last_error, status.loads, status.loaded_age_secs), (None, 1, Some(0)));
    }
}
