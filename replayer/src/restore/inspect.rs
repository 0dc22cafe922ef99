//! Looks at what was made: extended attributes there are, and whether the target holds what it was told. Changes nothing.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, Statx, StatxFlags, listxattr, major, minor, statx};
use rustix::io::Errno;

use super::plan::{Kind, Node};

/// Bytes of the longest list of extended attribute names (XATTR_LIST_MAX).
const XATTR_LIST_BYTES_MAX: usize = 65536;

/// A path to an open handle: for calls that take no handle. It leads to that very inode, also to a symbolic link itself.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Names of the extended attributes at `path`; none where the file system has no such thing.
pub(crate) fn list_xattrs(path: &str) -> Result<Vec<Vec<u8>>, Errno> {
    let mut buffer = vec![0_u8; XATTR_LIST_BYTES_MAX];
    let length = match listxattr(path, &mut buffer) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error),
    };
    buffer.truncate(length);
    Ok(buffer
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}

/// What differs between the inode behind `fd` and what it should be: a target may round times or clear bits without an error.
pub(crate) fn mismatches(fd: BorrowedFd<'_>, node: &Node) -> Result<Vec<String>, Errno> {
    let found: Statx = statx(
        fd,
        c"",
        AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BASIC_STATS,
    )?;
    let mut list = Vec::new();
    let mode = u32::from(found.stx_mode) & 0o7777;
    if mode != node.permissions && !matches!(node.kind, Kind::Symlink { .. }) {
        list.push(format!(
            "the target has mode {mode:o} in place of {:o}",
            node.permissions
        ));
    }
    if (found.stx_uid, found.stx_gid) != (node.uid, node.gid) {
        list.push(format!(
            "the target has owner {}:{} in place of {}:{}",
            found.stx_uid, found.stx_gid, node.uid, node.gid
        ));
    }
    if let Some(mtime) = node.mtime {
        let there = found.stx_mtime;
        if (there.tv_sec, there.tv_nsec) != (mtime.sec, mtime.nsec) {
            list.push(format!(
                "the target has modification time {}.{:09} in place of {}.{:09}",
                there.tv_sec, there.tv_nsec, mtime.sec, mtime.nsec
            ));
        }
    }
    match node.kind {
        Kind::File { size } if found.stx_size != size => {
            list.push(format!(
                "the target has {} bytes in place of {size}",
                found.stx_size
            ));
        }
        Kind::CharDevice { rdev } | Kind::BlockDevice { rdev }
            if (found.stx_rdev_major, found.stx_rdev_minor) != (major(rdev), minor(rdev)) =>
        {
            list.push(format!(
                "the target has device number {}:{} in place of {}:{}",
                found.stx_rdev_major,
                found.stx_rdev_minor,
                major(rdev),
                minor(rdev)
            ));
        }
        _ => {}
    }
    Ok(list)
}
