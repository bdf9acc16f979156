//! End-to-end suites, and the harness that starts real servers for them.
//!
//! - [`libvirtd`]: a libvirtd for one test, apart from the host's
//! - [`wait`]: waiting for a state with a deadline
//!
//! The harness knows the project's programs only from outside: it starts the binaries and depends on none of their crates.

pub mod libvirtd;
pub mod wait;
