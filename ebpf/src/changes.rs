//! Changes that cannot be told as operations: file flags, and the file systems' own ioctls. When they are over, the inode is read anew.

use abi::{ABSENT, EventKind, event_flags};

use crate::attributes::emit_bare;
use crate::kernel::{Reader, config, dentry_inode, file_inode, offset, recorded, vfs_inode};
use crate::maps::{Note, begin_note, note, take_note};

const WANT_BOTH: u16 = event_flags::WANT_CONTENT | event_flags::WANT_ATTRS;

/// `EXT4_IOC_SETVERSION`, and the older `FS_IOC_SETVERSION`: another generation, that is another name for the inode.
const SETVERSION: [u32; 2] = [0x4008_6604, 0x4008_7602];
/// `EXT4_IOC_SWAP_BOOT`: content exchanged with the boot loader's inode, which has no name. The inode gets another generation too.
const SWAP_BOOT: u32 = 0x6611;
/// `BTRFS_IOC_SUBVOL_CREATE`, `_V2`, `BTRFS_IOC_SNAP_CREATE`, `_V2`.
const SUBVOLUME_CREATE: [u32; 4] = [0x5000_940e, 0x5000_9418, 0x5000_9401, 0x5000_9417];

/// Notes what is to be read anew when the operation is over: an inode and perhaps a second one (0 for none).
#[inline(always)]
fn begin(inode: u64, other: u64, flags: u16) {
    let other = if recorded(other) { other } else { 0 };
    let inode = if recorded(inode) { inode } else { other };
    if inode != 0 {
        begin_note(
            note::CHANGE,
            &Note {
                inode,
                a: other,
                b: u64::from(flags),
                ..Note::default()
            },
        );
    }
}

/// The operation is over. What failed may have been done in part, so its result does not matter.
#[inline(always)]
pub(crate) fn end(_result: i64) {
    let Some(noted) = take_note(note::CHANGE) else {
        return;
    };
    emit_bare(EventKind::Changed, noted.b as u16, noted.inode);
    if noted.a != 0 && noted.a != noted.inode {
        emit_bare(EventKind::Changed, noted.b as u16, noted.a);
    }
}

/// chattr. File systems keep these flags each in its own way.
#[inline(always)]
pub(crate) fn fileattr(dentry: u64) {
    begin(dentry_inode(dentry), 0, event_flags::WANT_ATTRS);
}

/// An ioctl of a file system.
#[inline(always)]
pub(crate) fn ioctl(file: u64, command: u64) {
    let command = command as u32;
    let flags = if SETVERSION.contains(&command) || command == SWAP_BOOT {
        event_flags::WANT_EVERYTHING
    } else if SUBVOLUME_CREATE.contains(&command) {
        event_flags::NOT_RECORDED
    } else {
        return;
    };
    begin(file_inode(file), 0, flags);
}

/// Extents exchanged between two files (`EXT4_IOC_MOVE_EXT`).
#[inline(always)]
pub(crate) fn two_files(file: u64, other: u64) {
    begin(file_inode(file), file_inode(other), WANT_BOTH);
}

/// Extents exchanged between two inodes of xfs (`XFS_IOC_SWAPEXT`), given in its own structs.
#[inline(always)]
pub(crate) fn two_inodes(inode: u64, other: u64) {
    begin(vfs_inode(inode), vfs_inode(other), WANT_BOTH);
}

/// Ranges exchanged between two files of xfs (`XFS_IOC_EXCHANGE_RANGE`), given in a struct.
#[inline(always)]
pub(crate) fn exchange_range(argument: u64) {
    let offsets = config!(private.exchange_files);
    if offsets[0] == ABSENT {
        return;
    }
    let mut reader = Reader::new();
    let one: u64 = reader.get(argument + u64::from(offsets[0]));
    let other: u64 = reader.get(argument + u64::from(offsets[1]));
    two_files(one, other);
}

/// Extended attributes changed by handle (`XFS_IOC_ATTRMULTI_BY_HANDLE`), one of several.
#[inline(always)]
pub(crate) fn attribute_by_handle(inode: u64, operation: u64) {
    const GET: u32 = 1;
    if operation as u32 != GET {
        begin(inode, 0, event_flags::WANT_ATTRS);
    }
}

/// Data written as it is on disk, compressed, past the page cache (`BTRFS_IOC_ENCODED_WRITE`).
#[inline(always)]
pub(crate) fn encoded_write(iocb: u64) {
    let file: u64 = Reader::new().get(iocb + offset!(kiocb_file));
    begin(file_inode(file), 0, WANT_BOTH);
}
