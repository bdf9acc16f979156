//! A real Kubernetes for tests, built by `make kube-assets`.
//!
//! - [`ControlPlane`]: etcd, kube-apiserver and kube-controller-manager on the loopback, in four seconds; as many side by side as the memory bears
//! - [`Cluster`]: a control plane and nodes with containerd, kubelet, kube-proxy and libvirtd, all in namespaces of their own
//!
//! Where the parts are not built, [`why_unavailable`] says so, and a test that needs them is skipped by name.

mod assets;
mod authority;
mod cluster;
mod control_plane;
mod directory;
mod installation;
mod node;
mod pool;
mod room;
mod servers;

pub use assets::{asset, why_unavailable};
pub use authority::{Authority, Certificate};
pub use cluster::{Cluster, why_no_cluster};
pub use control_plane::{ControlPlane, Settings};
pub use installation::install_with_controller;
pub(crate) use installation::wait_until_served;
pub use node::Node;
pub use pool::SharedApi;
pub(crate) use pool::{Accounts, NODE, is_given, why_no_shared_api};
pub(crate) use room::{Room, enter};
pub use servers::{Server, Servers};
