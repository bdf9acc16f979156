//! The `kubevirt.io/v1alpha1` kinds: wire types, defaults, admission rules, and the names of labels, annotations and events.
//!
//! Pure: no client, no async, no I/O. Clients written for KubeVirt v0.5.0 must work against these types unchanged.

pub mod abi;
pub mod admission;
pub mod crd;
mod error_chain;
pub mod join;
pub mod names;
pub mod quantity;
pub mod subresources;
pub mod v1alpha1;
pub mod validated;

pub use error_chain::chain;
pub use quantity::Quantity;
