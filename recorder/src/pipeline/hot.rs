//! The hot path: ring to spool, and the group commit of the spool.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::setpriority_process;
use rustix::thread::gettid;

use super::shared::{Shared, SpoolState, Waits, lock};
use super::{Events, Throttle, dead};
use crate::cli::exit::coded;
use crate::decode;
use crate::pulse::{self, Place};
use crate::spool::{FrameKind, Position};

/// Bytes taken from the ring at once.
const BATCH_BYTES: usize = 4 << 20;
/// Events are gathered this long before they are taken.
const GATHER: Duration = Duration::from_millis(5);
/// Longest wait for an event.
const POLL: Duration = Duration::from_millis(100);
/// Of the thread that empties the ring.
const NICENESS: i32 = -20;
/// Time between two syncs of the spool.
const COMMIT_INTERVAL: Duration = Duration::from_millis(250);

/// The thread that empties the ring.
pub(super) struct Drain<E: Events> {
    pub(super) shared: Arc<Shared>,
    pub(super) events: E,
    /// Up to where it is known what the kernel lost.
    lost_cursor: u64,
    throttle: Option<Throttle>,
}

impl<E: Events> Drain<E> {
    /// Reads these events.
    pub(super) fn new(shared: Arc<Shared>, events: E, throttle: Option<Throttle>) -> Self {
        Self {
            shared,
            events,
            lost_cursor: 0,
            throttle,
        }
    }

    /// Runs until told to stop and the ring is empty.
    pub(super) fn run(mut self) -> Result<()> {
        // It must not wait for those that it empties the ring for, nor for writers that are being held. Without it more may be lost.
        if let Err(error) = setpriority_process(Some(gettid()), NICENESS) {
            tracing::info!("the ring is emptied at no higher priority: {error}");
        }
        let mut said_full = false;
        loop {
            pulse::beat();
            let stopping = self.shared.stop_hot.load(Ordering::SeqCst);
            let (is_full, used_bytes) = {
                let state = lock(&self.shared.spool);
                (state.spool.is_full(), state.spool.used_bytes())
            };
            let is_slowing = self.throttle.as_mut().is_some_and(|throttle| {
                throttle.look(self.events.fill_bytes(), used_bytes);
                throttle.is_slowing()
            });
            if is_full {
                if !said_full {
                    self.tell_lost(&mut lock(&self.shared.spool))?;
                    tracing::warn!(
                        "the spool is full: events wait in the ring, and are lost as holes when that is full too"
                    );
                    said_full = true;
                }
                self.shared.check()?;
                self.shared
                    .ring_fill_bytes
                    .store(self.events.fill_bytes(), Ordering::Relaxed);
                if stopping {
                    self.give_up()?;
                }
                std::thread::sleep(GATHER * 4);
                continue;
            }
            said_full = false;
            let taken = self.take()?;
            if taken == 0 {
                if stopping {
                    return Ok(());
                }
                self.events.wait(POLL)?;
            }
            if !stopping && !is_slowing && taken < BATCH_BYTES {
                std::thread::sleep(GATHER);
            }
        }
    }

    /// At the end, with a full spool and a medium that takes nothing: what is in the ring has no place to go to.
    fn give_up(&self) -> Result<()> {
        match self.shared.refused_the_end() {
            Some(Waits { why, exit_code, .. }) => Err(coded(
                exit_code,
                format!(
                    "{why}; the spool is full too, so {} bytes of captured events are given up",
                    self.events.fill_bytes()
                ),
            )),
            None => Ok(()),
        }
    }

    /// Notes in the spool that events may be lost. It becomes a hole when its turn has come; if the machine goes down before, whoever comes
    /// after must know.
    fn tell_lost(&self, state: &mut SpoolState) -> Result<()> {
        let seq = self.shared.numbers.peek();
        state.spool.append(FrameKind::Lost, &[&dead::lost(seq)])?;
        self.shared.write_out(state)
    }

    /// Takes one batch; returns its bytes.
    fn take(&mut self) -> Result<usize> {
        let mut state = lock(&self.shared.spool);
        let lost = self.shared.numbers.read_lost(&mut self.lost_cursor);
        if lost.is_none_or(|lost| !lost.is_empty()) {
            self.tell_lost(&mut state)?;
        }
        let (mut count, mut bytes, mut appended_seq, mut result) = (0, 0, state.appended_seq, Ok(()));
        // A full buffer is written out on the way.
        let disk = pulse::at(Place::Spool);
        let taken = self.events.drain(BATCH_BYTES, |event| {
            let event = decode::meaningful(event);
            if let Err(error) = state.spool.append(FrameKind::Event, &[event]) {
                result = Err(error);
            }
            appended_seq = appended_seq.max(decode::seq_of(event).unwrap_or(0));
            count += 1;
            bytes += event.len() as u64;
        });
        result.context("append to the spool")?;
        if taken > 0 {
            state.appended_seq = appended_seq;
            self.shared.write_out(&mut state)?;
            // Not before: a recorder that is killed here leaves its batch to the next one, twice rather than never.
            self.events.release();
            self.shared.events.fetch_add(count, Ordering::Relaxed);
            self.shared.steps.fetch_add(1, Ordering::Relaxed);
            self.shared.bytes_captured.fetch_add(bytes, Ordering::Relaxed);
            self.shared.news.notify_all();
        }
        drop(disk);
        drop(state);
        if taken < BATCH_BYTES {
            self.shared.drained.fetch_add(1, Ordering::SeqCst);
        }
        self.shared
            .ring_fill_bytes
            .store(self.events.fill_bytes(), Ordering::Relaxed);
        Ok(taken)
    }
}

/// Syncs what was written, a few times a second, until told to stop.
pub(super) fn sync_spool(shared: &Shared) -> Result<()> {
    let mut synced = Position::default();
    loop {
        pulse::beat();
        let stopping = shared.stop_hot.load(Ordering::SeqCst);
        let (unsynced, seq) = {
            let mut state = lock(&shared.spool);
            shared.write_out(&mut state)?;
            (state.spool.unsynced(), state.appended_seq)
        };
        let disk = pulse::at(Place::Spool);
        if unsynced.sync(&mut synced)? {
            shared.spooled_seq.store(seq, Ordering::Relaxed);
        }
        drop(disk);
        if stopping {
            return Ok(());
        }
        std::thread::sleep(COMMIT_INTERVAL);
    }
}
