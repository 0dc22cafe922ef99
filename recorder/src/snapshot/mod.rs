//! `snapshot(inode)`: the absolute statement of an inode's state, read from the live file system.
//!
//! Owns the order of reading and numbering that makes a snapshot right while the volume is in use: a number is taken before what it
//! describes is read, so that captured operations with higher numbers are applied over it. Which inodes are snapshotted, and when, is
//! the base's and the daemon's to say.

pub(crate) mod handle;
pub(crate) mod look;
mod ranges;
mod read;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use journal::record::{Actor, Attributes, Entry, InodeKey, Op, Record, SnapshotScope, Time};
use rustix::fs::{FileType, OFlags, Stat};

use handle::{FileHandle, Root};
use ranges::DataRanges;

/// Bytes of file data in one record.
const CHUNK_BYTES: usize = 256 << 10;
/// Data gathered before it is submitted, in bytes.
const SUBMIT_BYTES: usize = 1 << 20;

/// Where records go, and where their numbers come from.
pub(crate) trait Sink: Send + Sync {
    /// Waits until there is room: to be called while no number is outstanding, so that nobody waits for it meanwhile.
    fn reserve(&self) -> Result<()>;
    /// Takes the next sequence number; the caller owes a record for it.
    fn take_seq(&self) -> u64;
    /// Hands over records whose numbers were taken.
    fn submit(&self, records: Vec<Record>) -> Result<()>;
}

/// An entry that a directory's snapshot met.
pub(crate) struct Child {
    /// Its inode.
    pub(crate) key: InodeKey,
    /// The inode's handle.
    pub(crate) handle: FileHandle,
    /// Whether it is known not to be a directory.
    pub(crate) is_leaf: bool,
}

/// What became of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Journaled.
    Done,
    /// The inode is no more; there is nothing to state.
    Gone,
}

/// What has been read so far; for progress and status.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Inodes.
    pub(crate) inodes: AtomicU64,
    /// Bytes of file data.
    pub(crate) bytes: AtomicU64,
    /// Inodes of which something could not be read.
    pub(crate) failed: AtomicU64,
}

/// Takes snapshots of one volume's inodes.
pub(crate) struct Snapshotter<'a> {
    root: &'a Root,
    sink: &'a dyn Sink,
    counts: &'a Counts,
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// A record of the recorder's own.
pub(crate) fn own_record(seq: u64, inode: InodeKey, from_snapshot: bool, op: Op) -> Record {
    Record {
        seq,
        last_seq: seq,
        time_ns: now_ns(),
        inode,
        attributes: Attributes::default(),
        from_snapshot,
        actor: Actor {
            comm: b"recorder".to_vec(),
            ..Actor::default()
        },
        op,
    }
}

/// The numbers from the record's own to `last_seq` are lost; of this inode, or nobody knows of which.
pub(crate) fn hole(last_seq: u64, inode: Option<InodeKey>) -> Op {
    Op::Hole {
        last_seq,
        inode,
        since_seq: None,
    }
}

/// The records of one snapshot that are not handed over yet.
struct Pending<'a> {
    sink: &'a dyn Sink,
    key: InodeKey,
    records: Vec<Record>,
    bytes: usize,
}

impl Pending<'_> {
    fn push(&mut self, seq: u64, op: Op) {
        self.records.push(own_record(seq, self.key, true, op));
    }

    /// Uses up a number for which nothing was found: states no attribute, so it says nothing.
    fn push_nothing(&mut self, seq: u64) {
        self.push(seq, Op::SetAttr);
    }

    /// What should have been read here is unknown.
    fn push_hole(&mut self, seq: u64) {
        let inode = Some(self.key);
        self.push(seq, hole(seq, inode));
    }

    fn submit(&mut self) -> Result<()> {
        self.bytes = 0;
        self.sink
            .submit(std::mem::take(&mut self.records))
            .context("hand over snapshot records")?;
        self.sink.reserve()
    }
}

impl<'a> Snapshotter<'a> {
    /// For the volume behind `root`.
    pub(crate) fn new(root: &'a Root, sink: &'a dyn Sink, counts: &'a Counts) -> Self {
        Self { root, sink, counts }
    }

    /// Snapshots an inode by its key; for a directory the entries, not what they name.
    pub(crate) fn inode(&self, key: InodeKey, scope: SnapshotScope) -> Result<Outcome> {
        match self.root.handle(key) {
            Some(handle) => self.by_handle(key, &handle, scope, &mut |_| Ok(())),
            None => Ok(Outcome::Gone),
        }
    }

