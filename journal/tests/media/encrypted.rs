//! Encrypted journals: what they say without an identity, what they say with one, and what no one can change in them.

use std::sync::Arc;

use journal::record::Op;
use journal::store::Store;
use journal::store::memory::MemoryStore;
use journal::{
    At, Error, Identities, Journal, Label, Manifest, Projection, Reader, Recipients, Writer, write_index,
};

use super::{UUID, record, volume, write};

/// What must be found on no medium.
const SECRET: &[u8] = b"the quick brown fox, and nobody else";

fn identity() -> Identities {
    Identities::parse(&Identities::generate()).unwrap()
}

fn recipients(of: &[&Identities]) -> Recipients {
    let names: Vec<String> = of.iter().flat_map(|identity| identity.recipients()).collect();
    Recipients::parse(&names).unwrap()
}

/// One plain segment, then two encrypted ones; the writer goes on.
fn medium(recipients: &Recipients) -> (MemoryStore, Writer) {
    let store = MemoryStore::new();
    Label::ensure(&store, b"program", 0).unwrap();
    let mut writer = Writer::open(Arc::new(store.clone()), volume()).unwrap();
    for op in [Op::BaseBegin { continues: None }, Op::BaseEnd { begin_seq: 1 }] {
        let seq = writer.pending_seq().unwrap_or(0) + 1;
        writer.push(&record(seq, op)).unwrap();
    }
    writer.seal().unwrap();
    writer = writer.encrypted_to(Some(recipients.clone()));
    for seq in 3..=8 {
        let content = Op::Write {
            offset: 0,
            data: SECRET.to_vec(),
            length: SECRET.len() as u64,
        };
        writer.push(&record(seq, content)).unwrap();
        if seq % 3 == 2 {
            writer.seal().unwrap().unwrap();
        }
    }
    (store, writer)
}

fn open(store: &MemoryStore, identities: &Identities) -> Reader {
    Reader::open_with(vec![Arc::new(store.clone())], identities).unwrap()
}

fn contents(journal: &Journal) -> Result<Vec<Vec<u8>>, Error> {
    let mut contents = Vec::new();
    for segment in journal.segments() {
        for item in segment.records(Projection::All)? {
            if let Op::Write { data, .. } = item?.1.op {
                contents.push(data);
            }
        }
    }
    Ok(contents)
}

fn encrypted_objects(store: &MemoryStore) -> Vec<String> {
    let objects = store.list().unwrap().into_iter();
    objects
        .map(|object| object.name)
        .filter(|name| name.ends_with(".parquet.encrypted"))
        .collect()
}

#[test]
fn recipients_read_it_and_others_only_whether_it_is_what_was_sealed() {
    let (operator, host, stranger) = (identity(), identity(), identity());
    let (store, _) = medium(&recipients(&[&operator, &host]));
    assert_eq!(encrypted_objects(&store).len(), 2);
    for object in store.list().unwrap() {
        let bytes = store.get(&object.name).unwrap();
        let tells = bytes.windows(SECRET.len()).any(|window| window == SECRET);
        assert!(!tells, "{} tells it", object.name);
    }
    for one in [&operator, &host, &stranger.and(&operator)] {
        let reader = open(&store, one);
        let journal = reader.journal(None).unwrap();
        assert_eq!(contents(journal).unwrap(), vec![SECRET.to_vec(); 6]);
        let report = journal.verify(|_| ()).unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!((report.segments, report.encrypted, report.records), (3, 0, 8));
        assert_eq!(journal.resolve(&At::Latest).unwrap().seq, 8);
    }
    for none in [&Identities::default(), &stranger] {
        let reader = open(&store, none);
        let journal = reader.journal(None).unwrap();
        let refused = contents(journal).unwrap_err();
        assert!(matches!(refused, Error::KeyNeeded(_)), "{refused}");
        assert_eq!(refused.exit_code(), 12);
        assert!(
            refused.to_string().contains(&operator.recipients()[0]),
            "{refused}"
        );
        assert!(matches!(journal.resolve(&At::Latest), Err(Error::KeyNeeded(_))));
        let report = journal.verify(|_| ()).unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!((report.segments, report.encrypted, report.records), (3, 2, 2));
    }
}

/// Bytes all over an encrypted segment, with and without an identity.
#[test]
fn whatever_is_altered_is_found_with_and_without_an_identity() {
    let operator = identity();
    let (store, _) = medium(&recipients(&[&operator]));
    let name = encrypted_objects(&store).remove(0);
    let sealed = store.get(&name).unwrap();
    for at in (0..sealed.len()).step_by(13) {
        let mut altered = sealed.clone();
        altered[at] ^= 0x20;
        store.tamper(&name, Some(altered));
        for identities in [&Identities::default(), &operator] {
            let reader = open(&store, identities);
            let report = reader.journal(None).unwrap().verify(|_| ()).unwrap();
            assert_eq!(report.problems.len(), 1, "byte {at}");
        }
    }
    store.tamper(&name, Some(sealed[..sealed.len() - 1].to_vec()));
    let reader = open(&store, &operator);
    let journal = reader.journal(None).unwrap();
    assert!(matches!(contents(journal), Err(Error::Integrity(_))));
}

