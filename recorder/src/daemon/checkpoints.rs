//! Checkpoints: the state at a moment, made from the journal and written into it, on request or where a bound says so.
//!
//! Owns when one is made and in what portions it is handed to the writer of the journal, which goes on with the history between two of them. What a
//! checkpoint is, and that it is read back before it counts, is the journal's. One from the live file system is made in the same way, after the
//! whole volume was stated again as part of the history: then nothing of it lies on the media before.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use journal::record::{InodeKey, Op, Record};
use journal::{At, Checkpoint, CheckpointOf, CheckpointSize, Journal, Reader};
use serde_json::{Value, json};

use super::volume::{STATE_RECORDING, STOP_INTERVAL, Session};
use crate::pulse;

/// Bytes of data that are handed over at once: one segment, which fits on every medium that is taken (`MEDIUM_BYTES_MIN`).
const PORTION_BYTES: u64 = 16 << 20;
/// Records that are handed over at once.
const PORTION_RECORDS: usize = 100_000;
/// Time between two looks whether one is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// Time until it is tried again where it could not be made.
const RETRY_INTERVAL: Duration = Duration::from_secs(600);

/// How often what lies on media before is looked for and stated again: it may move into what was stated already, while that goes on.
const RESTATE_ROUNDS: u32 = 5;

/// What is to be stated again from the live file system, and where to say that it is.
pub(super) struct Restate {
    /// Only these inodes; everything where there are none.
    pub(super) only: Option<Vec<InodeKey>>,
    pub(super) done: SyncSender<()>,
}

/// When a checkpoint is made without being asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// After so many bytes of segments.
    pub(crate) bytes: Option<u64>,
    /// After so long, where anything was written.
    pub(crate) interval: Option<Duration>,
    /// Before a restore of the newest moment needs more media than this.
    pub(crate) media_max: Option<u32>,
    /// From the live file system, so that the media before need not be there.
    pub(crate) is_live: bool,
}

/// Records on their way to the writer.
struct Portions<'a> {
    session: &'a Session,
    of: CheckpointOf,
    records: Vec<Record>,
    bytes: u64,
}

