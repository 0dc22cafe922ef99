//! The canary: a change that the recorder makes itself on the recorded volume, to see it come back through kernel, ring, spool and order.
//!
//! Owns when that is done and what it proves. The change is one of the attributes of a file without a name, which only the recorder has open.
//! It is made where nothing else is captured, for whatever else comes through proves the same; and ever more rarely, for it costs
//! the volume a commit of its journal. Its number is journaled with the next record that says something (`pipeline/cold/quiet.rs`).

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags};

use super::volume::{STATE_BASE, STOP_INTERVAL, Session};
use super::watched::Blind;
use crate::pulse::{self, Place};
use crate::snapshot::now_ns;

/// A volume on which nothing happens for so long is tried; then after twice the time, and so on up to the second one.
const QUIET: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(240));
/// Time to the next try after one that was not seen.
const AGAIN: Duration = Duration::from_secs(1);
/// One may be skipped, as any event may (a task preempted in a system call of BPF); that is counted as a miss.
const UNSEEN_MAX: u32 = 2;

/// When to try.
struct Schedule {
    captured_seq: u64,
    since: Instant,
    wait: Duration,
}

impl Schedule {
    fn new(now: Instant, captured_seq: u64) -> Self {
        Self {
            captured_seq,
            since: now,
            // The first soon: it proves that all is set up.
            wait: AGAIN,
        }
    }

    /// Whether it is time.
    fn is_due(&mut self, now: Instant, captured_seq: u64) -> bool {
        if captured_seq != self.captured_seq {
            *self = Self {
                captured_seq,
                since: now,
                wait: self.wait.clamp(AGAIN, QUIET.0),
            };
        }
        now.saturating_duration_since(self.since) >= self.wait
    }

    /// One was tried.
    fn tried(&mut self, now: Instant, captured_seq: u64, is_unseen: bool) {
        self.captured_seq = captured_seq;
        self.since = now;
        self.wait = if is_unseen {
            AGAIN
        } else {
            (self.wait * 2).clamp(QUIET.0, QUIET.1)
        };
    }
}

impl Session {
    /// Tries until the recording ends.
    pub(super) fn canary(&self) -> Result<()> {
        let handle = &self.sink.handle;
        let mut file = None;
        let mut schedule = Schedule::new(Instant::now(), handle.captured_seq());
        let mut unseen = 0;
        while !self.sink.stop.load(Ordering::Relaxed) {
            pulse::beat();
            std::thread::sleep(STOP_INTERVAL);
            // While the base is taken there is enough that proves it.
            let is_base = self.state.load(Ordering::Relaxed) == STATE_BASE;
            if is_base || !schedule.is_due(Instant::now(), handle.captured_seq()) {
                continue;
            }
            match self.try_canary(&mut file) {
                Ok(true) => unseen = 0,
                Ok(false) => unseen += 1,
                // A volume that takes no change has none to capture: read-only, full, or forced down.
                Err(error) => tracing::info!("{}: no canary: {error:#}", self.path.display()),
            }
            self.say_blind(unseen >= UNSEEN_MAX);
            schedule.tried(Instant::now(), handle.captured_seq(), unseen > 0);
        }
        Ok(())
    }

    /// Makes a change and waits until everything up to it has passed, however long a medium keeps that from happening; whether it came.
    fn try_canary(&self, file: &mut Option<File>) -> Result<bool> {
        let handle = &self.sink.handle;
        let file = match file {
            Some(file) => file,
            none => none.insert(self.canary_file()?),
        };
        let first_seq = handle.captured_seq() + 1;
        {
            let _volume = pulse::at(Place::Volume);
            rustix::fs::fchmod(&*file, Mode::RUSR).context("change the attributes of its file")?;
        }
        let last_seq = handle.captured_seq();
        while handle.passed_seq() < last_seq && !self.sink.stop.load(Ordering::Relaxed) {
            pulse::beat();
            handle.check()?;
            std::thread::sleep(STOP_INTERVAL);
        }
        // Where more was captured meanwhile, that proves as much, whatever became of this one.
        let is_seen = handle.canary_seq() >= first_seq || last_seq > first_seq;
        Ok(is_seen || self.sink.stop.load(Ordering::Relaxed))
    }

    fn canary_file(&self) -> Result<File> {
        let _volume = pulse::at(Place::Volume);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.root.fd(), c".", flags, Mode::RUSR).context("make its file")?;
        let file = File::from(file);
        let ino = file.metadata().context("look at its file")?.ino();
        self.sink.handle.watch_canary(ino);
        Ok(file)
    }

    /// Remembers whether the programs see changes. What happened while they did not is lost, and nobody can name it.
    fn say_blind(&self, is_blind: bool) {
        let change = {
            let mut watched = self.watched();
            let before = watched.blind.take();
            if is_blind {
                let since = before.clone().unwrap_or_else(|| Blind {
                    since_ms: now_ns() / 1_000_000,
                    since_seq: watched.seen_seq,
                });
                watched.blind = Some(since);
            } else {
                watched.seen_seq = self.sink.handle.passed_seq();
            }
            (before.is_some() != is_blind).then(|| before.or_else(|| watched.blind.clone()))
        };
        let Some(Some(Blind { since_seq, .. })) = change else {
            return;
        };
        let named = self.path.display();
        if is_blind {
            tracing::error!(
                "{named}: the programs in the kernel do not see changes any more: what happened after number {since_seq} may be in no event; \
                 detach and attach again"
            );
        } else {
            tracing::warn!("{named}: the programs see changes again");
        }
        if let Err(error) = self.journal_missed(since_seq) {
            tracing::error!("{named}: journal what was not seen: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_quiet_volume_is_tried_and_ever_more_rarely() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut schedule = Schedule::new(begin, 10);
        assert!(!schedule.is_due(begin, 10));
        assert!(schedule.is_due(after(1), 10), "the first is tried soon");
        schedule.tried(after(1), 11, false);
        assert!(!schedule.is_due(after(60), 11));
        assert!(schedule.is_due(after(61), 11));
        schedule.tried(after(61), 12, false);
        assert!(!schedule.is_due(after(180), 12));
        assert!(schedule.is_due(after(181), 12));
        // Something else was captured: that proves as much.
        assert!(!schedule.is_due(after(182), 13));
        assert!(!schedule.is_due(after(241), 13));
        assert!(schedule.is_due(after(242), 13));
        let mut now = 242;
        for _ in 0..10 {
            schedule.tried(after(now), 14, false);
            now += QUIET.1.as_secs();
            assert!(schedule.is_due(after(now), 14), "at least every {:?}", QUIET.1);
        }
        schedule.tried(after(now), 14, true);
        assert!(
            schedule.is_due(after(now + 1), 14),
            "one that was not seen is tried again soon"
        );
    }
}
