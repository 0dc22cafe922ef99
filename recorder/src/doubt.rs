//! Doubt: which inodes have to be read anew, judged from the records in order. Pure.
//!
//! Owns the knowledge of what is under way: snapshots that are open, operations that took their number before they act. When the
//! two meet, or an operation fails, the inode is asked for again.

use std::collections::{HashMap, HashSet};

use abi::{EventKind, event_flags};
use journal::record::{InodeKey, Op, Record, SnapshotScope};
use serde::{Deserialize, Serialize};

use crate::decode::Decoded;

/// Operations under way that are remembered; beyond, everything is in doubt.
const UNDER_WAY_MAX: usize = 65536;
/// O_DIRECT writes of one inode under way that are remembered; beyond, the inode is in doubt.
const DIRECT_MAX: usize = 1024;
/// FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE.
const SHIFTING: u32 = 0x08 | 0x20;

/// What is to be read from the live file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Request {
    /// An inode.
    Snapshot {
        /// Which.
        inode: InodeKey,
        /// What of it.
        scope: SnapshotScope,
        /// Only if the base has not met it.
        only_if_unmet: bool,
        /// The hole that this repairs.
        closes: Option<u64>,
    },
    /// The whole volume.
    Everything {
        /// The hole that this repairs.
        closes: Option<u64>,
    },
}

/// What is under way. A recorder that takes the place of one that died begins with what that one knew.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Doubt {
    in_base: bool,
    /// Inodes whose snapshot is open, by its number.
    open: HashMap<InodeKey, u64>,
    /// Fallocate and clone that have not ended, by number.
    ranges: HashMap<u64, Range>,
    /// O_DIRECT writes that have not ended.
    direct: HashMap<InodeKey, Vec<(u64, u64)>>,
    /// Snapshot and operation met.
    met: HashSet<InodeKey>,
    /// Inodes whose content the journal does not have right until they are read anew, and since which number. What is cloned from them is not
    /// right either.
    doubtful: HashMap<InodeKey, u64>,
    /// Holes for which everything is being read anew: until they are closed, all content is doubtful.
    doubtful_until_closed: HashSet<u64>,
    /// Everything was asked for, or is as good as that, and the hole that tells when it was read has not come yet.
    all_is_doubtful: bool,
}

/// An operation that took its number before it acts.
#[derive(Clone, Serialize, Deserialize)]
struct Range {
    inode: InodeKey,
    offset: u64,
    /// `None` where everything beyond `offset` moves.
    length: Option<u64>,
}

impl Range {
    fn touches(&self, inode: InodeKey, offset: u64, length: u64) -> bool {
        self.inode == inode
            && offset.saturating_add(length) > self.offset
            && self
                .length
                .is_none_or(|bytes| offset < self.offset.saturating_add(bytes))
    }
}

fn whole(inode: InodeKey) -> Request {
    Request::Snapshot {
        inode,
        scope: SnapshotScope::Whole,
        only_if_unmet: false,
        closes: None,
    }
}

impl Doubt {
    /// Looks at a record of the recorder's own.
    pub(crate) fn own(&mut self, record: &Record, requests: &mut Vec<Request>) {
        match &record.op {
            Op::BaseBegin { .. } => self.in_base = true,
            Op::BaseEnd { .. } => self.in_base = false,
            Op::Snapshot {
                scope: SnapshotScope::Whole,
                ..
            } => {
                if self.is_under_way(record.inode) {
                    self.met.insert(record.inode);
                }
                self.open.insert(record.inode, record.seq);
            }
            Op::SnapshotEnd { begin_seq } => {
                let was_whole = self.open.remove(&record.inode).is_some();
                if was_whole
                    && self
                        .doubtful
                        .get(&record.inode)
                        .is_some_and(|since| since < begin_seq)
                {
                    self.doubtful.remove(&record.inode);
                }
                self.settle(record.inode, requests);
            }
            Op::HoleClosed { hole_seq } => {
                self.doubtful_until_closed.remove(hole_seq);
            }
            // Nobody knows what was missed: perhaps the end of what is thought to be under way. If it is under way indeed, its end
            // will ask once more.
            Op::Hole { inode: None, .. } => {
                self.all_is_doubtful = false;
                let under_way = self.ranges.drain().map(|(_, range)| range.inode);
                self.met
                    .extend(under_way.chain(self.direct.drain().map(|(inode, _)| inode)));
                requests.push(Request::Everything {
                    closes: Some(record.seq),
                });
            }
            _ => {}
        }
    }

