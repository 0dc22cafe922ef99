//! File handles: naming and opening an inode without its path.
//!
//! Owns the layouts of the handles of ext4, xfs and btrfs, and the private view of the volume that they are opened through. It
//! knows nothing of records.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;

use crate::pulse::{self, Place};
use anyhow::{Context as _, Result};
use journal::record::InodeKey;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

/// `FILEID_INO32_GEN`: u32 inode number, u32 generation (ext4; xfs with small inode numbers).
const INO32_GENERATION: i32 = 1;
/// `FILEID_INO32_GEN | XFS_FILEID_TYPE_64FLAG`: u64 inode number, u32 generation (xfs).
const INO64_GENERATION: i32 = 0x81;
/// `FILEID_BTRFS_WITHOUT_PARENT`: u64 object, u64 tree, u32 generation.
const BTRFS: i32 = 0x4d;
/// Longest handle that the three file systems make, in bytes.
const HANDLE_BYTES_MAX: usize = 24;

/// `struct file_handle` with room for the bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHandle {
    bytes: u32,
    kind: i32,
    data: [u8; HANDLE_BYTES_MAX],
}

impl FileHandle {
    /// The handle of a directory's entry (not followed), or of `dir` itself for an empty name; and the mount that it is on.
    pub(crate) fn of(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<(Self, i32)> {
        let mut handle = Self {
            bytes: HANDLE_BYTES_MAX as u32,
            kind: 0,
            data: [0; HANDLE_BYTES_MAX],
        };
        let mut mount_id = 0i32;
        let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
        // SAFETY: all pointers live through the call; the kernel writes at most `bytes` bytes behind the header.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                dir.as_raw_fd(),
                name.as_ptr(),
                &raw mut handle,
                &raw mut mount_id,
                flags,
            )
        };
        if result == 0 {
            Ok((handle, mount_id))
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Opens the inode through any file descriptor of a mount of its file system.
    ///
    /// # Errors
    /// `ESTALE` where the inode is no more.
    pub(crate) fn open(&self, mount: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let _volume = pulse::at(Place::Volume);
        // SAFETY: the handle lives through the call and says how long it is.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                mount.as_raw_fd(),
                std::ptr::from_ref(self),
                flags.bits(),
            )
        };
        match i32::try_from(fd) {
            // SAFETY: the kernel has just given this descriptor to us alone.
            Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Inode number and generation; `None` for a layout that is not known.
    pub(crate) fn key(&self) -> Option<InodeKey> {
        let (ino, generation) = match (self.kind, self.bytes) {
            (INO32_GENERATION, 8) => (u64::from(self.u32_at(0)), self.u32_at(4)),
            (INO64_GENERATION, 12) => (self.u64_at(0), self.u32_at(8)),
            (BTRFS, 20) => (self.u64_at(0), self.u32_at(16)),
            _ => return None,
        };
        Some(InodeKey { ino, generation })
    }

    /// The handle of another inode of the same tree.
    pub(crate) fn with_key(&self, key: InodeKey) -> Option<Self> {
        let mut handle = *self;
        match self.kind {
            INO32_GENERATION => {
                handle.data[..4].copy_from_slice(&u32::try_from(key.ino).ok()?.to_ne_bytes());
                handle.data[4..8].copy_from_slice(&key.generation.to_ne_bytes());
            }
            INO64_GENERATION => {
                handle.data[..8].copy_from_slice(&key.ino.to_ne_bytes());
                handle.data[8..12].copy_from_slice(&key.generation.to_ne_bytes());
            }
            BTRFS => {
                handle.data[..8].copy_from_slice(&key.ino.to_ne_bytes());
                handle.data[16..20].copy_from_slice(&key.generation.to_ne_bytes());
            }
            _ => return None,
        }
        Some(handle)
    }

    /// Whether both are of one tree: a btrfs subvolume is another tree with its own inode numbers.
    pub(crate) fn same_tree(&self, other: &Self) -> bool {
        self.kind == other.kind && (self.kind != BTRFS || self.u64_at(8) == other.u64_at(8))
    }

    fn u32_at(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.data[at..at + 4]);
        u32::from_ne_bytes(bytes)
    }

