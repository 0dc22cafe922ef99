//! What is seen of a volume from outside of its threads, once a second: which of them do not move, whether anything passes, how far it is
//! behind, and how its medium is.
//!
//! Owns the numbers of `recorder status`. What is concluded from them is `check.rs`; who looks is `watch.rs`.

use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use abi::Counter;
use journal::Recipients;

use super::lag::Lag;
use super::medium::Look;
use super::volume::{STATE_BASE, STATE_RECORDING, Session};
use super::watch::state_path;
use crate::cli::exit::MEDIUM_NEEDED;
use crate::pipeline::PipelineStatus;
use crate::pulse::{Place, Stall};
use crate::snapshot::now_ns;
use crate::status::{MediumStatus, Report, VolumeStatus, rfc3339};

/// What is captured passes within this time, or something does, or it is not the recorder that keeps it. A number whose event was lost passes with
/// the next one that comes: the next barrier's or canary's at the latest, after a minute.
const PASS_PATIENCE: Duration = Duration::from_secs(120);

/// The programs do not see changes.
#[derive(Clone, Debug)]
pub(super) struct Blind {
    /// Milliseconds since 1970.
    pub(super) since_ms: i64,
    /// The newest number by which they were proved to see.
    pub(super) since_seq: u64,
}

/// What was seen of a volume at the last look.
pub(super) struct Watched {
    pub(super) lag: Lag,
    pub(super) stalls: Vec<Stall>,
    pub(super) passing: Passing,
    pub(super) blind: Option<Blind>,
    /// The newest number by which the programs were proved to see.
    pub(super) seen_seq: u64,
    pub(super) medium: Option<Look>,
    /// Threads that ended, and why.
    pub(super) deaths: Vec<String>,
}

impl Watched {
    /// Before the first look. What a recorder before this one left behind waits since then.
    pub(super) fn new(captured_seq: u64, since_ms: i64) -> Self {
        Self {
            lag: Lag::since(captured_seq, since_ms),
            stalls: Vec::new(),
            passing: Passing::new(Instant::now()),
            blind: None,
            seen_seq: captured_seq,
            medium: None,
            deaths: Vec::new(),
        }
    }
}

/// Whether what is captured passes: from the kernel's counter to the writer of the journal.
pub(super) struct Passing {
    passed_seq: u64,
    since: Instant,
    is_late: bool,
}

impl Passing {
    fn new(now: Instant) -> Self {
        Self {
            passed_seq: 0,
            since: now,
            is_late: false,
        }
    }

    /// Looks. What waits for somebody else than the recorder is no sign against it.
    fn look(&mut self, now: Instant, captured_seq: u64, passed_seq: u64, is_excused: bool) {
        if passed_seq > self.passed_seq || passed_seq >= captured_seq || is_excused {
            self.since = now;
        }
        self.passed_seq = passed_seq;
        self.is_late = now.saturating_duration_since(self.since) >= PASS_PATIENCE;
    }
}

impl Session {
    pub(super) fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks; says what has changed; whether the recorder proves to work: what is captured passes, and no thread stands still in its own
    /// code. What a medium or the volume's disk holds up is not its fault, and no new start would help.
    pub(super) fn watch(&self, awake: Duration) -> bool {
        let stalls = self.sink.handle.pulses().stalls(awake);
        let status = self.sink.handle.status();
        // The writer waits for a medium, or a number is owed by whoever reads the volume.
        let is_at = |name, place| self.sink.handle.pulses().is_at(name, place);
        let waits_for_others = status.refused.is_some()
            || is_at("cold", Place::Medium)
            || is_at("snapshots", Place::Volume)
            || is_at("snapshots", Place::Sync);
        let mut watched = self.watched();
        watched.lag.look(
            now_ms(),
            status.captured_seq,
            status.safe_seq.min(status.spooled_seq),
            status.bytes_captured,
        );
        let was_late = watched.passing.is_late;
        watched.passing.look(
            Instant::now(),
            status.captured_seq,
            status.passed_seq,
            waits_for_others || awake < PASS_PATIENCE,
        );
        if watched.passing.is_late && !was_late {
            tracing::error!(
                "{}: nothing has passed number {} for {PASS_PATIENCE:?}, and number {} is captured",
                self.path.display(),
                status.passed_seq,
                status.captured_seq
            );
        }
        let before = std::mem::replace(&mut watched.stalls, stalls);
        say_stalls(&self.path.display().to_string(), &before, &watched.stalls);
        let stands = |stall: &Stall| stall.place == Place::Own;
        !watched.passing.is_late
            && watched.blind.is_none()
            && watched.deaths.is_empty()
            && !watched.stalls.iter().any(stands)
    }

