//! Both ways to a tree, the fold and the steps, against the same journals: the same tree, the same exit code.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use journal::record::{Attributes, Op, Record, SnapshotScope};

use crate::bench::{Bench, DIR, FILE, base, create, dir, entry, key, mark, record, rename, story, write};

/// Paths with what matters of them.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = std::fs::symlink_metadata(&path).expect("there");
        let content = meta.is_file().then(|| std::fs::read(&path).expect("content"));
        let state = format!(
            "{:o} {} {}.{} {:?}",
            meta.mode(),
            meta.nlink(),
            meta.mtime(),
            meta.mtime_nsec(),
            content
        );
        found.insert(format!("{:?}", path.strip_prefix(root).expect("below")), state);
        if meta.is_dir() {
            waiting.extend(
                std::fs::read_dir(&path)
                    .expect("list")
                    .map(|entry| entry.expect("entry").path()),
            );
        }
    }
    found
}

/// Restores both ways; gives the tree if both end with `code` and the tree is the same.
fn both(bench: &Bench, more: &[&str], code: i32) -> BTreeMap<String, String> {
    let trees = [("folded", &[][..]), ("stepped", &["--stepwise"])].map(|(to, way)| {
        std::fs::create_dir(bench.path(to)).expect("make");
        let args = [&["restore", "--medium", "medium", "--to", to], way, more].concat();
        let output = bench.run(&args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{to}: {said}");
        tree(&bench.path(to))
    });
    if code == 0 || code == 3 {
        assert_eq!(trees[0], trees[1]);
    }
    trees[0].clone()
}

fn snapshot(seq: u64, ino: u64, mode: u32) -> Record {
    let op = Op::Snapshot {
        link_target: None,
        scope: SnapshotScope::Whole,
    };
    record(seq, key(ino), crate::bench::attributes(mode), op)
}

fn listed(seq: u64, ino: u64, parent: u64, name: &[u8]) -> Record {
    let op = Op::SnapshotEntry {
        entry: entry(parent, name),
    };
    record(seq, key(ino), Attributes::default(), op)
}

fn end(seq: u64, ino: u64, begin_seq: u64) -> Record {
    record(
        seq,
        key(ino),
        Attributes::default(),
        Op::SnapshotEnd { begin_seq },
    )
}

#[test]
fn the_same_tree_both_ways() {
    both(&Bench::new(&story()), &[], 0);
    both(&Bench::new(&story()), &["--at", "mark:first"], 0);
}

/// `b` is moved out of `a` and `a` into `b` while `b` is read: for a moment each is below the other, and both have two names.
#[test]
fn directories_below_each_other_in_a_window() {
    let mut records = base();
    records.extend([
        create(5, 2, DIR, 1, b"a"),
        create(6, 3, DIR, 2, b"b"),
        create(7, 4, FILE, 2, b"in a"),
        snapshot(8, 3, DIR),
        listed(9, 2, 3, b"a"),
        rename(10, 3, (2, b"b"), (1, b"b")),
        rename(11, 2, (1, b"a"), (3, b"a")),
        end(12, 3, 8),
        write(13, 4, 0, b"still there"),
    ]);
    let found = both(&Bench::new(&[records]), &[], 0);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["\"\"", "\"b\"", "\"b/a\"", "\"b/a/in a\""]);
}

/// A name that the steps use for themselves, an inode that was never described before it went, one that becomes another kind, one
/// that has no name for a while.
#[test]
fn odd_lives() {
    let evict = |seq, ino| record(seq, key(ino), Attributes::default(), Op::Evict);
    let unlink = |seq, ino, name: &[u8]| {
        let op = Op::Unlink {
            entry: entry(1, name),
            dir: dir(),
        };
        record(seq, key(ino), Attributes::default(), op)
    };
    let link = |seq, ino, name: &[u8]| {
        let op = Op::Link {
            entry: entry(1, name),
            dir: dir(),
        };
        record(seq, key(ino), Attributes::default(), op)
    };
    let mut records = base();
    records.extend([
        snapshot(5, 1, DIR),
        listed(6, 7, 1, b"unknown"),
        listed(7, 8, 1, b"becomes a directory"),
        unlink(8, 7, b"unknown"),
        evict(9, 7),
        snapshot(10, 8, DIR),
        end(11, 8, 10),
        end(12, 1, 5),
        create(13, 9, FILE, 8, b"gone and back"),
        link(14, 9, b"second"),
        write(15, 9, 5, b"held"),
        record(16, key(10), crate::bench::attributes(FILE), Op::CreateUnnamed),
        write(17, 10, 0, b"no name yet"),
        link(18, 10, b"named"),
        unlink(19, 9, b"second"),
        create(20, 11, FILE, 1, b"never seen"),
        unlink(21, 11, b"never seen"),
        write(22, 11, 0, b"open still"),
        record(
            23,
            key(12),
            crate::bench::attributes(0o010_600),
            Op::Create {
                entry: entry(1, b"pipe"),
                dir: dir(),
                link_target: None,
            },
        ),
        link(24, 12, b"pipe too"),
        mark(25, "all"),
    ]);
    let found = both(&Bench::new(&[records]), &[], 0);
    assert_eq!(found.len(), 6, "{found:?}");
}

#[test]
fn what_is_no_tree_ends_the_same_way() {
    let link = |seq, ino, parent, name: &[u8]| {
        let op = Op::Link {
            entry: entry(parent, name),
            dir: dir(),
        };
        record(seq, key(ino), Attributes::default(), op)
    };
    for more in [
        vec![create(5, 2, DIR, 1, b"a"), link(6, 1, 2, b"up")],
        vec![create(5, 2, DIR, 1, b"a"), link(6, 2, 1, b"b")],
        vec![link(5, 9, 1, b"ghost")],
        vec![create(5, 2, FILE, 1, b"a"), create(6, 3, FILE, 2, b"b")],
    ] {
        both(&Bench::new(&[[base(), more].concat()]), &[], 30);
    }
    let hole = Op::Hole {
        last_seq: 6,
        inode: None,
        since_seq: None,
    };
    let lost = Record {
        last_seq: 6,
        ..record(5, key(0), Attributes::default(), hole)
    };
    let holed = || {
        Bench::new(&[[
            base(),
            vec![lost.clone(), link(7, 9, 1, b"ghost"), create(8, 2, FILE, 1, b"f")],
        ]
        .concat()])
    };
    both(&holed(), &[], 31);
    both(&holed(), &["--allow-holes"], 3);
}
