//! Where connections are until they have shown who they are.
//!
//! Whoever reaches a port can open connections to it and say nothing. A bound that makes newcomers wait lets such peers keep everybody out; here the
//! newcomer gets the seat of whoever has been silent the longest. An honest peer needs its seat for the milliseconds of a handshake, so strangers would have
//! to take all seats within that time.
//!
//! ```text
//! accept -> enter -> [touch ...] -> leave: it is known, and stays as long as it likes
//!                       └-> shown_out: somebody newer needs the seat
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// A number of seats.
#[derive(Debug)]
pub struct Lobby {
    seats: usize,
    next: AtomicU64,
    /// Guests by number; whoever was heard of last is at the end.
    seated: Mutex<VecDeque<(u64, CancellationToken)>>,
}

/// One connection's seat, given back when this is dropped.
pub struct Guest {
    lobby: Arc<Lobby>,
    number: u64,
    out: CancellationToken,
    has_left: AtomicBool,
}

impl Lobby {
    /// A lobby of at least one seat.
    pub fn new(seats: usize) -> Arc<Self> {
        Arc::new(Self { seats: seats.max(1), next: AtomicU64::new(0), seated: Mutex::default() })
    }

    /// Seats a newcomer; shows out whoever has been silent the longest, if there is no seat left.
    pub fn enter(self: &Arc<Self>) -> Guest {
        let (number, out) = (self.next.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        let mut seated = self.seated();
        if seated.len() >= self.seats
            && let Some((_, silent)) = seated.pop_front()
        {
            silent.cancel();
        }
        seated.push_back((number, out.clone()));
        drop(seated);
        Guest { lobby: Arc::clone(self), number, out, has_left: AtomicBool::new(false) }
    }

    fn seated(&self) -> MutexGuard<'_, VecDeque<(u64, CancellationToken)>> {
        // What is in it is whole between any two statements.
        self.seated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_out(seated: &mut VecDeque<(u64, CancellationToken)>, number: u64) -> Option<(u64, CancellationToken)> {
    let index = seated.iter().position(|(seated, _)| *seated == number)?;
    seated.remove(index)
}

impl Guest {
    /// Returns when somebody newer needs the seat; never, once the guest has left.
    pub async fn shown_out(&self) {
        self.out.cancelled().await;
    }

    /// The guest was heard of: others go first now.
    pub fn touch(&self) {
        // Held over both: a newcomer in between would take the seat for a free one.
        let mut seated = self.lobby.seated();
        if let Some(seat) = take_out(&mut seated, self.number) {
            seated.push_back(seat);
        }
    }

    /// The guest is known: it needs no seat any more.
    pub fn leave(&self) {
        self.has_left.store(true, Ordering::Relaxed);
        drop(take_out(&mut self.lobby.seated(), self.number));
    }

    /// Whether the guest is known.
    pub fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Relaxed)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(take_out(&mut self.lobby.seated(), self.number));
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest")
            .field("number", &self.number)
            .field("has_left", &self.has_left())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_out(guest: &Guest) -> bool {
        guest.out.is_cancelled()
    }

    #[tokio::test]
    async fn the_silent_make_room_and_the_known_do_not() {
        let lobby = Lobby::new(2);
        let (known, silent) = (lobby.enter(), lobby.enter());
        known.leave();
        let speaker = lobby.enter();
        assert!(!is_out(&silent), "who left has no seat");
        silent.touch();
        let newcomer = lobby.enter();
        speaker.shown_out().await;
        assert!(!is_out(&silent) && !is_out(&newcomer) && !is_out(&known) && known.has_left());
        drop(silent);
        let last = lobby.enter();
        assert!(!is_out(&newcomer) && !is_out(&last), "who is gone has given its seat back");
        speaker.touch();
        assert_eq!(lobby.seated().len(), 2, "who is out gets no seat by speaking");
    }

    #[test]
    fn there_are_no_more_seats_while_somebody_speaks() {
        for round in 0..300 {
            let lobby = Lobby::new(2);
            let speaker = lobby.enter();
            let speaks = AtomicBool::new(true);
            let newcomers: Vec<Guest> = std::thread::scope(|scope| {
                scope.spawn(|| {
                    while speaks.load(Ordering::Relaxed) {
                        speaker.touch();
                    }
                });
                let newcomers = (0..200).map(|_| lobby.enter()).collect();
                speaks.store(false, Ordering::Relaxed);
                newcomers
            });
            let seated = newcomers.iter().chain([&speaker]).filter(|guest| !is_out(guest)).count();
            assert_eq!(seated, 2, "in round {round}");
        }
    }
}