    /// Numbers for `recorder status`. Waits for nobody who waits for a disk.
    pub(crate) fn status(&self) -> VolumeStatus {
        let status = self.sink.handle.status();
        let held_ns = self
            .parts()
            .as_ref()
            .map(|parts| parts.capture.counters().get(Counter::HeldNs));
        let misses = self
            .misses_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .count;
        let watched = self.watched();
        let failure = status.failure.clone().or_else(|| watched.deaths.first().cloned());
        let now_ms = now_ms();
        // Everything before this moment is there.
        let until = |seq| watched.lag.behind_since(seq).unwrap_or(now_ms);
        let (durable_ms, spooled_ms) = (until(status.safe_seq), until(status.spooled_seq));
        let is_behind = status.captured_seq > status.safe_seq;
        let behind_ms = if is_behind { now_ms - durable_ms } else { 0 };
        VolumeStatus {
            path: self.path.display().to_string(),
            uuid: self.volume.uuid.clone(),
            state: self.state_name().to_owned(),
            epoch: self.sink.handle.epoch(),
            captured_seq: status.captured_seq,
            barrier_seq: self.barrier_seq.load(Ordering::Relaxed),
            spooled_seq: status.spooled_seq,
            passed_seq: status.passed_seq,
            durable_seq: status.durable_seq,
            safe_seq: status.safe_seq,
            captured_time: rfc3339(now_ms),
            spooled_time: rfc3339(spooled_ms),
            durable_time: rfc3339(durable_ms),
            behind_s: u64::try_from(behind_ms / 1000).unwrap_or(0),
            ring_fill_bytes: status.ring_fill_bytes,
            ring_bytes: self.ring_bytes,
            window_bytes: status.window_bytes,
            spool_bytes: status.spool_bytes,
            spool_used_bytes: status.spool_used_bytes,
            spool_bytes_max: self.spool_bytes_max,
            spool_left_s: spool_left_s(&status, self.spool_bytes_max, watched.lag.bytes_per_s()),
            bytes_captured: status.bytes_captured,
            bytes_written: status.bytes_written,
            throttled_ms: held_ns.map_or(0, |held_ns| held_ns / 1_000_000),
            events: status.events,
            holes_open: status.holes_open,
            holes_repaired: status.holes_repaired,
            misses,
            segments: status.segments,
            base: self.base_taken().clone(),
            medium: self.shelf.current().path.display().to_string(),
            medium_state: medium_state(&status, watched.medium.as_ref()),
            copies: self.copies.as_ref().map(|copies| copies.status()),
            recipients: self
                .keys
                .recipients
                .as_ref()
                .map(Recipients::names)
                .unwrap_or_default(),
            stalls: watched.stalls.clone(),
            is_passing: !watched.passing.is_late,
            blind_since: watched.blind.as_ref().map(|blind| rfc3339(blind.since_ms)),
            error: failure.clone().or_else(|| status.error()),
            failure,
        }
    }

    /// A thread ended without which recording goes on.
    pub(super) fn say_death(&self, thread: &str, error: &anyhow::Error) {
        let text = format!("the thread {thread} has ended: {error:#}");
        tracing::error!("{}: {text}", self.path.display());
        self.watched().deaths.push(text);
    }

