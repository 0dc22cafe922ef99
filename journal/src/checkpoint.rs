//! The checkpoint: the whole state at one number, made from the journal and written into it, so that a restore needs nothing from before.
//!
//! Its records have numbers of their own, from 1, and are those of a base: whoever folds them has the state. First what there is, then the data, in
//! the order in which the journal has it, so that media are read forward and once. Its end is written only after what is sealed was read
//! back and found to be the state that it was made from: a checkpoint without an end is none.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::chain::Journal;
use crate::error::{Error, Result};
use crate::fold::{Inode, State};
use crate::manifest::{CheckpointOf, Manifest, PointKind};
use crate::points::{ResolvedPoint, Span};
use crate::reader::RowRef;
use crate::record::{Actor, Attributes, Entry, InodeKey, Op, Record, SnapshotScope};
use crate::segment::Projection;

/// Bytes of a hash that is kept of each piece of data: by accident no two pieces have the same.
const HASH_BYTES: usize = 16;

/// A piece of content, in the order in which the journal has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    row: RowRef,
    data_offset: u32,
    inode: InodeKey,
    offset: u64,
    length: u32,
}

/// A checkpoint while it is made.
pub struct Checkpoint<'a> {
    journal: &'a Journal,
    of: CheckpointOf,
    epoch: u64,
    state: State,
    /// Inodes, sorted.
    keys: Vec<InodeKey>,
    pieces: Vec<Piece>,
    hashes: Vec<[u8; HASH_BYTES]>,
    next_seq: u64,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointSize {
    /// Inodes.
    pub inodes: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Records, the last among them.
    pub records: u64,
}

impl<'a> Checkpoint<'a> {
    /// Whether one can be made of a moment.
    ///
    /// # Errors
    /// [`Error::HoleInRange`] where a hole is open then: what is not known cannot be stated.
    pub fn check(point: &ResolvedPoint) -> Result<()> {
        match point.open_holes.first() {
            None => Ok(()),
            Some(hole) => Err(Error::HoleInRange(format!(
                "numbers {} to {} are a hole that is not repaired: no checkpoint can be made before it is",
                hole.first_seq, hole.last_seq
            ))),
        }
    }

    /// Folds the journal up to a moment.
    ///
    /// # Errors
    /// As [`Checkpoint::check`]; [`Error::MediumNeeded`], [`Error::Integrity`], [`Error::Io`].
    pub fn new(journal: &'a Journal, point: &ResolvedPoint) -> Result<Self> {
        Self::check(point)?;
        let state = fold(journal, &point.spans())?;
        let mut keys: Vec<InodeKey> = state.inodes().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        let mut pieces: Vec<Piece> = keys.iter().flat_map(|key| pieces_of(&state, *key)).collect();
        pieces.sort_unstable();
        if state.root().is_none() {
            return Err(Error::Integrity("the journal has no base".to_owned()));
        }
        Ok(Self {
            journal,
            of: CheckpointOf {
                seq: point.seq,
                time_ns: point.time_ns,
            },
            epoch: point.epoch,
            state,
            keys,
            hashes: Vec::with_capacity(pieces.len()),
            pieces,
            next_seq: 1,
        })
    }

    /// Inodes of which something lies in segments up to this index, sorted.
    pub fn inodes_with_data_up_to(&self, segment: u64) -> Vec<InodeKey> {
        let is_before = |piece: &&Piece| u64::from(piece.row.segment) <= segment;
        let found: BTreeSet<InodeKey> = self
            .pieces
            .iter()
            .take_while(is_before)
            .map(|piece| piece.inode)
            .collect();
        found.into_iter().collect()
    }

    /// Of which moment it is.
    pub fn of(&self) -> CheckpointOf {
        self.of
    }

    /// Its epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Hands over all records but the last one, in order.
    ///
    /// # Errors
    /// What `take` says; [`Error::MediumNeeded`], [`Error::Integrity`], [`Error::Io`] of the data.
    pub fn write<E: From<Error>>(
        &mut self,
        mut take: impl FnMut(Record) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let root = self.state.root().unwrap_or_default();
        let begin = self.record(root, Op::BaseBegin { continues: None });
        take(begin)?;
        for at in 0..self.keys.len() {
            let Some(&key) = self.keys.get(at) else { break };
            for record in self.statement(key) {
                take(record)?;
            }
        }
        let mut at = 0;
        while at < self.pieces.len() {
            let segment = self.pieces[at].row.segment;
            let end = at + self.pieces[at..].partition_point(|piece| piece.row.segment == segment);
            self.write_segment(at..end, &mut take)?;
            at = end;
        }
        Ok(())
    }

