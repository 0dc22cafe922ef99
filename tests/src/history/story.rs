//! The records of a made-up volume, in order, as the recorder would have written them: a base, then everything that made the files.

use anyhow::Result;
use journal::record::{Actor, Attributes, DirTimes, Entry, InodeKey, Op, Record, SnapshotScope, Time};

use super::content::Content;
use super::shape::{Habit, Order, Shape, shuffle};

/// Bytes that one event of the capture carries: a merged record stands for as many numbers.
const EVENT_BYTES: u64 = 4096;
/// Time between two records, in nanoseconds.
const STEP_NS: i64 = 137_000;
const BEGIN_NS: i64 = 1_790_000_000_000_000_000;
const ROOT: InodeKey = InodeKey {
    ino: 2,
    generation: 0,
};

/// Offsets and lengths.
type Pieces = Vec<(u64, u64)>;

/// Names of the directories below the root, by number.
pub(super) fn directory_name(directory: u64) -> String {
    format!("directory-{directory:05}")
}

/// Names of files in their directory.
pub(super) fn file_name(file: u64) -> String {
    format!("file-{file:07}.dat")
}

/// What the tree has at the end that its shape does not say.
pub(super) struct End {
    /// Owner and group of everything.
    pub(super) owner: (u32, u32),
    /// When each file was changed last.
    pub(super) files: Vec<Time>,
    /// When each directory was changed last.
    pub(super) directories: Vec<Time>,
    /// When the root was.
    pub(super) root: Time,
}

/// Tells what happened.
pub(super) struct Story<'a> {
    shape: &'a Shape,
    content: &'a Content,
    push: &'a mut dyn FnMut(Record) -> Result<()>,
    /// The last number.
    seq: u64,
    time_ns: i64,
    /// Inodes ever made.
    inodes: u64,
    /// By file.
    keys: Vec<InodeKey>,
    end: End,
}

impl<'a> Story<'a> {
    pub(super) fn new(
        shape: &'a Shape,
        content: &'a Content,
        owner: (u32, u32),
        push: &'a mut dyn FnMut(Record) -> Result<()>,
    ) -> Self {
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let time = Time::default();
        Self {
            shape,
            content,
            push,
            seq: 0,
            time_ns: BEGIN_NS,
            inodes: 10,
            keys: vec![InodeKey::default(); count(shape.all_files())],
            end: End {
                owner,
                files: vec![time; count(shape.all_files())],
                directories: vec![time; count(shape.directories())],
                root: time,
            },
        }
    }

    /// Tells all of it.
    pub(super) fn tell(mut self) -> Result<End> {
        self.base()?;
        for directory in 0..self.shape.directories() {
            let key = self.directory_key(directory);
            let (entry, dir) = (self.root_entry(directory), self.now_in_root());
            let attributes = self.attributes(libc::S_IFDIR | 0o755);
            self.end.directories[directory as usize] = self.now();
            let op = Op::Create {
                entry,
                dir,
                link_target: None,
            };
            self.record(key, attributes, op, 1)?;
        }
        let versions: Vec<u64> = (0..=self.shape.overwrites).collect();
        match self.shape.order {
            Order::Rounds => {
                for version in versions {
                    self.write_all(&[version])?;
                }
            }
            Order::Mixed => self.write_all(&versions)?,
        }
        let op = Op::Mark {
            name: "end".to_owned(),
        };
        self.record(InodeKey::default(), Attributes::default(), op, 1)?;
        Ok(self.end)
    }

    fn base(&mut self) -> Result<()> {
        self.inodes += self.shape.directories();
        let begin = self.record(ROOT, Attributes::default(), Op::BaseBegin { continues: None }, 1)?;
        self.end.root = self.now();
        let attributes = self.attributes(libc::S_IFDIR | 0o755);
        let op = Op::Snapshot {
            link_target: None,
            scope: SnapshotScope::Whole,
        };
        let begin_seq = self.record(ROOT, attributes, op, 1)?;
        self.record(ROOT, Attributes::default(), Op::SnapshotEnd { begin_seq }, 1)?;
        let op = Op::BaseEnd { begin_seq: begin };
        self.record(ROOT, Attributes::default(), op, 1)?;
        Ok(())
    }

    /// Writes these versions of all files, the pieces of one file in their order, and any of one among those of others.
    fn write_all(&mut self, versions: &[u64]) -> Result<()> {
        let mut turns: Vec<u32> = Vec::new();
        for file in 0..self.shape.all_files() {
            let pieces = |version: &u64| self.shape.pieces(file, *version).len();
            let count = versions.iter().map(pieces).sum();
            turns.extend(std::iter::repeat_n(u32::try_from(file)?, count));
        }
        let mut random = self
            .shape
            .random(0, 1000 + versions.first().copied().unwrap_or(0));
        shuffle(&mut turns, &mut random);
        // Of each large file the pieces still to come, the next one last.
        let files = usize::try_from(self.shape.all_files())?;
        let mut to_come: Vec<(usize, Pieces)> = vec![(0, Pieces::new()); files];
        for file in turns {
            let (next, pieces) = &mut to_come[file as usize];
            let file = u64::from(file);
            if pieces.is_empty() {
                *pieces = self.shape.pieces(file, versions[*next]);
                pieces.reverse();
                *next += 1;
            }
            let version = versions[*next - 1];
            let Some(piece) = pieces.pop() else { continue };
            if file < self.shape.files {
                self.write_small(file, version, piece)?;
            } else {
                self.write_large(file, version, piece)?;
            }
        }
        Ok(())
    }

