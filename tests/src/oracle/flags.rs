//! File flags (chattr) and project ids of an open file or directory, and which of them a file system holds.

use std::os::fd::{AsFd, AsRawFd as _};

use anyhow::{Context, Result, bail};

/// The flags that a user sets and a restore brings back, with chattr's letters; the others say how a file system stores a file.
const RESTORABLE: [(u32, char); 16] = [
    (0x1, 's'),
    (0x2, 'u'),
    (0x4, 'c'),
    (0x8, 'S'),
    (0x10, 'i'),
    (0x20, 'a'),
    (0x40, 'd'),
    (0x80, 'A'),
    (0x4000, 'j'),
    (0x8000, 't'),
    (0x1_0000, 'D'),
    (0x2_0000, 'T'),
    (0x80_0000, 'C'),
    (0x200_0000, 'x'),
    (0x2000_0000, 'P'),
    (0x4000_0000, 'F'),
];

/// What a file system can hold, from its `fileattr_set` in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Letters of flags.
    pub flags: &'static str,
    /// Project ids.
    pub project: bool,
}

/// What the file system named holds.
pub(super) fn held_by(fs_type: &str) -> Result<Held> {
    Ok(match fs_type {
        "ext4" => Held {
            flags: "sucSiadAjtDTxPF",
            project: true,
        },
        "xfs" => Held {
            flags: "SiadAxP",
            project: true,
        },
        "btrfs" => Held {
            flags: "cSiadADC",
            project: false,
        },
        other => bail!("which file flags {other} holds is not known: ext4, xfs or btrfs"),
    })
}

/// Letters of the restorable flags; none where the file system has none.
pub(super) fn flags(file: impl AsFd) -> Result<String> {
    use rustix::io::Errno;
    match rustix::fs::ioctl_getflags(file) {
        Ok(flags) => Ok(letters(flags.bits())),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => Ok(String::new()),
        Err(error) => Err(error).context("read file flags"),
    }
}

fn letters(flags: u32) -> String {
    RESTORABLE
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, letter)| *letter)
        .collect()
}

/// Project id; 0 where the file system has none.
pub(super) fn project(file: impl AsFd) -> Result<u32> {
    // FS_IOC_FSGETXATTR, and `struct fsxattr` as words: flags, extent size, extents, project, ...
    const GET: u64 = 0x801c_581f;
    const PROJECT: usize = 3;
    let mut words = [0u32; 7];
    // SAFETY: the call fills 28 bytes, which is what there is.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), GET, words.as_mut_ptr()) };
    if result == 0 {
        return Ok(words[PROJECT]);
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::EINVAL) => Ok(0),
        _ => Err(error).context("read project id"),
    }
}

#[cfg(test)]
mod tests {
    use super::{held_by, letters};

    #[test]
    fn flags_have_letters() {
        assert_eq!(letters(0x8_0000 | 0x10 | 0x40), "id");
        assert!(held_by("vfat").is_err());
        assert_ne!(held_by("xfs").unwrap(), held_by("ext4").unwrap());
    }
}
