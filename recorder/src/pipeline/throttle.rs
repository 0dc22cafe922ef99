//! What is done before ring or spool are full: nothing, so that what finds no place becomes a hole and is repaired; or writers are
//! slowed down, so that less of it does.
//!
//! Owns when and how much. It is best effort and bounded in time: a medium that stays away must not slow the host for ever.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Deserialize;

/// Part of the ring, in thousandths, above which the programs themselves hold writers.
const RING_FILL: u64 = 500;
/// Parts of the spool, in thousandths, at which writers begin to be slowed, and at which they are slowed most.
const SPOOL_FILLS: (u64, u64) = (750, 950);
/// Greatest pressure.
const PRESSURE_MAX: u64 = 1000;
/// Asked of the programs at the greatest pressure: about 4 MB/s for each writer.
const NS_PER_KIB_MAX: u64 = 250_000;
/// How long the programs hold writers without hearing from us again.
const LASTS: Duration = Duration::from_secs(2);
/// Longest time that writers are slowed without a pause.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Time between two messages about it.
const SAY_INTERVAL: Duration = Duration::from_secs(60);

/// What to do where ring or spool are about to be full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnFull {
    /// The host keeps its speed; what finds no place is a hole, which is repaired
    #[default]
    Hole,
    /// Writers are slowed down, for a minute at most, so that less becomes a hole
    Throttle,
}

/// Slows writers down, until it is told otherwise or a time has passed.
pub(crate) trait Brake: Send {
    /// By so much for each KiB, and while more than so many bytes wait in the ring; for so long from now on.
    fn ask(&self, ns_per_kib: u64, ring_bytes: u64, lasts: Duration);
    /// Not any more.
    fn release(&self);
}

/// Decides.
pub(crate) struct Throttle {
    brake: Box<dyn Brake>,
    /// Fill of the ring above which writers are held.
    ring_bytes: u64,
    spool_bytes_max: u64,
    time_max: Duration,
    state: State,
    said: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Slowing { since: Instant },
    GivenUp,
}

impl Throttle {
    pub(crate) fn new(brake: Box<dyn Brake>, ring_bytes: u64, spool_bytes_max: u64) -> Self {
        Self {
            brake,
            ring_bytes: ring_bytes * RING_FILL / 1000,
            spool_bytes_max,
            time_max: TIME_MAX,
            state: State::Free,
            said: None,
        }
    }

    /// Looks at the fills, and does what they want.
    pub(super) fn look(&mut self, ring_fill_bytes: u64, spool_used_bytes: u64) {
        let pressure = pressure(spool_used_bytes, self.spool_bytes_max, SPOOL_FILLS);
        let is_tight = pressure > 0 || ring_fill_bytes > self.ring_bytes;
        let now = Instant::now();
        self.state = match self.state {
            _ if !is_tight => State::Free,
            State::Free => {
                if self.said.is_none_or(|said| now - said > SAY_INTERVAL) {
                    tracing::warn!("ring or spool are filling up: writers are slowed down");
                    self.said = Some(now);
                }
                State::Slowing { since: now }
            }
            State::Slowing { since } if now - since >= self.time_max => {
                tracing::warn!(
                    "writers were slowed down for {:?}, and ring or spool are as full as before: they go on at full speed, and what finds \
                     no place becomes a hole",
                    self.time_max
                );
                self.brake.release();
                State::GivenUp
            }
            same => same,
        };
        if self.state != State::GivenUp {
            let ns_per_kib = NS_PER_KIB_MAX * pressure / PRESSURE_MAX;
            self.brake.ask(ns_per_kib, self.ring_bytes, LASTS);
        }
    }

    /// Whether writers are slowed down now.
    pub(super) fn is_slowing(&self) -> bool {
        matches!(self.state, State::Slowing { .. })
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.brake.release();
    }
}

/// From 0 at the first fill, in thousandths, to [`PRESSURE_MAX`] at the second.
fn pressure(used_bytes: u64, bytes_max: u64, (begins, greatest): (u64, u64)) -> u64 {
    let fill = used_bytes.saturating_mul(1000) / bytes_max.max(1);
    (fill.saturating_sub(begins) * PRESSURE_MAX / (greatest - begins)).min(PRESSURE_MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was asked for last.
    #[derive(Clone, Default)]
    struct Asked(Arc<Mutex<Option<u64>>>);

    impl Brake for Asked {
        fn ask(&self, ns_per_kib: u64, _ring_bytes: u64, _lasts: Duration) {
            *self.0.lock().unwrap() = Some(ns_per_kib);
        }

        fn release(&self) {
            *self.0.lock().unwrap() = None;
        }
    }

    fn throttle(asked: &Asked) -> Throttle {
        Throttle::new(Box::new(asked.clone()), 1000, 10_000)
    }

    #[test]
    fn the_fuller_the_slower_and_free_again_when_there_is_room() {
        let asked = Asked::default();
        let mut throttle = throttle(&asked);
        let mut after = |ring, spool| {
            throttle.look(ring, spool);
            (asked.0.lock().unwrap().unwrap(), throttle.is_slowing())
        };
        assert_eq!(after(500, 7500), (0, false), "that is what they are there for");
        assert_eq!(
            after(501, 0),
            (0, true),
            "the programs look at the ring themselves"
        );
        assert_eq!(after(0, 8500), (NS_PER_KIB_MAX / 2, true));
        assert_eq!(after(0, 10_000), (NS_PER_KIB_MAX, true));
        assert_eq!(after(0, 0), (0, false));
        drop(throttle);
        assert!(
            asked.0.lock().unwrap().is_none(),
            "nobody is slowed without a recorder"
        );
    }

    #[test]
    fn it_ends_after_a_time_and_begins_anew_only_when_there_was_room() {
        let asked = Asked::default();
        let mut throttle = throttle(&asked);
        throttle.time_max = Duration::ZERO;
        throttle.look(1000, 0);
        assert!(asked.0.lock().unwrap().is_some());
        for _ in 0..2 {
            throttle.look(1000, 0);
            assert!(asked.0.lock().unwrap().is_none(), "full for too long");
        }
        throttle.look(0, 0);
        throttle.look(1000, 0);
        assert!(asked.0.lock().unwrap().is_some());
    }
}
