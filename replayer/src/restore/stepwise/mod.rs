//! `restore --stepwise`: applies every record to the target itself, one by one, in order. A second way to the same tree, which shares
//! neither the fold nor the plan with the first, so that one checks the other.
//!
//! Names, kinds and content are changed on the target as the records say. Attributes and extended attributes are kept beside and set at
//! the end, because the kernel changes them as it works (set-id bits, capabilities, ACL masks, times). Slower than the fold, and it may
//! need more room: what was deleted later is written first. Memory: some 300 bytes an inode and its names.

mod content;
mod finish;
mod names;
mod place;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use journal::record::{Attributes, DirTimes, Entry, InodeKey, Op, Record, SnapshotScope};
use rustix::fs::{AtFlags, FileType, OFlags, unlinkat};

use self::place::{Made, Place};
use super::attributes::note_or_fail;
use super::build::show;
use super::flags::{self, FLAGS_WHEN_EMPTY};
use super::inspect::{list_xattrs, proc_path};
use super::problems::Problems;
use super::target::Target;
use crate::exit::integrity;
use crate::output::escape;

pub(super) use self::finish::Finished;

/// Number of the root: it lies in no private place.
const ROOT: u64 = 0;

/// An inode of the journal and its number in the private place.
struct Inode {
    number: u64,
    /// `None` until the journal says what it is: meanwhile an empty file stands for it.
    kind: Option<FileType>,
    /// The target cannot hold it: a file stands for it, and goes at the end.
    refused: bool,
    stated: Attributes,
    link_target: Option<Vec<u8>>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Names in a directory.
    entries: BTreeMap<Vec<u8>, InodeKey>,
}

impl Inode {
    fn is_directory(&self) -> bool {
        self.kind == Some(FileType::Directory)
    }

    fn has_content(&self) -> bool {
        matches!(self.kind, None | Some(FileType::RegularFile))
    }
}

/// A tree in the making.
pub(super) struct Steps {
    place: Place,
    inodes: HashMap<InodeKey, Inode>,
    /// The names that lead to an inode, also to one that is not known (yet, or any more).
    names: HashMap<InodeKey, BTreeSet<Entry>>,
    /// Names that the target refused.
    missing: HashSet<Entry>,
    root: Option<InodeKey>,
    numbers: u64,
    bytes: u64,
    tolerate: bool,
    problems: Problems,
}

impl Steps {
    /// Begins in an empty target. With `tolerate` (restoring past a hole) what contradicts itself is left out and noted.
    pub(super) fn begin(target: &Target, tolerate: bool, problems: Problems) -> Result<Self> {
        let place = Place::make(target)?;
        clear_root(&place)?;
        if target.occupants(0)?.1 {
            unlinkat(place.root(), c"lost+found", AtFlags::REMOVEDIR)
                .context("remove empty lost+found of the target")?;
        }
        Ok(Self {
            place,
            inodes: HashMap::new(),
            names: HashMap::new(),
            missing: HashSet::new(),
            root: None,
            numbers: ROOT,
            bytes: 0,
            tolerate,
            problems,
        })
    }

    /// Applies the next record.
    pub(super) fn apply(&mut self, record: &Record) -> Result<()> {
        self.step(record).with_context(|| {
            format!(
                "apply {} at sequence number {} to inode {}",
                journal::op_name(&record.op),
                record.seq,
                show(record.inode)
            )
        })
    }

    fn step(&mut self, record: &Record) -> Result<()> {
        let (key, stated) = (record.inode, &record.attributes);
        match &record.op {
            Op::BaseBegin { continues: None } => return self.base(key),
            // The epoch that it goes on from was applied before.
            Op::BaseBegin { continues: Some(_) } => return Ok(()),
            Op::BaseEnd { .. }
            | Op::Mark { .. }
            | Op::Barrier { .. }
            | Op::Hole { .. }
            | Op::HoleClosed { .. }
            | Op::SnapshotEnd { .. } => return Ok(()),
            Op::Evict => return self.evict(key),
            Op::Unlink { entry, dir } | Op::Rmdir { entry, dir } => {
                self.drop_name(entry, key)?;
                self.dir_times(entry.parent, dir)?;
                if self.inodes.contains_key(&key) {
                    self.state(key, stated, false)?;
                }
                return Ok(());
            }
            _ => self.ensure(key)?,
        }
        match &record.op {
            Op::Create { link_target, .. }
            | Op::Snapshot {
                link_target,
                scope: SnapshotScope::Whole,
            } => self.void(key, link_target.as_ref())?,
            Op::CreateUnnamed => self.void(key, None)?,
            Op::Snapshot { .. } => self.inode(key)?.xattrs.clear(),
            Op::SetXattr { name, value } => {
                self.inode(key)?.xattrs.insert(name.clone(), value.clone());
            }
            Op::RemoveXattr { name } => {
                self.inode(key)?.xattrs.remove(name);
            }
            Op::Write { offset, data, .. } => {
                content::write(&self.file(key)?, *offset, data)?;
                self.bytes += data.len() as u64;
            }
            Op::Fallocate { mode, offset, length } => {
                let file = self.file(key)?;
                content::allocate(&file, *mode, *offset, *length, || self.spare())?;
            }
            Op::Clone {
                source,
                source_offset,
                offset,
                length,
            } => self.clone_range((*source, *source_offset), (key, *offset), *length)?,
            _ => {}
        }
        let with_size = !matches!(
            record.op,
            Op::Snapshot {
                scope: SnapshotScope::Attributes,
                ..
            }
        );
        self.state(key, stated, with_size)?;
        self.set_names(key, &record.op)
    }

