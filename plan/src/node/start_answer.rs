//! S6: what a start call leaves in the journal.

/// How a start call came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAnswer {
    /// It was not made: what allowed it does not hold any more.
    NotMade,
    /// libvirt has started the domain.
    Started,
    /// libvirt says that the domain is not off.
    NotOff,
    /// libvirt refused it for another reason, or it was never sent.
    Refused,
    /// Nobody knows, and it may still take effect.
    Unknown,
}

/// What becomes of the start's entry in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartNote {
    /// Nothing of the call can take effect any more.
    Settle,
    /// The entry goes: the guest has never run, and is started again.
    Forget,
    /// It stays as it is, until the start is settled.
    Keep,
}

/// Decides it. `runs`: the domain was seen to run after the call.
pub fn note_of_start(answer: StartAnswer, runs: bool) -> StartNote {
    match answer {
        StartAnswer::Unknown => StartNote::Keep,
        StartAnswer::NotMade => StartNote::Forget,
        // Where libvirt refused before it began, its own reason stays `unknown`, which with an entry would mean that the guest has run.
        StartAnswer::Refused if !runs => StartNote::Forget,
        StartAnswer::Refused | StartAnswer::NotOff | StartAnswer::Started => StartNote::Settle,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s6_only_a_start_that_came_to_nothing_is_forgotten() {
        for (answer, runs, expected) in [
            (StartAnswer::NotMade, false, StartNote::Forget),
            (StartAnswer::Started, true, StartNote::Settle),
            // It ended before anybody looked.
            (StartAnswer::Started, false, StartNote::Settle),
            (StartAnswer::NotOff, false, StartNote::Settle),
            (StartAnswer::Refused, false, StartNote::Forget),
            (StartAnswer::Refused, true, StartNote::Settle),
            (StartAnswer::Unknown, false, StartNote::Keep),
        ] {
            assert_eq!(note_of_start(answer, runs), expected, "{answer:?} {runs}");
        }
    }
}
