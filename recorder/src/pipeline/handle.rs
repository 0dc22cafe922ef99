//! The way into a pipeline, for any thread: numbers, own records, waiting, status.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use journal::CheckpointOf;
use journal::record::{InodeKey, Op, Record};

use super::own;
use super::shared::{Aside, Shared, SpoolState, Waits, lock};
use crate::cli::exit::coded;
use crate::pulse::{self, Place, Pulses};
use crate::snapshot::own_record;
use crate::spool::FrameKind;

/// What a pipeline has done so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct PipelineStatus {
    /// Newest number taken.
    pub(crate) captured_seq: u64,
    /// Newest number in the spool, synced.
    pub(crate) spooled_seq: u64,
    /// Everything up to here has passed: is in order, decoded, and handed to the writer.
    pub(crate) passed_seq: u64,
    /// Everything up to here is on the medium, synced.
    pub(crate) durable_seq: u64,
    /// Everything up to here is on the medium, or changed nothing.
    pub(crate) safe_seq: u64,
    /// The newest number that has passed and says something.
    pub(crate) said_seq: u64,
    /// Bytes that wait in the ring.
    pub(crate) ring_fill_bytes: u64,
    /// Bytes in memory that wait for a missing number.
    pub(crate) window_bytes: u64,
    /// Bytes of disk that the spool takes.
    pub(crate) spool_bytes: u64,
    /// Of these, bytes that hold something.
    pub(crate) spool_used_bytes: u64,
    /// Events from the kernel.
    pub(crate) events: u64,
    /// Their bytes.
    pub(crate) bytes_captured: u64,
    /// Bytes of sealed segments.
    pub(crate) bytes_written: u64,
    /// Sealed segments.
    pub(crate) segments: u64,
    /// Holes that are not repaired.
    pub(crate) holes_open: u64,
    /// Holes that were repaired in this run.
    pub(crate) holes_repaired: u64,
    /// Why it does not go on.
    pub(crate) failure: Option<String>,
    /// What the medium says, since when, and the exit code of that, where it does not take what it is given.
    pub(crate) refused: Option<Refused>,
}

impl PipelineStatus {
    /// Why it does not go on, or what it waits for.
    pub(crate) fn error(&self) -> Option<String> {
        let refused = || self.refused.as_ref().map(|refused| refused.why.clone());
        self.failure.clone().or_else(refused)
    }
}

/// A medium that does not take what it is given.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) why: String,
    pub(crate) exit_code: u8,
    pub(crate) since: Instant,
}

