//! A terminal in raw mode for as long as a value lives.

use nix::errno::Errno;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Error;

/// Puts standard input's terminal back as it was when dropped.
struct RawTerminal {
    before: Termios,
}

/// Waits for a session's end, or for a signal that ends it, with the terminal raw (if there is one) until then: a signal must not leave it so.
///
/// # Errors
/// The terminal or the signals cannot be had; [`Error::Signalled`].
pub(super) async fn hold_terminal<T>(is_terminal: bool, session: impl Future<Output = T>) -> Result<T, Error> {
    let listen = |kind| signal(kind).map_err(Error::Signals);
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let _terminal = if is_terminal { Some(RawTerminal::enter().map_err(Error::Terminal)?) } else { None };
    tokio::select! {
        result = session => Ok(result),
        number = heard(&mut terminate, SignalKind::terminate()) => Err(Error::Signalled(number)),
        number = heard(&mut hang_up, SignalKind::hangup()) => Err(Error::Signalled(number)),
        number = heard(&mut interrupt, SignalKind::interrupt()) => Err(Error::Signalled(number)),
    }
}

/// The number of a signal, once it comes.
async fn heard(signal: &mut Signal, kind: SignalKind) -> u8 {
    signal.recv().await;
    u8::try_from(kind.as_raw_value()).unwrap_or_default()
}

impl RawTerminal {
    /// Every key goes to the guest, `^C` too.
    ///
    /// # Errors
    /// Standard input is no terminal, or refuses.
    fn enter() -> Result<Self, Errno> {
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing is left to do about a failure; the user's `reset` is the way out.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use nix::pty::openpty;
    use nix::sys::signal::{Signal, kill};
    use nix::sys::termios::LocalFlags;
    use nix::unistd::Pid;

    use super::*;

    /// Set in the process that the test below starts.
    const CHILD: &str = "VIRTCTL_RAW_TERMINAL_TEST";

    /// Not a test of its own: a console without a guest, in a process that is sent a signal.
    #[test]
    fn child() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime.block_on(hold_terminal(true, async {
            println!("\nraw");
            std::future::pending::<()>().await;
        }));
        let Err(Error::Signalled(number)) = ended else { return };
        std::process::exit(128 + i32::from(number));
    }

    #[test]
    fn a_signal_gives_the_terminal_back() {
        for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGINT, 130)] {
            let pty = openpty(None, None).unwrap();
            let before = tcgetattr(&pty.slave).unwrap();
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "verbs::console::raw_terminal::tests::child", "--nocapture"])
                .env(CHILD, "1")
                .stdin(pty.slave.try_clone().unwrap())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            assert!(lines.any(|line| line == "raw"));
            let is_cooked =
                || tcgetattr(&pty.slave).unwrap().local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO);
            assert!(!is_cooked(), "it is raw meanwhile");
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(status), "{signal}");
            assert!(is_cooked() && tcgetattr(&pty.slave).unwrap().local_flags == before.local_flags, "{signal}");
        }
    }
}
