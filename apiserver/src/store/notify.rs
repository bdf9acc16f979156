//! Tells watches that a resource they watch has changed.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// One channel per watched resource, so that a lease's renewal wakes nobody but those who watch leases.
pub(super) struct Notifier {
    version: AtomicU64,
    channels: Mutex<HashMap<String, watch::Sender<u64>>>,
}

impl Notifier {
    pub(super) fn new(version: u64) -> Self {
        Self { version: AtomicU64::new(version), channels: Mutex::default() }
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn subscribe(&self, resource: &str) -> watch::Receiver<u64> {
        let mut channels = self.channels.lock().expect("no holder panics");
        channels.entry(resource.to_owned()).or_insert_with(|| watch::Sender::new(self.version())).subscribe()
    }

    /// Called by the writer after a commit.
    pub(super) fn announce<'a>(&self, version: u64, resources: impl Iterator<Item = &'a str>) {
        self.version.store(version, Ordering::Release);
        let channels = self.channels.lock().expect("no holder panics");
        for resource in resources {
            if let Some(channel) = channels.get(resource) {
                channel.send_replace(version);
            }
        }
    }
}
