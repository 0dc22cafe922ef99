//! The disk forgets what it may forget, and nothing that was synced.

use super::*;

const ROOT: &str = "/disk";

fn disk(seed: u64) -> FaultDisk {
    FaultDisk::new(Path::new(ROOT), seed)
}

fn at(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// What is at a name after the power was gone.
fn left(disk: &FaultDisk, name: &str) -> Option<Vec<u8>> {
    disk.power_on();
    disk.read(&at(name)).ok()
}

#[test]
fn what_was_synced_stays_whatever_the_seed() {
    for seed in 0..64 {
        let disk = disk(seed);
        let file = disk.create(&at("one"), Existing::Refused).unwrap();
        file.write_all_at(b"synced", 0).unwrap();
        file.sync().unwrap();
        disk.sync_directory(Path::new(ROOT)).unwrap();
        file.write_all_at(b"later", 6).unwrap();
        let found = left(&disk, "one").expect("its name was synced");
        assert!(found.starts_with(b"synced"), "seed {seed}: {found:?}");
        assert_eq!(
            file.write_at(b"x", 0).unwrap_err().kind(),
            io::Error::from(Errno::IO).kind()
        );
    }
}

#[test]
fn what_was_not_synced_is_kept_lost_and_torn() {
    let (mut names, mut whole, mut none, mut torn) = (0, 0, 0, 0);
    for seed in 0..256 {
        let disk = disk(seed);
        let file = disk.create(&at("one"), Existing::Refused).unwrap();
        if seed % 2 == 0 {
            disk.sync_directory(Path::new(ROOT)).unwrap();
        }
        file.write_all_at(&[7; 4096], 0).unwrap();
        match left(&disk, "one") {
            None => names += 1,
            Some(bytes) if bytes == [7; 4096] => whole += 1,
            Some(bytes) if bytes.is_empty() => none += 1,
            Some(_) => torn += 1,
        }
    }
    assert!(
        names > 20 && whole > 20 && none > 20 && torn > 20,
        "{names} {whole} {none} {torn}"
    );
}

#[test]
fn a_rename_is_there_or_not_and_never_half() {
    let (mut before, mut after) = (0, 0);
    for seed in 0..64 {
        let disk = disk(seed);
        let file = disk.create(&at("new"), Existing::Refused).unwrap();
        file.write_all_at(b"new", 0).unwrap();
        file.sync().unwrap();
        disk.sync_directory(Path::new(ROOT)).unwrap();
        disk.rename(&at("new"), &at("name"), Existing::Refused).unwrap();
        disk.power_on();
        match disk.files().as_slice() {
            [only] if *only == at("new") => before += 1,
            [only] if *only == at("name") => after += 1,
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(before > 5 && after > 5);
}

#[test]
fn a_sync_that_failed_is_not_made_good_by_the_next() {
    let mut lost = 0;
    for seed in 0..64 {
        let disk = disk(seed);
        let file = disk.create(&at("one"), Existing::Refused).unwrap();
        disk.sync_directory(Path::new(ROOT)).unwrap();
        file.write_all_at(b"given", 0).unwrap();
        disk.plan(On::Sync, 0, What::Error(Errno::IO, 1));
        assert!(file.sync().is_err());
        file.sync().unwrap();
        let mut cached = [0; 5];
        file.read_exact_at(&mut cached, 0).unwrap();
        assert_eq!(cached, *b"given", "the page cache says that it is there");
        lost += u32::from(left(&disk, "one").unwrap() != b"given");
    }
    assert!(lost > 10, "{lost}");
}

#[test]
fn faults_meet_the_operations_they_are_for() {
    let disk = disk(1);
    let file = disk.create(&at("one"), Existing::Refused).unwrap();
    disk.plan(On::Change, 1, What::Short);
    assert_eq!(file.write_at(b"abcd", 0).unwrap(), 4);
    assert_eq!(file.write_at(b"abcd", 0).unwrap(), 2);
    file.write_all_at(b"efgh", 0).unwrap();
    assert_eq!(disk.read(&at("one")).unwrap(), b"efgh");
    disk.plan(On::Any, 0, What::Error(Errno::IO, 2));
    assert!(disk.kind(&at("one")).is_err() && file.bytes().is_err());
    assert_eq!(file.bytes().unwrap(), 4);
    disk.plan(On::Change, 0, What::Error(Errno::ROFS, u64::MAX));
    assert!(file.set_bytes(0).is_err() && file.sync().is_err());
    assert!(disk.read(&at("one")).is_ok());
    disk.repair();
    disk.set_room(Some(6));
    assert_eq!(file.write_at(b"0123456789", 0).unwrap(), 6);
    let full = file.write_at(b"6", 6).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(
        file.write_at(b"6", 0).unwrap(),
        1,
        "there is room for what is there"
    );
    disk.set_room(None);
    file.sync().unwrap();
    let before = disk.read(&at("one")).unwrap();
    file.write_all_at(b"given", 0).unwrap();
    disk.plan(On::Sync, 0, What::Forget);
    file.sync().unwrap();
    assert!(disk.read(&at("one")).unwrap().starts_with(b"given"));
    file.drop_cached().unwrap();
    assert_eq!(disk.read(&at("one")).unwrap(), before);
}

#[test]
fn what_is_frozen_goes_on_when_it_is_thawed() {
    let disk = disk(1);
    let file = disk.create(&at("one"), Existing::Refused).unwrap();
    disk.plan(On::Sync, 1, What::Freeze);
    file.sync().unwrap();
    let syncing = std::thread::spawn(move || file.sync());
    while disk.operations(On::Sync) < 2 {
        std::thread::yield_now();
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(!syncing.is_finished());
    disk.repair();
    syncing.join().unwrap().unwrap();
}
