//! The end of the cold path: records in order -> merged -> a segment on the medium, tried again for as long as the medium refuses.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result};
use journal::record::{Op, Record};
use journal::{CheckpointOf, Error, Head, SealedSegment, Writer};

use super::Changer;
use super::shared::{Shared, Waits, lock};
use crate::cli::exit::{MEDIUM_NEEDED, coded};
use crate::merge::Merger;
use crate::pulse;

/// About what a record takes in memory beside its data.
const RECORD_BYTES: u64 = 512;
/// Records of so many bytes are one segment, however often a medium was full: it fits on every medium that is taken (`MEDIUM_BYTES_MIN`), and the next one,
/// which may come late, does not get hundreds of small ones.
const PART_BYTES_MIN: u64 = 8 << 20;

/// Writes records to the medium and keeps them until they are sealed there.
pub(super) struct Output {
    shared: Arc<Shared>,
    merger: Merger,
    writer: Writer,
    changer: Option<Arc<dyn Changer>>,
    looked_for_next: Option<Instant>,
    /// Records of the segment begun: pushed again when the medium fails.
    unsealed: Vec<Record>,
    unsealed_since: Option<Instant>,
    unsealed_bytes: u64,
    /// Bytes of them that are sealed as one segment, where a medium was full: even a blank one may be too small for all of them.
    part_bytes: u64,
    /// Numbers after everything that is sealed, as one record that says nothing: not worth a segment of their own.
    quiet: Option<Record>,
}

impl Output {
    pub(super) fn new(shared: Arc<Shared>, writer: Writer, changer: Option<Arc<dyn Changer>>) -> Self {
        Self {
            shared,
            merger: Merger::default(),
            writer,
            changer,
            looked_for_next: None,
            unsealed: Vec::new(),
            unsealed_since: None,
            unsealed_bytes: 0,
            part_bytes: u64::MAX,
            quiet: None,
        }
    }

    /// Takes the next record.
    pub(super) fn push(&mut self, record: Record) -> Result<()> {
        if let Some(quiet) = self.quiet.take() {
            self.merge(quiet)?;
        }
        self.merge(record)
    }

    /// Takes a record that says nothing. Where all before it is sealed, it waits for the next one that says something, so that a volume on
    /// which nothing happens costs the medium nothing.
    pub(super) fn push_quiet(&mut self, record: Record) -> Result<()> {
        let is_empty = self.is_empty();
        match &mut self.quiet {
            Some(quiet) if quiet.last_seq + 1 == record.seq => quiet.last_seq = record.last_seq,
            None if is_empty => self.quiet = Some(record),
            _ => self.push(record)?,
        }
        Ok(())
    }

    fn merge(&mut self, record: Record) -> Result<()> {
        // Also what the merger holds back, perhaps for long, is to be sealed in time.
        self.unsealed_since.get_or_insert_with(Instant::now);
        match self.merger.push(record) {
            Some(record) => self.write(record),
            None => Ok(()),
        }
    }

    /// The end of the journal once everything up to `last_seq` is sealed.
    pub(super) fn head_at(&self, last_seq: u64) -> Head {
        self.writer.head_at(last_seq)
    }

    /// Whether everything taken that says something is sealed.
    pub(super) fn is_empty(&self) -> bool {
        self.unsealed.is_empty() && self.merger.is_empty()
    }

    /// Whether time or size say that it is to be sealed.
    pub(super) fn is_due(&self) -> bool {
        let limits = &self.shared.limits;
        let late = self
            .unsealed_since
            .is_some_and(|since| since.elapsed() > limits.seal_after);
        let leaving = !self.is_empty() && self.changer.as_ref().is_some_and(|changer| changer.is_ejecting());
        late || leaving
            || self.unsealed_bytes >= limits.unsealed_bytes_max
            || self.writer.bytes_pending() >= limits.segment_bytes
    }

    fn write(&mut self, record: Record) -> Result<()> {
        pulse::beat();
        self.shared.steps.fetch_add(1, Ordering::Relaxed);
        self.unsealed_bytes += weight(&record);
        let pushed = self.writer.push(&record);
        self.unsealed.push(record);
        match pushed {
            Ok(()) => Ok(()),
            Err(error) => self.again(error),
        }
    }

    /// Seals everything taken.
    pub(super) fn seal(&mut self) -> Result<()> {
        if let Some(quiet) = self.quiet.take() {
            self.merge(quiet)?;
        }
        if let Some(record) = self.merger.finish() {
            self.write(record)?;
        }
        loop {
            match self.writer.seal() {
                Ok(sealed) => {
                    self.count(sealed);
                    break;
                }
                Err(error) => self.again(error)?,
            }
        }
        self.shared.steps.fetch_add(1, Ordering::Relaxed);
        self.part_bytes = u64::MAX;
        self.unsealed.clear();
        self.unsealed_since = None;
        self.unsealed_bytes = 0;
        Ok(())
    }

