//! A directory as a medium, and several media of one volume.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::sync::Arc;

use journal::record::Op;
use journal::store::memory::MemoryStore;
use journal::store::{DirStore, ObjectKind, Store};
use journal::{At, Error, Label, Reader, Writer};

use super::{UUID, medium, name, open, record, volume, write};

#[test]
fn a_directory_is_a_medium() {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(DirStore::open(directory.path()).unwrap());
    assert!(matches!(
        Reader::open(vec![Arc::clone(&store)]),
        Err(Error::NoJournal(_))
    ));
    let label = Label::ensure(&*store, b"program", 5).unwrap();
    assert_eq!(
        Label::ensure(&*store, b"other", 6).unwrap(),
        label,
        "labelled once"
    );
    let mut writer = Writer::open(Arc::clone(&store), volume()).unwrap();
    writer.push(&write(1)).unwrap();
    assert!(writer.bytes_pending() > 0);
    writer.seal().unwrap();
    let reader = Reader::open(vec![store.clone(), store.clone()]).unwrap();
    let report = reader.journal(Some(UUID)).unwrap().verify(|_| ()).unwrap();
    assert_eq!((report.segments, report.records), (1, 1));
    assert_eq!(report.problems, Vec::<String>::new());
    let found: BTreeSet<String> = store
        .list()
        .unwrap()
        .into_iter()
        .map(|object| object.name)
        .collect();
    let (segment, manifest) = (name(1, "parquet"), name(1, "manifest.json"));
    let expected = [
        "FORMAT.md",
        "README.txt",
        "replayer",
        journal::LABEL_NAME,
        &segment,
        &manifest,
    ];
    assert_eq!(found, expected.map(str::to_owned).into());
    assert!(matches!(
        reader.journal(Some("another")),
        Err(Error::NoJournal(_))
    ));
}

#[test]
fn a_store_refuses_what_is_sealed() {
    let store = medium();
    let error = store
        .create(&name(1, "parquet"), ObjectKind::Plain)
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let mut object = store.create("fresh", ObjectKind::Plain).unwrap();
    object.write_all(b"never sealed").unwrap();
    drop(object);
    assert!(store.open("fresh").is_err());
}

/// Two media of one volume: each holds a chain of its own. Read together, the newest answers; a copy of a medium is no second chain.
#[test]
fn chains_on_several_media_are_read_together() {
    let (old, new) = (MemoryStore::new(), MemoryStore::new());
    for (store, time_ns, seqs) in [(&old, 1000, 1..=5), (&new, 2000, 1..=9)] {
        Label::ensure(store, b"program", 0).unwrap();
        chain(store, time_ns, seqs);
    }
    // The old medium is used once more, after the new one.
    chain(&old, 3000, 1..=7);
    let reader = Reader::open(vec![
        Arc::new(new.clone()),
        Arc::new(old.clone()),
        Arc::new(old.clone()),
    ])
    .unwrap();
    let journals = reader.volume(None).unwrap();
    let chains: BTreeSet<&str> = journals.iter().map(|journal| journal.chain()).collect();
    assert_eq!(
        (journals.len(), chains.len()),
        (2, 2),
        "one chain a medium, each its own"
    );
    for journal in &journals {
        assert_eq!(journal.verify(|_| ()).unwrap().problems, Vec::<String>::new());
    }
    assert!(matches!(reader.journal(None), Err(Error::NoJournal(_))));
    let find = |at: At| {
        let (journal, point) = journal::resolve(&journals, &at).unwrap();
        let number = journals.iter().position(|other| other.chain() == journal.chain());
        (number.unwrap(), point.epoch, point.seq)
    };
    assert_eq!(find(At::Latest), (0, 2, 7));
    assert_eq!(find(At::Mark("same".to_owned())), (0, 2, 4));
    assert_eq!(find(At::Time(2008)), (1, 1, 8));
    assert_eq!(find(At::Time(1005)), (0, 1, 5));
    assert_eq!(find(At::Time(2999)), (1, 1, 9));
    // Alone, each answers for itself.
    let alone = Reader::open(vec![Arc::new(new.clone())]).unwrap();
    assert_eq!(alone.journal(None).unwrap().resolve(&At::Latest).unwrap().seq, 9);
}

/// An epoch with a base, numbered and timed from the arguments.
fn chain(store: &MemoryStore, time_ns: i64, seqs: std::ops::RangeInclusive<u64>) {
    let mut writer = Writer::open(Arc::new(store.clone()), volume()).unwrap();
    for seq in seqs {
        let op = match seq {
            1 => Op::BaseBegin { continues: None },
            2 => Op::BaseEnd { begin_seq: 1 },
            4 => Op::Mark {
                name: "same".to_owned(),
            },
            _ => Op::SetAttr,
        };
        let mut record = record(seq, op);
        record.time_ns = time_ns + i64::try_from(seq).unwrap();
        writer.push(&record).unwrap();
        if seq == 3 {
            writer.seal().unwrap();
        }
    }
    writer.seal().unwrap();
}

/// The first segments of the newest epoch are on a medium that was not given: an older epoch must not take its place.
#[test]
fn an_epoch_without_its_first_segment_needs_a_medium() {
    let store = MemoryStore::new();
    Label::ensure(&store, b"program", 0).unwrap();
    chain(&store, 1000, 1..=5);
    chain(&store, 2000, 1..=5);
    let reader = open(&store).unwrap();
    assert_eq!(
        reader.journal(None).unwrap().resolve(&At::Latest).unwrap().epoch,
        2
    );
    store.tamper(&name(3, "parquet"), None);
    store.tamper(&name(3, "manifest.json"), None);
    let reader = open(&store).unwrap();
    let needed = reader.journal(None).unwrap().resolve(&At::Latest).err().unwrap();
    assert_eq!(needed.exit_code(), 20, "{needed}");
}
