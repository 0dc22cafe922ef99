//! Media as they are met: whole, torn, full, altered, mixed up; and every record there can be, written and read.

#![expect(clippy::unwrap_used, reason = "a test may end where its preparations fail")]

mod copies;
mod encrypted;
mod several;
mod spans;

use std::io::ErrorKind;
use std::sync::Arc;

use journal::record::{Actor, Attributes, Entry, InodeKey, Op, Record};
use journal::store::memory::{Failure, MemoryStore};
use journal::{Error, Head, Label, Projection, Reader, VolumeInfo, Writer};

const UUID: &str = "6f0cb0f4-0001-4000-8000-000000000002";

fn volume() -> VolumeInfo {
    VolumeInfo {
        uuid: UUID.to_owned(),
        fs_type: "ext4".to_owned(),
        block_size: 4096,
        ..VolumeInfo::default()
    }
}

fn record(seq: u64, op: Op) -> Record {
    Record {
        seq,
        last_seq: seq,
        time_ns: i64::try_from(seq).unwrap() * 1000,
        inode: InodeKey {
            ino: 7,
            generation: 1,
        },
        attributes: Attributes::default(),
        from_snapshot: false,
        actor: Actor::default(),
        op,
    }
}

fn write(seq: u64) -> Record {
    record(
        seq,
        Op::Write {
            offset: seq * 10,
            data: seq.to_le_bytes().to_vec(),
            length: 8,
        },
    )
}

/// A labelled medium with three segments: sequence numbers 1 to 3, 4 to 6, 7 to 9.
fn medium() -> MemoryStore {
    let store = MemoryStore::new();
    Label::ensure(&store, b"program", 0).unwrap();
    let mut writer = Writer::open(Arc::new(store.clone()), volume()).unwrap();
    for seq in 1..=9 {
        writer.push(&write(seq)).unwrap();
        if seq % 3 == 0 {
            writer.seal().unwrap().unwrap();
        }
    }
    store
}

fn open(store: &MemoryStore) -> journal::Result<Reader> {
    Reader::open(vec![Arc::new(store.clone())])
}

fn problems(store: &MemoryStore) -> Vec<String> {
    let reader = open(store).unwrap();
    reader.journal(None).unwrap().verify(|_| ()).unwrap().problems
}

fn seqs(store: &MemoryStore) -> Vec<u64> {
    let reader = open(store).unwrap();
    let mut seqs = Vec::new();
    for segment in reader.journal(None).unwrap().segments() {
        for item in segment.records(Projection::Metadata).unwrap() {
            seqs.push(item.unwrap().1.seq);
        }
    }
    seqs
}

/// A label or manifest that was changed by somebody who knows how it is sealed.
fn reseal(text: &str) -> Vec<u8> {
    let (head, _) = text.rsplit_once("\"check\": \"").unwrap();
    let head = format!("{head}\"check\": \"");
    let hash = blake3::hash(head.as_bytes()).to_hex();
    format!("{head}{hash}\"\n}}\n").into_bytes()
}

fn name(index: u64, suffix: &str) -> String {
    format!("{UUID}/{index:010}.{suffix}")
}

#[test]
fn a_writer_goes_on_within_the_epoch_of_one_that_was_killed() {
    let store = medium();
    let head = Head::of(&store, UUID).unwrap().unwrap();
    assert_eq!((head.epoch, head.last_seq), (1, 9));
    let resume = |head: &Head| Writer::resume(Arc::new(store.clone()), volume(), head).unwrap();
    for other in [
        Head {
            last_seq: 6,
            ..head.clone()
        },
        Head {
            epoch: 2,
            ..head.clone()
        },
        Head {
            chain: "another".to_owned(),
            ..head.clone()
        },
    ] {
        assert!(resume(&other).is_none(), "{other:?}");
    }
    let mut writer = resume(&head).unwrap();
    assert!(writer.push(&write(9)).is_err(), "it is sealed already");
    writer.push(&write(10)).unwrap();
    assert_eq!(writer.head_at(10), Head { last_seq: 10, ..head });
    writer.seal().unwrap();
    assert_eq!(seqs(&store), (1..=10).collect::<Vec<_>>());
    assert!(problems(&store).is_empty());
    assert_eq!(Head::of(&store, UUID).unwrap().unwrap().last_seq, 10);
    // Whoever does not resume begins another epoch.
    assert_eq!(Writer::open(Arc::new(store), volume()).unwrap().epoch(), 2);
}

