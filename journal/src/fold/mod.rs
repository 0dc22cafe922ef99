//! The fold: records in order to state. Pure: no input, no output, no clock.
//!
//! State is what the tree is at a moment: inodes, the names that lead to them, and for every byte of content the record that
//! wrote it last. Memory: some 300 bytes an inode, 60 and its length for a name, 60 an extent that survives, 300 for the first one of a file;
//! nothing for what was overwritten. Without content, the extents are left out, and what is needed follows the number of inodes and names alone.

mod extents;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

pub use extents::{Extent, Extents, Source};

use crate::reader::RowRef;
use crate::record::{Attributes, DirTimes, Entry, InodeKey, Op, Record, SnapshotScope};

/// `FALLOC_FL_*`, from linux/falloc.h.
mod falloc {
    pub(super) const KEEP_SIZE: u32 = 0x01;
    pub(super) const PUNCH_HOLE: u32 = 0x02;
    pub(super) const COLLAPSE_RANGE: u32 = 0x08;
    pub(super) const ZERO_RANGE: u32 = 0x10;
    pub(super) const INSERT_RANGE: u32 = 0x20;
    pub(super) const WRITE_ZEROES: u32 = 0x80;
}

/// An inode at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inode {
    /// What has been stated; `mode` is `None` for an inode that was named and never described.
    pub attributes: Attributes,
    /// Size of the content in bytes.
    pub size: u64,
    /// Who wrote which byte last.
    pub extents: Extents,
    /// Names in a directory.
    pub entries: BTreeMap<Vec<u8>, InodeKey>,
    /// Extended attributes, ACLs among them.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Target of a symbolic link.
    pub link_target: Option<Vec<u8>>,
}

/// A volume at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Boxed: a table of the inodes themselves takes three times their memory while it doubles.
    inodes: HashMap<InodeKey, Box<Inode>>,
    root: Option<InodeKey>,
    /// Nobody asks who wrote which byte.
    without_content: bool,
}

impl State {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing, of which only sizes, attributes and names will be known.
    pub fn without_content() -> Self {
        Self {
            without_content: true,
            ..Self::default()
        }
    }

    /// The root directory, once a base has begun.
    pub fn root(&self) -> Option<InodeKey> {
        self.root
    }

    /// An inode.
    pub fn inode(&self, key: InodeKey) -> Option<&Inode> {
        self.inodes.get(&key).map(Box::as_ref)
    }

    /// All inodes, in no order; those without a name too.
    pub fn inodes(&self) -> impl ExactSizeIterator<Item = (&InodeKey, &Inode)> {
        self.inodes.iter().map(|(key, inode)| (key, &**inode))
    }

    /// All inodes, taken apart.
    pub fn into_inodes(self) -> impl ExactSizeIterator<Item = (InodeKey, Inode)> {
        self.inodes.into_iter().map(|(key, inode)| (key, *inode))
    }

    /// Takes an inode out.
    pub fn take(&mut self, key: InodeKey) -> Option<Inode> {
        self.inodes.remove(&key).map(|inode| *inode)
    }

    /// Applies the next record. `row` says where its data is to be found.
    pub fn apply(&mut self, row: RowRef, record: &Record) {
        let key = record.inode;
        match &record.op {
            Op::BaseBegin { continues } => {
                if continues.is_none() {
                    self.inodes.clear();
                }
                self.root = Some(key);
                return;
            }
            Op::BaseEnd { .. }
            | Op::Mark { .. }
            | Op::Barrier { .. }
            | Op::Hole { .. }
            | Op::HoleClosed { .. }
            | Op::SnapshotEnd { .. } => return,
            Op::Evict => {
                self.inodes.remove(&key);
                return;
            }
            Op::Unlink { entry, dir } | Op::Rmdir { entry, dir } => {
                self.remove_entry(entry, key);
                self.set_dir_times(entry.parent, dir);
                // The inode lives until it is evicted: it may still be open, or have other names.
                if let Some(inode) = self.inodes.get_mut(&key) {
                    state_attributes(&mut inode.attributes, &record.attributes);
                }
                return;
            }
            _ => {}
        }
        self.names(record);
        self.content(row, record);
    }

    /// The part of a record that changes directories.
    fn names(&mut self, record: &Record) {
        let key = record.inode;
        match &record.op {
            Op::Create { entry, dir, .. } | Op::Link { entry, dir } => {
                self.set_entry(entry, key);
                self.set_dir_times(entry.parent, dir);
            }
            Op::SnapshotEntry { entry } => self.set_entry(entry, key),
            Op::Rename {
                from,
                from_dir,
                to,
                to_dir,
                victim: _,
            } => {
                self.remove_entry(from, key);
                self.set_entry(to, key);
                self.set_dir_times(from.parent, from_dir);
                self.set_dir_times(to.parent, to_dir);
            }
            Op::Exchange {
                from,
                from_dir,
                to,
                to_dir,
                other,
            } => {
                self.set_entry(from, *other);
                self.set_entry(to, key);
                self.set_dir_times(from.parent, from_dir);
                self.set_dir_times(to.parent, to_dir);
            }
            _ => {}
        }
    }

