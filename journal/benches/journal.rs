//! Encoding and folding without a medium: `cargo bench -p journal`. Only ratios of one run tell anything.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark may end where its preparations fail"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use journal::fold::State;
use journal::record::{Actor, Attributes, DirTimes, Entry, InodeKey, Op, Record, Time};
use journal::store::memory::MemoryStore;
use journal::{At, Label, Projection, Reader, VolumeInfo, Writer};

const UUID: &str = "6f0cb0f4-0001-4000-8000-000000000004";
const FILES: u64 = 10_000;
const RECORDS: u64 = 400_000;
/// Records of a segment.
const SEGMENT: u64 = 100_000;

fn key(ino: u64) -> InodeKey {
    InodeKey { ino, generation: 1 }
}

fn attributes(seq: u64, mode: Option<u32>) -> Attributes {
    let time = Some(Time {
        sec: 1_790_000_000 + i64::try_from(seq / 1000).unwrap(),
        nsec: u32::try_from(seq % 1000).unwrap() * 1_000_000,
    });
    Attributes {
        mode,
        uid: mode.map(|_| 1000),
        gid: mode.map(|_| 1000),
        mtime: time,
        ctime: time,
        ..Attributes::default()
    }
}

fn record(seq: u64, inode: InodeKey, attributes: Attributes, op: Op) -> Record {
    Record {
        seq,
        last_seq: seq,
        time_ns: i64::try_from(seq).unwrap() * 1_000_000,
        inode,
        attributes,
        from_snapshot: false,
        actor: Actor {
            pid: 4711,
            tgid: 4711,
            uid: 1000,
            gid: 1000,
            cgroup: 99,
            comm: b"postgres".to_vec(),
        },
        op,
    }
}

/// What a busy host does, by number: files are made, written, renamed, changed and removed; most is writing over what was there.
fn story(data_bytes: usize) -> impl Iterator<Item = Record> {
    let root = key(2);
    let base = [
        record(1, root, Attributes::default(), Op::BaseBegin { continues: None }),
        record(
            2,
            root,
            attributes(2, Some(0o040_755)),
            Op::Snapshot {
                link_target: None,
                scope: journal::record::SnapshotScope::Whole,
            },
        ),
        record(3, root, Attributes::default(), Op::SnapshotEnd { begin_seq: 2 }),
        record(4, root, Attributes::default(), Op::BaseEnd { begin_seq: 1 }),
    ];
    let entry = move |ino: u64, way: u64| Entry {
        parent: root,
        name: format!("file-{ino}-{way}").into_bytes(),
    };
    let dir = DirTimes::default();
    let body = (5..=RECORDS).map(move |seq| {
        let ino = 100 + (seq * 7919) % FILES;
        if seq < 5 + FILES {
            let ino = 100 + (seq - 5);
            let op = Op::Create {
                entry: entry(ino, 0),
                dir,
                link_target: None,
            };
            return record(seq, key(ino), attributes(seq, Some(0o100_644)), op);
        }
        match seq % 16 {
            0 => record(seq, key(ino), attributes(seq, Some(0o100_600)), Op::SetAttr),
            1 => {
                let op = Op::Link {
                    entry: entry(ino, seq % 5),
                    dir,
                };
                record(seq, key(ino), attributes(seq, None), op)
            }
            _ => {
                let mut data = vec![0; data_bytes];
                blake3::Hasher::new()
                    .update(&(seq / 4).to_le_bytes())
                    .finalize_xof()
                    .fill(&mut data);
                let op = Op::Write {
                    offset: (seq % 64) * 4096,
                    length: data.len() as u64,
                    data,
                };
                record(seq, key(ino), attributes(seq, None), op)
            }
        }
    });
    base.into_iter().chain(body)
}

fn journal_of(data_bytes: usize) -> MemoryStore {
    let store = MemoryStore::new();
    Label::ensure(&store, b"program", 0).unwrap();
    let volume = VolumeInfo {
        uuid: UUID.to_owned(),
        ..VolumeInfo::default()
    };
    let mut writer = Writer::open(Arc::new(store.clone()), volume).unwrap();
    for record in story(data_bytes) {
        writer.push(&record).unwrap();
        if record.seq % SEGMENT == 0 {
            writer.seal().unwrap();
        }
    }
    writer.seal().unwrap();
    store
}

fn fold(criterion: &mut Criterion) {
    let reader = Reader::open(vec![Arc::new(journal_of(16))]).unwrap();
    let journal = reader.journal(None).unwrap();
    let mut group = criterion.benchmark_group("fold");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS));
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            for segment in journal.segments() {
                for item in segment.records(Projection::State).unwrap() {
                    black_box(item.unwrap());
                }
            }
        });
    });
    group.bench_function("resolve", |bencher| {
        bencher.iter(|| black_box(journal.resolve(&At::Latest).unwrap()));
    });
    group.bench_function("read and apply", |bencher| {
        bencher.iter(|| {
            let mut state = State::new();
            for segment in journal.segments() {
                for item in segment.records(Projection::State).unwrap() {
                    let (row, record) = item.unwrap();
                    state.apply(row, &record);
                }
            }
            black_box(state.inodes().len())
        });
    });
    let records: Vec<Record> = story(0).collect();
    group.bench_function("apply", |bencher| {
        bencher.iter(|| {
            let mut state = State::new();
            for (row, record) in (0..).zip(&records) {
                state.apply(journal::RowRef { segment: 1, row }, record);
            }
            black_box(state.inodes().len())
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    fold(&mut criterion);
    criterion.final_summary();
}