    /// The pieces whose data lies in one segment.
    fn write_segment<E: From<Error>>(
        &mut self,
        range: Range<usize>,
        take: &mut impl FnMut(Record) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let of_segment: Vec<Piece> = self.pieces[range].to_vec();
        let Some(first) = of_segment.first() else {
            return Ok(());
        };
        let mut rows: Vec<u64> = of_segment.iter().map(|piece| piece.row.row.into()).collect();
        rows.dedup();
        let mut pieces = of_segment.iter().peekable();
        for item in self.journal.segment(first.row.segment.into())?.data(rows)? {
            let (row, data) = item?;
            while let Some(piece) = pieces.next_if(|piece| u64::from(piece.row.row) == row) {
                let bytes = slice(&data, piece)?;
                self.hashes.push(hash(bytes));
                let op = Op::Write {
                    offset: piece.offset,
                    length: piece.length.into(),
                    data: bytes.to_vec(),
                };
                let record = self.record(piece.inode, op);
                take(record)?;
            }
        }
        Ok(())
    }

    fn record(&mut self, inode: InodeKey, op: Op) -> Record {
        let seq = self.next_seq;
        self.next_seq += 1;
        Record {
            seq,
            last_seq: seq,
            time_ns: self.of.time_ns,
            inode,
            attributes: Attributes::default(),
            from_snapshot: true,
            actor: Actor::default(),
            op,
        }
    }

    /// What is to be said of an inode, but for its content.
    fn statement(&mut self, key: InodeKey) -> Vec<Record> {
        let Some(inode) = self.state.inode(key) else {
            return Vec::new();
        };
        let Inode {
            attributes,
            size,
            extents: _,
            entries,
            xattrs,
            link_target,
        } = inode.clone();
        let mut begin = self.record(
            key,
            Op::Snapshot {
                scope: SnapshotScope::Whole,
                link_target,
            },
        );
        begin.attributes = Attributes {
            size: Some(size),
            ..attributes
        };
        let begin_seq = begin.seq;
        let mut records = vec![begin];
        records.extend(
            xattrs
                .into_iter()
                .map(|(name, value)| self.record(key, Op::SetXattr { name, value })),
        );
        records.extend(entries.into_iter().map(|(name, child)| {
            let entry = Entry { parent: key, name };
            self.record(child, Op::SnapshotEntry { entry })
        }));
        records.push(self.record(key, Op::SnapshotEnd { begin_seq }));
        records
    }

    /// Reads back what was sealed: `journal` has it, `span` is where. Gives the last record where it is the state that it was made from.
    ///
    /// # Errors
    /// [`Error::Integrity`] where it is not; as [`Checkpoint::new`].
    pub fn verify(&mut self, journal: &Journal, span: &Span) -> Result<Record> {
        let found = fold(journal, std::slice::from_ref(span))?;
        self.check_state(&found)?;
        let mut pieces: Vec<Piece> = self.keys.iter().flat_map(|key| pieces_of(&found, *key)).collect();
        pieces.sort_unstable();
        if pieces.len() != self.hashes.len() {
            return Err(differs("pieces of content are missing"));
        }
        let mut hashes = self.hashes.iter();
        for of_segment in pieces.chunk_by(|a, b| a.row.segment == b.row.segment) {
            let Some(first) = of_segment.first() else { continue };
            let rows: Vec<u64> = of_segment.iter().map(|piece| piece.row.row.into()).collect();
            let mut of_segment = of_segment.iter();
            for item in journal.segment(first.row.segment.into())?.data(rows)? {
                let (_, data) = item?;
                let (Some(piece), Some(wanted)) = (of_segment.next(), hashes.next()) else {
                    return Err(differs("there is more content"));
                };
                if hash(slice(&data, piece)?) != *wanted {
                    return Err(differs(&format!("the content of inode {}", piece.inode.ino)));
                }
            }
        }
        if hashes.next().is_some() {
            return Err(differs("content is missing"));
        }
        let root = self.state.root().unwrap_or_default();
        Ok(self.record(root, Op::BaseEnd { begin_seq: 1 }))
    }

    /// Compares all but the content.
    fn check_state(&self, found: &State) -> Result<()> {
        if found.root() != self.state.root() || found.inodes().len() != self.keys.len() {
            return Err(differs("the inodes"));
        }
        for &key in &self.keys {
            let (Some(wanted), Some(found)) = (self.state.inode(key), found.inode(key)) else {
                return Err(differs(&format!("inode {}", key.ino)));
            };
            let ranges = |inode: &Inode| {
                inode
                    .extents
                    .iter()
                    .map(|extent| (extent.offset, u64::from(extent.length)))
                    .collect::<Vec<_>>()
            };
            let is_same = found.size == wanted.size
                && without_size(&found.attributes) == without_size(&wanted.attributes)
                && found.entries == wanted.entries
                && found.xattrs == wanted.xattrs
                && found.link_target == wanted.link_target
                && ranges(found) == ranges(wanted);
            if !is_same {
                return Err(differs(&format!("inode {}", key.ino)));
            }
        }
        Ok(())
    }

