//! The record: one change to a volume, as the journal tells it.
//!
//! Pure data. All namespace operations are *absolute*: they say which inode a name has afterwards, so that applying one
//! twice gives what applying it once gives. That is what lets a snapshot taken while the volume is in use be repaired by the
//! operations that ran meanwhile.

use serde::{Deserialize, Serialize};

/// An inode of one volume, named for ever: the number may be reused, the pair is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InodeKey {
    /// Inode number.
    pub ino: u64,
    /// Generation.
    pub generation: u32,
}

/// Seconds and nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

/// Who made the change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// Thread id; 0 is the kernel or the recorder itself.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// cgroup v2 id.
    pub cgroup: u64,
    /// Command name, at most 15 bytes; raw.
    pub comm: Vec<u8>,
}

/// A directory entry: directory and raw name (1 to 255 bytes, no NUL, no slash, neither "." nor "..").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// The directory.
    pub parent: InodeKey,
    /// The raw name.
    pub name: Vec<u8>,
}

/// Attributes of an inode: each is present where the record states it, absolutely.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Type and permissions (`st_mode`).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Device number, `makedev` encoding of user space (`st_rdev`), for device nodes.
    pub rdev: Option<u64>,
    /// Size in bytes: stated by truncation and snapshots. A write grows the file by itself.
    pub size: Option<u64>,
    /// Access time, only where explicitly set.
    pub atime: Option<Time>,
    /// Modification time.
    pub mtime: Option<Time>,
    /// Change time; recorded, not restorable.
    pub ctime: Option<Time>,
    /// `FS_*_FL` file flags (chattr).
    pub file_flags: Option<u32>,
    /// Project id (quota), of regular files and directories; 0 is none.
    pub project: Option<u32>,
}

/// Times that a namespace operation left a directory with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirTimes {
    /// Modification time.
    pub mtime: Time,
    /// Change time.
    pub ctime: Time,
}

/// The end of an earlier epoch of the same chain, which another one goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Continued {
    /// The epoch.
    pub epoch: u64,
    /// The last number of it that is applied.
    pub seq: u64,
}

