//! A store in memory for tests: enforces append-only use and fails where it is told to.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Append, ObjectInfo, ObjectKind, ReadAt, Store, check_name};

/// What a store does once its operations are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Every operation fails with this kind of error.
    Error(io::ErrorKind),
    /// As if the power were cut: every operation fails, and what was not sealed is gone.
    PowerCut,
}

#[derive(Default)]
struct Inner {
    sealed: BTreeMap<String, Arc<Vec<u8>>>,
    operations: u64,
    fail_after: Option<(u64, Failure)>,
}

impl Inner {
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.fail_after {
            Some((after, failure)) if self.operations > after => Err(match failure {
                Failure::Error(kind) => io::Error::new(kind, "told to fail"),
                Failure::PowerCut => io::Error::other("power cut"),
            }),
            _ => Ok(()),
        }
    }
}

/// A store in memory. Clones share the content, as two openings of one medium do.
#[derive(Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fails every operation (create, write, seal, list, open, make durable) after the next `operations`.
    pub fn fail_after(&self, operations: u64, failure: Failure) {
        let mut inner = self.lock();
        inner.operations = 0;
        inner.fail_after = Some((operations, failure));
    }

    /// Works again; what was sealed is there.
    pub fn repair(&self) {
        self.lock().fail_after = None;
    }

    /// Operations since the last [`MemoryStore::fail_after`].
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Replaces, adds or (with `None`) removes an object behind the interface's back: bit rot and foreign files.
    pub fn tamper(&self, name: &str, bytes: Option<Vec<u8>>) {
        match bytes {
            Some(bytes) => self.lock().sealed.insert(name.to_owned(), Arc::new(bytes)),
            None => self.lock().sealed.remove(name),
        };
    }

    /// Bytes of a sealed object.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.lock().sealed.get(name).map(|bytes| bytes.to_vec())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn create(&self, name: &str, _kind: ObjectKind) -> io::Result<Box<dyn Append>> {
        check_name(name)?;
        let mut inner = self.lock();
        inner.step()?;
        if inner.sealed.contains_key(name) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{name} is sealed"),
            ));
        }
        Ok(Box::new(MemoryAppend {
            store: self.clone(),
            name: name.to_owned(),
            bytes: Vec::new(),
        }))
    }

    fn list(&self) -> io::Result<Vec<ObjectInfo>> {
        let mut inner = self.lock();
        inner.step()?;
        Ok(inner
            .sealed
            .iter()
            .map(|(name, bytes)| ObjectInfo {
                name: name.clone(),
                bytes: bytes.len() as u64,
            })
            .collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        check_name(name)?;
        let mut inner = self.lock();
        inner.step()?;
        let bytes = inner
            .sealed
            .get(name)
            .cloned()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Box::new(MemoryObject { bytes }))
    }

    fn make_durable(&self, _name: &str) -> io::Result<()> {
        self.lock().step()
    }

    fn bytes_free(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

struct MemoryAppend {
    store: MemoryStore,
    name: String,
    bytes: Vec<u8>,
}

impl Write for MemoryAppend {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.store.lock().step()?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Append for MemoryAppend {
    fn seal(self: Box<Self>) -> io::Result<()> {
        let mut inner = self.store.lock();
        inner.step()?;
        assert!(
            !inner.sealed.contains_key(&self.name),
            "{} sealed twice",
            self.name
        );
        inner
            .sealed
            .insert(self.name.clone(), Arc::new(self.bytes.clone()));
        Ok(())
    }
}

struct MemoryObject {
    bytes: Arc<Vec<u8>>,
}

impl ReadAt for MemoryObject {
    fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end_of_file = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let start = usize::try_from(offset).map_err(|_| end_of_file())?;
        let end = start.checked_add(buffer.len()).ok_or_else(end_of_file)?;
        buffer.copy_from_slice(self.bytes.get(start..end).ok_or_else(end_of_file)?);
        Ok(())
    }
}
