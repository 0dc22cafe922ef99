//! What an inode is now, without its content and without a number: to be compared with what the journal says.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use journal::record::{Attributes, InodeKey};
use rustix::fs::{FileType, OFlags};

use super::handle::{FileHandle, Root};
use super::{attributes, is_gone, open_content, read};
use crate::reconcile::Live;

/// Looks at an inode. What changes meanwhile is captured.
///
/// # Errors
/// What the kernel says.
pub(crate) fn look(root: &Root, handle: &FileHandle) -> io::Result<Live> {
    let path_fd = root.open_inode(handle, OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = rustix::fs::fstat(&path_fd)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let fd = open_content(root, handle, kind)?;
    let mut xattrs = BTreeMap::new();
    for name in read::xattr_names(path_fd.as_fd())? {
        if let Some(value) = read::xattr_value(path_fd.as_fd(), &name)? {
            xattrs.insert(name.into_bytes(), value);
        }
    }
    Ok(Live {
        attributes: Attributes {
            file_flags: fd.as_ref().and_then(|fd| read::file_flags(fd.as_fd())),
            project: fd.as_ref().and_then(|fd| read::project(fd.as_fd())),
            ..attributes(&stat)
        },
        link_target: match kind {
            FileType::Symlink => Some(rustix::fs::readlinkat(&path_fd, c"", Vec::new())?.into_bytes()),
            _ => None,
        },
        xattrs,
        entries: match &fd {
            Some(fd) if kind == FileType::Directory => entries(root, fd.as_fd())?,
            _ => BTreeMap::new(),
        },
    })
}

/// Whether an inode is no more.
pub(crate) fn is_no_more(root: &Root, key: InodeKey) -> bool {
    root.handle(key).is_some_and(|handle| {
        root.open_inode(&handle, OFlags::PATH | OFlags::NOFOLLOW)
            .is_err_and(|error| is_gone(&error))
    })
}

/// The entries of a directory that are part of the journal.
fn entries(root: &Root, fd: BorrowedFd<'_>) -> io::Result<BTreeMap<Vec<u8>, InodeKey>> {
    let (mut entries, mut cookie) = (BTreeMap::new(), 0);
    loop {
        let listed = read::directory_batch(fd, cookie)?;
        let Some(last) = listed.last() else {
            return Ok(entries);
        };
        cookie = last.next;
        for entry in listed {
            let name = entry.name.as_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let (handle, mount_id) = match FileHandle::of(fd, &entry.name) {
                Ok(found) => found,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            if let Some(key) = handle
                .key()
                .filter(|&key| root.holds(&handle, mount_id) && !root.is_spool(key))
            {
                entries.insert(name.to_owned(), key);
            }
        }
    }
}
