//! What is known of an epoch while it is read up to a moment: its base, what is open, and the newest moment that is whole.

use std::collections::BTreeMap;

use super::{OpenHole, ResolvedPoint};
use crate::manifest::CheckpointOf;
use crate::record::{Continued, InodeKey, Op, Record, SnapshotScope};

/// What is known while reading an epoch from its start.
#[derive(Default)]
pub(super) struct Scan {
    base: Option<(u64, u64)>,
    /// The epoch that the base goes on from.
    pub(super) continues: Option<Continued>,
    /// Sequence number of the base's end.
    base_end: Option<u64>,
    /// Open windows, by the sequence number at which they begin.
    windows: BTreeMap<u64, Window>,
    pub(super) now: Moment,
    before: Moment,
    holes: BTreeMap<u64, OpenHole>,
    rounded: Option<String>,
}

/// A snapshot that has begun.
struct Window {
    inode: InodeKey,
    scope: SnapshotScope,
    /// The newest moment before it.
    before: Moment,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Moment {
    pub(super) seq: u64,
    time_ns: i64,
    segment: u64,
}

impl Scan {
    /// From a checkpoint on: no snapshot and no hole is open at its moment. The next record is looked for from segment `from` on.
    pub(super) fn after(of: CheckpointOf, from: u64) -> Self {
        let CheckpointOf { seq, time_ns } = of;
        let now = Moment {
            seq,
            time_ns,
            segment: from,
        };
        Self {
            base: Some((seq + 1, from)),
            base_end: Some(seq),
            now,
            before: now,
            ..Self::default()
        }
    }

    /// Looks at the next record, which stands in this segment.
    pub(super) fn step(&mut self, record: &Record, segment: u64) {
        self.before = self.now;
        match &record.op {
            Op::BaseBegin { continues } => {
                self.base = Some((record.seq, segment));
                self.continues = *continues;
                self.base_end = None;
                self.windows.clear();
                self.holes.clear();
            }
            Op::BaseEnd { .. } => {
                self.base_end = Some(record.seq);
            }
            Op::Snapshot { scope, .. } => {
                let window = Window {
                    inode: record.inode,
                    scope: *scope,
                    before: self.before,
                };
                self.windows.insert(record.seq, window);
            }
            Op::SnapshotEnd { begin_seq } => self.end_window(*begin_seq),
            // What is gone needs no statement any more.
            Op::Evict => self.windows.retain(|_, window| window.inode != record.inode),
            Op::Hole { last_seq, inode, .. } => {
                let hole = OpenHole {
                    first_seq: record.seq,
                    last_seq: *last_seq,
                    ino: inode.map(|inode| inode.ino),
                };
                self.holes.insert(record.seq, hole);
            }
            Op::HoleClosed { hole_seq } => {
                self.holes.remove(hole_seq);
            }
            _ => {}
        }
        self.now = Moment {
            seq: record.last_seq,
            time_ns: record.time_ns,
            segment,
        };
    }

    /// A complete snapshot also makes good the abandoned ones of its inode that it covers.
    fn end_window(&mut self, begin_seq: u64) {
        let Some(ended) = self.windows.remove(&begin_seq) else {
            return;
        };
        self.windows.retain(|&begin, window| {
            begin > begin_seq
                || window.inode != ended.inode
                || (window.scope == SnapshotScope::Whole && ended.scope == SnapshotScope::Attributes)
        });
    }

    /// The moment lies inside a merged record, which is applied whole or not at all.
    pub(super) fn cut_merged(&mut self, record: &Record) {
        self.rounded = Some(format!(
            "{} to {} are one merged record",
            record.seq, record.last_seq
        ));
        self.now = self.before;
    }

    /// The newest moment that can be restored, if there is one.
    pub(super) fn finish(self, epoch: u64) -> Option<ResolvedPoint> {
        let ((base_seq, first_segment), base_end) = (self.base?, self.base_end?);
        let (mut now, mut rounded) = (self.now, self.rounded);
        if let Some((begin, Window { before, .. })) = self.windows.first_key_value()
            && before.seq < now.seq
        {
            rounded = Some(format!(
                "a snapshot that begins at {begin} is not complete at the moment asked for"
            ));
            now = *before;
        }
        if now.seq < base_end {
            return None;
        }
        Some(ResolvedPoint {
            epoch,
            seq: now.seq,
            time_ns: now.time_ns,
            base_seq,
            first_segment,
            last_segment: now.segment,
            earlier: Vec::new(),
            rounded,
            open_holes: self
                .holes
                .into_values()
                .filter(|hole| hole.first_seq <= now.seq)
                .collect(),
        })
    }
}
