//! Order, holes, requests, the window's bound.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use abi::{EventKind, InodeRef, LostSlot, event_flags};
use journal::record::{InodeKey, Op, SnapshotScope};
use proptest::prelude::*;

use super::super::{Limits, Request};
use super::rig::{Rig, TOO_LONG, bare_event, holes, last, limits, records, write_event};
use crate::snapshot::hole;

fn mark(name: &str) -> Op {
    Op::Mark {
        name: name.to_owned(),
    }
}

fn inode(ino: u64) -> InodeRef {
    InodeRef {
        ino,
        generation: 1,
        pad: 0,
    }
}

fn whole(ino: u64, closes: Option<u64>) -> Request {
    Request::Snapshot {
        inode: InodeKey { ino, generation: 1 },
        scope: SnapshotScope::Whole,
        only_if_unmet: false,
        closes,
    }
}

#[test]
fn events_and_own_records_are_journaled_by_number() {
    let rig = Rig::new();
    let held = rig.handle.take_seq();
    let early = [rig.number(), rig.number(), rig.number()];
    for seq in [early[2], early[0], early[1]] {
        rig.arrive(write_event(seq, 10, 100));
    }
    rig.own(mark("between"));
    rig.captured(11, 5000);
    rig.submit(held, mark("held"));
    rig.flush();
    let records = records(&rig.medium);
    assert!(holes(&records).is_empty());
    let seen: Vec<(u64, bool)> = records
        .iter()
        .map(|record| (record.seq, matches!(record.op, Op::Write { .. })))
        .collect();
    assert_eq!(
        seen,
        [
            (1, false),
            (2, true),
            (3, true),
            (4, true),
            (5, false),
            (6, true),
            (7, false)
        ]
    );
    let data = records.iter().find_map(|record| match &record.op {
        Op::Write { data, .. } if record.seq == 6 => Some(data.clone()),
        _ => None,
    });
    assert_eq!(data.unwrap(), vec![6; 5000]);
    assert_eq!(rig.handle.status().events, 4);
    rig.stop().0.unwrap();
}

#[test]
fn numbers_that_never_come_are_holes_of_exactly_those_numbers_and_one_repair_closes_them() {
    let rig = Rig::new();
    rig.captured(10, 10);
    let (first, second) = (rig.number(), rig.number());
    rig.captured(10, 10);
    let third = rig.number();
    let start = Instant::now();
    rig.captured(10, 10);
    let named = match rig.request() {
        Request::Everything { closes: Some(hole) } => hole,
        other => panic!("{other:?}"),
    };
    assert!(start.elapsed() >= limits().grace, "given up before its time");
    rig.until("two holes open", |rig| rig.handle.status().holes_open == 2);
    rig.flush();
    assert_eq!(holes(&records(&rig.medium)), [(first, second), (third, third)]);
    // What was asked for first may have been sent before the second hole was found.
    rig.own(Op::HoleClosed { hole_seq: named });
    rig.handle.served();
    if let Ok(Request::Everything { closes: Some(other) }) =
        rig.requests.recv_timeout(Duration::from_millis(500))
    {
        rig.own(Op::HoleClosed { hole_seq: other });
        rig.handle.served();
    }
    rig.until("no hole open", |rig| rig.handle.status().holes_open == 0);
    rig.flush();
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    let records = records(&medium);
    let closed: BTreeSet<u64> = records
        .iter()
        .filter_map(|record| match record.op {
            Op::HoleClosed { hole_seq } => Some(hole_seq),
            _ => None,
        })
        .collect();
    assert_eq!(closed, BTreeSet::from([first, third]));
}

