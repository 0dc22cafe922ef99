//! A directory on a mounted medium as a store.
//!
//! An object is written under a temporary name, made read-only, synced, read back from the medium, renamed to its name (never over another), and
//! its directory is synced. So a name exists only with its whole content behind it, whatever happens in between.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Access, Disk, DiskFile, EntryKind, Existing, SystemDisk};
use super::{Append, ObjectInfo, ObjectKind, ReadAt, Store, check_name};

/// Begins the name of everything that is not sealed yet.
const TEMPORARY_PREFIX: &str = ".tapeworm-unsealed-";

/// A store in a directory.
#[derive(Clone)]
pub struct DirStore {
    disk: Arc<dyn Disk>,
    root: PathBuf,
}

impl DirStore {
    /// Takes a directory that exists.
    ///
    /// # Errors
    /// `NotADirectory` or `NotFound`.
    pub fn open(root: &Path) -> io::Result<Self> {
        if !fs::metadata(root)?.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("{} is not a directory", root.display()),
            ));
        }
        Ok(Self::on(Arc::new(SystemDisk), root))
    }

    /// Takes a directory that exists on this disk.
    pub fn on(disk: Arc<dyn Disk>, root: &Path) -> Self {
        let root = root.to_owned();
        Self { disk, root }
    }

    /// Removes what an interrupted writer left unsealed. Only the one writer of a medium may call this.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove_unsealed(&self) -> io::Result<u64> {
        let mut removed = 0;
        for directory in self.directories()? {
            for entry in self.disk.list(&directory)? {
                if entry.name.to_string_lossy().starts_with(TEMPORARY_PREFIX) && entry.kind == EntryKind::File
                {
                    self.disk.remove(&directory.join(entry.name))?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    /// Removes every object: the label first, so that what is left after an interruption is no medium. The one way in which anything is ever
    /// removed from a medium, and none that a writer or reader of a journal has.
    ///
    /// # Errors
    /// What the system says.
    pub fn erase(&self) -> io::Result<()> {
        let mut objects = self.list()?;
        objects.sort_by_key(|object| object.name != crate::label::LABEL_NAME);
        for object in objects {
            let (path, directory) = self.place(&object.name)?;
            self.disk.remove(&path)?;
            if object.name == crate::label::LABEL_NAME {
                self.disk.sync_directory(&directory)?;
            }
        }
        self.disk.sync_directory(&self.root)
    }

    fn directories(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = vec![self.root.clone()];
        for entry in self.disk.list(&self.root)? {
            // Symbolic links are not followed: a medium must not lead elsewhere.
            if entry.kind == EntryKind::Directory && !entry.name.to_string_lossy().starts_with('.') {
                found.push(self.root.join(entry.name));
            }
        }
        Ok(found)
    }

    /// The path of an object, and the directory that it lies in.
    fn place(&self, name: &str) -> io::Result<(PathBuf, PathBuf)> {
        check_name(name)?;
        let path = self.root.join(name);
        let directory = path.parent().unwrap_or(&self.root).to_owned();
        Ok((path, directory))
    }
}

impl Store for DirStore {
    fn create(&self, name: &str, kind: ObjectKind) -> io::Result<Box<dyn Append>> {
        let (target, directory) = self.place(name)?;
        if self.disk.kind(&target)?.is_some() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} is sealed", target.display()),
            ));
        }
        if self.disk.kind(&directory)?.is_none() {
            self.disk.create_directory(&directory)?;
            self.disk.sync_directory(&self.root)?;
        }
        let file_name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = directory.join(format!("{TEMPORARY_PREFIX}{file_name}"));
        match self.disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create(&temporary, Existing::Refused)?;
        Ok(Box::new(DirAppend {
            store: self.clone(),
            file,
            bytes: 0,
            hasher: blake3::Hasher::new(),
            temporary: Some(temporary),
            target,
            directory,
            kind,
        }))
    }

    fn list(&self) -> io::Result<Vec<ObjectInfo>> {
        let mut objects = Vec::new();
        for directory in self.directories()? {
            for entry in self.disk.list(&directory)? {
                let path = directory.join(entry.name);
                let Some(name) = path.strip_prefix(&self.root).ok().and_then(Path::to_str) else {
                    continue;
                };
                if entry.kind == EntryKind::File && check_name(name).is_ok() {
                    objects.push(ObjectInfo {
                        name: name.to_owned(),
                        bytes: entry.bytes,
                    });
                }
            }
        }
        objects.sort_unstable();
        Ok(objects)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        let (path, _) = self.place(name)?;
        let file = self.disk.open(&path, Access::Read)?;
        let bytes = file.bytes()?;
        Ok(Box::new(DirObject { file, bytes }))
    }

    fn make_durable(&self, name: &str) -> io::Result<()> {
        let (path, directory) = self.place(name)?;
        let file = self.disk.open(&path, Access::Read)?;
        file.sync()?;
        file.drop_cached()?;
        self.disk.sync_directory(&directory)?;
        self.disk.sync_directory(&self.root)
    }

    fn bytes_free(&self) -> io::Result<Option<u64>> {
        self.disk.bytes_free(&self.root)
    }

    fn describe(&self) -> String {
        self.root.display().to_string()
    }
}

