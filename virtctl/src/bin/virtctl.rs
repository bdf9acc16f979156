//! `virtctl`: the command line for virtual machines.

use std::process::ExitCode;

fn main() -> ExitCode {
    virtctl::main("virtctl")
}
