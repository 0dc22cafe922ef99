//! Which medium comes next, and what it gets.

use std::io::Write as _;

use journal::record::{Actor, Attributes, InodeKey, Op, Record};
use journal::{Head, Naming, VolumeInfo, Writer};

use super::*;

pub(in crate::daemon) const UUID: &str = "6f0cb0f4-0001-4000-8000-000000000009";

pub(in crate::daemon) fn write(seq: u64) -> Record {
    Record {
        seq,
        last_seq: seq,
        time_ns: 1,
        inode: InodeKey::default(),
        attributes: Attributes::default(),
        from_snapshot: false,
        actor: Actor::default(),
        op: Op::Write {
            offset: 0,
            length: 1,
            data: vec![1],
        },
    }
}

/// Directories where media are, and one for what is carried.
pub(in crate::daemon) struct Room {
    pub(in crate::daemon) dir: tempfile::TempDir,
}

impl Room {
    pub(in crate::daemon) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(in crate::daemon) fn path(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(in crate::daemon) fn label(&self, name: &str, pool: &str, copies: bool) -> Held {
        let store = DirStore::open(&self.path(name)).unwrap();
        let naming = Naming {
            name: Some(name.to_owned()),
            pool: pool.to_owned(),
            copies,
            signer: None,
        };
        let label = Label::ensure_as(&store, b"replayer", 0, &naming).unwrap();
        Held::new(store, label, &self.path(name))
    }

    pub(in crate::daemon) fn shelf(&self, current: Held, places: &[&str]) -> Arc<Shelf> {
        let paths = places.iter().map(|name| self.path(name)).collect();
        let places = Places::new(paths, Vec::new());
        Arc::new(Shelf::new(UUID, places, &self.path("host"), current, Vec::new()).unwrap())
    }
}

pub(in crate::daemon) fn writer(shelf: &Arc<Shelf>) -> Writer {
    let volume = VolumeInfo {
        uuid: UUID.to_owned(),
        ..VolumeInfo::default()
    };
    Writer::open(Arc::clone(shelf) as Arc<dyn Store>, volume).unwrap()
}

#[test]
fn the_next_medium_is_labelled_empty_of_the_same_pool_and_gets_an_index() {
    let room = Room::new();
    let current = room.label("one", "pool", false);
    room.label("other-pool", "", false);
    room.label("copies", "pool", true);
    room.path("bare");
    let places = ["one", "bare", "other-pool", "copies", "missing", "two"];
    let shelf = room.shelf(current, &places);
    fs::remove_dir(room.path("missing")).unwrap();
    let mut writer = writer(&shelf);
    writer.push(&write(1)).unwrap();
    writer.seal().unwrap();
    assert!(!shelf.change(2), "it is not finished");
    shelf.finish(2, true);
    assert!(!shelf.change(2), "none is fit");
    let why = shelf.why_not().unwrap();
    for part in [
        "no label",
        "of pool \"\"",
        "is for copies",
        "takes nothing more",
        "No such file",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    room.label("two", "pool", false);
    assert!(shelf.change(2));
    assert_eq!(shelf.current().label.name, "two");
    writer.medium_changed();
    writer.push(&write(2)).unwrap();
    writer.seal().unwrap();
    let two = DirStore::open(&room.path("two")).unwrap();
    let names: Vec<String> = two
        .list()
        .unwrap()
        .into_iter()
        .map(|object| object.name)
        .collect();
    for name in [
        "0000000002.index",
        "0000000002.parquet",
        "0000000002.manifest.json",
    ] {
        assert!(names.contains(&format!("{UUID}/{name}")), "{name}: {names:?}");
    }
    // What is left of what was carried would lead to a second end.
    assert_eq!(shelf.host.list().unwrap(), []);
    assert_eq!(Head::of(&two, UUID).unwrap(), Head::of(&*shelf, UUID).unwrap());
}

#[test]
fn a_medium_that_was_ejected_takes_nothing_more() {
    let room = Room::new();
    let current = room.label("one", "", false);
    let shelf = room.shelf(current, &["one"]);
    let mut writer = writer(&shelf);
    writer.push(&write(1)).unwrap();
    shelf.eject("another");
    assert!(!shelf.is_ejecting(), "it is not the one that is written to");
    shelf.eject(&shelf.current().label.medium);
    assert!(shelf.is_ejecting());
    writer.seal().unwrap();
    shelf.finish(2, false);
    assert!(shelf.is_over() && !shelf.change(2));
    let error = writer.push(&write(2)).unwrap_err();
    assert!(error.to_string().contains("was ejected"), "{error}");
    // The same drive, another medium.
    fs::rename(room.dir.path().join("one"), room.dir.path().join("away")).unwrap();
    room.label("one", "", false);
    assert!(shelf.change(2));
    writer.medium_changed();
    writer.push(&write(2)).unwrap();
    writer.seal().unwrap();
    let away = DirStore::open(&room.dir.path().join("away")).unwrap();
    assert_eq!(
        away.list()
            .unwrap()
            .iter()
            .filter(|object| object.name.contains('/'))
            .count(),
        2
    );
}

#[test]
fn one_that_holds_the_volume_already_is_not_the_next() {
    let room = Room::new();
    let used = room.label("used", "", false);
    let mut object = used
        .store
        .create(&format!("{UUID}/0000000001.parquet"), ObjectKind::Plain)
        .unwrap();
    object.write_all(b"x").unwrap();
    object.seal().unwrap();
    let shelf = room.shelf(room.label("one", "", false), &["one", "used"]);
    shelf.finish(1, true);
    assert!(!shelf.change(1));
    assert!(shelf.why_not().unwrap().contains("holds segments of this volume"));
}
