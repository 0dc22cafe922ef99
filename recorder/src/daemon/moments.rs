//! What is asked of a volume while it is recorded: marks, flushes, the look for misses, detaching.
//!
//! Owns how long each of these may take. A medium that is slow is waited for; one that refuses everything for ten seconds, or does
//! not come back from a call for two minutes, ends the waiting with its exit code (20 or 21).

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use abi::Counter;
use anyhow::{Context as _, Result, ensure};
use journal::record::{InodeKey, Op};
use serde_json::{Value, json};

use super::copies;
use super::shelf::Held;
use super::volume::{Parts, STATE_BASE, STATE_RECORDING, STOP_INTERVAL, Session};
use crate::cli::exit::{FAILED, code_of, coded};
use crate::media;
use crate::pipeline::{Handle, Left};
use crate::pulse::{self, Place};
use crate::snapshot::{Sink as _, own_record};

/// Longest time that a flush may take while the medium takes what it is given.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3600);
/// Longest time that a medium may take to end once everything is on it: what the next one is to carry is written.
const EJECT_TIMEOUT: Duration = Duration::from_secs(1800);
/// Longest time that anything waits for what is to be read anew.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time that a mark, a flush, or the end waits for the repair of holes.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(180);

/// How a volume was detached.
#[derive(Clone, Debug)]
pub(super) enum Detached {
    /// Everything is on the medium; so many holes stay open.
    Well {
        /// Open holes.
        holes_open: u64,
    },
    /// Not so.
    Badly {
        /// Exit code.
        code: u8,
        /// Why.
        why: String,
    },
}

/// What the kernel's counters of misses said at the last look.
#[derive(Clone, Copy, Default)]
pub(super) struct Misses {
    /// Of all programs together.
    pub(super) count: u64,
    /// The newest number taken before they were read: what they did not tell concerns later moments only.
    looked_seq: u64,
}

impl Misses {
    /// What a recorder that was killed had seen, as far as it stands in its journal.
    pub(super) fn left_by(left: &Left) -> Self {
        let (count, looked_seq) = left.misses();
        Self { count, looked_seq }
    }

    /// Remembers a look; where it tells of new misses, what the look before said. Looks of several threads may cross: an older one says
    /// nothing new.
    fn look(&mut self, now: Self) -> Option<Self> {
        let before = *self;
        if now.count > before.count || (now.count == before.count && now.looked_seq > before.looked_seq) {
            *self = now;
        }
        (now.count > before.count).then_some(before)
    }
}

impl Session {
    /// Journals a record of the volume as a whole. From when the end begins nothing is taken any more: it would not get there.
    pub(super) fn journal(&self, op: Op) -> Result<(u64, i64)> {
        let is_ending = self.is_ending.read().unwrap_or_else(PoisonError::into_inner);
        ensure!(!*is_ending, "{} is being detached", self.path.display());
        let seq = self.sink.take_seq();
        let record = own_record(seq, InodeKey::default(), false, op);
        let time_ns = record.time_ns;
        self.sink.submit(vec![record])?;
        Ok((seq, time_ns))
    }

    /// Syncs the volume, which may take minutes on a busy disk.
    pub(super) fn sync(&self) -> Result<()> {
        let _sync = pulse::at(Place::Sync);
        rustix::fs::syncfs(self.root.fd()).context("sync the volume")
    }

    /// Syncs the volume, so that stores through mappings are in, then puts down a record of the volume as a whole.
    fn put_down(&self, op: Op) -> Result<(u64, i64)> {
        self.sync()?;
        self.sink.handle.reserve_or_say(FLUSH_TIMEOUT)?;
        self.journal(op)
    }

    /// Looks whether the kernel skipped a program, or a program found no room for what it must remember: nothing names what was
    /// missed then, so it is journaled as a hole, and the whole volume is read again to close it.
    pub(super) fn check_misses(&self) -> Result<()> {
        // Before the counters are read: what they do not tell now happens after this number.
        let looked_seq = self.sink.handle.status().captured_seq;
        let count = match &mut *self.parts() {
            Some(parts) => {
                parts.capture.pass_on_messages();
                let counters = parts.capture.counters();
                parts.capture.misses()? + counters.get(Counter::MapFull) + counters.get(Counter::ExitMissed)
            }
            None => return Ok(()),
        };
        let now = Misses { count, looked_seq };
        let Some(before) = self
            .misses_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .look(now)
        else {
            self.sink.handle.looked_for_misses(count, looked_seq);
            return Ok(());
        };
        tracing::warn!(
            "{}: {} events were missed in the kernel since number {}: reading the volume again",
            self.path.display(),
            count - before.count,
            before.looked_seq
        );
        if self.journal_missed(before.looked_seq)? {
            self.sink.handle.journaled_misses(count, looked_seq);
        }
        Ok(())
    }