    /// Snapshots an inode; `met` is called for every entry of a directory, while no number is outstanding.
    ///
    /// # Errors
    /// Only where records cannot be handed over: what cannot be read is journaled as a hole on this inode.
    pub(crate) fn by_handle(
        &self,
        key: InodeKey,
        handle: &FileHandle,
        scope: SnapshotScope,
        met: &mut dyn FnMut(Child) -> Result<()>,
    ) -> Result<Outcome> {
        let path_fd = match self.root.open_inode(handle, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => fd,
            Err(error) if is_gone(&error) => return Ok(Outcome::Gone),
            Err(error) => return self.unreadable(key, "open", &error),
        };
        let kind = match rustix::fs::fstat(&path_fd) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(error) => return self.unreadable(key, "stat", &error.into()),
        };
        self.sink.reserve()?;
        let begin_seq = self.sink.take_seq();
        let mut pending = Pending {
            sink: self.sink,
            key,
            records: Vec::new(),
            bytes: 0,
        };
        // Opened after the number is taken: btrfs lists a directory as of when it was opened.
        let fd = match open_content(self.root, handle, kind) {
            Ok(fd) => fd,
            Err(error) if is_gone(&error) => {
                pending.push_nothing(begin_seq);
                pending.submit()?;
                return Ok(Outcome::Gone);
            }
            Err(error) => {
                tracing::error!("open inode {} for reading: {error}", key.ino);
                None
            }
        };
        if let Some(fd) = &fd {
            read::pass_inode_lock(fd.as_fd(), kind == FileType::Directory);
        }
        match self.state(&mut pending, begin_seq, scope, path_fd.as_fd(), fd.as_ref()) {
            Ok(size) if scope == SnapshotScope::Whole => match (kind, &fd) {
                (FileType::RegularFile, Some(fd)) => self.content(&mut pending, fd.as_fd(), size)?,
                (FileType::Directory, Some(fd)) => self.entries(&mut pending, fd.as_fd(), met)?,
                (FileType::RegularFile | FileType::Directory, None) => self.failed_part(&mut pending),
                _ => {}
            },
            Ok(_) => {}
            Err(error) => {
                tracing::error!("read inode {}: {error}", key.ino);
                pending.push_hole(begin_seq);
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                pending.submit()?;
                return Ok(Outcome::Done);
            }
        }
        pending.push(self.sink.take_seq(), Op::SnapshotEnd { begin_seq });
        pending.submit()?;
        self.counts.inodes.fetch_add(1, Ordering::Relaxed);
        Ok(Outcome::Done)
    }

    /// Attributes, link target, extended attributes. Returns the size.
    fn state(
        &self,
        pending: &mut Pending<'_>,
        begin_seq: u64,
        scope: SnapshotScope,
        path_fd: BorrowedFd<'_>,
        fd: Option<&OwnedFd>,
    ) -> io::Result<u64> {
        let stat = rustix::fs::fstat(path_fd)?;
        let link_target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => Some(rustix::fs::readlinkat(path_fd, c"", Vec::new())?.into_bytes()),
            _ => None,
        };
        let names = read::xattr_names(path_fd)?;
        let mut record = own_record(begin_seq, pending.key, true, Op::Snapshot { link_target, scope });
        record.attributes = Attributes {
            file_flags: fd.and_then(|fd| read::file_flags(fd.as_fd())),
            project: fd.and_then(|fd| read::project(fd.as_fd())),
            ..attributes(&stat)
        };
        pending.records.push(record);
        for name in names {
            let seq = self.sink.take_seq();
            match read::xattr_value(path_fd, &name) {
                Ok(Some(value)) => {
                    pending.bytes += value.len();
                    pending.push(
                        seq,
                        Op::SetXattr {
                            name: name.into_bytes(),
                            value,
                        },
                    );
                }
                Ok(None) => pending.push_nothing(seq),
                Err(error) => {
                    tracing::error!(
                        "read attribute {} of inode {}: {error}",
                        name.to_string_lossy(),
                        pending.key.ino
                    );
                    pending.push_hole(seq);
                }
            }
        }
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// The data of a file that had `size` bytes; what it grew by since is captured.
    fn content(&self, pending: &mut Pending<'_>, fd: BorrowedFd<'_>, size: u64) -> Result<()> {
        let mut ranges = DataRanges::of(fd, size);
        let mut offset = 0;
        while offset < size {
            let (begin, end) = match ranges.next(offset) {
                Ok(Some(range)) => range,
                Ok(None) => break,
                Err(error) => {
                    tracing::error!("find data of inode {}: {error}", pending.key.ino);
                    self.failed_part(pending);
                    break;
                }
            };
            offset = begin;
            while offset < end {
                let length = CHUNK_BYTES.min(usize::try_from(end - offset).unwrap_or(CHUNK_BYTES));
                let seq = self.sink.take_seq();
                let mut data = vec![0; length];
                match read::read_full(fd, &mut data, offset) {
                    Ok(0) => pending.push_nothing(seq),
                    Ok(filled) => {
                        data.truncate(filled);
                        pending.bytes += filled;
                        self.counts.bytes.fetch_add(filled as u64, Ordering::Relaxed);
                        pending.push(
                            seq,
                            Op::Write {
                                offset,
                                length: filled as u64,
                                data,
                            },
                        );
                    }
                    Err(error) => {
                        tracing::error!("read inode {} at {offset}: {error}", pending.key.ino);
                        pending.push_hole(seq);
                        self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
                offset += length as u64;
                if pending.bytes >= SUBMIT_BYTES {
                    pending.submit()?;
                }
            }
        }
        Ok(())
    }

    /// A directory's entries, batch by batch: a batch is listed to learn how many numbers it needs, then listed again after they are
    /// taken, and only that second listing is stated.
    fn entries(
        &self,
        pending: &mut Pending<'_>,
        fd: BorrowedFd<'_>,
        met: &mut dyn FnMut(Child) -> Result<()>,
    ) -> Result<()> {
        let mut cookie = 0;
        loop {
            let listed = read::directory_batch(fd, cookie).and_then(|first| {
                let seqs: Vec<u64> = first.iter().map(|_| self.sink.take_seq()).collect();
                let second = if seqs.is_empty() {
                    Ok(Vec::new())
                } else {
                    read::directory_batch(fd, cookie)
                };
                second
                    .inspect_err(|_| seqs.iter().for_each(|&seq| pending.push_nothing(seq)))
                    .map(|listed| (seqs, listed))
            });
            let (seqs, listed) = match listed {
                Ok(listed) => listed,
                // Removed since it was opened: it has no entries, and its removal is captured.
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) => {
                    tracing::error!("list directory inode {}: {error}", pending.key.ino);
                    self.failed_part(pending);
                    return Ok(());
                }
            };
            if seqs.is_empty() {
                return Ok(());
            }
            let mut children = Vec::new();
            for (index, &seq) in seqs.iter().enumerate() {
                let child = listed.get(index).and_then(|entry| {
                    cookie = entry.next;
                    self.child(pending, fd, entry, seq)
                });
                match child {
                    Some(child) => children.push(child),
                    None if pending.records.last().is_none_or(|record| record.seq != seq) => {
                        pending.push_nothing(seq);
                    }
                    None => {}
                }
            }
            pending.submit()?;
            children.into_iter().try_for_each(&mut *met)?;
            self.sink.reserve()?;
            if listed.is_empty() {
                return Ok(());
            }
        }
    }

    /// States one entry; `None` for what is none, is gone, or is of another tree.
    fn child(
        &self,
        pending: &mut Pending<'_>,
        fd: BorrowedFd<'_>,
        entry: &read::Listed,
        seq: u64,
    ) -> Option<Child> {
        let name = entry.name.as_bytes();
        if name == b"." || name == b".." {
            return None;
        }
        let (handle, mount_id) = match FileHandle::of(fd, &entry.name) {
            Ok(found) => found,
            Err(error) if is_gone(&error) => return None,
            Err(error) => {
                tracing::error!(
                    "take the handle of {} in inode {}: {error}",
                    entry.name.to_string_lossy(),
                    pending.key.ino
                );
                pending.push_hole(seq);
                return None;
            }
        };
        if !self.root.holds(&handle, mount_id) {
            tracing::warn!(
                "{} in inode {} is another file system or subvolume: not recorded",
                entry.name.to_string_lossy(),
                pending.key.ino
            );
            return None;
        }
        let key = handle.key().filter(|&key| !self.root.is_spool(key))?;
        let entry_op = Op::SnapshotEntry {
            entry: Entry {
                parent: pending.key,
                name: name.to_vec(),
            },
        };
        pending.records.push(own_record(seq, key, true, entry_op));
        Some(Child {
            key,
            handle,
            is_leaf: !matches!(entry.kind, libc::DT_DIR | libc::DT_UNKNOWN),
        })
    }

    /// A part of the inode could not be read: a hole on it, with a number of its own.
    fn failed_part(&self, pending: &mut Pending<'_>) {
        pending.push_hole(self.sink.take_seq());
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
    }

    fn unreadable(&self, key: InodeKey, what: &str, error: &io::Error) -> Result<Outcome> {
        tracing::error!("{what} inode {}: {error}", key.ino);
        let mut pending = Pending {
            sink: self.sink,
            key,
            records: Vec::new(),
            bytes: 0,
        };
        self.sink.reserve()?;
        self.failed_part(&mut pending);
        pending.submit()?;
        Ok(Outcome::Done)
    }
}

