//! A medium that fails, is full, slow or hangs; the end of a pipeline, good and bad.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use journal::record::Op;

use super::rig::{Rig, TOO_LONG, holes, last, limits, records, spool_files};
use crate::cli::exit::{MEDIUM_FULL, MEDIUM_NEEDED, code_of};

/// Bytes that fill the spool of a rig to its bound.
const SPOOL_BYTES: usize = 48 << 20;
const EVENT_BYTES: usize = 60_000;

fn fill_spool(rig: &Rig) {
    for _ in 0..SPOOL_BYTES / EVENT_BYTES + 200 {
        rig.captured(10, EVENT_BYTES);
    }
    rig.until("the spool is full", |rig| {
        let status = rig.handle.status();
        status.spool_bytes == 48 << 20 && status.ring_fill_bytes > 0
    });
}

#[test]
fn a_medium_that_is_full_is_waited_for_and_nothing_is_lost() {
    let rig = Rig::new();
    rig.captured(10, 100);
    rig.flush();
    rig.medium.fail(ErrorKind::StorageFull);
    let written: Vec<u64> = (0..50).map(|_| rig.captured(10, 1000)).collect();
    let barrier = rig.own(Op::Barrier { up_to: None });
    let start = Instant::now();
    let error = rig.handle.flush_or_say(barrier, TOO_LONG).unwrap_err();
    assert_eq!(code_of(&error), MEDIUM_FULL, "{error:#}");
    assert!(start.elapsed() >= limits().patience, "gave up at once");
    assert!(rig.handle.status().error().is_some());
    rig.handle.check().expect("waiting for a medium is no stop");
    rig.medium.memory.repair();
    rig.handle.flush_or_say(barrier, TOO_LONG).unwrap();
    assert!(rig.handle.status().error().is_none());
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    let records = records(&medium);
    assert!(holes(&records).is_empty());
    assert_eq!(last(&records), written.last().unwrap() + 1);
}

#[test]
fn whatever_operation_of_the_medium_fails_the_journal_goes_on_without_a_gap() {
    for operations in 0..12 {
        let rig = Rig::new();
        rig.captured(10, 100);
        rig.flush();
        rig.medium.memory.fail_after(
            operations,
            journal::store::memory::Failure::Error(ErrorKind::BrokenPipe),
        );
        rig.captured(10, 1000);
        let barrier = rig.own(Op::Barrier { up_to: None });
        rig.handle.flush_soon(barrier);
        std::thread::sleep(Duration::from_millis(60));
        rig.medium.memory.repair();
        rig.captured(10, 1000);
        rig.flush();
        let (result, medium, _spool) = rig.stop();
        result.unwrap();
        let records = records(&medium);
        assert!(holes(&records).is_empty(), "after {operations}");
        assert_eq!(last(&records), 6, "after {operations}");
    }
}

#[test]
fn the_end_gives_up_a_medium_that_is_gone_and_leaves_the_spool() {
    let rig = Rig::new();
    rig.captured(10, 100);
    rig.flush();
    rig.medium.fail(ErrorKind::NotFound);
    rig.captured(10, 100);
    let start = Instant::now();
    let (result, medium, spool) = rig.stop();
    let error = result.unwrap_err();
    assert_eq!(code_of(&error), MEDIUM_NEEDED, "{error:#}");
    assert!(start.elapsed() >= limits().patience && start.elapsed() < Duration::from_secs(20));
    assert!(!spool_files(&spool).is_empty());
    medium.memory.repair();
    assert_eq!(last(&records(&medium)), 2);
}

#[test]
fn a_medium_that_comes_back_while_ending_gets_everything() {
    let rig = Rig::new();
    rig.medium.fail(ErrorKind::NotFound);
    rig.captured(10, 100);
    let medium = rig.medium.clone();
    let plugged = std::thread::spawn(move || {
        std::thread::sleep(limits().patience / 2);
        medium.memory.repair();
    });
    let (result, medium, _spool) = rig.stop();
    plugged.join().unwrap();
    result.unwrap();
    assert_eq!(last(&records(&medium)), 1);
}