    fn base(&mut self, key: InodeKey) -> Result<()> {
        if self.root.is_some() {
            return Err(integrity("a second base begins"));
        }
        self.root = Some(key);
        let inode = Inode {
            number: ROOT,
            kind: Some(FileType::Directory),
            refused: false,
            stated: Attributes::default(),
            link_target: None,
            xattrs: BTreeMap::new(),
            entries: BTreeMap::new(),
        };
        self.inodes.insert(key, inode);
        Ok(())
    }

    /// An inode that the step before made sure of.
    fn inode(&mut self, key: InodeKey) -> Result<&mut Inode> {
        self.inodes
            .get_mut(&key)
            .ok_or_else(|| integrity(format!("inode {} is not known", show(key))))
    }

    /// Makes sure that there is something for an inode: a file, until its kind is known.
    fn ensure(&mut self, key: InodeKey) -> Result<()> {
        if self.inodes.contains_key(&key) {
            return Ok(());
        }
        self.numbers += 1;
        self.place
            .create(self.numbers, &Made::File)
            .context("make an inode in the private place")?;
        let inode = Inode {
            number: self.numbers,
            kind: None,
            refused: false,
            stated: Attributes::default(),
            link_target: None,
            xattrs: BTreeMap::new(),
            entries: BTreeMap::new(),
        };
        self.inodes.insert(key, inode);
        self.link_all(key)
    }

    fn evict(&mut self, key: InodeKey) -> Result<()> {
        if !self.inodes.contains_key(&key) {
            return Ok(());
        }
        self.unlink_all(key)?;
        self.void_entries(key)?;
        let Some(inode) = self.inodes.remove(&key) else {
            return Ok(());
        };
        if inode.number == ROOT {
            return Err(integrity("the root directory is evicted"));
        }
        self.place.remove(inode.number, inode.is_directory())
    }

    /// All that was stated of an inode is void; its names stay.
    fn void(&mut self, key: InodeKey, link_target: Option<&Vec<u8>>) -> Result<()> {
        self.void_entries(key)?;
        let inode = self.inode(key)?;
        inode.stated = Attributes::default();
        inode.xattrs.clear();
        inode.link_target = link_target.cloned();
        if inode.number == ROOT {
            return Ok(());
        }
        if inode.has_content() {
            return content::truncate(&self.file(key)?, 0);
        }
        // What it is now is to be stated, and may be another thing: a link's target cannot be changed.
        self.remake(key, None)
    }

    /// Attributes as stated; a stated size only where it counts.
    fn state(&mut self, key: InodeKey, stated: &Attributes, with_size: bool) -> Result<()> {
        let Attributes {
            mode,
            uid,
            gid,
            rdev,
            size,
            atime,
            mtime,
            ctime: _,
            file_flags,
            project,
        } = stated.clone();
        let now = &mut self.inode(key)?.stated;
        for (now, stated) in [
            (&mut now.mode, mode),
            (&mut now.uid, uid),
            (&mut now.gid, gid),
            (&mut now.file_flags, file_flags),
            (&mut now.project, project),
        ] {
            if stated.is_some() {
                *now = stated;
            }
        }
        for (now, stated) in [(&mut now.atime, atime), (&mut now.mtime, mtime)] {
            if stated.is_some() {
                *now = stated;
            }
        }
        if rdev.is_some() {
            now.rdev = rdev;
        }
        if let Some(mode) = mode {
            self.become_kind(key, FileType::from_raw_mode(mode))?;
        }
        let inode = self.inode(key)?;
        if let Some(size) = size.filter(|_| with_size && inode.has_content()) {
            content::truncate(&self.file(key)?, size)?;
        }
        if let Some(early) = file_flags
            .map(|flags| flags & FLAGS_WHEN_EMPTY)
            .filter(|early| *early != 0)
            && let Some(opened) = self.readable(key)?
        {
            flags::add_flags(&opened, early);
        }
        Ok(())
    }

    fn dir_times(&mut self, directory: InodeKey, times: &DirTimes) -> Result<()> {
        self.ensure(directory)?;
        self.inode(directory)?.stated.mtime = Some(times.mtime);
        Ok(())
    }

