//! The private place in the target: every inode lies there under a number while steps are applied, whether it has a name or not.
//!
//! Directories lie flat: in a snapshot's window one may for a moment have two names, or be below itself, which no real tree can hold. So
//! an entry that names a directory is made when all is done, and every other entry is a hard link at once. Opens nothing but single
//! checked names below the target's root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, linkat, mkdirat, mknodat, openat2, renameat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::super::target::{RESOLVE, Target};

/// Beginning of the place's name.
const PREFIX: &str = ".tapeworm-steps-";

/// What an inode is made as.
pub(super) enum Made<'a> {
    File,
    Directory,
    Symlink(&'a [u8]),
    Node(FileType, u64),
}

/// The place.
pub(super) struct Place {
    root: OwnedFd,
    fd: OwnedFd,
    name: String,
    renamed: u32,
}

impl Place {
    /// Makes it in the target's root.
    pub(super) fn make(target: &Target) -> Result<Self> {
        let root = open_dir(target.root(), b".").context("open the target directory")?;
        let name = format!("{PREFIX}{}", std::process::id());
        mkdirat(&root, name.as_str(), Mode::from_raw_mode(0o700))
            .context("make a private place in the target")?;
        let fd = open_dir(root.as_fd(), name.as_bytes()).context("open the private place in the target")?;
        Ok(Self {
            root,
            fd,
            name,
            renamed: 0,
        })
    }

    /// Its directory.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The target's root.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Steps aside where the tree itself wants the place's name in its root.
    pub(super) fn give_way(&mut self, is_taken: impl Fn(&[u8]) -> bool) -> Result<()> {
        let mut next = self.name.clone();
        while is_taken(next.as_bytes()) {
            self.renamed += 1;
            next = format!("{PREFIX}{}-{}", std::process::id(), self.renamed);
        }
        if next == self.name {
            return Ok(());
        }
        renameat(&self.root, self.name.as_str(), &self.root, next.as_str())
            .context("rename the private place in the target")?;
        self.name = next;
        Ok(())
    }

    /// Makes an inode under a number.
    pub(super) fn create(&self, number: u64, made: &Made<'_>) -> Result<(), Errno> {
        let name = number.to_string();
        let owner_only = Mode::from_raw_mode(0o600);
        match made {
            Made::File => Target::create(&self.fd, name.as_bytes()).map(drop),
            Made::Directory => mkdirat(&self.fd, name.as_str(), Mode::from_raw_mode(0o700)),
            Made::Symlink(target) => symlinkat(*target, &self.fd, name.as_str()),
            Made::Node(kind, rdev) => mknodat(&self.fd, name.as_str(), *kind, owner_only, *rdev),
        }
    }

    /// Removes the inode under a number; a directory must be empty.
    pub(super) fn remove(&self, number: u64, is_directory: bool) -> Result<()> {
        let flags = if is_directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        unlinkat(&self.fd, number.to_string(), flags)
            .with_context(|| format!("remove inode {number} of the private place"))
    }

    /// Opens an inode by number.
    pub(super) fn open(&self, number: u64, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(&self.fd, number.to_string(), flags, Mode::empty(), RESOLVE)
            .with_context(|| format!("open inode {number} of the private place"))
    }

    /// A further name, in a directory given by number, of the inode under a number.
    pub(super) fn link(&self, number: u64, directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        linkat(&self.fd, number.to_string(), directory, name, AtFlags::empty())
    }

    /// Moves a directory to where it belongs.
    pub(super) fn hang(&self, number: u64, directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        renameat(&self.fd, number.to_string(), directory, name)
    }

    /// Removes the place, which must be empty.
    pub(super) fn clear(&self) -> Result<()> {
        unlinkat(&self.root, self.name.as_str(), AtFlags::REMOVEDIR)
            .context("remove the private place of the target")
    }
}

/// Opens a directory, only as a handle.
fn open_dir(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(parent, name, flags, Mode::empty(), RESOLVE)
}
