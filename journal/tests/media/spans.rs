//! One journal over several media: each carries what is to be known of those before it.

use std::io;
use std::sync::{Arc, Mutex};

use journal::record::Op;
use journal::store::memory::MemoryStore;
use journal::store::{Append, ObjectInfo, ObjectKind, ReadAt, Store};
use journal::{At, Error, Head, Journal, Label, Naming, Projection, Reader, Writer, copy_index, write_index};

use super::{UUID, record, volume, write};

/// The medium that is in the drive.
#[derive(Clone)]
struct Drive(Arc<Mutex<MemoryStore>>);

impl Drive {
    fn medium(&self) -> MemoryStore {
        self.0.lock().unwrap().clone()
    }
}

impl Store for Drive {
    fn create(&self, name: &str, kind: ObjectKind) -> io::Result<Box<dyn Append>> {
        self.medium().create(name, kind)
    }
    fn list(&self) -> io::Result<Vec<ObjectInfo>> {
        self.medium().list()
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        self.medium().open(name)
    }
    fn make_durable(&self, name: &str) -> io::Result<()> {
        self.medium().make_durable(name)
    }
    fn bytes_free(&self) -> io::Result<Option<u64>> {
        self.medium().bytes_free()
    }
    fn describe(&self) -> String {
        self.medium().describe()
    }
}

const NAMES: [&str; 3] = ["tape-1", "tape-2", "tape-3"];

fn label(name: &str) -> MemoryStore {
    let medium = MemoryStore::new();
    let naming = Naming {
        name: Some(name.to_owned()),
        pool: "tapes".to_owned(),
        copies: false,
        signer: None,
    };
    Label::ensure_as(&medium, b"program", 0, &naming).unwrap();
    medium
}

/// Three media with two segments each, and the writer in front of the third.
pub(super) fn spanned() -> ([MemoryStore; 3], Writer) {
    let media = NAMES.map(label);
    let drive = Drive(Arc::new(Mutex::new(media[0].clone())));
    let mut writer = Writer::open(Arc::new(drive.clone()), volume()).unwrap();
    let mut seq = 0;
    for (at, medium) in media.iter().enumerate() {
        if at > 0 {
            let next_index = writer.sealed_index() + 1;
            let host = MemoryStore::new();
            // Alone: it carries what there is of those before it.
            let reader = Reader::open(vec![Arc::new(media[at - 1].clone())]).unwrap();
            write_index(reader.journal(Some(UUID)).unwrap(), next_index, &host).unwrap();
            copy_index(UUID, next_index, &host, medium).unwrap();
            *drive.0.lock().unwrap() = medium.clone();
            writer.medium_changed();
        }
        for _ in 0..2 {
            for _ in 0..5 {
                seq += 1;
                let record = match seq {
                    1 => record(1, Op::BaseBegin { continues: None }),
                    2 => record(2, Op::BaseEnd { begin_seq: 1 }),
                    7 => record(
                        7,
                        Op::Mark {
                            name: "early".to_owned(),
                        },
                    ),
                    seq => write(seq),
                };
                writer.push(&record).unwrap();
            }
            writer.seal().unwrap();
        }
    }
    (media, writer)
}

fn open(media: &[&MemoryStore]) -> Reader {
    Reader::open(
        media
            .iter()
            .map(|medium| Arc::new((*medium).clone()) as Arc<dyn Store>)
            .collect(),
    )
    .unwrap()
}

fn metadata(journal: &Journal) -> Vec<u64> {
    journal
        .segments()
        .flat_map(|segment| segment.records(Projection::State).unwrap())
        .map(|item| item.unwrap().1.seq)
        .collect()
}

#[test]
fn a_journal_goes_on_over_media_and_is_read_in_any_order() {
    let ([a, b, c], _) = spanned();
    for order in [[&a, &b, &c], [&c, &a, &b], [&b, &c, &a], [&c, &b, &a]] {
        let reader = open(&order);
        assert_eq!(reader.label_problems(), Vec::<String>::new());
        assert_eq!(reader.verify_media().unwrap(), Vec::<String>::new());
        let journal = reader.journal(None).unwrap();
        let report = journal.verify(|_| ()).unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!((report.segments, report.carried, report.records), (6, 0, 30));
        let media: Vec<&str> = journal
            .segments()
            .map(|segment| segment.lies_on().name.as_str())
            .collect();
        assert_eq!(
            media,
            ["tape-1", "tape-1", "tape-2", "tape-2", "tape-3", "tape-3"]
        );
    }
}

