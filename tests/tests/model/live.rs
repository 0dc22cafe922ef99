//! The live directory: does an operation on it and tells the journal what it did, as the recorder would.

mod attributes;
mod content;
mod names;
mod snapshot;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use journal::record::{Actor, Attributes, Continued, DirTimes, Entry, InodeKey, Op, Record, Time};

use tests::random::Random;

const BLOCK: u64 = 4096;

/// The tree and what was told of it.
pub(crate) struct Live {
    root: PathBuf,
    /// Generation of each living inode number.
    generations: HashMap<u64, u32>,
    next_generation: u32,
    next_seq: u64,
    next_name: u64,
    /// In a snapshot's window: no operation that is not idempotent, and this inode must not go.
    window: Option<u64>,
    /// In no order: rows of a snapshot have taken their numbers long before they are told.
    pub(crate) records: Vec<Record>,
    pub(crate) random: Random,
}

fn time(sec: i64, nsec: i64) -> Time {
    Time {
        sec,
        nsec: u32::try_from(nsec).unwrap(),
    }
}

impl Live {
    pub(crate) fn new(root: &Path, random: Random) -> Self {
        let mut live = Self {
            root: root.to_owned(),
            generations: HashMap::new(),
            next_generation: 1,
            next_seq: 1,
            next_name: 0,
            window: None,
            records: Vec::new(),
            random,
        };
        live.born(root);
        live
    }

    pub(crate) fn root_key(&self) -> InodeKey {
        self.key(&self.root)
    }

    /// What was there before the journal, then a base of it while it changes.
    pub(crate) fn base(&mut self) {
        for _ in 0..60 {
            self.step();
        }
        self.records.clear();
        let begin_seq = self.seq();
        let root = self.root_key();
        self.tell_as(
            begin_seq,
            root,
            Attributes::default(),
            true,
            Op::BaseBegin { continues: None },
        );
        let mut inodes: Vec<u64> = self.paths().iter().map(|path| meta(path).ino()).collect();
        inodes.sort_unstable();
        inodes.dedup();
        for inode in inodes {
            self.step_idempotent();
            if let Some(path) = self.paths().into_iter().find(|path| meta(path).ino() == inode) {
                self.snapshot(&path);
            }
        }
        let seq = self.seq();
        self.tell_as(seq, root, Attributes::default(), true, Op::BaseEnd { begin_seq });
    }

    pub(crate) fn mark(&mut self, name: &str) {
        let seq = self.seq();
        let op = Op::Mark {
            name: name.to_owned(),
        };
        self.tell_as(seq, InodeKey::default(), Attributes::default(), false, op);
    }

    /// The recording breaks off and goes on in a new epoch, which finds nothing that differs but what it happens to look at.
    pub(crate) fn epoch(&mut self) {
        let begin_seq = self.seq();
        let root = self.root_key();
        // Which epoch ended where is for whoever writes the journal to say.
        let continues = Some(Continued { epoch: 0, seq: 0 });
        self.tell_as(
            begin_seq,
            root,
            Attributes::default(),
            true,
            Op::BaseBegin { continues },
        );
        for _ in 0..self.random.below(4) {
            let paths = self.paths();
            let path = self.pick(&paths);
            self.snapshot(&path);
        }
        let seq = self.seq();
        self.tell_as(seq, root, Attributes::default(), true, Op::BaseEnd { begin_seq });
    }

    /// One random operation.
    pub(crate) fn step(&mut self) {
        match self.random.below(12) {
            0 => self.shift(),
            1 => self.clone_range(),
            2 if !self.records.is_empty() => {
                let paths = self.paths();
                let path = self.pick(&paths);
                self.snapshot(&path);
            }
            _ => self.step_idempotent(),
        }
    }

    fn step_idempotent(&mut self) {
        match self.random.below(26) {
            0..=3 => self.create(),
            4..=9 => self.write(),
            10 => self.truncate(),
            11 | 12 => self.punch(),
            13 => self.link(),
            14 | 15 => self.remove(),
            16..=18 => self.rename(false),
            19 => self.rename(true),
            20 => self.change_mode(),
            21 => self.change_owner(),
            22 => self.change_times(),
            23 | 24 => self.change_xattr(),
            _ => self.unnamed(),
        }
    }

    fn evict(&mut self, key: InodeKey) {
        self.generations.remove(&key.ino);
        self.tell_key(key, Attributes::default(), Op::Evict);
    }

