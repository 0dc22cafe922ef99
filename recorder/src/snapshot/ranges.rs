//! Where a file has data.
//!
//! Owns what file systems answer to that, and which answer is not to be believed:
//!
//! - XFS before Linux 6.9 skips data in `SEEK_DATA`: where an extent for copy-on-write lies over shared data, it asks the page cache about
//!   the whole of it. Its extent map has what is skipped there, and lacks what only the page cache has: so on XFS data is where either says.
//! - Btrfs (seen on 6.1) skips data that is on its way to the disk into preallocated blocks. So no hole is believed: the holes of files up
//!   to 16 MiB are read, and longer files are synced before a hole of theirs is passed over, which leaves nothing on its way but what is
//!   captured.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, opcode};

use super::read::read_full;
use crate::pulse::{self, Place};

/// `XFS_SUPER_MAGIC`.
const XFS_MAGIC: u64 = 0x5846_5342;
/// Longest file whose holes are read, in bytes.
const READ_BYTES_MAX: u64 = 16 << 20;
/// Bytes of a hole that are read at a time.
const PIECE_BYTES: usize = 256 << 10;
/// Data begins and ends at blocks of so many bytes.
const BLOCK_BYTES: usize = 4096;

/// A range of a file: begin and end, in bytes.
type Range = (u64, u64);

/// The data of one open file.
pub(crate) struct DataRanges<'fd> {
    fd: BorrowedFd<'fd>,
    size: u64,
    asks_extents: bool,
    /// Nothing that was written before this was made is still on its way to the disk.
    settled: bool,
}

impl<'fd> DataRanges<'fd> {
    /// Of a file, within its first `size` bytes.
    pub(crate) fn of(fd: BorrowedFd<'fd>, size: u64) -> Self {
        // One that cannot be told is asked both ways.
        let asks_extents = rustix::fs::fstatfs(fd).map_or(true, |found| found.f_type as u64 == XFS_MAGIC);
        Self {
            fd,
            size,
            asks_extents,
            settled: false,
        }
    }

    /// The next range at or after `offset` that may hold data. To be asked in ascending order.
    ///
    /// # Errors
    /// Of `lseek`, `FS_IOC_FIEMAP`, `fdatasync` and `pread`.
    pub(crate) fn next(&mut self, offset: u64) -> io::Result<Option<Range>> {
        let mut told = self.told(offset)?;
        let hole_end = told.map_or(self.size, |(begin, _)| begin);
        if hole_end <= offset {
            return Ok(told);
        }
        if self.size <= READ_BYTES_MAX {
            let untold = self.untold((offset, hole_end))?;
            return Ok(untold.or(told));
        }
        if !self.settled {
            let _sync = pulse::at(Place::Sync);
            rustix::fs::fdatasync(self.fd)?;
            self.settled = true;
            told = self.told(offset)?;
        }
        Ok(told)
    }

    /// The next range that the file system tells of.
    fn told(&self, offset: u64) -> io::Result<Option<Range>> {
        let sought = self.seek(offset)?;
        if !self.asks_extents {
            return Ok(sought);
        }
        Ok(match (sought, self.extent(offset)?) {
            (Some(sought), Some(extent)) => Some(if extent.0 < sought.0 { extent } else { sought }),
            (sought, extent) => sought.or(extent),
        })
    }

