//! The spool: the bounded local log between the ring and the medium.
//!
//! Owns files of frames, appended by one lock and read in order by one reader. A frame is whole and checksummed or it is not there.
//! It does not know what a frame holds, but for the sequence number that its writer states.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::FallocateFlags;

/// Bytes of one file; a frame never crosses files.
pub(crate) const FILE_BYTES: u64 = 64 << 20;
/// Files that a spool must have room for: some are read while others are written.
pub(crate) const FILES_MIN: u64 = 4;
/// Bytes gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;
/// Begins every frame.
const MAGIC: u32 = 0x5457_4d31;
/// Bytes of a frame's header: magic, kind, payload length, crc32c of kind, length and payload.
const HEADER_BYTES: usize = 16;
/// Longest payload in bytes.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// An event as it came from the kernel.
    Event,
    /// A record of the recorder's own.
    Own,
}

impl FrameKind {
    fn code(self) -> u32 {
        match self {
            Self::Event => 1,
            Self::Own => 2,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Event),
            2 => Some(Self::Own),
            _ => None,
        }
    }
}

fn checksum(kind: u32, payload: &[u8]) -> u32 {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut head = [0; 8];
    head[..4].copy_from_slice(&kind.to_le_bytes());
    head[4..].copy_from_slice(&length.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}

fn file_path(dir: &Path, index: u64) -> PathBuf {
    dir.join(format!("spool-{index:012}"))
}

/// The writing end.
pub(crate) struct Spool {
    dir: PathBuf,
    bytes_max: u64,
    file_bytes: u64,
    current: File,
    index: u64,
    offset: u64,
    buffer: Vec<u8>,
    /// Files that are there, the current one included.
    files: u64,
    /// Files that are complete and not synced yet.
    unsynced: Vec<File>,
}

/// How far the spool is written: file and offset in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// Index of the file.
    pub(crate) file: u64,
    /// Offset in bytes.
    pub(crate) offset: u64,
}

impl Spool {
    /// Begins an empty spool; files of an earlier one, whose epoch is over, are removed.
    ///
    /// # Errors
    /// A directory that cannot be used, or too little room for one file.
    pub(crate) fn create(dir: &Path, bytes_max: u64, file_bytes: u64) -> Result<Self> {
        ensure!(
            bytes_max >= FILES_MIN * file_bytes,
            "the spool needs at least {} MiB",
            (FILES_MIN * file_bytes) >> 20
        );
        for entry in fs::read_dir(dir).with_context(|| format!("read spool {}", dir.display()))? {
            let entry = entry.with_context(|| format!("read spool {}", dir.display()))?;
            if entry.file_name().to_string_lossy().starts_with("spool-") {
                fs::remove_file(entry.path())
                    .with_context(|| format!("remove {}", entry.path().display()))?;
            }
        }
        let current = new_file(dir, 1, file_bytes)?;
        let (dir, buffer) = (dir.to_owned(), Vec::with_capacity(2 * BUFFER_BYTES));
        Ok(Self {
            dir,
            bytes_max,
            file_bytes,
            current,
            index: 1,
            offset: 0,
            buffer,
            files: 1,
            unsynced: Vec::new(),
        })
    }

    /// Bytes of disk taken.
    pub(crate) fn bytes(&self) -> u64 {
        self.files * self.file_bytes
    }