    /// The inode is of this kind from here on.
    fn become_kind(&mut self, key: InodeKey, kind: FileType) -> Result<()> {
        let inode = self.inode(key)?;
        if inode.kind == Some(kind) || inode.refused {
            return Ok(());
        }
        if inode.number == ROOT {
            return Err(integrity(format!(
                "the root (inode {}) is not a directory",
                show(key)
            )));
        }
        let unknown = match kind {
            FileType::Symlink => inode.link_target.is_none(),
            FileType::BlockDevice | FileType::CharacterDevice => inode.stated.rdev.is_none(),
            _ => false,
        };
        if unknown {
            return Ok(());
        }
        if inode.kind.is_none() && kind == FileType::RegularFile {
            inode.kind = Some(kind);
            return Ok(());
        }
        self.remake(key, Some(kind))
    }

    /// Another inode in the place of the one that there is, empty, under the same names.
    fn remake(&mut self, key: InodeKey, kind: Option<FileType>) -> Result<()> {
        self.unlink_all(key)?;
        let children: Vec<(Vec<u8>, InodeKey)> = self.inode(key)?.entries.clone().into_iter().collect();
        for (name, child) in &children {
            let entry = Entry {
                parent: key,
                name: name.clone(),
            };
            self.unlink(&entry, *child)?;
        }
        let inode = self.inode(key)?;
        let (number, was_directory) = (inode.number, inode.is_directory());
        let rdev = inode.stated.rdev.unwrap_or(0);
        let target = inode.link_target.clone().unwrap_or_default();
        let made = match kind {
            None | Some(FileType::RegularFile) => Made::File,
            Some(FileType::Directory) => Made::Directory,
            Some(FileType::Symlink) => Made::Symlink(&target),
            Some(kind @ (FileType::BlockDevice | FileType::CharacterDevice)) => Made::Node(kind, rdev),
            Some(kind) => Made::Node(kind, 0),
        };
        self.place.remove(number, was_directory)?;
        let mut kind = kind;
        if let Err(error) = self.place.create(number, &made) {
            note_or_fail(&mut self.problems, error, || format!("make inode {}", show(key)))?;
            self.place
                .create(number, &Made::File)
                .context("make an inode in the private place")?;
            self.inode(key)?.refused = true;
            kind = Some(FileType::RegularFile);
        }
        self.inode(key)?.kind = kind;
        self.link_all(key)?;
        for (name, child) in children {
            self.link(&Entry { parent: key, name }, child)?;
        }
        Ok(())
    }

    fn directory(&self, number: u64) -> Result<OwnedFd> {
        if number == ROOT {
            return self.place.root().try_clone_to_owned().context("open the root");
        }
        self.place.open(number, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// An inode's file, to read and write.
    fn file(&self, key: InodeKey) -> Result<File> {
        match self.inodes.get(&key) {
            Some(inode) if inode.has_content() => {
                let flags = OFlags::RDWR | OFlags::NONBLOCK;
                Ok(File::from(self.place.open(inode.number, flags)?))
            }
            _ => Err(integrity(format!(
                "inode {} is no file and has content",
                show(key)
            ))),
        }
    }

    /// A file or directory, open for reading; nothing for the other kinds.
    fn readable(&self, key: InodeKey) -> Result<Option<OwnedFd>> {
        match self.inodes.get(&key) {
            Some(inode) if inode.number == ROOT => {
                super::target::reopen_directory(self.place.root()).map(Some)
            }
            Some(inode) if inode.has_content() || inode.is_directory() => self
                .place
                .open(inode.number, OFlags::RDONLY | OFlags::NONBLOCK)
                .map(Some),
            _ => Ok(None),
        }
    }

    /// An empty file without a name.
    fn spare(&self) -> Result<File> {
        const SPARE: u64 = u64::MAX;
        self.place
            .create(SPARE, &Made::File)
            .context("make a spare file")?;
        let file = self.place.open(SPARE, OFlags::RDWR)?;
        self.place.remove(SPARE, false)?;
        Ok(File::from(file))
    }

    fn clone_range(&mut self, from: (InodeKey, u64), to: (InodeKey, u64), length: u64) -> Result<()> {
        let file = self.file(to.0)?;
        if !self.inodes.contains_key(&from.0) {
            return content::clone(&self.spare()?, 0, &file, to.1, length);
        }
        let source = self.file(from.0)?;
        if from.0 != to.0 {
            return content::clone(&source, from.1, &file, to.1, length);
        }
        let copy = self.spare()?;
        content::copy(&source, from.1, &copy, 0, length)?;
        content::clone(&copy, 0, &file, to.1, length)
    }
}

/// What the target's own root would hand down to what is made below, or keep: none of it is the journal's.
fn clear_root(place: &Place) -> Result<()> {
    let magic = proc_path(place.root());
    for name in list_xattrs(&magic).context("read extended attributes of the target directory")? {
        let ours = [b"user.".as_slice(), b"trusted.", b"system.posix_acl_"];
        if ours.iter().any(|prefix| name.starts_with(prefix)) {
            rustix::fs::removexattr(magic.as_str(), name.as_slice())
                .context("clear attributes of the target directory")?;
        }
    }
    let readable = super::target::reopen_directory(place.root())?;
    if flags::flags(&readable).is_ok_and(|flags| flags != 0) {
        flags::set_flags(&readable, 0).context("clear file flags of the target directory")?;
    }
    Ok(())
}
