//! `virtctl`: the command line for virtual machines.

fn main() {}
