//! The spool: the bounded local log between the ring and the medium.
//!
//! Owns files of frames, appended by one lock and read in order by one reader. A frame is whole and checksummed or it is not there.
//! It does not know what a frame holds, but for the sequence number that its writer states.

mod reader;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use journal::store::disk::{Access, Disk, DiskFile, EntryKind, Existing};

use self::reader::CutShort;
pub(crate) use self::reader::{Frame, SpoolReader};

const FILE_PREFIX: &str = "spool-";
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
    /// Events up to the number in it may have found no room. Only whoever comes after a break needs it: the others see the hole.
    Lost,
}

impl FrameKind {
    fn code(self) -> u32 {
        match self {
            Self::Event => 1,
            Self::Own => 2,
            Self::Lost => 3,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Event),
            2 => Some(Self::Own),
            3 => Some(Self::Lost),
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
    dir.join(format!("{FILE_PREFIX}{index:012}"))
}

/// The writing end.
pub(crate) struct Spool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    bytes_max: u64,
    file_bytes: u64,
    current: Arc<dyn DiskFile>,
    index: u64,
    offset: u64,
    buffer: Vec<u8>,
    /// Files that are there, the current one included.
    files: u64,
    /// Files that are complete and not synced yet.
    unsynced: Vec<Arc<dyn DiskFile>>,
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
    pub(crate) fn create(disk: &Arc<dyn Disk>, dir: &Path, bytes_max: u64, file_bytes: u64) -> Result<Self> {
        ensure!(
            bytes_max >= FILES_MIN * file_bytes,
            "the spool needs at least {} MiB",
            (FILES_MIN * file_bytes) >> 20
        );
        // The oldest first: what a power cut leaves of them has no gap.
        for (index, _) in left_files(&**disk, dir)? {
            let path = file_path(dir, index);
            disk.remove(&path)
                .with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(Self {
            disk: Arc::clone(disk),
            dir: dir.to_owned(),
            bytes_max,
            file_bytes,
            current: new_file(&**disk, dir, 1, file_bytes)?,
            index: 1,
            offset: 0,
            buffer: Vec::with_capacity(2 * BUFFER_BYTES),
            files: 1,
            unsynced: Vec::new(),
        })
    }

    /// Goes on after the frames that somebody left who was killed: hands them to `each`, cuts what was being written when that happened.
    /// Returns the spool and the index of its oldest file.
    ///
    /// # Errors
    /// A directory that cannot be used, no spool there, or a frame that is damaged and not just cut short at the very end.
    pub(crate) fn recover(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        bytes_max: u64,
        file_bytes: u64,
        mut each: impl FnMut(&Frame),
    ) -> Result<(Self, u64)> {
        let files = left_files(&**disk, dir)?;
        let (Some(&(oldest, _)), Some(&(newest, length))) = (files.first(), files.last()) else {
            bail!("there is no spool in {}", dir.display());
        };
        ensure!(
            newest - oldest + 1 == files.len() as u64,
            "files of the spool in {} are missing",
            dir.display()
        );
        let mut reader = SpoolReader::new(disk, dir, oldest);
        let end = Position {
            file: newest,
            offset: length,
        };
        let offset = loop {
            let before = reader.position();
            match reader.next(end) {
                Ok(Some(frame)) => each(&frame),
                Ok(None) => break length,
                Err(error) if error.is::<CutShort>() && reader.position().file == newest => {
                    break if before.file == newest { before.offset } else { 0 };
                }
                Err(error) => return Err(error),
            }
        };
        let path = file_path(dir, newest);
        let context = || format!("go on with {}", path.display());
        let current = disk.open(&path, Access::ReadWrite).with_context(context)?;
        if offset < length {
            tracing::info!("{}: cut from {length} to {offset} bytes", path.display());
            current.set_bytes(offset).with_context(context)?;
        }
        current.make_room(file_bytes).with_context(context)?;
        let spool = Self {
            disk: Arc::clone(disk),
            dir: dir.to_owned(),
            bytes_max,
            file_bytes,
            current,
            index: newest,
            offset,
            buffer: Vec::with_capacity(2 * BUFFER_BYTES),
            files: files.len() as u64,
            unsynced: Vec::new(),
        };
        Ok((spool, oldest))
    }

    /// How far it is written.
    pub(crate) fn position(&self) -> Position {
        Position {
            file: self.index,
            offset: self.offset,
        }
    }

    /// Bytes of disk taken.
    pub(crate) fn bytes(&self) -> u64 {
        self.files * self.file_bytes
    }

    /// Bytes that were appended and are not given back yet.
    pub(crate) fn used_bytes(&self) -> u64 {
        (self.files - 1) * self.file_bytes + self.offset + self.buffer.len() as u64
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
        Ok(self.position())
    }

    /// What was written and is not synced yet, to be synced without holding the spool.
    pub(crate) fn unsynced(&mut self) -> Unsynced {
        Unsynced {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            complete: std::mem::take(&mut self.unsynced),
            current: Arc::clone(&self.current),
            at: self.position(),
        }
    }

    fn next_file(&mut self) -> Result<()> {
        self.write()?;
        self.current.set_bytes(self.offset).context("cut a spool file")?;
        let next = new_file(&*self.disk, &self.dir, self.index + 1, self.file_bytes)?;
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
            self.disk
                .remove(&path)
                .with_context(|| format!("remove {}", path.display()))?;
            *oldest += 1;
            self.files -= 1;
        }
        Ok(())
    }
}

/// What was written up to a position and is not synced yet.
pub(crate) struct Unsynced {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Files that were completed.
    complete: Vec<Arc<dyn DiskFile>>,
    /// The file that is being written.
    current: Arc<dyn DiskFile>,
    at: Position,
}

impl Unsynced {
    /// Syncs everything after `synced`, which moves on; whether there was anything. Names come first, then the older files: what a power cut
    /// leaves is a beginning of what was written.
    ///
    /// # Errors
    /// What the disk says; how much of it is durable is not known then.
    pub(crate) fn sync(self, synced: &mut Position) -> Result<bool> {
        let Self {
            disk,
            dir,
            complete,
            current,
            at,
        } = self;
        if synced.file != at.file {
            disk.sync_directory(&dir)
                .context("sync the directory of the spool")?;
        }
        for file in complete {
            file.sync_content().context("sync a spool file")?;
        }
        let is_new = at > *synced;
        if is_new {
            current.sync_content().context("sync the spool")?;
            *synced = at;
        }
        Ok(is_new)
    }
}

/// Index and length of the files that are there, oldest first.
pub(crate) fn left_files(disk: &dyn Disk, dir: &Path) -> Result<Vec<(u64, u64)>> {
    let mut files = Vec::new();
    for entry in disk
        .list(dir)
        .with_context(|| format!("read spool {}", dir.display()))?
    {
        let name = entry.name.to_string_lossy();
        let index = name.strip_prefix(FILE_PREFIX).map(str::parse);
        if let (Some(Ok(index)), EntryKind::File) = (index, entry.kind) {
            files.push((index, entry.bytes));
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn new_file(disk: &dyn Disk, dir: &Path, index: u64, bytes: u64) -> Result<Arc<dyn DiskFile>> {
    let path = file_path(dir, index);
    let file = disk
        .create(&path, Existing::Refused)
        .with_context(|| format!("create {}", path.display()))?;
    file.make_room(bytes)
        .with_context(|| format!("make room for {}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
