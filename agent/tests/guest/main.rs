//! The agent against a real libvirtd and QEMU, with guests of 512 bytes and an API server in this process.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod faults;
mod lifecycle;
mod orphans;
mod world;
