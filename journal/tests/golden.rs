//! What was written once is read for ever: the golden media under `tests/golden`, one per format version.

#![expect(clippy::unwrap_used, reason = "a test may end where its preparations fail")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use journal::record::{InodeKey, Record};
use journal::store::{DirStore, Store as _};
use journal::{At, Error, Identities, LABEL_NAME, Label, Projection, Reader, Signer, Writer, fold};

fn golden(version: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(version)
}

/// With the identity that lies beside an encrypted one.
fn open(version: &str) -> Reader {
    let store = Arc::new(DirStore::open(&golden(version)).unwrap());
    let identities = match std::fs::read_to_string(golden(version).join("identity")) {
        Ok(text) => Identities::parse(&text).unwrap(),
        Err(_) => Identities::default(),
    };
    Reader::open_with(vec![store], &identities).unwrap()
}

fn expected(version: &str) -> Vec<Record> {
    let text = std::fs::read_to_string(golden(version).join("expected.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(&as_now(line)).unwrap())
        .collect()
}

/// Before format 4 these said nothing of their own.
fn as_now(line: &str) -> String {
    ["BaseBegin", "Barrier"].iter().fold(line.to_owned(), |line, op| {
        line.replace(&format!("\"op\":\"{op}\""), &format!("\"op\":{{\"{op}\":{{}}}}"))
    })
}

#[test]
fn every_version_is_read_as_it_was_written() {
    for version in ["v1", "v2", "v3", "v4", "v5", "v6", "v7", "v7-encrypted"] {
        is_read_as_it_was_written(version);
    }
}

fn is_read_as_it_was_written(version: &str) {
    let reader = open(version);
    let journal = reader.journal(None).unwrap();
    assert_eq!(reader.verify_media().unwrap(), Vec::<String>::new());
    assert_eq!(journal.volume().label, "golden");
    let report = journal.verify(|_| ()).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.segments, report.epochs.len()), (3, 2));

    let mut found = Vec::new();
    for segment in journal.segments() {
        for item in segment.records(Projection::All).unwrap() {
            found.push(item.unwrap().1);
        }
    }
    let expected = expected(version);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    let ops: BTreeSet<&str> = expected
        .iter()
        .map(|record| journal::op_name(&record.op))
        .collect();
    assert_eq!(ops.len(), 23, "every operation is in the golden set: {ops:?}");
}

#[test]
fn an_encrypted_one_says_nothing_without_its_identity() {
    let store = Arc::new(DirStore::open(&golden("v7-encrypted")).unwrap());
    let reader = Reader::open(vec![store]).unwrap();
    let refused = reader.journal(None).unwrap().resolve(&At::Latest);
    assert!(matches!(refused, Err(Error::KeyNeeded(_))), "{refused:?}");
}

#[test]
fn every_version_means_what_it_meant() {
    for (version, project) in [
        ("v1", None),
        ("v2", Some(4_000_000_000)),
        ("v3", Some(4_000_000_000)),
        ("v4", Some(4_000_000_000)),
        ("v5", Some(4_000_000_000)),
        ("v6", Some(4_000_000_000)),
        ("v7", Some(4_000_000_000)),
        ("v7-encrypted", Some(4_000_000_000)),
    ] {
        means_what_it_meant(version, project);
    }
}

/// From format 4 on an epoch may go on from another; before, each said nothing of those before it.
#[test]
fn an_epoch_goes_on_from_the_one_before_it_where_it_says_so() {
    for (version, earlier) in [
        ("v3", 0),
        ("v4", 1),
        ("v5", 1),
        ("v6", 1),
        ("v7", 1),
        ("v7-encrypted", 1),
    ] {
        let reader = open(version);
        let journal = reader.journal(None).unwrap();
        let point = journal.resolve(&At::Latest).unwrap();
        assert_eq!((point.epoch, point.earlier.len()), (2, earlier));
        let mut state = fold::State::new();
        for span in point.spans() {
            for segment in journal
                .segments_between(span.first_segment, span.last_segment)
                .unwrap()
            {
                for item in segment.records(Projection::Metadata).unwrap() {
                    let (row, record) = item.unwrap();
                    if record.seq >= span.base_seq && record.seq <= span.seq {
                        state.apply(row, &record);
                    }
                }
            }
        }
        let key = |ino: u32| InodeKey {
            ino: u64::from(ino),
            generation: 0xdead_0000 + ino,
        };
        assert_eq!(state.inode(key(2)).unwrap().entries.len(), 1, "stated anew");
        assert_eq!(state.inode(key(12)).is_some(), earlier == 1, "left as it was");
    }
}