    /// The first run of blocks in a hole that are not zero.
    fn untold(&self, hole: Range) -> io::Result<Option<Range>> {
        let mut found: Option<Range> = None;
        let piece_bytes = |left: u64| PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES));
        let mut piece = vec![0; piece_bytes(hole.1 - hole.0)];
        let mut at = hole.0;
        while at < hole.1 {
            let wanted = piece_bytes(hole.1 - at);
            let filled = read_full(self.fd, &mut piece[..wanted], at)?;
            for block in piece[..filled].chunks(BLOCK_BYTES) {
                let is_zero = block.iter().all(|&byte| byte == 0);
                match &mut found {
                    None if is_zero => {}
                    None => found = Some((at, at + block.len() as u64)),
                    Some(_) if is_zero => return Ok(found),
                    Some((_, end)) => *end = at + block.len() as u64,
                }
                at += block.len() as u64;
            }
            // It was cut off meanwhile.
            if filled < wanted {
                break;
            }
        }
        Ok(found)
    }

    fn seek(&self, offset: u64) -> io::Result<Option<Range>> {
        let begin = match rustix::fs::seek(self.fd, SeekFrom::Data(offset)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => return Ok(None),
            // A file system that cannot tell has data everywhere.
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(self.within(offset, self.size)),
            Err(error) => return Err(error.into()),
        };
        match rustix::fs::seek(self.fd, SeekFrom::Hole(begin)) {
            Ok(end) => Ok(self.within(begin, end)),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn within(&self, begin: u64, end: u64) -> Option<Range> {
        let end = end.min(self.size);
        (begin < end).then_some((begin, end))
    }

    /// The next extent of the map that is written, or is going to be.
    fn extent(&self, offset: u64) -> io::Result<Option<Range>> {
        let mut from = offset;
        while from < self.size {
            let mut map = ExtentMap {
                start: from,
                length: self.size - from,
                extent_count: 1,
                ..ExtentMap::default()
            };
            // SAFETY: this call reads and writes a `struct fiemap` with the number of extents that it announces, here one.
            match unsafe { rustix::ioctl::ioctl(self.fd, Updater::<FS_IOC_FIEMAP, ExtentMap>::new(&mut map)) }
            {
                Ok(()) => {}
                Err(Errno::NOTSUP | Errno::NOTTY) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            if map.mapped_extents == 0 {
                return Ok(None);
            }
            let Extent {
                logical,
                length,
                flags,
                ..
            } = map.extent;
            let end = logical.saturating_add(length);
            if end <= from {
                return Err(io::Error::other("the extent map goes backwards"));
            }
            if flags & FIEMAP_EXTENT_UNWRITTEN == 0 {
                return Ok(self.within(logical.max(offset), end));
            }
            from = end;
        }
        Ok(None)
    }
}

/// `struct fiemap` of linux/fiemap.h, with room for one extent.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ExtentMap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extent: Extent,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// The size in this number is that of `struct fiemap` without extents.
const FS_IOC_FIEMAP: Opcode = opcode::read_write::<[u64; 4]>(b'f', 11);
const FIEMAP_EXTENT_UNWRITTEN: u32 = 0x800;

const _: () = assert!(size_of::<ExtentMap>() == 32 + 56);

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    /// Whatever file system the test runs on: both ways name all data, and neither the hole between.
    #[test]
    fn data_is_found_either_way() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 10_000], 0).unwrap();
        file.write_all_at(&[2; 10_000], 1 << 20).unwrap();
        file.sync_all().unwrap();
        let size = (1 << 20) + 10_000;
        for asks_extents in [false, true] {
            let mut ranges = DataRanges {
                fd: file.as_fd(),
                size,
                asks_extents,
                settled: false,
            };
            let (mut found, mut offset) = (Vec::new(), 0);
            while let Some(range) = ranges.next(offset).unwrap() {
                assert!(
                    range.0 >= offset && range.1 > range.0 && range.1 <= size,
                    "{range:?}"
                );
                offset = range.1;
                found.push(range);
            }
            let holds = |at: u64| found.iter().any(|&(begin, end)| begin <= at && at < end);
            assert!([0, 9_999, 1 << 20, size - 1].into_iter().all(holds), "{found:?}");
            assert!(!holds(1 << 19), "{found:?}");
        }
    }

    /// What the file system would not tell of.
    #[test]
    fn data_in_a_hole_is_found_by_reading() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let ranges = DataRanges::of(file.as_fd(), 1 << 20);
        assert_eq!(ranges.untold((0, 1 << 20)).unwrap(), None);
        file.write_all_at(&[1; 5000], 300_000).unwrap();
        file.write_all_at(&[1; 1], (1 << 20) - 1).unwrap();
        let first = (299_008, 307_200);
        assert_eq!(ranges.untold((0, 1 << 20)).unwrap(), Some(first));
        assert_eq!(
            ranges.untold((first.1, 1 << 20)).unwrap(),
            Some(((1 << 20) - 4096, 1 << 20))
        );
        assert_eq!(ranges.untold((first.1, 500_000)).unwrap(), None);
        file.set_len(0).unwrap();
        assert_eq!(ranges.untold((0, 1 << 20)).unwrap(), None, "cut off meanwhile");
    }

    #[test]
    fn a_long_file_is_synced_before_a_hole_is_believed() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 100], 0).unwrap();
        let size = READ_BYTES_MAX + 100_000;
        file.write_all_at(&[2; 100], size - 100).unwrap();
        let mut ranges = DataRanges::of(file.as_fd(), size);
        let first = ranges.next(0).unwrap().unwrap();
        assert!(first.0 == 0 && !ranges.settled, "{first:?}");
        let last = ranges.next(first.1).unwrap().unwrap();
        assert!(last.1 == size && ranges.settled, "{last:?}");
    }
}
