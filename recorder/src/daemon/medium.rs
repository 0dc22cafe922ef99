//! The medium as the daemon writes to it: every object begins with a look whether it is still the same medium.
//!
//! A directory stays there when what was mounted on it is gone, and would take the journal in silence. Owns only that look, also from time to
//! time; how objects are written is the store's.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use journal::Label;
use journal::store::{Append, DirStore, ObjectInfo, ObjectKind, ReadAt, Store};

use super::shelf::{Held, Shelf};
use super::volume::{STOP_INTERVAL, Session};
use crate::pulse;

/// A labelled medium in a directory.
pub(crate) struct Medium {
    store: DirStore,
    /// Uuid on its label.
    uuid: String,
}

impl Medium {
    /// A medium and what its label says.
    pub(crate) fn new(store: DirStore, label: &Label) -> Self {
        Self {
            store,
            uuid: label.medium.clone(),
        }
    }
}

/// Whether the medium of this uuid lies there.
fn is_same(store: &dyn Store, uuid: &str) -> io::Result<()> {
    let found = Label::read(store).map_err(io::Error::other)?;
    let there = store.describe();
    let why = match found {
        Some(label) if label.medium == uuid => return Ok(()),
        Some(label) => format!(
            "medium {} lies at {there}, not {uuid}: mount that again",
            label.medium
        ),
        None => format!("medium {uuid} is not at {there} any more: mount it there again"),
    };
    Err(io::Error::new(io::ErrorKind::NotFound, why))
}

impl Store for Medium {
    fn create(&self, name: &str, kind: ObjectKind) -> io::Result<Box<dyn Append>> {
        is_same(&self.store, &self.uuid)?;
        self.store.create(name, kind)
    }

    fn list(&self) -> io::Result<Vec<ObjectInfo>> {
        // Whoever looks what is there after a failure is told that it is not this medium, and not that something is missing.
        is_same(&self.store, &self.uuid)?;
        self.store.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        self.store.open(name)
    }

    fn make_durable(&self, name: &str) -> io::Result<()> {
        self.store.make_durable(name)
    }

    fn bytes_free(&self) -> io::Result<Option<u64>> {
        self.store.bytes_free()
    }

    fn describe(&self) -> String {
        self.store.describe()
    }
}

/// Time between two looks at the medium.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// How a medium is, as far as can be seen without writing to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// Why it cannot be written to.
    pub(super) trouble: Option<String>,
    /// Since when.
    pub(super) since: Option<Instant>,
    /// Bytes that still fit, where it can tell.
    pub(super) free_bytes: Option<u64>,
    /// Uuid on its label.
    pub(super) uuid: String,
    /// What people call it.
    pub(super) name: String,
}

impl Look {
    /// Looks at the medium that is written to.
    fn at(shelf: &Shelf, before: Option<&Self>) -> Self {
        let Held { store, label, .. } = shelf.current();
        let found = match shelf.ejected() {
            Some((named, why_not)) => {
                Err(io::Error::other(why_not.unwrap_or_else(|| {
                    format!("medium {named} was ejected: the next one is needed")
                })))
            }
            None => is_same(&*store, &label.medium).and_then(|()| store.bytes_free()),
        };
        let (free_bytes, trouble) = match found {
            Ok(free_bytes) => (free_bytes, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let since = before.and_then(|before| before.since);
        Self {
            since: trouble.is_some().then(|| since.unwrap_or_else(Instant::now)),
            trouble,
            free_bytes,
            uuid: label.medium,
            name: label.name,
        }
    }
}

impl Session {
    /// Looks at the medium now and then until the recording ends: on a volume on which nothing happens nobody else would find that it is
    /// gone.
    pub(super) fn look_at_medium(&self) {
        let mut next = Instant::now();
        while !self.sink.stop.load(Ordering::Relaxed) {
            pulse::beat();
            if Instant::now() >= next {
                next = Instant::now() + LOOK_INTERVAL;
                let before = self.watched().medium.clone();
                let look = Look::at(&self.shelf, before.as_ref());
                self.watched().medium = Some(look);
            }
            std::thread::sleep(STOP_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_bare_mount_point_or_another_medium_takes_nothing() {
        let place = tempfile::tempdir().unwrap();
        let at = place.path().join("medium");
        fs::create_dir(&at).unwrap();
        let store = DirStore::open(&at).unwrap();
        let label = Label::ensure(&store, b"replayer", 0).unwrap();
        let medium = Medium::new(store.clone(), &label);
        let seal = |medium: &Medium, name: &str| -> io::Result<()> {
            medium.create(name, ObjectKind::Plain).and_then(Append::seal)
        };
        seal(&medium, "v/1").unwrap();

        let away = place.path().join("away");
        fs::rename(&at, &away).unwrap();
        fs::create_dir(&at).unwrap();
        let error = seal(&medium, "v/2").unwrap_err();
        assert!(error.to_string().contains("not at"), "{error}");
        assert_eq!(
            fs::read_dir(&at).unwrap().count(),
            0,
            "nothing is left behind there"
        );
        Label::ensure(&store, b"replayer", 0).unwrap();
        let error = seal(&medium, "v/2").unwrap_err();
        assert!(error.to_string().contains("mount that again"), "{error}");

        fs::remove_dir_all(&at).unwrap();
        fs::rename(&away, &at).unwrap();
        seal(&medium, "v/2").unwrap();
    }
}
