//! Operations on ranges of files: truncation, fallocate in all its modes, and content that comes from another file.

use std::io::IoSlice;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with};

use super::kinds::Done;
use super::world::{Open, Step, checked, last_error};

/// `FIDEDUPERANGE` of linux/fs.h, with room for one destination.
const FIDEDUPERANGE: libc::c_ulong = 0xc018_9436;

pub(super) fn sendfile(step: &mut Step<'_>) -> Done {
    let (from, to) = (step.open()?, step.open_where(|open| !open.direct)?);
    let mut offset = step.offset(&from);
    let length = step.length();
    rustix::fs::sendfile(
        &to.fd,
        &from.fd,
        Some(&mut offset),
        usize::try_from(length).unwrap_or(0),
    )
    .map(drop)
}

/// A pipe that neither side waits for.
fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
}

/// From a file through a pipe into a file.
pub(super) fn splice(step: &mut Step<'_>) -> Done {
    let (from, to) = (step.open()?, step.open_where(|open| !open.direct)?);
    let (mut at, mut to_at) = (step.offset(&from), step.offset(&to));
    let (read, write) = pipe()?;
    let got = rustix::pipe::splice(
        &from.fd,
        Some(&mut at),
        &write,
        None,
        60 << 10,
        SpliceFlags::NONBLOCK,
    )?;
    rustix::pipe::splice(
        &read,
        None,
        &to.fd,
        Some(&mut to_at),
        got,
        SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
    )
    .map(drop)
}

/// From this process's memory through a pipe into a file.
pub(super) fn vmsplice(step: &mut Step<'_>) -> Done {
    let to = step.open_where(|open| !open.direct)?;
    let mut to_at = step.offset(&to);
    let length = step.length();
    let data = step.data(length);
    let (read, write) = pipe()?;
    let part = IoSlice::new(&data);
    // SAFETY: an IoSlice is an iovec; the data outlives the pipe.
    let got = unsafe {
        libc::vmsplice(
            write.as_raw_fd(),
            std::ptr::from_ref(&part).cast(),
            1,
            libc::SPLICE_F_NONBLOCK,
        )
    };
    let got = usize::try_from(got).map_err(|_| last_error())?;
    rustix::pipe::splice(&read, None, &to.fd, Some(&mut to_at), got, SpliceFlags::NONBLOCK).map(drop)
}

pub(super) fn copy_range(step: &mut Step<'_>) -> Done {
    let (from, to) = (step.open()?, step.open_where(|open| !open.direct)?);
    let (mut at, mut to_at) = (step.offset(&from), step.offset(&to));
    let length = step.length();
    rustix::fs::copy_file_range(
        &from.fd,
        Some(&mut at),
        &to.fd,
        Some(&mut to_at),
        usize::try_from(length).unwrap_or(0),
    )
    .map(drop)
}

pub(super) fn clone(step: &mut Step<'_>) -> Done {
    let (from, to) = (step.open()?, step.open()?);
    rustix::fs::ioctl_ficlone(&to.fd, &from.fd)
}

pub(super) fn clone_range(step: &mut Step<'_>) -> Done {
    let (from, to) = (step.open()?, step.open()?);
    let range = libc::file_clone_range {
        src_fd: i64::from(from.fd.as_raw_fd()),
        src_offset: step.block_offset(),
        // 0 is "to the end".
        src_length: if step.random.chance(20) {
            0
        } else {
            step.block_length()
        },
        dest_offset: step.block_offset(),
    };
    // SAFETY: the kernel reads one structure.
    checked(unsafe { libc::ioctl(to.fd.as_raw_fd(), libc::FICLONERANGE, &raw const range) }.into())
}

