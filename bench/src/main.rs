//! What make bench runs.

fn main() {}
