//! Waiting for files where others do not have to wait too.

/// Runs file operations where they may wait.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Only a panic in `work` gets here, or the end of the runtime, and then nobody waits for the result.
        Err(error) => std::panic::resume_unwind(error.try_into_panic().unwrap_or_else(|e| Box::new(e))),
    }
}
