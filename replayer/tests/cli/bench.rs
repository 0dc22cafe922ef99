//! A medium with a journal on it, made record by record, and the binary to run against it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use journal::record::{Actor, Attributes, DirTimes, Entry, InodeKey, Op, Record, SnapshotScope, Time};
use journal::store::DirStore;
use journal::{Label, VolumeInfo, Writer};
use serde_json::Value;

pub(crate) const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

pub(crate) fn key(ino: u64) -> InodeKey {
    InodeKey { ino, generation: 1 }
}

pub(crate) fn attributes(mode: u32) -> Attributes {
    let time = Some(Time {
        sec: 1_700_000_000,
        nsec: 5,
    });
    Attributes {
        mode: Some(mode),
        uid: Some(0),
        gid: Some(0),
        mtime: time,
        ctime: time,
        ..Attributes::default()
    }
}

pub(crate) fn record(seq: u64, inode: InodeKey, attributes: Attributes, op: Op) -> Record {
    let time_ns = 1_790_000_000_000_000_000 + i64::try_from(seq).expect("small") * 1_000_000_000;
    Record {
        seq,
        last_seq: seq,
        time_ns,
        inode,
        attributes,
        from_snapshot: false,
        actor: Actor::default(),
        op,
    }
}

pub(crate) fn entry(parent: u64, name: &[u8]) -> Entry {
    Entry {
        parent: key(parent),
        name: name.to_vec(),
    }
}

pub(crate) fn dir() -> DirTimes {
    let time = Time {
        sec: 1_700_000_001,
        nsec: 6,
    };
    DirTimes {
        mtime: time,
        ctime: time,
    }
}

pub(crate) fn create(seq: u64, ino: u64, mode: u32, parent: u64, name: &[u8]) -> Record {
    let op = Op::Create {
        entry: entry(parent, name),
        dir: dir(),
        link_target: None,
    };
    record(seq, key(ino), attributes(mode), op)
}

pub(crate) fn rename(seq: u64, ino: u64, from: (u64, &[u8]), to: (u64, &[u8])) -> Record {
    let op = Op::Rename {
        from: entry(from.0, from.1),
        from_dir: dir(),
        to: entry(to.0, to.1),
        to_dir: dir(),
        victim: None,
    };
    record(seq, key(ino), Attributes::default(), op)
}

pub(crate) fn write(seq: u64, ino: u64, offset: u64, data: &[u8]) -> Record {
    let op = Op::Write {
        offset,
        data: data.to_vec(),
        length: data.len() as u64,
    };
    record(seq, key(ino), Attributes::default(), op)
}

pub(crate) fn mark(seq: u64, name: &str) -> Record {
    record(
        seq,
        InodeKey::default(),
        Attributes::default(),
        Op::Mark {
            name: name.to_owned(),
        },
    )
}

pub(crate) const DIR: u32 = 0o040_755;
pub(crate) const FILE: u32 = 0o100_644;

/// An empty root, complete at seq 4.
pub(crate) fn base() -> Vec<Record> {
    let none = Attributes::default;
    let whole = Op::Snapshot {
        link_target: None,
        scope: SnapshotScope::Whole,
    };
    vec![
        record(1, key(1), none(), Op::BaseBegin { continues: None }),
        record(2, key(1), attributes(DIR), whole),
        record(3, key(1), none(), Op::SnapshotEnd { begin_seq: 2 }),
        record(4, InodeKey::default(), none(), Op::BaseEnd { begin_seq: 1 }),
    ]
}

/// A temporary directory with a medium in it.
pub(crate) struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    /// Each list of records becomes a segment.
    pub(crate) fn new(segments: &[Vec<Record>]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let bench = Self { directory };
        std::fs::create_dir(bench.path("to")).expect("make");
        bench.add_medium("medium", 0, segments);
        bench
    }

    /// A new medium with its own chain of the volume, recorded so much later.
    pub(crate) fn add_medium(&self, name: &str, later_ns: i64, segments: &[Vec<Record>]) {
        std::fs::create_dir(self.path(name)).expect("make");
        self.add_volume(name, UUID, later_ns, segments);
    }

    /// A volume on a medium.
    pub(crate) fn add_volume(&self, medium: &str, uuid: &str, later_ns: i64, segments: &[Vec<Record>]) {
        let store = Arc::new(DirStore::open(&self.path(medium)).expect("open"));
        Label::ensure(&*store, b"#!/bin/sh\n", 1).expect("label");
        let volume = VolumeInfo {
            uuid: uuid.to_owned(),
            fs_type: "ext4".to_owned(),
            root: key(1),
            ..VolumeInfo::default()
        };
        let mut writer = Writer::open(store, volume).expect("open");
        for segment in segments {
            for record in segment {
                let mut record = record.clone();
                record.time_ns += later_ns;
                writer.push(&record).expect("push");
            }
            writer.seal().expect("seal");
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn segment(&self, index: u64, suffix: &str) -> PathBuf {
        self.path("medium")
            .join(UUID)
            .join(format!("{index:010}.{suffix}"))
    }

    pub(crate) fn run(&self, args: &[impl AsRef<std::ffi::OsStr>]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_replayer"))
            .current_dir(self.directory.path())
            .args(args)
            .output()
            .expect("run")
    }

    pub(crate) fn restore(&self, more: &[&str]) -> Output {
        self.run(&[&["restore", "--json", "--medium", "medium", "--to", "to"], more].concat())
    }

    pub(crate) fn is_untouched(&self) -> bool {
        std::fs::read_dir(self.path("to"))
            .expect("there")
            .next()
            .is_none()
    }
}

pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// Runs a restore that must fail with a code, say so in JSON, and touch nothing.
pub(crate) fn refused(bench: &Bench, more: &[&str], code: i32, words: &str) {
    let output = bench.restore(more);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(json(&output)["error"]["code"], code);
    assert!(stderr.contains(words), "{stderr} does not say {words:?}");
    assert!(bench.is_untouched(), "something was written");
}

/// Two segments: a file of two versions and a mark between them.
pub(crate) fn story() -> Vec<Vec<Record>> {
    let mut first = base();
    first.extend([
        create(5, 2, DIR, 1, b"d\xff\n"),
        create(6, 3, FILE, 2, b"f"),
        write(7, 3, 0, b"one, long"),
        write(8, 3, 100_000, b"far"),
        mark(9, "first"),
    ]);
    let truncated = Attributes {
        size: Some(3),
        ..Attributes::default()
    };
    let second = vec![
        record(10, key(3), truncated, Op::SetAttr),
        write(11, 3, 0, b"TWO"),
        record(
            12,
            key(3),
            Attributes::default(),
            Op::Link {
                entry: entry(1, b"again"),
                dir: dir(),
            },
        ),
        mark(13, "second"),
    ];
    vec![first, second]
}

pub(crate) fn file(to: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    to.join(std::ffi::OsStr::from_bytes(b"d\xff\n")).join("f")
}

/// The story, then a hole that is never repaired, and a mark after it.
pub(crate) fn story_with_a_hole() -> Vec<Vec<Record>> {
    let mut segments = story();
    let hole = Op::Hole {
        last_seq: 16,
        inode: Some(key(3)),
        since_seq: None,
    };
    segments.push(vec![
        Record {
            last_seq: 16,
            ..record(14, InodeKey::default(), Attributes::default(), hole)
        },
        mark(17, "after"),
    ]);
    segments
}
