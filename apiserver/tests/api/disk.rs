//! A full disk: writes fail with a clear message, reads go on, and all is well once there is space.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use apiserver::ApiServer;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Server, WIDGETS, options, widget};

/// A small file system of its own.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// `None`, said loudly, where this user may not mount.
    fn mount(path: &'a Path) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(path).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(path));
        }
        eprintln!("SKIPPED a_full_disk_refuses_writes_and_nothing_else: cannot mount a tmpfs");
        None
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_nothing_else() {
    let directory = Arc::new(TempDir::new().unwrap());
    let data = directory.path().join("data");
    let Some(_disk) = SmallDisk::mount(&data) else { return };
    let server = Server { api: ApiServer::open(options(&directory)).await.unwrap(), directory: Arc::clone(&directory) };
    server.create(WIDGETS, &widget("before", 1)).await;
    let ballast = data.join("ballast");
    let mut size = 2 << 20;
    while size > 0 {
        // Shrinking chunks, until not a page is left.
        let mut bytes = std::fs::read(&ballast).unwrap_or_default();
        bytes.resize(bytes.len() + size, 1);
        if std::fs::write(&ballast, &bytes).is_err() {
            std::fs::write(&ballast, &bytes[..bytes.len() - size]).unwrap_or_default();
            size /= 2;
        }
    }
    let mut big = widget("big", 1);
    big["spec"]["parts"] = json!(vec!["x".repeat(1000); 100]);
    let (code, status) = server.post(WIDGETS, &big).await;
    assert_eq!((code, &status["reason"]), (507, &json!("InsufficientStorage")), "{status}");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains(data.canonicalize().unwrap().to_str().unwrap()), "{message}");
    assert_eq!(server.get(&format!("{WIDGETS}/big")).await.0, 404);
    assert_eq!(server.get(&format!("{WIDGETS}/before")).await.0, 200, "reads go on");
    std::fs::remove_file(&ballast).unwrap();
    server.create(WIDGETS, &big).await;
    server.api.shutdown().await;
}