struct DirAppend {
    store: DirStore,
    file: Arc<dyn DiskFile>,
    /// What was written, to be compared with what is read back.
    bytes: u64,
    hasher: blake3::Hasher,
    /// `None` once it has its own name.
    temporary: Option<PathBuf>,
    target: PathBuf,
    directory: PathBuf,
    kind: ObjectKind,
}

impl DirAppend {
    /// A stick that is worn or a forgery takes every write, and a sync that failed once succeeds the next time: what counts is what is read from it.
    fn read_back(&self) -> io::Result<()> {
        self.file.drop_cached()?;
        let object = DirObject {
            file: Arc::clone(&self.file),
            bytes: self.file.bytes()?,
        };
        if object.bytes == self.bytes && super::hash(&object)? == self.hasher.finalize().to_hex().as_str() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} was synced, and what is read back is not what was written: the medium is not to be trusted",
                self.target.display()
            ),
        ))
    }
}

impl Write for DirAppend {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or(bytes));
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Append for DirAppend {
    fn seal(mut self: Box<Self>) -> io::Result<()> {
        let Some(temporary) = self.temporary.clone() else {
            return Ok(());
        };
        self.file.make_read_only(self.kind == ObjectKind::Executable)?;
        self.file.sync()?;
        self.read_back()?;
        let DirStore { disk, root } = &self.store;
        disk.rename(&temporary, &self.target, Existing::Refused)?;
        self.temporary = None;
        disk.sync_directory(&self.directory)?;
        // An earlier run may have made the directory and died before its name was durable.
        disk.sync_directory(root)
    }
}

impl Drop for DirAppend {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing depends on it: what is left over is removed when the medium is next opened for writing.
            let _ = self.store.disk.remove(temporary);
        }
    }
}

struct DirObject {
    file: Arc<dyn DiskFile>,
    bytes: u64,
}

impl ReadAt for DirObject {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_object_exists_only_when_sealed_and_then_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::open(dir.path()).unwrap();
        let mut object = store.create("v/one", ObjectKind::Plain).unwrap();
        object.write_all(b"abc").unwrap();
        assert!(store.list().unwrap().is_empty());
        assert_eq!(store.open("v/one").err().unwrap().kind(), io::ErrorKind::NotFound);
        object.seal().unwrap();
        assert_eq!(
            store.list().unwrap(),
            [ObjectInfo {
                name: "v/one".into(),
                bytes: 3
            }]
        );
        assert_eq!(
            store.create("v/one", ObjectKind::Plain).err().unwrap().kind(),
            io::ErrorKind::AlreadyExists
        );
        let mode = fs::metadata(dir.path().join("v/one"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o444);
    }

    #[test]
    fn what_is_dropped_or_left_over_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::open(dir.path()).unwrap();
        drop(store.create("one", ObjectKind::Plain).unwrap());
        fs::write(dir.path().join(format!("{TEMPORARY_PREFIX}two")), b"torn").unwrap();
        assert!(store.list().unwrap().is_empty());
        assert_eq!(store.remove_unsealed().unwrap(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_on_the_medium_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("sneaky")).unwrap();
        let store = DirStore::open(dir.path()).unwrap();
        assert!(store.list().unwrap().is_empty());
        assert!(store.open("sneaky").is_err());
    }
}