#[test]
fn a_sound_medium_has_no_problems_and_a_new_writer_begins_an_epoch() {
    let store = medium();
    assert_eq!(problems(&store), Vec::<String>::new());
    let mut writer = Writer::open(Arc::new(store.clone()), volume()).unwrap();
    assert_eq!(writer.epoch(), 2);
    writer.push(&write(1)).unwrap();
    assert_eq!(writer.seal().unwrap().unwrap().index, 4);
    assert_eq!(problems(&store), Vec::<String>::new());
    assert_eq!(seqs(&store), [1, 2, 3, 4, 5, 6, 7, 8, 9, 1]);
}

#[test]
fn every_flipped_byte_of_a_segment_is_found() {
    let store = medium();
    let sound = store.get(&name(2, "parquet")).unwrap();
    for at in (0..sound.len()).step_by(sound.len() / 50) {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        store.tamper(&name(2, "parquet"), Some(bytes));
        let problems = problems(&store);
        assert_eq!(problems.len(), 1, "byte {at}: {problems:?}");
        assert!(problems[0].contains("numbers 4 to 6"), "{problems:?}");
    }
}

#[test]
fn what_is_missing_swapped_or_altered_is_named() {
    let gone = |names: &[String]| {
        let store = medium();
        for name in names {
            store.tamper(name, None);
        }
        problems(&store).join("; ")
    };
    let both = [name(2, "parquet"), name(2, "manifest.json")];
    assert!(gone(&both).contains("segment 2 missing"));
    assert!(gone(&both[..1]).contains("segment 2"));
    assert!(gone(&both[1..]).contains("segment 2 missing"));

    // Two segments change places, with their manifests and without.
    for suffixes in [
        &["parquet", "manifest.json"][..],
        &["parquet"],
        &["manifest.json"],
    ] {
        let store = medium();
        for suffix in suffixes {
            let (one, two) = (store.get(&name(1, suffix)), store.get(&name(2, suffix)));
            store.tamper(&name(1, suffix), two);
            store.tamper(&name(2, suffix), one);
        }
        assert!(!problems(&store).is_empty(), "{suffixes:?}");
    }

    // A manifest is changed so that it is still one.
    let store = medium();
    let text = String::from_utf8(store.get(&name(1, "manifest.json")).unwrap()).unwrap();
    store.tamper(
        &name(1, "manifest.json"),
        Some(text.replace("ext4", "ext3").into_bytes()),
    );
    assert!(problems(&store).join("; ").contains("is not as it was sealed"));
    store.tamper(
        &name(1, "manifest.json"),
        Some(reseal(&text.replace("ext4", "ext3"))),
    );
    assert!(
        problems(&store)
            .join("; ")
            .contains("chain is broken at segment 2")
    );
}

#[test]
fn foreign_and_torn_things_are_ignored_with_a_notice() {
    let store = medium();
    store.tamper(&format!("{UUID}/holiday.jpg"), Some(vec![1]));
    store.tamper(&name(4, "parquet"), Some(b"PAR1 torn".to_vec()));
    let reader = open(&store).unwrap();
    assert_eq!(reader.notices().len(), 2, "{:?}", reader.notices());
    assert_eq!(problems(&store), Vec::<String>::new());
    // The torn index is not used again, and says so.
    let mut writer = Writer::open(Arc::new(store.clone()), volume()).unwrap();
    writer.push(&write(1)).unwrap();
    assert_eq!(writer.seal().unwrap().unwrap().index, 5);
    assert_eq!(problems(&store), Vec::<String>::new());
}

#[test]
fn no_label_no_journal_and_a_later_format_is_refused() {
    let store = medium();
    let label = store.get(journal::LABEL_NAME).unwrap();
    let bare = MemoryStore::new();
    assert_eq!(open(&bare).err().unwrap().exit_code(), 10);
    store.tamper(journal::LABEL_NAME, None);
    assert_eq!(open(&store).unwrap().label_problems().len(), 1, "it was there");
    let format = |version: u32| format!("\"format\": {version}");
    let later = String::from_utf8(label).unwrap().replace(
        &format(journal::FORMAT_VERSION),
        &format(journal::FORMAT_VERSION + 1),
    );
    store.tamper(journal::LABEL_NAME, Some(reseal(&later)));
    assert!(matches!(open(&store), Err(Error::Unsupported(_))));
    for damaged in [later.as_str(), "{"] {
        store.tamper(journal::LABEL_NAME, Some(damaged.into()));
        assert_eq!(open(&store).unwrap().label_problems().len(), 1);
        assert!(Writer::open(Arc::new(store.clone()), volume()).is_err());
    }
}

