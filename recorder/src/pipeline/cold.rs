//! The cold path: spool to medium.
//!
//! Owns the order of frames and what a missing one means. Once in order, records are for `output` to write.

mod left;
mod missing;
mod quiet;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use journal::Writer;
use journal::record::{InodeKey, Op, Record, SnapshotScope};
use journal::store::disk::Disk;

use super::ledger::Windows;
use super::losses::Losses;
use super::output::Output;
use super::resume::{Keeper, Known, Unfinished};
use super::shared::{Aside, Shared, lock};
use super::{Changer, Handle, Requests, own};
use crate::decode::{self, Decoded, Untold};
use crate::doubt::{Doubt, Request};
use crate::order::Window;
use crate::pulse;
use crate::snapshot::{hole, now_ns, own_record};
use crate::spool::{Frame, FrameKind, Position, SpoolReader};

/// Frames read before what else is due is looked at.
const FRAMES_AT_ONCE: usize = 256;
/// About what a frame takes in memory beside its payload.
const FRAME_BYTES: usize = 128;

/// The thread that writes the journal.
pub(super) struct Cold {
    shared: Arc<Shared>,
    reader: SpoolReader,
    /// Reads on where the window is full and a record of our own is missing.
    search: Option<SpoolReader>,
    first_seq: u64,
    window: Window<Frame>,
    /// Since when the first missing number is waited for, and how often the ring had been read to its end before.
    waiting_since: Option<(Instant, u64)>,
    /// How often the ring had been read to its end before the spool was looked at.
    drained: u64,
    losses: Losses,
    doubt: Doubt,
    output: Output,
    requests: Requests,
    wanted: Vec<Request>,
    windows: Windows,
    has_base: bool,
    unfinished: Unfinished,
    keeper: Keeper,
}

impl Cold {
    /// Begins after what is sealed, with what is known there.
    pub(super) fn new(
        handle: &Handle,
        (disk, spool_dir): (&Arc<dyn Disk>, &Path),
        (writer, changer): (Writer, Option<Arc<dyn Changer>>),
        requests: Requests,
        known: Known,
        keeper: Keeper,
    ) -> Result<Self> {
        let Known {
            is_left,
            has_base,
            doubt,
            requests: unanswered,
            holes,
            windows,
            void,
        } = known;
        let unfinished = if is_left {
            Unfinished::new(handle, unanswered, void)?
        } else {
            Unfinished::default()
        };
        let shared = Arc::clone(&handle.shared);
        *lock(&shared.holes) = holes;
        let first_seq = shared.durable_seq.load(Ordering::SeqCst) + 1;
        let oldest = lock(&shared.spool).oldest;
        Ok(Self {
            reader: SpoolReader::new(disk, spool_dir, oldest),
            search: None,
            first_seq,
            window: Window::new(first_seq),
            waiting_since: None,
            drained: 0,
            losses: Losses::default(),
            doubt,
            output: Output::new(Arc::clone(&shared), writer, changer),
            requests,
            wanted: Vec::new(),
            windows,
            has_base,
            unfinished,
            keeper,
            shared,
        })
    }

