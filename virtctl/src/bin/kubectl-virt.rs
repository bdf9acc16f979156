//! `kubectl-virt`: virtctl as a kubectl plugin (`kubectl virt`).

use std::process::ExitCode;

fn main() -> ExitCode {
    virtctl::main("kubectl virt")
}
