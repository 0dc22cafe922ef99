//! From what the operator asks for to a moment that can be restored.

#![expect(clippy::unwrap_used, reason = "a test may end where its preparations fail")]

use std::sync::Arc;

use journal::record::{Actor, Attributes, Continued, InodeKey, Op, Record, SnapshotScope};
use journal::store::memory::MemoryStore;
use journal::{At, Error, Label, Reader, ResolvedPoint, Span, VolumeInfo, Writer};

/// Record number `seq` of inode `ino`, at `seq` seconds after 1970.
fn record(seq: u64, ino: u64, op: Op) -> Record {
    Record {
        seq,
        last_seq: seq,
        time_ns: i64::try_from(seq).unwrap() * 1_000_000_000,
        inode: InodeKey { ino, generation: 1 },
        attributes: Attributes::default(),
        from_snapshot: false,
        actor: Actor::default(),
        op,
    }
}

fn begin(scope: SnapshotScope) -> Op {
    Op::Snapshot {
        link_target: None,
        scope,
    }
}

fn mark(name: &str) -> Op {
    Op::Mark {
        name: name.to_owned(),
    }
}

/// Each epoch in segments of three records.
fn resolve(epochs: &[Vec<Record>], at: &At) -> journal::Result<ResolvedPoint> {
    let store = MemoryStore::new();
    Label::ensure(&store, b"", 0).unwrap();
    let volume = VolumeInfo {
        uuid: "v".to_owned(),
        ..VolumeInfo::default()
    };
    for epoch in epochs {
        let mut writer = Writer::open(Arc::new(store.clone()), volume.clone()).unwrap();
        for (position, record) in epoch.iter().enumerate() {
            writer.push(record).unwrap();
            if position % 3 == 2 {
                writer.seal().unwrap();
            }
        }
        writer.seal().unwrap();
    }
    let reader = Reader::open(vec![Arc::new(store)]).unwrap();
    reader.journal(None).unwrap().resolve(at)
}

/// Base 1 to 2, a mark at 3, a merged write 4 to 7, a snapshot 8 to 10 with a mark in it, the end at 11.
fn history() -> Vec<Record> {
    let mut merged = record(
        4,
        5,
        Op::Write {
            offset: 0,
            data: vec![1; 4],
            length: 4,
        },
    );
    merged.last_seq = 7;
    vec![
        record(1, 2, Op::BaseBegin { continues: None }),
        record(2, 2, Op::BaseEnd { begin_seq: 1 }),
        record(3, 0, mark("one")),
        merged,
        record(8, 5, begin(SnapshotScope::Whole)),
        record(9, 0, mark("inside")),
        record(10, 5, Op::SnapshotEnd { begin_seq: 8 }),
        record(11, 0, Op::Barrier { up_to: None }),
    ]
}

#[test]
fn moments_are_found_and_rounded_down_and_said_so() {
    let cases = [
        (At::Latest, 11, false),
        (At::Mark("one".to_owned()), 3, false),
        (At::Mark("inside".to_owned()), 7, true),
        (At::Seq(2), 2, false),
        (At::Seq(5), 3, true),
        (At::Seq(7), 7, false),
        (At::Seq(9), 7, true),
        (At::Seq(10), 10, false),
        (At::Seq(500), 11, false),
        (At::Time(3_500_000_000), 3, false),
        ("1970-01-01T01:00:03Z".parse().unwrap(), 11, false),
        ("1970-01-01T01:00:03+01:00".parse().unwrap(), 3, false),
    ];
    for (at, seq, rounded) in cases {
        let point = resolve(&[history()], &at).unwrap();
        assert_eq!(
            (point.seq, point.rounded.is_some()),
            (seq, rounded),
            "{at:?}: {point:?}"
        );
        assert_eq!((point.epoch, point.base_seq, point.first_segment), (1, 1, 1));
    }
    for at in [
        At::Seq(0),
        At::Seq(1),
        At::Mark("none".to_owned()),
        At::Time(0),
        At::Time(1_000_000_000),
    ] {
        let error = resolve(&[history()], &at).unwrap_err();
        assert!(matches!(error, Error::NoSuchPoint(_)), "{at:?}: {error}");
    }
    for text in [
        "yesterday",
        "seq:x",
        "seq:1:x",
        "seq:1:2:3",
        "seq::2",
        "2026-11-24T08:00:00",
        "",
    ] {
        assert!(text.parse::<At>().is_err(), "{text}");
    }
    assert_eq!("seq:2:30".parse(), Ok(At::SeqOf(2, 30)));
}

#[test]
fn an_epoch_without_a_whole_base_gives_way_to_the_one_before() {
    let broken_off = vec![
        record(1, 2, Op::BaseBegin { continues: None }),
        record(2, 5, Op::SetAttr),
    ];
    let point = resolve(&[history(), broken_off], &At::Latest).unwrap();
    assert_eq!((point.epoch, point.seq), (1, 11));
    assert!(point.rounded.unwrap().contains("epoch 2"));

    let point = resolve(&[history(), history()], &At::Mark("one".to_owned())).unwrap();
    assert_eq!(
        (point.epoch, point.first_segment),
        (2, 4),
        "the newest mark counts"
    );
}

