//! A directory on a mounted medium as a store.
//!
//! An object is written under a temporary name, synced, made read-only, renamed to its name (never over another), and its
//! directory is synced. So a name exists only with its whole content behind it, whatever happens in between.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Append, ObjectInfo, ObjectKind, ReadAt, Store, check_name};

/// Begins the name of everything that is not sealed yet.
const TEMPORARY_PREFIX: &str = ".tapeworm-unsealed-";

/// A store in a directory.
#[derive(Clone, Debug)]
pub struct DirStore {
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
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Removes what an interrupted writer left unsealed. Only the one writer of a medium may call this.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove_unsealed(&self) -> io::Result<u64> {
        let mut removed = 0;
        for directory in self.directories()? {
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX)
                    && entry.file_type()?.is_file()
                {
                    fs::remove_file(entry.path())?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    fn directories(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = vec![self.root.clone()];
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            // Symbolic links are not followed: a medium must not lead elsewhere.
            if entry.file_type()?.is_dir() && !entry.file_name().to_string_lossy().starts_with('.') {
                found.push(entry.path());
            }
        }
        Ok(found)
    }
}

impl Store for DirStore {
    fn create(&self, name: &str, kind: ObjectKind) -> io::Result<Box<dyn Append>> {
        check_name(name)?;
        let target = self.root.join(name);
        if target.symlink_metadata().is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} is sealed", target.display()),
            ));
        }
        let directory = target.parent().unwrap_or(&self.root).to_owned();
        if !directory.exists() {
            fs::create_dir(&directory)?;
            sync_directory(&self.root)?;
        }
        let file_name = target
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let temporary = directory.join(format!("{TEMPORARY_PREFIX}{file_name}"));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::create_new(&temporary)?;
        Ok(Box::new(DirAppend {
            file,
            temporary: Some(temporary),
            target,
            directory,
            root: self.root.clone(),
            kind,
        }))
    }

    fn list(&self) -> io::Result<Vec<ObjectInfo>> {
        let mut objects = Vec::new();
        for directory in self.directories()? {
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                let path = entry.path();
                let Some(name) = path.strip_prefix(&self.root).ok().and_then(Path::to_str) else {
                    continue;
                };
                if entry.file_type()?.is_file() && check_name(name).is_ok() {
                    objects.push(ObjectInfo {
                        name: name.to_owned(),
                        bytes: entry.metadata()?.len(),
                    });
                }
            }
        }
        objects.sort_unstable();
        Ok(objects)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        check_name(name)?;
        let path = self.root.join(name);
        // Neither through a link nor waiting for the other end of a pipe.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let is_none = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not a regular file", path.display()),
            )
        };
        let file = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP | Errno::NXIO) => return Err(is_none()),
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(is_none());
        }
        let bytes = metadata.len();
        Ok(Box::new(DirObject { file, bytes }))
    }

    fn bytes_free(&self) -> io::Result<Option<u64>> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }

    fn describe(&self) -> String {
        self.root.display().to_string()
    }
}

struct DirAppend {
    file: File,
    /// `None` once it has its own name.
    temporary: Option<PathBuf>,
    target: PathBuf,
    directory: PathBuf,
    root: PathBuf,
    kind: ObjectKind,
}

impl Write for DirAppend {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Append for DirAppend {
    fn seal(mut self: Box<Self>) -> io::Result<()> {
        let Some(temporary) = self.temporary.clone() else {
            return Ok(());
        };
        let mode = match self.kind {
            ObjectKind::Plain => 0o444,
            ObjectKind::Executable => 0o555,
        };
        match self.file.set_permissions(Permissions::from_mode(mode)) {
            // vfat and the like cannot hold this mode; that sealed objects are never opened for writing holds all the same.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
                ) => {}
            result => result?,
        }
        self.file.sync_all()?;
        match rustix::fs::renameat_with(CWD, &temporary, CWD, &self.target, RenameFlags::NOREPLACE) {
            // vfat and some network file systems have no such flag; the only writer has seen that the name is free.
            Err(Errno::INVAL) if self.target.symlink_metadata().is_err() => {
                fs::rename(&temporary, &self.target)?;
            }
            result => result?,
        }
        self.temporary = None;
        sync_directory(&self.directory)?;
        // An earlier run may have made the directory and died before its name was durable.
        sync_directory(&self.root)
    }
}

impl Drop for DirAppend {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing depends on it: what is left over is removed when the medium is next opened for writing.
            let _ = fs::remove_file(temporary);
        }
    }
}

struct DirObject {
    file: File,
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

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
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