impl Portions<'_> {
    fn push(&mut self, record: Record) -> Result<()> {
        if let Op::Write { length, .. } = &record.op {
            self.bytes += length;
        }
        self.records.push(record);
        if self.bytes >= PORTION_BYTES || self.records.len() >= PORTION_RECORDS {
            self.seal()?;
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<()> {
        pulse::beat();
        self.bytes = 0;
        let records = std::mem::take(&mut self.records);
        if records.is_empty() {
            return Ok(());
        }
        let Session { sink, .. } = self.session;
        sink.handle.seal_checkpoint(self.of, records, &sink.stop)
    }
}

impl Session {
    /// Makes a checkpoint of the newest moment that is on the media, `is_live` after stating the whole volume again from the live file system. One at a time.
    ///
    /// # Errors
    /// Exit code 31 where a hole is open, 20 where something that is left lies on a medium that is not there, 30 where what was read back is not
    /// what was to be written: then it does not count.
    pub(super) fn checkpoint(&self, is_live: bool) -> Result<Value> {
        let _one = self
            .checkpointing
            .try_lock()
            .map_err(|_| anyhow!("a checkpoint is being made already"))?;
        ensure!(
            self.state.load(Ordering::Relaxed) == STATE_RECORDING,
            "the base is not complete yet: it is as good as a checkpoint"
        );
        self.flush(true)?;
        let began = Instant::now();
        let before = is_live.then(|| self.restate()).transpose()?;
        let (of, size) = self.write_checkpoint(before)?;
        tracing::warn!(
            "{}: a checkpoint of seq {} is made: {} inodes, {} bytes",
            self.path.display(),
            of.seq,
            size.inodes,
            size.bytes
        );
        Ok(json!({
            "uuid": self.volume.uuid, "path": self.path, "epoch": self.sink.handle.epoch(), "seq": of.seq,
            "is_live": is_live, "inodes": size.inodes, "bytes": size.bytes, "records": size.records, "seconds": began.elapsed().as_secs(),
        }))
    }

    /// States everything again; returns the newest segment from before that.
    fn restate(&self) -> Result<u64> {
        let reader = self.read_media()?;
        let journal = self.own_journal(&reader)?;
        // What keeps a checkpoint from being made is found before everything is written again.
        Checkpoint::check(&journal.resolve(&At::Latest)?)?;
        let newest = journal.segments().next_back();
        let before = newest.context("nothing is on the media yet")?.manifest.index;
        self.state_again(None)?;
        self.flush(true)?;
        Ok(before)
    }

    /// Has whoever reads the live file system state it again, and waits for that.
    fn state_again(&self, only: Option<Vec<InodeKey>>) -> Result<()> {
        let (done, is_done) = sync_channel(1);
        let ended = "nobody reads the volume any more";
        self.restates
            .send(Restate { only, done })
            .map_err(|_| anyhow!(ended))?;
        loop {
            pulse::beat();
            match is_done.recv_timeout(STOP_INTERVAL) {
                Ok(()) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(anyhow!(ended)),
                Err(RecvTimeoutError::Timeout) => self.sink.handle.check()?,
            }
            ensure!(
                !self.sink.stop.load(Ordering::Relaxed),
                "interrupted while a checkpoint was made: it does not count"
            );
        }
    }

    /// Writes it once nothing of it lies in segments up to `before`, or will not come from there.
    fn write_checkpoint(&self, before: Option<u64>) -> Result<(CheckpointOf, CheckpointSize)> {
        let mut rounds = RESTATE_ROUNDS;
        loop {
            let reader = self.read_media()?;
            let journal = self.own_journal(&reader)?;
            let checkpoint = self.begin_checkpoint(journal)?;
            // What was moved or had no name while the volume was walked through.
            let left = before.map(|before| checkpoint.inodes_with_data_up_to(before));
            match left.filter(|left| !left.is_empty() && rounds > 0) {
                None => return self.finish_checkpoint(checkpoint),
                Some(left) => self.state_again(Some(left))?,
            }
            rounds -= 1;
            self.flush(true)?;
        }
    }

    fn begin_checkpoint<'r>(&self, journal: &'r Journal) -> Result<Checkpoint<'r>> {
        let point = journal.resolve(&At::Latest)?;
        ensure!(
            point.epoch == self.sink.handle.epoch(),
            "the base of this epoch is not on the medium yet"
        );
        let mut found = journal.complete_checkpoints().into_iter();
        ensure!(
            !found.any(|there| there.epoch == point.epoch && there.of.seq == point.seq),
            "nothing has happened since the checkpoint of seq {}",
            point.seq
        );
        Ok(Checkpoint::new(journal, &point)?)
    }

    fn finish_checkpoint(&self, mut checkpoint: Checkpoint<'_>) -> Result<(CheckpointOf, CheckpointSize)> {
        let of = checkpoint.of();
        let mut portions = Portions {
            session: self,
            of,
            records: Vec::new(),
            bytes: 0,
        };
        checkpoint.write(|record| portions.push(record))?;
        portions.seal()?;
        let written = self.read_media()?;
        let written = self.own_journal(&written)?;
        let span = written
            .begun_checkpoint(checkpoint.epoch(), of.seq)
            .context("the checkpoint is not where it was written to")?;
        let end = checkpoint.verify(written, &span)?;
        portions.push(end)?;
        portions.seal()?;
        Ok((of, checkpoint.size()))
    }

    /// What is on the media that are there now.
    fn read_media(&self) -> Result<Reader> {
        Reader::open_with(self.shelf.stores(), &self.keys.identities).context("read the journal")
    }

    /// The chain that is being written.
    fn own_journal<'r>(&self, reader: &'r Reader) -> Result<&'r Journal> {
        let chain = self.sink.handle.chain();
        reader
            .volume(Some(&self.volume.uuid))?
            .into_iter()
            .find(|journal| journal.chain() == chain)
            .context("the journal is not where it was a moment ago")
    }

    /// Makes checkpoints where the policy says so, until the recording ends.
    pub(super) fn checkpoints(&self, policy: Policy) {
        let mut last = (Instant::now(), 0);
        // How many media are needed changes with the medium that is written, and is looked for then only: all manifests are read for it.
        let mut counted_on = String::new();
        let mut next_look = Instant::now() + LOOK_INTERVAL;
        while !self.sink.stop.load(Ordering::Relaxed) {
            pulse::beat();
            if Instant::now() < next_look {
                std::thread::sleep(STOP_INTERVAL);
                continue;
            }
            next_look = Instant::now() + LOOK_INTERVAL;
            let written = self.sink.handle.status().bytes_written;
            match self.due(policy, (last.0.elapsed(), written - last.1), &mut counted_on) {
                Ok(None) => {}
                Ok(Some(why)) => {
                    tracing::warn!("{}: a checkpoint is due: {why}", self.path.display());
                    match self.checkpoint(policy.is_live) {
                        Ok(_) => last = (Instant::now(), self.sink.handle.status().bytes_written),
                        Err(error) => {
                            tracing::error!("{}: no checkpoint: {error:#}", self.path.display());
                            next_look = Instant::now() + RETRY_INTERVAL;
                        }
                    }
                }
                Err(error) => {
                    tracing::error!("{}: whether a checkpoint is due: {error:#}", self.path.display());
                    next_look = Instant::now() + RETRY_INTERVAL;
                }
            }
        }
    }

    /// Why one is due, if it is: after so long and so many bytes since the last one. `counted_on` is the medium whose first
    /// segment the last count saw: until there is one on the next medium, that one is not needed yet, and it is counted again.
    fn due(
        &self,
        policy: Policy,
        (since, bytes): (Duration, u64),
        counted_on: &mut String,
    ) -> Result<Option<String>> {
        let Policy {
            bytes: bytes_max,
            interval,
            media_max,
            is_live: _,
        } = policy;
        if bytes_max.is_some_and(|max| bytes >= max) {
            return Ok(Some(format!("{bytes} bytes since the last one")));
        }
        if interval.is_some_and(|max| since >= max) && bytes > 0 {
            return Ok(Some(format!("{} s since the last one", since.as_secs())));
        }
        let Some(media_max) = media_max.filter(|_| *counted_on != self.shelf.current().label.medium) else {
            return Ok(None);
        };
        let (media, newest_on) = self.media_needed()?;
        if media >= media_max as usize && media > 1 {
            return Ok(Some(format!(
                "a restore needs {media} media, {media_max} are allowed"
            )));
        }
        *counted_on = newest_on;
        Ok(None)
    }

    /// On how many media what a restore of the newest moment reads lies, and on which the newest segment lies.
    fn media_needed(&self) -> Result<(usize, String)> {
        let reader = self.read_media()?;
        let journal = self.own_journal(&reader)?;
        let Some(newest) = journal.segments().next_back() else {
            return Ok((0, String::new()));
        };
        let newest_on = newest.lies_on().uuid.clone();
        let needed = journal
            .needed_for(newest.manifest.epoch, newest.manifest.last_seq)
            .context("the media that are there do not tell what a restore needs")?;
        let media: BTreeSet<_> = needed
            .into_iter()
            .filter_map(|index| journal.segment(index).ok())
            .map(|segment| segment.lies_on().uuid.clone())
            .collect();
        Ok((media.len(), newest_on))
    }
}
