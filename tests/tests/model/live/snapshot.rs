//! A snapshot in many rows, with operations in its window.

use std::fs::{self};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use journal::record::{Attributes, Op, SnapshotScope};

use super::{Live, meta, whole};

/// Rows that a snapshot in this model has room for.
const SNAPSHOT_ROWS: u64 = 120;
/// Bytes of data in one row of a snapshot.
const CHUNK_BYTES: u64 = 30_000;

impl Live {
    /// States an inode anew: the rows take their numbers first, then things happen, then the state is read.
    pub(super) fn snapshot(&mut self, path: &Path) {
        let (key, begin_seq) = (self.key(path), self.next_seq);
        self.next_seq += SNAPSHOT_ROWS;
        self.window = Some(key.ino);
        for _ in 0..self.random.below(4) {
            self.step_idempotent();
        }
        self.window = None;
        let path = self
            .paths()
            .into_iter()
            .find(|path| meta(path).ino() == key.ino)
            .unwrap();
        let mut rows = Vec::new();
        let now = meta(&path);
        let link_target = now
            .is_symlink()
            .then(|| fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec());
        rows.push((
            key,
            whole(&path),
            Op::Snapshot {
                link_target,
                scope: SnapshotScope::Whole,
            },
        ));
        if now.is_file() || now.is_dir() {
            for name in xattr::list(&path).unwrap() {
                let value = xattr::get(&path, &name).unwrap().unwrap();
                let name = name.as_bytes().to_vec();
                rows.push((key, Attributes::default(), Op::SetXattr { name, value }));
            }
        }
        if now.is_file() {
            let content = fs::read(&path).unwrap();
            for (index, chunk) in content.chunks(usize::try_from(CHUNK_BYTES).unwrap()).enumerate() {
                let op = Op::Write {
                    offset: index as u64 * CHUNK_BYTES,
                    length: chunk.len() as u64,
                    data: chunk.to_vec(),
                };
                rows.push((key, Attributes::default(), op));
            }
        }
        if now.is_dir() {
            for child in fs::read_dir(&path).unwrap() {
                let child = child.unwrap().path();
                let entry = self.entry(&child);
                rows.push((
                    self.key(&child),
                    Attributes::default(),
                    Op::SnapshotEntry { entry },
                ));
            }
        }
        assert!(
            (rows.len() as u64) < SNAPSHOT_ROWS,
            "too many rows for this model"
        );
        for (seq, (inode, attributes, op)) in (begin_seq..).zip(rows) {
            self.tell_as(seq, inode, attributes, true, op);
        }
        let seq = self.seq();
        self.tell_as(
            seq,
            key,
            Attributes::default(),
            true,
            Op::SnapshotEnd { begin_seq },
        );
    }
}
