//! A real Kubernetes for tests, built by `make kube-assets`.
//!
//! - [`ControlPlane`]: etcd, kube-apiserver and kube-controller-manager on the loopback, in four seconds; as many side by side as the memory bears
//!
//! Where the parts are not built, [`why_unavailable`] says so, and a test that needs them is skipped by name.

mod assets;
mod authority;
mod control_plane;
mod directory;
mod servers;

pub use assets::{asset, why_unavailable};
pub use authority::{Authority, Certificate};
pub use control_plane::{ControlPlane, Settings};