#[test]
fn what_may_concern_any_inode_is_a_hole_until_the_volume_is_read_again() {
    // An event that tells nothing else is the hole itself; beside one that does, the hole has a number of its own.
    for (kind, flag) in [
        (EventKind::Changed, event_flags::WANT_EVERYTHING),
        (EventKind::Evict, event_flags::WHITEOUT),
    ] {
        let rig = Rig::new();
        let seq = rig.number();
        rig.arrive(bare_event(seq, 10, kind, flag));
        let Request::Everything { closes: Some(hole) } = rig.request() else {
            panic!("{kind:?}: everything is to be read");
        };
        assert_eq!(hole == seq, kind == EventKind::Changed);
        assert_eq!(rig.handle.status().holes_open, 1);
        rig.own(Op::HoleClosed { hole_seq: hole });
        rig.handle.served();
        rig.until("no hole open", |rig| rig.handle.status().holes_open == 0);
        assert!(rig.requests.try_recv().is_err(), "asked for once");
        rig.flush();
        assert_eq!(holes(&records(&rig.medium)), [(hole, hole)]);
        rig.stop().0.unwrap();
    }
}

#[test]
fn what_the_kernel_could_name_is_asked_for_by_name_and_at_once() {
    // Longer than any test may take: nothing here is found by waiting.
    let rig = Rig::with(Limits {
        grace: 2 * TOO_LONG,
        ..limits()
    });
    rig.captured(10, 10);
    let slot = |seq, ino, parent| LostSlot {
        seq,
        inode: inode(ino),
        parent,
        ..LostSlot::default()
    };
    let lost: Vec<u64> = (0..4).map(|_| rig.number()).collect();
    rig.lost(slot(lost[0], 20, InodeRef::default()));
    rig.lost(slot(lost[1], 20, InodeRef::default()));
    rig.lost(slot(lost[2], 21, inode(5)));
    rig.lost(slot(lost[3], 22, InodeRef::default()));
    rig.captured(10, 10);
    let asked: Vec<Request> = (0..4).map(|_| rig.request()).collect();
    assert_eq!(
        asked,
        [
            whole(20, Some(lost[0])),
            whole(5, None),
            whole(21, Some(lost[2])),
            whole(22, Some(lost[3]))
        ]
    );
    rig.flush();
    let records = records(&rig.medium);
    assert_eq!(
        holes(&records),
        [(lost[0], lost[1]), (lost[2], lost[2]), (lost[3], lost[3])]
    );
    let named: Vec<Option<InodeKey>> = records
        .iter()
        .filter_map(|record| match record.op {
            Op::Hole { inode, .. } => Some(inode),
            _ => None,
        })
        .collect();
    let key = |ino| Some(InodeKey { ino, generation: 1 });
    assert_eq!(named, [key(20), key(21), key(22)]);
    rig.stop().0.unwrap();
}

#[test]
fn a_thousand_losses_of_two_inodes_are_not_a_thousand_snapshots() {
    let rig = Rig::new();
    for at in 0..1000 {
        let seq = rig.number();
        rig.lost(LostSlot {
            seq,
            inode: inode(20 + at % 2),
            ..LostSlot::default()
        });
    }
    let barrier = rig.own(Op::Barrier { up_to: None });
    let mut snapshots = 0;
    let mut last_closed = 0;
    while !rig.handle.settle(barrier, Duration::from_millis(200)).unwrap() {
        let Ok(Request::Snapshot {
            closes: Some(hole), ..
        }) = rig.requests.try_recv()
        else {
            continue;
        };
        snapshots += 1;
        last_closed = last_closed.max(rig.own(Op::HoleClosed { hole_seq: hole }));
        rig.handle.served();
    }
    let mark = rig.own(mark("settled"));
    assert!(snapshots <= 6, "{snapshots} snapshots");
    rig.until("no hole open", |rig| rig.handle.status().holes_open == 0);
    rig.flush();
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    let records = records(&medium);
    let closed: Vec<u64> = records
        .iter()
        .filter(|record| matches!(record.op, Op::HoleClosed { .. }))
        .map(|record| record.seq)
        .collect();
    assert_eq!((holes(&records).len(), closed.len()), (1000, 1000));
    assert!(
        closed.iter().all(|seq| *seq < mark),
        "a mark after settling has no hole open"
    );
}

