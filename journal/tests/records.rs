//! Any record survives being written and read. On failure proptest prints the seed and the smallest record.

use std::sync::Arc;

use journal::record::{
    Actor, Attributes, Continued, DirTimes, Entry, InodeKey, Op, Record, SnapshotScope, Time,
};
use journal::store::memory::MemoryStore;
use journal::{Label, Projection, Reader, VolumeInfo, Writer};
use proptest::option;
use proptest::prelude::*;

fn inode() -> impl Strategy<Value = InodeKey> {
    (any::<u64>(), any::<u32>()).prop_map(|(ino, generation)| InodeKey { ino, generation })
}

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0u32..1_000_000_000).prop_map(|(sec, nsec)| Time { sec, nsec })
}

fn dir() -> impl Strategy<Value = DirTimes> {
    (time(), time()).prop_map(|(mtime, ctime)| DirTimes { mtime, ctime })
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = (1u8..=255).prop_filter("slash", |byte| *byte != b'/');
    prop::collection::vec(byte, 1..=255).prop_filter("dots", |name| !matches!(&name[..], b"." | b".."))
}

fn entry() -> impl Strategy<Value = Entry> {
    (inode(), name()).prop_map(|(parent, name)| Entry { parent, name })
}

fn target() -> impl Strategy<Value = Option<Vec<u8>>> {
    option::of(prop::collection::vec(1u8..=255, 0..4096))
}

/// Offset and length of a range that ends below 2^63.
fn range() -> impl Strategy<Value = (u64, u64)> {
    (0..=i64::MAX as u64).prop_flat_map(|offset| (Just(offset), 0..=i64::MAX as u64 - offset))
}

fn names() -> BoxedStrategy<Op> {
    prop_oneof![
        (entry(), dir(), target()).prop_map(|(entry, dir, link_target)| Op::Create {
            entry,
            dir,
            link_target
        }),
        Just(Op::CreateUnnamed),
        (entry(), dir()).prop_map(|(entry, dir)| Op::Link { entry, dir }),
        (entry(), dir()).prop_map(|(entry, dir)| Op::Unlink { entry, dir }),
        (entry(), dir()).prop_map(|(entry, dir)| Op::Rmdir { entry, dir }),
        (entry(), dir(), entry(), dir(), option::of(inode())).prop_map(
            |(from, from_dir, to, to_dir, victim)| Op::Rename {
                from,
                from_dir,
                to,
                to_dir,
                victim
            }
        ),
        (entry(), dir(), entry(), dir(), inode()).prop_map(|(from, from_dir, to, to_dir, other)| {
            Op::Exchange {
                from,
                from_dir,
                to,
                to_dir,
                other,
            }
        }),
        Just(Op::Evict),
        entry().prop_map(|entry| Op::SnapshotEntry { entry }),
    ]
    .boxed()
}