    fn seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq - 1
    }

    fn tell(&mut self, path: &Path, attributes: Attributes, op: Op) {
        self.tell_key(self.key(path), attributes, op);
    }

    fn tell_key(&mut self, inode: InodeKey, attributes: Attributes, op: Op) {
        let seq = self.seq();
        self.tell_as(seq, inode, attributes, false, op);
    }

    fn tell_as(&mut self, seq: u64, inode: InodeKey, attributes: Attributes, from_snapshot: bool, op: Op) {
        let time_ns = i64::try_from(seq).unwrap() * 1_000_000;
        let actor = Actor::default();
        self.records.push(Record {
            seq,
            last_seq: seq,
            time_ns,
            inode,
            attributes,
            from_snapshot,
            actor,
            op,
        });
    }

    /// A new inode stands here: a number used again gets another generation.
    fn born(&mut self, path: &Path) {
        let ino = meta(path).ino();
        assert!(
            self.generations.insert(ino, self.next_generation).is_none(),
            "inode {ino} never went"
        );
        self.next_generation += 1;
    }

    fn key(&self, path: &Path) -> InodeKey {
        let ino = meta(path).ino();
        InodeKey {
            ino,
            generation: self.generations[&ino],
        }
    }

    fn entry(&self, path: &Path) -> Entry {
        let name = path.file_name().unwrap().as_bytes().to_vec();
        Entry {
            parent: self.key(path.parent().unwrap()),
            name,
        }
    }

    fn is_last(&self, path: &Path) -> bool {
        meta(path).is_dir() || meta(path).nlink() == 1
    }

    /// Every path of the tree, in an order that the names decide.
    fn paths(&self) -> Vec<PathBuf> {
        let mut paths = vec![self.root.clone()];
        let mut done = 0;
        while done < paths.len() {
            if meta(&paths[done]).is_dir() {
                let children = fs::read_dir(&paths[done])
                    .unwrap()
                    .map(|child| child.unwrap().path());
                paths.extend(children.collect::<Vec<_>>());
            }
            done += 1;
        }
        paths.sort_unstable();
        paths
    }

    fn pick(&mut self, paths: &[PathBuf]) -> PathBuf {
        let index = self.random.below(paths.len() as u64);
        paths[usize::try_from(index).unwrap()].clone()
    }

    fn file(&mut self) -> Option<PathBuf> {
        let paths: Vec<PathBuf> = self
            .paths()
            .into_iter()
            .filter(|path| meta(path).is_file())
            .collect();
        (!paths.is_empty()).then(|| self.pick(&paths))
    }

    fn no_symlink(&mut self) -> Option<PathBuf> {
        let paths: Vec<PathBuf> = self
            .paths()
            .into_iter()
            .filter(|path| !meta(path).is_symlink())
            .collect();
        (!paths.is_empty()).then(|| self.pick(&paths))
    }

    /// A name that was never used before, some of them odd, in any directory.
    fn new_path(&mut self) -> PathBuf {
        let directories: Vec<PathBuf> = self
            .paths()
            .into_iter()
            .filter(|path| meta(path).is_dir())
            .collect();
        let mut name = format!("n{}", self.next_name).into_bytes();
        self.next_name += 1;
        match self.random.below(10) {
            0 => name.extend_from_slice(b"\xff\n "),
            1 => name.resize(255, b'x'),
            _ => {}
        }
        self.pick(&directories).join(std::ffi::OsStr::from_bytes(&name))
    }
}

fn meta(path: &Path) -> fs::Metadata {
    fs::symlink_metadata(path).unwrap()
}

fn opened(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = fs::read(path).unwrap();
    change(&mut content);
    let file = opened(path);
    file.set_len(content.len() as u64).unwrap();
    file.write_all_at(&content, 0).unwrap();
}

/// What every operation leaves behind.
fn stamps(path: &Path) -> Attributes {
    let now = meta(path);
    Attributes {
        mtime: Some(time(now.mtime(), now.mtime_nsec())),
        ctime: Some(time(now.ctime(), now.ctime_nsec())),
        ..Attributes::default()
    }
}

fn whole(path: &Path) -> Attributes {
    let now = meta(path);
    Attributes {
        mode: Some(now.mode()),
        uid: Some(now.uid()),
        gid: Some(now.gid()),
        rdev: Some(now.rdev()),
        size: now.is_file().then(|| now.size()),
        ..stamps(path)
    }
}

fn dir_times(path: &Path) -> DirTimes {
    let now = meta(path.parent().unwrap());
    DirTimes {
        mtime: time(now.mtime(), now.mtime_nsec()),
        ctime: time(now.ctime(), now.ctime_nsec()),
    }
}
