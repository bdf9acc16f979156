//! Scenarios over HTTP against the server, as its clients see it: in process, through TLS, and through real kubectl.

#![expect(clippy::unwrap_used, reason = "a scenario that cannot go on fails by panicking")]

mod access;
mod crash;
mod crud;
mod disk;
mod gc;
mod harness;
mod kube_client;
mod kubectl;
mod namespaces;
mod patches;
mod start;
mod transport;
mod watches;
