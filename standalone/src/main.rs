//! API server, controller and agent in one process on one host.

fn main() {}
