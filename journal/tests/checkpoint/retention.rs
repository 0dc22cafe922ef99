//! Media that nothing promised needs are taken away: what is promised is restored as it was.

use std::collections::BTreeSet;
use std::sync::Arc;

use journal::record::{Continued, Op};
use journal::store::Store as _;
use journal::store::memory::MemoryStore;
use journal::{At, Journal, Label, Reader, Writer, write_index};
use proptest::prelude::*;

use super::{ROOT, Step, UUID, base, checkpoint, content, open, record, step, to_record, volume};

/// What happens to a journal beside its records.
#[derive(Clone, Debug)]
enum Event {
    Steps(Vec<Step>),
    Checkpoint,
    /// The journal goes on on another medium, with an index of those before.
    Medium,
    /// A new epoch: with a base of its own, or one that goes on from the last.
    Epoch(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => proptest::collection::vec(step(), 1..6).prop_map(Event::Steps),
        2 => Just(Event::Checkpoint),
        2 => Just(Event::Medium),
        1 => any::<bool>().prop_map(Event::Epoch),
    ]
}

/// A journal in one store, and which segments were put on which medium.
struct Made {
    whole: MemoryStore,
    /// First index of each medium.
    begins: Vec<u64>,
    /// Moments: epoch and number.
    moments: Vec<(u64, u64)>,
}

fn make(events: &[Event]) -> Made {
    let whole = MemoryStore::new();
    Label::ensure(&whole, b"program", 0).unwrap();
    let open_writer = || Writer::open(Arc::new(whole.clone()), volume()).unwrap();
    let mut writer = open_writer();
    base().iter().for_each(|record| writer.push(record).unwrap());
    writer.seal().unwrap();
    let (mut begins, mut moments, mut seq) = (vec![1], vec![(1, 4)], 5);
    for event in events {
        match event {
            Event::Steps(steps) => {
                for step in steps {
                    writer.push(&to_record(seq, step)).unwrap();
                    moments.push((writer.epoch(), seq));
                    seq += 1;
                }
                writer.seal().unwrap();
            }
            Event::Checkpoint => checkpoint(&whole, &mut writer, 4),
            Event::Medium => begins.push(writer.sealed_index() + 1),
            Event::Epoch(continues) => {
                let before = Continued {
                    epoch: writer.epoch(),
                    seq: seq - 1,
                };
                writer = open_writer();
                let mut records = base();
                if *continues {
                    records[0].op = Op::BaseBegin {
                        continues: Some(before),
                    };
                    records.truncate(1);
                    records.push(record(2, ROOT, Op::BaseEnd { begin_seq: 1 }));
                }
                records.iter().for_each(|record| writer.push(record).unwrap());
                writer.seal().unwrap();
                seq = 5;
                moments.push((writer.epoch(), if *continues { 2 } else { 4 }));
            }
        }
    }
    Made {
        whole,
        begins,
        moments,
    }
}

impl Made {
    /// The media apart, each with an index of those before.
    fn media(&self, journal: &Journal) -> Vec<MemoryStore> {
        let mut media = Vec::new();
        for (at, begin) in self.begins.iter().enumerate() {
            let end = self.begins.get(at + 1).copied().unwrap_or(u64::MAX);
            let medium = MemoryStore::new();
            for object in self.whole.list().unwrap() {
                let index = object
                    .name
                    .split_once('/')
                    .and_then(|(_, file)| file.get(..10)?.parse::<u64>().ok());
                if index.is_none_or(|index| (*begin..end).contains(&index)) {
                    super::copy(&self.whole, &medium, &object.name, |_| ());
                }
            }
            if *begin > 1 && medium.open(&format!("{UUID}/{begin:010}.index")).is_err() {
                write_index(journal, *begin, &medium).unwrap();
            }
            media.push(medium);
        }
        media
    }
}

/// The tree of a moment.
fn tree(reader: &Reader, (epoch, seq): (u64, u64)) -> Option<(u64, super::Content)> {
    let [journal] = reader.volume(None).unwrap().try_into().ok()?;
    Some(content(journal, &At::SeqOf(epoch, seq)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_promised_is_restored_whatever_else_is_taken_away(
        events in proptest::collection::vec(event(), 1..14),
        chosen in proptest::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let made = make(&events);
        let whole = open(&made.whole);
        let journal = whole.journal(None).unwrap();
        let media = made.media(journal);
        let mut promised: Vec<(u64, u64)> = chosen.iter().map(|index| *index.get(&made.moments)).collect();
        promised.extend(made.moments.last());
        let mut needed = BTreeSet::new();
        for (epoch, seq) in &promised {
            needed.extend(journal.needed_for(*epoch, *seq).unwrap());
        }
        let kept: Vec<MemoryStore> = media
            .into_iter()
            .filter(|medium| {
                open_one(medium).is_some_and(|reader| {
                    reader
                        .journals()
                        .flat_map(Journal::all_segments)
                        .any(|segment| !segment.is_carried() && needed.contains(&segment.manifest.index))
                })
            })
            .collect();
        prop_assert!(!kept.is_empty());
        let left = Reader::open(kept.iter().map(|medium| Arc::new(medium.clone()) as _).collect()).unwrap();
        for moment in promised {
            prop_assert_eq!(tree(&left, moment), tree(&whole, moment), "{:?}", moment);
        }
    }
}

fn open_one(medium: &MemoryStore) -> Option<Reader> {
    Reader::open(vec![Arc::new(medium.clone())]).ok()
}

#[test]
fn a_medium_before_a_checkpoint_is_not_needed_and_one_before_a_mere_base_is() {
    let made = make(&[
        Event::Steps(super::some_steps()),
        Event::Medium,
        Event::Steps(super::some_steps()),
        Event::Checkpoint,
        Event::Steps(super::some_steps()),
    ]);
    let reader = open(&made.whole);
    let journal = reader.journal(None).unwrap();
    let (epoch, last) = *made.moments.last().unwrap();
    let begin = made.begins[1];
    assert!(
        journal
            .needed_for(epoch, last)
            .unwrap()
            .iter()
            .all(|index| *index >= begin)
    );
    let [checkpoint] = journal.complete_checkpoints().try_into().unwrap();
    let before = journal.needed_for(epoch, checkpoint.of.seq - 1).unwrap();
    assert!(before.contains(&1) && before.contains(&begin));
    assert!(journal.needed_for(epoch + 1, 1).is_some(), "the newest before it");
}
