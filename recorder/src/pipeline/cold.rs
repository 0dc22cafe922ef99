//! The cold path: spool to medium.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use abi::{Counter, LostSlot};
use anyhow::{Context, Result};
use journal::record::{Actor, Attributes, InodeKey, Op, Record, SnapshotScope};
use journal::{Error, Writer};

use super::{Handle, Requests, Shared, Waits, decode_own, lock, seq_of_own};
use crate::capture::{Counters, Lost};
use crate::decode;
use crate::doubt::{Doubt, Request};
use crate::merge::Merger;
use crate::order::Window;
use crate::spool::{Frame, FrameKind, SpoolReader};

/// A missing number is waited for this long once the spool is read to its end.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes that may wait behind a number that only the kernel can know of.
const WINDOW_BYTES_MAX: usize = 64 << 20;
/// Records are sealed at the latest this long after the first was pushed.
const SEAL_AFTER: Duration = Duration::from_secs(10);
/// Bytes of records that may be unsealed, for they are kept in memory until they are: what compresses well would never fill a segment.
const UNSEALED_BYTES_MAX: u64 = 128 << 20;
/// About what a record takes in memory beside its data.
const RECORD_BYTES: u64 = 512;
/// Frames read before what else is due is looked at.
const FRAMES_AT_ONCE: usize = 256;
/// Time between two tries to write to a medium that failed.
const RETRY: Duration = Duration::from_secs(2);

/// What the cold path needs to know.
pub(super) struct Options {
    pub(super) spool_dir: PathBuf,
    pub(super) segment_bytes_target: u64,
    pub(super) first_seq: u64,
    pub(super) counters: Counters,
    pub(super) lost: Lost,
}

/// The thread that writes the journal.
pub(super) struct Cold {
    shared: Arc<Shared>,
    options: Options,
    reader: SpoolReader,
    window: Window<Frame>,
    /// Since when the first missing number is waited for, with nothing left to read.
    waiting_since: Option<Instant>,
    lost_cursor: u64,
    lost: HashMap<u64, LostSlot>,
    doubt: Doubt,
    merger: Merger,
    writer: Writer,
    /// Records of the segment begun: pushed again when the medium fails.
    unsealed: Vec<Record>,
    unsealed_since: Option<Instant>,
    unsealed_bytes: u64,
    requests: Requests,
    wanted: Vec<Request>,
    holes: std::collections::BTreeSet<u64>,
}

impl Cold {
    pub(super) fn new(shared: Arc<Shared>, options: Options, writer: Writer, requests: Requests) -> Self {
        Self {
            shared,
            reader: SpoolReader::new(&options.spool_dir),
            window: Window::new(options.first_seq),
            options,
            waiting_since: None,
            lost_cursor: 0,
            lost: HashMap::new(),
            doubt: Doubt::default(),
            merger: Merger::default(),
            writer,
            unsealed: Vec::new(),
            unsealed_since: None,
            unsealed_bytes: 0,
            requests,
            wanted: Vec::new(),
            holes: std::collections::BTreeSet::new(),
        }
    }