    /// Runs until told to stop and everything is sealed.
    pub(super) fn run(mut self) -> Result<()> {
        loop {
            pulse::beat();
            let stopping = self.shared.stop_cold.load(Ordering::SeqCst);
            self.drained = self.shared.drained.load(Ordering::SeqCst);
            let written = lock(&self.shared.spool).written;
            let idle = !self.read(written)?;
            self.pass_on(idle, stopping)?;
            let served = self.shared.requests_served.load(Ordering::SeqCst);
            let along = self.requests.answered(served);
            self.close(along)?;
            let sent = self.requests.send(&mut self.wanted, served);
            self.shared.requests_sent.fetch_add(sent, Ordering::SeqCst);
            self.shared
                .repairs_owed
                .store(self.requests.owed(), Ordering::SeqCst);
            let under_way = self.doubt.oldest_under_way().unwrap_or(u64::MAX);
            self.shared.under_way_seq.store(under_way, Ordering::SeqCst);
            // After the requests are counted: who sees this number sees them too.
            self.shared
                .passed_seq
                .store(self.window.next_seq() - 1, Ordering::SeqCst);
            self.shared
                .window_bytes
                .store(self.window.bytes() as u64, Ordering::Relaxed);
            self.seal_aside()?;
            if self.is_due(idle, stopping) {
                self.seal()?;
            }
            self.output.let_go();
            self.say_safe();
            if idle {
                let state = lock(&self.shared.spool);
                let done = self.window.len() == 0 && self.output.is_empty() && state.written == written;
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

    /// Reads some frames; whether there may be more.
    fn read(&mut self, written: Position) -> Result<bool> {
        for _ in 0..FRAMES_AT_ONCE {
            if self.is_over_bound() {
                return if self.owed_first() {
                    self.search(written)
                } else {
                    Ok(true)
                };
            }
            let Some(frame) = self.reader.next(written).context("read the spool")? else {
                return Ok(false);
            };
            self.take(frame);
        }
        Ok(true)
    }

    fn is_over_bound(&self) -> bool {
        self.window.bytes() > self.shared.limits.window_bytes_max
    }

    /// Whether everything waits for a record that the recorder owes, perhaps to itself: one that is in the spool, but not read yet.
    fn owed_first(&self) -> bool {
        let Some((first_seq, _)) = self.window.gap() else {
            return false;
        };
        lock(&self.shared.outstanding).contains(&first_seq)
    }

    /// Looks further on in the spool for records of our own, and keeps nothing else: the window stays within its bound, whatever is
    /// captured while a snapshot holds a number. Events met here are read again when there is room. Whether there may be more.
    fn search(&mut self, written: Position) -> Result<bool> {
        let here = self.reader.position();
        let mut search = match self.search.take() {
            Some(search) if search.position() > here => search,
            _ => self.reader.fork(),
        };
        let mut more = true;
        for _ in 0..FRAMES_AT_ONCE {
            match search.next(written).context("search the spool")? {
                Some(frame) if frame.kind == FrameKind::Own => {
                    self.take(frame);
                    break;
                }
                Some(_) => {}
                None => {
                    more = false;
                    break;
                }
            }
        }
        self.search = Some(search);
        Ok(more)
    }

    fn take(&mut self, frame: Frame) {
        pulse::beat();
        self.shared.steps.fetch_add(1, Ordering::Relaxed);
        let seq = match frame.kind {
            FrameKind::Lost => return,
            FrameKind::Event => decode::seq_of(&frame.payload),
            FrameKind::Own => own::seq_of(&frame.payload),
        };
        match seq {
            Ok(seq) => {
                let bytes = frame.payload.len() + FRAME_BYTES;
                let searched = self.search.as_ref().is_some_and(|search| {
                    frame.kind == FrameKind::Own && search.position() >= self.reader.position()
                });
                // A recorder that was killed before it let go of a batch has left that both in spool and ring.
                let left_twice = seq < self.unfinished.resume_seq;
                let expected = searched || left_twice || seq < self.first_seq;
                if !self.window.push(seq, bytes, frame) && !expected {
                    tracing::error!("sequence number {seq} came twice or after it was given up");
                }
            }
            Err(error) => tracing::error!("a frame without a number: {error:#}"),
        }
    }

    /// Passes on what is in order.
    fn pass_on(&mut self, idle: bool, stopping: bool) -> Result<()> {
        loop {
            while let Some(frame) = self.window.pop() {
                self.waiting_since = None;
                let before = self.wanted.len();
                self.frame(frame)?;
                self.remember_wanted(before)?;
            }
            let Some((first_seq, last_seq)) = self.missing(idle, stopping) else {
                self.waiting_since = None;
                return Ok(());
            };
            if let Some(last_seq) = self.unfinished.void_up_to(first_seq, last_seq) {
                self.pass_void(last_seq)?;
                continue;
            }
            match self.give_up(first_seq, last_seq, idle, stopping) {
                Some(last_seq) => {
                    let before = self.wanted.len();
                    self.hole(last_seq)?;
                    self.remember_wanted(before)?;
                }
                None => return Ok(()),
            }
        }
    }

    /// What the last record asked for is doubtful until it is read. Where that is everything, a hole tells when it was: it takes a number of
    /// its own where the record is none.
    fn remember_wanted(&mut self, before: usize) -> Result<()> {
        let Some(asked @ [_, ..]) = self.wanted.get(before..) else {
            return Ok(());
        };
        let record_seq = self.window.next_seq() - 1;
        let is_unnamed = |request: &Request| *request == Request::Everything { closes: None };
        let needs_hole = self.doubt.asked(asked, record_seq);
        if asked.iter().any(is_unnamed) {
            let named = self.wanted.drain(before..).filter(|request| !is_unnamed(request));
            let named: Vec<Request> = named.collect();
            self.wanted.extend(named);
        }
        if !needs_hole {
            return Ok(());
        }
        let handle = self.handle();
        let last_seq = handle.take_seq();
        let hole = Op::Hole {
            last_seq,
            inode: None,
            since_seq: Some(record_seq - 1),
        };
        handle.submit(vec![about(last_seq, last_seq, hole)])
    }

    fn frame(&mut self, frame: Frame) -> Result<()> {
        match frame.kind {
            // It has no number, so it does not get here.
            FrameKind::Lost => Ok(()),
            FrameKind::Own => {
                let record = own::decode(&frame.payload)?;
                lock(&self.shared.outstanding).remove(&record.seq);
                self.doubt.own(&record, &mut self.wanted);
                if record.seq == self.unfinished.resume_seq {
                    self.ask_again();
                }
                self.record(record)
            }
            FrameKind::Event => match decode::decode(&frame.payload, boot_ns()) {
                Ok(decoded) => self.event(decoded),
                Err(error) => {
                    let seq = decode::seq_of(&frame.payload)?;
                    tracing::error!("event {seq} cannot be decoded: {error:#}");
                    self.event_hole(seq, None, Some(Request::Everything { closes: Some(seq) }))
                }
            },
        }
    }

    /// Passes on an event, or a hole where it does not tell what happened.
    fn event(&mut self, decoded: Decoded) -> Result<()> {
        let (seq, inode) = (decoded.record.seq, decoded.record.inode);
        let closes = Some(seq);
        match decode::untold(&decoded) {
            None if self.is_canary(&decoded.record) => self.canary(seq),
            None => {
                self.doubt.event(&decoded, &mut self.wanted);
                self.record(decoded.record)
            }
            Some(Untold::Inode) => {
                tracing::warn!(
                    "event {seq} of inode {} could not be read whole: a hole",
                    inode.ino
                );
                let repair = Request::Snapshot {
                    inode,
                    scope: SnapshotScope::Whole,
                    only_if_unmet: false,
                    closes,
                };
                self.event_hole(seq, Some(inode), Some(repair))
            }
            Some(Untold::Anything) => {
                tracing::info!("event {seq} of inode {} may concern any inode: a hole", inode.ino);
                self.event_hole(seq, Some(inode), Some(Request::Everything { closes }))
            }
            Some(Untold::Subvolume) => {
                tracing::error!(
                    "a subvolume or snapshot was made in directory inode {}: it is NOT recorded, and this hole stays open; \
                     delete it, or keep it on a volume of its own, then detach and attach again",
                    inode.ino
                );
                self.event_hole(seq, Some(inode), None)
            }
        }
    }

    /// Journals a hole in place of an event, and asks for what repairs it.
    fn event_hole(&mut self, seq: u64, inode: Option<InodeKey>, repair: Option<Request>) -> Result<()> {
        self.wanted.extend(repair);
        self.record(about(seq, seq, hole(seq, inode)))
    }

    /// Passes a record to the merger, and what comes out of it to the writer.
    fn record(&mut self, record: Record) -> Result<()> {
        self.windows.see(&record);
        self.shared.said_seq.store(record.last_seq, Ordering::Relaxed);
        match &record.op {
            Op::BaseBegin { .. } => self.has_base = false,
            Op::BaseEnd { .. } => self.has_base = true,
            Op::Hole { .. } => {
                lock(&self.shared.holes).insert(record.seq);
            }
            Op::HoleClosed { hole_seq } => {
                if lock(&self.shared.holes).remove(hole_seq) {
                    self.shared.holes_repaired.fetch_add(1, Ordering::Relaxed);
                }
                let others = self.requests.closed(*hole_seq);
                self.close(others)?;
            }
            _ => {}
        }
        self.output.push(record)
    }

    /// Holes that were repaired along with others.
    fn close(&self, holes: BTreeSet<u64>) -> Result<()> {
        if holes.is_empty() {
            return Ok(());
        }
        let handle = self.handle();
        let closed = |hole_seq| {
            let seq = handle.take_seq();
            own_record(seq, InodeKey::default(), false, Op::HoleClosed { hole_seq })
        };
        handle.submit(holes.into_iter().map(closed).collect())
    }

    fn handle(&self) -> Handle {
        Handle {
            shared: Arc::clone(&self.shared),
        }
    }

    fn is_due(&self, idle: bool, stopping: bool) -> bool {
        let flush_seq = self.shared.flush_seq.load(Ordering::SeqCst);
        let asked =
            flush_seq > self.shared.durable_seq.load(Ordering::SeqCst) && self.window.next_seq() > flush_seq;
        asked || (stopping && idle) || self.output.is_due()
    }

    /// Seals a portion of a checkpoint, if one waits, after what of the history is begun.
    fn seal_aside(&mut self) -> Result<()> {
        let waits = {
            let mut aside = lock(&self.shared.aside);
            match std::mem::take(&mut *aside) {
                Aside::Waits(of, records) => Some((of, records)),
                other => {
                    *aside = other;
                    None
                }
            }
        };
        let Some((of, records)) = waits else {
            return Ok(());
        };
        if !self.output.is_empty() {
            self.seal()?;
        }
        self.output.seal_checkpoint(of, &records)?;
        *lock(&self.shared.aside) = Aside::Sealed;
        self.shared.news.notify_all();
        Ok(())
    }

    /// Seals everything that has passed, and gives spool space back.
    fn seal(&mut self) -> Result<()> {
        let durable_seq = self.window.next_seq() - 1;
        self.keep_ledger(durable_seq);
        self.output.seal()?;
        self.shared.durable_seq.store(durable_seq, Ordering::SeqCst);
        let needed = self
            .window
            .waiting()
            .map(|frame| frame.file)
            .min()
            .unwrap_or(u64::MAX)
            .min(self.reader.position().file);
        let mut state = lock(&self.shared.spool);
        let mut oldest = state.oldest;
        state.spool.release(&mut oldest, needed)?;
        state.oldest = oldest;
        self.shared.measure(&state);
        drop(state);
        self.shared.news.notify_all();
        Ok(())
    }
}

/// A record of the volume as a whole that stands for the numbers up to `last_seq`.
fn about(seq: u64, last_seq: u64, op: Op) -> Record {
    Record {
        last_seq,
        ..own_record(seq, InodeKey::default(), false, op)
    }
}

/// When the machine was started, nanoseconds since 1970, as the clock says now.
fn boot_ns() -> i64 {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now_ns() - (boot.tv_sec * 1_000_000_000 + boot.tv_nsec)
}
