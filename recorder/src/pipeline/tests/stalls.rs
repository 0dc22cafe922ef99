//! Threads that stand still, and changes that the recorder makes to see that they come back.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use abi::EventKind;
use journal::record::Op;

use super::super::shared::lock;
use super::rig::{Rig, TOO_LONG, bare_event, holes, last, limits, records};
use crate::pulse::{Place, Stall};

/// As if the process had never been held.
const AWAKE: Duration = Duration::MAX;
const CANARY: u64 = 99;

fn stalls(rig: &Rig) -> Vec<Stall> {
    rig.handle.pulses().stalls(AWAKE)
}

fn is_stalled(rig: &Rig, thread: &str, place: Place) -> bool {
    let stands = |stall: &Stall| stall.thread == thread && stall.place == place;
    stalls(rig).iter().any(stands)
}

#[test]
fn every_thread_that_stands_still_is_seen_and_then_everything_goes_on() {
    let rig = Rig::new();
    rig.captured(10, 100);
    rig.flush();
    let mut names = rig.handle.pulses().names();
    names.sort_unstable();
    assert_eq!(names, ["cold", "drain", "spool-sync"]);
    for name in names {
        rig.until("all move", |rig| stalls(rig).is_empty());
        rig.handle.pulses().freeze(name, true);
        rig.captured(10, 100);
        rig.until(name, |rig| is_stalled(rig, name, Place::Own));
        rig.handle.pulses().freeze(name, false);
        rig.flush();
        rig.until("it moves again", |rig| stalls(rig).is_empty());
    }
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    assert!(holes(&records(&medium)).is_empty(), "nothing is lost by it");
}

#[test]
fn a_call_to_the_medium_that_does_not_come_back_is_seen_as_such() {
    let rig = Rig::new();
    rig.captured(10, 100);
    rig.flush();
    rig.medium.hangs.store(true, Ordering::SeqCst);
    rig.captured(10, 100);
    rig.until("the medium hangs", |rig| is_stalled(rig, "cold", Place::Medium));
    assert_eq!(stalls(&rig).len(), 1, "nobody else: {:?}", stalls(&rig));
    rig.medium.hangs.store(false, Ordering::SeqCst);
    rig.flush();
    rig.until("it moves again", |rig| stalls(rig).is_empty());
    rig.stop().0.unwrap();
}

#[test]
fn a_medium_that_refuses_or_is_slow_is_no_stall() {
    let rig = Rig::new();
    rig.captured(10, 100);
    rig.flush();
    rig.medium.fail(std::io::ErrorKind::BrokenPipe);
    rig.captured(10, 100);
    rig.until("it refuses", |rig| rig.handle.status().refused.is_some());
    let begin = Instant::now();
    while begin.elapsed() < limits().stall * 4 {
        assert_eq!(stalls(&rig), [], "it is tried again and again");
        std::thread::sleep(Duration::from_millis(10));
    }
    rig.medium.memory.repair();
    rig.flush();
    rig.stop().0.unwrap();
}

#[test]
fn the_status_does_not_wait_for_the_disk_of_the_spool() {
    let rig = Rig::new();
    rig.captured(10, 100);
    rig.flush();
    let handle = rig.handle.clone();
    let (told, status) = channel();
    {
        // As a thread has it that writes to the spool.
        let _spool = lock(&rig.handle.shared.spool);
        std::thread::spawn(move || {
            // Nobody listens any more where it took too long.
            let _late = told.send(handle.status()).is_err();
        });
        let status = status.recv_timeout(TOO_LONG).expect("an answer");
        assert_eq!(status.spool_bytes, limits().spool_file_bytes);
        assert!(status.spool_used_bytes > 0);
    }
    rig.stop().0.unwrap();
}

fn canary(rig: &Rig) -> u64 {
    let seq = rig.number();
    rig.arrive(bare_event(seq, CANARY, EventKind::Changed, 0));
    seq
}

#[test]
fn a_canary_comes_back_and_costs_the_medium_nothing() {
    let rig = Rig::new();
    rig.handle.watch_canary(CANARY);
    let first = rig.captured(10, 100);
    rig.flush();
    let (segments, durable_seq) = (rig.handle.status().segments, rig.handle.status().durable_seq);
    for _ in 0..5 {
        let seq = canary(&rig);
        rig.until("it comes back", |rig| rig.handle.canary_seq() == seq);
        rig.until("it is safe", |rig| rig.handle.status().safe_seq == seq);
    }
    std::thread::sleep(limits().seal_after * 2);
    let status = rig.handle.status();
    assert_eq!((status.segments, status.durable_seq), (segments, durable_seq));
    assert_eq!(status.said_seq, durable_seq, "nothing was said since");
    // With the next change they all get there.
    let changed = rig.captured(10, 100);
    let late = canary(&rig);
    rig.until("durable", |rig| rig.handle.status().durable_seq >= changed);
    rig.flush();
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    let records = records(&medium);
    assert!(holes(&records).is_empty());
    assert_eq!(last(&records), late + 1);
    let writes: Vec<u64> = records
        .iter()
        .filter(|record| matches!(record.op, Op::Write { .. }))
        .map(|record| record.seq)
        .collect();
    assert_eq!(writes, [first, changed]);
    assert!(records.iter().all(|record| record.inode.ino != CANARY));
    assert!(records.len() < 7, "five canaries are one record: {records:?}");
}

#[test]
fn canaries_alone_are_sealed_at_the_end() {
    let rig = Rig::new();
    rig.handle.watch_canary(CANARY);
    rig.captured(10, 100);
    rig.flush();
    let seq = canary(&rig);
    rig.until("it comes back", |rig| rig.handle.canary_seq() == seq);
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    let records = records(&medium);
    assert!(holes(&records).is_empty());
    assert_eq!(last(&records), seq);
}
