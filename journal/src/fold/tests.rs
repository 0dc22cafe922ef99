//! The fold against a model that keeps bytes, and a snapshot taken in the middle against none.

use proptest::prelude::*;

use super::*;
use crate::record::{Actor, Time};

const FILES: u64 = 3;
const SPACE: u64 = 200;

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u64),
    Truncate(u64, u64),
    Punch(u64, u64, u64),
    Allocate(u64, u64, u64, bool),
    Collapse(u64, u64, u64),
    Insert(u64, u64, u64),
    Clone(u64, u64, u64, u64, u64),
}

fn key(ino: u64) -> InodeKey {
    InodeKey { ino, generation: 1 }
}

fn record(seq: u64, ino: u64, op: Op) -> Record {
    Record {
        seq,
        last_seq: seq,
        time_ns: 0,
        inode: key(ino),
        attributes: Attributes::default(),
        from_snapshot: false,
        actor: Actor::default(),
        op,
    }
}

fn row(seq: u64) -> RowRef {
    RowRef {
        segment: 1,
        row: u32::try_from(seq).unwrap(),
    }
}

/// The byte that record `seq` has at `offset` of its data.
fn byte(seq: u64, offset: u64) -> u8 {
    u8::try_from((seq * 31 + offset * 7) % 255 + 1).unwrap()
}

fn read(state: &State, ino: u64) -> Vec<u8> {
    let Some(inode) = state.inode(key(ino)) else {
        return Vec::new();
    };
    let mut content = vec![0; usize::try_from(inode.size).unwrap()];
    for extent in inode.extents.iter() {
        for i in 0..u64::from(extent.length) {
            content[usize::try_from(extent.offset + i).unwrap()] =
                byte(extent.source.row.row.into(), u64::from(extent.source.offset) + i);
        }
    }
    content
}

fn to_record(seq: u64, step: &Step) -> Record {
    match *step {
        Step::Write(ino, offset, length) => record(
            seq,
            ino,
            Op::Write {
                offset,
                length,
                data: Vec::new(),
            },
        ),
        Step::Truncate(ino, size) => {
            let mut record = record(seq, ino, Op::SetAttr);
            record.attributes.size = Some(size);
            record
        }
        Step::Punch(ino, offset, length) => record(
            seq,
            ino,
            Op::Fallocate {
                mode: 0x03,
                offset,
                length,
            },
        ),
        Step::Allocate(ino, offset, length, keep) => record(
            seq,
            ino,
            Op::Fallocate {
                mode: u32::from(keep),
                offset,
                length,
            },
        ),
        Step::Collapse(ino, offset, length) => record(
            seq,
            ino,
            Op::Fallocate {
                mode: 0x08,
                offset,
                length,
            },
        ),
        Step::Insert(ino, offset, length) => record(
            seq,
            ino,
            Op::Fallocate {
                mode: 0x20,
                offset,
                length,
            },
        ),
        Step::Clone(ino, source, source_offset, offset, length) => record(
            seq,
            ino,
            Op::Clone {
                source: key(source),
                source_offset,
                offset,
                length,
            },
        ),
    }
}

/// The same on plain bytes.
fn to_bytes(files: &mut [Vec<u8>], seq: u64, step: &Step) {
    let at = |n: u64| usize::try_from(n).unwrap();
    let grow = |file: &mut Vec<u8>, size: u64| file.resize(file.len().max(at(size)), 0);
    match *step {
        Step::Write(ino, offset, length) => {
            let file = &mut files[at(ino)];
            grow(file, offset + length);
            for i in 0..length {
                file[at(offset + i)] = byte(seq, i);
            }
        }
        Step::Truncate(ino, size) => files[at(ino)].resize(at(size), 0),
        Step::Punch(ino, offset, length) => {
            let file = &mut files[at(ino)];
            let end = at(offset + length).min(file.len());
            let start = at(offset).min(end);
            file[start..end].fill(0);
        }
        Step::Allocate(ino, offset, length, keep) => {
            if !keep {
                grow(&mut files[at(ino)], offset + length);
            }
        }
        Step::Collapse(ino, offset, length) => {
            files[at(ino)].drain(at(offset)..at(offset + length));
        }
        Step::Insert(ino, offset, length) => {
            let tail = files[at(ino)].split_off(at(offset));
            grow(&mut files[at(ino)], offset + length);
            files[at(ino)].extend(tail);
        }
        Step::Clone(ino, source, source_offset, offset, length) => {
            let copy = files[at(source)][at(source_offset)..at(source_offset + length)].to_vec();
            grow(&mut files[at(ino)], offset + length);
            files[at(ino)][at(offset)..at(offset + length)].copy_from_slice(&copy);
        }
    }
}

