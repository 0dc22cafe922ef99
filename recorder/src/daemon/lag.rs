//! Since when something is behind, and how fast changes come: from looks at the newest number, one a second.
//!
//! Owns the memory of those looks, which is bounded: of what is long ago it knows the moment less exactly, and never says a later one.

use std::collections::VecDeque;

/// Looks that are remembered.
const LOOKS_MAX: usize = 512;
/// Looks at the bytes captured that are remembered, and seconds between two: ten minutes.
const RATES_MAX: usize = 60;
const RATE_INTERVAL_MS: i64 = 10_000;

/// A look at the newest number.
#[derive(Clone, Copy)]
struct Look {
    /// The newest number then.
    seq: u64,
    /// When it was looked at before: what came since is not older.
    since_ms: i64,
}

/// The looks.
#[derive(Default)]
pub(super) struct Lag {
    /// Ascending in both.
    looks: VecDeque<Look>,
    /// When it was looked last.
    looked_ms: Option<i64>,
    /// Times and bytes captured until then.
    rates: VecDeque<(i64, u64)>,
}

impl Lag {
    /// Begins with the newest number that there is; what came up to it came at this time or later.
    pub(super) fn since(seq: u64, since_ms: i64) -> Self {
        Self {
            looks: VecDeque::from([Look { seq, since_ms }]),
            looked_ms: Some(since_ms),
            ..Self::default()
        }
    }

    /// Looks. Everything up to `safe_seq` will not be asked for any more. Times are milliseconds since 1970.
    pub(super) fn look(&mut self, now_ms: i64, captured_seq: u64, safe_seq: u64, bytes_captured: u64) {
        let since_ms = self.looked_ms.replace(now_ms).unwrap_or(now_ms);
        if self.looks.back().is_none_or(|last| captured_seq > last.seq) {
            self.looks.push_back(Look {
                seq: captured_seq,
                since_ms,
            });
        }
        while self.looks.len() > 1 && self.looks[0].seq <= safe_seq {
            self.looks.pop_front();
        }
        if self.looks.len() > LOOKS_MAX {
            self.thin_out();
        }
        if self
            .rates
            .back()
            .is_none_or(|(last_ms, _)| now_ms - last_ms >= RATE_INTERVAL_MS)
        {
            self.rates.push_back((now_ms, bytes_captured));
        }
        if self.rates.len() > RATES_MAX {
            self.rates.pop_front();
        }
    }

    /// Two neighbours become one, that says the earlier time.
    fn thin_out(&mut self) {
        let looks: Vec<Look> = self.looks.drain(..).collect();
        self.looks.extend(looks.chunks(2).map(|pair| Look {
            seq: pair[pair.len() - 1].seq,
            since_ms: pair[0].since_ms,
        }));
    }

    /// Since when there is something after this number, up to the last look; milliseconds since 1970.
    pub(super) fn behind_since(&self, seq: u64) -> Option<i64> {
        let first = self.looks.iter().find(|look| look.seq > seq)?;
        Some(first.since_ms)
    }

    /// Bytes captured in a second, over the last ten minutes.
    pub(super) fn bytes_per_s(&self) -> u64 {
        let (Some((from_ms, from)), Some((to_ms, to))) = (self.rates.front(), self.rates.back()) else {
            return 0;
        };
        let ms = u64::try_from(to_ms - from_ms).unwrap_or(0);
        to.saturating_sub(*from)
            .saturating_mul(1000)
            .checked_div(ms)
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_is_as_old_as_the_look_before_it_came() {
        let mut lag = Lag::since(10, 1000);
        lag.look(5000, 10, 0, 0);
        lag.look(6000, 20, 0, 0);
        lag.look(7000, 20, 0, 0);
        lag.look(8000, 30, 0, 0);
        assert_eq!(lag.behind_since(5), Some(1000));
        assert_eq!(lag.behind_since(10), Some(5000));
        assert_eq!(lag.behind_since(19), Some(5000));
        assert_eq!(lag.behind_since(20), Some(7000));
        assert_eq!(lag.behind_since(30), None);
        lag.look(9000, 40, 25, 0);
        assert_eq!(lag.behind_since(25), Some(7000));
        assert_eq!(lag.looks.len(), 2, "what is safe is forgotten");
    }

    #[test]
    fn a_medium_that_stays_away_for_days_costs_no_memory_and_no_time_is_said_too_late() {
        let mut lag = Lag::since(0, 0);
        for second in 1..=200_000_u64 {
            let now_ms = i64::try_from(second).unwrap() * 1000;
            lag.look(now_ms, second, 0, second * 500);
        }
        assert!(lag.looks.len() <= LOOKS_MAX);
        for seq in [1, 77, 5000, 123_456, 199_998] {
            // The number after it came in the second before the look that saw it.
            let came_ms = i64::try_from(seq).unwrap() * 1000;
            let said = lag.behind_since(seq).unwrap();
            assert!(said <= came_ms, "{seq}: {said}");
        }
        assert_eq!(lag.behind_since(0), Some(0));
        assert_eq!(lag.bytes_per_s(), 500);
        assert!(lag.rates.len() <= RATES_MAX);
    }
}