    /// Runs until told to stop and everything is sealed.
    pub(super) fn run(mut self) -> Result<()> {
        loop {
            let stopping = self.shared.stop_cold.load(Ordering::SeqCst);
            let written = lock(&self.shared.spool).written;
            let mut idle = false;
            for _ in 0..FRAMES_AT_ONCE {
                let Some(frame) = self.reader.next(written).context("read the spool")? else {
                    idle = true;
                    break;
                };
                self.take(frame);
            }
            self.pass_on(idle)?;
            let sent = self.requests.send(&mut self.wanted);
            self.shared.requests_sent.fetch_add(sent, Ordering::SeqCst);
            // After the requests are counted: who sees this number sees them too.
            self.shared
                .passed_seq
                .store(self.window.next_seq() - 1, Ordering::SeqCst);
            if self.is_due(idle, stopping) {
                self.seal()?;
            }
            if idle {
                let state = lock(&self.shared.spool);
                let done = self.window.len() == 0 && self.unsealed.is_empty() && state.written == written;
                if stopping && done {
                    return Ok(());
                }
                if state.written == written && !self.shared.stop_cold.load(Ordering::SeqCst) {
                    drop(self.shared.wait(state));
                } else if stopping {
                    drop(state);
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            self.shared.check()?;
        }
    }

    fn take(&mut self, frame: Frame) {
        let seq = match frame.kind {
            FrameKind::Event => decode::seq_of(&frame.payload),
            FrameKind::Own => seq_of_own(&frame.payload),
        };
        match seq {
            Ok(seq) => {
                let bytes = frame.payload.len();
                if !self.window.push(seq, bytes, frame) && seq >= self.options.first_seq {
                    tracing::error!("sequence number {seq} came twice or after it was given up");
                }
            }
            Err(error) => tracing::error!("a frame without a number: {error:#}"),
        }
    }

    /// Passes on what is in order.
    fn pass_on(&mut self, idle: bool) -> Result<()> {
        loop {
            while let Some(frame) = self.window.pop() {
                self.waiting_since = None;
                self.frame(frame)?;
            }
            let Some((first_seq, last_seq)) = self.window.gap() else {
                self.waiting_since = None;
                return Ok(());
            };
            match self.give_up(first_seq, last_seq, idle) {
                Some(last_seq) => self.hole(last_seq)?,
                None => return Ok(()),
            }
        }
    }

    /// How much of a gap is lost for certain, or has been waited for long enough.
    fn give_up(&mut self, first_seq: u64, last_seq: u64, idle: bool) -> Option<u64> {
        self.read_lost();
        if let Some(first) = self.lost.get(&first_seq) {
            // What the same inode lost in a row is one hole.
            let same = |seq: &u64| {
                self.lost.get(seq).is_some_and(|slot| {
                    (slot.inode, slot.parent, slot.to_parent) == (first.inode, first.parent, first.to_parent)
                })
            };
            return (first_seq..=last_seq).take_while(same).last();
        }
        let owed = lock(&self.shared.outstanding)
            .range(first_seq..=last_seq)
            .next()
            .copied();
        if owed == Some(first_seq) {
            // Its owner lives and will submit it.
            return None;
        }
        let too_much = self.window.bytes() > WINDOW_BYTES_MAX;
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        if too_much || (idle && since.elapsed() > GRACE) {
            let until_owed = owed.map_or(last_seq, |seq| seq - 1);
            let until_known = (first_seq..=until_owed)
                .find(|seq| self.lost.contains_key(seq))
                .map_or(until_owed, |seq| seq - 1);
            return Some(until_known);
        }
        None
    }

    fn read_lost(&mut self) {
        let head = self.options.counters.get(Counter::LostHead);
        if head == self.lost_cursor {
            return;
        }
        if let Some(slots) = self.options.lost.read(&mut self.lost_cursor, head) {
            self.lost.extend(slots.into_iter().map(|slot| (slot.seq, slot)));
        }
    }

    /// Journals the loss of the numbers up to `last_seq` and asks for their repair.
    fn hole(&mut self, last_seq: u64) -> Result<()> {
        let (first_seq, last_seq) = self.window.give_up(last_seq);
        let slot = self.lost.remove(&first_seq);
        for seq in first_seq + 1..=last_seq.min(first_seq + self.lost.len() as u64) {
            self.lost.remove(&seq);
        }
        let key = |inode: abi::InodeRef| InodeKey {
            ino: inode.ino,
            generation: inode.generation,
        };
        let inode = slot.map(|slot| key(slot.inode));
        tracing::warn!("sequence numbers {first_seq} to {last_seq} are lost (inode {inode:?}): a hole");
        let scope = SnapshotScope::Whole;
        let closes = Some(first_seq);
        match slot {
            Some(slot) => {
                for directory in [slot.parent, slot.to_parent] {
                    if directory.ino != 0 {
                        let inode = key(directory);
                        self.wanted.push(Request::Snapshot {
                            inode,
                            scope,
                            only_if_unmet: false,
                            closes: None,
                        });
                    }
                }
                let inode = key(slot.inode);
                self.wanted.push(Request::Snapshot {
                    inode,
                    scope,
                    only_if_unmet: false,
                    closes,
                });
            }
            None => self.wanted.push(Request::Everything { closes }),
        }
        self.record(own(first_seq, last_seq, Op::Hole { last_seq, inode }))
    }

    fn frame(&mut self, frame: Frame) -> Result<()> {
        match frame.kind {
            FrameKind::Own => {
                let record = decode_own(&frame.payload)?;
                lock(&self.shared.outstanding).remove(&record.seq);
                self.doubt.own(&record, &mut self.wanted);
                self.record(record)
            }
            FrameKind::Event => match decode::decode(&frame.payload, boot_ns()) {
                Ok(decoded) if decode::is_untrusted(&decoded) => {
                    let (seq, inode) = (decoded.record.seq, decoded.record.inode);
                    tracing::warn!(
                        "event {seq} of inode {} could not be read whole: a hole",
                        inode.ino
                    );
                    let scope = SnapshotScope::Whole;
                    let closes = Some(seq);
                    self.wanted.push(if decode::is_about_names(&decoded) {
                        Request::Everything { closes }
                    } else {
                        Request::Snapshot {
                            inode,
                            scope,
                            only_if_unmet: false,
                            closes,
                        }
                    });
                    self.record(own(
                        seq,
                        seq,
                        Op::Hole {
                            last_seq: seq,
                            inode: Some(inode),
                        },
                    ))
                }
                Ok(decoded) => {
                    self.doubt.event(&decoded, &mut self.wanted);
                    self.record(decoded.record)
                }
                Err(error) => {
                    let seq = decode::seq_of(&frame.payload)?;
                    tracing::error!("event {seq} cannot be decoded: {error:#}");
                    self.wanted.push(Request::Everything { closes: Some(seq) });
                    self.record(own(
                        seq,
                        seq,
                        Op::Hole {
                            last_seq: seq,
                            inode: None,
                        },
                    ))
                }
            },
        }
    }

    /// Passes a record to the merger, and what comes out of it to the writer.
    fn record(&mut self, record: Record) -> Result<()> {
        match &record.op {
            Op::Hole { .. } => {
                self.holes.insert(record.seq);
            }
            Op::HoleClosed { hole_seq } => {
                self.holes.remove(hole_seq);
                self.close_others(*hole_seq)?;
            }
            _ => {}
        }
        self.shared
            .holes_open
            .store(self.holes.len() as u64, Ordering::Relaxed);
        match self.merger.push(record) {
            Some(record) => self.write(record),
            None => Ok(()),
        }
    }

    /// What was read for one hole repaired others too.
    fn close_others(&mut self, hole_seq: u64) -> Result<()> {
        let others = self.requests.closed(hole_seq);
        if others.is_empty() {
            return Ok(());
        }
        let handle = Handle {
            shared: Arc::clone(&self.shared),
        };
        let closed = |hole_seq| {
            let seq = handle.take_seq();
            own(seq, seq, Op::HoleClosed { hole_seq })
        };
        handle.submit(others.into_iter().map(closed).collect())
    }

    fn write(&mut self, record: Record) -> Result<()> {
        self.unsealed_since.get_or_insert_with(Instant::now);
        self.unsealed_bytes += match &record.op {
            Op::Write { length, .. } => *length + RECORD_BYTES,
            _ => RECORD_BYTES,
        };
        let pushed = self.writer.push(&record);
        self.unsealed.push(record);
        match pushed {
            Ok(()) => Ok(()),
            Err(error) => self.again(error),
        }
    }

    fn is_due(&self, idle: bool, stopping: bool) -> bool {
        let flush_seq = self.shared.flush_seq.load(Ordering::SeqCst);
        let asked =
            flush_seq > self.shared.durable_seq.load(Ordering::SeqCst) && self.window.next_seq() > flush_seq;
        let late = self
            .unsealed_since
            .is_some_and(|since| since.elapsed() > SEAL_AFTER);
        asked
            || late
            || (stopping && idle)
            || self.unsealed_bytes >= UNSEALED_BYTES_MAX
            || self.writer.bytes_pending() >= self.options.segment_bytes_target
    }

    /// Seals everything that has passed, and gives spool space back.
    fn seal(&mut self) -> Result<()> {
        if let Some(record) = self.merger.finish() {
            self.write(record)?;
        }
        let durable_seq = self.window.next_seq() - 1;
        loop {
            match self.writer.seal() {
                Ok(sealed) => {
                    if let Some(sealed) = sealed {
                        self.shared.segments.fetch_add(1, Ordering::Relaxed);
                        self.shared
                            .bytes_written
                            .fetch_add(sealed.bytes, Ordering::Relaxed);
                    }
                    break;
                }
                Err(error) => self.again(error)?,
            }
        }
        self.unsealed.clear();
        self.unsealed_since = None;
        self.unsealed_bytes = 0;
        *lock(&self.shared.waits) = None;
        self.shared.durable_seq.store(durable_seq, Ordering::SeqCst);
        let needed = self
            .window
            .waiting()
            .map(|frame| frame.file)
            .min()
            .unwrap_or(u64::MAX)
            .min(self.reader.file());
        let mut state = lock(&self.shared.spool);
        let mut oldest = state.oldest;
        state.spool.release(&mut oldest, needed)?;
        state.oldest = oldest;
        drop(state);
        self.shared.news.notify_all();
        Ok(())
    }

    /// The medium failed: says so, waits, and pushes again what was not sealed, until it works or the pipeline ends.
    fn again(&mut self, error: Error) -> Result<()> {
        let mut error = error;
        loop {
            if !matches!(error, Error::Io { .. } | Error::MediumFull(_))
                || self.shared.stop_cold.load(Ordering::SeqCst)
            {
                return Err(error).context("write to the medium");
            }
            tracing::error!("the medium: {error}; spooling goes on, trying again");
            let since = lock(&self.shared.waits)
                .as_ref()
                .map_or_else(Instant::now, |waits| waits.since);
            *lock(&self.shared.waits) = Some(Waits {
                since,
                why: format!("the medium: {error}"),
                exit_code: error.exit_code(),
            });
            std::thread::sleep(RETRY);
            match self
                .unsealed
                .iter()
                .try_for_each(|record| self.writer.push(record))
            {
                // It is well again when something is sealed.
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
    }
}

fn own(seq: u64, last_seq: u64, op: Op) -> Record {
    let time_ns = now_ns();
    let actor = Actor {
        comm: b"recorder".to_vec(),
        ..Actor::default()
    };
    let (inode, attributes) = (InodeKey::default(), Attributes::default());
    Record {
        seq,
        last_seq,
        time_ns,
        inode,
        attributes,
        from_snapshot: false,
        actor,
        op,
    }
}

fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// When the machine was started, nanoseconds since 1970, as the clock says now.
fn boot_ns() -> i64 {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now_ns() - (boot.tv_sec * 1_000_000_000 + boot.tv_nsec)
}
