//! System calls that no crate wraps safely: shared mappings, ioctls, libaio, fork. All `unsafe` of the operations is here.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, RawFd};
use std::ptr;

use anyhow::{Context as _, Result, ensure};

use super::util::PAGE;

/// An ioctl whose argument is a `T` that the kernel reads or writes.
pub(super) struct Request<T> {
    code: u64,
    argument: std::marker::PhantomData<T>,
}

impl<T> Request<T> {
    /// # Safety
    /// `T` must have the layout that the kernel expects for `code`, and pointers inside must be valid whenever it is called.
    pub(super) const unsafe fn new(code: u64) -> Self {
        Self {
            code,
            argument: std::marker::PhantomData,
        }
    }

    /// Calls it.
    pub(super) fn call(&self, fd: impl AsFd, argument: &mut T) -> io::Result<i32> {
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: `new` was promised that the layout fits; the reference is valid for the call.
        let got = unsafe { libc::ioctl(fd, self.code, ptr::from_mut(argument)) };
        if got < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(got)
        }
    }
}

/// `_IOC` of the kernel: direction (1 write, 2 read, 3 both), type, number, size of the argument.
pub(super) const fn request_code(direction: u64, kind: u8, number: u8, size: usize) -> u64 {
    (direction << 30) | ((size as u64) << 16) | ((kind as u64) << 8) | number as u64
}

// SAFETY: the kernel reads an int here, whatever the size in the code says (include/uapi/linux/fs.h).
const SETVERSION: Request<u64> = unsafe { Request::new(request_code(1, b'v', 2, 8)) };
// SAFETY: the kernel reads and writes an unsigned int; a u64 has room for it.
const GETFLAGS: Request<u64> = unsafe { Request::new(request_code(2, b'f', 1, 8)) };
// SAFETY: as for GETFLAGS.
const SETFLAGS: Request<u64> = unsafe { Request::new(request_code(1, b'f', 2, 8)) };

/// Gives an inode another generation.
pub(super) fn set_generation(fd: impl AsFd, mut value: u64) -> io::Result<()> {
    SETVERSION.call(fd, &mut value).map(drop)
}

/// Flags as chattr(1) shows them (`FS_*_FL`).
pub(super) fn flags(fd: impl AsFd) -> io::Result<u64> {
    let mut value = 0;
    GETFLAGS.call(fd, &mut value).map(|_| value & 0xffff_ffff)
}

/// Sets flags, and makes sure that they are set.
pub(super) fn add_flags(file: &File, add: u64) -> Result<()> {
    let mut value = flags(file).context("read flags")? | add;
    SETFLAGS.call(file, &mut value).context("set flags")?;
    ensure!(flags(file)? & add == add, "the flags are not set afterwards");
    Ok(())
}

