//! The programs that `make kube-assets` builds.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::programs::repository;

/// Names the folder of the programs, where it is not `target/kube-assets`.
const FOLDER_VARIABLE: &str = "OVM_KUBE_ASSETS";

/// A part of Kubernetes by name: `etcd`, `kube-apiserver`, `kubectl`, ...
///
/// # Errors
/// When it is not built; the message says how.
pub fn asset(name: &str) -> Result<PathBuf> {
    let folder =
        std::env::var_os(FOLDER_VARIABLE).map_or_else(|| repository().join("target/kube-assets"), PathBuf::from);
    let path = folder.join(name);
    ensure!(path.is_file(), "{} is not built; run `make kube-assets`", path.display());
    Ok(path)
}

/// Why no real Kubernetes can be had here; `None` if it can.
pub fn why_unavailable() -> Option<String> {
    asset("kube-apiserver").err().map(|error| error.to_string())
}
