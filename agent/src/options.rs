//! What an agent is told at its start.

use std::path::PathBuf;

use plan::node::Emulation;

use crate::images::PullSettings;
use crate::metrics::Telemetry;
use crate::registry::DEFAULT_REGISTRIES_DIR;
use crate::stream::StreamAddress;

/// What an agent is told at its start.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Name of its Node.
    pub node_name: String,
    /// The libvirt that it manages, such as `qemu:///system`.
    pub libvirt_uri: String,
    /// Directory of its state: journal, images, disks.
    pub data_dir: PathBuf,
    /// Whether guests may be emulated.
    pub emulation: Emulation,
    /// The agent makes its Node and keeps it Ready: there is no kubelet.
    pub register_node: bool,
    /// The start waits for libvirt, and for an API server that has not named the installation yet, for as long as it takes. Otherwise it fails: whoever started
    /// the agent by hand is to see why.
    pub waits: bool,
    /// Where the host's processes are shown.
    pub proc_dir: PathBuf,
    /// Directory of the lock that keeps a second agent from the same libvirt.
    pub lock_dir: PathBuf,
    /// Folder through which the agent is told of the host's shutdown.
    pub run_dir: PathBuf,
    /// Where consoles are served to the controller; nowhere without it.
    pub streams: Option<StreamAddress>,
    /// Where PersistentVolumes may be on this node: directories and block devices.
    pub volume_roots: Vec<PathBuf>,
    /// How images are pulled, and how much room they get.
    pub images: ImageOptions,
    /// What it counts and says of its health.
    pub telemetry: Telemetry,
}

/// How images are pulled, and how much room they get.
#[derive(Clone, Debug)]
pub struct ImageOptions {
    /// Where registries are configured, and how large a disk may be.
    pub pull: PullSettings,
    /// Bytes that the store may hold; none for as many as the file system has.
    pub store_limit_bytes: Option<u64>,
}

impl Default for ImageOptions {
    fn default() -> Self {
        let registries_dir = DEFAULT_REGISTRIES_DIR.into();
        let pull = PullSettings { registries_dir, limit_bytes: PullSettings::DEFAULT_LIMIT_BYTES };
        Self { pull, store_limit_bytes: None }
    }
}

impl AgentOptions {
    /// The libvirt that a host has.
    pub const DEFAULT_LIBVIRT_URI: &str = "qemu:///system";
    /// Where a host shows its processes.
    pub const DEFAULT_PROC_DIR: &str = "/proc";
    /// Where locks of a host are.
    pub const DEFAULT_LOCK_DIR: &str = "/run/lock";
    /// Where a host tells its agents of its shutdown.
    pub const DEFAULT_RUN_DIR: &str = "/run/ovm";

    /// The options of an ordinary host.
    pub fn new(node_name: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            node_name: node_name.into(),
            libvirt_uri: Self::DEFAULT_LIBVIRT_URI.to_owned(),
            data_dir: data_dir.into(),
            emulation: Emulation::default(),
            register_node: false,
            waits: false,
            proc_dir: Self::DEFAULT_PROC_DIR.into(),
            lock_dir: Self::DEFAULT_LOCK_DIR.into(),
            run_dir: Self::DEFAULT_RUN_DIR.into(),
            streams: None,
            volume_roots: Vec::new(),
            images: ImageOptions::default(),
            telemetry: Telemetry::default(),
        }
    }
}
