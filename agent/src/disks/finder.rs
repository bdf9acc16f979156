//! Looks for PersistentVolumes on file systems that may not answer, such as one of a server that is away: who waits for it is told so, and can be deleted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::blocking::blocking;
use crate::volumes::{FindError, VolumeDisk, VolumeRoots};

/// A file system that answers does so at once.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// Volume roots, and who waits for them: one thread for each path, however often it is asked for.
#[derive(Debug)]
pub(super) struct Finder {
    roots: VolumeRoots,
    deadline: Duration,
    turns: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

impl Finder {
    pub(super) fn new(roots: VolumeRoots, deadline: Duration) -> Self {
        Self { roots, deadline, turns: Mutex::default() }
    }

    /// The disk of the volume at `path`.
    ///
    /// # Errors
    /// As [`VolumeRoots::find`], or if there is no answer in time.
    pub(super) async fn find(&self, path: &str) -> Result<VolumeDisk, FindError> {
        let (roots, sought) = (self.roots.clone(), path.to_owned());
        let found = self.in_turn(path, move || roots.find(&sought)).await;
        found.unwrap_or_else(|| Err(FindError::Silent { path: path.to_owned() }))
    }

    /// The roots, with links resolved: those that are there, and whose file systems answer.
    pub(super) async fn resolved(&self) -> Vec<PathBuf> {
        let looks = self.roots.paths().iter().map(|root| async move {
            let sought = root.clone();
            self.in_turn(&root.to_string_lossy(), move || sought.canonicalize().ok()).await
        });
        join_all(looks).await.into_iter().flatten().flatten().collect()
    }

    /// None: there is no answer in time.
    async fn in_turn<T: Send + 'static>(&self, path: &str, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let turns = {
            let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, turns| Arc::strong_count(turns) > 1);
            Arc::clone(all.entry(path.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        let answer = async {
            let turn = turns.acquire_owned().await.ok()?;
            let look = move || {
                let _until_it_answers = turn;
                look()
            };
            Some(blocking(look).await)
        };
        timeout(self.deadline, answer).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostfs::silent_mount::SilentMount;

    /// Too short for none that works.
    const SOON: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn a_file_system_that_does_not_answer_is_told_and_costs_one_thread_a_path() {
        let directory = tempfile::tempdir().unwrap();
        let (silent, good) = (directory.path().join("silent"), directory.path().join("good"));
        for root in [&silent, &good] {
            std::fs::create_dir(root).unwrap();
        }
        std::fs::write(good.join("disk.img"), [0; 512]).unwrap();
        let Some(_silent) = SilentMount::at(&silent) else { return };
        let finder = Finder::new(VolumeRoots::new(&[silent.join("root"), good.clone()]).unwrap(), SOON);
        let volume = silent.join("root/volume");
        for _ in 0..3 {
            let error = finder.find(volume.to_str().unwrap()).await.unwrap_err();
            assert!(error.to_string().contains("does not answer"), "{error}");
        }
        assert!(finder.find(good.to_str().unwrap()).await.is_ok(), "others are not concerned");
        assert_eq!(finder.resolved().await, [good.canonicalize().unwrap()]);
        let waits = finder.turns.lock().unwrap().values().filter(|turns| Arc::strong_count(turns) > 1).count();
        assert_eq!(waits, 2, "one thread for the volume, and one for its root");
    }
}
