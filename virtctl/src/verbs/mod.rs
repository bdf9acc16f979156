//! One file a verb.

pub(crate) mod abi;
pub(crate) mod completion;
pub(crate) mod console;
pub(crate) mod drain;
pub(crate) mod restart;
mod running;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod token;
pub(crate) mod version;
pub(crate) mod vnc;
