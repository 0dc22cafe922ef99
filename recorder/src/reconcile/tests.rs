//! What is in doubt, what differs, and when a journal cannot be gone on with.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use journal::record::{Attributes, DirTimes, Entry, InodeKey, Op, Record, SnapshotScope, Time};
use journal::store::memory::MemoryStore;
use journal::{Head, Identities, Label, VolumeInfo, Writer};
use proptest::prelude::*;

use super::{Dead, Known, Live, Touched};
use crate::snapshot::own_record;

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";
const ROOT: u64 = 2;

fn key(ino: u64) -> InodeKey {
    InodeKey { ino, generation: 1 }
}

fn time(sec: i64) -> Time {
    Time { sec, nsec: 5 }
}

/// A record of what somebody did.
fn done(seq: u64, ino: u64, op: Op) -> Record {
    own_record(seq, key(ino), false, op)
}

/// A record of the volume as a whole.
fn volume(seq: u64, op: Op) -> Record {
    own_record(seq, InodeKey::default(), false, op)
}

fn stated(mode: u32, ctime: i64) -> Attributes {
    Attributes {
        mode: Some(mode),
        uid: Some(1),
        gid: Some(2),
        size: (mode & 0o170_000 == 0o100_000).then_some(7),
        mtime: Some(time(3)),
        ctime: Some(time(ctime)),
        file_flags: Some(0x10),
        project: Some(0),
        ..Attributes::default()
    }
}

/// A base: the root, a directory 3 in it, in that the files 4, 5 and 6.
fn base() -> Vec<Record> {
    let mut records = vec![own_record(1, key(ROOT), true, Op::BaseBegin { continues: None })];
    for (ino, mode) in [
        (ROOT, 0o040_755),
        (3, 0o040_700),
        (4, 0o100_644),
        (5, 0o100_644),
        (6, 0o100_644),
    ] {
        let begin_seq = records.len() as u64 + 1;
        let scope = SnapshotScope::Whole;
        let op = Op::Snapshot {
            link_target: None,
            scope,
        };
        let mut record = own_record(begin_seq, key(ino), true, op);
        record.attributes = stated(mode, 10);
        records.push(record);
        for (parent, child) in [(ROOT, 3), (3, 4), (3, 5), (3, 6)] {
            if parent == ino {
                let entry = Entry {
                    parent: key(parent),
                    name: format!("n{child}").into_bytes(),
                };
                let seq = records.len() as u64 + 1;
                records.push(own_record(seq, key(child), true, Op::SnapshotEntry { entry }));
            }
        }
        let seq = records.len() as u64 + 1;
        records.push(own_record(seq, key(ino), true, Op::SnapshotEnd { begin_seq }));
    }
    let seq = records.len() as u64 + 1;
    records.push(own_record(seq, key(ROOT), true, Op::BaseEnd { begin_seq: 1 }));
    records
}

/// As the base has them.
fn live(ino: u64) -> Live {
    let names = |inos: &[u64]| {
        inos.iter()
            .map(|ino| (format!("n{ino}").into_bytes(), key(*ino)))
            .collect()
    };
    Live {
        attributes: stated(
            match ino {
                ROOT => 0o040_755,
                3 => 0o040_700,
                _ => 0o100_644,
            },
            10,
        ),
        link_target: None,
        xattrs: BTreeMap::new(),
        entries: match ino {
            ROOT => names(&[3]),
            3 => names(&[4, 5, 6]),
            _ => BTreeMap::new(),
        },
    }
}

fn sealed(store: &MemoryStore, records: &[Record]) -> Head {
    let info = VolumeInfo {
        uuid: UUID.to_owned(),
        root: key(ROOT),
        ..VolumeInfo::default()
    };
    let mut writer = Writer::open(Arc::new(store.clone()), info).unwrap();
    for (position, record) in records.iter().enumerate() {
        writer.push(record).unwrap();
        if position % 4 == 3 {
            writer.seal().unwrap();
        }
    }
    writer.seal().unwrap();
    Head::of(store, UUID).unwrap().unwrap()
}

fn medium() -> MemoryStore {
    let store = MemoryStore::new();
    Label::ensure(&store, b"", 0).unwrap();
    store
}

