//! Events as they stand in the ring buffer: a [`Head`], then one body chosen by [`Head::kind`], then bytes.

use core::mem::size_of;

/// Seconds and nanoseconds since 1970, as the kernel's `timespec64`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub sec: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nsec: u32,
    /// Zero.
    pub pad: u32,
}

/// An inode named for ever: inode number and generation.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InodeRef {
    /// Inode number; 0 means "none".
    pub ino: u64,
    /// `i_generation`.
    pub generation: u32,
    /// Zero.
    pub pad: u32,
}

/// Who did it. For write-back this is the flusher, not the writer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actor {
    /// Thread id.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// User id in the initial namespace.
    pub uid: u32,
    /// Group id in the initial namespace.
    pub gid: u32,
    /// cgroup v2 id.
    pub cgroup: u64,
    /// Command name, NUL-padded.
    pub comm: [u8; 16],
}

/// The subject inode as it is when the event is taken, that is with the operation applied.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InodeState {
    /// Which inode.
    pub inode: InodeRef,
    /// `i_mode`: type and permissions.
    pub mode: u32,
    /// Owner, as in the initial user namespace.
    pub uid: u32,
    /// Group, as in the initial user namespace.
    pub gid: u32,
    /// Device number in the kernel's encoding (major << 20 | minor).
    pub rdev: u32,
    /// `i_nlink`.
    pub nlink: u32,
    /// `i_flags` (`S_*`, not the `FS_*_FL` of chattr).
    pub flags: u32,
    /// Size in bytes. For a write this may lag: the size is moved after the data.
    pub size: u64,
    /// Access time.
    pub atime: Time,
    /// Modification time.
    pub mtime: Time,
    /// Change time.
    pub ctime: Time,
}

/// A directory that an operation changed, with the times that this left it with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirState {
    /// Which directory.
    pub inode: InodeRef,
    /// Modification time.
    pub mtime: Time,
    /// Change time.
    pub ctime: Time,
}

/// What happened. The discriminants are the values of [`Head::kind`].
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Buffered write: [`DataBody`], then the bytes as they stand in the page cache.
    Write = 1,
    /// Write-back of a folio of an inode that is or was mapped writable: [`DataBody`], bytes.
    MapWrite = 2,
    /// O_DIRECT write as submitted: [`DataBody`], bytes. Provisional until [`EventKind::DirectEnd`].
    DirectWrite = 3,
    /// All O_DIRECT writes of one request are complete: [`RangeBody`] with the range and the result.
    DirectEnd = 4,
    /// New inode under a name: [`NameBlock`]; for a symbolic link the target bytes follow.
    Create = 10,
    /// New inode without a name (O_TMPFILE): head only.
    Tmpfile = 11,
    /// One more name for an inode: [`NameBlock`].
    Link = 12,
    /// A name removed: [`NameBlock`].
    Unlink = 13,
    /// An empty directory removed: [`NameBlock`].
    Rmdir = 14,
    /// A name moved, perhaps over another: [`NameBlock`] with both sides and the victim.
    Rename = 15,
    /// Two names exchanged: [`NameBlock`]; `victim` is the inode that now has the old name.
    Exchange = 16,
    /// The last reference to an unlinked inode is gone: head only.
    Evict = 17,
    /// Mode, owner, size or times set: [`AttrBody`]; the values are in the head.
    SetAttr = 20,
    /// Extended attribute set: [`XattrBody`], then the value. Value over [`crate::XATTR_VALUE_BYTES_MAX`] cannot be.
    SetXattr = 21,
    /// Extended attribute removed: [`XattrBody`].
    RemoveXattr = 22,
    /// POSIX ACL stored, by whatever way: [`XattrBody`] with the attribute's name, then `count` raw `struct posix_acl_entry`
    /// (tag i16, perm u16, id u32) as the value; an empty value means "none".
    SetAcl = 23,
    /// fallocate under the inode lock, before it acts: [`RangeBody`]; `mode` holds the FALLOC_FL flags.
    Fallocate = 30,
    /// The fallocate `of_seq` is over: [`RangeBody`] with the result.
    FallocateEnd = 31,
    /// Reflink (FICLONE, FICLONERANGE, copy_file_range) under both inode locks, before it acts: [`RangeBody`] with source.
    Clone = 32,
    /// The clone `of_seq` is over: [`RangeBody`] with the result.
    CloneEnd = 33,
    /// A part of a file within its end is zero now, without being asked for as such (the rest of a block behind a new end): [`RangeBody`]. The
    /// size is told elsewhere.
    Zero = 34,
    /// Something changed that is not captured as data: the inode must be read anew (file flags, dedupe, ...): head only;
    /// [`event_flags`] says what.
    Changed = 40,
}

