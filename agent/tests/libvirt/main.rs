//! The libvirt module against real libvirts: the test driver in our own process, a private libvirtd, and QEMU below one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod connection;
mod console;
mod lifecycle;
mod support;
mod test_driver;