    fn u64_at(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.data[at..at + 8]);
        u64::from_ne_bytes(bytes)
    }
}

/// A view of the volume that no other mount covers, and the handle of its root.
pub(crate) struct Root {
    /// A mount of the volume: a private clone without the mounts below it, so that covered directories are seen too.
    mount: OwnedFd,
    /// The mount as the host has it: while it is open the volume cannot be unmounted under the recorder.
    _busy: OwnedFd,
    mount_id: i32,
    template: FileHandle,
    /// The recorder's own spools, as far as they lie on this volume: they are no part of the journal.
    spool_inos: Vec<u64>,
}

impl Root {
    /// Opens the volume mounted at `mount_point`. Needs `CAP_SYS_ADMIN` for the private view; without it the host's own is used and
    /// entries below other mounts are left out.
    pub(crate) fn open(mount_point: &Path, spool_inos: Vec<u64>) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let busy = rustix::fs::openat(CWD, mount_point, flags, Mode::empty())
            .with_context(|| format!("open {}", mount_point.display()))?;
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let private = open_tree(CWD, mount_point, clone)
            .and_then(|tree| rustix::fs::openat(tree.as_fd(), c".", flags, Mode::empty()));
        let mount = match private {
            Ok(mount) => mount,
            Err(error) => {
                tracing::warn!(
                    "no private view of {}: {error}; what other mounts cover is not in the base",
                    mount_point.display()
                );
                busy.try_clone().context("copy file descriptor")?
            }
        };
        let (template, mount_id) = FileHandle::of(mount.as_fd(), c"")
            .with_context(|| format!("take the file handle of {}", mount_point.display()))?;
        template.key().with_context(|| {
            format!(
                "decode the file handle of {}: its file system is not supported",
                mount_point.display()
            )
        })?;
        Ok(Self {
            mount,
            _busy: busy,
            mount_id,
            template,
            spool_inos,
        })
    }

    /// Opens an inode.
    pub(crate) fn open_inode(&self, handle: &FileHandle, flags: OFlags) -> io::Result<OwnedFd> {
        handle.open(self.mount.as_fd(), flags)
    }

    /// The handle of an inode of this volume.
    pub(crate) fn handle(&self, key: InodeKey) -> Option<FileHandle> {
        self.template.with_key(key)
    }

    /// The handle of the directory that the view is mounted from.
    pub(crate) fn top(&self) -> FileHandle {
        self.template
    }

    /// Whether an entry's handle belongs to this volume's tree.
    pub(crate) fn holds(&self, handle: &FileHandle, mount_id: i32) -> bool {
        mount_id == self.mount_id && handle.same_tree(&self.template)
    }

    /// Whether an inode is the directory of one of the recorder's own spools.
    pub(crate) fn is_spool(&self, key: InodeKey) -> bool {
        self.spool_inos.contains(&key.ino)
    }

    /// A descriptor on the volume, for `syncfs` and `fstatvfs`.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_made_from_a_key() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("f"), "x").unwrap();
        let fd = rustix::fs::openat(CWD, directory.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        // Needs no rights, but a file system with handles of a known layout: set TMPDIR to a place on ext4, xfs or btrfs.
        let (handle, _) = FileHandle::of(fd.as_fd(), c"f").expect("a handle");
        let key = handle.key().expect("a handle of a known layout");
        let (top, _) = FileHandle::of(fd.as_fd(), c"").unwrap();
        assert_eq!(top.with_key(key), Some(handle));
        assert!(top.same_tree(&handle));
    }

    #[test]
    fn layouts() {
        for (kind, bytes) in [(INO32_GENERATION, 8), (INO64_GENERATION, 12), (BTRFS, 20)] {
            let blank = FileHandle {
                bytes,
                kind,
                data: [0; HANDLE_BYTES_MAX],
            };
            let key = InodeKey {
                ino: 0x0102_0304,
                generation: 0x0506_0708,
            };
            assert_eq!(blank.with_key(key).unwrap().key(), Some(key));
        }
        let odd = FileHandle {
            bytes: 8,
            kind: 99,
            data: [0; HANDLE_BYTES_MAX],
        };
        assert_eq!((odd.key(), odd.with_key(InodeKey::default())), (None, None));
    }
}
