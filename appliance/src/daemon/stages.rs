//! Groups of tasks that stop together.

use std::future::Future;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Tasks under one token.
#[derive(Default)]
pub(super) struct Stage {
    token: CancellationToken,
    tasks: JoinSet<&'static str>,
}

impl Stage {
    /// Starts a task that ends when its token is cancelled.
    pub(super) fn spawn<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let running = task(self.token.clone());
        self.tasks.spawn(async move {
            running.await;
            name
        });
    }

    /// Asks every task to end and waits for them.
    pub(super) async fn stop(mut self) {
        self.token.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                error!(%error, "a task failed while it was stopping");
            }
        }
    }

    /// Waits for a task that ends by itself.
    async fn first_to_end(&mut self) -> &'static str {
        match self.tasks.join_next().await {
            Some(Ok(name)) => name,
            Some(Err(error)) => {
                error!(%error, "a task failed");
                "(see above)"
            }
            None => std::future::pending().await,
        }
    }
}

/// All of them, in the order in which they stop.
#[derive(Default)]
pub(super) struct Stages {
    pub(super) writers: Stage,
    pub(super) data_path: Stage,
    pub(super) outward: Stage,
    pub(super) core: Stage,
    pub(super) admin: Stage,
}

impl Stages {
    /// Waits for a task that ends by itself, and names it.
    pub(super) async fn first_to_end(&mut self) -> &'static str {
        tokio::select! {
            name = self.writers.first_to_end() => name,
            name = self.data_path.first_to_end() => name,
            name = self.outward.first_to_end() => name,
            name = self.core.first_to_end() => name,
            name = self.admin.first_to_end() => name,
        }
    }
}
