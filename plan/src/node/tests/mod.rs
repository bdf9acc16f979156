//! The planner against tables of worlds, rule by rule, and against random ones.

mod fixture;
mod lifecycle;
mod properties;
mod start;
mod stop;
