//! What systemd is told of this process: whether it is ready, what it waits for, and that it lives. Nothing is told where systemd did not start it.
//!
//! ```text
//! waiting ──nothing is missing──► ready (READY=1, once)
//!    │ EXTEND_TIMEOUT_USEC= for as long as no loop is stuck: the wait may be long, a process that hangs in it is started anew
//!    └───────────── STATUS= names what is missing, before and after ─────────────┘
//! WATCHDOG=1 at each turn, unless a loop is stuck: then systemd ends the process and starts it anew, and guests do not notice
//! ```
//! This is the one place that decides whether the watchdog is fed. It goes by the loops that do the work ([`Health::watch_loop`]), not by this task's own
//! life: a process whose timers run while its workers hang is what the watchdog is for. What is merely missing, such as an API server that is away, is no
//! reason to be ended.

use std::env;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, warn};

use crate::Health;

/// How often the health is looked at until the process is ready.
const START_TURN: Duration = Duration::from_millis(250);
/// How often it is looked at after that, unless the watchdog wants to be fed more often.
const TURN: Duration = Duration::from_secs(5);
/// Every how many of these turns systemd is asked for more time.
const TURNS_OF_AN_EXTENSION: u32 = 20;
/// How much longer systemd waits for a start from the moment when it is told so: a few turns, on a busy host.
const START_EXTENSION: Duration = Duration::from_mins(1);
/// Turns in one period of the watchdog. One may be late, on a busy host.
const TURNS_OF_A_PERIOD: u32 = 3;

/// What was told so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    ready: bool,
    status: String,
}

/// What to tell now.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    ready: bool,
    status: Option<String>,
    feed: bool,
}

/// Whether systemd started this process, and is told what it waits for.
pub fn is_listening() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

/// Tells systemd of `health` until it is dropped; waits for ever where systemd does not listen.
pub async fn keep_told(health: Health) {
    if !is_listening() {
        return std::future::pending().await;
    }
    let watchdog = sd_notify::watchdog_enabled().map(|period| period / TURNS_OF_A_PERIOD);
    let mut told = Told::default();
    let mut turn = 0;
    while !told.ready {
        tell(&health, &mut told);
        if turn == 0 && !told.ready && health.stuck().is_empty() {
            send(&[NotifyState::ExtendTimeoutUsec(START_EXTENSION.as_micros().try_into().unwrap_or(u32::MAX))]);
        }
        turn = (turn + 1) % TURNS_OF_AN_EXTENSION;
        tokio::time::sleep(START_TURN).await;
    }
    let mut turns = interval(watchdog.map_or(TURN, |period| period.min(TURN)));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        tell(&health, &mut told);
    }
}

/// The process ends, and means to.
pub fn tell_stopping() {
    send(&[NotifyState::Stopping]);
}

fn tell(health: &Health, told: &mut Told) {
    let stuck = health.stuck();
    let message = decide(told, &health.missing(), &stuck);
    let mut states = Vec::with_capacity(3);
    if let Some(status) = &message.status {
        if !stuck.is_empty() {
            error!(status, "the watchdog is not fed");
        }
        states.push(NotifyState::Status(status));
    }
    if message.ready {
        states.push(NotifyState::Ready);
    }
    if message.feed {
        states.push(NotifyState::Watchdog);
    }
    send(&states);
    told.ready |= message.ready;
    if let Some(status) = message.status {
        told.status = status;
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd is not told");
    }
}

/// Decides what systemd is told.
fn decide(told: &Told, missing: &[String], stuck: &[String]) -> Message {
    let is_ready = told.ready || missing.is_empty() && stuck.is_empty();
    let status = match (stuck, missing) {
        ([], []) => "ready".to_owned(),
        ([], missing) => format!("waiting for {}", missing.join("; ")),
        (stuck, _) => format!("stuck: {}", stuck.join("; ")),
    };
    Message {
        ready: is_ready && !told.ready,
        status: (status != told.status).then_some(status),
        feed: is_ready && stuck.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn ready_is_told_once_and_only_when_nothing_is_missing() {
        let mut told = Told::default();
        let waiting = decide(&told, &lines(&["libvirt: not connected"]), &[]);
        assert_eq!((waiting.ready, waiting.feed), (false, false));
        assert_eq!(waiting.status.as_deref(), Some("waiting for libvirt: not connected"));
        let ready = decide(&told, &[], &[]);
        assert_eq!(ready, Message { ready: true, status: Some("ready".to_owned()), feed: true });
        told = Told { ready: true, status: "ready".to_owned() };
        assert_eq!(decide(&told, &[], &[]), Message { ready: false, status: None, feed: true });
    }

    #[test]
    fn an_api_server_that_is_away_is_told_and_ends_nothing() {
        let told = Told { ready: true, status: "ready".to_owned() };
        let message = decide(&told, &lines(&["API server: silent"]), &[]);
        assert_eq!((message.ready, message.feed), (false, true));
        assert_eq!(message.status.as_deref(), Some("waiting for API server: silent"));
    }

    #[test]
    fn a_stuck_loop_does_not_feed_the_watchdog() {
        let told = Told { ready: true, status: "ready".to_owned() };
        let message = decide(&told, &[], &lines(&["guest: busy with one turn for 700 s"]));
        assert!(!message.feed);
        assert!(message.status.is_some_and(|status| status.contains("guest")));
    }
}