#[test]
fn the_newest_medium_alone_tells_what_happened_and_where_the_data_lies() {
    let ([a, _, c], _) = spanned();
    let reader = open(&[&c]);
    let journal = reader.journal(None).unwrap();
    assert_eq!(journal.problems(), []);
    assert_eq!(metadata(journal), (1..=30).collect::<Vec<_>>());
    let report = journal.verify(|_| ()).unwrap();
    assert_eq!((report.problems.len(), report.carried), (0, 4));
    let early = journal.resolve(&At::Mark("early".to_owned())).unwrap();
    assert_eq!((early.seq, early.first_segment, early.last_segment), (7, 1, 2));
    let data = journal.segment(1).unwrap().data(vec![2]).err().unwrap();
    assert!(
        matches!(&data, Error::MediumNeeded(why) if why.contains("tape-1")),
        "{data}"
    );
    // With the medium that has it, it is there.
    let reader = open(&[&c, &a]);
    let journal = reader.journal(None).unwrap();
    assert_eq!(journal.segment(1).unwrap().data(vec![2]).unwrap().count(), 1);
    assert!(journal.segment(3).unwrap().is_carried());
}

#[test]
fn a_writer_goes_on_where_only_the_newest_medium_is_left() {
    let ([_, _, c], writer) = spanned();
    let head = Head::of(&c, UUID).unwrap().unwrap();
    assert_eq!(head, writer.head_at(30));
    // A medium that has the index and nothing else yet: the power went right after the change.
    let d = label("tape-4");
    let reader = open(&[&c]);
    write_index(reader.journal(None).unwrap(), 7, &d).unwrap();
    assert_eq!(Head::of(&d, UUID).unwrap().unwrap(), head);
    let mut writer = Writer::resume(Arc::new(d.clone()), volume(), &head)
        .unwrap()
        .unwrap();
    writer.push(&write(31)).unwrap();
    assert_eq!(writer.seal().unwrap().unwrap().index, 7);
    let reader = open(&[&d]);
    let journal = reader.journal(None).unwrap();
    assert_eq!(journal.problems(), []);
    assert_eq!(metadata(journal), (1..=31).collect::<Vec<_>>());
}

#[test]
fn a_medium_that_does_not_carry_the_end_of_the_chain_takes_nothing() {
    let ([a, ..], _) = spanned();
    let drive = Drive(Arc::new(Mutex::new(a.clone())));
    let mut writer = Writer::open(Arc::new(drive.clone()), volume()).unwrap();
    *drive.0.lock().unwrap() = label("empty");
    writer.medium_changed();
    let error = writer.push(&write(11)).unwrap_err();
    assert!(matches!(error, Error::MediumNeeded(_)), "{error}");
}

#[test]
fn no_byte_of_an_index_changes_unseen() {
    let ([_, _, c], _) = spanned();
    let name = format!("{UUID}/0000000005.index");
    let object = c.open(&name).unwrap();
    let mut sound = vec![0; usize::try_from(object.bytes()).unwrap()];
    object.read_exact_at(&mut sound, 0).unwrap();
    let others: Vec<ObjectInfo> = c.list().unwrap();
    for at in (0..sound.len()).step_by(101) {
        let copy = MemoryStore::new();
        for ObjectInfo { name: other, .. } in &others {
            let object = c.open(other).unwrap();
            let mut bytes = vec![0; usize::try_from(object.bytes()).unwrap()];
            object.read_exact_at(&mut bytes, 0).unwrap();
            if *other == name {
                bytes[at] ^= 0x20;
            }
            let mut written = copy.create(other, ObjectKind::Plain).unwrap();
            written.write_all(&bytes).unwrap();
            written.seal().unwrap();
        }
        let reader = open(&[&copy]);
        let journal = reader.journal(None).unwrap();
        let seen = !reader.verify_media().unwrap().is_empty()
            || !journal.verify(|_| ()).unwrap().problems.is_empty();
        assert!(seen, "byte {at} of {}", sound.len());
    }
}
