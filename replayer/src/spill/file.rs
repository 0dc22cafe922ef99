//! The file that is spilled to: made without a name, on a disk. Owns what is a fit place for it.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{IFlags, fstatfs, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, opcode};

/// `f_type` of `statfs`, from linux/magic.h.
mod magic {
    pub(super) const TMPFS: u64 = 0x0102_1994;
    pub(super) const RAMFS: u64 = 0x8584_58f6;
    pub(super) const OVERLAYFS: u64 = 0x794c_7630;
    pub(super) const BTRFS: u64 = 0x9123_683e;
}

/// `struct fiemap` of linux/fiemap.h without extents: start, length, flags and extents found, room for extents.
type ExtentMap = [u64; 4];

const FS_IOC_FIEMAP: Opcode = opcode::read_write::<ExtentMap>(b'f', 11);

/// Makes an empty file without a name.
///
/// # Errors
/// What the system says of the directory.
pub(super) fn create(directory: &Path) -> io::Result<File> {
    let file = tempfile::tempfile_in(directory)?;
    if type_of(&file)? == magic::BTRFS {
        // Written in place: a copy for each change would want room again that was allotted before.
        let _as_good_as_it_gets =
            ioctl_getflags(&file).and_then(|flags| ioctl_setflags(&file, flags | IFlags::NOCOW));
    }
    Ok(file)
}

/// Whether what is written to the file stays in memory.
///
/// # Errors
/// What the system says.
pub(super) fn is_in_memory(file: &File) -> io::Result<bool> {
    Ok(match type_of(file)? {
        magic::TMPFS | magic::RAMFS => true,
        // A live system's: what is written lies on the layer above, often in memory. Of what overlayfs can have there, only tmpfs has no map of extents.
        magic::OVERLAYFS => !has_extent_map(file)?,
        _ => false,
    })
}

fn has_extent_map(file: &File) -> io::Result<bool> {
    let mut map: ExtentMap = [0, u64::MAX, 0, 0];
    // SAFETY: this call reads and writes a `struct fiemap` with room for the number of extents that it announces, here none.
    match unsafe { rustix::ioctl::ioctl(file, Updater::<FS_IOC_FIEMAP, ExtentMap>::new(&mut map)) } {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP | Errno::NOTTY) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn type_of(file: &File) -> io::Result<u64> {
    // The numbers have 32 bits, and the sign of some of them depends on the architecture.
    Ok(u64::try_from(fstatfs(file)?.f_type & 0xffff_ffff).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_from_a_disk() {
        let in_memory = create(Path::new("/dev/shm")).expect("a file in /dev/shm");
        assert!(is_in_memory(&in_memory).expect("its file system"));
        let on_disk = create(Path::new("/var/tmp")).expect("a file in /var/tmp");
        assert!(
            !is_in_memory(&on_disk).expect("its file system"),
            "run tests with /var/tmp on a disk"
        );
        assert!(has_extent_map(&on_disk).expect("its extents"));
        assert!(!has_extent_map(&in_memory).expect("its extents"));
    }
}
