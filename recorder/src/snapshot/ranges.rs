//! Where a file has data.
//!
//! Owns what file systems answer to that, and which answer is not to be believed. XFS before Linux 6.9 skips data in `SEEK_DATA`: where an
//! extent for copy-on-write lies over shared data, it asks the page cache about the whole of it. Its extent map has what is skipped
//! there, and lacks what only the page cache has: so on XFS data is where either says.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, opcode};

/// `XFS_SUPER_MAGIC`.
const XFS_MAGIC: u64 = 0x5846_5342;

/// A range of a file: begin and end, in bytes.
type Range = (u64, u64);

/// The data of one open file.
pub(crate) struct DataRanges<'fd> {
    fd: BorrowedFd<'fd>,
    size: u64,
    asks_extents: bool,
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
        }
    }

    /// The next range at or after `offset` that may hold data.
    ///
    /// # Errors
    /// Of `lseek` and `FS_IOC_FIEMAP`.
    pub(crate) fn next(&self, offset: u64) -> io::Result<Option<Range>> {
        let sought = self.seek(offset)?;
        if !self.asks_extents {
            return Ok(sought);
        }
        Ok(match (sought, self.extent(offset)?) {
            (Some(sought), Some(extent)) => Some(if extent.0 < sought.0 { extent } else { sought }),
            (sought, extent) => sought.or(extent),
        })
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
            let ranges = DataRanges {
                fd: file.as_fd(),
                size,
                asks_extents,
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
}
