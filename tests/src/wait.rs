//! Waiting for a state, with a deadline: what a test does in place of a sleep.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Between two looks. Short, because most waits are for something that takes milliseconds.
const PAUSE: Duration = Duration::from_millis(25);

/// Tries `look` until it succeeds, and returns what it returned.
///
/// # Errors
/// When the deadline passes: the last error of `look`, with `what` was waited for.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= deadline => {
                return Err(error).with_context(|| format!("waited {} s in vain until {what}", deadline.as_secs()));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_wait_returns_the_first_success() {
        let mut looks = 0;
        let value = wait_for("the third look", Duration::from_secs(5), || {
            looks += 1;
            if looks < 3 {
                bail!("not yet")
            }
            Ok(looks)
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn a_wait_past_its_deadline_says_what_it_waited_for_and_why() {
        let error = wait_for::<()>("pigs fly", Duration::ZERO, || bail!("no wings")).unwrap_err();
        assert_eq!(format!("{error:#}"), "waited 0 s in vain until pigs fly: no wings");
    }
}
