//! Every decision, pure: cluster, node, and the simulation of both.
//!
//! `fn plan(now, &desired, &observed) -> Plan`: synchronous, total, deterministic. No clock, no randomness, no I/O; a bad world is a
//! reason in the report, not an error.
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

pub mod cluster;
pub mod node;
pub mod sharing;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
