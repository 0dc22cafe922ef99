//! Snapshots of a real directory, read through file handles. Needs root, and a file system with handles under the temporary directory.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use journal::record::{Entry, InodeKey, Op, Record, SnapshotScope};

use super::handle::Root;
use super::{Counts, Outcome, Sink, Snapshotter};
use crate::base::{Demand, Scan, Wanted};

/// Keeps what is submitted; counts the numbers that are owed.
#[derive(Default)]
struct Kept {
    next: AtomicU64,
    records: Mutex<Vec<Record>>,
}

impl Sink for Kept {
    fn reserve(&self) -> Result<()> {
        let owed = self.next.load(Ordering::SeqCst) - self.records.lock().unwrap().len() as u64;
        assert_eq!(owed, 0, "room is asked for while numbers are outstanding");
        Ok(())
    }
    fn take_seq(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }
    fn submit(&self, records: Vec<Record>) -> Result<()> {
        self.records.lock().unwrap().extend(records);
        Ok(())
    }
}

impl Kept {
    /// Every number has exactly one record.
    fn sorted(self) -> Vec<Record> {
        let mut records = self.records.into_inner().unwrap();
        records.sort_by_key(|record| record.seq);
        for (index, record) in records.iter().enumerate() {
            assert_eq!(record.seq, index as u64, "a number without a record, or with two");
        }
        records
    }
}

/// Requests that were made beforehand.
struct Asked(Vec<Wanted>);
impl Demand for Asked {
    fn poll(&mut self) -> Option<Wanted> {
        self.0.pop()
    }
    fn settle(&mut self, _seq: u64) -> Result<()> {
        Ok(())
    }
}

/// A root on the temporary directory. `None` to all but root, who alone may open by handle: the reason is said.
fn root_of(path: &Path) -> Option<Root> {
    let opened = Root::open(path, Vec::new()).and_then(|root| {
        root.open_inode(&root.top(), rustix::fs::OFlags::PATH)?;
        Ok(root)
    });
    match opened {
        Ok(root) => Some(root),
        Err(error) if rustix::process::geteuid().is_root() => {
            panic!("open by handle (set TMPDIR to a place on ext4, xfs or btrfs): {error:#}")
        }
        Err(error) => {
            eprintln!("SKIPPED: only root opens by handle: {error:#}");
            None
        }
    }
}

fn base_of(path: &Path, asked: Vec<Wanted>) -> Option<(Vec<Record>, InodeKey)> {
    let root = root_of(path)?;
    let (kept, counts) = (Kept::default(), Counts::default());
    let key = root.top().key().unwrap();
    Scan::new(&root, &kept, &counts, None)
        .base(key, &mut Asked(asked))
        .unwrap();
    Some((kept.sorted(), key))
}

fn of_inode(records: &[Record], ino: u64) -> Vec<&Record> {
    records.iter().filter(|record| record.inode.ino == ino).collect()
}

