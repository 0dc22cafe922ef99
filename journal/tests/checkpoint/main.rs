//! Checkpoints: whatever moment is asked for, and however many were made, the tree is the same; and one that is not whole does not count.

#![expect(clippy::unwrap_used, reason = "a test may end where its preparations fail")]

mod retention;

use std::collections::BTreeMap;
use std::sync::Arc;

use journal::fold::State;
use journal::record::{Actor, Attributes, DirTimes, Entry, InodeKey, Op, Record, SnapshotScope, Time};
use journal::store::Store;
use journal::store::memory::MemoryStore;
use journal::{At, Checkpoint, Journal, Label, Projection, Reader, RowRef, VolumeInfo, Writer};
use proptest::prelude::*;

const UUID: &str = "6f0cb0f4-0001-4000-8000-000000000003";
const ROOT: u64 = 2;

fn volume() -> VolumeInfo {
    VolumeInfo {
        uuid: UUID.to_owned(),
        fs_type: "ext4".to_owned(),
        block_size: 4096,
        ..VolumeInfo::default()
    }
}

fn key(ino: u64) -> InodeKey {
    InodeKey { ino, generation: 1 }
}

fn record(seq: u64, ino: u64, op: Op) -> Record {
    Record {
        seq,
        last_seq: seq,
        time_ns: i64::try_from(seq).unwrap() * 1000,
        inode: key(ino),
        attributes: Attributes::default(),
        from_snapshot: false,
        actor: Actor::default(),
        op,
    }
}

