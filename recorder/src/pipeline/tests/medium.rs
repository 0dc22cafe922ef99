//! A medium of the tests: in memory, or a directory on a disk that fails; it waits or hangs where it is told to.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use journal::Label;
use journal::store::faults::FaultDisk;
use journal::store::memory::{Failure, MemoryStore};
use journal::store::{Append, DirStore, ObjectInfo, ObjectKind, ReadAt, Store};

use crate::daemon::medium::Medium as Labelled;
use crate::pipeline::Changer;

/// Where a medium on a disk that fails is mounted.
pub(super) const MOUNT_POINT: &str = "/medium";

/// How the medium behaves.
#[derive(Clone, Default)]
pub(super) struct Medium {
    pub(super) memory: MemoryStore,
    /// Every create takes so long, in milliseconds.
    pub(super) slow_ms: Arc<AtomicU64>,
    /// Writes do not come back.
    pub(super) hangs: Arc<AtomicBool>,
    /// Bytes of the largest object that finds room, if not 0.
    pub(super) room_bytes: Arc<AtomicU64>,
    /// What it is instead of one in memory.
    pub(super) place: Option<Arc<dyn Store>>,
    /// Who puts another one in its place.
    pub(super) changer: Option<Arc<dyn Changer>>,
}

impl Medium {
    /// Labelled, in a directory on this disk, and looked at as the daemon does.
    pub(super) fn on(disk: &FaultDisk) -> Self {
        let store = DirStore::on(Arc::new(disk.clone()), Path::new(MOUNT_POINT));
        let label = Label::ensure(&store, b"replayer", 0).unwrap();
        Self {
            place: Some(Arc::new(Labelled::new(store, &label))),
            ..Self::default()
        }
    }

    pub(super) fn fail(&self, kind: io::ErrorKind) {
        self.memory.fail_after(0, Failure::Error(kind));
    }

    fn store(&self) -> &dyn Store {
        self.place.as_deref().unwrap_or(&self.memory)
    }
}

impl Store for Medium {
    fn create(&self, name: &str, kind: ObjectKind) -> io::Result<Box<dyn Append>> {
        std::thread::sleep(Duration::from_millis(self.slow_ms.load(Ordering::SeqCst)));
        Ok(Box::new(Hanging {
            object: self.store().create(name, kind)?,
            hangs: Arc::clone(&self.hangs),
            written_bytes: 0,
            room_bytes: Some(self.room_bytes.load(Ordering::SeqCst)).filter(|room| *room > 0),
        }))
    }
    fn list(&self) -> io::Result<Vec<ObjectInfo>> {
        self.store().list()
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        self.store().open(name)
    }
    fn make_durable(&self, name: &str) -> io::Result<()> {
        self.store().make_durable(name)
    }
    fn bytes_free(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }
    fn describe(&self) -> String {
        "a medium of the tests".to_owned()
    }
}

struct Hanging {
    object: Box<dyn Append>,
    hangs: Arc<AtomicBool>,
    written_bytes: u64,
    room_bytes: Option<u64>,
}

impl Write for Hanging {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while self.hangs.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.written_bytes += bytes.len() as u64;
        if self.room_bytes.is_some_and(|room| self.written_bytes > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.object.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.object.flush()
    }
}

impl Append for Hanging {
    fn seal(self: Box<Self>) -> io::Result<()> {
        self.object.seal()
    }
}