    fn state_name(&self) -> &'static str {
        match self.state.load(Ordering::Relaxed) {
            STATE_BASE => "base",
            STATE_RECORDING => "recording",
            _ => "failed",
        }
    }
}

/// Says which threads stand still since the last look, and which move again.
pub(super) fn say_stalls(named: &str, before: &[Stall], now: &[Stall]) {
    let is_in = |stalls: &[Stall], stall: &Stall| stalls.iter().any(|other| other.thread == stall.thread);
    for stall in now.iter().filter(|stall| !is_in(before, stall)) {
        tracing::error!("{named}: {stall}");
    }
    for stall in before.iter().filter(|stall| !is_in(now, stall)) {
        tracing::warn!("{named}: the thread {} moves again", stall.thread);
    }
}

/// What the writer met tells more than a look from time to time.
fn medium_state(status: &PipelineStatus, look: Option<&Look>) -> MediumStatus {
    let looked = look.cloned().unwrap_or_default();
    match &status.refused {
        Some(refused) => MediumStatus {
            trouble: Some(refused.why.clone()),
            exit_code: refused.exit_code,
            trouble_s: refused.since.elapsed().as_secs(),
            free_bytes: looked.free_bytes,
            uuid: looked.uuid,
            name: looked.name,
        },
        None => MediumStatus {
            exit_code: if looked.trouble.is_some() {
                MEDIUM_NEEDED
            } else {
                0
            },
            trouble_s: looked.since.map_or(0, |since| since.elapsed().as_secs()),
            trouble: looked.trouble,
            free_bytes: looked.free_bytes,
            uuid: looked.uuid,
            name: looked.name,
        },
    }
}

/// Seconds until the spool is full if the medium takes nothing and changes come as in the last minutes; `None` where none came.
fn spool_left_s(status: &PipelineStatus, spool_bytes_max: u64, bytes_per_s: u64) -> Option<u64> {
    spool_bytes_max
        .saturating_sub(status.spool_used_bytes)
        .checked_div(bytes_per_s)
}

/// Until when everything of a volume was on the medium, as a recorder before this one knew it; milliseconds since 1970.
pub(super) fn state_before(uuid: &str) -> Option<i64> {
    let report = Report::read(&state_path()).ok()?;
    let volume = report.volumes.into_iter().find(|volume| volume.uuid == uuid)?;
    let time: jiff::Timestamp = volume.durable_time.parse().ok()?;
    Some(time.as_millisecond())
}

pub(super) fn now_ms() -> i64 {
    now_ns() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_captured_passes_in_time_or_somebody_else_is_waited_for() {
        let begin = Instant::now();
        let mut passing = Passing::new(begin);
        let mut late = |seconds, captured_seq, passed_seq, is_excused| {
            passing.look(
                begin + Duration::from_secs(seconds),
                captured_seq,
                passed_seq,
                is_excused,
            );
            passing.is_late
        };
        assert!(!late(0, 5, 5, false));
        assert!(!late(500, 5, 5, false), "there is nothing to pass");
        assert!(!late(501, 9, 5, false));
        assert!(!late(619, 9, 5, false));
        assert!(late(620, 9, 5, false), "the numbers 6 to 9 do not come through");
        assert!(!late(621, 9, 6, false), "one does");
        assert!(!late(740, 90, 6, false));
        assert!(!late(741, 90, 6, true), "the medium is away");
        assert!(!late(860, 90, 6, false));
        assert!(late(861, 90, 6, false));
    }

    #[test]
    fn the_spool_lasts_as_long_as_changes_come_as_they_did() {
        let status = PipelineStatus {
            spool_used_bytes: 400,
            ..PipelineStatus::default()
        };
        assert_eq!(spool_left_s(&status, 1000, 60), Some(10));
        assert_eq!(spool_left_s(&status, 1000, 0), None);
        assert_eq!(spool_left_s(&status, 100, 60), Some(0));
    }
}