/// What stands in a manifest that fits, and is nonsense: a hostile medium may say so.
#[test]
fn a_manifest_that_lies_about_its_encryption_is_refused() {
    let operator = identity();
    let (store, _) = medium(&recipients(&[&operator]));
    let name = format!("{UUID}/0000000002.manifest.json");
    let text = String::from_utf8(store.get(&name).unwrap()).unwrap();
    let manifest = Manifest::from_bytes(text.as_bytes(), &name).unwrap();
    assert_eq!(manifest.encryption.unwrap().recipients, operator.recipients());
    // The check at its end is that of the bytes before: whoever alters one makes the other anew.
    let resealed = |text: String| {
        let start = text.rfind("\"check\": \"").unwrap() + "\"check\": \"".len();
        let hash = blake3::hash(&text.as_bytes()[..start]).to_hex();
        format!("{}{hash}\"\n}}\n", &text[..start])
    };
    assert_eq!(resealed(text.clone()), text);
    let plain = text.replace("\"encryption\"", "\"encrypted\"");
    assert!(Manifest::from_bytes(resealed(plain).as_bytes(), &name).is_err());
    let header = text.replace("BEGIN AGE", "BEGIN RAGE");
    store.tamper(&name, Some(resealed(header).into_bytes()));
    let reader = open(&store, &operator);
    let found = reader.journal(None).unwrap().segments().nth(1).unwrap();
    let refused = found.records(Projection::All).err().unwrap();
    assert!(matches!(refused, Error::Integrity(_)), "{refused}");
}

#[test]
fn what_the_next_medium_carries_stays_encrypted_and_needs_no_identity_to_be_carried() {
    let operator = identity();
    let (first, mut writer) = medium(&recipients(&[&operator]));
    let next = MemoryStore::new();
    Label::ensure(&next, b"program", 0).unwrap();
    let reader = open(&first, &Identities::default());
    let next_index = writer.sealed_index() + 1;
    write_index(reader.journal(None).unwrap(), next_index, &next).unwrap();
    let reader = open(&next, &operator);
    let journal = reader.journal(None).unwrap();
    let carried: usize = journal
        .segments()
        .map(|segment| segment.records(Projection::State).unwrap().count())
        .sum();
    assert_eq!(carried, 8);
    let reader = open(&next, &Identities::default());
    let report = reader.journal(None).unwrap().verify(|_| ()).unwrap();
    assert_eq!(
        (report.problems, report.carried, report.encrypted),
        (Vec::new(), 3, 2)
    );
    // What rots of it is found without one.
    let index = format!("{UUID}/{next_index:010}.index");
    let mut rotten = next.get(&index).unwrap();
    // Of the three manifests and the table, each of which ends so, the last manifest: its metadata follows.
    let ends = b"\"\n}\n";
    let mut found = (0..rotten.len()).filter(|at| rotten[*at..].starts_with(ends));
    let metadata = found.nth(2).unwrap() + ends.len();
    rotten[metadata] ^= 1;
    next.tamper(&index, Some(rotten));
    for identities in [&Identities::default(), &operator] {
        let reader = open(&next, identities);
        assert_eq!(reader.verify_media().unwrap(), Vec::<String>::new());
        let report = reader.journal(None).unwrap().verify(|_| ()).unwrap();
        assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    }
    // A writer that goes on needs no identity either.
    writer.push(&write(9)).unwrap();
    writer.seal().unwrap();
    let mut again = Writer::open(Arc::new(first.clone()), volume()).unwrap();
    assert_eq!(again.epoch(), 2);
    again.push(&record(1, Op::BaseBegin { continues: None })).unwrap();
    again.seal().unwrap();
}

/// What a crash leaves between segment and manifest is nothing that is wrong.
#[test]
fn an_encrypted_segment_without_its_manifest_is_ignored() {
    let operator = identity();
    let (store, _) = medium(&recipients(&[&operator]));
    store.tamper(&format!("{UUID}/0000000003.manifest.json"), None);
    let reader = open(&store, &operator);
    assert_eq!(reader.verify_media().unwrap(), Vec::<String>::new());
    let journal = reader.journal(None).unwrap();
    assert_eq!(contents(journal).unwrap().len(), 3);
    let writer = Writer::open(Arc::new(store), volume()).unwrap();
    assert_eq!(writer.sealed_index(), 2);
}