#[test]
fn an_abandoned_snapshot_closes_with_the_next_that_covers_it_or_with_its_inode() {
    let tail = |ops: Vec<Op>| {
        let mut records = history();
        records.extend((12..).zip(ops).map(|(seq, op)| record(seq, 5, op)));
        resolve(&[records], &At::Latest).unwrap().seq
    };
    let whole = || begin(SnapshotScope::Whole);
    let attributes = || begin(SnapshotScope::Attributes);
    let end = |begin_seq| Op::SnapshotEnd { begin_seq };
    assert_eq!(tail(vec![whole()]), 11);
    assert_eq!(tail(vec![whole(), Op::SetAttr]), 11);
    assert_eq!(tail(vec![whole(), whole(), end(13)]), 14);
    assert_eq!(tail(vec![attributes(), whole(), end(13)]), 14);
    assert_eq!(tail(vec![whole(), attributes(), end(13)]), 11);
    assert_eq!(tail(vec![whole(), Op::Evict]), 13);
}

#[test]
fn holes_are_open_until_they_are_closed() {
    let with = |ops: Vec<Op>| {
        let mut records = history();
        records.extend((12..).zip(ops).map(|(step, op)| record(step * 10, 5, op)));
        resolve(&[records], &At::Latest).unwrap().open_holes
    };
    let hole = Op::Hole {
        last_seq: 125,
        inode: None,
        since_seq: None,
    };
    let open = with(vec![hole.clone()]);
    assert_eq!(open.len(), 1);
    assert_eq!(
        (open[0].first_seq, open[0].last_seq, open[0].ino),
        (120, 125, None)
    );
    assert!(with(vec![hole, Op::HoleClosed { hole_seq: 120 }]).is_empty());
}

/// What was missed without a number is found later than it happened: the moments in between are not whole either, though no record up
/// to them says so.
#[test]
fn a_hole_that_is_found_later_is_open_at_the_moments_before() {
    let missed = Op::Hole {
        last_seq: 15,
        inode: None,
        since_seq: Some(12),
    };
    let mut records = history();
    records.extend((12..15).map(|seq| record(seq, 5, Op::SetAttr)));
    records.push(record(15, 5, missed));
    records.push(record(16, 5, Op::HoleClosed { hole_seq: 15 }));
    records.push(record(17, 5, Op::SetAttr));
    for (seq, open) in [(11, 0), (12, 0), (13, 1), (14, 1), (15, 1), (16, 0), (17, 0)] {
        let point = resolve(&[records.clone()], &At::Seq(seq)).unwrap();
        assert_eq!((point.seq, point.open_holes.len()), (seq, open), "at {seq}");
    }
}

/// A base that goes on from an earlier epoch, at 1, to its end at 3, and a mark at 4.
fn continuing(epoch: u64, seq: u64) -> Vec<Record> {
    let continues = Some(Continued { epoch, seq });
    vec![
        record(1, 2, Op::BaseBegin { continues }),
        record(2, 5, Op::SetAttr),
        record(3, 2, Op::BaseEnd { begin_seq: 1 }),
        record(4, 0, mark("later")),
    ]
}

#[test]
fn an_epoch_that_goes_on_from_others_needs_them() {
    let span = |epoch, seq, first_segment, last_segment| Span {
        epoch,
        base_seq: 1,
        seq,
        first_segment,
        last_segment,
        checkpoint: None,
    };
    // The first epoch has three segments of three records, the others two.
    let epochs = [history(), continuing(1, 7), continuing(2, 4)];
    let point = resolve(&epochs, &At::Latest).unwrap();
    assert_eq!(
        point.spans(),
        [span(1, 7, 1, 2), span(2, 4, 4, 5), span(3, 4, 6, 7)]
    );
    let point = resolve(&epochs[..2], &At::Seq(3)).unwrap();
    assert_eq!(point.spans(), [span(1, 7, 1, 2), span(2, 3, 4, 4)]);
    let point = resolve(&epochs, &At::SeqOf(2, 3)).unwrap();
    assert_eq!(
        point.spans(),
        [span(1, 7, 1, 2), span(2, 3, 4, 4)],
        "not of the newest epoch that has it"
    );
    for nowhere in [At::SeqOf(4, 3), At::SeqOf(2, 0)] {
        assert!(
            matches!(resolve(&epochs, &nowhere), Err(Error::NoSuchPoint(_))),
            "{nowhere:?}"
        );
    }
    // In the older epoch nothing is different.
    let point = resolve(&epochs, &At::Mark("one".to_owned())).unwrap();
    assert_eq!((point.epoch, point.earlier), (1, Vec::new()));
    // A base that is not complete is none, whatever it goes on from.
    let mut broken_off = continuing(1, 11);
    broken_off.truncate(2);
    let point = resolve(&[history(), broken_off], &At::Latest).unwrap();
    assert_eq!((point.epoch, point.seq), (1, 11));
}

#[test]
fn an_epoch_that_goes_on_from_what_is_not_there_is_no_moment() {
    let own = resolve(&[continuing(1, 4)], &At::Latest).unwrap_err();
    assert!(matches!(own, Error::Integrity(_)), "{own}");
    let never = resolve(&[history(), history(), continuing(1, 0)], &At::Latest).unwrap_err();
    assert!(matches!(never, Error::MediumNeeded(_)), "{never}");
}