/// Bits of [`Head::flags`].
pub mod event_flags {
    /// A kernel read failed while this event was made: its bytes are not to be trusted; treat as a hole on this inode.
    pub const READ_FAILED: u16 = 1 << 0;
    /// The new inode has file flags, a project or a security label that it got without any hook: read its attributes anew.
    pub const INHERITS: u16 = 1 << 1;
    /// This event continues the previous one of the same operation (a write cut into ring-sized pieces).
    pub const CONTINUED: u16 = 1 << 2;
    /// A rename with RENAME_WHITEOUT: a whiteout (character device 0:0) now stands at the old name.
    pub const WHITEOUT: u16 = 1 << 3;
    /// The data or the whole inode must be read anew by a snapshot (with [`super::EventKind::Changed`]).
    pub const WANT_CONTENT: u16 = 1 << 4;
    /// The attributes and extended attributes must be read anew.
    pub const WANT_ATTRS: u16 = 1 << 5;
    /// The whole volume must be read anew: what was changed cannot be told from what is known here.
    pub const WANT_EVERYTHING: u16 = 1 << 6;
    /// Something was made in this directory that is not recorded (a subvolume): a hole that no snapshot closes.
    pub const NOT_RECORDED: u16 = 1 << 7;
}

/// Begins every event.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Meaningful bytes of the ring record from its start: head, body and payload. The record may be longer.
    pub size: u32,
    /// An [`EventKind`].
    pub kind: u16,
    /// Bits of [`event_flags`].
    pub flags: u16,
    /// Sequence number, taken under the kernel's lock that orders the operation.
    pub seq: u64,
    /// Nanoseconds since boot, suspended time included (`CLOCK_BOOTTIME`).
    pub time_ns: u64,
    /// Who.
    pub actor: Actor,
    /// On what.
    pub state: InodeState,
}

/// Follows the head for data.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataBody {
    /// Byte offset in the file.
    pub offset: u64,
    /// Bytes that follow, at most the largest of [`crate::DATA_CLASSES`].
    pub length: u32,
    /// Zero.
    pub pad: u32,
}

/// Follows the head for namespace operations.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameBlock {
    /// Directory of `name` (of the old name in a rename).
    pub parent: DirState,
    /// Directory of `to_name`; ino 0 where there is none.
    pub to_parent: DirState,
    /// Inode that lost its name to a rename, or the other inode of an exchange; ino 0 where there is none.
    pub victim: InodeRef,
    /// Links that the victim has left; 0 means that it dies when it is closed.
    pub victim_nlink: u32,
    /// Flags of renameat2.
    pub rename_flags: u32,
    /// Bytes of `name`.
    pub name_len: u16,
    /// Bytes of `to_name`.
    pub to_name_len: u16,
    /// Bytes of the symbolic link's target, which follow this block.
    pub target_len: u32,
    /// Raw name, not NUL-terminated when 255 or 256 long.
    pub name: [u8; 256],
    /// Raw new name.
    pub to_name: [u8; 256],
}

/// Follows the head for [`EventKind::SetAttr`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttrBody {
    /// `ATTR_*` bits of `struct iattr` (MODE 1, UID 2, GID 4, SIZE 8, ATIME 16, MTIME 32, CTIME 64, ATIME_SET 128, ...). MTIME and CTIME
    /// alone: times were set by what may be told by an event of its own.
    pub valid: u32,
    /// Zero.
    pub pad: u32,
}

/// Follows the head for extended attributes and ACLs; the value follows this.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XattrBody {
    /// Bytes of `name`.
    pub name_len: u32,
    /// Bytes of the value that follow.
    pub value_len: u32,
    /// Full name with its prefix ("user.x").
    pub name: [u8; 256],
}

/// Follows the head for operations on ranges.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeBody {
    /// Byte offset in the subject.
    pub offset: u64,
    /// Bytes; 0 in a clone means "to the end of the source".
    pub length: u64,
    /// Flags of the operation (FALLOC_FL_*, REMAP_FILE_*).
    pub mode: u32,
    /// Zero.
    pub pad: u32,
    /// Source of a clone.
    pub source: InodeRef,
    /// Byte offset in the source.
    pub source_offset: u64,
    /// For an `...End`: sequence number of the event that it ends.
    pub of_seq: u64,
    /// For an `...End`: 0 or bytes done, or a negative errno.
    pub result: i64,
}

/// Head and body of every kind of event, for readers.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Write, MapWrite, DirectWrite.
    Data(&'a DataBody, &'a [u8]),
    /// Create to Exchange; the bytes are the link target.
    Name(&'a NameBlock, &'a [u8]),
    /// SetAttr.
    Attr(&'a AttrBody),
    /// SetXattr, RemoveXattr, SetAcl; the bytes are the value.
    Xattr(&'a XattrBody, &'a [u8]),
    /// Fallocate, Clone and the ends.
    Range(&'a RangeBody),
    /// Tmpfile, Evict, Changed.
    Bare,
}

const _: () = {
    assert!(size_of::<Time>() == 16);
    assert!(size_of::<InodeRef>() == 16);
    assert!(size_of::<Actor>() == 40);
    assert!(size_of::<InodeState>() == 96);
    assert!(size_of::<DirState>() == 48);
    assert!(size_of::<Head>() == 160);
    assert!(size_of::<DataBody>() == 16);
    assert!(size_of::<NameBlock>() == 640);
    assert!(size_of::<AttrBody>() == 8);
    assert!(size_of::<XattrBody>() == 264);
    assert!(size_of::<RangeBody>() == 64);
};
