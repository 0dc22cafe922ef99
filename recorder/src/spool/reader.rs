//! The reading end of the spool: frames, one after the other, whole and checksummed.
//!
//! Owns how a file is read ahead and what is no frame. Which files are there is the writer's business.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use journal::store::disk::{Access, Disk, DiskFile};

use super::{BUFFER_BYTES, FrameKind, HEADER_BYTES, MAGIC, PAYLOAD_BYTES_MAX, Position, checksum, file_path};

/// A frame read back.
pub(crate) struct Frame {
    /// What it holds.
    pub(crate) kind: FrameKind,
    /// The payload.
    pub(crate) payload: Vec<u8>,
    /// The file it came from.
    pub(crate) file: u64,
}

/// The spool ends within a frame.
#[derive(Debug, thiserror::Error)]
#[error("the spool ends within a frame at {0:?}")]
pub(super) struct CutShort(Position);

/// The reading end.
pub(crate) struct SpoolReader {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    at: Position,
    file: Option<Arc<dyn DiskFile>>,
    /// Bytes read and not parsed begin at `parsed`.
    ahead: Vec<u8>,
    parsed: usize,
}

impl SpoolReader {
    /// Reads from the beginning of a file.
    pub(crate) fn new(disk: &Arc<dyn Disk>, dir: &Path, file: u64) -> Self {
        Self {
            disk: Arc::clone(disk),
            dir: dir.to_owned(),
            at: Position { file, offset: 0 },
            file: None,
            ahead: Vec::new(),
            parsed: 0,
        }
    }

    /// Where the next frame begins.
    pub(crate) fn position(&self) -> Position {
        self.at
    }

    /// One more reader, which goes on from here.
    pub(crate) fn fork(&self) -> Self {
        Self {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            at: self.at,
            file: None,
            ahead: Vec::new(),
            parsed: 0,
        }
    }

    /// The next frame before `end`, if there is one.
    ///
    /// # Errors
    /// A frame that is not what was written, or what the disk says.
    pub(crate) fn next(&mut self, end: Position) -> Result<Option<Frame>> {
        loop {
            if self.at >= end {
                return Ok(None);
            }
            let limit = if self.at.file < end.file {
                None
            } else {
                Some(end.offset)
            };
            if self.unparsed() == 0 && !self.read_ahead(limit)? {
                if limit.is_some() {
                    return Ok(None);
                }
                self.at = Position {
                    file: self.at.file + 1,
                    offset: 0,
                };
                self.file = None;
                continue;
            }
            return self.parse(limit).map(Some);
        }
    }

    /// Reads the next part of the file, up to `limit`; whether there was any.
    fn read_ahead(&mut self, limit: Option<u64>) -> Result<bool> {
        let path = file_path(&self.dir, self.at.file);
        let from = self.at.offset + self.unparsed() as u64;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(
                self.disk
                    .open(&path, Access::Read)
                    .with_context(|| format!("open {}", path.display()))?,
            ),
        };
        let room = limit.map_or(BUFFER_BYTES as u64, |limit| {
            limit.saturating_sub(from).min(BUFFER_BYTES as u64)
        });
        self.ahead.drain(..self.parsed);
        self.parsed = 0;
        let held = self.ahead.len();
        self.ahead
            .resize(held + usize::try_from(room).context("part of the spool")?, 0);
        let got = file
            .read_at(&mut self.ahead[held..], from)
            .with_context(|| format!("read {}", path.display()))?;
        self.ahead.truncate(held + got);
        Ok(got > 0)
    }

    fn unparsed(&self) -> usize {
        self.ahead.len() - self.parsed
    }

    fn fill(&mut self, bytes: usize, limit: Option<u64>) -> Result<()> {
        while self.unparsed() < bytes {
            if !self.read_ahead(limit)? {
                return Err(CutShort(self.at).into());
            }
        }
        Ok(())
    }

    fn parse(&mut self, limit: Option<u64>) -> Result<Frame> {
        self.fill(HEADER_BYTES, limit)?;
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&self.ahead[self.parsed..self.parsed + HEADER_BYTES]);
        self.parsed += HEADER_BYTES;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (code, length, crc) = (word(4), word(8) as usize, word(12));
        let kind = FrameKind::from_code(code).filter(|_| word(0) == MAGIC && length <= PAYLOAD_BYTES_MAX);
        let kind = kind.with_context(|| format!("the spool holds no frame at {:?}", self.at))?;
        self.at.offset += HEADER_BYTES as u64;
        self.fill(length, limit)?;
        let payload = self.ahead[self.parsed..self.parsed + length].to_vec();
        self.parsed += length;
        ensure!(
            checksum(code, &payload) == crc,
            "the spool's frame before {:?} is damaged",
            self.at
        );
        self.at.offset += length as u64;
        Ok(Frame {
            kind,
            payload,
            file: self.at.file,
        })
    }
}
