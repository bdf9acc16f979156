//! Threads for blocking work: they come with the work and go when there is none.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// How long an idle thread waits for more work before it ends.
const IDLE_THREAD: Duration = Duration::from_secs(10);

/// A bounded set of threads. Work beyond the bound waits for its turn.
#[derive(Debug)]
pub(crate) struct Threads {
    /// Never driven: it is used for its pool of blocking threads alone. `None` only while dropping.
    pool: Option<Runtime>,
}

impl Threads {
    /// No thread yet, and never more than `limit`.
    ///
    /// # Errors
    /// When the system refuses what a runtime needs, such as file descriptors.
    pub(crate) fn new(name: &str, limit: usize) -> io::Result<Self> {
        let pool = Builder::new_current_thread()
            .thread_name(name)
            .max_blocking_threads(limit)
            .thread_keep_alive(IDLE_THREAD)
            .build()?;
        Ok(Self { pool: Some(pool) })
    }

    /// Runs `work` on one of the threads, and does not wait for it.
    pub(crate) fn run<F: FnOnce() + Send + 'static>(&self, work: F) {
        if let Some(pool) = &self.pool {
            pool.spawn_blocking(work);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            // Waiting for a hanging thread could take for ever, and is forbidden in async code.
            pool.shutdown_background();
        }
    }
}
