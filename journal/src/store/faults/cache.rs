//! What a disk that fails keeps of names and files: what programs see, what is durable, and what lies between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::store::disk::{Entry, EntryKind, Existing};

/// A piece of a write that is written whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

/// Numbers that a seed repeats (splitmix64).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    /// One of several things that were not synced: whether it is there in the end.
    fn keep(&mut self, fate: Fate, index: usize, count: usize) -> bool {
        match fate {
            Fate::AllLost => false,
            Fate::AllKept => true,
            Fate::First(kept) => (index as u64) < kept % (count as u64 + 1),
            Fate::Some => self.below(2) == 0,
        }
    }

    fn fate(&mut self) -> Fate {
        match self.below(4) {
            0 => Fate::AllLost,
            1 => Fate::AllKept,
            2 => Fate::First(self.below(u64::MAX)),
            _ => Fate::Some,
        }
    }
}

/// What becomes of things that were not synced.
#[derive(Clone, Copy, Debug)]
enum Fate {
    AllLost,
    AllKept,
    First(u64),
    Some,
}

/// A change of a file that is not durable.
#[derive(Clone, Copy, Debug)]
enum Dirty {
    Bytes { start: usize, end: usize },
    Size(usize),
}

/// Content of a file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    cached: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<Dirty>,
}

impl Contents {
    pub(super) fn len(&self) -> usize {
        self.cached.len()
    }

    pub(super) fn write(&mut self, bytes: &[u8], start: usize) {
        let end = start + bytes.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        self.cached[start..end].copy_from_slice(bytes);
        self.dirty.push(Dirty::Bytes { start, end });
    }

