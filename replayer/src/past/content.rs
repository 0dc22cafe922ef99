//! The content of one file of a moment, in runs of any place and length.

use anyhow::{Context, Result};

use super::tree::Tree;
use crate::exit::integrity;
use crate::media::Point;
use crate::restore::plan::{Kind, NodeIndex, Piece};

/// A regular file of a moment.
pub(crate) struct Content<'a> {
    point: &'a Point<'a>,
    /// Its pieces, in order of their place in the file.
    pieces: &'a [Piece],
    /// Bytes.
    pub(crate) size: u64,
}

impl<'a> Content<'a> {
    /// The content of a node; `None` if it is no regular file.
    pub(crate) fn of(tree: &'a Tree<'_>, node: NodeIndex) -> Option<Self> {
        let Kind::File { size } = tree.plan().node(node).kind else {
            return None;
        };
        Some(Self {
            point: &tree.moment.point,
            pieces: tree.pieces(node),
            size,
        })
    }

    /// Whether two contents are made of the same bytes of the same journal: then they need not be read.
    pub(crate) fn has_pieces_of(&self, other: &Self) -> bool {
        let place = |piece: &Piece| (piece.row, piece.data_offset, piece.offset, piece.length);
        self.size == other.size
            && self.point.is_of_the_journal_of(other.point)
            && self.pieces.iter().map(place).eq(other.pieces.iter().map(place))
    }

    /// The pieces that have something of a run of the file, in the order of the journal. What no piece covers reads as zeros.
    pub(super) fn pieces_of(&self, offset: u64, length: u64) -> Vec<Piece> {
        let end = offset.saturating_add(length);
        let first = self.pieces.partition_point(|piece| piece.end() <= offset);
        let mut wanted: Vec<Piece> = self
            .pieces
            .iter()
            .skip(first)
            .take_while(|piece| piece.offset < end)
            .copied()
            .collect();
        wanted.sort_unstable();
        wanted
    }

    /// Fills `buffer` with what stands at `offset`; all of it must be below the size. Row groups are read in the order of the journal,
    /// each once.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        buffer.fill(0);
        let wanted = self.pieces_of(offset, buffer.len() as u64);
        for of_segment in wanted.chunk_by(|a, b| a.row.segment == b.row.segment) {
            let Some(segment) = of_segment.first().map(|piece| piece.row.segment) else {
                continue;
            };
            let mut rows: Vec<u64> = of_segment.iter().map(|piece| u64::from(piece.row.row)).collect();
            rows.dedup();
            let mut pieces = of_segment.iter().peekable();
            for item in self.point.data(segment, rows)? {
                let (row, data) = item?;
                while let Some(piece) = pieces.next_if(|piece| u64::from(piece.row.row) == row) {
                    put(piece, &data, offset, buffer)
                        .with_context(|| format!("row {row} of segment {segment}"))?;
                }
            }
        }
        Ok(())
    }
}

/// Copies what a piece has of a run of the file: `data` is its row's, `buffer` begins at `offset` of the file.
pub(super) fn put(piece: &Piece, data: &[u8], offset: u64, buffer: &mut [u8]) -> Result<()> {
    let end = offset + buffer.len() as u64;
    let (from, to) = (piece.offset.max(offset), piece.end().min(end));
    let place = |start: u64, length: u64| {
        let start = usize::try_from(start).ok()?;
        Some(start..start.checked_add(usize::try_from(length).ok()?)?)
    };
    let length = to.saturating_sub(from);
    let source =
        place(u64::from(piece.data_offset) + (from - piece.offset), length).and_then(|range| data.get(range));
    let target = place(from - offset, length).and_then(|range| buffer.get_mut(range));
    match (source, target) {
        (Some(source), Some(target)) => target.copy_from_slice(source),
        _ => return Err(integrity("it holds fewer bytes than it states")),
    }
    Ok(())
}
