//! Every operation of labelling and sealing is the last one once, and once the one that fails: what was reported as sealed is there after
//! that, nothing is there in part, and the journal goes on. The disk below loses what was not synced.

#![expect(clippy::unwrap_used, reason = "a test may end where its preparations fail")]

mod away;

use std::path::Path;
use std::sync::Arc;

use journal::record::{Actor, Attributes, InodeKey, Op, Record};
use journal::store::disk::Disk;
use journal::store::faults::{FaultDisk, On, What};
use journal::store::{DirStore, ObjectKind, Store};
use journal::{Error, Head, Label, Projection, Reader, VolumeInfo, Writer};
use rustix::io::Errno;

const ROOT: &str = "/medium";
const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";
/// Of each crash, what is left to chance is tried so often.
const SEEDS: u64 = 4;

fn volume() -> VolumeInfo {
    VolumeInfo {
        uuid: UUID.to_owned(),
        fs_type: "ext4".to_owned(),
        block_size: 4096,
        ..VolumeInfo::default()
    }
}

fn store(disk: &FaultDisk) -> Arc<dyn Store> {
    Arc::new(DirStore::on(Arc::new(disk.clone()), Path::new(ROOT)))
}

fn disk(seed: u64) -> FaultDisk {
    FaultDisk::new(Path::new(ROOT), seed)
}

/// A record with some data, so that it takes more than one sector.
fn record(seq: u64) -> Record {
    let data = vec![u8::try_from(seq % 251).unwrap(); 3000];
    Record {
        seq,
        last_seq: seq,
        time_ns: i64::try_from(seq).unwrap() * 1000,
        inode: InodeKey {
            ino: 7,
            generation: 1,
        },
        attributes: Attributes::default(),
        from_snapshot: false,
        actor: Actor::default(),
        op: Op::Write {
            offset: seq * 4096,
            length: data.len() as u64,
            data,
        },
    }
}

/// Pushes records from one number on and seals every second one, as far as it gets; the last number that was reported as sealed.
fn write(writer: &mut Writer, first_seq: u64, last_seq: u64) -> Result<u64, (u64, Error)> {
    let mut sealed = first_seq - 1;
    for seq in first_seq..=last_seq {
        let done = writer.push(&record(seq)).and_then(|()| {
            if seq % 2 == 0 {
                writer.seal()?;
                sealed = seq;
            }
            Ok(())
        });
        done.map_err(|error| (sealed, error))?;
    }
    Ok(sealed)
}