/// Devices, fifos, sockets and links are not opened: opening could act on them.
fn open_content(root: &Root, handle: &FileHandle, kind: FileType) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOATIME;
    match kind {
        FileType::RegularFile => root.open_inode(handle, flags).map(Some),
        FileType::Directory => root.open_inode(handle, flags | OFlags::DIRECTORY).map(Some),
        _ => Ok(None),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESTALE | libc::ENOENT))
}

/// What `stat` tells.
#[expect(
    clippy::unnecessary_cast,
    reason = "the members' types differ between architectures"
)]
fn attributes(stat: &Stat) -> Attributes {
    let time = |sec: i64, nsec: u64| {
        Some(Time {
            sec,
            nsec: u32::try_from(nsec).unwrap_or(0),
        })
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    Attributes {
        mode: Some(stat.st_mode as u32),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
        rdev: matches!(kind, FileType::CharacterDevice | FileType::BlockDevice)
            .then_some(stat.st_rdev as u64),
        size: (kind == FileType::RegularFile).then_some(u64::try_from(stat.st_size).unwrap_or(0)),
        atime: time(stat.st_atime as i64, stat.st_atime_nsec as u64),
        mtime: time(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
        ctime: time(stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        ..Attributes::default()
    }
}

#[cfg(test)]
mod tests;
