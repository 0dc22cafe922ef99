//! What the threads of a pipeline share: the spool under its lock, the numbers, why it does not go on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::taken::Taken;
use super::{Limits, Numbers};
use journal::CheckpointOf;
use journal::record::Record;

use crate::cli::exit::{code_of, coded};
use crate::pulse::{self, Pulses};
use crate::spool::{Position, Spool};

/// How often a waiting thread looks whether the pipeline still runs.
pub(super) const WAIT: Duration = Duration::from_millis(100);

/// The spool under its lock, with what goes along with it.
pub(super) struct SpoolState {
    pub(super) spool: Spool,
    /// Oldest file that is there.
    pub(super) oldest: u64,
    /// How far the reader may read.
    pub(super) written: Position,
    /// Newest number appended.
    pub(super) appended_seq: u64,
}

/// What the threads share.
pub(super) struct Shared {
    pub(super) limits: Limits,
    /// The threads of the volume.
    pub(super) pulses: Pulses,
    pub(super) spool: Mutex<SpoolState>,
    /// Something was written, sealed or asked for.
    pub(super) news: Condvar,
    /// Numbers that the recorder took and whose records have not passed the window.
    pub(super) outstanding: Mutex<BTreeSet<u64>>,
    pub(super) numbers: Arc<dyn Numbers>,
    /// What was taken of them for records of the recorder's own. Locked after `outstanding`.
    pub(super) taken: Mutex<Taken>,
    pub(super) epoch: u64,
    /// Everything up to here was looked at, and what that asked for is sent.
    pub(super) passed_seq: AtomicU64,
    /// The oldest operation that took its number before it acts, and has not ended there; the largest number where there is none.
    pub(super) under_way_seq: AtomicU64,
    /// Requests sent, and answered.
    pub(super) requests_sent: AtomicU64,
    pub(super) requests_served: AtomicU64,
    /// Requests that are still to be sent, and holes whose repair is still to be journaled.
    pub(super) repairs_owed: AtomicU64,
    /// Seal when everything up to here has passed.
    pub(super) flush_seq: AtomicU64,
    pub(super) spooled_seq: AtomicU64,
    pub(super) durable_seq: AtomicU64,
    /// Everything after `durable_seq` up to here changed nothing.
    pub(super) safe_seq: AtomicU64,
    /// The newest number that passed and says something.
    pub(super) said_seq: AtomicU64,
    /// Inode of the file that the recorder changes itself, to see it come back; 0 where there is none.
    pub(super) canary_ino: AtomicU64,
    /// The newest change of it that came back.
    pub(super) canary_seq: AtomicU64,
    pub(super) ring_fill_bytes: AtomicU64,
    /// Bytes of disk that the spool takes, and of them those that hold something: for whoever must not wait for its lock.
    pub(super) spool_bytes: AtomicU64,
    pub(super) spool_used_bytes: AtomicU64,
    /// Bytes that wait for a missing number.
    pub(super) window_bytes: AtomicU64,
    /// Times that the ring was read to its end, and what was found there handed to the spool.
    pub(super) drained: AtomicU64,
    pub(super) events: AtomicU64,
    pub(super) bytes_captured: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    pub(super) segments: AtomicU64,
    /// Holes that are not repaired, by their first number.
    pub(super) holes: Mutex<BTreeSet<u64>>,
    /// Holes that were repaired in this run.
    pub(super) holes_repaired: AtomicU64,
    /// Steps that the threads made: as long as it rises, none of them is stuck.
    pub(super) steps: AtomicU64,
    /// When the end began.
    pub(super) ending_since: OnceLock<Instant>,
    /// The hot thread drains what is left and ends.
    pub(super) stop_hot: AtomicBool,
    /// The cold thread ends when everything is sealed.
    pub(super) stop_cold: AtomicBool,
    /// Why a thread ended.
    pub(super) failed: Mutex<Option<Failure>>,
    /// What the cold thread waits for.
    /// A portion of a checkpoint.
    pub(super) aside: Mutex<Aside>,
    /// The chain that is written.
    pub(super) chain: String,
    pub(super) waits: Mutex<Option<Waits>>,
}

/// Why a pipeline has stopped.
#[derive(Clone)]
pub(super) struct Failure {
    pub(super) why: String,
    /// For the command line.
    pub(super) exit_code: u8,
}

/// What the cold thread waits for.
#[derive(Clone)]
pub(super) struct Waits {
    pub(super) since: Instant,
    /// When it was refused last.
    pub(super) until: Instant,
    pub(super) why: String,
    /// For the command line.
    pub(super) exit_code: u8,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records of a checkpoint on their way to the writer, between those of the history.
#[derive(Default)]
pub(super) enum Aside {
    /// None are.
    #[default]
    Nothing,
    /// To be sealed.
    Waits(CheckpointOf, Vec<Record>),
    /// Sealed, and whoever waits for that has not seen it yet.
    Sealed,
}

impl Shared {
    /// Fails where a thread has, with its exit code.
    pub(super) fn check(&self) -> Result<()> {
        match &*lock(&self.failed) {
            Some(Failure { why, exit_code }) => {
                Err(coded(*exit_code, format!("recording has stopped: {why}")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn fail(&self, thread: &str, error: &anyhow::Error) {
        let why = format!("{thread}: {error:#}");
        tracing::error!("{why}");
        lock(&self.failed).get_or_insert(Failure {
            why,
            exit_code: code_of(error),
        });
        self.news.notify_all();
    }

    /// What the medium says, where it has refused everything for longer than somebody who waits since `from` is to wait.
    pub(super) fn refused(&self, from: Instant) -> Option<Waits> {
        lock(&self.waits).clone().filter(|waits| {
            // Not until now: one that is back may need long for the first segment, and has refused nothing since.
            let refused_for = waits.until.saturating_duration_since(waits.since.max(from));
            refused_for >= self.limits.patience
        })
    }

    /// The same for the end of the pipeline, once that has begun.
    pub(super) fn refused_the_end(&self) -> Option<Waits> {
        self.ending_since.get().and_then(|since| self.refused(*since))
    }

    /// Writes what was appended out, and says how far the spool is now.
    pub(super) fn write_out(&self, state: &mut SpoolState) -> Result<()> {
        state.written = state.spool.write()?;
        self.measure(state);
        Ok(())
    }

    /// Says how much the spool holds.
    pub(super) fn measure(&self, state: &SpoolState) {
        self.spool_bytes.store(state.spool.bytes(), Ordering::Relaxed);
        self.spool_used_bytes
            .store(state.spool.used_bytes(), Ordering::Relaxed);
    }

    /// Waits for news, for a while, without the spool being held by others.
    pub(super) fn wait<'a>(&self, spool: MutexGuard<'a, SpoolState>) -> MutexGuard<'a, SpoolState> {
        pulse::beat();
        self.news
            .wait_timeout(spool, WAIT)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}