/// Numbers in the journal, all of which is sound.
fn seqs(disk: &FaultDisk) -> Vec<u64> {
    let reader = match Reader::open(vec![store(disk)]) {
        Ok(reader) => reader,
        Err(Error::NoJournal(_)) => return Vec::new(),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(reader.verify_media().unwrap(), Vec::<String>::new());
    let journal = reader.journal(None).unwrap();
    assert_eq!(journal.verify(|_| ()).unwrap().problems, Vec::<String>::new());
    let segments = journal.segments();
    let records = segments.flat_map(|segment| segment.records(Projection::All).unwrap());
    records.map(|item| item.unwrap().1.seq).collect()
}

/// Labels, writes, seals three times; the last number that was reported as sealed, and why it ended.
fn session(disk: &FaultDisk) -> (u64, Option<Error>) {
    let store = store(disk);
    let begun = Label::ensure(&*store, b"replayer", 0).and_then(|_| Writer::open(store, volume()));
    match begun {
        Err(error) => (0, Some(error)),
        Ok(mut writer) => match write(&mut writer, 1, 6) {
            Ok(sealed) => (sealed, None),
            Err((sealed, error)) => (sealed, Some(error)),
        },
    }
}

/// Whoever comes after a crash: finds a prefix that holds what was reported, and goes on within the epoch.
fn comes_after(disk: &FaultDisk, sealed: u64, what: &str) {
    let store = store(disk);
    DirStore::on(Arc::new(disk.clone()), Path::new(ROOT))
        .remove_unsealed()
        .unwrap();
    Label::ensure(&*store, b"replayer", 0).unwrap();
    let found = seqs(disk);
    let last = found.len() as u64;
    assert_eq!(found, (1..=last).collect::<Vec<_>>(), "{what}: a prefix");
    assert!(last >= sealed, "{what}: {sealed} was reported, {last} is there");
    let mut writer = match Head::of(&*store, UUID).unwrap() {
        None => Writer::open(store, volume()).unwrap(),
        Some(head) => {
            assert_eq!(head.last_seq, last, "{what}");
            // What it goes on after counts as durable from here.
            let writer = Writer::resume(store, volume(), &head).unwrap().unwrap();
            disk.power_on();
            assert_eq!(
                seqs(disk),
                found,
                "{what}: what was gone on after is lost with the power"
            );
            writer
        }
    };
    write(&mut writer, last + 1, last + 2 + last % 2).unwrap();
    disk.power_on();
    assert_eq!(seqs(disk).len() as u64, last + 2 + last % 2, "{what}");
    let named = disk.files();
    assert!(
        named
            .iter()
            .all(|path| !path.to_string_lossy().contains("unsealed")),
        "{what}: {named:?}"
    );
}

/// Operations that a session without faults takes.
fn operations(on: On) -> u64 {
    let disk = disk(0);
    disk.plan(on, u64::MAX, What::Short);
    assert!(session(&disk).1.is_none());
    disk.operations(on)
}

#[test]
fn whichever_operation_the_power_goes_in_what_was_sealed_is_there() {
    let count = operations(On::Change);
    assert!(
        count > 40,
        "{count}: label, segments and manifests are created, written, synced, renamed"
    );
    for after in 0..count {
        for seed in 0..SEEDS {
            let disk = disk(seed);
            disk.plan(On::Change, after, What::Gone);
            let (sealed, error) = session(&disk);
            assert!(error.is_some() && disk.is_gone());
            disk.power_on();
            comes_after(
                &disk,
                sealed,
                &format!("power cut in operation {after}, seed {seed}"),
            );
        }
    }
}

#[test]
fn whichever_operation_the_kill_comes_in_what_was_sealed_is_there() {
    for after in 0..operations(On::Change) {
        for seed in 0..SEEDS {
            let disk = disk(seed);
            disk.plan(On::Change, after, What::Gone);
            let (sealed, _) = session(&disk);
            disk.go_on();
            comes_after(&disk, sealed, &format!("kill in operation {after}, seed {seed}"));
        }
    }
}

#[test]
fn whichever_operation_fails_the_same_writer_goes_on() {
    for errno in [Errno::IO, Errno::NOSPC, Errno::ROFS] {
        for (after, seed) in (0..operations(On::Any)).flat_map(|after| (0..2).map(move |seed| (after, seed)))
        {
            let what = format!("{errno} in operation {after}, seed {seed}");
            let disk = disk(seed);
            disk.plan(On::Any, after, What::Error(errno, 1));
            let store = store(&disk);
            let mut tries = (0..3).map(|_| Label::ensure(&*store, b"replayer", 0));
            tries
                .find(Result::is_ok)
                .unwrap_or_else(|| panic!("{what}: no label"))
                .unwrap();
            let mut tries = (0..3).map(|_| Writer::open(Arc::clone(&store), volume()));
            let mut writer = tries
                .find(Result::is_ok)
                .unwrap_or_else(|| panic!("{what}: no writer"))
                .unwrap();
            let sealed = match write(&mut writer, 1, 6) {
                Ok(_) => 6,
                Err((sealed, error)) => {
                    let is_full = matches!(error, Error::MediumFull(_));
                    assert_eq!(is_full, errno == Errno::NOSPC, "{what}: {error}");
                    write(&mut writer, sealed + 1, 6).unwrap_or_else(|(_, error)| panic!("{what}: {error}"))
                }
            };
            assert_eq!(sealed, 6, "{what}");
            disk.power_on();
            assert_eq!(seqs(&disk), [1, 2, 3, 4, 5, 6], "{what}");
        }
    }
}

#[test]
fn a_disk_that_takes_half_of_every_write_loses_nothing() {
    let disk = disk(0);
    disk.plan(On::Change, 0, What::Short);
    assert_eq!(session(&disk).0, 6);
    disk.power_on();
    assert_eq!(seqs(&disk), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn what_is_read_back_otherwise_is_not_sealed() {
    let count = operations(On::Sync);
    for after in 0..count {
        let disk = disk(1);
        disk.plan(On::Sync, after, What::Forget);
        let (sealed, error) = session(&disk);
        disk.repair();
        // Of a directory nothing can be read back but what is cached; a file comes after all but the last two.
        if after + 2 < count {
            let error = error.expect("the disk kept nothing").to_string();
            assert!(error.contains("not to be trusted"), "{error}");
            assert!(sealed < 6);
        }
    }
}

/// The object has its name, and nobody was told: whoever finds it may count on it only once it is durable.
#[test]
fn an_object_found_is_durable_before_it_is_gone_on_after() {
    for seed in 0..32 {
        let disk = disk(seed);
        let store = store(&disk);
        Label::ensure(&*store, b"replayer", 0).unwrap();
        let mut object = store.create("v/one", ObjectKind::Plain).unwrap();
        object.write_all(b"one").unwrap();
        // The content and the directory above are synced, the name is not.
        disk.plan(On::Sync, 1, What::Gone);
        object.seal().unwrap_err();
        disk.go_on();
        store.make_durable("v/one").unwrap();
        disk.power_on();
        assert_eq!(
            disk.read(&Path::new(ROOT).join("v/one")).unwrap(),
            b"one",
            "seed {seed}"
        );
    }
}
