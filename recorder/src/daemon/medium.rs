//! The medium as the daemon writes to it: every object begins with a look whether it is still the same medium.
//!
//! A directory stays there when what was mounted on it is gone, and would take the journal in silence. Owns only that look; how
//! objects are written is the store's.

use std::io;

use journal::Label;
use journal::store::{Append, DirStore, ObjectInfo, ObjectKind, ReadAt, Store};

/// A labelled medium in a directory.
pub(super) struct Medium {
    store: DirStore,
    /// Uuid on its label.
    uuid: String,
}

impl Medium {
    /// A medium and what its label says.
    pub(super) fn new(store: DirStore, label: &Label) -> Self {
        Self {
            store,
            uuid: label.medium.clone(),
        }
    }

    fn check(&self) -> io::Result<()> {
        let found = Label::read(&self.store).map_err(io::Error::other)?;
        match found {
            Some(label) if label.medium == self.uuid => Ok(()),
            Some(label) => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "medium {} lies at {}, not {}: mount that again",
                    label.medium,
                    self.store.describe(),
                    self.uuid
                ),
            )),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "medium {} is not at {} any more: mount it there again",
                    self.uuid,
                    self.store.describe()
                ),
            )),
        }
    }
}

impl Store for Medium {
    fn create(&self, name: &str, kind: ObjectKind) -> io::Result<Box<dyn Append>> {
        self.check()?;
        self.store.create(name, kind)
    }

    fn list(&self) -> io::Result<Vec<ObjectInfo>> {
        self.store.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        self.store.open(name)
    }

    fn bytes_free(&self) -> io::Result<Option<u64>> {
        self.store.bytes_free()
    }

    fn describe(&self) -> String {
        self.store.describe()
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