    pub(super) fn read(&self, buffer: &mut [u8], start: usize) -> usize {
        let rest = self.cached.get(start..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        length
    }

    pub(super) fn set_len(&mut self, length: usize) {
        self.cached.resize(length, 0);
        self.dirty.push(Dirty::Size(length));
    }

    pub(super) fn sync(&mut self) {
        for dirty in std::mem::take(&mut self.dirty) {
            self.put(dirty, |_| true);
        }
        self.durable.resize(self.cached.len(), 0);
    }

    /// The disk took it and did not keep it.
    pub(super) fn forget(&mut self) {
        self.dirty.clear();
    }

    /// Some of it gets to the disk, and the rest never will.
    pub(super) fn fail(&mut self, random: &mut Random) {
        let dirty = std::mem::take(&mut self.dirty);
        let (fate, count) = (random.fate(), dirty.len());
        for (index, dirty) in dirty.into_iter().enumerate() {
            if random.keep(fate, index, count) {
                let (torn, at) = (random.below(3) == 0, random.below(u64::MAX));
                let sectors = match dirty {
                    Dirty::Bytes { start, end } => (end - start).div_ceil(SECTOR_BYTES),
                    Dirty::Size(_) => 1,
                };
                let whole = usize::try_from(at).unwrap_or(0) % (sectors + 1);
                self.put(dirty, |sector| !torn || sector < whole);
            }
        }
        // The new size got there before the content did: what is missing reads as zeros.
        if self.durable.len() < self.cached.len() && random.below(3) == 0 {
            self.durable.resize(self.cached.len(), 0);
        }
    }

    /// The page cache is gone.
    pub(super) fn lose(&mut self, random: &mut Random) {
        self.fail(random);
        self.cached = self.durable.clone();
    }

    /// What is durable or was forgotten is read from the disk from now on; what is to be written yet stays.
    pub(super) fn drop_cached(&mut self) {
        let mut fresh = self.durable.clone();
        if !self.dirty.is_empty() {
            fresh.resize(self.cached.len(), 0);
        }
        for dirty in &self.dirty {
            if let Dirty::Bytes { start, end } = *dirty {
                let end = end.min(fresh.len());
                if let Some(bytes) = self.cached.get(start..end) {
                    fresh[start..end].copy_from_slice(bytes);
                }
            }
        }
        self.cached = fresh;
    }

    /// Brings a change to the disk, as far as `kept` says of its sectors.
    fn put(&mut self, dirty: Dirty, kept: impl Fn(usize) -> bool) {
        match dirty {
            Dirty::Size(length) if kept(0) => self.durable.resize(length, 0),
            Dirty::Size(_) => {}
            Dirty::Bytes { start, end } => {
                // It may have been cut since then.
                let end = end.min(self.cached.len());
                for (sector, from) in (start..end).step_by(SECTOR_BYTES).enumerate() {
                    let to = (from + SECTOR_BYTES).min(end);
                    if kept(sector) {
                        if self.durable.len() < to {
                            self.durable.resize(to, 0);
                        }
                        self.durable[from..to].copy_from_slice(&self.cached[from..to]);
                    }
                }
            }
        }
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    File(u64),
}

/// A change of names that is not durable.
#[derive(Clone, Debug)]
enum Change {
    Put(PathBuf, Node),
    Take(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

impl Change {
    fn path(&self) -> &Path {
        match self {
            Self::Put(path, _) | Self::Take(path) | Self::Rename(path, ..) => path,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Put(path, node) => _ = names.insert(path.clone(), *node),
            Self::Take(path) => _ = names.remove(path),
            Self::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// All names of a disk, by whole path.
#[derive(Debug)]
pub(super) struct Names {
    root: PathBuf,
    cached: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    pending: Vec<Change>,
}

impl Names {
    pub(super) fn new(root: &Path) -> Self {
        let names = BTreeMap::from([(root.to_owned(), Node::Directory)]);
        Self {
            root: root.to_owned(),
            cached: names.clone(),
            durable: names,
            pending: Vec::new(),
        }
    }

    pub(super) fn get(&self, path: &Path) -> Option<Node> {
        self.cached.get(path).copied()
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        match self.get(path) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory) => Err(Errno::INVAL.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn is_directory(&self, path: Option<&Path>) -> io::Result<()> {
        match path.and_then(|path| self.get(path)) {
            Some(Node::Directory) => Ok(()),
            Some(Node::File(_)) => Err(Errno::NOTDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.cached);
        self.pending.push(change);
    }

    pub(super) fn put(&mut self, path: &Path, node: Node) -> io::Result<()> {
        self.is_directory(path.parent())?;
        if self.cached.contains_key(path) {
            return Err(Errno::EXIST.into());
        }
        self.change(Change::Put(path.to_owned(), node));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, existing: Existing) -> io::Result<()> {
        let file = self.file(from)?;
        if existing == Existing::Refused && self.cached.contains_key(to) {
            return Err(Errno::EXIST.into());
        }
        self.change(Change::Rename(from.to_owned(), to.to_owned(), Node::File(file)));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.change(Change::Take(path.to_owned()));
        Ok(())
    }

    pub(super) fn sync(&mut self, directory: &Path) -> io::Result<()> {
        self.is_directory(Some(directory))?;
        for change in self.take_pending(directory) {
            change.apply(&mut self.durable);
        }
        Ok(())
    }

    /// The changes may have got to the disk, and are to be synced again.
    pub(super) fn fail(&mut self, directory: &Path, random: &mut Random) {
        let changes = self.take_pending(directory);
        if random.below(2) == 0 {
            self.pending.extend(changes);
        } else {
            changes.iter().for_each(|change| change.apply(&mut self.durable));
        }
    }

    fn take_pending(&mut self, directory: &Path) -> Vec<Change> {
        let (taken, left) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|change| change.path().parent() == Some(directory));
        self.pending = left;
        taken
    }

    fn settle(&mut self, changes: &[Change], random: &mut Random) {
        let fate = random.fate();
        for (index, change) in changes.iter().enumerate() {
            if random.keep(fate, index, changes.len()) {
                change.apply(&mut self.durable);
            }
        }
    }

    /// The page cache is gone; what lay in a directory that is not there is not there either.
    pub(super) fn lose(&mut self, random: &mut Random) {
        let changes = std::mem::take(&mut self.pending);
        self.settle(&changes, random);
        let directories: BTreeSet<PathBuf> = self
            .durable
            .iter()
            .filter(|(_, node)| **node == Node::Directory)
            .map(|(path, _)| path.clone())
            .collect();
        self.durable.retain(|path, _| {
            *path == self.root || path.parent().is_some_and(|parent| directories.contains(parent))
        });
        self.cached.clone_from(&self.durable);
    }

    pub(super) fn list(&self, directory: &Path, bytes: impl Fn(u64) -> u64) -> io::Result<Vec<Entry>> {
        self.is_directory(Some(directory))?;
        let inside = self.cached.iter().filter_map(|(path, node)| {
            let name = path.file_name().filter(|_| path.parent() == Some(directory))?;
            let (kind, bytes) = match node {
                Node::Directory => (EntryKind::Directory, 0),
                Node::File(file) => (EntryKind::File, bytes(*file)),
            };
            let name = name.to_owned();
            Some(Entry { name, kind, bytes })
        });
        Ok(inside.collect())
    }

    /// Paths of all files that programs see.
    pub(super) fn files(&self) -> Vec<(PathBuf, u64)> {
        let files = self.cached.iter().filter_map(|(path, node)| match node {
            Node::File(file) => Some((path.clone(), *file)),
            Node::Directory => None,
        });
        files.collect()
    }
}
