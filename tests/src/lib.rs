//! End-to-end suites, and the harness that starts real servers for them.
//!
//! - [`stack`]: everything that one scenario needs, started for it and ended with it
//! - [`boot_sector`]: guests of 512 bytes
//! - [`libvirtd`]: a libvirtd for one test, apart from the host's
//! - [`small_disk`]: a file system that is soon full
//! - [`registry`]: image registries, and images for them
//! - [`scenario`]: one scenario, both APIs
//! - [`server`]: our programs as child processes, [`standalone`] in one or [`separate`] on a real API
//! - [`nodes`]: several nodes on a real API
//! - [`kube`]: a real Kubernetes
//! - [`host`]: a Debian host with systemd, and our packages on it
//! - [`client`], [`console`], [`watch`]: kubectl and virtctl as a user runs them
//! - [`guide`]: what the user guide shows
//! - [`certificates`]: those of joined agents
//! - [`machines`]: manifests of small machines
//! - [`seen`]: a guest that prints what it sees of its machine
//! - [`ports`]: a port for a server that must be told one
//! - [`programs`]: where the programs are, and how they are run
//! - [`wait`]: waiting for a state with a deadline
//!
//! The harness knows the project's programs only from outside: it starts the binaries and depends on none of their crates.

pub mod boot_sector;
pub mod certificates;
mod cgroups;
pub mod client;
pub mod console;
pub mod guide;
pub mod host;
pub mod kube;
pub mod libvirtd;
pub mod machines;
pub mod nodes;
pub mod ports;
pub mod programs;
pub mod registry;
pub mod scenario;
pub mod seen;
pub mod separate;
pub mod server;
pub mod small_disk;
pub mod stack;
pub mod standalone;
pub mod wait;
pub mod watch;
