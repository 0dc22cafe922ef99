//! What is asked for, from records made by hand.

use journal::record::{Actor, Attributes};

use crate::snapshot::hole;

use super::*;

fn own(seq: u64, op: Op) -> Record {
    let (inode, attributes, actor) = (InodeKey::default(), Attributes::default(), Actor::default());
    Record {
        seq,
        last_seq: seq,
        time_ns: 0,
        inode,
        attributes,
        from_snapshot: false,
        actor,
        op,
    }
}

#[test]
fn what_nobody_can_name_is_read_again_whole() {
    let (mut doubt, mut requests) = (Doubt::default(), Vec::new());
    doubt.own(&own(5, hole(5, None)), &mut requests);
    assert_eq!(requests, [Request::Everything { closes: Some(5) }]);
}

const FILE: InodeKey = InodeKey {
    ino: 9,
    generation: 1,
};

fn event(seq: u64, kind: EventKind, flags: u16, op: Op, range: Option<(u64, u64, u64, i64)>) -> Decoded {
    let record = Record {
        inode: FILE,
        ..own(seq, op)
    };
    Decoded {
        kind,
        flags,
        record,
        range,
    }
}

/// A fallocate with a write-back of a mapped folio at `offset` before it ends: what is asked for.
fn write_back_within_fallocate(mode: u32, offset: u64) -> Vec<Request> {
    let (mut doubt, mut requests) = (Doubt::default(), Vec::new());
    let range = Op::Fallocate {
        mode,
        offset: 8192,
        length: 4096,
    };
    let data = Op::Write {
        offset,
        data: Vec::new(),
        length: 4096,
    };
    let end = Some((8192, 4096, 1, 0));
    doubt.event(&event(1, EventKind::Fallocate, 0, range, None), &mut requests);
    doubt.event(&event(2, EventKind::MapWrite, 0, data, None), &mut requests);
    assert!(requests.is_empty(), "not before it has ended");
    doubt.event(
        &event(3, EventKind::FallocateEnd, 0, Op::SetAttr, end),
        &mut requests,
    );
    requests
}

#[test]
fn a_mapped_folio_written_back_within_a_range_operation_is_read_again() {
    const PUNCH: u32 = 0x03;
    const COLLAPSE: u32 = 0x08;
    assert_eq!(write_back_within_fallocate(PUNCH, 8192), [whole(FILE)]);
    assert!(write_back_within_fallocate(PUNCH, 4096).is_empty(), "before it");
    assert!(write_back_within_fallocate(PUNCH, 12288).is_empty(), "behind it");
    assert_eq!(
        write_back_within_fallocate(COLLAPSE, 1 << 20),
        [whole(FILE)],
        "it moves"
    );
    assert!(
        write_back_within_fallocate(COLLAPSE, 4096).is_empty(),
        "before it"
    );
}

#[test]
fn what_is_cloned_from_a_doubtful_file_is_read_again_and_so_on() {
    let key = |ino| InodeKey { ino, generation: 1 };
    let clone = |seq, from, to| {
        let op = Op::Clone {
            source: key(from),
            source_offset: 0,
            offset: 0,
            length: 4096,
        };
        let mut begin = event(seq, EventKind::Clone, 0, op, None);
        begin.record.inode = key(to);
        let mut end = event(
            seq + 1,
            EventKind::CloneEnd,
            0,
            Op::SetAttr,
            Some((0, 4096, seq, 4096)),
        );
        end.record.inode = key(to);
        [begin, end]
    };
    let (mut doubt, mut requests) = (Doubt::default(), Vec::new());
    // A collapse that the kernel refused stands in the journal as done until the file is read anew.
    let collapse = Op::Fallocate {
        mode: 0x08,
        offset: 0,
        length: 4096,
    };
    doubt.event(&event(1, EventKind::Fallocate, 0, collapse, None), &mut requests);
    let refused = Some((0, 4096, 1, -22));
    doubt.event(
        &event(2, EventKind::FallocateEnd, 0, Op::SetAttr, refused),
        &mut requests,
    );
    assert_eq!(requests, [whole(FILE)]);
    assert!(!doubt.asked(&requests, 2));
    requests.clear();
    for (seq, from, to) in [(3, FILE.ino, 20), (5, 20, 21)] {
        for event in clone(seq, from, to) {
            doubt.event(&event, &mut requests);
        }
        assert_eq!(requests, [whole(key(to))], "cloned from {from}");
        assert!(!doubt.asked(&requests, seq + 1));
        requests.clear();
    }
    // Read anew: what is cloned from it now is right.
    let scope = SnapshotScope::Whole;
    let snapshot = Op::Snapshot {
        link_target: None,
        scope,
    };
    for (seq, op) in [(10, snapshot), (11, Op::SnapshotEnd { begin_seq: 10 })] {
        let record = Record {
            inode: FILE,
            ..own(seq, op)
        };
        doubt.own(&record, &mut requests);
    }
    for event in clone(12, FILE.ino, 22) {
        doubt.event(&event, &mut requests);
    }
    assert!(requests.is_empty());
}

#[test]
fn what_a_program_cannot_name_is_everything_until_a_hole_tells_when_it_was_read() {
    let (mut doubt, mut requests) = (Doubt::default(), Vec::new());
    let whiteout = event(1, EventKind::Rename, event_flags::WHITEOUT, Op::SetAttr, None);
    doubt.event(&whiteout, &mut requests);
    assert_eq!(requests, [Request::Everything { closes: None }]);
    assert!(doubt.asked(&requests, 1), "a hole is to be journaled");
    assert!(!doubt.asked(&requests, 2), "one is enough");
    assert!(doubt.is_doubtful(FILE));
    requests.clear();
    let inode = None;
    doubt.own(&own(9, hole(9, inode)), &mut requests);
    assert_eq!(requests, [Request::Everything { closes: Some(9) }]);
    assert!(!doubt.asked(&requests, 9));
    assert!(doubt.is_doubtful(FILE));
    doubt.own(&own(20, Op::HoleClosed { hole_seq: 9 }), &mut requests);
    assert!(!doubt.is_doubtful(FILE));
    assert!(
        doubt.asked(&[Request::Everything { closes: None }], 21),
        "and again"
    );
}

#[test]
fn an_unreadable_inode_is_not_asked_for_again() {
    let (mut doubt, mut requests) = (Doubt::default(), Vec::new());
    let inode = Some(InodeKey {
        ino: 7,
        generation: 1,
    });
    doubt.own(&own(5, hole(5, inode)), &mut requests);
    assert!(requests.is_empty());
}
