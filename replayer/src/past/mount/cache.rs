//! Rows of the journal, unpacked a row group at a time and kept up to a bound, so that neighbours and later runs of a file do not unpack the
//! same row group again. Owns what is kept and for how long; knows no files.

use std::mem::size_of;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use lru::LruCache;

use crate::exit::integrity;
use crate::media::Point;
use crate::restore::plan::{Piece, RowRef};

/// Bytes that an entry costs beside its rows.
const ENTRY_BYTES: u64 = 128;

/// A row group: segment, and its first row.
pub(super) type GroupRef = RowRef;

/// The rows of one row group that the tree has something of.
pub(super) struct Group {
    /// Row, and where it ends in `bytes`; rising.
    rows: Vec<(u32, usize)>,
    bytes: Vec<u8>,
}

impl Group {
    /// The data of a row; `None` if nothing of it is left.
    pub(super) fn row(&self, row: u32) -> Option<&[u8]> {
        let index = self.rows.binary_search_by_key(&row, |(row, _)| *row).ok()?;
        let start = index.checked_sub(1).map_or(0, |before| self.rows[before].1);
        self.bytes.get(start..self.rows[index].1)
    }

    /// Bytes in memory.
    fn cost(&self) -> u64 {
        let index = self.rows.capacity() * size_of::<(u32, usize)>();
        (self.bytes.capacity() + index) as u64 + ENTRY_BYTES
    }
}

/// What is kept: the least recently used goes first.
struct Kept {
    groups: LruCache<GroupRef, Arc<Group>>,
    bytes: u64,
    bytes_max: u64,
}

impl Kept {
    fn put(&mut self, key: GroupRef, group: Arc<Group>) {
        self.bytes += group.cost();
        if let Some((_, before)) = self.groups.push(key, group) {
            self.bytes -= before.cost();
        }
        while self.bytes > self.bytes_max
            && let Some((_, oldest)) = self.groups.pop_lru()
        {
            self.bytes -= oldest.cost();
        }
    }
}

/// Row groups of one journal.
///
/// Memory: what is kept, at most `bytes_max`; one row group that is being read and unpacked (128 MiB at most, sealed and unpacked each; ours
/// have 16); 8 bytes for each piece of the plan; and what readers that were given a row group still hold of it.
pub(super) struct Cache {
    /// The rows that the plan has something of; rising.
    wanted: Vec<RowRef>,
    kept: Mutex<Kept>,
    /// Held while one is read: a medium is read in one place at a time, and nobody reads what another one is reading.
    reading: Mutex<()>,
    unpacked: AtomicU64,
}

impl Cache {
    /// Keeps up to `bytes_max` bytes of the rows that pieces come from.
    pub(super) fn new(pieces: &[Piece], bytes_max: u64) -> Self {
        let mut wanted: Vec<RowRef> = pieces.iter().map(|piece| piece.row).collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.shrink_to_fit();
        Self {
            wanted,
            kept: Mutex::new(Kept {
                groups: LruCache::unbounded(),
                bytes: 0,
                bytes_max,
            }),
            reading: Mutex::default(),
            unpacked: AtomicU64::new(0),
        }
    }

    /// The row group that a row is in.
    ///
    /// # Errors
    /// Where it is not what was sealed, lies on no medium that is here, or cannot be read. Nothing of that is kept: the next one who asks
    /// reads it again.
    pub(super) fn group(&self, point: &Point<'_>, row: RowRef) -> Result<(GroupRef, Arc<Group>)> {
        let rows = rows_beside(point, row)?;
        let key = RowRef {
            segment: row.segment,
            row: rows.start,
        };
        if let Some(group) = self.find(key) {
            return Ok((key, group));
        }
        let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have read it meanwhile.
        if let Some(group) = self.find(key) {
            return Ok((key, group));
        }
        let group = Arc::new(self.unpack(point, key, rows.end)?);
        self.kept().put(key, Arc::clone(&group));
        Ok((key, group))
    }

    /// Row groups that were unpacked so far, however often each.
    pub(super) fn unpacked(&self) -> u64 {
        self.unpacked.load(Ordering::Relaxed)
    }

    /// Bytes that are kept now.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.kept().bytes
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: GroupRef) -> Option<Arc<Group>> {
        self.kept().groups.get(&key).cloned()
    }

    fn unpack(&self, point: &Point<'_>, first: GroupRef, end: u32) -> Result<Group> {
        let segment = first.segment;
        let from = self.wanted.partition_point(|row| *row < first);
        let to = self
            .wanted
            .partition_point(|row| *row < RowRef { segment, row: end });
        let wanted = self.wanted.get(from..to).unwrap_or_default();
        let mut group = Group {
            rows: Vec::with_capacity(wanted.len()),
            bytes: Vec::new(),
        };
        self.unpacked.fetch_add(1, Ordering::Relaxed);
        let rows = wanted.iter().map(|row| u64::from(row.row)).collect();
        for item in point.data(segment, rows)? {
            let (row, data) = item?;
            group.bytes.extend_from_slice(&data);
            let row = u32::try_from(row).context("too many rows in a segment")?;
            group.rows.push((row, group.bytes.len()));
        }
        group.bytes.shrink_to_fit();
        Ok(group)
    }
}

/// The row group that a row is in.
pub(super) fn group_of(point: &Point<'_>, row: RowRef) -> Result<GroupRef> {
    let RowRef { segment, .. } = row;
    rows_beside(point, row).map(|rows| RowRef {
        segment,
        row: rows.start,
    })
}

/// The rows of the row group that a row is in.
fn rows_beside(point: &Point<'_>, row: RowRef) -> Result<Range<u32>> {
    let RowRef { segment, row } = row;
    let manifest = &point.journal.segment(u64::from(segment))?.manifest;
    manifest
        .row_group_of(u64::from(row))
        .and_then(|rows| Some(u32::try_from(rows.start).ok()?..u32::try_from(rows.end).ok()?))
        .ok_or_else(|| integrity(format!("segment {segment} has no row {row}")))
}
