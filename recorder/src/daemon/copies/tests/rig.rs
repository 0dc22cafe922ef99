//! A volume, media for copies and a copier, for the tests.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use journal::Writer;
use journal::store::disk::SystemDisk;
use journal::store::faults::FaultDisk;
use journal::store::{DirStore, Store};

use super::super::super::shelf::Shelf;
use super::super::super::shelf::tests::{Room, UUID, write, writer};
use super::super::copier::{Copier, Orders};
use super::super::targets::Open;
use crate::media::catalog::Catalog;
use crate::status::{CopiesStatus, PoolStatus};

/// Lets a copier do what it can.
#[derive(Default)]
pub(super) struct Free {
    pub(super) status: Mutex<CopiesStatus>,
    pub(super) wait: Option<String>,
    pub(super) is_news: bool,
}

impl Orders for Free {
    fn go_on(&self, _at: &Path) -> bool {
        true
    }

    fn is_called(&self) -> bool {
        false
    }

    fn is_news(&self) -> bool {
        self.is_news
    }

    fn is_awaited(&self) -> bool {
        true
    }

    fn wait(&self) -> Option<String> {
        self.wait.clone()
    }

    fn report(&self, status: CopiesStatus) {
        *self.status.lock().unwrap() = status;
    }
}

/// A volume whose journal is written to a medium of pool "tapes", and places for copies.
pub(super) struct Rig {
    pub(super) room: Room,
    pub(super) shelf: Arc<Shelf>,
    pub(super) writer: Writer,
    pub(super) copier: Copier,
    pub(super) seq: u64,
}

impl Rig {
    pub(super) fn new(places: &[&str]) -> Self {
        let room = Room::new();
        let shelf = room.shelf(room.label("one", "tapes", false), &["one", "two"]);
        let places = places.iter().map(|name| room.path(name)).collect();
        let open = Box::new(|path: &Path| Ok(DirStore::open(path)?));
        Self {
            writer: writer(&shelf),
            copier: copier(&room, &shelf, places, open),
            room,
            shelf,
            seq: 0,
        }
    }

    /// As of a recorder that comes later.
    pub(super) fn copier_to(&self, places: Vec<PathBuf>, open: Open) -> Copier {
        copier(&self.room, &self.shelf, places, open)
    }

    /// Copies to a place on a disk that fails as it is told to, and to another one.
    pub(super) fn on_faulty(&mut self, faulty: &str, other: &str) -> FaultDisk {
        let (faulty, other) = (self.room.path(faulty), self.room.path(other));
        let disk = FaultDisk::new(&faulty, 7);
        let (places, on_disk) = (vec![faulty.clone(), other], disk.clone());
        self.copier = self.copier_to(
            places,
            Box::new(move |path| {
                Ok(match path == faulty {
                    true => DirStore::on(Arc::new(on_disk.clone()), path),
                    false => DirStore::open(path)?,
                })
            }),
        );
        disk
    }

    pub(super) fn seal(&mut self, count: u64) {
        for _ in 0..count {
            self.seq += 1;
            self.writer.push(&write(self.seq)).unwrap();
            self.writer.seal().unwrap().unwrap();
        }
    }

    pub(super) fn round(&mut self) -> CopiesStatus {
        let orders = Free::default();
        self.copier.look_at_left();
        assert!(self.copier.round(&orders));
        orders.status.into_inner().unwrap()
    }

    /// After a round, the one pool.
    pub(super) fn pool(&mut self) -> PoolStatus {
        let status = self.round();
        let [pool] = &status.pools[..] else {
            panic!("{status:?}")
        };
        pool.clone()
    }

    pub(super) fn store(&self, name: &str) -> DirStore {
        DirStore::open(&self.room.path(name)).unwrap()
    }

    pub(super) fn segments(&self, name: &str) -> Vec<u64> {
        segments(&self.store(name))
    }

    pub(super) fn catalog(&self) -> Catalog {
        Catalog::read_from(&SystemDisk, &catalog_of(&self.room)).unwrap()
    }
}

pub(super) fn catalog_of(room: &Room) -> PathBuf {
    room.path("host").join("catalog.json")
}

fn copier(room: &Room, shelf: &Arc<Shelf>, places: Vec<PathBuf>, open: Open) -> Copier {
    let chain = shelf.current().label.medium;
    Copier::new(Arc::clone(shelf), &chain, &catalog_of(room), places, open)
}

pub(super) fn segments(store: &dyn Store) -> Vec<u64> {
    let copyable = journal::Copyable::of(&store.list().unwrap(), UUID);
    copyable.segments.into_iter().collect()
}
