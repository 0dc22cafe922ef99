//! The medium fails in every way that media do, below the store: the recorder goes on spooling, says what it needs, and goes on when the
//! medium is back. What it reported as durable is there when everything that was not synced is lost.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use journal::Label;
use journal::record::Op;
use journal::store::disk::{Disk, SystemDisk};
use journal::store::faults::{FaultDisk, On, What};
use rustix::io::Errno;

use super::medium::MOUNT_POINT;
use super::rig::{Medium, Remains, Rig, TOO_LONG, UUID, holes, last, limits, records, write_event};
use crate::cli::exit::{MEDIUM_FULL, MEDIUM_NEEDED, code_of};
use crate::pipeline::{Changer, Limits};

fn begun(seed: u64) -> (FaultDisk, Rig) {
    let disk = FaultDisk::new(Path::new(MOUNT_POINT), seed);
    let remains = Remains::before(
        Medium::on(&disk),
        Arc::new(SystemDisk),
        tempfile::tempdir().unwrap(),
    );
    let rig = Rig::start(remains, limits(), None, None).ok().unwrap();
    rig.captured(10, 3000);
    rig.flush();
    (disk, rig)
}

/// Captures, asks for it to be sealed, and waits until the recorder says what it needs; the number asked for, and what it says.
fn refused(rig: &Rig, exit_code: u8) -> (u64, String) {
    rig.captured(10, 3000);
    let seq = rig.own(Op::Barrier { up_to: None });
    let error = rig.handle.flush_or_say(seq, TOO_LONG).unwrap_err();
    assert_eq!(code_of(&error), exit_code, "{error:#}");
    rig.handle.check().expect("waiting for a medium is no stop");
    assert!(rig.handle.status().error().is_some());
    assert!(rig.handle.status().durable_seq < seq);
    let more = rig.captured(10, 3000);
    rig.until("spooling goes on", |rig| rig.handle.status().spooled_seq >= more);
    (seq, format!("{error:#}"))
}

/// The medium is well again: everything gets there, and stays there without power.
fn well_again(disk: &FaultDisk, rig: Rig, what: &str) {
    rig.flush();
    assert!(rig.handle.status().error().is_none(), "{what}");
    let newest = rig.handle.status().captured_seq;
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    disk.power_on();
    let records = records(&medium);
    assert!(holes(&records).is_empty(), "{what}");
    assert!(last(&records) >= newest, "{what}");
    let files = disk.files();
    let unsealed = files
        .iter()
        .find(|path| path.to_string_lossy().contains("unsealed"));
    // What was unplugged in mid-write is removed when the recorder starts the next time, or when its name is written anew.
    assert!(
        unsealed.is_none() || what.contains("unplugged"),
        "{what}: {unsealed:?}"
    );
}

#[test]
fn unplugged_in_any_operation_of_a_seal_and_back() {
    for after in 0.. {
        let (disk, rig) = begun(after);
        let what = format!("unplugged in operation {after}");
        disk.plan(On::Change, after, What::Gone);
        for _ in 0..20 {
            rig.captured(10, 3000);
        }
        let seq = rig.own(Op::Barrier { up_to: None });
        rig.handle.flush_soon(seq);
        rig.until("unplugged or sealed", |rig| {
            disk.is_gone() || rig.handle.status().durable_seq >= seq
        });
        if !disk.is_gone() {
            assert!(after > 15, "a seal has more than {after} operations");
            return;
        }
        rig.until("it says so", |rig| rig.handle.status().error().is_some());
        let more = rig.captured(10, 3000);
        rig.until("spooling goes on", |rig| rig.handle.status().spooled_seq >= more);
        disk.power_on();
        well_again(&disk, rig, &what);
    }
}

#[test]
fn unplugged_and_nobody_comes_is_said_after_a_while() {
    let (disk, rig) = begun(1);
    disk.take_away();
    let start = Instant::now();
    refused(&rig, MEDIUM_NEEDED);
    assert!(start.elapsed() >= limits().patience);
    disk.power_on();
    well_again(&disk, rig, "unplugged");
}

#[test]
fn a_medium_that_is_back_is_not_said_to_be_away_while_it_takes_what_it_missed() {
    let (disk, rig) = begun(1);
    disk.take_away();
    refused(&rig, MEDIUM_NEEDED);
    let slow = limits().patience * 2;
    rig.medium
        .slow_ms
        .store(slow.as_millis() as u64, Ordering::SeqCst);
    disk.power_on();
    let seq = rig.own(Op::Barrier { up_to: None });
    rig.handle.flush_or_say(seq, TOO_LONG).unwrap();
    rig.medium.slow_ms.store(0, Ordering::SeqCst);
    well_again(&disk, rig, "slow and unplugged");
}