    fn count(&self, sealed: Option<SealedSegment>) {
        let Some(sealed) = sealed else { return };
        self.shared.segments.fetch_add(1, Ordering::Relaxed);
        self.shared
            .bytes_written
            .fetch_add(sealed.bytes, Ordering::Relaxed);
        // Only what the medium took proves that it is well again.
        *lock(&self.shared.waits) = None;
    }

    /// Where somebody wants to take the medium out, and nothing is begun on it, it may go. Then the next one is looked for, now and then.
    pub(super) fn let_go(&mut self) {
        let Some(changer) = &self.changer else { return };
        if !self.unsealed.is_empty() {
            return;
        }
        if changer.is_ejecting() {
            changer.finish(self.writer.sealed_index() + 1, false);
        } else if !changer.is_over()
            || self
                .looked_for_next
                .is_some_and(|looked| looked.elapsed() < self.shared.limits.retry)
        {
            return;
        }
        self.looked_for_next = Some(Instant::now());
        self.change();
    }

    /// Goes on on the next medium, where this one is finished and there is one.
    fn change(&mut self) {
        let next_index = self.writer.sealed_index() + 1;
        if self
            .changer
            .as_ref()
            .is_some_and(|changer| changer.change(next_index))
        {
            self.writer.medium_changed();
            // What the one before refused says nothing of this one.
            *lock(&self.shared.waits) = None;
        }
    }

    /// Seals records of a checkpoint as one segment; nothing of the history is begun.
    pub(super) fn seal_checkpoint(&mut self, of: CheckpointOf, records: &[Record]) -> Result<()> {
        loop {
            pulse::beat();
            match self.writer.seal_checkpoint(of, records) {
                Ok(sealed) => {
                    self.count(sealed);
                    self.shared.steps.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => self.again(error)?,
            }
        }
    }

    /// The medium failed: says so, waits, and pushes again what was not sealed, until it works, or the pipeline is to end and has
    /// waited long enough.
    fn again(&mut self, error: Error) -> Result<()> {
        let mut error = error;
        loop {
            let exit_code = match &error {
                Error::MediumFull(_) => error.exit_code(),
                Error::Io { .. } | Error::MediumNeeded(_) => MEDIUM_NEEDED,
                _ => return Err(error).context("write to the medium"),
            };
            if let Error::MediumFull(_) = error {
                self.part_bytes = (self.part_bytes.min(self.unsealed_bytes) / 2).max(PART_BYTES_MIN);
                if let Some(changer) = &self.changer {
                    changer.finish(self.writer.sealed_index() + 1, true);
                }
            }
            let next = self.changer.as_ref().and_then(|changer| changer.why_not());
            let why = match next {
                Some(next) => format!("the medium: {error}; {next}"),
                None => format!("the medium: {error}"),
            };
            tracing::error!("{why}; spooling goes on, trying again");
            {
                let mut waits = lock(&self.shared.waits);
                let since = waits.as_ref().map_or_else(Instant::now, |waits| waits.since);
                *waits = Some(Waits {
                    since,
                    until: Instant::now(),
                    why: why.clone(),
                    exit_code,
                });
            }
            // Without this, a mark that waits for repairs would only look again when something is written.
            self.shared.news.notify_all();
            if self.shared.stop_cold.load(Ordering::SeqCst) && self.shared.refused_the_end().is_some() {
                return Err(coded(exit_code, why));
            }
            std::thread::sleep(self.shared.limits.retry);
            self.shared.check()?;
            pulse::beat();
            self.shared.steps.fetch_add(1, Ordering::Relaxed);
            self.change();
            match self.push_again() {
                // It is well again when something is sealed.
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
    }

    /// Pushes again what was not sealed, and seals parts of it where a medium was full.
    fn push_again(&mut self) -> Result<(), Error> {
        let (mut pushed, mut bytes) = (0, 0);
        while let Some(record) = self.unsealed.get(pushed) {
            self.writer.push(record)?;
            pushed += 1;
            bytes += weight(record);
            if bytes >= self.part_bytes {
                let sealed = self.writer.seal()?;
                self.count(sealed);
                pulse::beat();
                self.shared.steps.fetch_add(1, Ordering::Relaxed);
                self.unsealed.drain(..pushed);
                self.unsealed_bytes = self.unsealed_bytes.saturating_sub(bytes);
                (pushed, bytes) = (0, 0);
            }
        }
        Ok(())
    }
}

/// Bytes that a record takes in memory, about.
fn weight(record: &Record) -> u64 {
    let data = match &record.op {
        Op::Write { length, .. } => *length,
        Op::SetXattr { value, .. } => value.len() as u64,
        Op::Create {
            link_target: Some(target),
            ..
        }
        | Op::Snapshot {
            link_target: Some(target),
            ..
        } => target.len() as u64,
        _ => 0,
    };
    RECORD_BYTES + data
}