#[test]
fn a_tree_becomes_records() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::create_dir_all(path.join("a/b")).unwrap();
    let file = fs::File::create(path.join("a/file")).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"end", 8 << 20).unwrap();
    fs::hard_link(path.join("a/file"), path.join("a/b/again")).unwrap();
    symlink("whither", path.join("link")).unwrap();
    for index in 0..400 {
        fs::write(path.join(format!("a/b/many-{index:03}")), [7; 3]).unwrap();
    }
    rustix::fs::setxattr(
        path.join("a/file"),
        c"user.k",
        b"v",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let Some((records, root)) = base_of(path, Vec::new()) else {
        return;
    };

    assert_eq!(records.first().unwrap().op, Op::BaseBegin { continues: None });
    assert!(matches!(records.last().unwrap().op, Op::BaseEnd { begin_seq: 0 }));
    let ino = fs::metadata(path.join("a/file")).unwrap().ino();
    let file = of_inode(&records, ino);
    let snapshots = file
        .iter()
        .filter(|record| matches!(record.op, Op::Snapshot { .. }))
        .count();
    assert_eq!(snapshots, 1, "a file with two names is read once");
    let written: u64 = file
        .iter()
        .map(|record| {
            if let Op::Write { length, .. } = record.op {
                length
            } else {
                0
            }
        })
        .sum();
    assert!(written < 1 << 20, "holes are not read: {written}");
    let last = file.iter().rev().find_map(|record| match &record.op {
        Op::Write { offset, data, .. } => Some((*offset, data.clone())),
        _ => None,
    });
    assert_eq!(last, Some((8 << 20, b"end".to_vec())));
    assert!(file.iter().any(|record| record.op
        == Op::SetXattr {
            name: b"user.k".to_vec(),
            value: b"v".to_vec()
        }));
    assert_eq!(
        file.iter()
            .filter(|record| matches!(record.op, Op::SnapshotEntry { .. }))
            .count(),
        2
    );
    assert!(records.iter().any(
        |record| matches!(&record.op, Op::Snapshot { link_target: Some(target), .. } if target == b"whither")
    ));
    let names = records
        .iter()
        .filter(|record| matches!(record.op, Op::SnapshotEntry { .. }))
        .count();
    assert_eq!(names, 405, "a, b, file, again, link and the many, each once");
    let top = Op::SnapshotEntry {
        entry: Entry {
            parent: root,
            name: b"a".to_vec(),
        },
    };
    assert!(records.iter().any(|record| record.op == top));
}

#[test]
fn what_is_asked_for_and_was_met_is_not_read_twice() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("f"), "x").unwrap();
    let Some(root) = root_of(directory.path()) else {
        return;
    };
    let (kept, counts) = (Kept::default(), Counts::default());
    let listed = rustix::fs::openat(
        root.fd(),
        c"f",
        rustix::fs::OFlags::PATH,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let (handle, _) = super::handle::FileHandle::of(std::os::fd::AsFd::as_fd(&listed), c"").unwrap();
    let key = handle.key().unwrap();
    let wanted = Wanted::Inode {
        key,
        scope: SnapshotScope::Whole,
        only_if_unmet: true,
        closes: None,
    };
    let top = root.top().key().unwrap();
    Scan::new(&root, &kept, &counts, None)
        .base(top, &mut Asked(vec![wanted, wanted]))
        .unwrap();
    let records = kept.sorted();
    let snapshots = of_inode(&records, key.ino)
        .iter()
        .filter(|record| matches!(record.op, Op::Snapshot { .. }))
        .count();
    assert_eq!(snapshots, 1);
}

#[test]
fn an_inode_that_is_gone_needs_no_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let Some(root) = root_of(directory.path()) else {
        return;
    };
    let (kept, counts) = (Kept::default(), Counts::default());
    let top = root.top().key().unwrap();
    let gone = InodeKey {
        ino: top.ino,
        generation: top.generation.wrapping_add(1),
    };
    let outcome = Snapshotter::new(&root, &kept, &counts)
        .inode(gone, SnapshotScope::Whole)
        .unwrap();
    assert_eq!(outcome, Outcome::Gone);
    assert!(kept.sorted().is_empty());
}

#[test]
fn a_directory_that_is_removed_meanwhile_has_no_entries() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d");
    fs::create_dir(&path).unwrap();
    let Some(root) = root_of(directory.path()) else {
        return;
    };
    // Open, as it is when it is removed between the opening and the listing.
    let open = fs::File::open(&path).unwrap();
    let (handle, _) = super::handle::FileHandle::of(std::os::fd::AsFd::as_fd(&open), c"").unwrap();
    let key = handle.key().unwrap();
    fs::remove_dir(&path).unwrap();
    let (kept, counts) = (Kept::default(), Counts::default());
    Snapshotter::new(&root, &kept, &counts)
        .by_handle(key, &handle, SnapshotScope::Whole, &mut |_| Ok(()))
        .unwrap();
    assert_eq!(counts.failed.load(Ordering::Relaxed), 0);
    let records = kept.sorted();
    assert!(
        !records.iter().any(|record| matches!(record.op, Op::Hole { .. })),
        "{records:#?}"
    );
}