/// What changed. The names are the values of the column `op`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// `data` stands at `offset` of the inode; the file grows where needed. Bytes beyond are untouched.
    Write {
        /// Byte offset.
        offset: u64,
        /// The bytes; empty when read without the data column (`length` still tells).
        data: Vec<u8>,
        /// Bytes of data.
        length: u64,
    },
    /// A new inode has this name; `attributes` of the record are complete.
    Create {
        /// Where.
        entry: Entry,
        /// The directory's times.
        dir: DirTimes,
        /// Target of a symbolic link.
        link_target: Option<Vec<u8>>,
    },
    /// A new inode without a name (O_TMPFILE, or a victim still open); `attributes` complete.
    CreateUnnamed,
    /// The inode has this name too.
    Link {
        /// Where.
        entry: Entry,
        /// The directory's times.
        dir: DirTimes,
    },
    /// The name is gone; the record's inode is the one that it named.
    Unlink {
        /// Where.
        entry: Entry,
        /// The directory's times.
        dir: DirTimes,
    },
    /// The empty directory is gone.
    Rmdir {
        /// Where.
        entry: Entry,
        /// The parent's times.
        dir: DirTimes,
    },
    /// The record's inode has the name `to` and no longer the name `from`.
    Rename {
        /// Old name.
        from: Entry,
        /// Times of the old directory.
        from_dir: DirTimes,
        /// New name.
        to: Entry,
        /// Times of the new directory.
        to_dir: DirTimes,
        /// Inode that `to` named before, if any.
        victim: Option<InodeKey>,
    },
    /// The record's inode now has the name `to`, and `other` has the name `from`.
    Exchange {
        /// Old name of the record's inode.
        from: Entry,
        /// Times of that directory.
        from_dir: DirTimes,
        /// New name of the record's inode.
        to: Entry,
        /// Times of that directory.
        to_dir: DirTimes,
        /// The other inode.
        other: InodeKey,
    },
    /// The inode has no name left and was closed: its content is gone.
    Evict,
    /// The stated `attributes` hold; a stated size truncates or extends (with a hole).
    SetAttr,
    /// Extended attribute set (ACLs too, as `system.posix_acl_*` in the xattr encoding of user space).
    SetXattr {
        /// Full name.
        name: Vec<u8>,
        /// Value.
        value: Vec<u8>,
    },
    /// Extended attribute removed.
    RemoveXattr {
        /// Full name.
        name: Vec<u8>,
    },
    /// fallocate with these FALLOC_FL flags. Not idempotent with COLLAPSE_RANGE and INSERT_RANGE.
    Fallocate {
        /// FALLOC_FL_* flags.
        mode: u32,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// The range has the content that `source` had there at this sequence number. Not idempotent.
    Clone {
        /// Whence.
        source: InodeKey,
        /// Byte offset in the source.
        source_offset: u64,
        /// Byte offset in the record's inode.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Absolute statement of the inode: `attributes` complete; content, entries and extended attributes start empty and are
    /// stated by the records of the same snapshot that follow. Its names are untouched. `--at` inside the window to
    /// [`Op::SnapshotEnd`] rounds down.
    Snapshot {
        /// Target of a symbolic link.
        link_target: Option<Vec<u8>>,
        /// What the snapshot covers.
        scope: SnapshotScope,
    },
    /// In a snapshot of a directory: the record's inode has this name.
    SnapshotEntry {
        /// Where.
        entry: Entry,
    },
    /// The snapshot of the record's inode that began at `begin_seq` is complete; its window ends here.
    SnapshotEnd {
        /// Sequence number of its [`Op::Snapshot`].
        begin_seq: u64,
    },
    /// An epoch's base begins: the state so far is void, or is what an earlier epoch ended with. The record's inode is the root
    /// directory.
    BaseBegin {
        /// The epoch whose state this base starts from, and states anew where the volume differs.
        #[serde(default)]
        continues: Option<Continued>,
    },
    /// The base is complete: from here every moment can be restored.
    BaseEnd {
        /// Sequence number of its [`Op::BaseBegin`].
        begin_seq: u64,
    },
    /// A named moment; the file system was synced before the number was taken.
    Mark {
        /// The name, unique in the journal by convention: the newest wins.
        name: String,
    },
    /// The file system was synced.
    Barrier {
        /// Everything up to this number is on the recorded disk, and nothing that it left in doubt is to be read anew any more.
        #[serde(default)]
        up_to: Option<u64>,
    },
    /// Sequence numbers from the record's own to `last_seq` did not reach the journal.
    Hole {
        /// Last lost number.
        last_seq: u64,
        /// The inode touched; `None` means anything.
        inode: Option<InodeKey>,
        /// What was lost has no number of its own and happened somewhere after this one: no moment after it is whole.
        #[serde(default)]
        since_seq: Option<u64>,
    },
    /// The hole that began at `hole_seq` was repaired by snapshots up to here.
    HoleClosed {
        /// Sequence number of the [`Op::Hole`].
        hole_seq: u64,
    },
}

/// What a snapshot states anew; the rest of the inode is left as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SnapshotScope {
    /// Attributes, extended attributes, and content or entries.
    Whole,
    /// Attributes and extended attributes only.
    Attributes,
}

/// One row of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Sequence number; rows are sorted by it and it is unique in an epoch.
    pub seq: u64,
    /// Last sequence number merged into this record; equals `seq` where nothing was merged. The numbers between belong to
    /// this record alone.
    pub last_seq: u64,
    /// When, in nanoseconds since 1970 (UTC).
    pub time_ns: i64,
    /// The subject. `InodeKey::default()` for records about the whole volume (marks, barriers).
    pub inode: InodeKey,
    /// Attributes as the operation left them. A create and a snapshot state all; others state mtime, ctime and what they set.
    pub attributes: Attributes,
    /// Part of a snapshot: the record's position is "as of", not "when".
    pub from_snapshot: bool,
    /// Who.
    pub actor: Actor,
    /// What.
    pub op: Op,
}
