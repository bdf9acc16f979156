//! A real Kubernetes for tests, built by `make kube-assets`.
//!
//! - [`ControlPlane`]: etcd, kube-apiserver and kube-controller-manager on the loopback, in four seconds; as many side by side as the memory bears
//!
//! Where the parts are not built, [`why_unavailable`] says so, and a test that needs them is skipped by name.

mod assets;
mod authority;
mod control_plane;
mod directory;
mod pool;
mod servers;

pub use assets::{asset, why_unavailable};
pub use authority::{Authority, Certificate};
pub use control_plane::{ControlPlane, Settings};
pub use pool::{NODE, SharedApi, why_no_shared_api};
pub(crate) use servers::{Server, Servers};
