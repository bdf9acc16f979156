//! What a connection has asked so far, and when it has been silent for too long.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lobby::Guest;
use tokio::time::Instant;

/// How long a client may take for its first request, and for the rest of each.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection is kept that asks nothing more. API servers close theirs sooner.
const IDLE: Duration = Duration::from_mins(5);

/// One connection's requests.
#[derive(Debug)]
pub(super) struct Talk {
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// When something was asked or answered last.
    heard: Instant,
    in_flight: usize,
    has_answered: bool,
}

/// A request on its way to its answer.
pub(super) struct Asked<'t>(&'t Talk);

impl Talk {
    pub(super) fn begin() -> Self {
        Self { state: Mutex::new(State { heard: Instant::now(), in_flight: 0, has_answered: false }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request, which is answered when what this gives is dropped.
    pub(super) fn asked(&self) -> Asked<'_> {
        let mut state = self.state();
        state.heard = Instant::now();
        state.in_flight += 1;
        Asked(self)
    }

    /// Returns when the connection is not worth its place: a stranger that has not brought its request to an end, or anybody who asks nothing more.
    pub(super) async fn fallen_silent(&self, guest: &Guest) {
        loop {
            let State { heard, in_flight, has_answered } = *self.state();
            let patience = match (guest.has_left(), in_flight > 0 || !has_answered) {
                // The API server may wait for a console as long as its user does.
                (true, true) => None,
                (false, true) => Some(PATIENCE),
                (_, false) => Some(IDLE),
            };
            let now = Instant::now();
            match patience {
                Some(patience) if now >= heard + patience => return,
                Some(patience) => tokio::time::sleep_until((heard + patience).min(now + PATIENCE)).await,
                None => tokio::time::sleep(PATIENCE).await,
            }
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        *state = State { heard: Instant::now(), in_flight: state.in_flight.saturating_sub(1), has_answered: true };
    }
}

#[cfg(test)]
mod tests {
    use lobby::Lobby;

    use super::*;

    async fn silent_after(talk: &Talk, guest: &Guest) -> u64 {
        let begun = Instant::now();
        talk.fallen_silent(guest).await;
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_have_ten_seconds_for_each_request_and_everybody_five_minutes_between_them() {
        let lobby = Lobby::new(4);
        let (stranger, known) = (lobby.enter(), lobby.enter());
        known.leave();
        assert_eq!(silent_after(&Talk::begin(), &stranger).await, 10);
        let talk = Talk::begin();
        let asked = talk.asked();
        assert_eq!(silent_after(&talk, &stranger).await, 10, "it does not end its request");
        let waits = tokio::time::timeout(Duration::from_hours(1), talk.fallen_silent(&known)).await;
        assert!(waits.is_err(), "the API server waits for its answer");
        drop(asked);
        assert_eq!(silent_after(&talk, &stranger).await, 300);
        let talk = Talk::begin();
        drop(talk.asked());
        assert_eq!(silent_after(&talk, &known).await, 300);
    }
}
