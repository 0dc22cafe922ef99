//! File flags (chattr) and project ids: which of them are restored, and the ioctls. Changes what it is told to, and nothing else.

use std::os::fd::AsFd;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

/// File flags that a user can set (chattr); the others say how a file system stores the file and mean nothing elsewhere.
/// In order: s u c S i a d A j t D T C x P F.
pub(crate) const FLAGS_RESTORABLE: u32 = 0x1
    | 0x2
    | 0x4
    | 0x8
    | 0x10
    | 0x20
    | 0x40
    | 0x80
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000
    | 0x80_0000
    | 0x200_0000
    | 0x2000_0000
    | 0x4000_0000;
/// Flags that only an empty file or directory takes: no copy-on-write (btrfs), compression, case folding.
pub(crate) const FLAGS_WHEN_EMPTY: u32 = 0x80_0000 | 0x4 | 0x4000_0000;

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

const FS_IOC_FSGETXATTR: Opcode = opcode::read::<FsXattr>(b'X', 31);
const FS_IOC_FSSETXATTR: Opcode = opcode::write::<FsXattr>(b'X', 32);

/// The restorable flags that an open file or directory has.
pub(crate) fn flags(file: impl AsFd) -> Result<u32, Errno> {
    Ok(ioctl_getflags(file).map_err(unsupported)?.bits() & FLAGS_RESTORABLE)
}

/// Makes the restorable flags of an open file or directory `wanted`, which must be among them. Gives what it has then.
pub(crate) fn set_flags(file: impl AsFd, wanted: u32) -> Result<u32, Errno> {
    let now = ioctl_getflags(&file).map_err(unsupported)?;
    let all = IFlags::from_bits_retain((now.bits() & !FLAGS_RESTORABLE) | wanted);
    if all != now {
        ioctl_setflags(&file, all).map_err(unsupported)?;
    }
    flags(file)
}

/// Adds flags; a refusal shows when all flags are set for good.
pub(crate) fn add_flags(file: impl AsFd, flags: u32) {
    if let Ok(now) = ioctl_getflags(&file) {
        let _shown_later = ioctl_setflags(&file, now | IFlags::from_bits_retain(flags));
    }
}

/// Project id of an open file or directory.
pub(crate) fn project(file: impl AsFd) -> Result<u32, Errno> {
    Ok(fsxattr(file)?.projid)
}

/// Gives an open file or directory a project id, and leaves the rest as it is.
pub(crate) fn set_project(file: impl AsFd, project: u32) -> Result<(), Errno> {
    let now = fsxattr(&file)?;
    if now.projid == project {
        return Ok(());
    }
    let wanted = FsXattr {
        projid: project,
        ..now
    };
    // SAFETY: this call reads a `struct fsxattr` and nothing else.
    unsafe { ioctl(file, Setter::<FS_IOC_FSSETXATTR, FsXattr>::new(wanted)) }.map_err(unsupported)
}

fn fsxattr(file: impl AsFd) -> Result<FsXattr, Errno> {
    // SAFETY: this call fills a `struct fsxattr` and nothing else.
    unsafe { ioctl(file, Getter::<FS_IOC_FSGETXATTR, FsXattr>::new()) }.map_err(unsupported)
}

/// A file system without such a thing says so in two ways.
fn unsupported(error: Errno) -> Errno {
    if error == Errno::NOTTY {
        Errno::OPNOTSUPP
    } else {
        error
    }
}