/// Whether the kernel would do it: collapse ends inside the file, insert begins in it, a clone's source is there.
fn possible(files: &[Vec<u8>], step: &Step) -> bool {
    let size = |ino: u64| files[usize::try_from(ino).unwrap()].len() as u64;
    match *step {
        Step::Collapse(ino, offset, length) => offset + length < size(ino),
        Step::Insert(ino, offset, length) => offset < size(ino) && size(ino) + length < 20 * SPACE,
        Step::Clone(_, source, source_offset, _, length) => source_offset + length <= size(source),
        _ => true,
    }
}

fn idempotent(step: &Step) -> bool {
    !matches!(step, Step::Collapse(..) | Step::Insert(..) | Step::Clone(..))
}

fn step() -> impl Strategy<Value = Step> {
    let (f, o, l) = (0..FILES, 0..SPACE, 1..SPACE / 2);
    prop_oneof![
        4 => (f.clone(), o.clone(), l.clone()).prop_map(|(f, o, l)| Step::Write(f, o, l)),
        2 => (f.clone(), o.clone()).prop_map(|(f, s)| Step::Truncate(f, s)),
        1 => (f.clone(), o.clone(), l.clone()).prop_map(|(f, o, l)| Step::Punch(f, o, l)),
        1 => (f.clone(), o.clone(), l.clone(), any::<bool>()).prop_map(|(f, o, l, k)| Step::Allocate(f, o, l, k)),
        1 => (f.clone(), o.clone(), l.clone()).prop_map(|(f, o, l)| Step::Collapse(f, o, l)),
        1 => (f.clone(), o.clone(), l.clone()).prop_map(|(f, o, l)| Step::Insert(f, o, l)),
        2 => (f.clone(), f, o.clone(), o, l).prop_map(|(f, s, so, o, l)| Step::Clone(f, s, so, o, l)),
    ]
}

