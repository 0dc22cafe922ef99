//! What records do to the content of a file, done to a real file: by the kernel's own calls where the target's file system has them.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fstat, ftruncate, seek};
use rustix::io::Errno;

/// Bytes copied at once.
const CHUNK_BYTES: u64 = 1 << 20;

const KEEP_SIZE: u32 = 0x01;
const COLLAPSE: u32 = 0x08;
const INSERT: u32 = 0x20;
/// Punch hole, zero range, write zeroes.
const ZEROES: u32 = 0x02 | 0x10 | 0x80;

pub(super) fn size(file: &File) -> Result<u64> {
    let stat = fstat(file).context("stat")?;
    u64::try_from(stat.st_size).context("size")
}

/// Cuts the content, or lengthens it with zeros.
pub(super) fn truncate(file: &File, bytes: u64) -> Result<()> {
    ftruncate(file, bytes).context("set the size")
}

/// Lengthens the content with zeros where it is shorter.
fn extend(file: &File, bytes: u64) -> Result<()> {
    if size(file)? < bytes {
        truncate(file, bytes)?;
    }
    Ok(())
}

pub(super) fn write(file: &File, offset: u64, data: &[u8]) -> Result<()> {
    file.write_all_at(data, offset).context("write")
}

/// A record's fallocate. `spare` is an empty file for what the file system cannot do by itself.
pub(super) fn allocate(
    file: &File,
    mode: u32,
    offset: u64,
    length: u64,
    spare: impl FnOnce() -> Result<File>,
) -> Result<()> {
    let end = offset.saturating_add(length);
    let old = size(file)?;
    if mode & COLLAPSE != 0 {
        let new = old.saturating_sub(length);
        if end < old && fallocate(file, FallocateFlags::COLLAPSE_RANGE, offset, length).is_ok() {
            return Ok(());
        }
        let spare = spare()?;
        copy(
            file,
            offset.saturating_add(length),
            &spare,
            0,
            old.saturating_sub(end),
        )?;
        truncate(file, offset.min(new))?;
        truncate(file, new)?;
        return copy(&spare, 0, file, offset, old.saturating_sub(end));
    }
    if mode & INSERT != 0 {
        if offset < old && fallocate(file, FallocateFlags::INSERT_RANGE, offset, length).is_ok() {
            return Ok(());
        }
        let spare = spare()?;
        let tail = old.saturating_sub(offset);
        copy(file, offset, &spare, 0, tail)?;
        truncate(file, offset.min(old))?;
        truncate(file, old.saturating_add(length))?;
        return copy(&spare, 0, file, end, tail);
    }
    if mode & ZEROES != 0 {
        zero(file, offset, end.min(old))?;
    }
    if mode & KEEP_SIZE == 0 {
        extend(file, end)?;
    }
    Ok(())
}

/// The range of a clone: what the source has there, zeros where it has nothing.
pub(super) fn clone(source: &File, source_offset: u64, file: &File, offset: u64, length: u64) -> Result<()> {
    let end = offset.saturating_add(length);
    zero(file, offset, end.min(size(file)?))?;
    extend(file, end)?;
    copy(source, source_offset, file, offset, length)
}

/// The range below `end` reads as zeros.
fn zero(file: &File, offset: u64, end: u64) -> Result<()> {
    if offset >= end {
        return Ok(());
    }
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, punch, offset, end - offset) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP) => {
            let zeros = vec![0; usize::try_from(CHUNK_BYTES).unwrap_or(0)];
            let mut at = offset;
            while at < end {
                let bytes = usize::try_from((end - at).min(CHUNK_BYTES)).unwrap_or(0);
                write(file, at, &zeros[..bytes])?;
                at += bytes as u64;
            }
            Ok(())
        }
        Err(error) => Err(error).context("punch a hole"),
    }
}

/// Copies the data of a range and leaves its holes alone. Never lengthens beyond what the source has.
pub(super) fn copy(from: &File, from_offset: u64, to: &File, to_offset: u64, length: u64) -> Result<()> {
    let end = from_offset.saturating_add(length).min(size(from)?);
    let mut at = from_offset;
    let mut buffer = vec![0; usize::try_from(CHUNK_BYTES).unwrap_or(0)];
    while at < end {
        let (start, stop) = match data(from, at)? {
            Some((start, stop)) => (start, stop.min(end)),
            None => break,
        };
        at = start;
        while at < stop {
            let bytes = usize::try_from((stop - at).min(CHUNK_BYTES)).unwrap_or(0);
            from.read_exact_at(&mut buffer[..bytes], at).context("read")?;
            write(to, to_offset + (at - from_offset), &buffer[..bytes])?;
            at += bytes as u64;
        }
    }
    Ok(())
}

/// The next range with data at or after `offset`.
fn data(file: impl AsFd, offset: u64) -> Result<Option<(u64, u64)>> {
    let start = match seek(&file, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error).context("find data"),
    };
    Ok(Some((
        start,
        seek(&file, SeekFrom::Hole(start)).context("find a hole")?,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> File {
        let file = tempfile::tempfile().expect("a file");
        write(&file, 0, content).expect("write");
        file
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(size(file).expect("size")).expect("small")];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    }

    /// Ranges that no block size divides: the ways round what the kernel refuses.
    #[test]
    fn ranges_are_taken_out_and_put_in() {
        let spare = || Ok(tempfile::tempfile()?);
        let it = file(b"0123456789");
        allocate(&it, COLLAPSE, 2, 3, spare).expect("collapse");
        assert_eq!(content(&it), b"0156789");
        allocate(&it, INSERT, 3, 2, spare).expect("insert");
        assert_eq!(content(&it), b"015\0\x006789");
        allocate(&it, 0x03, 0, 2, spare).expect("punch");
        assert_eq!(content(&it), b"\0\x005\0\x006789");
        allocate(&it, 0, 8, 4, spare).expect("allocate");
        assert_eq!(content(&it), b"\0\x005\0\x006789\0\0\0");
        clone(&file(b"abc"), 1, &it, 10, 4).expect("clone");
        assert_eq!(content(&it), b"\0\x005\0\x006789\0bc\0\0");
    }
}
