//! libvirt's event loop: one thread for the life of the process, because libvirt's own registration is for the life of the process too.

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use super::error::Failure;

/// How long to wait after a failed turn of the loop, so that a lasting failure does not eat a CPU.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// Registers and starts the loop, once. Must come before the first connection: a connection opened earlier has neither events nor keepalive.
///
/// # Errors
/// When libvirt refuses the registration, or there is no thread to be had.
pub(super) fn start_if_needed() -> Result<(), Failure> {
    static STARTED: OnceLock<Result<(), Failure>> = OnceLock::new();
    STARTED.get_or_init(start).clone()
}

fn start() -> Result<(), Failure> {
    // libvirt's default is to print every error to stderr, which is our log.
    virt::error::clear_error_callback();
    virt::event::event_register_default_impl()?;
    thread::Builder::new()
        .name("libvirt-events".to_owned())
        .spawn(run)
        .map_err(|error| Failure::internal(format!("no thread for libvirt's events: {error}")))?;
    Ok(())
}

/// Sleeps in libvirt until there is something to do. No timer is needed to wake it: registering a descriptor or a timer does.
fn run() {
    loop {
        if let Err(error) = virt::event::event_run_default_impl() {
            tracing::warn!(error = error.message(), "libvirt's event loop failed");
            thread::sleep(AFTER_FAILURE);
        }
    }
}
