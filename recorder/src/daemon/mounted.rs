//! A sign on a mounted file system that it has not been unmounted: what happened to it while it was not mounted nobody has seen.
//!
//! It must outlive every process and not outlive the mount, and no bus or file may be left behind for it. The write life-time hint of a
//! directory does that: it stands in the inode in memory only, the root's inode lives as long as the file system is mounted anywhere, and
//! for a directory the hint means nothing.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result};

const F_GET_RW_HINT: libc::c_int = 1035;
const F_SET_RW_HINT: libc::c_int = 1036;
/// `RWH_WRITE_LIFE_EXTREME`.
const SIGN: u64 = 5;

/// Puts the sign on the file system whose root directory this is.
///
/// # Errors
/// What the kernel says.
pub(super) fn sign(root: BorrowedFd<'_>) -> Result<()> {
    hint(root, F_SET_RW_HINT, SIGN)
        .map(drop)
        .context("sign the root directory")
}

/// Whether it has been mounted ever since it was signed.
///
/// # Errors
/// What the kernel says.
pub(super) fn is_signed(root: BorrowedFd<'_>) -> Result<bool> {
    let found = hint(root, F_GET_RW_HINT, 0).context("read the sign of the root directory")?;
    Ok(found == SIGN)
}

fn hint(root: BorrowedFd<'_>, command: libc::c_int, value: u64) -> io::Result<u64> {
    let mut value = value;
    // SAFETY: the kernel reads or writes the one u64 that the pointer is to.
    match unsafe { libc::fcntl(root.as_raw_fd(), command, &raw mut value) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_directory_is_signed_by_somebody_else_or_not_at_all() {
        let dir = tempfile::tempdir().expect("dir");
        let open = || File::open(dir.path()).expect("open");
        assert!(!is_signed(open().as_fd()).expect("read"));
        sign(open().as_fd()).expect("sign");
        assert!(
            is_signed(open().as_fd()).expect("read"),
            "whoever opens it sees it"
        );
    }
}
