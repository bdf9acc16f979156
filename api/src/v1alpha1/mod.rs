//! Wire types of `kubevirt.io/v1alpha1`. Every field is optional on the wire unless the schema requires it; defaults that need context
//! are computed when a guest is rendered, never written back.

mod abi;
mod clock;
mod domain;
mod features;
mod offline_virtual_machine;
mod storage;
mod virtual_machine;

pub use abi::*;
pub use clock::*;
pub use domain::*;
pub use features::*;
pub use offline_virtual_machine::*;
pub use storage::*;
pub use virtual_machine::*;