#[test]
fn with_a_full_spool_and_a_dead_medium_nobody_waits_for_ever() {
    let rig = Rig::new();
    rig.medium.fail(ErrorKind::StorageFull);
    fill_spool(&rig);
    let error = rig.handle.reserve_or_say(TOO_LONG).unwrap_err();
    assert_eq!(code_of(&error), MEDIUM_FULL, "{error:#}");
    let error = rig.handle.flush_or_say(1, TOO_LONG).unwrap_err();
    assert_eq!(code_of(&error), MEDIUM_FULL, "{error:#}");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiting = [
            scope.spawn(|| rig.handle.reserve(&stop)),
            scope.spawn(|| rig.handle.flush(1, &stop)),
        ];
        std::thread::sleep(Duration::from_millis(300));
        assert!(
            waiting.iter().all(|thread| !thread.is_finished()),
            "a snapshot waits as long as it takes"
        );
        stop.store(true, Ordering::SeqCst);
        for thread in waiting {
            let error = thread.join().unwrap().unwrap_err();
            assert!(error.to_string().contains("interrupted"), "{error}");
        }
    });
    let start = Instant::now();
    let (result, _medium, spool) = rig.stop();
    let error = result.unwrap_err();
    assert_eq!(code_of(&error), MEDIUM_FULL, "{error:#}");
    assert!(error.to_string().contains("given up"), "{error:#}");
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(spool_files(&spool).len(), 4);
}

#[test]
fn a_full_spool_drains_when_the_medium_is_back_and_its_space_is_given_back() {
    let rig = Rig::new();
    rig.medium.fail(ErrorKind::StorageFull);
    fill_spool(&rig);
    let taken = rig.number() - 1;
    assert_eq!(rig.spool_files().len(), 4);
    rig.arrive(super::rig::write_event(taken + 1, 10, 10));
    rig.medium.memory.repair();
    rig.flush();
    let (oldest, bytes) = (rig.spool_files()[0].clone(), rig.handle.status().spool_bytes);
    assert!(bytes <= 2 * (12 << 20), "{bytes} bytes of spool after a flush");
    assert!(!oldest.ends_with("spool-000000000001"), "{}", oldest.display());
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    let records = records(&medium);
    assert!(holes(&records).is_empty(), "the ring was never full");
    assert_eq!(last(&records), taken + 2);
}

#[test]
fn a_slow_medium_is_waited_for_at_the_end_and_everything_is_sealed() {
    let rig = Rig::new();
    // Several segments take longer than one may hang.
    rig.medium.slow_ms.store(400, Ordering::SeqCst);
    for _ in 0..150 {
        rig.captured(10, EVENT_BYTES);
    }
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    let records = records(&medium);
    assert!(holes(&records).is_empty());
    assert_eq!(last(&records), 150);
}

#[test]
fn a_medium_that_does_not_come_back_from_a_call_is_left_behind() {
    let rig = Rig::new();
    rig.captured(10, 100);
    rig.flush();
    rig.medium.hangs.store(true, Ordering::SeqCst);
    rig.captured(10, 100);
    let start = Instant::now();
    let (result, medium, _spool) = rig.stop();
    let error = result.unwrap_err();
    medium.hangs.store(false, Ordering::SeqCst);
    assert_eq!(code_of(&error), MEDIUM_NEEDED, "{error:#}");
    assert!(error.to_string().contains("not answered"), "{error:#}");
    assert!(start.elapsed() < 4 * limits().stuck);
}

#[test]
fn numbers_without_records_are_holes_at_the_end() {
    let rig = Rig::new();
    rig.captured(10, 100);
    // Taken by somebody who failed before the record was there.
    let owed = rig.handle.take_seq();
    rig.captured(10, 100);
    // Lost, and nothing came after.
    let tail = (rig.number(), rig.number());
    let start = Instant::now();
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(holes(&records(&medium)), [(owed, owed), tail]);
}

#[test]
fn a_thread_that_fails_is_told_to_everybody_who_waits() {
    let rig = Rig::new();
    rig.captured(10, 100);
    rig.flush();
    rig.kernel.panics.store(true, Ordering::SeqCst);
    let start = Instant::now();
    let error = rig.handle.flush_or_say(u64::MAX, TOO_LONG).unwrap_err();
    assert!(error.to_string().contains("drain"), "{error:#}");
    assert!(rig.handle.reserve_or_say(TOO_LONG).is_err());
    assert!(rig.handle.settle(u64::MAX, TOO_LONG).is_err());
    assert!(rig.handle.submit(Vec::new()).is_err());
    assert!(rig.handle.status().error().unwrap().contains("drain"));
    let (result, medium, _spool) = rig.stop();
    assert!(result.unwrap_err().to_string().contains("drain"));
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(last(&records(&medium)), 2, "what was sealed is there");
}