#[test]
fn another_medium_in_its_place_gets_nothing() {
    let (disk, rig) = begun(1);
    let other = FaultDisk::new(Path::new(MOUNT_POINT), 2);
    Medium::on(&other);
    let theirs = other.files();
    disk.exchange(&other);
    let (_, says) = refused(&rig, MEDIUM_NEEDED);
    assert!(says.contains("mount that again"), "{says}");
    assert_eq!(disk.files(), theirs);
    // A bare mount point.
    let bare = FaultDisk::new(Path::new(MOUNT_POINT), 3);
    disk.exchange(&bare);
    let (_, says) = refused(&rig, MEDIUM_NEEDED);
    assert!(says.contains("not at"), "{says}");
    assert!(disk.files().is_empty());
    disk.exchange(&bare);
    disk.exchange(&other);
    well_again(&disk, rig, "another medium");
}

#[test]
fn the_medium_without_what_was_sealed_on_it_gets_nothing() {
    let (disk, rig) = begun(1);
    let manifest = Path::new(MOUNT_POINT).join(format!("{UUID}/0000000001.manifest.json"));
    disk.take_away();
    refused(&rig, MEDIUM_NEEDED);
    disk.power_on();
    let bytes = disk.read(&manifest).unwrap();
    disk.remove(&manifest).unwrap();
    let (_, says) = refused(&rig, MEDIUM_NEEDED);
    assert!(says.contains("bring back the medium as it was"), "{says}");
    let file = disk
        .create(&manifest, journal::store::disk::Existing::Refused)
        .unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    well_again(&disk, rig, "unplugged, and the manifest is back");
}

#[test]
fn a_full_medium_takes_the_rest_when_there_is_room() {
    let (disk, rig) = begun(1);
    for room in [0, 100, 2000] {
        let free = disk.bytes_free(Path::new(MOUNT_POINT)).unwrap();
        assert!(free.is_none());
        let used: u64 = disk
            .list(Path::new(MOUNT_POINT))
            .unwrap()
            .iter()
            .map(|entry| entry.bytes)
            .sum();
        let inside = Path::new(MOUNT_POINT).join(UUID);
        let used: u64 = used
            + disk
                .list(&inside)
                .unwrap()
                .iter()
                .map(|entry| entry.bytes)
                .sum::<u64>();
        disk.set_room(Some(used + room));
        refused(&rig, MEDIUM_FULL);
        disk.set_room(None);
        rig.flush();
    }
    well_again(&disk, rig, "full");
}

#[test]
fn a_medium_that_is_read_only_or_broken_is_waited_for() {
    for errno in [Errno::ROFS, Errno::IO] {
        let (disk, rig) = begun(1);
        disk.plan(On::Change, 0, What::Error(errno, u64::MAX));
        refused(&rig, MEDIUM_NEEDED);
        disk.repair();
        well_again(&disk, rig, &errno.to_string());
    }
}

#[test]
fn whichever_sync_fails_nothing_that_was_not_synced_counts() {
    for after in 0..8 {
        let (disk, rig) = begun(after);
        disk.plan(On::Sync, after, What::Error(Errno::IO, 1));
        for _ in 0..3 {
            rig.captured(10, 3000);
            rig.flush();
        }
        assert!(disk.operations(On::Sync) > after, "it was met");
        well_again(&disk, rig, &format!("sync {after}"));
    }
}

#[test]
fn a_medium_that_keeps_nothing_of_what_it_takes_is_found_out() {
    let (disk, rig) = begun(1);
    disk.plan(On::Sync, 0, What::Forget);
    let (_, says) = refused(&rig, MEDIUM_NEEDED);
    assert!(says.contains("not to be trusted"), "{says}");
    disk.repair();
    well_again(&disk, rig, "forgetful");
}

#[test]
fn a_sync_that_takes_long_holds_up_nobody_but_the_seal() {
    let (disk, rig) = begun(1);
    disk.plan(On::Sync, 1, What::Freeze);
    rig.captured(10, 3000);
    let seq = rig.own(Op::Barrier { up_to: None });
    rig.handle.flush_soon(seq);
    rig.until("it waits", |_| disk.operations(On::Sync) > 1);
    let more = rig.captured(10, 3000);
    rig.until("spooling goes on", |rig| rig.handle.status().spooled_seq >= more);
    assert!(rig.handle.status().durable_seq < seq);
    disk.repair();
    well_again(&disk, rig, "slow");
}