    /// Whether nothing more may be appended.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes() >= self.bytes_max
            && self.offset + self.buffer.len() as u64 + (BUFFER_BYTES * 8) as u64 > self.file_bytes
    }

    /// Whether own records should wait, so that events find room.
    pub(crate) fn is_above_high_water(&self) -> bool {
        self.bytes() * 10 >= self.bytes_max * 7
    }

    /// Appends a frame to the buffer.
    ///
    /// # Errors
    /// A payload that is too long, or a failing disk.
    pub(crate) fn append(&mut self, kind: FrameKind, parts: &[&[u8]]) -> Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        ensure!(
            length <= PAYLOAD_BYTES_MAX,
            "a frame of {length} bytes is too long for the spool"
        );
        if self.offset + (self.buffer.len() + HEADER_BYTES + length) as u64 > self.file_bytes {
            self.next_file()?;
        }
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&MAGIC.to_le_bytes());
        self.buffer.extend_from_slice(&kind.code().to_le_bytes());
        self.buffer
            .extend_from_slice(&u32::try_from(length).context("frame length")?.to_le_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        for part in parts {
            self.buffer.extend_from_slice(part);
        }
        let crc = checksum(kind.code(), &self.buffer[start + HEADER_BYTES..]);
        self.buffer[start + 12..start + HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        if self.buffer.len() >= BUFFER_BYTES {
            self.write()?;
        }
        Ok(())
    }

    /// Writes the buffer out; the reader may then read up to the position returned.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn write(&mut self) -> Result<Position> {
        if !self.buffer.is_empty() {
            let path = || format!("write {}", file_path(&self.dir, self.index).display());
            self.current
                .write_all_at(&self.buffer, self.offset)
                .with_context(path)?;
            self.offset += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(Position {
            file: self.index,
            offset: self.offset,
        })
    }

    /// The file that is being written, to be synced without holding the spool.
    ///
    /// # Errors
    /// No more descriptors.
    pub(crate) fn current_file(&self) -> Result<File> {
        self.current
            .try_clone()
            .context("duplicate the spool's descriptor")
    }

    /// Files that were completed since the last call, to be synced without holding the spool.
    pub(crate) fn take_unsynced(&mut self) -> Vec<File> {
        std::mem::take(&mut self.unsynced)
    }

    fn next_file(&mut self) -> Result<()> {
        self.write()?;
        self.current.set_len(self.offset).context("cut a spool file")?;
        let next = new_file(&self.dir, self.index + 1, self.file_bytes)?;
        // Synced by the commit thread: the ring must not wait for a disk.
        self.unsynced.push(std::mem::replace(&mut self.current, next));
        self.index += 1;
        self.offset = 0;
        self.files += 1;
        Ok(())
    }

    /// Removes files before `index`: everything in them is sealed.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn release(&mut self, oldest: &mut u64, index: u64) -> Result<()> {
        while *oldest < index.min(self.index) {
            let path = file_path(&self.dir, *oldest);
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            *oldest += 1;
            self.files -= 1;
        }
        Ok(())
    }
}

fn new_file(dir: &Path, index: u64, bytes: u64) -> Result<File> {
    let path = file_path(dir, index);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("create {}", path.display()))?;
    match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(file),
        Err(error) => {
            Err(io::Error::from(error)).with_context(|| format!("make room for {}", path.display()))
        }
    }
}

/// A frame read back.
pub(crate) struct Frame {
    /// What it holds.
    pub(crate) kind: FrameKind,
    /// The payload.
    pub(crate) payload: Vec<u8>,
    /// The file it came from.
    pub(crate) file: u64,
}

/// The reading end.
pub(crate) struct SpoolReader {
    dir: PathBuf,
    at: Position,
    file: Option<File>,
    /// Bytes read and not parsed begin at `parsed`.
    ahead: Vec<u8>,
    parsed: usize,
}

impl SpoolReader {
    /// Reads from the beginning.
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            at: Position { file: 1, offset: 0 },
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
            none => none.insert(File::open(&path).with_context(|| format!("open {}", path.display()))?),
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
            ensure!(
                self.read_ahead(limit)?,
                "the spool ends within a frame at {:?}",
                self.at
            );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_order_across_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path(), 16 * FILE_BYTES, FILE_BYTES).unwrap();
        let payload = |i: u32| vec![u8::try_from(i % 251).unwrap(); 1_000_000 + i as usize];
        for i in 0..150 {
            spool
                .append(
                    if i % 2 == 0 {
                        FrameKind::Event
                    } else {
                        FrameKind::Own
                    },
                    &[&payload(i)[..7], &payload(i)[7..]],
                )
                .unwrap();
        }
        let end = spool.write().unwrap();
        assert!(end.file > 2);
        let mut reader = SpoolReader::new(dir.path());
        for i in 0..150 {
            let frame = reader.next(end).unwrap().unwrap();
            assert_eq!(frame.payload, payload(i));
            assert_eq!(frame.kind == FrameKind::Event, i % 2 == 0);
        }
        assert!(reader.next(end).unwrap().is_none());
        let mut oldest = 1;
        spool.release(&mut oldest, reader.position().file).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_changed_byte_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path(), 4 * FILE_BYTES, FILE_BYTES).unwrap();
        spool.append(FrameKind::Event, &[b"some payload"]).unwrap();
        let end = spool.write().unwrap();
        for at in 0..end.offset {
            let path = file_path(dir.path(), 1);
            let mut bytes = fs::read(&path).unwrap();
            bytes[usize::try_from(at).unwrap()] ^= 0x10;
            let copy = tempfile::tempdir().unwrap();
            fs::write(file_path(copy.path(), 1), bytes).unwrap();
            assert!(SpoolReader::new(copy.path()).next(end).is_err(), "byte {at}");
        }
    }
}
