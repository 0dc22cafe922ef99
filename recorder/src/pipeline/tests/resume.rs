//! A recorder is killed and another one goes on: no number is lost or doubled, and what was under way is read again.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use journal::record::{InodeKey, Op, SnapshotScope};
use journal::store::memory::Failure;

use super::rig::{Remains, Rig, TOO_LONG, holes, last, limits, records};
use crate::doubt::Request;
use crate::pipeline::Limits;
use crate::snapshot::own_record;

/// With an epoch that can be gone on with: its base is complete and sealed.
fn with_base() -> Rig {
    with_base_and(limits())
}

fn with_base_and(limits: Limits) -> Rig {
    let rig = Rig::with(limits);
    let begin_seq = rig.own(Op::BaseBegin { continues: None });
    rig.own(Op::BaseEnd { begin_seq });
    rig.flush();
    rig
}

/// Seals everything; returns the holes.
fn finish(rig: Rig) -> Vec<(u64, u64)> {
    rig.flush();
    let newest = rig.handle.status().captured_seq;
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    let records = records(&medium);
    assert!(last(&records) >= newest);
    holes(&records)
}

#[test]
fn what_was_in_spool_and_ring_is_journaled_once() {
    let rig = with_base();
    for _ in 0..30 {
        rig.captured(10, 1000);
    }
    rig.until("some are in the spool", |rig| rig.handle.status().events >= 30);
    for _ in 0..30 {
        rig.captured(11, 1000);
    }
    let remains = rig.kill();
    for _ in 0..30 {
        remains.captured(12, 1000);
    }
    let rig = remains.resume();
    assert_eq!(rig.handle.epoch(), 1, "the epoch goes on");
    rig.captured(13, 1000);
    assert!(finish(rig).is_empty());
}

#[test]
fn whatever_operation_of_the_medium_the_kill_comes_in_the_journal_goes_on() {
    for operations in 0..14 {
        let rig = with_base();
        for _ in 0..20 {
            rig.captured(10, 1000);
        }
        rig.flush();
        rig.medium
            .memory
            .fail_after(operations, Failure::Error(ErrorKind::BrokenPipe));
        for _ in 0..20 {
            rig.captured(10, 1000);
        }
        let seq = rig.own(Op::Barrier { up_to: None });
        rig.handle.flush_soon(seq);
        rig.until("the medium fails, or has sealed", |rig| {
            let status = rig.handle.status();
            status.error().is_some() || status.durable_seq >= seq
        });
        let remains = rig.kill();
        remains.medium.memory.repair();
        remains.captured(10, 1000);
        assert!(
            finish(remains.resume()).is_empty(),
            "after {operations} operations"
        );
    }
}

#[test]
fn killed_again_and_again() {
    let mut rig = with_base();
    for round in 0..12 {
        for _ in 0..=round * 7 {
            rig.captured(10, 5000);
            rig.own(Op::Barrier { up_to: None });
        }
        if round % 3 == 0 {
            rig.flush();
        }
        let lost = rig.handle.take_seq();
        let remains = rig.kill();
        remains.captured(10 + lost, 100);
        rig = remains.resume();
    }
    assert!(finish(rig).is_empty());
}

#[test]
fn a_number_that_was_taken_for_nothing_is_no_hole_and_waited_for_by_nobody() {
    let rig = with_base();
    let taken: Vec<u64> = (0..3).map(|_| rig.handle.take_seq()).collect();
    rig.captured(10, 100);
    let remains = rig.kill();
    let medium = remains.medium.clone();
    assert!(finish(remains.resume()).is_empty());
    let records = records(&medium);
    for seq in taken {
        let void = records
            .iter()
            .find(|record| record.seq == seq)
            .expect("accounted for");
        assert!(matches!(void.op, Op::SetAttr) && void.inode == InodeKey::default());
    }
}

#[test]
fn a_number_that_nobody_can_explain_stays_a_hole() {
    let rig = with_base();
    let unexplained = rig.number();
    rig.captured(10, 100);
    let rig = rig.kill().resume();
    assert_eq!(
        rig.request(),
        Request::Everything {
            closes: Some(unexplained)
        }
    );
    assert_eq!(finish(rig), [(unexplained, unexplained)]);
}

