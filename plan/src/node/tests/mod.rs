//! The planner against tables of worlds, rule by rule, and against random ones.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test names the one answer that it expects")]
#![expect(clippy::indexing_slicing, reason = "a test that indexes past the end fails, as it should")]

mod fixture;
mod images;
mod lifecycle;
mod properties;
mod start;
mod stop;
