//! Runs `qemu-img create`. It writes headers alone: no image is opened, and no byte of one is read.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use domain_xml::LayerKind;
use tokio::process::Command;

use crate::images::DiskFormat;

/// It takes about 6 ms; a file system that hangs must not hang the guest's worker.
const DEADLINE: Duration = Duration::from_secs(30);
/// More of an error message helps nobody.
const MAX_MESSAGE_BYTES: usize = 500;

/// The file that a qcow2 file stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackingFile {
    /// Absolute path.
    pub(super) path: PathBuf,
    /// Its recorded format.
    pub(super) format: DiskFormat,
    /// Whether it is a file.
    pub(super) kind: LayerKind,
}

/// Why `qemu-img` made no file.
#[derive(Debug, thiserror::Error)]
pub enum QemuImgError {
    /// It cannot be run.
    #[error("run qemu-img, from Debian's package qemu-utils")]
    Run(#[source] std::io::Error),
    /// It takes too long.
    #[error("qemu-img create did not end within {} seconds", DEADLINE.as_secs())]
    Deadline,
    /// It failed.
    #[error("qemu-img create: {0}")]
    Failed(String),
}

impl QemuImgError {
    /// Whether the file system is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Failed(message) if message.contains("No space left on device") || message.contains("Disk quota exceeded"))
    }
}

/// Makes the qcow2 file `path`, of `virtual_bytes` bytes, on top of `backing` if that is given.
/// Both paths are absolute, so that none reads as an option or as a protocol.
///
/// # Errors
/// If `qemu-img` cannot be run, fails, or takes too long.
pub(super) async fn create_qcow2(
    path: &Path,
    virtual_bytes: u64,
    backing: Option<&BackingFile>,
) -> Result<(), QemuImgError> {
    let mut command = Command::new("qemu-img");
    // -u: the backing file's size and format are on record; it is not opened.
    command.args(["create", "-q", "-u", "-f", "qcow2"]);
    if let Some(backing) = backing {
        command.arg("-b").arg(&backing.path).args(["-F", backing.format.as_str()]);
    }
    command.arg(path).arg(virtual_bytes.to_string());
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let ended = tokio::time::timeout(DEADLINE, command.output()).await.map_err(|_| QemuImgError::Deadline)?;
    let output = ended.map_err(QemuImgError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let message = message.trim().strip_prefix("qemu-img: ").unwrap_or(message.trim());
    let cut = message.floor_char_boundary(MAX_MESSAGE_BYTES);
    let message = if message.is_empty() { output.status.to_string() } else { message[..cut].replace('\n', "; ") };
    Err(QemuImgError::Failed(message))
}