fn contents() -> BoxedStrategy<Op> {
    let xattr = || prop::collection::vec(1u8..=255, 1..=255);
    prop_oneof![
        (
            0..=(i64::MAX as u64 - 5000),
            prop::collection::vec(any::<u8>(), 0..5000)
        )
            .prop_map(|(offset, data)| Op::Write {
                offset,
                length: data.len() as u64,
                data
            }),
        Just(Op::SetAttr),
        (xattr(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(name, value)| Op::SetXattr { name, value }),
        xattr().prop_map(|name| Op::RemoveXattr { name }),
        (any::<u32>(), range()).prop_map(|(mode, (offset, length))| Op::Fallocate { mode, offset, length }),
        (
            inode(),
            range().prop_flat_map(|(offset, length)| (
                Just(offset),
                Just(length),
                0..=i64::MAX as u64 - length
            ))
        )
            .prop_map(|(source, (offset, length, source_offset))| Op::Clone {
                source,
                source_offset,
                offset,
                length
            }),
    ]
    .boxed()
}

fn statements() -> BoxedStrategy<Op> {
    let scope = prop_oneof![Just(SnapshotScope::Whole), Just(SnapshotScope::Attributes)];
    prop_oneof![
        (target(), scope).prop_map(|(link_target, scope)| Op::Snapshot { link_target, scope }),
        any::<u64>().prop_map(|begin_seq| Op::SnapshotEnd { begin_seq }),
        option::of((any::<u64>(), any::<u64>())).prop_map(|of| Op::BaseBegin {
            continues: of.map(|(epoch, seq)| Continued { epoch, seq })
        }),
        any::<u64>().prop_map(|begin_seq| Op::BaseEnd { begin_seq }),
        any::<String>().prop_map(|name| Op::Mark { name }),
        option::of(any::<u64>()).prop_map(|up_to| Op::Barrier { up_to }),
        (any::<u64>(), option::of(inode()), option::of(any::<u64>())).prop_map(
            |(last_seq, inode, since_seq)| {
                Op::Hole {
                    last_seq,
                    inode,
                    since_seq,
                }
            }
        ),
        any::<u64>().prop_map(|hole_seq| Op::HoleClosed { hole_seq }),
    ]
    .boxed()
}

fn attributes() -> impl Strategy<Value = Attributes> {
    (
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        option::of(any::<u64>()),
        option::of(0..=i64::MAX as u64),
        option::of(time()),
        option::of(time()),
        option::of(time()),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
    )
        .prop_map(
            |(mode, uid, gid, rdev, size, atime, mtime, ctime, file_flags, project)| Attributes {
                mode,
                uid,
                gid,
                rdev,
                size,
                atime,
                mtime,
                ctime,
                file_flags,
                project,
            },
        )
}

fn actor() -> impl Strategy<Value = Actor> {
    let comm = prop::collection::vec(any::<u8>(), 0..=15);
    (
        any::<u32>(),
        any::<u32>(),
        any::<u32>(),
        any::<u32>(),
        any::<u64>(),
        comm,
    )
        .prop_map(|(pid, tgid, uid, gid, cgroup, comm)| Actor {
            pid,
            tgid,
            uid,
            gid,
            cgroup,
            comm,
        })
}

/// Records without their places in the order: how far from the one before, and how many numbers are merged.
fn record() -> impl Strategy<Value = (u64, u64, Record)> {
    let op = prop_oneof![names(), contents(), statements()];
    (
        1u64..1000,
        0u64..1000,
        any::<i64>(),
        inode(),
        attributes(),
        any::<bool>(),
        actor(),
        op,
    )
        .prop_map(
            |(step, merged, time_ns, inode, attributes, from_snapshot, actor, op)| {
                let record = Record {
                    seq: 0,
                    last_seq: 0,
                    time_ns,
                    inode,
                    attributes,
                    from_snapshot,
                    actor,
                    op,
                };
                (step, merged, record)
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_record_survives(
        parts in prop::collection::vec(record(), 1..40),
        cut in 1usize..40,
    ) {
        let mut last = 0;
        let records: Vec<Record> = parts
            .into_iter()
            .map(|(step, merged, mut record)| {
                record.seq = last + step;
                record.last_seq = record.seq + merged;
                last = record.last_seq;
                record
            })
            .collect();
        let store = MemoryStore::new();
        Label::ensure(&store, b"", 0).unwrap();
        let volume = VolumeInfo { uuid: "v".to_owned(), ..VolumeInfo::default() };
        let mut writer = Writer::open(Arc::new(store.clone()), volume).unwrap();
        for (position, record) in records.iter().enumerate() {
            writer.push(record).unwrap();
            if position == cut {
                writer.seal().unwrap();
            }
        }
        writer.seal().unwrap();

        let reader = Reader::open(vec![Arc::new(store)]).unwrap();
        let journal = reader.journal(None).unwrap();
        let read = |projection| -> Vec<Record> {
            journal
                .segments()
                .flat_map(|segment| segment.records(projection).unwrap())
                .map(|item| item.unwrap().1)
                .collect()
        };
        prop_assert_eq!(&read(Projection::All), &records);
        let without: Vec<Record> = records
            .into_iter()
            .map(|mut record| {
                if let Op::Write { data, .. } = &mut record.op {
                    data.clear();
                }
                record
            })
            .collect();
        prop_assert_eq!(read(Projection::Metadata), without);
        prop_assert_eq!(journal.verify(|_| ()).unwrap().problems, Vec::<String>::new());
    }
}