/// Takes flags away.
pub(super) fn remove_flags(file: &File, remove: u64) -> Result<()> {
    let mut value = flags(file).context("read flags")? & !remove;
    SETFLAGS.call(file, &mut value).context("remove flags")?;
    Ok(())
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Fsxattr {
    pub(super) xflags: u32,
    pub(super) extent_size: u32,
    pub(super) extents: u32,
    pub(super) project: u32,
    pub(super) cow_extent_size: u32,
    pad: [u8; 8],
}

/// FS_IOC_FSGETXATTR.
// SAFETY: Fsxattr has the layout of struct fsxattr.
pub(super) const GET_FSXATTR: Request<Fsxattr> = unsafe { Request::new(request_code(2, b'X', 31, 28)) };
/// FS_IOC_FSSETXATTR.
// SAFETY: as above.
pub(super) const SET_FSXATTR: Request<Fsxattr> = unsafe { Request::new(request_code(1, b'X', 32, 28)) };

/// A shared mapping of a file.
pub(super) struct Mapping {
    start: *mut c_void,
    bytes: usize,
}

// SAFETY: stores go through `store`, which makes no references; racing stores of bytes are what some scenarios are about,
// and the memory belongs to the kernel's page cache.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `bytes` of a file, for reading and writing.
    pub(super) fn shared(file: &File, bytes: usize) -> Result<Self> {
        let (null, protection) = (ptr::null_mut(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory of ours.
        let start = unsafe { libc::mmap(null, bytes, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("map the file");
        }
        Ok(Self { start, bytes })
    }

    /// Stores bytes at an offset, which must be inside the file: beyond its end the kernel kills the process.
    pub(super) fn store(&self, offset: usize, data: &[u8]) {
        assert!(
            offset + data.len() <= self.bytes,
            "a store outside of the mapping"
        );
        // SAFETY: inside the mapping (checked above), which lives as long as `self`.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), self.start.cast::<u8>().add(offset), data.len()) }
    }

    /// msync(2) of the whole mapping, waiting for it.
    pub(super) fn sync(&self) -> Result<()> {
        // SAFETY: the range is this mapping.
        let got = unsafe { libc::msync(self.start, self.bytes, libc::MS_SYNC) };
        ensure!(got == 0, "msync: {}", io::Error::last_os_error());
        Ok(())
    }

    /// Leaves the mapping to the end of the process.
    pub(super) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}

/// Runs `act` in a child process that then ends at once, without destructors; fails when it did.
///
/// Only for a process with one thread.
pub(super) fn in_child(act: impl FnOnce() -> Result<()>) -> Result<()> {
    wait_for(start_child(act)?)
}

/// Starts `act` in a child process.
pub(super) fn start_child(act: impl FnOnce() -> Result<()>) -> Result<libc::pid_t> {
    // SAFETY: the process has one thread, so the child finds no lock held by another.
    let pid = unsafe { libc::fork() };
    ensure!(pid >= 0, "fork: {}", io::Error::last_os_error());
    if pid == 0 {
        let code = match act() {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("ops: child: {error:#}");
                1
            }
        };
        // SAFETY: ends this process and returns to nobody.
        unsafe { libc::_exit(code) };
    }
    Ok(pid)
}

/// Waits for a child, which must end well.
pub(super) fn wait_for(pid: libc::pid_t) -> Result<()> {
    let status = status_of(pid)?;
    ensure!(status == 0, "a child process ended with status {status:#x}");
    Ok(())
}

/// Waits for a child that ends well or by a store beyond the end of a file.
pub(super) fn wait_for_or_bus_error(pid: libc::pid_t) -> Result<()> {
    let status = status_of(pid)?;
    let bus_error = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS;
    ensure!(
        status == 0 || bus_error,
        "a child process ended with status {status:#x}"
    );
    Ok(())
}

fn status_of(pid: libc::pid_t) -> Result<i32> {
    let mut status = 0;
    // SAFETY: `status` is valid for the call.
    let got = unsafe { libc::waitpid(pid, &mut status, 0) };
    ensure!(got == pid, "wait for a child: {}", io::Error::last_os_error());
    Ok(status)
}

/// Becomes user and group for good.
pub(super) fn become_user(id: u32) -> Result<()> {
    // SAFETY: plain system calls on this process, which has one thread.
    let got = unsafe {
        (
            libc::setgroups(0, ptr::null()),
            libc::setgid(id),
            libc::setuid(id),
        )
    };
    ensure!(
        got == (0, 0, 0),
        "become user {id}: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// creat(2) itself.
pub(super) fn creat(name: &str) -> Result<()> {
    let path = std::ffi::CString::new(name).context("name")?;
    // SAFETY: the path is valid for the call.
    let fd = unsafe { libc::syscall(libc::SYS_creat, path.as_ptr(), 0o640) };
    ensure!(fd >= 0, "creat {name}: {}", io::Error::last_os_error());
    // SAFETY: closes the descriptor that was just made.
    unsafe { libc::close(RawFd::try_from(fd).context("descriptor")?) };
    Ok(())
}

/// mknod(2) itself: also a regular file or a socket.
pub(super) fn mknod(name: &str, mode: u32, device: u64) -> Result<()> {
    let path = std::ffi::CString::new(name).context("name")?;
    // SAFETY: the path is valid for the call.
    let got = unsafe { libc::mknod(path.as_ptr(), mode, device) };
    if got != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("mknod {name}"));
    }
    Ok(())
}

/// Moves pages into a pipe as a gift: they are not copied.
pub(super) fn gift_pages(pipe: BorrowedFd<'_>, data: &Pages) -> Result<usize> {
    let part = libc::iovec {
        iov_base: data.bytes().as_ptr().cast_mut().cast(),
        iov_len: data.bytes().len(),
    };
    // SAFETY: the pages outlive the call and are not changed while they are in the pipe: the caller reads it empty first.
    let got = unsafe { libc::vmsplice(pipe.as_raw_fd(), &part, 1, libc::SPLICE_F_GIFT) };
    if got < 0 {
        return Err(io::Error::last_os_error()).context("vmsplice");
    }
    usize::try_from(got).context("length of vmsplice")
}

#[repr(C, align(4096))]
#[derive(Clone)]
struct Page([u8; PAGE]);

/// Memory aligned to pages, as O_DIRECT wants it.
pub(super) struct Pages(Vec<Page>);

impl Pages {
    /// Pages with this content, the last one filled up with zeros.
    pub(super) fn holding(data: &[u8]) -> Self {
        let mut pages = Self(vec![Page([0; PAGE]); data.len().div_ceil(PAGE)]);
        for (page, part) in pages.0.iter_mut().zip(data.chunks(PAGE)) {
            page.0[..part.len()].copy_from_slice(part);
        }
        pages
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the vector holds so many arrays of bytes, one after the other, without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast::<u8>(), self.0.len() * PAGE) }
    }
}