fn known_of(epochs: &[Vec<Record>]) -> anyhow::Result<Known> {
    let store = medium();
    let mut head = None;
    for records in epochs {
        head = Some(sealed(&store, records));
    }
    let dead = Dead {
        head: head.unwrap(),
        touched: Touched::default(),
        before: None,
    };
    Known::read((Arc::new(store), &Identities::default()), UUID, key(ROOT), dead)
}

fn with(mut records: Vec<Record>, more: impl IntoIterator<Item = Record>) -> Vec<Record> {
    records.extend(more);
    records
}

fn why(epochs: &[Vec<Record>]) -> String {
    match known_of(epochs) {
        Ok(_) => panic!("it can be gone on with"),
        Err(why) => format!("{why:#}"),
    }
}

#[test]
fn what_is_as_the_journal_says_is_left_alone() {
    let mut known = known_of(&[with(base(), [volume(50, Op::Barrier { up_to: Some(40) })])]).unwrap();
    let children = known.meet(key(ROOT), || Ok(live(ROOT))).unwrap();
    assert_eq!(
        children
            .iter()
            .map(|child| (child.key, child.is_leaf))
            .collect::<Vec<_>>(),
        [(key(3), false)]
    );
    let children = known.meet(key(3), || Ok(live(3))).unwrap();
    assert!(children.len() == 3 && children.iter().all(|child| child.is_leaf));
    assert!(known.meet(key(4), || Ok(live(4))).is_some());
    assert!(
        known
            .meet(key(5), || Err(io::Error::from_raw_os_error(5)))
            .is_none(),
        "what cannot be looked at is read"
    );
    assert!(known.meet(key(9), || panic!("new")).is_none());
    assert_eq!(known.unmet(), [key(6)]);
    known.is_gone(key(6));
    let found = known.found;
    assert_eq!(
        (found.looked_at, found.differed, found.in_doubt, found.gone),
        (5, 2, 0, 1)
    );
}