/// What is said of version 1 is what it meant then.
fn means_what_it_meant(version: &str, project: Option<u32>) {
    let reader = open(version);
    let journal = reader.journal(None).unwrap();
    let point = journal.resolve(&At::Mark("gölden".to_owned())).unwrap();
    assert_eq!((point.epoch, point.rounded, point.open_holes.len()), (1, None, 0));
    let mut state = fold::State::new();
    for segment in journal
        .segments_between(point.first_segment, point.last_segment)
        .unwrap()
    {
        for item in segment.records(Projection::Metadata).unwrap() {
            let (row, record) = item.unwrap();
            if record.seq <= point.seq {
                state.apply(row, &record);
            }
        }
    }
    let key = |ino: u32| InodeKey {
        ino: u64::from(ino),
        generation: 0xdead_0000 + ino,
    };
    let root = state.inode(state.root().unwrap()).unwrap();
    let names: Vec<(&[u8], InodeKey)> = root
        .entries
        .iter()
        .map(|(name, key)| (name.as_slice(), *key))
        .collect();
    assert_eq!(
        names,
        [
            (&b"newer"[..], key(13)),
            (&b"old \xff name"[..], key(11)),
            (&b"symlink"[..], key(12))
        ]
    );
    let cloned = state.inode(key(11)).unwrap();
    assert_eq!((cloned.size, cloned.extents.len()), (8192, 2));
    assert_eq!(state.inode(key(12)).unwrap().size, 10_000 - 4096);
    assert_eq!(
        state.inode(key(13)).unwrap().link_target.as_deref(),
        Some(&b"../away"[..])
    );
    assert!(state.inode(key(14)).is_none());
    assert_eq!(state.inode(key(11)).unwrap().attributes.project, project);
}

/// A medium explains and reads itself: nothing is put on it that its own FORMAT.md and replayer do not know.
#[test]
fn an_older_medium_is_read_and_not_continued() {
    let copy = tempfile::tempdir().unwrap();
    copy_tree(&golden("v1"), copy.path());
    let store = Arc::new(DirStore::open(copy.path()).unwrap());
    let reader = Reader::open(vec![store.clone()]).unwrap();
    let journal = reader.journal(None).unwrap();
    assert_eq!(journal.chain(), "");
    let refused = Writer::open(store.clone(), journal.volume().clone())
        .err()
        .unwrap();
    assert!(
        matches!(&refused, Error::Unsupported(why) if why.contains("take a new medium")),
        "{refused}"
    );
    // A label of this version beside manifests of version 1 is no accident of ours either.
    std::fs::remove_file(copy.path().join(LABEL_NAME)).unwrap();
    Label::ensure(&*store, b"program", 0).unwrap();
    assert!(matches!(
        Writer::open(store, journal.volume().clone()),
        Err(Error::Integrity(_))
    ));
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_tree(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// From version 7 on who wrote it can be shown: everything in the golden medium bears the signature of one key.
#[test]
fn the_signatures_of_version_7_fit() {
    let key = Signer::new(&[7; 32]).public_key();
    let store = DirStore::open(&golden("v7")).unwrap();
    let label = Label::read(&store).unwrap().unwrap();
    assert_eq!((label.name.as_str(), label.signer), ("golden-7", key.to_string()));
    let reader = Reader::open(vec![Arc::new(store)]).unwrap();
    let journal = reader.journal(None).unwrap();
    assert!(
        journal
            .segments()
            .all(|segment| segment.manifest.signed_by() == Some(key))
    );
}

/// Whoever has no key cannot make what bears it: also where all hashes are made to fit.
#[test]
fn a_manifest_that_somebody_else_wrote_is_told() {
    let copy = tempfile::tempdir().unwrap();
    copy_tree(&golden("v7"), copy.path());
    let store = DirStore::open(copy.path()).unwrap();
    let name = store
        .list()
        .unwrap()
        .into_iter()
        .rfind(|object| object.name.ends_with("0000000003.manifest.json"))
        .unwrap()
        .name;
    let path = copy.path().join(&name);
    let text = std::fs::read_to_string(&path).unwrap();
    let forged = text.replace("\"hostname\": \"host\"", "\"hostname\": \"h0st\"");
    assert_ne!(text, forged);
    let end = forged.len() - 64 - "\"\n}\n".len();
    let check = blake3::hash(&forged.as_bytes()[..end]).to_hex();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, format!("{}{check}\"\n}}\n", &forged[..end])).unwrap();
    let reader = Reader::open(vec![Arc::new(store)]).unwrap();
    let problems: Vec<String> = reader
        .journal(None)
        .unwrap()
        .problems()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        problems.join(" ").contains("its signature is not that of key"),
        "{problems:?}"
    );
}
