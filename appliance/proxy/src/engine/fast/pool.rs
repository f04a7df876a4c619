//! Connections to backends that wait for another request: plain HTTP/1.1, of one worker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

/// Idle connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    idle: Arc<Mutex<Idle>>,
    /// Connections at most: beyond it one that is given back is closed.
    max: usize,
}

#[derive(Debug, Default)]
struct Idle {
    /// By backend, the one used last at the end.
    by_backend: HashMap<SocketAddr, Vec<Waiting>>,
    count: usize,
    /// Somebody looks for those that have waited too long.
    swept: bool,
}

#[derive(Debug)]
struct Waiting {
    stream: TcpStream,
    since: Instant,
}

impl Pool {
    /// An empty one.
    pub(super) fn new(max: usize) -> Self {
        Self { idle: Arc::default(), max }
    }

    /// A connection to the backend that has waited no longer than `patience`, and on which the
    /// backend has said nothing since.
    pub(super) fn take(&self, backend: SocketAddr, patience: Duration) -> Option<TcpStream> {
        let mut idle = lock(&self.idle);
        loop {
            let Waiting { stream, since } = idle.by_backend.get_mut(&backend)?.pop()?;
            idle.count -= 1;
            if since.elapsed() < patience && is_silent(&stream) {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection for the next request. Runs on a worker.
    pub(super) fn give(&self, backend: SocketAddr, stream: TcpStream, patience: Duration) {
        let mut idle = lock(&self.idle);
        if idle.count >= self.max {
            return;
        }
        idle.count += 1;
        let waiting = Waiting { stream, since: Instant::now() };
        idle.by_backend.entry(backend).or_default().push(waiting);
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.idle), patience));
        }
    }
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    // Whole between any two statements that can panic.
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a backend has neither closed a connection nor sent what nobody asked for. Asks the
/// kernel only when something has come.
fn is_silent(stream: &TcpStream) -> bool {
    let mut one = [0];
    matches!(stream.try_read(&mut one), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Closes what has waited for `patience`, or was closed by its backend, twice as often as that, until
/// nothing is left.
async fn sweep(idle: Weak<Mutex<Idle>>, patience: Duration) {
    loop {
        tokio::time::sleep(patience / 2).await;
        let Some(idle) = idle.upgrade() else { return };
        let mut idle = lock(&idle);
        let now = Instant::now();
        idle.by_backend.retain(|_, waiting| {
            waiting.retain(|one| {
                now.saturating_duration_since(one.since) < patience && is_silent(&one.stream)
            });
            waiting.shrink_to_fit();
            !waiting.is_empty()
        });
        idle.count = idle.by_backend.values().map(Vec::len).sum();
        if idle.count == 0 {
            idle.swept = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    async fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        (ours.unwrap(), theirs.unwrap().0)
    }

    #[tokio::test]
    async fn a_connection_is_used_again_unless_its_backend_has_closed_or_spoken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = listener.local_addr().unwrap();
        let pool = Pool::new(10);
        assert!(pool.take(backend, LONG).is_none());
        let (ours, theirs) = pair(&listener).await;
        let port = ours.local_addr().unwrap();
        pool.give(backend, ours, LONG);
        let again = pool.take(backend, LONG).unwrap();
        assert_eq!(again.local_addr().unwrap(), port);
        assert!(pool.take(backend, LONG).is_none());
        drop(theirs);
        again.readable().await.unwrap();
        pool.give(backend, again, LONG);
        assert!(pool.take(backend, LONG).is_none(), "closed");
        let (ours, mut theirs) = pair(&listener).await;
        theirs.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
        ours.readable().await.unwrap();
        pool.give(backend, ours, LONG);
        assert!(pool.take(backend, LONG).is_none(), "spoken");
    }

    #[tokio::test]
    async fn no_more_are_kept_than_the_limit_and_none_longer_than_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = listener.local_addr().unwrap();
        let pool = Pool::new(1);
        let (one, _keep) = pair(&listener).await;
        let (two, _keep_too) = pair(&listener).await;
        pool.give(backend, one, LONG);
        pool.give(backend, two, LONG);
        assert!(pool.take(backend, LONG).is_some());
        let (three, _keep_three) = pair(&listener).await;
        pool.give(backend, three, LONG);
        assert!(pool.take(backend, Duration::ZERO).is_none(), "waited too long");
        assert!(pool.take(backend, LONG).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_waited_too_long_are_closed_without_being_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = listener.local_addr().unwrap();
        let pool = Pool::new(10);
        let (ours, mut theirs) = pair(&listener).await;
        pool.give(backend, ours, Duration::from_nanos(2));
        // The backend sees the end, which nothing but the sweep can have brought.
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(lock(&pool.idle).count, 0);
        assert!(!lock(&pool.idle).swept);
    }
}
