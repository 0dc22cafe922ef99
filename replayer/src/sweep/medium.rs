//! The small medium that the sweep lets rot, and how a medium for a test is made.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use journal::record::{Actor, Attributes, DirTimes, Entry, InodeKey, Op, Record, SnapshotScope, Time};
use journal::store::DirStore;
use journal::{Label, VolumeInfo, Writer};

/// The volume on the medium.
pub(crate) const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";
/// The last number on it.
pub(crate) const LAST_SEQ: u64 = 14;

pub(crate) fn key(ino: u64) -> InodeKey {
    InodeKey { ino, generation: 1 }
}

pub(crate) fn record(seq: u64, ino: u64, mode: Option<u32>, op: Op) -> Record {
    let time = Some(Time {
        sec: 1_700_000_000,
        nsec: 5,
    });
    let attributes = Attributes {
        mode,
        uid: mode.map(|_| 0),
        gid: mode.map(|_| 0),
        mtime: mode.and(time),
        ..Attributes::default()
    };
    Record {
        seq,
        last_seq: seq,
        time_ns: 1_790_000_000_000_000_000 + i64::try_from(seq).expect("small"),
        inode: key(ino),
        attributes,
        from_snapshot: false,
        actor: Actor::default(),
        op,
    }
}

pub(crate) fn create(seq: u64, ino: u64, mode: u32, parent: u64, name: &str) -> Record {
    let entry = Entry {
        parent: key(parent),
        name: name.into(),
    };
    let op = Op::Create {
        entry,
        dir: DirTimes::default(),
        link_target: None,
    };
    record(seq, ino, Some(mode), op)
}

pub(crate) fn write(seq: u64, ino: u64, offset: u64, data: &[u8]) -> Record {
    let op = Op::Write {
        offset,
        data: data.to_vec(),
        length: data.len() as u64,
    };
    record(seq, ino, None, op)
}

pub(crate) fn mark(seq: u64, name: &str) -> Record {
    let op = Op::Mark {
        name: name.to_owned(),
    };
    Record {
        inode: InodeKey::default(),
        ..record(seq, 0, None, op)
    }
}

/// The base of an empty volume: numbers 1 to 4.
pub(crate) fn base() -> Vec<Record> {
    let whole = Op::Snapshot {
        link_target: None,
        scope: SnapshotScope::Whole,
    };
    vec![
        record(1, 1, None, Op::BaseBegin { continues: None }),
        record(2, 1, Some(0o040_755), whole),
        record(3, 1, None, Op::SnapshotEnd { begin_seq: 2 }),
        record(4, 1, None, Op::BaseEnd { begin_seq: 1 }),
    ]
}

/// Three segments: a base, two files, and a last word.
fn story() -> Vec<Vec<Record>> {
    let mut first = base();
    first.extend([
        create(5, 2, 0o040_755, 1, "d"),
        create(6, 3, 0o100_644, 2, "f"),
        write(7, 3, 0, b"one, long"),
    ]);
    vec![
        first,
        vec![
            create(8, 4, 0o100_600, 1, "g"),
            write(9, 4, 4096, &[7; 5000]),
            mark(10, "first"),
        ],
        vec![
            write(11, 3, 0, b"TWO"),
            create(12, 5, 0o100_644, 2, "h"),
            write(13, 5, 0, b"three"),
            mark(LAST_SEQ, "second"),
        ],
    ]
}

/// Puts the story on a new medium.
pub(super) fn make(path: &Path) {
    make_of(path, &story());
}

/// Puts segments of records on a new medium.
pub(crate) fn make_of(path: &Path, segments: &[Vec<Record>]) {
    fs::create_dir(path).expect("make");
    let store = Arc::new(DirStore::open(path).expect("open"));
    Label::ensure(&*store, &[b'#'; 300], 1).expect("label");
    let volume = VolumeInfo {
        uuid: UUID.to_owned(),
        fs_type: "ext4".to_owned(),
        root: key(1),
        mount_path: "/srv".to_owned(),
        hostname: "host".to_owned(),
        ..VolumeInfo::default()
    };
    let mut writer = Writer::open(store, volume).expect("open");
    for segment in segments {
        for record in segment {
            writer.push(record).expect("push");
        }
        writer.seal().expect("seal");
    }
}
