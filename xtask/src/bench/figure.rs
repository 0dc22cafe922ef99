//! Figures: what was measured in several turns, and whether that reaches its limit. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Limit {
    /// At most so much.
    AtMost(f64),
    /// At least so much.
    AtLeast(f64),
    /// It is told, and nothing is asked of it.
    None,
}

/// A figure of several turns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Figure {
    /// What it is, with its unit.
    pub(super) name: String,
    pub(super) limit: Limit,
    /// By turn; never none. Of two arms: the ratio of the two in the same turn.
    pub(super) values: Vec<f64>,
}

/// What can be said of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of the interval is within the limit.
    Reached,
    /// All of it is beyond.
    Missed,
    /// The limit is in it, or there are too few turns for one.
    Unproven,
    /// Nothing was asked.
    Told,
}

impl Figure {
    pub(super) fn new(name: &str, limit: Limit, values: Vec<f64>) -> Self {
        Self {
            name: name.to_owned(),
            limit,
            values,
        }
    }

    /// How many times as long (or as large) `ours` is as `theirs`, turn by turn.
    pub(super) fn ratio(name: &str, limit: Limit, ours: &[f64], theirs: &[f64]) -> Self {
        Self::new(name, limit, ours.iter().zip(theirs).map(|(a, b)| a / b).collect())
    }

    pub(super) fn verdict(&self) -> Verdict {
        let within = |value: f64| match self.limit {
            Limit::AtMost(most) => value <= most,
            Limit::AtLeast(least) => value >= least,
            Limit::None => true,
        };
        match (self.limit, interval(&self.values)) {
            (Limit::None, _) => Verdict::Told,
            (_, Some((low, high))) if within(low) && within(high) => Verdict::Reached,
            (_, Some((low, high))) if !within(low) && !within(high) => Verdict::Missed,
            _ => Verdict::Unproven,
        }
    }

    pub(super) fn is_reached(&self) -> bool {
        matches!(self.verdict(), Verdict::Reached | Verdict::Told)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {}", shown(*most)),
            Self::AtLeast(least) => write!(f, "at least {}", shown(*least)),
            Self::None => f.write_str("none"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reached => "reached",
            Self::Missed => "missed",
            Self::Unproven => "unproven",
            Self::Told => "-",
        })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interval = show_interval(&self.values);
        let (limit, verdict) = (self.limit, self.verdict());
        let median = shown(median(&self.values));
        write!(f, "{} {median} ({interval}), limit {limit}: {verdict}", self.name)
    }
}

/// The middle; of an even number, that of the two in the middle. 0 of none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        count if count.is_multiple_of(2) => f64::midpoint(sorted[half - 1], sorted[half]),
        _ => sorted[half],
    }
}

/// A 95 % interval of the median, by the sign test: the k-th smallest and the k-th largest value, with the largest k that leaves no more than 5 % to
/// both sides. It assumes no distribution. `None` below six values.
pub(super) fn interval(values: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    // Probability that fewer than k of so many values are below the median.
    let half = 0.5_f64.powi(i32::try_from(count).ok()?);
    let (mut below, mut term, mut k) = (0.0, half, 0);
    while k < count / 2 && 2.0 * (below + term) <= 0.05 {
        below += term;
        term *= (count - k) as f64 / (k + 1) as f64;
        k += 1;
    }
    let low = k.checked_sub(1)?;
    Some((sorted[low], sorted[count - 1 - low]))
}

/// An interval for people.
pub(super) fn show_interval(values: &[f64]) -> String {
    match interval(values) {
        Some((low, high)) => format!("{} to {}", shown(low), shown(high)),
        None => "too few turns".to_owned(),
    }
}

/// A number with three digits that count, or all before the point.
pub(super) fn shown(value: f64) -> String {
    let digits = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_sign_test() {
        let up_to = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        assert_eq!(interval(&up_to(5)), None);
        assert_eq!(interval(&up_to(6)), Some((1.0, 6.0)));
        assert_eq!(interval(&up_to(8)), Some((1.0, 8.0)));
        assert_eq!(interval(&up_to(9)), Some((2.0, 8.0)));
        assert_eq!(interval(&up_to(20)), Some((6.0, 15.0)));
        assert_eq!(
            (median(&up_to(5)), median(&up_to(6)), median(&[])),
            (3.0, 3.5, 0.0)
        );
    }

    #[test]
    fn a_limit_within_the_interval_is_neither_reached_nor_missed() {
        let of = |values: [f64; 6], limit| Figure::new("", limit, values.to_vec()).verdict();
        let values = [1.0, 1.1, 1.2, 1.3, 1.1, 1.2];
        assert_eq!(of(values, Limit::AtMost(1.4)), Verdict::Reached);
        assert_eq!(of(values, Limit::AtMost(1.25)), Verdict::Unproven);
        assert_eq!(of(values, Limit::AtMost(0.9)), Verdict::Missed);
        assert_eq!(of(values, Limit::AtLeast(0.9)), Verdict::Reached);
        assert_eq!(of(values, Limit::AtLeast(1.25)), Verdict::Unproven);
        assert_eq!(of(values, Limit::AtLeast(1.4)), Verdict::Missed);
        assert_eq!(of(values, Limit::None), Verdict::Told);
        let few = Figure::ratio("", Limit::AtMost(1.0), &[1.0, 3.0], &[2.0, 4.0]);
        assert_eq!(
            (few.values.as_slice(), few.verdict()),
            ([0.5, 0.75].as_slice(), Verdict::Unproven)
        );
    }
}
