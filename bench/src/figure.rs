//! A figure: what was measured, beside its floor and its goal.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

/// What a figure is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// At most so many times the floor.
    TimesFloor(f64),
    /// At least so many times the floor.
    AtLeastTimesFloor(f64),
    /// At most so many of the figure's own unit.
    AtMost(f64),
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    /// One word.
    pub(crate) name: &'static str,
    /// What was measured, in `unit`.
    pub(crate) value: f64,
    /// `ms`, `us`, `kB`, `MB` (of a thousand and a million bytes), `%` (of one core), `MB/s`, `VM/s`, `calls`, `pulls`, or `of_10`.
    pub(crate) unit: &'static str,
    /// What nobody can go below on this machine, measured in the same run, in `unit`.
    pub(crate) floor: Option<f64>,
    pub(crate) goal: Goal,
}

impl Figure {
    fn ratio(&self) -> Option<f64> {
        self.floor.map(|floor| self.value / floor)
    }

    /// `met` or `short`.
    fn verdict(&self) -> &'static str {
        let is_met = match (self.goal, self.ratio()) {
            (Goal::TimesFloor(limit), Some(ratio)) => ratio <= limit,
            (Goal::AtLeastTimesFloor(limit), Some(ratio)) => ratio >= limit,
            (Goal::TimesFloor(_) | Goal::AtLeastTimesFloor(_), None) => false,
            (Goal::AtMost(limit), _) => self.value <= limit,
        };
        if is_met { "met" } else { "short" }
    }

    fn goal_text(&self) -> String {
        match self.goal {
            Goal::TimesFloor(limit) => format!("<={limit}x"),
            Goal::AtLeastTimesFloor(limit) => format!(">={limit}x"),
            Goal::AtMost(limit) => format!("<={limit}{}", self.unit),
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name, "value": rounded(self.value, 3), "unit": self.unit,
            "floor": self.floor.map(|floor| rounded(floor, 3)), "ratio": self.ratio().map(|ratio| rounded(ratio, 3)),
            "goal": self.goal_text(), "result": self.verdict(),
        })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.2}"));
        write!(
            f,
            "bench {} value={:.2} unit={} floor={} ratio={} goal={} {}",
            self.name,
            self.value,
            self.unit,
            or_none(self.floor),
            or_none(self.ratio()),
            self.goal_text(),
            self.verdict()
        )
    }
}

/// Writes the figures as a JSON array, one object a figure; a floor and a ratio that do not exist are null.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write(path: &Path, figures: &[Figure]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let list: Vec<Value> = figures.iter().map(Figure::to_json).collect();
    fs::write(path, format!("{:#}\n", Value::from(list)))
}

fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_with_a_floor_is_judged_by_its_ratio() {
        let mut figure =
            Figure { name: "start", value: 230.0, unit: "ms", floor: Some(200.0), goal: Goal::TimesFloor(1.15) };
        assert_eq!(figure.to_string(), "bench start value=230.00 unit=ms floor=200.00 ratio=1.15 goal=<=1.15x met");
        figure.value = 240.0;
        assert_eq!(figure.to_string(), "bench start value=240.00 unit=ms floor=200.00 ratio=1.20 goal=<=1.15x short");
    }

    #[test]
    fn a_rate_is_to_be_high() {
        let goal = Goal::AtLeastTimesFloor(0.8);
        let mut figure = Figure { name: "controller-rate", value: 80.0, unit: "VM/s", floor: Some(100.0), goal };
        assert!(figure.to_string().ends_with("ratio=0.80 goal=>=0.8x met"));
        figure.value = 79.0;
        assert!(figure.to_string().ends_with("short"));
    }

    #[test]
    fn a_figure_without_a_floor_is_judged_by_its_value() {
        let figure = Figure { name: "rss", value: 30.5, unit: "MB", floor: None, goal: Goal::AtMost(30.0) };
        assert_eq!(figure.to_string(), "bench rss value=30.50 unit=MB floor=- ratio=- goal=<=30MB short");
        assert_eq!(figure.to_json()["floor"], Value::Null);
        assert_eq!(figure.to_json()["result"], "short");
    }
}
