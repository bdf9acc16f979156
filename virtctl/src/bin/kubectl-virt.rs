//! `kubectl-virt`: virtctl as a kubectl plugin (`kubectl virt`).

fn main() {}
