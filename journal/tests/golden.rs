//! What was written once is read for ever: the golden media under `tests/golden`, one per format version.

#![expect(clippy::unwrap_used, reason = "a test may end where its preparations fail")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use journal::record::{InodeKey, Record};
use journal::store::DirStore;
use journal::{At, Projection, Reader, fold};

fn golden(version: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(version)
}

fn expected(version: &str) -> Vec<Record> {
    let text = std::fs::read_to_string(golden(version).join("expected.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn version_1_is_read_as_it_was_written() {
    let reader = Reader::open(vec![Arc::new(DirStore::open(&golden("v1")).unwrap())]).unwrap();
    let journal = reader.journal(None).unwrap();
    assert_eq!(journal.volume().label, "golden");
    let report = journal.verify(|_| ()).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.segments, report.epochs.len()), (3, 2));

    let mut found = Vec::new();
    for segment in journal.segments() {
        for item in segment.records(Projection::All).unwrap() {
            found.push(item.unwrap().1);
        }
    }
    let expected = expected("v1");
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    let ops: BTreeSet<&str> = expected
        .iter()
        .map(|record| journal::op_name(&record.op))
        .collect();
    assert_eq!(ops.len(), 23, "every operation is in the golden set: {ops:?}");
}

#[test]
fn version_1_means_what_it_meant() {
    let reader = Reader::open(vec![Arc::new(DirStore::open(&golden("v1")).unwrap())]).unwrap();
    let journal = reader.journal(None).unwrap();
    let point = journal.resolve(&At::Mark("gölden".to_owned())).unwrap();
    assert_eq!((point.epoch, point.rounded, point.open_holes.len()), (1, None, 0));
    let mut state = fold::State::new();
    for segment in journal
        .segments_between(point.first_segment, point.last_segment)
        .unwrap()
    {
        for item in segment.records(Projection::Metadata).unwrap() {
            let (row, record) = item.unwrap();
            if record.seq <= point.seq {
                state.apply(row, &record);
            }
        }
    }
    let key = |ino: u32| InodeKey {
        ino: u64::from(ino),
        generation: 0xdead_0000 + ino,
    };
    let root = state.inode(state.root().unwrap()).unwrap();
    let names: Vec<(&[u8], InodeKey)> = root
        .entries
        .iter()
        .map(|(name, key)| (name.as_slice(), *key))
        .collect();
    assert_eq!(
        names,
        [
            (&b"newer"[..], key(13)),
            (&b"old \xff name"[..], key(11)),
            (&b"symlink"[..], key(12))
        ]
    );
    let cloned = state.inode(key(11)).unwrap();
    assert_eq!((cloned.size, cloned.extents.len()), (8192, 2));
    assert_eq!(state.inode(key(12)).unwrap().size, 10_000 - 4096);
    assert_eq!(
        state.inode(key(13)).unwrap().link_target.as_deref(),
        Some(&b"../away"[..])
    );
    assert!(state.inode(key(14)).is_none());
}