    fn write_large(&mut self, file: u64, version: u64, piece: (u64, u64)) -> Result<()> {
        if version == 0 && piece.0 == 0 {
            self.create(file, file_name(file))?;
        }
        self.write(file, version, piece)
    }

    fn write_small(&mut self, file: u64, version: u64, piece: (u64, u64)) -> Result<()> {
        if version == 0 {
            self.create(file, file_name(file))?;
            return self.write(file, version, piece);
        }
        match self.shape.habit(file) {
            Habit::InPlace | Habit::Scattered => self.write(file, version, piece),
            Habit::Truncated => {
                let attributes = Attributes {
                    size: Some(0),
                    ..self.times()
                };
                self.record(self.keys[file as usize], attributes, Op::SetAttr, 1)?;
                self.write(file, version, piece)
            }
            Habit::Replaced => {
                let victim = self.keys[file as usize];
                let temporary = format!(".{}.{version}", file_name(file));
                self.create(file, temporary.clone())?;
                self.write(file, version, piece)?;
                let dir = self.now_in(file);
                let op = Op::Rename {
                    from: self.entry(file, temporary),
                    from_dir: dir,
                    to: self.entry(file, file_name(file)),
                    to_dir: dir,
                    victim: Some(victim),
                };
                let attributes = Attributes {
                    ctime: Some(self.now()),
                    ..Attributes::default()
                };
                self.record(self.keys[file as usize], attributes, op, 1)?;
                self.record(victim, Attributes::default(), Op::Evict, 1)?;
                Ok(())
            }
        }
    }

    /// A new inode of a file.
    fn create(&mut self, file: u64, name: String) -> Result<()> {
        self.inodes += 1;
        let key = InodeKey {
            ino: self.inodes,
            generation: 1,
        };
        self.keys[file as usize] = key;
        let dir = self.now_in(file);
        let op = Op::Create {
            entry: self.entry(file, name),
            dir,
            link_target: None,
        };
        let attributes = self.attributes(libc::S_IFREG | self.shape.permissions(file));
        self.record(key, attributes, op, 1)?;
        Ok(())
    }

    fn write(&mut self, file: u64, version: u64, (offset, length): (u64, u64)) -> Result<()> {
        let mut data = vec![0; usize::try_from(length)?];
        // Counted from the last version, so that the tree at the end is the same however often it was overwritten.
        let version = self.shape.overwrites - version;
        self.content.fill(&mut data, file, version, offset);
        self.end.files[file as usize] = self.now();
        let op = Op::Write { offset, data, length };
        let numbers = length.div_ceil(EVENT_BYTES).max(1);
        self.record(self.keys[file as usize], self.times(), op, numbers)?;
        Ok(())
    }

    fn record(&mut self, inode: InodeKey, attributes: Attributes, op: Op, numbers: u64) -> Result<u64> {
        let seq = self.seq + 1;
        self.seq += numbers;
        let from_snapshot = matches!(op, Op::Snapshot { .. } | Op::SnapshotEnd { .. });
        let who = u32::try_from(inode.ino % 7)?;
        (self.push)(Record {
            seq,
            last_seq: self.seq,
            time_ns: self.time_ns,
            inode,
            attributes,
            from_snapshot,
            actor: Actor {
                pid: 4000 + who,
                tgid: 4000 + who,
                uid: self.end.owner.0,
                gid: self.end.owner.1,
                cgroup: 90 + u64::from(who),
                comm: format!("program-{who}").into_bytes(),
            },
            op,
        })?;
        self.time_ns += STEP_NS;
        Ok(seq)
    }

    fn directory_key(&self, directory: u64) -> InodeKey {
        InodeKey {
            ino: 11 + directory,
            generation: 1,
        }
    }

    fn root_entry(&self, directory: u64) -> Entry {
        Entry {
            parent: ROOT,
            name: directory_name(directory).into_bytes(),
        }
    }

    fn entry(&self, file: u64, name: String) -> Entry {
        Entry {
            parent: self.directory_key(self.shape.directory(file)),
            name: name.into_bytes(),
        }
    }

    fn now(&self) -> Time {
        Time {
            sec: self.time_ns.div_euclid(1_000_000_000),
            nsec: u32::try_from(self.time_ns.rem_euclid(1_000_000_000)).unwrap_or(0),
        }
    }

    /// The root changes now.
    fn now_in_root(&mut self) -> DirTimes {
        self.end.root = self.now();
        DirTimes {
            mtime: self.now(),
            ctime: self.now(),
        }
    }

    /// The directory of a file changes now.
    fn now_in(&mut self, file: u64) -> DirTimes {
        self.end.directories[self.shape.directory(file) as usize] = self.now();
        DirTimes {
            mtime: self.now(),
            ctime: self.now(),
        }
    }

    fn times(&self) -> Attributes {
        Attributes {
            mtime: Some(self.now()),
            ctime: Some(self.now()),
            ..Attributes::default()
        }
    }

    fn attributes(&self, mode: u32) -> Attributes {
        Attributes {
            mode: Some(mode),
            uid: Some(self.end.owner.0),
            gid: Some(self.end.owner.1),
            file_flags: Some(0),
            project: Some(0),
            ..self.times()
        }
    }
}