    /// What it comes to.
    pub fn size(&self) -> CheckpointSize {
        CheckpointSize {
            inodes: self.keys.len() as u64,
            bytes: self.pieces.iter().map(|piece| u64::from(piece.length)).sum(),
            records: self.next_seq - 1,
        }
    }
}

/// The size stands beside the attributes.
fn without_size(attributes: &Attributes) -> Attributes {
    Attributes {
        size: None,
        ..attributes.clone()
    }
}

fn differs(what: &str) -> Error {
    Error::Integrity(format!(
        "the checkpoint is not the state that it was made from: {what}; it does not count"
    ))
}

fn hash(bytes: &[u8]) -> [u8; HASH_BYTES] {
    let mut short = [0; HASH_BYTES];
    for (to, from) in short.iter_mut().zip(blake3::hash(bytes).as_bytes()) {
        *to = *from;
    }
    short
}

fn slice<'d>(data: &'d [u8], piece: &Piece) -> Result<&'d [u8]> {
    let range = usize::try_from(piece.data_offset)
        .ok()
        .zip(usize::try_from(piece.length).ok())
        .and_then(|(from, length)| Some(from..from.checked_add(length)?));
    range.and_then(|range| data.get(range)).ok_or_else(|| {
        Error::Integrity(format!(
            "row {} of segment {} holds less data than its length says",
            piece.row.row, piece.row.segment
        ))
    })
}

fn pieces_of(state: &State, key: InodeKey) -> Vec<Piece> {
    let inode = state.inode(key);
    let extents = inode.into_iter().flat_map(|inode| inode.extents.iter());
    extents
        .map(|extent| Piece {
            row: extent.source.row,
            data_offset: extent.source.offset,
            inode: key,
            offset: extent.offset,
            length: extent.length,
        })
        .collect()
}

fn fold(journal: &Journal, spans: &[Span]) -> Result<State> {
    let mut state = State::new();
    for span in spans {
        for segment in journal.segments_of(span)? {
            for item in segment.records(Projection::State)? {
                let (row, record) = item?;
                if record.seq >= span.base_seq && record.seq <= span.seq {
                    state.apply(row, &record);
                }
            }
        }
    }
    Ok(state)
}

/// A checkpoint that is whole, as the manifests tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complete {
    /// Its epoch.
    pub epoch: u64,
    /// Of which moment it is.
    pub of: CheckpointOf,
    /// Its last record.
    pub last_seq: u64,
    /// Indexes of its first and last segment; others may lie in between.
    pub segments: (u64, u64),
    /// Bytes of its segments.
    pub bytes: u64,
}

impl Complete {
    /// What a restore reads of it.
    pub fn span(&self) -> Span {
        Span {
            epoch: self.epoch,
            base_seq: 1,
            seq: self.last_seq,
            first_segment: self.segments.0,
            last_segment: self.segments.1,
            checkpoint: Some(self.of.seq),
        }
    }
}

/// A checkpoint as far as its segments were looked at.
struct Begun {
    complete: Complete,
    next_seq: u64,
    has_end: bool,
}

impl Begun {
    fn new(manifest: &Manifest, of: CheckpointOf) -> Self {
        Self {
            complete: Complete {
                epoch: manifest.epoch,
                of,
                last_seq: 0,
                segments: (manifest.index, manifest.index),
                bytes: 0,
            },
            next_seq: 1,
            has_end: false,
        }
    }

    fn add(&mut self, manifest: &Manifest) {
        self.next_seq = manifest.last_seq.saturating_add(1);
        self.complete.last_seq = manifest.last_seq;
        self.complete.segments.1 = manifest.index;
        self.complete.bytes += manifest.bytes;
        self.has_end = manifest
            .points
            .iter()
            .any(|point| point.kind == PointKind::BaseEnd);
    }
}

/// The checkpoints that are whole among manifests in order, by epoch and number; of several of one moment the newest.
pub(crate) fn complete<'s>(manifests: impl Iterator<Item = &'s Manifest>) -> Vec<Complete> {
    let mut whole = BTreeMap::new();
    let mut begun: BTreeMap<(u64, u64), Begun> = BTreeMap::new();
    for manifest in manifests {
        let Some(of) = manifest.checkpoint else { continue };
        let key = (manifest.epoch, of.seq);
        // One that was begun and given up may stand before one of the same moment.
        if manifest.first_seq == 1 {
            begun.insert(key, Begun::new(manifest, of));
        }
        let Some(found) = begun.get_mut(&key) else {
            continue;
        };
        if found.has_end || manifest.first_seq != found.next_seq {
            begun.remove(&key);
            continue;
        }
        found.add(manifest);
        if found.has_end {
            whole.insert(key, found.complete.clone());
        }
    }
    whole.into_values().collect()
}
