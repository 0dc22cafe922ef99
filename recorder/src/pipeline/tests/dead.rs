//! The machine went down: what the spool names that is not in the journal, and when that cannot be known.

use std::fs;

use journal::record::{InodeKey, Op};

use super::rig::{Remains, Rig, UUID, bare_event, limits, spool_files};
use crate::pipeline::{Limits, find_dead};
use crate::reconcile::Dead;

/// Nothing is sealed but what a test flushes.
fn patient() -> Limits {
    Limits {
        seal_after: super::rig::TOO_LONG,
        segment_bytes: 64 << 20,
        unsealed_bytes_max: 64 << 20,
        ..limits()
    }
}

fn find(remains: &Remains) -> Dead {
    find_dead(&remains.medium, UUID, &remains.disk, remains.spool.path())
        .unwrap()
        .expect("the medium has a journal")
}

fn why(remains: &Remains) -> String {
    match find_dead(&remains.medium, UUID, &remains.disk, remains.spool.path()) {
        Ok(_) => panic!("what it had seen is known"),
        Err(why) => format!("{why:#}"),
    }
}

fn key(ino: u64) -> InodeKey {
    InodeKey { ino, generation: 1 }
}

/// With an epoch of which something is sealed.
fn begun() -> Rig {
    let rig = Rig::with(patient());
    rig.captured(10, 100);
    rig.until("it is in the spool", |rig| rig.handle.status().events >= 1);
    rig.flush();
    rig
}

/// With an event that found no room, and one after it.
fn with_a_loss() -> Rig {
    let rig = begun();
    let seq = rig.number();
    rig.lost(abi::LostSlot {
        seq,
        ..abi::LostSlot::default()
    });
    rig.captured(20, 100);
    rig.until("it is in the spool", |rig| rig.handle.status().events >= 2);
    rig
}

#[test]
fn a_medium_without_the_volume_has_no_past() {
    let rig = Rig::with(patient());
    rig.captured(10, 100);
    let remains = rig.kill();
    let none = find_dead(&remains.medium, UUID, &remains.disk, remains.spool.path()).unwrap();
    assert!(none.is_none());
}

#[test]
fn what_is_in_the_spool_and_not_in_the_journal_is_named() {
    let rig = begun();
    for ino in 20..30 {
        rig.captured(ino, 1000);
    }
    rig.until("all are in the spool", |rig| rig.handle.status().events >= 11);
    let remains = rig.kill();
    let dead = find(&remains);
    assert_eq!(dead.head.epoch, 1);
    assert!((20..30).all(|ino| dead.touched.contains(key(ino))));
    assert!(!dead.touched.contains(key(10)), "it is in the journal");
}

/// Cut at every byte of its end, and with whatever lay on the disk behind that.
#[test]
fn a_torn_tail_costs_what_was_torn_and_nothing_else() {
    let rig = begun();
    for ino in 20..24 {
        rig.captured(ino, 60);
    }
    rig.until("all are in the spool", |rig| rig.handle.status().events >= 5);
    let remains = rig.kill();
    let files = spool_files(&remains.spool);
    let path = files.last().unwrap();
    let whole = fs::read(path).unwrap();
    let named = |dead: &Dead| (20..24).filter(|ino| dead.touched.contains(key(*ino))).count();
    assert_eq!(named(&find(&remains)), 4);
    let mut before = 0;
    for length in 0..=whole.len() {
        for behind in [&[][..], &[0; 64], &[0x31; 64]] {
            fs::write(path, [&whole[..length], behind].concat()).unwrap();
            let found = named(&find(&remains));
            assert!(found >= before, "{length} bytes: {found} after {before}");
            before = found;
        }
    }
    assert_eq!(before, 4);
}

#[test]
fn what_does_not_say_what_it_changed_is_said() {
    let rig = begun();
    let seq = rig.number();
    let flags = abi::event_flags::WANT_EVERYTHING;
    rig.arrive(bare_event(seq, 20, abi::EventKind::Changed, flags));
    rig.until("it is in the spool", |rig| rig.handle.status().events >= 2);
    assert!(why(&rig.kill()).contains("does not say"));

    // An event that found no room, and is no hole in the journal yet.
    let rig = with_a_loss();
    assert!(why(&rig.kill()).contains("no room"));

    // Once it stands in the journal, that tells of it.
    let rig = with_a_loss();
    rig.flush();
    drop(find(&rig.kill()));
}

#[test]
fn frames_of_another_epoch_say_nothing_of_this_one() {
    // The next one had begun, and had sealed nothing.
    let rig = begun();
    let remains = rig.kill().anew(patient()).kill();
    assert!(why(&remains).contains("of epoch 2"));
    fs::remove_file(remains.spool.path().join("epoch")).unwrap();
    assert!(why(&remains).contains("does not say whose"));
    // Once it has sealed something, it is the newest.
    let rig = remains.anew(patient());
    rig.own(Op::Barrier { up_to: None });
    rig.flush();
    assert_eq!(find(&rig.kill()).head.epoch, 2);
}

#[test]
fn damage_in_what_was_complete_is_no_torn_tail() {
    let rig = begun();
    // More than a file holds.
    for _ in 0..14 {
        rig.captured(20, 1 << 20);
    }
    rig.until("two files", |rig| rig.spool_files().len() > 1);
    let remains = rig.kill();
    let path = &spool_files(&remains.spool)[0];
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
    assert!(why(&remains).contains("damaged"));
}

#[test]
fn a_file_that_is_missing_between_others_is_damage() {
    let rig = begun();
    for _ in 0..28 {
        rig.captured(20, 1 << 20);
    }
    rig.until("three files", |rig| rig.spool_files().len() > 2);
    let remains = rig.kill();
    fs::remove_file(&spool_files(&remains.spool)[1]).unwrap();
    assert!(why(&remains).contains("missing"));
}

#[test]
fn a_recording_that_broke_off_before_its_base_was_complete_is_gone_on_from_as_the_one_before() {
    let rig = begun();
    rig.captured(20, 100);
    rig.until("it is in the spool", |rig| rig.handle.status().events >= 2);
    let remains = rig.kill();
    let first = find(&remains);
    // Nothing of the next one gets onto the medium.
    let rig = remains.from(patient(), &first);
    rig.captured(21, 100);
    rig.until("it is in the spool", |rig| rig.handle.status().events >= 1);
    let remains = rig.kill();
    let second = find(&remains);
    assert!(second.head == first.head && second.before.is_none());
    assert!([20, 21].iter().all(|ino| second.touched.contains(key(*ino))));
    // Something of the one after that does, but it has no base.
    let rig = remains.from(patient(), &second);
    rig.captured(22, 100);
    rig.until("it is in the spool", |rig| rig.handle.status().events >= 1);
    rig.flush();
    rig.captured(23, 100);
    rig.until("it is in the spool", |rig| rig.handle.status().events >= 2);
    let third = find(&rig.kill());
    assert!(third.head.epoch == 2 && third.touched.contains(key(23)));
    let before = third.before.expect("what it goes on from");
    assert!(before.head == first.head && before.touched.contains(key(21)));
}
