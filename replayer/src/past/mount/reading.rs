//! Reads files of a mounted moment, and says what cannot be read. Owns that no byte is given out that is not what was sealed; knows nothing
//! of the kernel's protocol.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use fuser::Errno;
use tracing::error;

use super::super::content::{Content, put};
use super::super::tree::Tree;
use super::cache::{Cache, Group, GroupRef, group_of};
use super::view::View;
use crate::exit::integrity;
use crate::media::Media;
use crate::restore::plan::{NodeIndex, Piece, RowRef};

/// A moment of which files are read.
pub(super) struct Past<'a> {
    pub(super) view: View<'a>,
    pub(super) cache: Cache,
    media: &'a Media,
    volume: Option<String>,
    said: Mutex<Said>,
}

/// What was said already: programs read a file again and again, and what damage costs takes time to find out. Bounded by the row groups of
/// the journal.
#[derive(Default)]
struct Said {
    groups: HashSet<GroupRef>,
    segments: HashSet<u32>,
}

impl<'a> Past<'a> {
    /// The tree of a moment of `volume`, as named on the command line; up to `cache_bytes_max` of unpacked rows are kept.
    pub(super) fn new(
        media: &'a Media,
        volume: Option<String>,
        tree: Tree<'a>,
        cache_bytes_max: u64,
    ) -> Self {
        let cache = Cache::new(&tree.plan().pieces, cache_bytes_max);
        Self {
            view: View::new(tree),
            cache,
            media,
            volume,
            said: Mutex::default(),
        }
    }

    /// Up to `length` bytes of a file from `offset` on: fewer where the file ends, none behind its end. What nothing was written to reads as
    /// zeros.
    ///
    /// # Errors
    /// `EIO` where anything of it is not what was sealed, or cannot be read: what and why is logged, with what that costs, once for each
    /// row group. `EINVAL` for what is no regular file.
    pub(super) fn read(&self, node: NodeIndex, offset: u64, length: u32) -> Result<Vec<u8>, Errno> {
        let content = Content::of(&self.view.tree, node).ok_or(Errno::EINVAL)?;
        self.run(&content, offset, length).map_err(|(piece, cause)| {
            if let Some(complaint) = self.complaint(node, &piece, cause) {
                error!("{complaint}");
            }
            Errno::EIO
        })
    }

    /// A run of a file, or the first piece that cannot be had, and why.
    fn run(
        &self,
        content: &Content<'_>,
        offset: u64,
        length: u32,
    ) -> Result<Vec<u8>, (Piece, anyhow::Error)> {
        let length = content.size.saturating_sub(offset).min(length.into());
        // Not longer than a u32 says.
        let mut buffer = vec![0; length as usize];
        let mut held: Option<(GroupRef, Arc<Group>)> = None;
        for piece in content.pieces_of(offset, length) {
            let RowRef { segment, row } = piece.row;
            self.copy(&piece, &mut held, offset, &mut buffer)
                .with_context(|| format!("row {row} of segment {segment}"))
                .map_err(|cause| (piece, cause))?;
        }
        Ok(buffer)
    }

    /// Copies what a piece has of a run of its file. The row group of the piece before is at hand: pieces come in the journal's order.
    fn copy(
        &self,
        piece: &Piece,
        held: &mut Option<(GroupRef, Arc<Group>)>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<()> {
        let of_held = held
            .as_ref()
            .filter(|(group, _)| group.segment == piece.row.segment)
            .and_then(|(_, group)| group.row(piece.row.row));
        if let Some(data) = of_held {
            return put(piece, data, offset, buffer);
        }
        // What was held goes before its successor comes.
        *held = None;
        let (key, group) = &*held.insert(self.cache.group(&self.view.tree.moment.point, piece.row)?);
        // If it fails once more, that is said once more.
        self.said().groups.remove(key);
        let data = group
            .row(piece.row.row)
            .ok_or_else(|| integrity("its row group does not have it"))?;
        put(piece, data, offset, buffer)
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be said of a piece that cannot be had; `None` if its row group's fault was said.
    fn complaint(&self, node: NodeIndex, piece: &Piece, cause: anyhow::Error) -> Option<String> {
        let group = group_of(&self.view.tree.moment.point, piece.row).unwrap_or(piece.row);
        let is_new_segment = {
            let mut said = self.said();
            if !said.groups.insert(group) {
                return None;
            }
            said.segments.insert(group.segment)
        };
        let cause = if is_new_segment {
            self.media.explain(self.volume.as_deref(), cause)
        } else {
            cause
        };
        let path = self.view.tree.plan().path(node);
        let (from, to) = (piece.offset, piece.end());
        Some(format!("{path}: bytes {from} to {to} cannot be read: {cause:#}"))
    }

    /// What [`Past::read`] would log; `None` if it would say nothing.
    ///
    /// # Panics
    /// If it can be read.
    #[cfg(test)]
    pub(super) fn complaint_of(&self, node: NodeIndex) -> Option<String> {
        let content = Content::of(&self.view.tree, node).expect("a file");
        let (piece, cause) = self.run(&content, 0, 1).expect_err("it cannot be read");
        self.complaint(node, &piece, cause)
    }
}