    /// Remembers what was asked for after the record of this number: until it is read, its content is doubtful. Whether that is everything
    /// while no hole tells when it is read: the caller then journals one, of no inode, which comes back through [`Doubt::own`].
    #[must_use]
    pub(crate) fn asked(&mut self, requests: &[Request], seq: u64) -> bool {
        let before = self.all_is_doubtful;
        for request in requests {
            match request {
                Request::Snapshot {
                    inode,
                    scope: SnapshotScope::Whole,
                    only_if_unmet: false,
                    ..
                } => {
                    self.doubtful.insert(*inode, seq);
                }
                Request::Everything { closes: Some(hole) } => {
                    self.doubtful_until_closed.insert(*hole);
                }
                Request::Everything { closes: None } => self.all_is_doubtful = true,
                Request::Snapshot { .. } => {}
            }
        }
        if self.doubtful.len() + self.doubtful_until_closed.len() > UNDER_WAY_MAX {
            self.doubtful.clear();
            self.doubtful_until_closed.clear();
            self.all_is_doubtful = true;
        }
        self.all_is_doubtful && !before
    }

    fn is_doubtful(&self, inode: InodeKey) -> bool {
        self.all_is_doubtful
            || !self.doubtful_until_closed.is_empty()
            || self.doubtful.contains_key(&inode)
            || self.is_under_way(inode)
    }

    /// Looks at a captured event.
    pub(crate) fn event(&mut self, decoded: &Decoded, requests: &mut Vec<Request>) {
        let Decoded {
            kind,
            flags,
            record,
            range,
        } = decoded;
        let inode = record.inode;
        match (kind, range) {
            (EventKind::Fallocate | EventKind::Clone, _) => self.begins(record),
            (EventKind::DirectWrite, _) => {
                if let Op::Write { offset, length, .. } = record.op {
                    self.overlaps(inode, offset, length);
                    let writes = self.direct.entry(inode).or_default();
                    writes.push((offset, length));
                    if writes.len() > DIRECT_MAX {
                        // Their ends were missed, or there are too many to compare.
                        writes.clear();
                        requests.push(whole(inode));
                    }
                    if self.open.contains_key(&inode) {
                        self.met.insert(inode);
                    }
                }
            }
            (EventKind::DirectEnd, Some((offset, length, _, result))) => {
                self.direct_ends(inode, *offset, *length, *result, requests);
            }
            (EventKind::FallocateEnd | EventKind::CloneEnd, Some((_, length, of_seq, result))) => {
                self.ranges.remove(of_seq);
                let whole_length = i64::try_from(*length).unwrap_or(i64::MAX);
                let short = *kind == EventKind::CloneEnd && *result < whole_length;
                // A source that the base has not met yet has no content to clone from.
                if *result < 0 || short || (self.in_base && *kind == EventKind::CloneEnd) {
                    requests.push(whole(inode));
                }
                self.settle(inode, requests);
            }
            (EventKind::Write | EventKind::MapWrite, _) => {
                if let Op::Write { offset, length, .. } = record.op {
                    self.overlaps(inode, offset, length);
                    // Written back as it was before the operation acted, although it comes after its number.
                    let moves = |range: &Range| range.touches(inode, offset, length);
                    if *kind == EventKind::MapWrite && self.ranges.values().any(moves) {
                        self.met.insert(inode);
                    }
                }
            }
            (EventKind::Zero, _) => {
                if let Op::Fallocate { offset, length, .. } = record.op {
                    self.overlaps(inode, offset, length);
                }
            }
            _ => self.names(record, requests),
        }
        let scope = if flags & event_flags::WANT_CONTENT != 0 {
            SnapshotScope::Whole
        } else {
            SnapshotScope::Attributes
        };
        if flags & (event_flags::INHERITS | event_flags::WANT_ATTRS | event_flags::WANT_CONTENT) != 0 {
            requests.push(Request::Snapshot {
                inode,
                scope,
                only_if_unmet: false,
                closes: None,
            });
        }
        // A whiteout that the program could not name.
        if flags & event_flags::WHITEOUT != 0 {
            requests.push(Request::Everything { closes: None });
        }
        if self.ranges.len() + self.direct.len() + self.open.len() > UNDER_WAY_MAX {
            self.ranges.clear();
            self.direct.clear();
            requests.push(Request::Everything { closes: None });
        }
    }

