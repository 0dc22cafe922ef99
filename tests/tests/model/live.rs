//! The live directory: does an operation on it and tells the journal what it did, as the recorder would.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use journal::record::{Actor, Attributes, DirTimes, Entry, InodeKey, Op, Record, SnapshotScope, Time};
use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps};

use tests::random::Random;

const KEEP_SIZE: u32 = 0x01;
const PUNCH_HOLE: u32 = 0x02;
const COLLAPSE_RANGE: u32 = 0x08;
const ZERO_RANGE: u32 = 0x10;
const INSERT_RANGE: u32 = 0x20;
const BLOCK: u64 = 4096;
/// Rows that a snapshot in this model has room for.
const SNAPSHOT_ROWS: u64 = 120;
/// Bytes of data in one row of a snapshot.
const CHUNK_BYTES: u64 = 30_000;
/// Names in the tree before more are refused.
const NAMES_MAX: usize = 90;

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
        self.tell_as(begin_seq, root, Attributes::default(), true, Op::BaseBegin);
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

    fn create(&mut self) {
        if self.paths().len() > NAMES_MAX {
            return self.remove();
        }
        let path = self.new_path();
        let mut link_target = None;
        match self.random.below(8) {
            0 | 1 => fs::create_dir(&path).unwrap(),
            2 => {
                symlink("to/\u{e9}lsewhere", &path).unwrap();
                link_target = Some("to/\u{e9}lsewhere".as_bytes().to_vec());
            }
            3 => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from(0o640), 0).unwrap(),
            _ => drop(File::create_new(&path).unwrap()),
        }
        self.born(&path);
        let op = Op::Create {
            entry: self.entry(&path),
            dir: dir_times(&path),
            link_target,
        };
        self.tell(&path, whole(&path), op);
    }

    fn write(&mut self) {
        let Some(path) = self.file() else { return };
        let offset = match self.random.below(4) {
            0 => meta(&path).size(),
            1 => self.random.below(30) * BLOCK,
            _ => self.random.below(150_000),
        };
        let length = [1, 77, BLOCK, 20_000][usize::try_from(self.random.below(4)).unwrap()];
        let length = 1 + self.random.below(length);
        let data = self.random.bytes(length);
        opened(&path).write_all_at(&data, offset).unwrap();
        self.tell(&path, stamps(&path), Op::Write { offset, length, data });
    }

    fn truncate(&mut self) {
        let Some(path) = self.file() else { return };
        opened(&path).set_len(self.random.below(200_000)).unwrap();
        let attributes = Attributes {
            size: Some(meta(&path).size()),
            ..stamps(&path)
        };
        self.tell(&path, attributes, Op::SetAttr);
    }

    /// Punches a hole, or zeroes or preallocates a range.
    fn punch(&mut self) {
        let Some(path) = self.file() else { return };
        let mode = [
            PUNCH_HOLE | KEEP_SIZE,
            ZERO_RANGE,
            ZERO_RANGE | KEEP_SIZE,
            0,
            KEEP_SIZE,
        ][usize::try_from(self.random.below(5)).unwrap()];
        let (offset, length) = (self.random.below(150_000), 1 + self.random.below(30_000));
        rewrite(&path, |content| {
            let end = usize::try_from(offset + length).unwrap();
            if mode & KEEP_SIZE == 0 && content.len() < end {
                content.resize(end, 0);
            }
            if mode & (PUNCH_HOLE | ZERO_RANGE) != 0 {
                let end = end.min(content.len());
                let start = usize::try_from(offset).unwrap().min(end);
                content[start..end].fill(0);
            }
        });
        self.tell(&path, stamps(&path), Op::Fallocate { mode, offset, length });
    }

    /// Collapses or inserts a range.
    fn shift(&mut self) {
        let Some(path) = self.file() else { return };
        let blocks = meta(&path).size() / BLOCK;
        if blocks < 3 {
            return;
        }
        let offset = self.random.below(blocks - 2) * BLOCK;
        let collapse = self.random.below(2) == 0;
        rewrite(&path, |content| {
            let at = usize::try_from(offset).unwrap();
            if collapse {
                content.drain(at..at + 4096);
            } else {
                content.splice(at..at, std::iter::repeat_n(0, 4096));
            }
        });
        let mode = if collapse { COLLAPSE_RANGE } else { INSERT_RANGE };
        self.tell(
            &path,
            stamps(&path),
            Op::Fallocate {
                mode,
                offset,
                length: BLOCK,
            },
        );
    }

    fn clone_range(&mut self) {
        let (Some(source), Some(path)) = (self.file(), self.file()) else {
            return;
        };
        let blocks = meta(&source).size() / BLOCK;
        if blocks < 1 || meta(&source).ino() == meta(&path).ino() {
            return;
        }
        let source_offset = self.random.below(blocks) * BLOCK;
        let length = (1 + self.random.below(blocks - source_offset / BLOCK)) * BLOCK;
        let offset = self.random.below(20) * BLOCK;
        let mut data = vec![0; usize::try_from(length).unwrap()];
        opened(&source).read_exact_at(&mut data, source_offset).unwrap();
        opened(&path).write_all_at(&data, offset).unwrap();
        let op = Op::Clone {
            source: self.key(&source),
            source_offset,
            offset,
            length,
        };
        self.tell(&path, stamps(&path), op);
    }

    fn link(&mut self) {
        let Some(path) = self.file() else { return };
        let to = self.new_path();
        fs::hard_link(&path, &to).unwrap();
        let op = Op::Link {
            entry: self.entry(&to),
            dir: dir_times(&to),
        };
        self.tell(&to, stamps(&to), op);
    }

    fn remove(&mut self) {
        let mut paths = self.paths();
        paths.retain(|path| *path != self.root);
        if paths.is_empty() {
            return;
        }
        let path = self.pick(&paths);
        let (key, entry, last) = (self.key(&path), self.entry(&path), self.is_last(&path));
        if last && self.window == Some(key.ino) {
            return;
        }
        let is_dir = meta(&path).is_dir();
        if is_dir && fs::read_dir(&path).unwrap().next().is_some() {
            return;
        }
        if is_dir {
            fs::remove_dir(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let dir = dir_times(&path);
        let op = if is_dir {
            Op::Rmdir { entry, dir }
        } else {
            Op::Unlink { entry, dir }
        };
        self.tell_key(key, Attributes::default(), op);
        if last {
            self.evict(key);
        }
    }

    fn rename(&mut self, exchange: bool) {
        let mut paths = self.paths();
        paths.retain(|path| *path != self.root);
        if paths.len() < 2 {
            return;
        }
        let from = self.pick(&paths);
        let to = if exchange || self.random.below(2) == 0 {
            self.pick(&paths)
        } else {
            self.new_path()
        };
        let (key, other) = (
            self.key(&from),
            fs::symlink_metadata(&to).is_ok().then(|| self.key(&to)),
        );
        if other == Some(key) {
            return;
        }
        let victim_last = other.is_some() && self.is_last(&to);
        if !exchange && victim_last && other.is_some_and(|other| self.window == Some(other.ino)) {
            return;
        }
        let flags = if exchange {
            RenameFlags::EXCHANGE
        } else {
            RenameFlags::empty()
        };
        // Refused: a directory below itself, over a file, over one that is not empty.
        if rustix::fs::renameat_with(CWD, &from, CWD, &to, flags).is_err() {
            return;
        }
        // A directory that moved has taken its own parent's path with it only where that was refused above.
        let (from_dir, to_dir) = (dir_times(&from), dir_times(&to));
        let (from, to_entry) = (self.entry(&from), self.entry(&to));
        let attributes = stamps(&to);
        match other {
            Some(other) if exchange => {
                let op = Op::Exchange {
                    from,
                    from_dir,
                    to: to_entry,
                    to_dir,
                    other,
                };
                self.tell_key(key, attributes, op);
            }
            victim => {
                let op = Op::Rename {
                    from,
                    from_dir,
                    to: to_entry,
                    to_dir,
                    victim,
                };
                self.tell_key(key, attributes, op);
                if let (Some(victim), true) = (victim, victim_last) {
                    self.evict(victim);
                }
            }
        }
    }

    fn change_mode(&mut self) {
        let Some(path) = self.no_symlink() else { return };
        let mode = [0o600, 0o755, 0o4711, 0o1777][usize::try_from(self.random.below(4)).unwrap()];
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let attributes = Attributes {
            mode: Some(meta(&path).mode()),
            ..stamps(&path)
        };
        self.tell(&path, attributes, Op::SetAttr);
    }

    fn change_owner(&mut self) {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let paths = self.paths();
        let path = self.pick(&paths);
        let id = u32::try_from(self.random.below(5000)).unwrap();
        std::os::unix::fs::lchown(&path, Some(id), Some(id + 1)).unwrap();
        let now = meta(&path);
        let (uid, gid) = (Some(now.uid()), Some(now.gid()));
        let attributes = Attributes {
            mode: Some(now.mode()),
            uid,
            gid,
            ..stamps(&path)
        };
        self.tell(&path, attributes, Op::SetAttr);
    }

    fn change_times(&mut self) {
        let paths = self.paths();
        let path = self.pick(&paths);
        let sec = [-5_000_000_000, -1, 0, 4_000_000_000][usize::try_from(self.random.below(4)).unwrap()];
        let stamp = Timespec {
            tv_sec: sec.max(-2_000_000_000),
            tv_nsec: 123_456_789,
        };
        let times = Timestamps {
            last_access: stamp,
            last_modification: stamp,
        };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let atime = Some(time(stamp.tv_sec, 123_456_789));
        self.tell(
            &path,
            Attributes {
                atime,
                ..stamps(&path)
            },
            Op::SetAttr,
        );
    }

    fn change_xattr(&mut self) {
        let Some(path) = self.no_symlink() else { return };
        if meta(&path).mode() & 0o170_000 == 0o010_000 {
            return;
        }
        let name = format!("user.n{}", self.random.below(3));
        if self.random.below(3) == 0 {
            if xattr::remove(&path, &name).is_ok() {
                self.tell(
                    &path,
                    stamps(&path),
                    Op::RemoveXattr {
                        name: name.into_bytes(),
                    },
                );
            }
            return;
        }
        let length = self.random.below(300);
        let value = self.random.bytes(length);
        xattr::set(&path, &name, &value).unwrap();
        self.tell(
            &path,
            stamps(&path),
            Op::SetXattr {
                name: name.into_bytes(),
                value,
            },
        );
    }

    /// A file made without a name, written, and then given one or not.
    fn unnamed(&mut self) {
        let path = self.new_path();
        let file = File::create_new(&path).unwrap();
        self.born(&path);
        let key = self.key(&path);
        let created = whole(&path);
        let data = self.random.bytes(5000);
        file.write_all_at(&data, 3000).unwrap();
        let written = stamps(&path);
        self.tell_key(key, created, Op::CreateUnnamed);
        self.tell_key(
            key,
            written,
            Op::Write {
                offset: 3000,
                length: 5000,
                data,
            },
        );
        if self.random.below(2) == 0 {
            let op = Op::Link {
                entry: self.entry(&path),
                dir: dir_times(&path),
            };
            self.tell_key(key, stamps(&path), op);
        } else {
            let parent = path.parent().unwrap();
            let entry = self.entry(&path);
            fs::remove_file(&path).unwrap();
            // The name was never told; the directory's new times are.
            let (parent_key, times) = (self.key(parent), stamps(parent));
            drop(entry);
            self.tell_key(parent_key, times, Op::SetAttr);
            self.evict(key);
        }
    }

    /// States an inode anew: the rows take their numbers first, then things happen, then the state is read.
    fn snapshot(&mut self, path: &Path) {
        let (key, begin_seq) = (self.key(path), self.next_seq);
        self.next_seq += SNAPSHOT_ROWS;
        self.window = Some(key.ino);
        for _ in 0..self.random.below(4) {
            self.step_idempotent();
        }
        self.window = None;
        let path = self
            .paths()
            .into_iter()
            .find(|path| meta(path).ino() == key.ino)
            .unwrap();
        let mut rows = Vec::new();
        let now = meta(&path);
        let link_target = now
            .is_symlink()
            .then(|| fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec());
        rows.push((
            key,
            whole(&path),
            Op::Snapshot {
                link_target,
                scope: SnapshotScope::Whole,
            },
        ));
        if now.is_file() || now.is_dir() {
            for name in xattr::list(&path).unwrap() {
                let value = xattr::get(&path, &name).unwrap().unwrap();
                let name = name.as_bytes().to_vec();
                rows.push((key, Attributes::default(), Op::SetXattr { name, value }));
            }
        }
        if now.is_file() {
            let content = fs::read(&path).unwrap();
            for (index, chunk) in content.chunks(usize::try_from(CHUNK_BYTES).unwrap()).enumerate() {
                let op = Op::Write {
                    offset: index as u64 * CHUNK_BYTES,
                    length: chunk.len() as u64,
                    data: chunk.to_vec(),
                };
                rows.push((key, Attributes::default(), op));
            }
        }
        if now.is_dir() {
            for child in fs::read_dir(&path).unwrap() {
                let child = child.unwrap().path();
                let entry = self.entry(&child);
                rows.push((
                    self.key(&child),
                    Attributes::default(),
                    Op::SnapshotEntry { entry },
                ));
            }
        }
        assert!(
            (rows.len() as u64) < SNAPSHOT_ROWS,
            "too many rows for this model"
        );
        for (seq, (inode, attributes, op)) in (begin_seq..).zip(rows) {
            self.tell_as(seq, inode, attributes, true, op);
        }
        let seq = self.seq();
        self.tell_as(
            seq,
            key,
            Attributes::default(),
            true,
            Op::SnapshotEnd { begin_seq },
        );
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