    /// Journals that after a number something was missed that nothing names; false where the end has begun. The hole takes a number of its
    /// own.
    pub(super) fn journal_missed(&self, since_seq: u64) -> Result<bool> {
        let is_ending = self.is_ending.read().unwrap_or_else(PoisonError::into_inner);
        if *is_ending {
            return Ok(false);
        }
        let seq = self.sink.take_seq();
        let op = Op::Hole {
            last_seq: seq,
            inode: None,
            since_seq: Some(since_seq),
        };
        self.sink
            .submit(vec![own_record(seq, InodeKey::default(), false, op)])
            .context("journal missed events")?;
        Ok(true)
    }

    /// Waits until everything up to now that cannot be captured as it happens (inherited ACLs, failed operations, ...) is read from the
    /// live file system and stands in the journal, or until it is enough. Gives up after `timeout`, or where the medium is not there:
    /// what is not settled then is so later.
    fn settle(&self, timeout: Duration, is_enough: impl Fn(&Handle) -> bool) -> Result<()> {
        if self.state.load(Ordering::Relaxed) != STATE_RECORDING {
            return Ok(());
        }
        let handle = &self.sink.handle;
        let end = Instant::now() + timeout;
        while !is_enough(handle) {
            let before = handle.all_served();
            // What was missed until now must be read again before, not at the next look.
            self.check_misses()?;
            let (seq, _) = self.put_down(Op::Barrier { up_to: None })?;
            if !handle.settle(seq, end.saturating_duration_since(Instant::now()))? {
                tracing::warn!("{}: repairs are still under way", self.path.display());
                break;
            }
            // Nothing was asked for since before the number was taken: nothing is open at it.
            if before.is_some() && handle.all_served() == before {
                break;
            }
        }
        Ok(())
    }

    /// As [`Session::settle`], and longer for holes: a moment within one cannot be restored whole. Some are never closed (a subvolume
    /// that is not recorded, a file that cannot be read): those are not waited for.
    fn settle_holes(&self) -> Result<()> {
        self.settle(SETTLE_TIMEOUT, |_| false)?;
        self.settle(REPAIR_TIMEOUT, |handle| handle.status().holes_open == 0)
    }

    /// Names this moment.
    pub(super) fn mark(&self, name: &str) -> Result<Value> {
        self.settle_holes()?;
        let (seq, time_ns) = self.put_down(Op::Mark {
            name: name.to_owned(),
        })?;
        let holes_open = self.sink.handle.holes_open(seq);
        let time = jiff::Timestamp::from_nanosecond(time_ns.into())
            .context("tell the time")?
            .to_string();
        Ok(json!({
            "name": name, "uuid": self.volume.uuid, "path": self.path, "seq": seq, "time": time, "holes_open": holes_open,
        }))
    }

    /// Brings everything up to now onto the medium.
    pub(super) fn flush(&self, wait: bool) -> Result<Value> {
        if wait {
            self.settle_holes()?;
        }
        let (seq, _) = self.put_down(Op::Barrier { up_to: None })?;
        if wait {
            self.sink.handle.flush_or_say(seq, FLUSH_TIMEOUT)?;
        } else {
            self.sink.handle.flush_soon(seq);
        }
        let status = self.sink.handle.status();
        Ok(json!({
            "uuid": self.volume.uuid, "path": self.path, "seq": seq, "waited": wait,
            "durable_seq": status.durable_seq, "segment": status.segments, "holes_open": self.sink.handle.holes_open(seq),
        }))
    }

