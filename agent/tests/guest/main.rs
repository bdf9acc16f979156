//! The agent against a real libvirtd and QEMU, with guests of 512 bytes and an API server in this process.

mod lifecycle;
mod world;
