//! What was changed since the last barrier, as far as records tell. Pure.
//!
//! Owns which inodes a record may have changed, and when that cannot be told.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, bail, ensure};
use journal::record::{Entry, InodeKey, Op, Record};

use crate::decode::{Decoded, Untold, untold};

/// Inodes that were changed after the last barrier, with the newest number that did.
#[derive(Default)]
pub(crate) struct Touched {
    inodes: HashMap<InodeKey, u64>,
    /// The newest hole: what was lost is not named, or not all of it.
    hole_seq: Option<u64>,
    has_base: bool,
    /// Up to which number the newest barrier speaks.
    barrier_seq: u64,
    /// Snapshots that are open, by number.
    windows: BTreeMap<u64, InodeKey>,
}

impl Touched {
    /// Looks at the next record of an epoch.
    pub(crate) fn see(&mut self, record: &Record) {
        match &record.op {
            // What was recorded before it may have been read by it, and still not be on the disk.
            Op::BaseBegin { .. } => self.has_base = false,
            Op::BaseEnd { .. } => self.has_base = true,
            Op::Barrier { up_to: Some(up_to) } => {
                self.barrier_seq = self.barrier_seq.max(*up_to);
                self.inodes.retain(|_, seq| *seq > *up_to);
            }
            Op::Hole { last_seq, .. } => self.hole_seq = Some(*last_seq),
            Op::Snapshot { .. } => _ = self.windows.insert(record.seq, record.inode),
            Op::SnapshotEnd { begin_seq } => _ = self.windows.remove(begin_seq),
            _ => {}
        }
        // A base states what was on the disk before it began, or is captured too.
        if !record.from_snapshot || self.has_base {
            self.touch(record);
        }
    }

    fn touch(&mut self, record: &Record) {
        let seq = record.last_seq;
        let parents = |entries: &[&Entry]| entries.iter().map(|entry| entry.parent).collect::<Vec<_>>();
        let others = match &record.op {
            Op::Create { entry, .. }
            | Op::Link { entry, .. }
            | Op::Unlink { entry, .. }
            | Op::Rmdir { entry, .. }
            | Op::SnapshotEntry { entry } => parents(&[entry]),
            Op::Rename { from, to, victim, .. } => {
                let mut others = parents(&[from, to]);
                others.extend(victim);
                others
            }
            Op::Exchange { from, to, other, .. } => {
                let mut others = parents(&[from, to]);
                others.push(*other);
                others
            }
            // These say something of the epoch.
            Op::BaseBegin { .. } | Op::BaseEnd { .. } => return,
            _ => Vec::new(),
        };
        for key in others.into_iter().chain([record.inode]) {
            if key != InodeKey::default() {
                self.inodes.insert(key, seq);
            }
        }
    }

    /// Looks at a record that did not get into the journal.
    ///
    /// # Errors
    /// When it does not say what it changed.
    pub(crate) fn see_unsealed(&mut self, record: &Record) -> Result<()> {
        if matches!(record.op, Op::Hole { .. }) {
            bail!("events were lost shortly before the end, and nobody could read again what they changed");
        }
        self.touch(record);
        Ok(())
    }

    /// Looks at an event that did not get into the journal.
    ///
    /// # Errors
    /// When it does not say what it changed.
    pub(crate) fn see_event(&mut self, decoded: &Decoded) -> Result<()> {
        let named = decoded.record.inode.ino != 0
            && decoded.flags & abi::event_flags::WHITEOUT == 0
            && matches!(untold(decoded), None | Some(Untold::Inode));
        ensure!(
            named,
            "an event shortly before the end does not say all that it changed"
        );
        self.touch(&decoded.record);
        Ok(())
    }

    /// All records of the epoch were seen.
    ///
    /// # Errors
    /// Why nothing can be told of it.
    pub(crate) fn end(&mut self) -> Result<()> {
        ensure!(self.has_base, "its base was not complete");
        if let Some(hole_seq) = self.hole_seq {
            ensure!(
                hole_seq <= self.barrier_seq,
                "events were lost after its last barrier (hole at {hole_seq}, barrier at {})",
                self.barrier_seq
            );
        }
        for (seq, inode) in std::mem::take(&mut self.windows) {
            self.inodes.insert(inode, seq);
        }
        Ok(())
    }

    /// Adds what others touched.
    pub(crate) fn add(&mut self, other: Self) {
        self.inodes.extend(other.inodes);
    }

    /// Of these inodes.
    pub(crate) fn of(inodes: &[InodeKey]) -> Self {
        Self {
            inodes: inodes.iter().map(|key| (*key, 0)).collect(),
            ..Self::default()
        }
    }

    /// Inodes that were changed.
    pub(crate) fn inodes(&self) -> Vec<InodeKey> {
        self.inodes.keys().copied().collect()
    }

    /// Whether an inode was changed.
    pub(crate) fn contains(&self, key: InodeKey) -> bool {
        self.inodes.contains_key(&key)
    }
}