/// A step of a history, on one of a few inodes.
#[derive(Clone, Debug)]
enum Step {
    Create(u64),
    Write(u64, u64, Vec<u8>),
    Unlink(u64),
    Truncate(u64, u64),
    Clone(u64, u64),
    Xattr(u64, u8),
    Mode(u64, u32),
    Punch(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let ino = 10..16_u64;
    prop_oneof![
        ino.clone().prop_map(Step::Create),
        (
            ino.clone(),
            0..300_u64,
            proptest::collection::vec(any::<u8>(), 1..200)
        )
            .prop_map(|(ino, offset, data)| Step::Write(ino, offset, data)),
        ino.clone().prop_map(Step::Unlink),
        (ino.clone(), 0..400_u64).prop_map(|(ino, size)| Step::Truncate(ino, size)),
        (ino.clone(), ino.clone()).prop_map(|(ino, from)| Step::Clone(ino, from)),
        (ino.clone(), any::<u8>()).prop_map(|(ino, value)| Step::Xattr(ino, value)),
        (ino.clone(), 0..0o777_u32).prop_map(|(ino, mode)| Step::Mode(ino, mode)),
        (ino, 0..300_u64).prop_map(|(ino, offset)| Step::Punch(ino, offset)),
    ]
}

fn to_record(seq: u64, step: &Step) -> Record {
    let entry = |ino: u64| Entry {
        parent: key(ROOT),
        name: format!("file-{ino}").into_bytes(),
    };
    let time = Time {
        sec: i64::try_from(seq).unwrap(),
        nsec: 5,
    };
    let dir = DirTimes {
        mtime: time,
        ctime: time,
    };
    match step {
        Step::Create(ino) => {
            let mut created = record(
                seq,
                *ino,
                Op::Create {
                    entry: entry(*ino),
                    dir,
                    link_target: None,
                },
            );
            created.attributes.mode = Some(0o100_644);
            created.attributes.mtime = Some(time);
            created
        }
        Step::Write(ino, offset, data) => record(
            seq,
            *ino,
            Op::Write {
                offset: *offset,
                length: data.len() as u64,
                data: data.clone(),
            },
        ),
        Step::Unlink(ino) => record(
            seq,
            *ino,
            Op::Unlink {
                entry: entry(*ino),
                dir,
            },
        ),
        Step::Truncate(ino, size) => {
            let mut cut = record(seq, *ino, Op::SetAttr);
            cut.attributes.size = Some(*size);
            cut
        }
        Step::Clone(ino, from) => record(
            seq,
            *ino,
            Op::Clone {
                source: key(*from),
                source_offset: 0,
                offset: 50,
                length: 100,
            },
        ),
        Step::Xattr(ino, value) => record(
            seq,
            *ino,
            Op::SetXattr {
                name: b"user.x".to_vec(),
                value: vec![*value],
            },
        ),
        Step::Mode(ino, mode) => {
            let mut chmod = record(seq, *ino, Op::SetAttr);
            chmod.attributes.mode = Some(0o100_000 | mode);
            chmod
        }
        Step::Punch(ino, offset) => record(
            seq,
            *ino,
            Op::Fallocate {
                mode: 0x03,
                offset: *offset,
                length: 60,
            },
        ),
    }
}

/// A base of an empty root.
fn base() -> Vec<Record> {
    let mut root = record(
        2,
        ROOT,
        Op::Snapshot {
            scope: SnapshotScope::Whole,
            link_target: None,
        },
    );
    root.attributes.mode = Some(0o040_755);
    vec![
        record(1, ROOT, Op::BaseBegin { continues: None }),
        root,
        record(3, ROOT, Op::SnapshotEnd { begin_seq: 2 }),
        record(4, ROOT, Op::BaseEnd { begin_seq: 1 }),
    ]
}

/// A state without the places of its data, and with that itself.
type Content = BTreeMap<InodeKey, (String, Vec<u8>)>;

fn content(journal: &Journal, at: &At) -> (u64, Content) {
    let point = journal.resolve(at).unwrap();
    let mut state = State::new();
    let mut data: BTreeMap<RowRef, Vec<u8>> = BTreeMap::new();
    for span in point.spans() {
        for segment in journal.segments_of(&span).unwrap() {
            for item in segment.records(Projection::All).unwrap() {
                let (row, record) = item.unwrap();
                if record.seq >= span.base_seq && record.seq <= span.seq {
                    state.apply(row, &record);
                    if let Op::Write { data: bytes, .. } = record.op {
                        data.insert(row, bytes);
                    }
                }
            }
        }
    }
    let content = state
        .inodes()
        .map(|(key, inode)| {
            let mut bytes = vec![0; usize::try_from(inode.size).unwrap()];
            for extent in inode.extents.iter() {
                let from = usize::try_from(extent.source.offset).unwrap();
                let to = usize::try_from(extent.offset).unwrap();
                let length = usize::try_from(extent.length).unwrap();
                bytes[to..to + length].copy_from_slice(&data[&extent.source.row][from..from + length]);
            }
            let mut attributes = inode.attributes.clone();
            attributes.size = None;
            let rest = format!(
                "{attributes:?} {:?} {:?} {:?}",
                inode.entries, inode.xattrs, inode.link_target
            );
            (*key, (rest, bytes))
        })
        .collect();
    (point.seq, content)
}

fn open(store: &MemoryStore) -> Reader {
    Reader::open(vec![Arc::new(store.clone())]).unwrap()
}

/// Makes a checkpoint of the end, in segments of so many records.
fn checkpoint(store: &MemoryStore, writer: &mut Writer, records_max: usize) {
    let reader = open(store);
    let journal = reader.journal(None).unwrap();
    let point = journal.resolve(&At::Latest).unwrap();
    let mut checkpoint = Checkpoint::new(journal, &point).unwrap();
    let of = checkpoint.of();
    let is_there = |complete: &journal::Complete| complete.epoch == point.epoch && complete.of == of;
    let were_there = journal
        .complete_checkpoints()
        .iter()
        .filter(|other| is_there(other))
        .count();
    let mut records = Vec::new();
    checkpoint
        .write(|record| {
            records.push(record);
            journal::Result::Ok(())
        })
        .unwrap();
    for some in records.chunks(records_max) {
        writer.seal_checkpoint(of, some).unwrap().unwrap();
    }
    let written = open(store);
    let written = written.journal(None).unwrap();
    let now_there = written.complete_checkpoints();
    assert_eq!(
        now_there.iter().filter(|other| is_there(other)).count(),
        were_there,
        "it has no end yet, and one that was whole still is"
    );
    let span = written.begun_checkpoint(point.epoch, of.seq).unwrap();
    let end = checkpoint.verify(written, &span).unwrap();
    writer.seal_checkpoint(of, &[end]).unwrap().unwrap();
}

/// Writes a history with checkpoints after some of its steps.
fn history(steps: &[Step], every: Option<usize>, records_max: usize) -> MemoryStore {
    let store = MemoryStore::new();
    Label::ensure(&store, b"program", 0).unwrap();
    let mut writer = Writer::open(Arc::new(store.clone()), volume()).unwrap();
    base().iter().for_each(|record| writer.push(record).unwrap());
    writer.seal().unwrap();
    for (at, step) in steps.iter().enumerate() {
        writer.push(&to_record(5 + at as u64, step)).unwrap();
        if at % 3 == 2 {
            writer.seal().unwrap();
        }
        if every.is_some_and(|every| at % every == every - 1) {
            writer.seal().unwrap();
            checkpoint(&store, &mut writer, records_max);
        }
    }
    writer.seal().unwrap();
    store
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_moment_is_the_same_with_checkpoints_and_without(
        steps in proptest::collection::vec(step(), 1..40),
        every in 1..9_usize,
        records_max in 1..12_usize,
    ) {
        let plain = history(&steps, None, 1);
        let with = history(&steps, Some(every), records_max);
        let (plain, with) = (open(&plain), open(&with));
        prop_assert_eq!(with.verify_media().unwrap(), Vec::<String>::new());
        let (plain, with) = (plain.journal(None).unwrap(), with.journal(None).unwrap());
        prop_assert_eq!(with.verify(|_| ()).unwrap().problems, Vec::<String>::new());
        prop_assert_eq!(with.complete_checkpoints().len(), steps.len() / every);
        for seq in 4..5 + steps.len() as u64 {
            prop_assert_eq!(content(plain, &At::Seq(seq)), content(with, &At::Seq(seq)));
        }
    }
}

fn some_steps() -> Vec<Step> {
    vec![
        Step::Create(10),
        Step::Write(10, 0, b"first".to_vec()),
        Step::Create(11),
        Step::Write(10, 2, b"second".to_vec()),
        Step::Xattr(11, 1),
        Step::Write(11, 7, b"third".to_vec()),
    ]
}

#[test]
fn what_was_before_a_checkpoint_is_not_read() {
    let store = history(&some_steps(), Some(6), 3);
    let journal = open(&store);
    let journal = journal.journal(None).unwrap();
    let [complete] = journal.complete_checkpoints().try_into().unwrap();
    let spans = journal.resolve(&At::Latest).unwrap().spans();
    assert_eq!(spans[0], complete.span());
    // Everything before it is taken away, as media are that are used again.
    let kept = MemoryStore::new();
    for object in store.list().unwrap() {
        let index = object
            .name
            .split_once('/')
            .and_then(|(_, file)| file.get(..10)?.parse::<u64>().ok());
        if index.is_some_and(|index| index < complete.segments.0) {
            continue;
        }
        copy(&store, &kept, &object.name, |_| ());
    }
    let after = open(&kept);
    let after = after.journal(None).unwrap();
    assert_eq!(content(after, &At::Latest), content(journal, &At::Latest));
}

#[test]
fn one_without_its_end_or_with_a_gap_does_not_count() {
    let store = history(&some_steps(), Some(6), 3);
    let reader = open(&store);
    let journal = reader.journal(None).unwrap();
    let [complete] = journal.complete_checkpoints().try_into().unwrap();
    let latest = content(journal, &At::Latest);
    for missing in complete.segments.0..=complete.segments.1 {
        let kept = MemoryStore::new();
        for object in store.list().unwrap() {
            if !object.name.contains(&format!("/{missing:010}.")) {
                copy(&store, &kept, &object.name, |_| ());
            }
        }
        let reader = open(&kept);
        let journal = reader.journal(None).unwrap();
        assert_eq!(journal.complete_checkpoints(), [], "without segment {missing}");
        assert_eq!(content(journal, &At::Latest), latest);
    }
}

#[test]
fn what_is_read_back_is_compared() {
    let store = history(&some_steps(), None, 3);
    let mut writer = Writer::open(Arc::new(store.clone()), volume()).unwrap();
    let reader = open(&store);
    let journal = reader.journal(None).unwrap();
    let point = journal.resolve(&At::Latest).unwrap();
    let mut sound = Checkpoint::new(journal, &point).unwrap();
    let mut records = Vec::new();
    sound
        .write(|record| {
            records.push(record);
            journal::Result::Ok(())
        })
        .unwrap();
    let at = records
        .iter()
        .position(|record| matches!(record.op, Op::Write { .. }))
        .unwrap();
    if let Op::Write { data, .. } = &mut records[at].op {
        data[0] ^= 1;
    }
    writer.seal_checkpoint(sound.of(), &records).unwrap();
    let written = open(&store);
    let written = written.journal(None).unwrap();
    // A writer that opens the medium begins an epoch: the segments bear its number.
    let span = written.begun_checkpoint(writer.epoch(), point.seq).unwrap();
    let error = sound.verify(written, &span).unwrap_err();
    assert!(matches!(error, journal::Error::Integrity(_)), "{error}");
}

fn copy(from: &MemoryStore, to: &MemoryStore, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let object = from.open(name).unwrap();
    let mut bytes = vec![0; usize::try_from(object.bytes()).unwrap()];
    object.read_exact_at(&mut bytes, 0).unwrap();
    change(&mut bytes);
    let mut written = to.create(name, journal::store::ObjectKind::Plain).unwrap();
    written.write_all(&bytes).unwrap();
    written.seal().unwrap();
}
