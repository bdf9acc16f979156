//! The escape sequence of an interactive console: `^]`, as telnet has it.

/// Control-] as a terminal in raw mode sends it.
const ESCAPE: u8 = 0x1d;

/// What of `typed` goes to the guest, and whether the user asked to leave. Input that is not `interactive` may hold any byte, and is passed
/// on as it is.
pub(super) fn split(typed: &[u8], interactive: bool) -> (&[u8], bool) {
    match typed.iter().position(|byte| interactive && *byte == ESCAPE) {
        Some(end) => (typed.get(..end).unwrap_or_default(), true),
        None => (typed, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_before_the_escape_still_goes_out() {
        assert_eq!(split(b"ls\r\x1dmore", true), (&b"ls\r"[..], true));
        assert_eq!(split(b"ls\r", true), (&b"ls\r"[..], false));
    }

    #[test]
    fn piped_input_is_passed_as_it_is() {
        assert_eq!(split(b"a\x1db", false), (&b"a\x1db"[..], false));
    }
}
