//! Which media are kept, on made journals.

use journal::record::{InodeKey, Op};
use journal::store::memory::MemoryStore;
use journal::{Label, VolumeInfo, Writer};

use super::*;
use crate::snapshot::own_record;

const HOUR_NS: i64 = 3_600_000_000_000;
const UUID: &str = "f0e1d2c3-0000-4000-8000-000000000001";

/// Epochs of some segments each, with the hours of the first and last record of each: the first holds a base, and is all that this one needs.
fn medium(epochs: &[&[(i64, i64)]]) -> MemoryStore {
    let store = MemoryStore::new();
    Label::ensure(&store, b"", 0).unwrap();
    let (ino, generation) = (2, 1);
    let root = InodeKey { ino, generation };
    for segments in epochs {
        let info = VolumeInfo {
            uuid: UUID.to_owned(),
            root,
            ..VolumeInfo::default()
        };
        let mut writer = Writer::open(Arc::new(store.clone()), info).unwrap();
        for (number, (first, last)) in (0..).zip(*segments) {
            let ops = match number {
                0 => [Op::BaseBegin { continues: None }, Op::BaseEnd { begin_seq: 1 }],
                _ => [Op::Barrier { up_to: None }, Op::Barrier { up_to: None }],
            };
            for (seq, (hour, op)) in (2 * number + 1..).zip([first, last].into_iter().zip(ops)) {
                let mut record = own_record(seq, root, true, op);
                record.time_ns = hour * HOUR_NS;
                writer.push(&record).unwrap();
            }
            writer.seal().unwrap();
        }
    }
    store
}

fn reader(store: MemoryStore) -> Reader {
    Reader::open(vec![Arc::new(store) as Arc<dyn Store>]).unwrap()
}

/// Which of these segments are kept, where it is this hour now.
fn kept_of(epochs: &[&[(i64, i64)]], promises: &Promises, now: i64) -> Vec<u64> {
    let now = Timestamp::from_second(now * 3600).unwrap();
    let plans = plan(&reader(medium(epochs)), promises, now).unwrap();
    plans[0].kept.values().flatten().copied().collect()
}

/// The same of segments that need none of the others.
fn kept(hours: &[(i64, i64)], promises: &Promises, now: i64) -> Vec<u64> {
    let epochs: Vec<_> = hours.chunks(1).collect();
    kept_of(&epochs, promises, now)
}

fn daily(days: i64) -> Promises {
    Promises {
        within_daily: Some(SignedDuration::from_hours(24 * days)),
        ..Promises::default()
    }
}

#[test]
fn of_each_day_the_last_segment_is_kept() {
    let hours = [(1, 2), (3, 4), (25, 26), (27, 28), (49, 50)];
    assert_eq!(kept(&hours, &daily(30), 51), [2, 4, 5]);
    assert_eq!(kept(&hours, &daily(1), 51), [4, 5]);
}

#[test]
fn a_day_that_ends_within_a_segment_keeps_it() {
    let epochs: [&[_]; 2] = [&[(1, 2), (3, 25)], &[(26, 27)]];
    assert_eq!(kept_of(&epochs, &daily(30), 28), [1, 2, 3]);
    // Before the base is complete there is nothing.
    assert_eq!(kept(&[(1, 25), (26, 27)], &daily(30), 28), [2]);
}

#[test]
fn a_clock_that_goes_back_makes_more_be_kept() {
    assert_eq!(
        kept(&[(1, 2), (25, 26), (3, 4), (27, 28)], &daily(30), 29),
        [1, 2, 3, 4]
    );
    assert_eq!(
        kept(&[(2400, 2401), (1, 2), (2425, 2426)], &daily(3), 2427),
        [1, 2, 3]
    );
}

#[test]
fn a_clock_that_is_ahead_frees_nothing_that_was_promised() {
    let hours = [(1, 2), (3, 4), (2400, 2401), (2402, 2403)];
    let within = Promises {
        within: Some(SignedDuration::from_hours(24)),
        ..Promises::default()
    };
    // The first of these moments is what the epoch before ends with.
    assert_eq!(kept(&hours, &within, 2404), [2, 3, 4]);
    assert_eq!(kept(&hours, &within, 99_999), [2, 3, 4]);
    assert_eq!(kept(&hours, &daily(2), 99_999), [4]);
}

#[test]
fn a_moment_that_needs_what_was_not_given_frees_nothing() {
    let medium = medium(&[&[(1, 2), (25, 25)]]);
    let of_the_base = medium.list().unwrap();
    let of_the_base = of_the_base
        .iter()
        .filter(|object| object.name.contains("0000000001."));
    of_the_base.for_each(|object| medium.tamper(&object.name, None));
    let now = Timestamp::from_second(26 * 3600).unwrap();
    let refused = plan(&reader(medium), &daily(30), now).err().unwrap();
    assert_eq!(crate::cli::exit::code_of(&refused), MEDIUM_NEEDED, "{refused:#}");
}

#[test]
fn durations() {
    for (text, hours) in [("12h", 12), ("30d", 720), ("2w", 336), ("1y", 8766)] {
        assert_eq!(
            parse_duration(text),
            Ok(SignedDuration::from_hours(hours)),
            "{text}"
        );
    }
    for text in ["", "30", "d", "0d", "-1d", "1m", "1.5d", "999999999999d"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}

#[test]
fn nothing_promised_is_refused() {
    assert!(check(&Promises::default()).is_err());
    let marks = Promises {
        all_marks: true,
        ..Promises::default()
    };
    assert!(check(&marks).is_ok());
}
