//! Where a file may have data. Owns the doubt in `SEEK_DATA`: XFS before Linux 6.9 skips data below an extent that is being copied on write.

use std::os::fd::{AsFd, AsRawFd as _};

use anyhow::{Context, Result};
use rustix::fs::{self, SeekFrom};

/// `XFS_SUPER_MAGIC`.
const XFS_MAGIC: fs::FsWord = 0x5846_5342;
/// `FS_IOC_FIEMAP`.
const FIEMAP: libc::c_ulong = 0xc020_660b;
/// `FIEMAP_EXTENT_UNWRITTEN`: allocated, but reads as zeros; pages stored over it are what `SEEK_DATA` does find.
const UNWRITTEN: u32 = 0x800;

/// `struct fiemap` with room for one extent.
#[repr(C)]
#[derive(Default)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    logical: u64,
    physical: u64,
    bytes: u64,
    reserved64: [u64; 2],
    extent_flags: u32,
    reserved32: [u32; 3],
}

/// The next range at or after `offset` that may hold data, within `size`.
pub(super) fn next(file: impl AsFd, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
    let sought = sought(&file, offset)?;
    let mapped = if fs::fstatfs(&file).context("statfs")?.f_type == XFS_MAGIC {
        mapped(&file, offset, size)?
    } else {
        None
    };
    let first = sought.into_iter().chain(mapped).min();
    Ok(first
        .map(|(start, end)| (start, end.min(size)))
        .filter(|(start, end)| start < end))
}

fn sought(file: impl AsFd, offset: u64) -> Result<Option<(u64, u64)>> {
    match fs::seek(&file, SeekFrom::Data(offset)) {
        Ok(start) => Ok(Some((
            start,
            fs::seek(&file, SeekFrom::Hole(start)).context("seek hole")?,
        ))),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error).context("seek data"),
    }
}

/// The first written extent that ends after `offset`, cut off there.
fn mapped(file: impl AsFd, offset: u64, size: u64) -> Result<Option<(u64, u64)>> {
    let mut at = offset;
    while at < size {
        let mut map = Fiemap {
            start: at,
            length: size - at,
            count: 1,
            ..Fiemap::default()
        };
        // SAFETY: the call writes within a struct fiemap with as many extents as it says.
        if unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FIEMAP, &raw mut map) } != 0 {
            return Err(std::io::Error::last_os_error()).context("map extents");
        }
        let end = map.logical.saturating_add(map.bytes);
        if map.mapped == 0 || end <= at {
            return Ok(None);
        }
        if map.extent_flags & UNWRITTEN == 0 {
            return Ok(Some((map.logical.max(offset), end)));
        }
        at = end;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn ranges_stand_in_order_within_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10_000_000).unwrap();
        file.write_all_at(&[1; 100], 5_000_000).unwrap();
        let (start, end) = next(&file, 0, 10_000_000).unwrap().unwrap();
        assert!(start <= 5_000_000 && end >= 5_000_100);
        assert_eq!(next(&file, end, 10_000_000).unwrap(), None);
        assert_eq!(next(&file, 0, 0).unwrap(), None);
    }

    #[test]
    fn extents_are_mapped_where_the_file_system_can() {
        assert_eq!(size_of::<Fiemap>(), 32 + 56);
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.set_len(10_000_000).unwrap();
        file.write_all_at(&[1; 100], 5_000_000).unwrap();
        file.sync_all().unwrap();
        match mapped(&file, 4096, 10_000_000) {
            Ok(found) => {
                let (start, end) = found.unwrap();
                assert!((4096..=5_000_000).contains(&start) && end >= 5_000_100);
                assert_eq!(mapped(&file, end, 10_000_000).unwrap(), None);
            }
            // A file system that cannot tell is none of those that are recorded.
            Err(error) => assert!(format!("{error:#}").contains("map extents"), "{error:#}"),
        }
    }
}