/// A way into a pipeline, for any thread.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    /// The epoch that is being written.
    pub(crate) fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// The chain that is being written.
    pub(crate) fn chain(&self) -> &str {
        &self.shared.chain
    }

    /// Has records of a checkpoint sealed as one segment, after what of the history is begun; however long a medium stays away. One caller at a time.
    ///
    /// # Errors
    /// When told to stop, or the pipeline has stopped.
    pub(crate) fn seal_checkpoint(
        &self,
        of: CheckpointOf,
        records: Vec<Record>,
        stop: &AtomicBool,
    ) -> Result<()> {
        *lock(&self.shared.aside) = Aside::Waits(of, records);
        self.shared.news.notify_all();
        let sealed = self.wait_until(
            |_| matches!(*lock(&self.shared.aside), Aside::Sealed),
            || {
                stop.load(Ordering::Relaxed)
                    .then(|| anyhow!("interrupted while a checkpoint was made: it does not count"))
            },
        );
        *lock(&self.shared.aside) = Aside::Nothing;
        sealed
    }

    /// Waits until `done`, or until `give_up` has an error, or the pipeline one.
    fn wait_until(
        &self,
        done: impl Fn(&SpoolState) -> bool,
        give_up: impl Fn() -> Option<anyhow::Error>,
    ) -> Result<()> {
        let mut state = lock(&self.shared.spool);
        while !done(&state) {
            self.shared.check()?;
            if let Some(error) = give_up() {
                return Err(error);
            }
            state = self.shared.wait(state);
        }
        drop(state);
        self.shared.check()
    }

    /// Why there is no use in waiting longer: the medium refuses, or the time is over.
    fn out_of_patience(&self, begin: Instant, timeout: Duration) -> Option<anyhow::Error> {
        if let Some(Waits { why, exit_code, .. }) = self.shared.refused(begin) {
            return Some(coded(exit_code, format!("not on the medium yet: {why}")));
        }
        if begin.elapsed() < timeout {
            return None;
        }
        let why = lock(&self.shared.waits)
            .clone()
            .map_or_else(|| "it is slow".to_owned(), |waits| waits.why);
        Some(anyhow!("not on the medium yet: {why}"))
    }

    /// Waits until the spool is below its high-water mark, however long a medium stays away. To be called while no number is
    /// outstanding.
    ///
    /// # Errors
    /// When told to stop, or the pipeline has stopped.
    pub(crate) fn reserve(&self, stop: &AtomicBool) -> Result<()> {
        self.wait_until(
            |state| !state.spool.is_above_high_water(),
            || {
                stop.load(Ordering::Relaxed)
                    .then(|| anyhow!("interrupted while the spool is full"))
            },
        )
    }

    /// As [`Handle::reserve`], but fails as soon as the medium has refused everything for [`super::Limits::patience`].
    ///
    /// # Errors
    /// Also with the exit code of the medium's trouble.
    pub(crate) fn reserve_or_say(&self, timeout: Duration) -> Result<()> {
        let begin = Instant::now();
        self.wait_until(
            |state| !state.spool.is_above_high_water(),
            || {
                self.out_of_patience(begin, timeout)
                    .map(|error| error.context("the spool is full"))
            },
        )
    }

    /// Takes a number for a record that will be submitted: until then nothing later passes.
    pub(crate) fn take_seq(&self) -> u64 {
        let mut outstanding = lock(&self.shared.outstanding);
        let numbers = &self.shared.numbers;
        let seq = lock(&self.shared.taken).take(numbers.peek(), || numbers.next());
        outstanding.insert(seq);
        seq
    }

    /// Remembers over a kill that so many missed events are journaled, and up to which number was looked for them.
    pub(crate) fn journaled_misses(&self, count: u64, looked_seq: u64) {
        lock(&self.shared.taken).journaled_misses(count, looked_seq);
    }

    /// Remembers over a kill up to which number was looked for missed events, where all of them are journaled.
    pub(crate) fn looked_for_misses(&self, count: u64, looked_seq: u64) {
        lock(&self.shared.taken).looked_for_misses(count, looked_seq);
    }

    /// Hands over records whose numbers were taken.
    ///
    /// # Errors
    /// When the pipeline has stopped, or the spool's disk fails.
    pub(crate) fn submit(&self, records: Vec<Record>) -> Result<()> {
        self.shared.check()?;
        let mut state = lock(&self.shared.spool);
        let _disk = pulse::at(Place::Spool);
        for record in &records {
            let (length, head, data) = own::encode(record)?;
            state.spool.append(FrameKind::Own, &[&length, &head, data])?;
            state.appended_seq = state.appended_seq.max(record.seq);
        }
        self.shared.write_out(&mut state)?;
        self.shared.news.notify_all();
        Ok(())
    }

    /// Hands over a record that says nothing; returns its number.
    ///
    /// # Errors
    /// As [`Handle::submit`].
    pub(super) fn nothing(&self) -> Result<u64> {
        let seq = self.take_seq();
        self.submit(vec![own_record(seq, InodeKey::default(), true, Op::SetAttr)])?;
        Ok(seq)
    }

    fn ask_for(&self, seq: u64) {
        self.shared.flush_seq.fetch_max(seq, Ordering::SeqCst);
        self.shared.news.notify_all();
    }

    fn is_durable(&self, seq: u64) -> bool {
        self.shared.durable_seq.load(Ordering::SeqCst) >= seq
    }

    /// Asks for everything up to `seq` to be brought onto the medium; waits for nothing.
    pub(crate) fn flush_soon(&self, seq: u64) {
        self.ask_for(seq);
    }

    /// Whoever waits for news looks again.
    pub(crate) fn wake(&self) {
        self.shared.news.notify_all();
    }

    /// Returns when everything up to `seq` is on the medium, however long that stays away.
    ///
    /// # Errors
    /// When told to stop, or the pipeline has stopped.
    pub(crate) fn flush(&self, seq: u64, stop: &AtomicBool) -> Result<()> {
        self.ask_for(seq);
        self.wait_until(
            |_| self.is_durable(seq),
            || {
                stop.load(Ordering::Relaxed)
                    .then(|| anyhow!("interrupted while waiting for the medium"))
            },
        )
    }

    /// Returns when everything up to `seq` is on the medium; fails as soon as that has refused everything for
    /// [`super::Limits::patience`].
    ///
    /// # Errors
    /// Also with the exit code of the medium's trouble, and when the time is over.
    pub(crate) fn flush_or_say(&self, seq: u64, timeout: Duration) -> Result<()> {
        let begin = Instant::now();
        self.ask_for(seq);
        self.wait_until(|_| self.is_durable(seq), || self.out_of_patience(begin, timeout))
    }

    /// Requests that were sent so far, where all of them are answered.
    pub(crate) fn all_served(&self) -> Option<u64> {
        let served = self.shared.requests_served.load(Ordering::SeqCst);
        let sent = self.shared.requests_sent.load(Ordering::SeqCst);
        let owed = self.shared.repairs_owed.load(Ordering::SeqCst);
        (served >= sent && owed == 0).then_some(sent)
    }

    /// Whether an operation that took its number up to `seq`, before it acts, had not ended when that number was last looked at.
    pub(crate) fn is_under_way(&self, seq: u64) -> bool {
        self.shared.under_way_seq.load(Ordering::SeqCst) <= seq
    }

    /// To be called when the records that answer a request are submitted.
    pub(crate) fn served(&self) {
        self.shared.requests_served.fetch_add(1, Ordering::SeqCst);
        self.shared.news.notify_all();
    }

    /// Waits until everything up to `seq` was looked at and what it asked for is answered; false where that did not come in time, or
    /// cannot because the medium is not there.
    ///
    /// # Errors
    /// When the pipeline has stopped.
    pub(crate) fn settle(&self, seq: u64, timeout: Duration) -> Result<bool> {
        let end = Instant::now() + timeout;
        let mut state = lock(&self.shared.spool);
        while self.shared.passed_seq.load(Ordering::SeqCst) < seq || self.all_served().is_none() {
            self.shared.check()?;
            if Instant::now() >= end || lock(&self.shared.waits).is_some() {
                return Ok(false);
            }
            state = self.shared.wait(state);
        }
        Ok(true)
    }

    /// Fails where the pipeline has stopped, with the exit code of its trouble. Waiting for a medium is no stop.
    ///
    /// # Errors
    /// Why it has stopped.
    pub(crate) fn check(&self) -> Result<()> {
        self.shared.check()
    }

    /// Holes up to this number that are not repaired, among the records that have passed.
    pub(crate) fn holes_open(&self, seq: u64) -> u64 {
        lock(&self.shared.holes).range(..=seq).count() as u64
    }

    /// The newest number that was taken.
    pub(crate) fn captured_seq(&self) -> u64 {
        self.shared.numbers.peek().saturating_sub(1)
    }

    /// The threads of the volume.
    pub(crate) fn pulses(&self) -> &Pulses {
        &self.shared.pulses
    }

    /// From now on changes of the attributes of this inode are the recorder's own, made to see them come back.
    pub(crate) fn watch_canary(&self, ino: u64) {
        self.shared.canary_ino.store(ino, Ordering::SeqCst);
    }

    /// The newest of them that came back.
    pub(crate) fn canary_seq(&self) -> u64 {
        self.shared.canary_seq.load(Ordering::SeqCst)
    }

    /// Everything up to here was looked at, and what that asked for is sent.
    pub(crate) fn passed_seq(&self) -> u64 {
        self.shared.passed_seq.load(Ordering::SeqCst)
    }

    /// Segments that were sealed.
    pub(crate) fn segments(&self) -> u64 {
        self.shared.segments.load(Ordering::Relaxed)
    }

    /// Bytes in the spool that hold something.
    pub(crate) fn spool_used_bytes(&self) -> u64 {
        self.shared.spool_used_bytes.load(Ordering::Relaxed)
    }

    /// What was done so far. Waits for nobody who waits for a disk.
    pub(crate) fn status(&self) -> PipelineStatus {
        let shared = &self.shared;
        let number = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let refused = lock(&shared.waits).clone();
        PipelineStatus {
            captured_seq: self.captured_seq(),
            spooled_seq: number(&shared.spooled_seq),
            passed_seq: number(&shared.passed_seq),
            safe_seq: number(&shared.safe_seq).max(number(&shared.durable_seq)),
            said_seq: number(&shared.said_seq),
            durable_seq: number(&shared.durable_seq),
            ring_fill_bytes: number(&shared.ring_fill_bytes),
            window_bytes: number(&shared.window_bytes),
            spool_bytes: number(&shared.spool_bytes),
            spool_used_bytes: number(&shared.spool_used_bytes),
            events: number(&shared.events),
            bytes_captured: number(&shared.bytes_captured),
            bytes_written: number(&shared.bytes_written),
            segments: number(&shared.segments),
            holes_open: lock(&shared.holes).len() as u64,
            holes_repaired: number(&shared.holes_repaired),
            failure: lock(&shared.failed).clone().map(|failure| failure.why),
            refused: refused.map(
                |Waits {
                     since,
                     until: _,
                     why,
                     exit_code,
                 }| Refused {
                    why,
                    exit_code,
                    since,
                },
            ),
        }
    }
}