proptest! {
    #[test]
    fn fold_equals_bytes(steps in prop::collection::vec(step(), 1..60)) {
        let mut files = vec![Vec::new(); usize::try_from(FILES).unwrap()];
        let mut state = State::new();
        for (seq, step) in (1..).zip(&steps) {
            if possible(&files, step) {
                to_bytes(&mut files, seq, step);
                state.apply(row(seq), &to_record(seq, step));
            }
        }
        for ino in 0..FILES {
            prop_assert_eq!(&read(&state, ino), &files[usize::try_from(ino).unwrap()]);
        }
    }

    /// A snapshot's number is taken first, its content is read later; what ran in between is applied over it.
    #[test]
    fn a_late_snapshot_changes_nothing(
        steps in prop::collection::vec(step().prop_filter("idempotent", idempotent), 1..40),
        from in 0usize..40,
        late in 0usize..10,
    ) {
        let plain = |upto: usize| {
            let mut files = vec![Vec::new(); usize::try_from(FILES).unwrap()];
            for (seq, step) in (1u64..).zip(&steps[..upto]) {
                to_bytes(&mut files, seq, step);
            }
            files
        };
        let from = from.min(steps.len());
        let seen = plain((from + late).min(steps.len()));
        // Content of the snapshot stands in the model under numbers of its own, so that `byte` cannot make it: compare by extents.
        let mut with = State::new();
        for (seq, step) in (1u64..).zip(&steps[..from]) {
            with.apply(row(seq), &to_record(seq, step));
        }
        for ino in 0..FILES {
            let content = &seen[usize::try_from(ino).unwrap()];
            let mut snapshot = record(0, ino, Op::Snapshot { link_target: None, scope: SnapshotScope::Whole });
            snapshot.attributes.size = Some(content.len() as u64);
            with.apply(row(0), &snapshot);
            let length = content.len() as u64;
            if length > 0 {
                with.apply(row(1_000_000 + ino), &record(0, ino, Op::Write { offset: 0, length, data: Vec::new() }));
            }
        }
        for (seq, step) in (1u64..).zip(&steps).skip(from) {
            with.apply(row(seq), &to_record(seq, step));
        }
        for ino in 0..FILES {
            let Some(inode) = with.inode(key(ino)) else { continue };
            let mut content = vec![0; usize::try_from(inode.size).unwrap()];
            for extent in inode.extents.iter() {
                for i in 0..u64::from(extent.length) {
                    let at = usize::try_from(u64::from(extent.source.offset) + i).unwrap();
                    content[usize::try_from(extent.offset + i).unwrap()] = if extent.source.row.row >= 1_000_000 {
                        seen[usize::try_from(ino).unwrap()][at]
                    } else {
                        byte(extent.source.row.row.into(), u64::from(extent.source.offset) + i)
                    };
                }
            }
            prop_assert_eq!(&content, &plain(steps.len())[usize::try_from(ino).unwrap()]);
        }
    }
}

fn entry(parent: u64, name: &str) -> Entry {
    Entry {
        parent: key(parent),
        name: name.as_bytes().to_vec(),
    }
}

fn dir(sec: i64) -> DirTimes {
    DirTimes {
        mtime: Time { sec, nsec: 0 },
        ctime: Time { sec, nsec: 0 },
    }
}

#[test]
fn names_are_absolute() {
    let ops = [
        record(1, 1, Op::BaseBegin { continues: None }),
        record(
            2,
            10,
            Op::Create {
                entry: entry(1, "a"),
                dir: dir(1),
                link_target: None,
            },
        ),
        record(
            3,
            11,
            Op::Create {
                entry: entry(1, "b"),
                dir: dir(2),
                link_target: None,
            },
        ),
        record(
            4,
            10,
            Op::Rename {
                from: entry(1, "a"),
                from_dir: dir(3),
                to: entry(1, "b"),
                to_dir: dir(3),
                victim: Some(key(11)),
            },
        ),
        record(
            5,
            12,
            Op::Create {
                entry: entry(1, "a"),
                dir: dir(4),
                link_target: None,
            },
        ),
        record(
            6,
            12,
            Op::Exchange {
                from: entry(1, "a"),
                from_dir: dir(5),
                to: entry(1, "b"),
                to_dir: dir(5),
                other: key(10),
            },
        ),
    ];
    let mut state = State::new();
    for op in &ops {
        state.apply(row(op.seq), op);
    }
    let names = |state: &State| state.inode(key(1)).unwrap().entries.clone();
    let expected = BTreeMap::from([(b"a".to_vec(), key(10)), (b"b".to_vec(), key(12))]);
    assert_eq!(names(&state), expected);
    for op in &ops[3..] {
        state.apply(row(op.seq), op);
    }
    assert_eq!(names(&state), expected, "applied twice");
    state.apply(
        row(7),
        &record(
            7,
            99,
            Op::Unlink {
                entry: entry(1, "a"),
                dir: dir(6),
            },
        ),
    );
    assert_eq!(names(&state), expected, "a name that leads elsewhere stays");
    state.apply(
        row(8),
        &record(
            8,
            10,
            Op::Unlink {
                entry: entry(1, "a"),
                dir: dir(7),
            },
        ),
    );
    assert_eq!(names(&state), BTreeMap::from([(b"b".to_vec(), key(12))]));
    assert_eq!(
        state.inode(key(1)).unwrap().attributes.mtime,
        Some(Time { sec: 7, nsec: 0 })
    );
}