/// A forged name must not make anyone count up to it.
#[test]
fn an_index_far_away_costs_nothing() {
    let store = medium();
    let far = u64::from(u32::MAX);
    store.tamper(&name(far, "parquet"), store.get(&name(3, "parquet")));
    let refused = Writer::open(Arc::new(store.clone()), volume()).err().unwrap();
    assert_eq!(refused.exit_code(), 30, "{refused}");
    let manifest = String::from_utf8(store.get(&name(3, "manifest.json")).unwrap()).unwrap();
    let forged = manifest.replace("\"index\": 3", &format!("\"index\": {far}"));
    store.tamper(&name(far, "manifest.json"), Some(reseal(&forged)));
    let problems = problems(&store).join("; ");
    assert!(problems.contains("segment 4 to 4294967294 missing"), "{problems}");
    let reader = open(&store).unwrap();
    let journal = reader.journal(None).unwrap();
    let needed = journal.segments_between(1, far).err().unwrap();
    assert_eq!(needed.exit_code(), 20);
    let beyond = manifest.replace("\"index\": 3", "\"index\": 9999999999");
    let refused = journal::Manifest::from_bytes(&reseal(&beyond), &name(9_999_999_999, "manifest.json"));
    assert!(matches!(refused, Err(Error::Integrity(_))), "{refused:?}");
}

/// The power goes, or the medium is full, after every possible number of operations: what was reported sealed is there,
/// nothing is there in part, and the next writer goes on.
#[test]
fn whatever_fails_nothing_sealed_is_lost() {
    for failure in [Failure::PowerCut, Failure::Error(ErrorKind::StorageFull)] {
        for operations in 0.. {
            let store = MemoryStore::new();
            Label::ensure(&store, b"program", 0).unwrap();
            store.fail_after(operations, failure);
            let (mut sealed, mut failed) = (0, None);
            let mut writer = Writer::open(Arc::new(store.clone()), volume());
            if let Ok(writer) = &mut writer {
                failed = (1..=6)
                    .try_for_each(|seq| {
                        writer.push(&write(seq))?;
                        if seq % 2 == 0 {
                            writer.seal()?;
                            sealed = seq;
                        }
                        Ok(())
                    })
                    .err();
            }
            store.repair();
            let done = matches!((&writer, &failed), (Ok(_), None));
            if let (Some(error), Failure::Error(_)) = (&failed, failure) {
                assert!(
                    matches!(error, Error::MediumFull(_)),
                    "after {operations}: {error}"
                );
            }
            // The same writer goes on where the failure was one that passes.
            if let (Ok(writer), Failure::Error(_)) = (&mut writer, failure) {
                for seq in sealed + 1..=6 {
                    writer.push(&write(seq)).unwrap();
                }
                writer.seal().unwrap();
                assert_eq!(seqs(&store), [1, 2, 3, 4, 5, 6], "after {operations}");
                assert_eq!(problems(&store), Vec::<String>::new(), "after {operations}");
            } else if sealed > 0 {
                assert_eq!(
                    seqs(&store),
                    (1..=sealed).collect::<Vec<_>>(),
                    "after {operations}"
                );
            }
            let mut next = Writer::open(Arc::new(store.clone()), volume()).unwrap();
            next.push(&write(1)).unwrap();
            next.seal().unwrap();
            assert_eq!(problems(&store), Vec::<String>::new(), "after {operations}");
            if done {
                assert!(operations > 10, "the failures were met");
                break;
            }
        }
    }
}

/// A seal is reported as failed although the objects are there: the records come again, and count once.
#[test]
fn what_was_sealed_and_reported_as_failed_is_void() {
    let store = medium();
    let mut writer = Writer::open(Arc::new(store.clone()), volume()).unwrap();
    // Another hand takes the index, as a seal does whose last sync fails.
    let other = medium();
    store.tamper(&name(4, "parquet"), other.get(&name(1, "parquet")));
    writer.push(&write(1)).unwrap();
    assert_eq!(writer.seal().unwrap().unwrap().index, 5);
    let stray = String::from_utf8(store.get(&name(1, "manifest.json")).unwrap()).unwrap();
    store.tamper(
        &name(4, "manifest.json"),
        Some(reseal(&stray.replace("\"index\": 1", "\"index\": 4"))),
    );
    let reader = open(&store).unwrap();
    assert!(
        reader.notices().join("; ").contains("void"),
        "{:?}",
        reader.notices()
    );
    assert_eq!(problems(&store), Vec::<String>::new());
}

