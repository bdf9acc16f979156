//! Where log lines go: with their fields into the journal where standard error is the journal's, else as text to standard error.

use std::env;
use std::io::{IsTerminal as _, stderr};
use std::os::fd::AsFd as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

use crate::journal::Journal;

/// Set by systemd on what it connects to the journal: device and inode of the stream.
/// <https://www.freedesktop.org/software/systemd/man/252/systemd.exec.html#%24JOURNAL_STREAM>
const STREAM_VARIABLE: &str = "JOURNAL_STREAM";

/// Sets the process's log up, for all its life. `show_target`: whether text names the module that speaks; the journal's field `TARGET` always does.
pub fn start(filter: EnvFilter, show_target: bool) {
    let registry = Registry::default().with(filter);
    if is_journal()
        && let Ok(journal) = Journal::open()
    {
        registry.with(journal).init();
        return;
    }
    let text =
        tracing_subscriber::fmt::layer().with_ansi(stderr().is_terminal()).with_writer(stderr).with_target(show_target);
    registry.with(text).init();
}

/// Whether standard error is the stream that systemd connected to the journal: what was redirected since stays where it was sent.
fn is_journal() -> bool {
    let Ok(stream) = env::var(STREAM_VARIABLE) else { return false };
    nix::sys::stat::fstat(stderr().as_fd()).is_ok_and(|file| is_stream(&stream, file.st_dev, file.st_ino))
}

fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_stream_is_the_journal() {
        assert!(is_stream("8:4711", 8, 4711));
        for other in ["8:4712", "9:4711", "8", "", "8:x"] {
            assert!(!is_stream(other, 8, 4711), "{other}");
        }
    }
}
