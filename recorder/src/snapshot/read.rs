//! Reading of an inode: directory batches, extended attributes, file flags, ranges with data.
//!
//! Owns system calls and their odd answers; it knows nothing of sequence numbers.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::pulse::{self, Place};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Bytes of directory entries read at a time: at most 170 short names.
const BATCH_BYTES: usize = 4096;
/// Longest list of names and longest value of extended attributes (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_BYTES_MAX: usize = 65536;

/// One entry as the directory lists it.
pub(crate) struct Listed {
    /// Raw name.
    pub(crate) name: CString,
    /// `DT_*`.
    pub(crate) kind: u8,
    /// Where the next entry is found.
    pub(crate) next: u64,
}

/// Reads until the buffer is full or the file ends.
pub(crate) fn read_full(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let _volume = pulse::at(Place::Volume);
        match rustix::io::pread(fd, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

/// The entries from `cookie` on, "." and ".." too; empty at the end.
pub(crate) fn directory_batch(fd: BorrowedFd<'_>, cookie: u64) -> io::Result<Vec<Listed>> {
    // Aligned as the kernel's `struct linux_dirent64` wants it.
    let mut buffer = [0u64; BATCH_BYTES / 8];
    rustix::fs::seek(fd, SeekFrom::Start(cookie))?;
    // SAFETY: the buffer is as long as said and lives through the call.
    let filled = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            fd.as_raw_fd(),
            buffer.as_mut_ptr(),
            BATCH_BYTES,
        )
    };
    let Ok(filled) = usize::try_from(filled) else {
        let error = io::Error::last_os_error();
        // A directory that was removed while it is open has no entries any more.
        return if error.kind() == io::ErrorKind::NotFound {
            Ok(Vec::new())
        } else {
            Err(error)
        };
    };
    let bytes: Vec<u8> = buffer
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .take(filled)
        .collect();
    parse_batch(&bytes)
}

/// ino u64, next u64, length u16, kind u8, name with NUL.
fn parse_batch(mut bytes: &[u8]) -> io::Result<Vec<Listed>> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "broken directory entry");
    let mut listed = Vec::new();
    while !bytes.is_empty() {
        let next = bytes
            .get(8..16)
            .and_then(|part| part.try_into().ok())
            .map(u64::from_ne_bytes)
            .ok_or_else(broken)?;
        let length = bytes
            .get(16..18)
            .and_then(|part| part.try_into().ok())
            .map(u16::from_ne_bytes)
            .ok_or_else(broken)?;
        let entry = bytes
            .get(..usize::from(length))
            .filter(|entry| entry.len() > 19)
            .ok_or_else(broken)?;
        let name = std::ffi::CStr::from_bytes_until_nul(&entry[19..]).map_err(|_| broken())?;
        listed.push(Listed {
            name: name.to_owned(),
            kind: entry[18],
            next,
        });
        bytes = &bytes[usize::from(length)..];
    }
    Ok(listed)
}

/// Path under which calls without an `O_PATH` form take the inode itself, symbolic links too.
fn magic_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Names of all extended attributes; none where the file system has none.
pub(crate) fn xattr_names(fd: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut buffer = vec![0u8; XATTR_BYTES_MAX];
    let length = match rustix::fs::listxattr(magic_path(fd), &mut buffer) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    buffer.truncate(length);
    Ok(buffer
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .filter_map(|name| CString::new(name).ok())
        .collect())
}

/// Value of an extended attribute; `None` where it is gone.
pub(crate) fn xattr_value(fd: BorrowedFd<'_>, name: &CString) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0u8; XATTR_BYTES_MAX];
    match rustix::fs::getxattr(magic_path(fd), name, &mut buffer) {
        Ok(length) => {
            buffer.truncate(length);
            Ok(Some(buffer))
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `FS_*_FL` flags, where the file system has them.
pub(crate) fn file_flags(fd: BorrowedFd<'_>) -> Option<u32> {
    rustix::fs::ioctl_getflags(fd).ok().map(|flags| flags.bits())
}

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// Project id, where the file system has such a thing.
pub(crate) fn project(fd: BorrowedFd<'_>) -> Option<u32> {
    const FS_IOC_FSGETXATTR: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<FsXattr>(b'X', 31);
    // SAFETY: this call fills a `struct fsxattr` and nothing else.
    unsafe { rustix::ioctl::ioctl(fd, rustix::ioctl::Getter::<FS_IOC_FSGETXATTR, FsXattr>::new()) }
        .ok()
        .map(|found| found.projid)
}

/// Goes through the inode's lock once, so that whatever held it when this was called is done when it returns.
///
/// An operation takes its sequence number under that lock and may finish (move the file's size, say) a moment later. A snapshot that
/// took its number in between would supersede an operation that it does not see. ext4 and btrfs take the lock in `SEEK_DATA`, xfs
/// in `read`, all of them in `getdents`.
pub(crate) fn pass_inode_lock(fd: BorrowedFd<'_>, is_directory: bool) {
    let _volume = pulse::at(Place::Volume);
    // The answers do not matter, and an error has passed the lock or will be met again when the inode is read.
    if is_directory {
        drop(directory_batch(fd, 0));
    } else {
        let _passed = rustix::fs::seek(fd, SeekFrom::Data(0));
        let _passed = rustix::io::pread(fd, &mut [0u8; 1], 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_directory_that_was_removed_while_open_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(directory.path()).unwrap();
        assert_eq!(
            directory_batch(fd.as_fd(), 0).unwrap().len(),
            2,
            "itself and its parent"
        );
        drop(directory);
        assert!(directory_batch(fd.as_fd(), 0).unwrap().is_empty());
    }

    #[test]
    fn broken_directory_bytes_are_refused() {
        assert!(parse_batch(&[0; 10]).is_err());
        let mut entry = vec![0u8; 24];
        entry[16] = 200;
        assert!(parse_batch(&entry).is_err(), "longer than the buffer");
        entry[16] = 0;
        assert!(parse_batch(&entry).is_err(), "a length of 0 must not loop");
        entry[16] = 24;
        entry[19..21].copy_from_slice(b"a\0");
        assert_eq!(parse_batch(&entry).unwrap()[0].name.as_bytes(), b"a");
    }
}