    /// The part of a record that changes its own inode.
    fn content(&mut self, row: RowRef, record: &Record) {
        if let Op::Clone {
            source,
            source_offset,
            offset,
            length,
        } = record.op
        {
            let copied = self
                .inodes
                .get(&source)
                .map(|inode| inode.extents.copy(source_offset, length))
                .unwrap_or_default();
            let inode = self.inodes.entry(record.inode).or_default();
            inode.extents.replace(offset, length, copied);
            inode.size = inode.size.max(offset.saturating_add(length));
        }
        let inode: &mut Inode = self.inodes.entry(record.inode).or_default();
        match &record.op {
            Op::Create { link_target, .. } => {
                *inode = Inode {
                    link_target: link_target.clone(),
                    ..Inode::default()
                };
            }
            Op::CreateUnnamed => *inode = Inode::default(),
            Op::Snapshot {
                link_target,
                scope: SnapshotScope::Whole,
            } => {
                *inode = Inode {
                    link_target: link_target.clone(),
                    ..Inode::default()
                };
            }
            Op::Snapshot {
                scope: SnapshotScope::Attributes,
                ..
            } => inode.xattrs.clear(),
            Op::Write { offset, length, .. } => {
                if !self.without_content {
                    inode.extents.write(*offset, *length, row);
                }
                inode.size = inode.size.max(offset.saturating_add(*length));
            }
            Op::SetXattr { name, value } => {
                inode.xattrs.insert(name.clone(), value.clone());
            }
            Op::RemoveXattr { name } => {
                inode.xattrs.remove(name);
            }
            Op::Fallocate { mode, offset, length } => fallocate(inode, *mode, *offset, *length),
            _ => {}
        }
        if let Some(size) = record.attributes.size
            && !matches!(
                record.op,
                Op::Snapshot {
                    scope: SnapshotScope::Attributes,
                    ..
                }
            )
        {
            inode.extents.truncate(size);
            inode.size = size;
        }
        state_attributes(&mut inode.attributes, &record.attributes);
    }

    fn set_entry(&mut self, entry: &Entry, key: InodeKey) {
        self.inodes
            .entry(entry.parent)
            .or_default()
            .entries
            .insert(entry.name.clone(), key);
    }

    /// Removes a name only where it still leads to this inode: applied over a later snapshot, it must not hit its successor.
    fn remove_entry(&mut self, entry: &Entry, key: InodeKey) {
        if let Some(directory) = self.inodes.get_mut(&entry.parent)
            && directory.entries.get(&entry.name) == Some(&key)
        {
            directory.entries.remove(&entry.name);
        }
    }

    fn set_dir_times(&mut self, directory: InodeKey, times: &DirTimes) {
        let DirTimes { mtime, ctime } = *times;
        let attributes = &mut self.inodes.entry(directory).or_default().attributes;
        (attributes.mtime, attributes.ctime) = (Some(mtime), Some(ctime));
    }
}

/// Overwrites what `new` states. Size is not among it: it is kept beside the extents.
fn state_attributes(old: &mut Attributes, new: &Attributes) {
    let Attributes {
        mode,
        uid,
        gid,
        rdev,
        size: _,
        atime,
        mtime,
        ctime,
        file_flags,
        project,
    } = new;
    old.mode = mode.or(old.mode);
    old.uid = uid.or(old.uid);
    old.gid = gid.or(old.gid);
    old.rdev = rdev.or(old.rdev);
    old.atime = atime.or(old.atime);
    old.mtime = mtime.or(old.mtime);
    old.ctime = ctime.or(old.ctime);
    old.file_flags = file_flags.or(old.file_flags);
    old.project = project.or(old.project);
}

fn fallocate(inode: &mut Inode, mode: u32, offset: u64, length: u64) {
    let end = offset.saturating_add(length);
    if mode & falloc::COLLAPSE_RANGE != 0 {
        inode.extents.collapse(offset, length);
        inode.size = inode.size.saturating_sub(length);
    } else if mode & falloc::INSERT_RANGE != 0 {
        inode.extents.insert_hole(offset, length);
        inode.size = inode.size.saturating_add(length);
    } else {
        if mode & (falloc::PUNCH_HOLE | falloc::ZERO_RANGE | falloc::WRITE_ZEROES) != 0 {
            inode.extents.replace(offset, length, Vec::new());
        }
        if mode & falloc::KEEP_SIZE == 0 {
            inode.size = inode.size.max(end);
        }
    }
}