#[test]
fn a_flush_waits_for_a_number_that_is_owed_and_a_settle_for_what_was_asked() {
    let rig = Rig::new();
    let held = rig.handle.take_seq();
    let barrier = rig.own(Op::Barrier { up_to: None });
    let short = Duration::from_millis(600);
    let error = rig.handle.flush_or_say(barrier, short).unwrap_err();
    assert!(error.to_string().contains("slow"), "{error}");
    assert!(!rig.handle.settle(barrier, Duration::from_millis(50)).unwrap());
    // Twice the grace is over: a number whose owner lives is no hole.
    assert_eq!(rig.handle.status().holes_open, 0);
    rig.submit(held, hole(held, None));
    rig.handle.flush_or_say(barrier, TOO_LONG).unwrap();
    assert_eq!(rig.request(), Request::Everything { closes: Some(held) });
    assert!(
        !rig.handle.settle(barrier, Duration::from_millis(50)).unwrap(),
        "what was asked for is not answered"
    );
    rig.handle.served();
    assert!(rig.handle.settle(barrier, TOO_LONG).unwrap());
    rig.stop().0.unwrap();
}

#[test]
fn the_window_stays_within_its_bound_while_a_snapshot_holds_a_number() {
    let rig = Rig::with(Limits {
        window_bytes_max: 256 << 10,
        ..limits()
    });
    let held = [rig.handle.take_seq(), rig.handle.take_seq()];
    for _ in 0..300 {
        rig.captured(10, 32 << 10);
    }
    let later = rig.handle.take_seq();
    for _ in 0..100 {
        rig.captured(11, 32 << 10);
    }
    rig.until("all in the spool", |rig| rig.handle.status().events == 400);
    std::thread::sleep(3 * limits().grace);
    let status = rig.handle.status();
    assert_eq!(status.holes_open, 0, "an owed number is no hole");
    // One frame may go over it.
    assert!(
        (256 << 10..300 << 10).contains(&status.window_bytes),
        "{} bytes wait",
        status.window_bytes
    );
    // The later one first: it is passed over, and found again.
    rig.submit(later, mark("later"));
    rig.submit(held[1], mark("second"));
    rig.submit(held[0], mark("first"));
    rig.flush();
    let (result, medium, _spool) = rig.stop();
    result.unwrap();
    let records = records(&medium);
    assert!(holes(&records).is_empty());
    assert_eq!(last(&records), 404);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is captured, lost with or without a name, or put down by the recorder: each number is accounted for exactly once.
    #[test]
    fn every_number_is_a_record_or_a_hole(
        fates in proptest::collection::vec(0u8..6, 1..120),
        shift in proptest::collection::vec(0usize..4, 120),
    ) {
        // Nothing is given up while an event may still arrive; at the end everything that is missing is.
        let rig = Rig::with(Limits { grace: 2 * TOO_LONG, ..limits() });
        let mut missing = BTreeSet::new();
        let mut late: Vec<(usize, Vec<u8>)> = Vec::new();
        for (at, fate) in fates.iter().enumerate() {
            let (due, rest): (Vec<_>, Vec<_>) = late.into_iter().partition(|(when, _)| *when <= at);
            late = rest;
            due.into_iter().for_each(|(_, event)| rig.arrive(event));
            match fate {
                0 => _ = rig.own(mark("m")),
                1 => _ = missing.insert(rig.number()),
                2 => {
                    let seq = rig.number();
                    missing.insert(seq);
                    rig.lost(LostSlot { seq, inode: inode(30 + seq % 3), ..LostSlot::default() });
                }
                _ => {
                    let seq = rig.number();
                    late.push((at + shift[at], write_event(seq, 10, 64)));
                }
            }
        }
        late.into_iter().for_each(|(_, event)| rig.arrive(event));
        let (result, medium, _spool) = rig.stop();
        prop_assert!(result.is_ok(), "{result:?}");
        let records = records(&medium);
        let lost: BTreeSet<u64> = holes(&records).into_iter().flat_map(|(first, last)| first..=last).collect();
        prop_assert_eq!(lost, missing);
        prop_assert_eq!(last(&records), fates.len() as u64);
    }
}