    /// Brings everything up to now onto the medium, and waits until that takes nothing more. Where the next one is there, the journal goes on on it.
    pub(super) fn eject(&self) -> Result<Value> {
        let Held { label, path, .. } = self.shelf.current();
        let (is_last, is_new) = (
            || self.shelf.ejected().is_some(),
            || self.shelf.current().label.medium != label.medium,
        );
        ensure!(!is_last(), "medium {} is ejected already", label.named());
        self.flush(true)?;
        self.shelf.eject(&label.medium);
        self.sink.handle.wake();
        let end = Instant::now() + EJECT_TIMEOUT;
        while !is_last() && !is_new() {
            self.sink.handle.check()?;
            ensure!(
                Instant::now() < end,
                "medium {} does not come to an end: see `recorder status`",
                label.named()
            );
            std::thread::sleep(STOP_INTERVAL);
        }
        if let Some(copies) = &self.copies {
            copies.settle(copies::SETTLE_TIMEOUT);
            copies.leave(&path)?;
        }
        let known = media::enter(&path, &label);
        let single = known.inspect_err(|error| tracing::error!("the catalog: {error:#}"));
        let next = is_new().then(|| self.shelf.current().label.named().to_string());
        Ok(json!({
            "uuid": self.volume.uuid, "path": self.path, "medium": label.named(), "at": path,
            "durable_seq": self.sink.handle.status().durable_seq, "single_copy": single.ok(), "next": next,
        }))
    }

    /// Brings everything up to now onto the medium and leaves the programs where they are: whoever attaches next goes on. Nothing is ended, for
    /// what comes after this is left as by a kill.
    pub(super) fn leave(&self) -> Result<Value> {
        let answer = self
            .flush(true)
            .with_context(|| format!("bring {} onto the medium", self.path.display()))?;
        if let Some(copies) = &self.copies {
            copies.settle(copies::END_TIMEOUT);
        }
        Ok(answer)
    }

    /// Syncs, takes the programs off, brings everything onto the medium, ends the threads. Whoever comes second waits for the first,
    /// and hears the same.
    pub(super) fn detach(&self) -> Result<Value> {
        let mut detached = self.detached.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken in a statement of its own: the lock must not be held while the recording ends, which looks at it again.
        let parts = self.parts().take();
        if let Some(parts) = parts {
            let has_base = self.state.load(Ordering::Relaxed) != STATE_BASE;
            *detached = Some(match self.end(parts) {
                Ok(()) => Detached::Well {
                    holes_open: self.sink.handle.status().holes_open,
                },
                Err(error) => Detached::Badly {
                    code: code_of(&error),
                    why: format!("{error:#}"),
                },
            });
            if !has_base {
                eprintln!(
                    "{}: its base was not complete: this epoch cannot be restored",
                    self.path.display()
                );
            }
        }
        let status = self.sink.handle.status();
        match &*detached {
            Some(Detached::Well { holes_open }) => Ok(json!({
                "path": self.path, "uuid": self.volume.uuid, "durable_seq": status.durable_seq, "holes_open": holes_open,
            })),
            Some(Detached::Badly { code, why }) => Err(coded(
                *code,
                format!(
                    "{why}; up to seq {} of {} is on the medium, what came after lies in {} until the next attach, which gives it up",
                    status.durable_seq,
                    status.captured_seq,
                    self.spool_dir.display()
                ),
            )),
            None => Err(coded(FAILED, "it was not attached")),
        }
    }

    fn end(&self, parts: Parts) -> Result<()> {
        let Parts {
            capture,
            pipeline,
            workers,
            copier,
            _lock,
        } = parts;
        let synced = self
            .sink
            .handle
            .check()
            .and_then(|()| self.settle_holes())
            .and_then(|()| self.put_down(Op::Barrier { up_to: None }))
            .map(drop);
        // Own records on their way pass before; none comes after.
        *self.is_ending.write().unwrap_or_else(PoisonError::into_inner) = true;
        self.sink.stop.store(true, Ordering::Relaxed);
        for worker in workers {
            let name = worker.thread().name().unwrap_or_default().to_owned();
            if worker.join().is_err() {
                tracing::error!("the thread {name} of {} panicked", self.path.display());
            }
        }
        let detached = capture.detach().context("take the programs out of the kernel");
        let stopped = pipeline.stop().context("bring the rest onto the medium");
        if let Some(copier) = copier {
            self.end_copies(&copier);
        }
        // What the end says of the medium tells more than that the barrier found no room.
        stopped.and(detached).and(synced)
    }
}
