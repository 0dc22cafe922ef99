//! A medium whose calls are watched: while a thread is in one, its pulse says so, and every one that comes back is a beat.

use std::io::{self, Write};

use journal::store::{Append, ObjectInfo, ObjectKind, ReadAt, Store};

use super::{Place, at};

/// A medium whose calls are watched, each of which is one to this place.
pub(crate) struct Watched<S>(pub(crate) S, pub(crate) Place);

impl<S: Store> Store for Watched<S> {
    fn create(&self, name: &str, kind: ObjectKind) -> io::Result<Box<dyn Append>> {
        let _medium = at(self.1);
        Ok(Box::new(WatchedAppend(self.0.create(name, kind)?, self.1)))
    }

    fn list(&self) -> io::Result<Vec<ObjectInfo>> {
        let _medium = at(self.1);
        self.0.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        let _medium = at(self.1);
        Ok(Box::new(WatchedRead(self.0.open(name)?, self.1)))
    }

    fn make_durable(&self, name: &str) -> io::Result<()> {
        let _medium = at(self.1);
        self.0.make_durable(name)
    }

    fn bytes_free(&self) -> io::Result<Option<u64>> {
        let _medium = at(self.1);
        self.0.bytes_free()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

struct WatchedAppend(Box<dyn Append>, Place);

impl Write for WatchedAppend {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _medium = at(self.1);
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let _medium = at(self.1);
        self.0.flush()
    }
}

impl Append for WatchedAppend {
    fn seal(self: Box<Self>) -> io::Result<()> {
        let _medium = at(self.1);
        self.0.seal()
    }
}

struct WatchedRead(Box<dyn ReadAt>, Place);

impl ReadAt for WatchedRead {
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let _medium = at(self.1);
        self.0.read_exact_at(buffer, offset)
    }
}