    /// The oldest fallocate or clone that has not ended.
    pub(crate) fn oldest_under_way(&self) -> Option<u64> {
        self.ranges.keys().min().copied()
    }

    fn is_under_way(&self, inode: InodeKey) -> bool {
        self.direct.get(&inode).is_some_and(|writes| !writes.is_empty())
            || self.ranges.values().any(|busy| busy.inode == inode)
    }

    /// Which of two writes reaches the disk last is not known while one of them is direct and under way.
    fn overlaps(&mut self, inode: InodeKey, offset: u64, length: u64) {
        let Some(writes) = self.direct.get(&inode) else {
            return;
        };
        let end = offset.saturating_add(length);
        if writes
            .iter()
            .any(|&(start, bytes)| start < end && offset < start.saturating_add(bytes))
        {
            self.met.insert(inode);
        }
    }

    /// An operation that took its number before it acts.
    fn begins(&mut self, record: &Record) {
        if let Op::Fallocate { offset, length, .. } | Op::Clone { offset, length, .. } = record.op {
            let shifts = matches!(record.op, Op::Fallocate { mode, .. } if mode & SHIFTING != 0);
            let (inode, length) = (record.inode, (!shifts).then_some(length));
            self.ranges.insert(
                record.seq,
                Range {
                    inode,
                    offset,
                    length,
                },
            );
        }
        let harmless = matches!(record.op, Op::Fallocate { mode, .. } if mode & SHIFTING == 0);
        let source = match record.op {
            Op::Clone { source, .. } => Some(source),
            _ => None,
        };
        if let Some(source) = source.filter(|source| self.is_doubtful(*source)) {
            tracing::debug!(
                "inode {} is cloned from {}, which is to be read anew",
                record.inode.ino,
                source.ino
            );
            self.doubtful.insert(record.inode, record.seq);
            self.met.insert(record.inode);
        }
        if self.open.contains_key(&record.inode)
            || (!harmless && source.is_some_and(|source| self.open.contains_key(&source)))
        {
            self.met.insert(record.inode);
        }
    }

    fn direct_ends(
        &mut self,
        inode: InodeKey,
        offset: u64,
        length: u64,
        result: i64,
        requests: &mut Vec<Request>,
    ) {
        if let Some(writes) = self.direct.get_mut(&inode) {
            if result < 0 {
                writes.clear();
            } else {
                writes.retain(|&(start, bytes)| {
                    start < offset || start.saturating_add(bytes) > offset.saturating_add(length)
                });
            }
            if writes.is_empty() {
                self.direct.remove(&inode);
            }
        }
        if result < 0 {
            requests.push(whole(inode));
        }
        self.settle(inode, requests);
    }

    /// Asks again where a snapshot and an operation met, once both are over.
    fn settle(&mut self, inode: InodeKey, requests: &mut Vec<Request>) {
        if !self.open.contains_key(&inode) && !self.is_under_way(inode) && self.met.remove(&inode) {
            requests.push(whole(inode));
        }
    }

    /// During the base, an old inode may get a name where the walk has been already.
    fn names(&mut self, record: &Record, requests: &mut Vec<Request>) {
        if matches!(record.op, Op::Evict) {
            self.direct.remove(&record.inode);
            self.doubtful.remove(&record.inode);
        }
        if !self.in_base {
            return;
        }
        let mut unmet = |inode| {
            requests.push(Request::Snapshot {
                inode,
                scope: SnapshotScope::Whole,
                only_if_unmet: true,
                closes: None,
            });
        };
        match &record.op {
            Op::Rename { .. } | Op::Link { .. } => unmet(record.inode),
            Op::Exchange { other, .. } => {
                unmet(record.inode);
                unmet(*other);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
