//! Numbers from several rounds.

use std::time::Duration;

/// The middle one of the durations; of an even number, the mean of the two in the middle. `None` of none.
pub(crate) fn median(mut rounds: Vec<Duration>) -> Option<Duration> {
    rounds.sort();
    let middle = rounds.len() / 2;
    let upper = *rounds.get(middle)?;
    if rounds.len() % 2 == 1 { Some(upper) } else { Some((rounds[middle - 1] + upper) / 2) }
}

/// In milliseconds, for a figure.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Each round in milliseconds, for whoever wonders about a figure.
pub(crate) fn listed(rounds: &[Duration]) -> String {
    let numbers: Vec<String> = rounds.iter().map(|round| format!("{:.1}", milliseconds(*round))).collect();
    format!("{} ms", numbers.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        let of = |millis: &[u64]| median(millis.iter().copied().map(Duration::from_millis).collect());
        assert_eq!(of(&[9, 1, 5]), Some(Duration::from_millis(5)));
        assert_eq!(of(&[9, 1, 5, 7]), Some(Duration::from_millis(6)));
        assert_eq!(of(&[]), None);
    }
}