pub(super) fn dedupe(step: &mut Step<'_>) -> Done {
    /// struct file_dedupe_range, with one struct file_dedupe_range_info.
    #[repr(C)]
    struct Range {
        from_offset: u64,
        from_length: u64,
        count: u16,
        reserved: [u16; 3],
        to: i64,
        to_offset: u64,
        deduped: u64,
        status: i32,
        reserved_too: u32,
    }
    let (from, to) = (step.open()?, step.open()?);
    // Only equal content is shared, so it is made equal first; others may change it again before.
    let (at, length) = (step.block_offset(), step.block_length());
    let (mut copied_at, mut copied_to) = (at, at);
    _ = rustix::fs::copy_file_range(
        &from.fd,
        Some(&mut copied_at),
        &to.fd,
        Some(&mut copied_to),
        usize::try_from(length).unwrap_or(0),
    );
    let mut range = Range {
        from_offset: at,
        from_length: length,
        count: 1,
        reserved: [0; 3],
        to: i64::from(to.fd.as_raw_fd()),
        to_offset: at,
        deduped: 0,
        status: 0,
        reserved_too: 0,
    };
    // SAFETY: the kernel reads and writes one structure of this form.
    checked(unsafe { libc::ioctl(from.fd.as_raw_fd(), FIDEDUPERANGE, &raw mut range) }.into())?;
    step.say(format_args!("deduped {}", range.deduped));
    match range.status {
        0 => Ok(()),
        error if error < 0 => Err(Errno::from_raw_os_error(-error)),
        // The contents differ.
        _ => Err(Errno::AGAIN),
    }
}

/// A size for a file: mostly near others' writes, sometimes far out.
fn size(step: &mut Step<'_>) -> u64 {
    let size = match step.random.below(20) {
        0..2 => 0,
        2..10 => step.random.below(64 << 10),
        10..14 => step.random.below(64) * 4096,
        14..19 => step.random.below(400 << 10),
        _ => 1 << 40,
    };
    step.say(format_args!("to {size}"));
    size
}

pub(super) fn truncate(step: &mut Step<'_>) -> Done {
    let name = step.name();
    let size = size(step);
    let file = rustix::fs::open(
        &name,
        rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    rustix::fs::ftruncate(&file, size)
}

pub(super) fn ftruncate(step: &mut Step<'_>) -> Done {
    let open = step.open()?;
    let size = size(step);
    rustix::fs::ftruncate(&open.fd, size)
}

/// A range that does not care for blocks.
fn change_any(step: &mut Step<'_>, mode: FallocateFlags) -> Done {
    let open = step.open()?;
    let (offset, length) = (step.offset(&open), step.length());
    fallocate(&open.fd, mode, offset, length)
}

/// A range that has to be whole blocks.
fn change_blocks(step: &mut Step<'_>, mode: FallocateFlags) -> Done {
    let open: std::sync::Arc<Open> = step.open()?;
    let (offset, length) = (step.block_offset(), step.block_length());
    fallocate(&open.fd, mode, offset, length)
}

pub(super) fn allocate(step: &mut Step<'_>) -> Done {
    change_any(step, FallocateFlags::empty())
}

pub(super) fn allocate_keep_size(step: &mut Step<'_>) -> Done {
    change_any(step, FallocateFlags::KEEP_SIZE)
}

pub(super) fn punch_hole(step: &mut Step<'_>) -> Done {
    change_any(step, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)
}

pub(super) fn zero_range(step: &mut Step<'_>) -> Done {
    change_any(step, FallocateFlags::ZERO_RANGE)
}

pub(super) fn zero_keep_size(step: &mut Step<'_>) -> Done {
    change_any(step, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE)
}

pub(super) fn collapse(step: &mut Step<'_>) -> Done {
    change_blocks(step, FallocateFlags::COLLAPSE_RANGE)
}

pub(super) fn insert(step: &mut Step<'_>) -> Done {
    change_blocks(step, FallocateFlags::INSERT_RANGE)
}

/// Not where the file system itself loses data by it: there is nothing to compare.
pub(super) fn unshare(step: &mut Step<'_>) -> Done {
    if step.loses_on_unshare() {
        return Err(Errno::NOTSUP);
    }
    change_any(step, FallocateFlags::UNSHARE_RANGE)
}