#[test]
fn hostile_rows_are_refused_with_segment_and_row() {
    let named = |name: &[u8]| Op::SnapshotEntry {
        entry: Entry {
            parent: InodeKey::default(),
            name: name.to_vec(),
        },
    };
    let write_of = |offset, length| Op::Write {
        offset,
        data: vec![0; 3],
        length,
    };
    let long = [b'a'; 256];
    let bad = [
        named(b""),
        named(b"."),
        named(b".."),
        named(b"a/b"),
        named(b"a\0"),
        named(&long),
        write_of(0, 4),
        write_of(u64::MAX, 3),
        Op::SetXattr {
            name: Vec::new(),
            value: Vec::new(),
        },
        Op::Clone {
            source: InodeKey::default(),
            source_offset: u64::MAX - 1,
            offset: 0,
            length: 1,
        },
    ];
    for op in bad {
        let store = MemoryStore::new();
        Label::ensure(&store, b"program", 0).unwrap();
        let mut writer = Writer::open(Arc::new(store.clone()), volume()).unwrap();
        writer.push(&write(1)).unwrap();
        writer.push(&record(2, op.clone())).unwrap();
        writer.seal().unwrap();
        let problems = problems(&store).join("; ");
        assert!(
            problems.contains("0000000001.parquet, row 1"),
            "{op:?}: {problems}"
        );
    }
}

#[test]
fn numbers_must_rise() {
    let store = MemoryStore::new();
    Label::ensure(&store, b"program", 0).unwrap();
    let mut writer = Writer::open(Arc::new(store), volume()).unwrap();
    let mut merged = write(5);
    merged.last_seq = 8;
    writer.push(&merged).unwrap();
    assert!(writer.push(&write(8)).is_err());
}

/// Row groups are bounded, their ranges are exact, and each range has the hash that the manifest states.
#[test]
fn row_groups_are_bounded_and_hashed() {
    let store = MemoryStore::new();
    Label::ensure(&store, b"program", 0).unwrap();
    let mut writer = Writer::open(Arc::new(store.clone()), volume()).unwrap();
    let mut random = 1u64;
    let mut data = vec![0u8; 1 << 20];
    for seq in 1..=40 {
        for byte in &mut data {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (random >> 56) as u8;
        }
        let op = Op::Write {
            offset: 0,
            data: data.clone(),
            length: data.len() as u64,
        };
        writer.push(&record(seq, op)).unwrap();
    }
    let sealed = writer.seal().unwrap().unwrap();
    let reader = open(&store).unwrap();
    let segment = reader.journal(None).unwrap().segments().next().unwrap();
    let bytes = store.get(&segment.name()).unwrap();
    assert_eq!(bytes.len() as u64, sealed.bytes);
    assert_eq!(sealed.blake3, blake3::hash(&bytes).to_hex().as_str());
    let groups = &segment.manifest.row_groups;
    assert!((3..=4).contains(&groups.len()), "{groups:?}");
    let mut at = 0;
    for group in groups {
        assert_eq!(group.offset, at);
        at += group.bytes;
        let range = usize::try_from(group.offset).unwrap()..usize::try_from(at).unwrap();
        let parts = group.parts.as_ref().unwrap();
        let (metadata, data) = bytes[range].split_at(usize::try_from(parts.metadata_bytes).unwrap());
        assert_eq!(parts.metadata_blake3, blake3::hash(metadata).to_hex().as_str());
        assert_eq!(parts.data_blake3, blake3::hash(data).to_hex().as_str());
        assert!(metadata.len() < 1 << 16, "the data is not in it");
        assert!(
            group.bytes > group.rows * (1 << 20),
            "its own data is in its range"
        );
    }
    let footer = &bytes[usize::try_from(at).unwrap()..];
    assert!(footer.len() < 1 << 20, "only the footer follows");
    let sealed = segment.manifest.footer_blake3.as_deref();
    assert_eq!(sealed, Some(blake3::hash(footer).to_hex().as_str()));
}
