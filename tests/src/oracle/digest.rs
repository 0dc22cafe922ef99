//! Walks a tree and writes its digest. Memory: one entry, the names of the directories from the root down, and one path for each
//! inode with several names. A bounded number of them is open, however deep the tree.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{CStr, CString};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags};

use super::entry::{Entry, Kind, escape};
use super::{flags, ranges, xattrs};

/// Bytes read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Directories kept open.
const DIRECTORIES_OPEN_MAX: usize = 64;
/// Files up to this size are read whole, whatever the file system says of where they have data: it may be wrong.
const READ_WHOLE_BYTES_MAX: u64 = 64 << 20;
/// Ranges kept of one file's allocation map.
const RANGES_MAX: usize = 4096;

/// Writes one JSON line per entry of the tree at `root` to `out`, names sorted within their directory, and returns entries and content
/// bytes. Other mounts below are not entered. `excluded` names are left out wherever they stand directly below the root.
///
/// # Errors
/// Any entry that cannot be read: a digest is complete or it is none.
pub fn digest(root: &Path, excluded: &HashSet<Vec<u8>>, out: &mut dyn Write) -> Result<(u64, u64)> {
    let fd = fs::openat(
        CWD,
        root,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .with_context(|| format!("open {}", root.display()))?;
    let device = fs::fstat(&fd).context("stat root")?.st_dev;
    let mut walk = Walk {
        device,
        out,
        first_path: BTreeMap::new(),
        entries: 0,
        bytes: 0,
        buffer: vec![0; CHUNK_BYTES],
    };
    let handle = fs::openat(&fd, c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context("open root")?;
    walk.entry(&handle, c".", b".", &fd)?;
    let mut levels = Levels::default();
    levels.push(fd, 0, excluded)?;
    let mut path = Vec::new();
    while let Some(name) = levels.next(&mut path)? {
        let parent = levels.top()?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = fs::openat(parent, &name, flags, Mode::empty())
            .with_context(|| format!("open {}", escape(&path)))?;
        let directory = walk
            .entry(&handle, &name, &path, parent)
            .with_context(|| format!("digest {}", escape(&path)))?;
        if let Some(directory) = directory {
            levels
                .push(directory, path.len(), &HashSet::new())
                .with_context(|| format!("read directory {}", escape(&path)))?;
        }
    }
    Ok((walk.entries, walk.bytes))
}

/// A directory being walked.
struct Level {
    /// Closed while the walk is far below it.
    fd: Option<OwnedFd>,
    /// Device and inode, by which it is known again.
    id: (u64, u64),
    /// Bytes of its path.
    path_bytes: usize,
    /// Names still to do, in reverse order.
    names: Vec<CString>,
}

/// The directories from the root down: any number of them, few of them open.
#[derive(Default)]
struct Levels(Vec<Level>);

impl Levels {
    fn push(&mut self, fd: OwnedFd, path_bytes: usize, excluded: &HashSet<Vec<u8>>) -> Result<()> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&fd).context("list")? {
            let entry = entry.context("list")?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") && !excluded.contains(name.to_bytes()) {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        let id = id(&fd)?;
        self.0.push(Level {
            fd: Some(fd),
            id,
            path_bytes,
            names,
        });
        if let Some(far) = self.0.len().checked_sub(DIRECTORIES_OPEN_MAX + 1) {
            self.0[far].fd = None;
        }
        Ok(())
    }

    /// The next name, and in `path` the directory that it is in.
    fn next(&mut self, path: &mut Vec<u8>) -> Result<Option<CString>> {
        while let Some(level) = self.0.last_mut() {
            path.truncate(level.path_bytes);
            if let Some(name) = level.names.pop() {
                return Ok(Some(name));
            }
            let done = self.0.pop().and_then(|level| level.fd);
            if let (Some(above), Some(done)) = (self.0.last_mut(), done)
                && above.fd.is_none()
            {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME | OFlags::CLOEXEC;
                let fd = fs::openat(&done, c"..", flags, Mode::empty())
                    .context("go back to the directory above")?;
                anyhow::ensure!(
                    id(&fd)? == above.id,
                    "the tree changes while it is read: {} was moved",
                    escape(path)
                );
                above.fd = Some(fd);
            }
        }
        Ok(None)
    }

    /// The directory of the last name.
    fn top(&self) -> Result<&OwnedFd> {
        self.0
            .last()
            .and_then(|level| level.fd.as_ref())
            .context("no directory is open")
    }
}

fn id(fd: &OwnedFd) -> Result<(u64, u64)> {
    let stat = fs::fstat(fd).context("stat")?;
    Ok((stat.st_dev, stat.st_ino))
}

struct Walk<'a> {
    device: u64,
    out: &'a mut dyn Write,
    first_path: BTreeMap<u64, String>,
    entries: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Walk<'_> {
    /// Writes the entry behind `handle`, unless another mount begins there. Gives a directory to go into.
    fn entry(
        &mut self,
        handle: &OwnedFd,
        name: &CStr,
        path: &[u8],
        parent: &OwnedFd,
    ) -> Result<Option<OwnedFd>> {
        let stat = fs::statat(handle, c"", AtFlags::EMPTY_PATH).context("stat")?;
        if stat.st_dev != self.device {
            return Ok(None);
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::Character,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::Unknown => anyhow::bail!("unknown file type {:o}", stat.st_mode),
        };
        let path = escape(path);
        let (xattrs, acls) = xattrs::read(handle)?;
        let mut entry = Entry {
            path: path.clone(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: matches!(kind, Kind::Character | Kind::Block)
                .then(|| (fs::major(stat.st_rdev), fs::minor(stat.st_rdev))),
            target: None,
            link_group: None,
            size: None,
            mtime: (
                stat.st_mtime,
                u32::try_from(stat.st_mtime_nsec).context("nanoseconds")?,
            ),
            xattrs,
            acls,
            flags: String::new(),
            project: 0,
            content: None,
            data: Vec::new(),
        };
        if kind != Kind::Directory && stat.st_nlink > 1 {
            entry.link_group = Some(self.first_path.entry(stat.st_ino).or_insert(path).clone());
        }
        let mut directory = None;
        match kind {
            Kind::Symlink => {
                let target = fs::readlinkat(handle, c"", Vec::new()).context("read link")?;
                entry.target = Some(escape(target.to_bytes()));
            }
            Kind::File => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::CLOEXEC;
                let file = fs::openat(parent, name, flags, Mode::empty()).context("open file")?;
                (entry.flags, entry.project) = (flags::flags(&file)?, flags::project(&file)?);
                let size = u64::try_from(stat.st_size).context("size")?;
                entry.size = Some(size);
                entry.data = data_ranges(&file, size)?;
                entry.content = Some(self.content(&file, size)?);
                self.bytes += size;
            }
            Kind::Directory => {
                let flags =
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::CLOEXEC;
                let fd = fs::openat(parent, name, flags, Mode::empty()).context("open directory")?;
                (entry.flags, entry.project) = (flags::flags(&fd)?, flags::project(&fd)?);
                directory = Some(fd);
            }
            _ => {}
        }
        serde_json::to_writer(&mut *self.out, &entry).context("write digest")?;
        self.out.write_all(b"\n").context("write digest")?;
        self.entries += 1;
        Ok(directory)
    }

    /// Hash of a file's size and data; a hole counts as zeros, in a large file without being read, so that one of 1 TiB costs nothing.
    fn content(&mut self, file: &OwnedFd, size: u64) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        let mut offset = 0u64;
        let next = |offset| {
            if size > READ_WHOLE_BYTES_MAX {
                ranges::next(file, offset, size)
            } else {
                Ok((offset < size).then_some((offset, size)))
            }
        };
        while let Some((start, end)) = next(offset)? {
            // Whole blocks only, so that the hash does not depend on where a file system with smaller blocks has its holes.
            let end = end.next_multiple_of(BLOCK_BYTES as u64);
            offset = offset.max(start - start % BLOCK_BYTES as u64);
            while offset < end {
                let want = usize::try_from((end - offset).min(CHUNK_BYTES as u64)).context("chunk")?;
                let got = rustix::io::pread(file, &mut self.buffer[..want], offset).context("read")?;
                if got == 0 {
                    return Ok(hasher.finalize().to_hex().to_string());
                }
                hash_nonzero(&mut hasher, offset, &self.buffer[..got]);
                offset += got as u64;
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// Bytes of the blocks that the content hash is made of.
const BLOCK_BYTES: usize = 4096;

/// Feeds the blocks that are not all zero, each with its offset: a hole and written zeros hash the same.
fn hash_nonzero(hasher: &mut blake3::Hasher, offset: u64, data: &[u8]) {
    let mut at = 0;
    while at < data.len() {
        let position = offset + at as u64;
        let to_boundary = BLOCK_BYTES - usize::try_from(position % BLOCK_BYTES as u64).unwrap_or(0);
        let block = &data[at..data.len().min(at + to_boundary)];
        if block.iter().any(|&byte| byte != 0) {
            let trimmed = block.len() - block.iter().rev().take_while(|&&byte| byte == 0).count();
            hasher.update(&position.to_le_bytes());
            hasher.update(&(trimmed as u64).to_le_bytes());
            hasher.update(&block[..trimmed]);
        }
        at += block.len();
    }
}

/// Allocated ranges of a file, at most [`RANGES_MAX`] of them.
fn data_ranges(file: impl AsFd, size: u64) -> Result<Vec<(u64, u64)>> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut offset = 0;
    while found.len() < RANGES_MAX {
        let Some((start, end)) = ranges::next(&file, offset, size)? else {
            break;
        };
        match found.last_mut() {
            Some((before, length)) if *before + *length == start => *length += end - start,
            _ => found.push((start, end - start)),
        }
        offset = end;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_of(bytes: &[u8], sparse_to: Option<u64>) -> String {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
        if let Some(size) = sparse_to {
            file.set_len(size).unwrap();
        }
        let mut sink = Vec::new();
        let mut walk = Walk {
            device: 0,
            out: &mut sink,
            first_path: BTreeMap::new(),
            entries: 0,
            bytes: 0,
            buffer: vec![0; CHUNK_BYTES],
        };
        let size = file.metadata().unwrap().len();
        walk.content(&file.into(), size).unwrap()
    }

    #[test]
    fn holes_hash_as_zeros() {
        let mut zeros = b"abc".to_vec();
        zeros.resize(300_000, 0);
        assert_eq!(content_of(b"abc", Some(300_000)), content_of(&zeros, None));
    }

    #[test]
    fn one_changed_byte_anywhere_changes_the_hash() {
        let data: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        let whole = content_of(&data, None);
        for at in [0, 4095, 4096, 19_999] {
            let mut other = data.clone();
            other[at] ^= 1;
            assert_ne!(content_of(&other, None), whole, "byte {at}");
        }
    }
}
