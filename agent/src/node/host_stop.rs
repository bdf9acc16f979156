//! The host's shutdown, as `ovm-agent stop-guests` announces it to the agent.
//!
//! ```text
//! stop-guests:  file `stopping` ──► lock on `starts`, exclusive ──► guests are stopped
//! agent:        lock on `starts`, shared ──► sees the file: schedulable=false ──► starts under way end ──► lock let go
//! ```
//! So nothing is started after the guests were listed, whatever the agent was at. Without the folder, which the package makes for each boot, there is no
//! announcement and no lock.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tracing::{info, warn};

/// The announcement. It is gone at the next boot.
pub(crate) const MARKER: &str = "stopping";
/// What agents lock for as long as they may start guests.
pub(crate) const STARTS: &str = "starts";

/// What the agent knows of it.
#[derive(Debug)]
pub(crate) struct HostStop {
    folder: PathBuf,
    lock: Mutex<Option<Arc<File>>>,
}

/// Held while a guest is started. It keeps the host from listing its guests meanwhile.
#[derive(Debug)]
pub(crate) struct StartPermit {
    _lock: Option<Arc<File>>,
}

impl HostStop {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, lock: Mutex::default() }
    }

    /// Whether the host is shutting down.
    pub(crate) fn is_announced(&self) -> bool {
        self.folder.join(MARKER).exists()
    }

    /// The right to start a guest now; none when the host is shutting down.
    pub(crate) fn permit(&self) -> Option<StartPermit> {
        let mut kept = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = kept.clone().or_else(|| lock_shared(&self.folder));
        // After the lock, which who announces takes exclusively after that. A lock that came too late is not kept: the host would wait for it.
        if self.is_announced() {
            return None;
        }
        kept.clone_from(&lock);
        Some(StartPermit { _lock: lock })
    }

    /// The host may go on once the starts under way have ended.
    pub(crate) fn let_go(&self) {
        if self.lock.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            info!("the host shuts down: this node takes no more guests");
        }
    }

    /// Waits until the folder changes.
    pub(crate) async fn changed(&self) {
        match watch(&self.folder) {
            Ok(watched) => match watched.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(error) => {
                    warn!(%error, "cannot watch for the host's shutdown");
                    std::future::pending::<()>().await;
                }
            },
            // No folder, no announcement.
            Err(_) => std::future::pending().await,
        }
    }
}

fn watch(folder: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(folder, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE)?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe; what it warns of, a descriptor that is closed elsewhere, an OwnedFd is not"
    )]
    AsyncFd::new(OwnedFd::from(inotify))
}

fn lock_shared(folder: &Path) -> Option<Arc<File>> {
    let file = File::open(folder.join(STARTS)).ok()?;
    file.try_lock_shared().ok()?;
    Some(Arc::new(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_started_once_the_host_shuts_down_and_a_start_under_way_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let starts = File::create(folder.path().join(STARTS)).unwrap();
        let host = HostStop::new(folder.path().to_owned());
        let under_way = host.permit().unwrap();
        std::fs::write(folder.path().join(MARKER), "").unwrap();
        assert!(host.permit().is_none());
        host.let_go();
        assert!(starts.try_lock().is_err(), "a start is under way");
        drop(under_way);
        assert!(host.permit().is_none());
        starts.try_lock().expect("who was refused holds nothing");
    }

    #[test]
    fn without_the_folder_guests_are_started() {
        assert!(HostStop::new("/nonexistent".into()).permit().is_some());
    }
}
