//! Writes that are queued to the kernel: io_uring and the older asynchronous I/O. Several at once, which may overlap.

use std::os::fd::AsRawFd as _;

use io_uring::{IoUring, opcode, types};
use rustix::io::Errno;

use super::content::Aligned;
use super::kinds::Done;
use super::world::{Open, Step, checked};

/// Writes of one operation, at most.
const AT_ONCE_MAX: u64 = 4;

/// The writes of one operation: where, and what.
fn draw(step: &mut Step<'_>, open: &Open) -> Vec<(u64, Aligned)> {
    (0..1 + step.random.below(AT_ONCE_MAX))
        .map(|_| {
            let (mut offset, mut length) = (step.offset(open), step.length());
            if open.direct {
                offset -= offset % 4096;
                length = length.next_multiple_of(4096);
            }
            (offset, Aligned::new(&step.data(length)))
        })
        .collect()
}

fn length_u32(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(0)
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

pub(super) fn uring_write(step: &mut Step<'_>) -> Done {
    uring(step, false)
}

/// From buffers that were registered before.
pub(super) fn uring_fixed(step: &mut Step<'_>) -> Done {
    uring(step, true)
}

fn uring(step: &mut Step<'_>, fixed: bool) -> Done {
    let open = step.open_where(|open| open.regular)?;
    let writes = draw(step, &open);
    let mut ring = IoUring::new(8).map_err(|error| errno(&error))?;
    if fixed {
        let buffers: Vec<libc::iovec> = writes
            .iter()
            .map(|(_, data)| libc::iovec {
                iov_base: data.bytes().as_ptr().cast_mut().cast(),
                iov_len: data.bytes().len(),
            })
            .collect();
        // SAFETY: the buffers live until all writes have ended, and the ring is dropped before them.
        unsafe { ring.submitter().register_buffers(&buffers) }.map_err(|error| errno(&error))?;
    }
    let fd = types::Fd(open.fd.as_raw_fd());
    for (number, (offset, data)) in (0..).zip(&writes) {
        let (start, length) = (data.bytes().as_ptr(), length_u32(data.bytes()));
        let entry = if fixed {
            opcode::WriteFixed::new(fd, start, length, number)
                .offset(*offset)
                .build()
        } else {
            opcode::Write::new(fd, start, length).offset(*offset).build()
        };
        // SAFETY: data and file live until the completion of every write was seen below.
        unsafe { ring.submission().push(&entry) }.map_err(|_| Errno::BUSY)?;
    }
    ring.submit_and_wait(writes.len())
        .map_err(|error| errno(&error))?;
    let results: Vec<i32> = ring.completion().map(|done| done.result()).collect();
    match results.iter().find(|result| **result < 0) {
        Some(result) => Err(Errno::from_raw_os_error(-result)),
        None => Ok(()),
    }
}

pub(super) fn aio_write(step: &mut Step<'_>) -> Done {
    let open = step.open_where(|open| open.regular)?;
    let writes = draw(step, &open);
    let mut context: libc::c_ulong = 0;
    // SAFETY: the kernel writes one word.
    checked(unsafe { libc::syscall(libc::SYS_io_setup, AT_ONCE_MAX, &raw mut context) })?;
    let done = aio_submit(context, &open, &writes);
    // SAFETY: waits for what is under way; the buffers are still there.
    checked(unsafe { libc::syscall(libc::SYS_io_destroy, context) })?;
    done
}

fn aio_submit(context: libc::c_ulong, open: &Open, writes: &[(u64, Aligned)]) -> Done {
    /// `IOCB_CMD_PWRITE` of linux/aio_abi.h.
    const PWRITE: u16 = 1;
    let mut blocks = Vec::with_capacity(writes.len());
    for (offset, data) in writes {
        // SAFETY: plain numbers, all valid as zero.
        let mut block: libc::iocb = unsafe { std::mem::zeroed() };
        block.aio_lio_opcode = PWRITE;
        block.aio_fildes = u32::try_from(open.fd.as_raw_fd()).unwrap_or(u32::MAX);
        block.aio_buf = data.bytes().as_ptr() as u64;
        block.aio_nbytes = data.bytes().len() as u64;
        block.aio_offset = i64::try_from(*offset).unwrap_or(0);
        blocks.push(block);
    }
    let mut pointers: Vec<*mut libc::iocb> = blocks.iter_mut().map(std::ptr::from_mut).collect();
    // SAFETY: the control blocks and their buffers live until the context is destroyed.
    let submitted = unsafe {
        libc::syscall(
            libc::SYS_io_submit,
            context,
            pointers.len() as libc::c_long,
            pointers.as_mut_ptr(),
        )
    };
    checked(submitted)?;
    // struct io_event: data, obj, res, res2.
    let mut events = [[0i64; 4]; AT_ONCE_MAX as usize];
    // SAFETY: there is room for as many events as are asked for.
    let got = unsafe {
        libc::syscall(
            libc::SYS_io_getevents,
            context,
            submitted,
            submitted,
            events.as_mut_ptr(),
            std::ptr::null_mut::<libc::timespec>(),
        )
    };
    checked(got)?;
    match events.iter().find(|event| event[2] < 0) {
        Some(event) => Err(Errno::from_raw_os_error(
            i32::try_from(-event[2]).unwrap_or(libc::EIO),
        )),
        None => Ok(()),
    }
}