/// `struct iocb` of libaio.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

/// `struct io_event` of libaio.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IoEvent {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

/// Writes all of `parts` (offset, bytes) by one io_submit(2) and waits for all of them.
pub(super) fn aio_write(file: &File, parts: &[(u64, &[u8])]) -> Result<()> {
    const PWRITE: u16 = 1;
    let count = i64::try_from(parts.len()).context("count of requests")?;
    let fd = u32::try_from(file.as_raw_fd()).context("descriptor")?;
    let mut queue: u64 = 0;
    // SAFETY: `queue` is valid for the call.
    let got = unsafe { libc::syscall(libc::SYS_io_setup, count, &raw mut queue) };
    ensure!(got == 0, "io_setup: {}", io::Error::last_os_error());
    let mut requests = parts
        .iter()
        .map(|(offset, data)| {
            Ok(Iocb {
                opcode: PWRITE,
                fd,
                buffer: data.as_ptr() as u64,
                bytes: data.len() as u64,
                offset: i64::try_from(*offset).context("offset")?,
                ..Iocb::default()
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let pointers: Vec<*mut Iocb> = requests.iter_mut().map(ptr::from_mut).collect();
    // SAFETY: the requests and the data that they point to live until all events have been taken below.
    let sent = unsafe { libc::syscall(libc::SYS_io_submit, queue, count, pointers.as_ptr()) };
    let failure = io::Error::last_os_error();
    let mut events = vec![IoEvent::default(); parts.len()];
    let (none, into) = (ptr::null::<libc::timespec>(), events.as_mut_ptr());
    // SAFETY: there is room for as many events as are waited for.
    let done = unsafe {
        libc::syscall(
            libc::SYS_io_getevents,
            queue,
            sent.max(0),
            sent.max(0),
            into,
            none,
        )
    };
    // SAFETY: the queue is ours.
    unsafe { libc::syscall(libc::SYS_io_destroy, queue) };
    if sent < 0 {
        return Err(failure).context("io_submit");
    }
    ensure!(
        sent == count && done == count,
        "io_submit took {sent} of {count}, {done} ended"
    );
    let (want, got): (i64, i64) = (
        parts.iter().map(|(_, data)| data.len() as i64).sum(),
        events.iter().map(|event| event.result).sum(),
    );
    ensure!(want == got, "{got} of {want} bytes were written");
    Ok(())
}
