//! The disk below a store, a spool and a ledger: every operation that durability rests on, as one trait.
//!
//! Owns the trait and the disk of this machine. Everything that must survive a crash is written through it, so that a test can put a disk in
//! its place that fails, and loses what was not synced (`faults`). It is no way to a medium: that is [`super::Store`], which has no rename,
//! no rewrite and no delete. A call costs a system call, so what is asked through it is asked for a batch.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, CWD, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// What a name stands for. Links are not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: OsString,
    /// What it stands for.
    pub kind: EntryKind,
    /// Size of a file, bytes.
    pub bytes: u64,
}

/// What becomes of a file that is there when another is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is an error.
    Refused,
    /// It is emptied.
    Emptied,
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading: neither through a link nor waiting for the other end of a pipe.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// A disk with a file system. What its operations do is in the page cache until a sync has returned.
pub trait Disk: Send + Sync {
    /// Creates a file, to be read and written.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, path: &Path, existing: Existing) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file.
    ///
    /// # Errors
    /// `InvalidInput` for what is no regular file, or what the system says.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;

    /// What is there; `None` where nothing is.
    ///
    /// # Errors
    /// What the system says.
    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>>;

    /// The names in a directory, in any order.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>>;

    /// Makes a directory in one that exists.
    ///
    /// # Errors
    /// What the system says.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name, within its directory.
    ///
    /// # Errors
    /// What the system says; `AlreadyExists` where that is refused.
    fn rename(&self, from: &Path, to: &Path, existing: Existing) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// What the system says. Names are the file system's own, which keeps them for the next sync or stops for good.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// All of a file that is known to be small.
    ///
    /// # Errors
    /// As [`Disk::open`] and [`DiskFile::read_at`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, Access::Read)?;
        let mut bytes = vec![0; usize::try_from(file.bytes()?).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Bytes that still fit, where the disk can tell.
    ///
    /// # Errors
    /// What the system says.
    fn bytes_free(&self, directory: &Path) -> io::Result<Option<u64>>;
}

/// A file of a [`Disk`], written and read at any place.
pub trait DiskFile: Send + Sync {
    /// Writes some of the bytes; returns how many.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Reads some bytes; returns how many, 0 only at the end.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Size in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn bytes(&self) -> io::Result<u64>;

    /// Cuts or extends to a size in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn set_bytes(&self, bytes: u64) -> io::Result<()>;

    /// Takes the room that so many bytes from the beginning need, where the file system can; the size stays.
    ///
    /// # Errors
    /// What the system says.
    fn make_room(&self, bytes: u64) -> io::Result<()>;

    /// Takes away everybody's right to write, for later openings, where the file system can; `executable` gives everybody that right.
    ///
    /// # Errors
    /// What the system says.
    fn make_read_only(&self, executable: bool) -> io::Result<()>;

    /// Makes content, size and attributes durable.
    ///
    /// # Errors
    /// What the system says. What was not durable by then never will be: a system that failed to write a page forgets it, and the next sync succeeds.
    fn sync(&self) -> io::Result<()>;

    /// Makes content and size durable.
    ///
    /// # Errors
    /// As [`DiskFile::sync`].
    fn sync_content(&self) -> io::Result<()>;

    /// Lets go of what the page cache holds of it, as far as that is synced, so that what is read next comes from the disk.
    ///
    /// # Errors
    /// What the system says.
    fn drop_cached(&self) -> io::Result<()>;

    /// Writes all of the bytes.
    ///
    /// # Errors
    /// As [`DiskFile::write_at`]; some may be written then.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    offset += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fills the buffer.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end, or as [`DiskFile::read_at`].
    fn read_exact_at(&self, buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        let mut rest = buffer;
        while !rest.is_empty() {
            match self.read_at(rest, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    rest = rest.get_mut(read..).unwrap_or_default();
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Puts a file where another may lie, durably and in one step: whoever looks, whenever the power goes, finds the one or the other, whole.
///
/// # Errors
/// What the system says; then the one before is still there.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    let file = disk.create(new, Existing::Emptied)?;
    file.write_all_at(bytes, 0)?;
    file.sync()?;
    disk.rename(new, path, Existing::Emptied)?;
    disk.sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// The disks of this machine, as they are mounted.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn create(&self, path: &Path, existing: Existing) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = File::options();
        options.read(true).write(true);
        match existing {
            Existing::Refused => options.create_new(true),
            Existing::Emptied => options.create(true).truncate(true),
        };
        Ok(Arc::new(SystemFile(options.open(path)?)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let rights = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        let is_none = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not a regular file", path.display()),
            )
        };
        let flags = rights | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP | Errno::NXIO) => return Err(is_none()),
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Err(is_none());
        }
        Ok(Arc::new(SystemFile(file)))
    }

    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        match path.symlink_metadata() {
            Ok(found) => Ok(Some(kind_of(found.file_type()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let kind = kind_of(entry.file_type()?);
            let bytes = match kind {
                EntryKind::File => entry.metadata()?.len(),
                EntryKind::Directory | EntryKind::Other => 0,
            };
            let name = entry.file_name();
            entries.push(Entry { name, kind, bytes });
        }
        Ok(entries)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path, existing: Existing) -> io::Result<()> {
        if existing == Existing::Emptied {
            return fs::rename(from, to);
        }
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // vfat and some network file systems have no such flag; the only writer has seen that the name is free.
            Err(Errno::INVAL) if to.symlink_metadata().is_err() => fs::rename(from, to),
            result => Ok(result?),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn bytes_free(&self, directory: &Path) -> io::Result<Option<u64>> {
        let stat = rustix::fs::statvfs(directory)?;
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }
}

fn kind_of(found: fs::FileType) -> EntryKind {
    if found.is_file() {
        EntryKind::File
    } else if found.is_dir() {
        EntryKind::Directory
    } else {
        EntryKind::Other
    }
}

struct SystemFile(File);

impl DiskFile for SystemFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn make_room(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn make_read_only(&self, executable: bool) -> io::Result<()> {
        let mode = if executable { 0o555 } else { 0o444 };
        match self.0.set_permissions(Permissions::from_mode(mode)) {
            // vfat and the like cannot hold this mode.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
                ) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn sync_content(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn drop_cached(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.0, 0, None, Advice::DontNeed)?)
    }
}
