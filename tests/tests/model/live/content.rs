//! What files hold: writes, holes, shifted ranges, clones.

use std::os::unix::fs::{FileExt, MetadataExt};

use journal::record::{Attributes, Op};

use super::{BLOCK, Live, meta, opened, rewrite, stamps};

const KEEP_SIZE: u32 = 0x01;
const PUNCH_HOLE: u32 = 0x02;
const COLLAPSE_RANGE: u32 = 0x08;
const ZERO_RANGE: u32 = 0x10;
const INSERT_RANGE: u32 = 0x20;

impl Live {
    pub(super) fn write(&mut self) {
        let Some(path) = self.file() else { return };
        let offset = match self.random.below(4) {
            0 => meta(&path).size(),
            1 => self.random.below(30) * BLOCK,
            _ => self.random.below(150_000),
        };
        let length = [1, 77, BLOCK, 20_000][usize::try_from(self.random.below(4)).unwrap()];
        let length = 1 + self.random.below(length);
        let data = self.random.bytes(length);
        opened(&path).write_all_at(&data, offset).unwrap();
        self.tell(&path, stamps(&path), Op::Write { offset, length, data });
    }

    pub(super) fn truncate(&mut self) {
        let Some(path) = self.file() else { return };
        opened(&path).set_len(self.random.below(200_000)).unwrap();
        let attributes = Attributes {
            size: Some(meta(&path).size()),
            ..stamps(&path)
        };
        self.tell(&path, attributes, Op::SetAttr);
    }

    /// Punches a hole, or zeroes or preallocates a range.
    pub(super) fn punch(&mut self) {
        let Some(path) = self.file() else { return };
        let mode = [
            PUNCH_HOLE | KEEP_SIZE,
            ZERO_RANGE,
            ZERO_RANGE | KEEP_SIZE,
            0,
            KEEP_SIZE,
        ][usize::try_from(self.random.below(5)).unwrap()];
        let (offset, length) = (self.random.below(150_000), 1 + self.random.below(30_000));
        rewrite(&path, |content| {
            let end = usize::try_from(offset + length).unwrap();
            if mode & KEEP_SIZE == 0 && content.len() < end {
                content.resize(end, 0);
            }
            if mode & (PUNCH_HOLE | ZERO_RANGE) != 0 {
                let end = end.min(content.len());
                let start = usize::try_from(offset).unwrap().min(end);
                content[start..end].fill(0);
            }
        });
        self.tell(&path, stamps(&path), Op::Fallocate { mode, offset, length });
    }

    /// Collapses or inserts a range.
    pub(super) fn shift(&mut self) {
        let Some(path) = self.file() else { return };
        let blocks = meta(&path).size() / BLOCK;
        if blocks < 3 {
            return;
        }
        let offset = self.random.below(blocks - 2) * BLOCK;
        let collapse = self.random.below(2) == 0;
        rewrite(&path, |content| {
            let at = usize::try_from(offset).unwrap();
            if collapse {
                content.drain(at..at + 4096);
            } else {
                content.splice(at..at, std::iter::repeat_n(0, 4096));
            }
        });
        let mode = if collapse { COLLAPSE_RANGE } else { INSERT_RANGE };
        self.tell(
            &path,
            stamps(&path),
            Op::Fallocate {
                mode,
                offset,
                length: BLOCK,
            },
        );
    }

    pub(super) fn clone_range(&mut self) {
        let (Some(source), Some(path)) = (self.file(), self.file()) else {
            return;
        };
        let blocks = meta(&source).size() / BLOCK;
        if blocks < 1 || meta(&source).ino() == meta(&path).ino() {
            return;
        }
        let source_offset = self.random.below(blocks) * BLOCK;
        let length = (1 + self.random.below(blocks - source_offset / BLOCK)) * BLOCK;
        let offset = self.random.below(20) * BLOCK;
        let mut data = vec![0; usize::try_from(length).unwrap()];
        opened(&source).read_exact_at(&mut data, source_offset).unwrap();
        opened(&path).write_all_at(&data, offset).unwrap();
        let op = Op::Clone {
            source: self.key(&source),
            source_offset,
            offset,
            length,
        };
        self.tell(&path, stamps(&path), op);
    }
}
