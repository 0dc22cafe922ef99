//! Extents of one inode: which record wrote which byte last. What no extent covers reads as zeros.

use std::collections::BTreeMap;

use crate::convert::{OFFSET_MAX, WRITE_BYTES_MAX};
use crate::reader::RowRef;

/// Where bytes are to be found: a record, and an offset in its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The record.
    pub row: RowRef,
    /// Offset in bytes in the record's data.
    pub offset: u32,
}

impl Source {
    /// So many bytes later in the same record.
    fn after(self, bytes: u32) -> Self {
        Self {
            offset: self.offset.saturating_add(bytes),
            ..self
        }
    }
}

/// A length within the data of one record.
fn narrow(length: u64) -> u32 {
    debug_assert!(length <= WRITE_BYTES_MAX, "{length} bytes from one record");
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A run of bytes of a file from one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Byte offset in the file.
    pub offset: u64,
    /// Bytes; never 0.
    pub length: u32,
    /// Whence.
    pub source: Source,
}

/// The extents of one file: sorted, disjoint. Each takes 24 bytes, in nodes that are half full where a file was written front to back. No
/// record has more than [`WRITE_BYTES_MAX`](crate::WRITE_BYTES_MAX) bytes of data, so that lengths and offsets within one are small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents {
    /// By offset in the file: length and source.
    map: BTreeMap<u64, (u32, Source)>,
}

impl Extents {
    /// All extents in order of offset.
    pub fn iter(&self) -> impl Iterator<Item = Extent> {
        self.map.iter().map(|(&offset, &(length, source))| Extent {
            offset,
            length,
            source,
        })
    }

    /// Number of extents.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The whole of a record's data stands at `offset` now.
    pub(super) fn write(&mut self, offset: u64, length: u64, row: RowRef) {
        if length == 0 {
            return;
        }
        // Longer ones were refused when they were read.
        let new = (narrow(length), Source { row, offset: 0 });
        // Most writes go to the end, or over what one write before them wrote: neither needs a look at the neighbours.
        let end = self
            .map
            .last_key_value()
            .map_or(0, |(start, (length, _))| start + u64::from(*length));
        if end <= offset {
            self.map.insert(offset, new);
            return;
        }
        if let Some(old) = self.map.get_mut(&offset)
            && old.0 == new.0
        {
            *old = new;
            return;
        }
        self.clear(offset, offset.saturating_add(length));
        self.map.insert(offset, new);
    }

    /// Puts extents, whose offsets count from `offset`, in place of what is in the range.
    pub(super) fn replace(&mut self, offset: u64, length: u64, extents: Vec<Extent>) {
        self.clear(offset, offset.saturating_add(length));
        for extent in extents {
            if extent.length > 0 {
                self.map
                    .insert(offset + extent.offset, (extent.length, extent.source));
            }
        }
    }

    /// Extents of a range, with offsets that count from its start.
    pub(super) fn copy(&self, offset: u64, length: u64) -> Vec<Extent> {
        let end = offset.saturating_add(length);
        let first = self
            .map
            .range(..=offset)
            .next_back()
            .map_or(offset, |(&start, _)| start);
        self.map
            .range(first..end)
            .filter_map(|(&start, &(length, source))| {
                let (from, to) = (start.max(offset), (start + u64::from(length)).min(end));
                (from < to).then(|| Extent {
                    offset: from - offset,
                    length: narrow(to - from),
                    source: source.after(narrow(from - start)),
                })
            })
            .collect()
    }

    /// Drops everything from `size` on.
    pub(super) fn truncate(&mut self, size: u64) {
        self.split(size);
        self.map.split_off(&size);
    }

    /// Takes a range out: what follows moves down.
    pub(super) fn collapse(&mut self, offset: u64, length: u64) {
        let end = offset.saturating_add(length);
        self.split(offset);
        self.split(end);
        let tail = self.map.split_off(&end);
        self.map.split_off(&offset);
        self.map
            .extend(tail.into_iter().map(|(start, extent)| (start - length, extent)));
    }

    /// Puts a hole in: what follows moves up. What would move beyond the largest offset is dropped: no kernel does that,
    /// but a damaged journal may say so.
    pub(super) fn insert_hole(&mut self, offset: u64, length: u64) {
        self.split(offset);
        let tail = self.map.split_off(&offset);
        self.map
            .extend(tail.into_iter().filter_map(|(start, (bytes, source))| {
                let moved = start.checked_add(length)?;
                (moved.checked_add(bytes.into())? <= OFFSET_MAX).then_some((moved, (bytes, source)))
            }));
    }

    /// Makes `at` a boundary between extents.
    fn split(&mut self, at: u64) {
        let Some((&start, &(length, source))) = self.map.range(..at).next_back() else {
            return;
        };
        if start + u64::from(length) > at {
            let head = narrow(at - start);
            self.map.insert(start, (head, source));
            self.map.insert(at, (length - head, source.after(head)));
        }
    }

    /// Makes a range a hole.
    fn clear(&mut self, from: u64, to: u64) {
        self.split(from);
        self.split(to);
        while let Some((&start, _)) = self.map.range(from..to).next() {
            self.map.remove(&start);
        }
    }
}
