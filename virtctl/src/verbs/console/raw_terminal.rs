//! A terminal in raw mode for as long as a value lives.

use nix::errno::Errno;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Puts standard input's terminal back as it was when dropped.
pub(super) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Every key goes to the guest, `^C` too.
    ///
    /// # Errors
    /// Standard input is no terminal, or refuses.
    pub(super) fn enter() -> Result<Self, Errno> {
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