/// What it is, and how it comes about.
type Change = (&'static str, fn(&mut Live));

/// Everything that is seen from outside, one after the other.
#[test]
fn whatever_is_not_the_same_differs() {
    let changes: [Change; 12] = [
        ("mode", |live| live.attributes.mode = Some(0o100_600)),
        ("owner", |live| live.attributes.uid = Some(9)),
        ("group", |live| live.attributes.gid = Some(9)),
        ("size", |live| live.attributes.size = Some(6)),
        ("newer", |live| live.attributes.ctime = Some(time(11))),
        ("older", |live| live.attributes.ctime = Some(time(9))),
        ("nanoseconds", |live| {
            live.attributes.ctime = Some(Time { sec: 10, nsec: 4 });
        }),
        ("mtime", |live| live.attributes.mtime = Some(time(2))),
        ("immutable", |live| live.attributes.file_flags = Some(0x20)),
        ("project", |live| live.attributes.project = Some(1)),
        ("xattr", |live| {
            _ = live.xattrs.insert(b"user.a".to_vec(), Vec::new());
        }),
        ("target", |live| live.link_target = Some(b"x".to_vec())),
    ];
    for (what, change) in changes {
        let mut known = known_of(&[base()]).unwrap();
        let mut changed = live(4);
        change(&mut changed);
        assert!(known.meet(key(4), || Ok(changed)).is_none(), "{what}");
        assert_eq!(known.found.differed, 1, "{what}");
    }
    let mut known = known_of(&[base()]).unwrap();
    let mut other_name = live(3);
    other_name.entries.remove(&b"n4"[..]);
    assert!(known.meet(key(3), || Ok(other_name)).is_none(), "entries");
    // What the file system does by itself, or reading does, is no difference.
    let mut known = known_of(&[base()]).unwrap();
    let mut same = live(4);
    same.attributes.atime = Some(time(99));
    same.attributes.file_flags = Some(0x10 | 0x1000 | 0x8_0000);
    same.xattrs.insert(b"trusted.SGI_ACL_FILE".to_vec(), vec![1]);
    assert!(known.meet(key(4), || Ok(same)).is_some());
}

fn write(seq: u64, ino: u64) -> Record {
    let op = Op::Write {
        offset: 0,
        data: b"1234567".to_vec(),
        length: 7,
    };
    done(seq, ino, op)
}

#[test]
fn what_was_changed_after_the_last_barrier_is_read_again_whatever_it_looks_like() {
    let records = with(
        base(),
        [
            write(50, 4),
            volume(60, Op::Barrier { up_to: Some(50) }),
            write(70, 5),
            // It speaks of what was long before it.
            volume(80, Op::Barrier { up_to: Some(65) }),
            volume(90, Op::Barrier { up_to: None }),
        ],
    );
    let mut known = known_of(&[records]).unwrap();
    assert!(known.meet(key(4), || Ok(live(4))).is_some());
    assert!(known.meet(key(5), || Ok(live(5))).is_none());
    assert_eq!((known.found.differed, known.found.in_doubt), (0, 1));
    // The base itself changes nothing; before the first barrier everything else does.
    let mut known = known_of(&[with(base(), [write(50, 4)])]).unwrap();
    assert!(known.meet(key(4), || Ok(live(4))).is_none());
    assert!(known.meet(key(5), || Ok(live(5))).is_some());
}

/// It waits for the medium, or for the journal to be read: what is changed meanwhile is read by the base, and need not be on the disk yet.
#[test]
fn what_was_changed_before_its_base_began_is_in_doubt_too() {
    let mut late = base();
    for record in &mut late {
        record.seq += 100;
        record.last_seq += 100;
        match &mut record.op {
            Op::SnapshotEnd { begin_seq } | Op::BaseEnd { begin_seq } => *begin_seq += 100,
            _ => {}
        }
    }
    let early: Vec<Record> = (1..=9).map(|seq| write(seq, 4)).collect();
    let mut known = known_of(&[with(early, late)]).unwrap();
    assert!(known.meet(key(4), || Ok(live(4))).is_none());
    assert!(known.meet(key(5), || Ok(live(5))).is_some());
}

#[test]
fn a_snapshot_that_was_not_complete_is_taken_again() {
    let op = Op::Snapshot {
        link_target: None,
        scope: SnapshotScope::Whole,
    };
    let mut open = own_record(50, key(4), true, op);
    open.attributes = stated(0o100_644, 10);
    let barrier = volume(60, Op::Barrier { up_to: Some(55) });
    let mut known = known_of(&[with(base(), [open, barrier])]).unwrap();
    assert!(known.meet(key(4), || Ok(live(4))).is_none());
    assert_eq!(known.found.in_doubt, 1);
}

#[test]
fn a_state_goes_on_over_several_epochs() {
    let first = with(base(), [write(50, 4)]);
    let continues = |epoch, seq| Some(journal::record::Continued { epoch, seq });
    let second = vec![
        own_record(
            5,
            key(ROOT),
            true,
            Op::BaseBegin {
                continues: continues(1, 50),
            },
        ),
        own_record(6, key(6), true, Op::Evict),
        own_record(7, key(ROOT), true, Op::BaseEnd { begin_seq: 5 }),
        volume(9, Op::Barrier { up_to: Some(8) }),
    ];
    let mut known = known_of(&[first.clone(), second]).unwrap();
    assert_eq!(known.continued().epoch, 2);
    assert!(
        known.meet(key(4), || Ok(live(4))).is_some(),
        "the doubts of the first are the second's base's business"
    );
    assert!(
        known.meet(key(6), || Ok(live(6))).is_none(),
        "it is not known any more"
    );
    let mut broken_off = vec![own_record(
        5,
        key(ROOT),
        true,
        Op::BaseBegin {
            continues: continues(1, 50),
        },
    )];
    broken_off.push(own_record(6, key(6), true, Op::Evict));
    assert!(why(&[first.clone(), broken_off.clone()]).contains("base was not complete"));

    // Unless it is known what it went on from: then that is gone on from again, and all that was recorded since is in doubt.
    broken_off.push(write(7, 5));
    let store = medium();
    let [first, broken_off] = [first, broken_off].map(|records| sealed(&store, &records));
    let dead = Dead {
        head: broken_off,
        touched: Touched::of(&[key(3)]),
        before: Some(Box::new(Dead {
            head: first,
            touched: Touched::default(),
            before: None,
        })),
    };
    let mut known = Known::read((Arc::new(store), &Identities::default()), UUID, key(ROOT), dead).unwrap();
    assert_eq!((known.continued().epoch, known.continued().seq), (1, 50));
    for (ino, in_doubt) in [(ROOT, false), (3, true), (4, true), (5, true), (6, true)] {
        let met = known.meet(key(ino), || Ok(live(ino)));
        assert_eq!(met.is_none(), in_doubt, "inode {ino}");
    }
    assert_eq!((known.found.differed, known.found.in_doubt), (0, 4));
}

#[test]
fn what_cannot_be_gone_on_with_says_why() {
    let lost = |seq, inode| {
        let op = Op::Hole {
            last_seq: seq,
            inode,
            since_seq: None,
        };
        volume(seq, op)
    };
    let closed = volume(60, Op::HoleClosed { hole_seq: 50 });
    for inode in [None, Some(key(4))] {
        let records = with(base(), [lost(50, inode), closed.clone()]);
        assert!(why(std::slice::from_ref(&records)).contains("lost after its last barrier"));
        let records = with(records, [volume(70, Op::Barrier { up_to: Some(60) })]);
        assert!(known_of(&[records]).is_ok());
    }
    let mut other = base();
    other[0].inode = key(99);
    assert!(why(&[other]).contains("another root"));
    let mut incomplete = base();
    incomplete.pop();
    assert!(why(&[incomplete]).contains("base was not complete"));

    let store = medium();
    let head = sealed(&store, &base());
    store.tamper(&format!("{UUID}/0000000002.manifest.json"), None);
    let dead = Dead {
        head,
        touched: Touched::default(),
        before: None,
    };
    let why = Known::read((Arc::new(store), &Identities::default()), UUID, key(ROOT), dead)
        .err()
        .unwrap();
    assert!(format!("{why:#}").contains("not whole"), "{why:#}");
}

fn any_record() -> impl Strategy<Value = Op> {
    let entry = |parent: u64| Entry {
        parent: key(parent),
        name: b"n".to_vec(),
    };
    prop_oneof![
        5 => Just(Op::SetAttr),
        2 => (10u64..16).prop_map(move |parent| Op::Unlink { entry: entry(parent), dir: DirTimes::default() }),
        2 => (10u64..16, 10u64..16, proptest::option::of(10u64..16)).prop_map(move |(from, to, victim)| Op::Rename {
            from: entry(from), from_dir: DirTimes::default(), to: entry(to), to_dir: DirTimes::default(), victim: victim.map(key),
        }),
        1 => (0u64..40).prop_map(|back| Op::Barrier { up_to: Some(back) }),
    ]
}

proptest! {
    /// Against the definition: a record of the inode, or one that names it, after the largest number that a barrier spoke of.
    #[test]
    fn in_doubt_is_what_a_record_names_after_the_barrier(ops in proptest::collection::vec((10u64..16, any_record()), 1..60)) {
        let first = 100;
        let mut touched = Touched::default();
        base().iter().for_each(|record| touched.see(record));
        let records: Vec<Record> = ops
            .into_iter()
            .enumerate()
            .map(|(position, (ino, op))| {
                let seq = first + position as u64;
                match op {
                    Op::Barrier { up_to: Some(back) } => volume(seq, Op::Barrier { up_to: Some(seq.saturating_sub(back + 1)) }),
                    op => done(seq, ino, op),
                }
            })
            .collect();
        records.iter().for_each(|record| touched.see(record));
        touched.end().unwrap();
        let spoken = records
            .iter()
            .filter_map(|record| match record.op { Op::Barrier { up_to } => up_to, _ => None })
            .max()
            .unwrap_or(0);
        for ino in 10..16 {
            let names = |record: &&Record| {
                let parents = match &record.op {
                    Op::Unlink { entry, .. } => vec![entry.parent],
                    Op::Rename { from, to, victim, .. } => vec![from.parent, to.parent, victim.unwrap_or(from.parent)],
                    _ => Vec::new(),
                };
                record.inode == key(ino) || parents.contains(&key(ino))
            };
            let expected = records.iter().filter(|record| record.seq > spoken).any(|record| names(&record));
            prop_assert_eq!(touched.contains(key(ino)), expected, "inode {}", ino);
        }
    }
}