/// The disk of the spool fails: recording stops and says so, and what was captured is there for the recorder after this one.
#[test]
fn a_spool_that_fails_stops_the_recorder_and_loses_nothing() {
    for (errno, after) in [Errno::IO, Errno::NOSPC]
        .into_iter()
        .flat_map(|errno| (0..6).map(move |after| (errno, after)))
    {
        let what = format!("{errno} in operation {after}");
        let dir = tempfile::tempdir().unwrap();
        let spool = FaultDisk::new(dir.path(), after);
        let medium = FaultDisk::new(Path::new(MOUNT_POINT), after);
        let remains = Remains::before(Medium::on(&medium), Arc::new(spool.clone()), dir);
        let rig = Rig::start(remains, limits(), None, None).ok().unwrap();
        let begin_seq = rig.own(Op::BaseBegin { continues: None });
        rig.own(Op::BaseEnd { begin_seq });
        rig.flush();
        // The recorder's own numbers are on another file system; here, only its events are met.
        spool.plan(On::Change, after, What::Error(errno, u64::MAX));
        rig.until("it has stopped", |rig| {
            rig.captured(10, 3000);
            std::thread::sleep(limits().retry);
            rig.handle.check().is_err()
        });
        assert!(
            rig.handle
                .status()
                .error()
                .is_some_and(|error| error.contains("spool")),
            "{what}"
        );
        let remains = rig.kill();
        spool.repair();
        let rig = remains.resume();
        well_again(&medium, rig, &what);
    }
}

/// Puts one that does not come back from a write in the place of one that is full.
struct NextHangs {
    medium: Medium,
    is_full: AtomicBool,
}

impl Changer for NextHangs {
    fn is_ejecting(&self) -> bool {
        false
    }
    fn is_over(&self) -> bool {
        false
    }
    fn finish(&self, _next_index: u64, is_full: bool) {
        self.is_full.store(is_full, Ordering::SeqCst);
    }
    fn change(&self, _next_index: u64) -> bool {
        let is_full = self.is_full.swap(false, Ordering::SeqCst);
        if is_full {
            self.medium.hangs.store(true, Ordering::SeqCst);
            self.medium.memory.repair();
        }
        is_full
    }
    fn why_not(&self) -> Option<String> {
        None
    }
}

#[test]
fn what_a_full_medium_refused_is_not_said_of_the_next() {
    let mut medium = Medium::default();
    Label::ensure(&medium, b"replayer", 0).unwrap();
    medium.changer = Some(Arc::new(NextHangs {
        medium: medium.clone(),
        is_full: AtomicBool::new(false),
    }));
    let remains = Remains::before(medium, Arc::new(SystemDisk), tempfile::tempdir().unwrap());
    let rig = Rig::start(remains, limits(), None, None).ok().unwrap();
    rig.captured(10, 3000);
    rig.flush();
    rig.medium.fail(ErrorKind::StorageFull);
    rig.captured(10, 3000);
    rig.until("the next one is written to, and nothing is said of it", |rig| {
        rig.medium.hangs.load(Ordering::SeqCst) && rig.handle.status().error().is_none()
    });
    rig.medium.hangs.store(false, Ordering::SeqCst);
    rig.flush();
    let newest = rig.handle.status().captured_seq;
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    assert!(last(&records(&medium)) >= newest);
}

#[test]
fn what_finds_no_room_as_one_segment_is_sealed_as_several() {
    let rig = Rig::with(Limits {
        seal_after: TOO_LONG,
        segment_bytes: 64 << 20,
        unsealed_bytes_max: 64 << 20,
        ..limits()
    });
    rig.captured(10, 100);
    rig.flush();
    rig.medium.room_bytes.store(10 << 20, Ordering::SeqCst);
    for _ in 0..24 {
        let seq = rig.number();
        let mut event = write_event(seq, 10, 1 << 20);
        let head = event.len() - (1 << 20);
        fastrand::Rng::with_seed(seq).fill(&mut event[head..]);
        rig.arrive(event);
    }
    rig.flush();
    let status = rig.handle.status();
    assert!(
        status.error().is_none() && status.segments >= 4,
        "{}",
        status.segments
    );
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    let records = records(&medium);
    assert!(holes(&records).is_empty() && last(&records) >= status.captured_seq);
}
