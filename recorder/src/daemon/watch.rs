//! The watch: a thread that looks at all others once a second, and does nothing that could make it wait for them.
//!
//! Owns what it leaves behind for whoever asks while the daemon does not answer (the state file), and what the service manager hears. The
//! event loop looks at the watch in turn.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sd_notify::NotifyState;

use super::Recorder;
use super::watched::{now_ms, say_stalls};
use crate::control::RUN_DIR;
use crate::pulse::{self, Pulses, STALL, Stall};
use crate::status::{Report, VolumeStatus, rfc3339};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time between two writes of the state file, unless something happens.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);
/// Name of the watch and of the event loop among the threads.
const WATCH: &str = "watch";
const CONTROL: &str = "control";

/// Where the state lies while a recorder runs, and after one that did not detach.
pub(crate) fn state_path() -> PathBuf {
    Path::new(RUN_DIR).join("state.json")
}

/// The threads of the daemon itself.
pub(super) struct Watch {
    /// The watch looks at these.
    pulses: Pulses,
    /// The event loop looks at the watch.
    own: Pulses,
    stalls: Mutex<Vec<Stall>>,
    stop: AtomicBool,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            pulses: Pulses::new(STALL),
            own: Pulses::new(STALL),
            stalls: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// Lets the event loop beat.
    pub(super) fn enter_control(&self) -> pulse::Beating {
        self.pulses.enter(CONTROL)
    }

    /// Threads of the daemon that do not move. `awake`: for how long the one who asks runs without a break.
    pub(super) fn stalls(&self, awake: Duration) -> Vec<Stall> {
        let mut stalls = self.stalls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stalls.extend(self.own.stalls(awake));
        stalls
    }

    /// For the event loop: says so where the watch does not move.
    pub(super) fn look_at_watch(&self, awake: Duration, before: &mut Vec<Stall>) {
        let now = self.own.stalls(awake);
        say_stalls("recorder", before, &now);
        *before = now;
    }

    /// Ends the watch, unless it does not move.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let begin = Instant::now();
        while !self.own.is_empty() && begin.elapsed() < 2 * INTERVAL {
            std::thread::sleep(INTERVAL / 50);
        }
    }
}

/// For how long a thread runs since it was last held: with the whole process (SIGSTOP, a debugger, a suspended machine), or by itself.
pub(super) struct Awake {
    looked: Instant,
    since: Instant,
}

impl Awake {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            looked: now,
            since: now,
        }
    }

    /// Looks, which is done more often than every [`STALL`] / 4.
    pub(super) fn look(&mut self, now: Instant) -> Duration {
        if now.saturating_duration_since(self.looked) >= STALL / 4 {
            self.since = now;
        }
        self.looked = now;
        now.saturating_duration_since(self.since)
    }
}

/// Starts the watch. Whoever is told of its death ends the recorder: nobody would see any other.
pub(super) fn start(
    recorder: &Arc<Recorder>,
    died: impl FnOnce(anyhow::Error) + Send + 'static,
) -> Result<JoinHandle<()>> {
    let watching = Arc::clone(recorder);
    recorder.watch.own.spawn(
        WATCH,
        move || {
            run(&watching);
            Ok(())
        },
        died,
    )
}

fn run(recorder: &Recorder) {
    let watchdog = sd_notify::watchdog_enabled();
    let (mut awake, mut written, mut fed, mut said) = (Awake::new(), None, None, String::new());
    let mut is_well_before = true;
    while !recorder.watch.stop.load(Ordering::Relaxed) {
        pulse::beat();
        let awake_for = awake.look(Instant::now());
        let sessions = recorder.lock().clone();
        let mut is_well = true;
        for session in &sessions {
            is_well &= session.watch(awake_for);
        }
        let stalls = recorder.watch.pulses.stalls(awake_for);
        is_well &= stalls.is_empty();
        {
            let mut before = recorder
                .watch
                .stalls
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            say_stalls("recorder", &before, &stalls);
            *before = stalls;
        }
        let is_due =
            |last: Option<Instant>, interval| last.is_none_or(|last: Instant| last.elapsed() >= interval);
        if is_due(written, WRITE_INTERVAL) || is_well != is_well_before {
            written = Some(Instant::now());
            let report = recorder.report();
            if let Err(error) = write_state(&state_path(), &report) {
                tracing::warn!("{error:#}");
            }
            say_status(&report, &mut said);
        }
        if let Some(watchdog) = watchdog.filter(|watchdog| is_well && is_due(fed, *watchdog / 4)) {
            fed = Some(Instant::now());
            tracing::trace!("the watchdog of {watchdog:?} is fed");
            notify(&[NotifyState::Watchdog]);
        }
        is_well_before = is_well;
        std::thread::sleep(INTERVAL);
    }
}

/// One line for `systemctl status`.
fn say_status(report: &Report, said: &mut String) {
    let volume = |volume: &VolumeStatus| {
        let medium = match (&volume.error, &volume.medium_state.trouble) {
            (Some(error), _) | (None, Some(error)) => error.clone(),
            (None, None) => format!("{} holes open", volume.holes_open),
        };
        format!("{} {}: {medium}", volume.path, volume.state)
    };
    let text = report.volumes.iter().map(volume).collect::<Vec<_>>().join("; ");
    if text != *said {
        notify(&[NotifyState::Status(&text)]);
        *said = text;
    }
}

/// Tells the service manager, where there is one. That it does not listen is no failure of ours.
pub(super) fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("tell the service manager: {error}");
    }
}

/// Puts the state where the one before lies, in one step.
pub(super) fn write_state(path: &Path, report: &Report) -> Result<()> {
    let context = || format!("write {}", path.display());
    let bytes = serde_json::to_vec(report).with_context(context)?;
    let new = path.with_extension("new");
    fs::write(&new, bytes).with_context(context)?;
    fs::rename(&new, path).with_context(context)
}

impl Recorder {
    /// Everything that is known, for whoever asks. Waits for nobody who waits for a disk.
    pub(super) fn report(&self) -> Report {
        Report {
            time: rfc3339(now_ms()),
            pid: std::process::id(),
            has_ended: false,
            stalls: self.watch.stalls(Duration::MAX),
            volumes: self.lock().iter().map(|session| session.status()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_held_is_awake_since_then() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut awake = Awake::new();
        awake.look(begin);
        for second in 1..=100 {
            awake.look(after(second));
        }
        assert!(awake.look(after(101)) >= Duration::from_secs(100));
        assert_eq!(
            awake.look(after(200)),
            Duration::ZERO,
            "it was stopped in between"
        );
        assert_eq!(awake.look(after(201)), Duration::from_secs(1));
    }

    #[test]
    fn the_state_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        for pid in [7, 8] {
            let report = Report {
                pid,
                ..Report::default()
            };
            write_state(&path, &report).unwrap();
            let read: Report = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            assert_eq!(read.pid, pid);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_watch_that_stands_still_is_seen_by_the_event_loop() {
        let watch = Watch {
            own: Pulses::new(Duration::from_millis(50)),
            ..Watch::new()
        };
        let _beating = watch.own.enter(WATCH);
        std::thread::sleep(Duration::from_millis(100));
        let mut before = Vec::new();
        watch.look_at_watch(Duration::MAX, &mut before);
        assert_eq!(before.len(), 1);
        assert_eq!(watch.stalls(Duration::MAX)[0].thread, WATCH);
        pulse::beat();
        watch.look_at_watch(Duration::MAX, &mut before);
        assert_eq!(before.len(), 0);
    }
}