#[test]
fn snapshots_and_requests_that_were_under_way_are_asked_for_again() {
    let key = |ino| InodeKey { ino, generation: 1 };
    let whole = |ino| Request::Snapshot {
        inode: key(ino),
        scope: SnapshotScope::Whole,
        only_if_unmet: false,
        closes: None,
    };
    let rig = with_base();
    let begin = |rig: &Rig, ino| {
        let seq = rig.handle.take_seq();
        let op = Op::Snapshot {
            link_target: None,
            scope: SnapshotScope::Attributes,
        };
        rig.handle
            .submit(vec![own_record(seq, key(ino), true, op)])
            .unwrap();
        seq
    };
    // One is sealed open, one is not sealed; one is complete.
    begin(&rig, 20);
    let complete = begin(&rig, 22);
    let seq = rig.handle.take_seq();
    let op = Op::SnapshotEnd { begin_seq: complete };
    rig.handle
        .submit(vec![own_record(seq, key(22), true, op)])
        .unwrap();
    // A hole whose repair was asked for before the seal, and never came.
    let hole = rig.number();
    rig.captured(10, 100);
    let everything = Request::Everything { closes: Some(hole) };
    assert_eq!(rig.request(), everything);
    rig.flush();
    begin(&rig, 21);
    let rig = rig.kill().resume();
    let mut asked = [rig.request(), rig.request(), rig.request()];
    asked.sort_by_key(|request| format!("{request:?}"));
    assert_eq!(asked, [everything, whole(20), whole(21)]);
    assert_eq!(rig.handle.status().holes_open, 1);
    assert!(rig.requests.try_recv().is_err());
    let mark = rig.own(Op::Barrier { up_to: None });
    let settled = rig.handle.settle(mark, Duration::from_millis(500));
    assert!(!settled.unwrap(), "a mark waits for them");
    assert_eq!(finish(rig), [(hole, hole)]);
}

#[test]
fn without_a_base_or_with_another_medium_nothing_is_gone_on_with() {
    let why = |remains: &Remains| match remains.find() {
        Ok(_) => panic!("there is nothing to go on with"),
        Err(why) => format!("{why:#}"),
    };
    let rig = Rig::new();
    rig.own(Op::BaseBegin { continues: None });
    rig.flush();
    assert!(why(&rig.kill()).contains("base"));

    let rig = with_base();
    rig.captured(10, 100);
    rig.flush();
    let mut remains = rig.kill();
    remains.medium = with_base().stop().1;
    assert!(why(&remains).contains("does not belong to this medium"));

    let remains = with_base().kill();
    fs::remove_file(remains.spool.path().join("numbers")).unwrap();
    assert!(why(&remains).contains("numbers"));
}

#[test]
fn events_that_are_in_spool_and_ring_are_taken_once() {
    let rig = with_base();
    let seqs: Vec<u64> = (0..5).map(|_| rig.captured(10, 100)).collect();
    let barrier = rig.own(Op::Barrier { up_to: None });
    rig.handle.flush_or_say(barrier, TOO_LONG).unwrap();
    // As if the kill had come before the batch was let go.
    for seq in seqs {
        rig.arrive(super::rig::write_event(seq, 10, 100));
    }
    assert!(finish(rig.kill().resume()).is_empty());
}

/// A number below `bound`, from a seed.
fn random(seed: &mut u64, bound: u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % bound
}

#[test]
fn killed_at_random_moments_only_what_the_kernel_lost_is_a_hole() {
    // What is late comes, however slow the host is.
    let patient = Limits {
        grace: TOO_LONG,
        ..limits()
    };
    for seed in 1..=6 {
        let (mut state, mut lost) = (seed, Vec::new());
        let mut rig = with_base_and(patient);
        for _kill in 0..6 {
            let mut late = Vec::new();
            for _ in 0..random(&mut state, 60) {
                match random(&mut state, 12) {
                    // Taken, and in the ring later than what comes after it, or only after the kill.
                    0 => late.push(rig.number()),
                    1 => {
                        let seq = rig.number();
                        let inode = abi::InodeRef {
                            ino: 1000 + seq,
                            ..abi::InodeRef::default()
                        };
                        rig.lost(abi::LostSlot {
                            seq,
                            inode,
                            ..abi::LostSlot::default()
                        });
                        lost.push((seq, seq));
                    }
                    2 => _ = rig.handle.take_seq(),
                    3 | 4 => _ = rig.own(Op::Barrier { up_to: None }),
                    5 if !late.is_empty() => {
                        let seq = late.swap_remove(0);
                        rig.arrive(super::rig::write_event(seq, 10, 100));
                    }
                    6 => std::thread::sleep(Duration::from_millis(random(&mut state, 30))),
                    _ => _ = rig.captured(10, usize::try_from(random(&mut state, 9000)).unwrap()),
                }
            }
            let remains = rig.kill();
            rig = remains.resume_with(patient);
            for seq in late {
                rig.arrive(super::rig::write_event(seq, 10, 100));
            }
        }
        assert_eq!(finish(rig), lost, "seed {seed}");
    }
}
