//! What is read is compared with what was sealed, and what is not wanted is not read: row groups have parts.

#![expect(clippy::unwrap_used, reason = "a test may end where its preparations fail")]

use std::sync::Arc;

use journal::record::{Actor, Attributes, InodeKey, Op, Record};
use journal::store::memory::MemoryStore;
use journal::{Error, Label, Projection, Reader, VolumeInfo, Writer};

const UUID: &str = "6f0cb0f4-0001-4000-8000-000000000003";
/// Bytes of each write: seventeen or so fill a row group.
const BYTES: usize = 1 << 20;
const ROWS: u64 = 40;

/// A medium with one segment of several row groups, whose data does not compress.
fn medium() -> MemoryStore {
    let store = MemoryStore::new();
    Label::ensure(&store, b"program", 0).unwrap();
    let volume = VolumeInfo {
        uuid: UUID.to_owned(),
        ..VolumeInfo::default()
    };
    let mut writer = Writer::open(Arc::new(store.clone()), volume).unwrap();
    for seq in 1..=ROWS {
        let record = Record {
            seq,
            last_seq: seq,
            time_ns: 1,
            inode: InodeKey {
                ino: 7,
                generation: 1,
            },
            attributes: Attributes::default(),
            from_snapshot: false,
            actor: Actor::default(),
            op: Op::Write {
                offset: 0,
                data: noise(seq),
                length: BYTES as u64,
            },
        };
        writer.push(&record).unwrap();
    }
    writer.seal().unwrap().unwrap();
    store
}

fn noise(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn open(store: &MemoryStore) -> Reader {
    Reader::open(vec![Arc::new(store.clone())]).unwrap()
}

/// Rows whose data is read, and whether it is what was written; or why it cannot be.
fn data(store: &MemoryStore, rows: &[u64]) -> Result<Vec<u64>, Error> {
    let reader = open(store);
    let segment = reader.journal(None)?.segments().next().unwrap();
    let mut found = Vec::new();
    for item in segment.data(rows.to_vec())? {
        let (row, data) = item?;
        assert!(*data == *noise(row + 1), "row {row}");
        found.push(row);
    }
    Ok(found)
}

fn metadata(store: &MemoryStore) -> Result<usize, Error> {
    let reader = open(store);
    let segment = reader.journal(None)?.segments().next().unwrap();
    let records: Result<Vec<_>, Error> = segment.records(Projection::Metadata)?.collect();
    Ok(records?.len())
}

/// Flips a bit of the segment's only object.
fn flip(store: &MemoryStore, at: u64) {
    let name = format!("{UUID}/0000000001.parquet");
    let mut bytes = store.get(&name).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 4;
    store.tamper(&name, Some(bytes));
}

fn refused(result: Result<impl std::fmt::Debug, Error>, part: &str) {
    let error = result.unwrap_err();
    assert!(
        matches!(&error, Error::Integrity(why) if why.contains(part) && why.contains("sequence numbers 1 to 40")),
        "{error}"
    );
}

#[test]
fn only_the_rows_that_are_wanted() {
    let store = medium();
    assert_eq!(metadata(&store).unwrap(), 40);
    assert_eq!(data(&store, &[]).unwrap(), [] as [u64; 0]);
    for rows in [&[0][..], &[39], &[0, 1, 2, 20, 39], &[16, 17, 18]] {
        assert_eq!(data(&store, rows).unwrap(), rows);
    }
    let all: Vec<u64> = (0..ROWS).collect();
    assert_eq!(data(&store, &all).unwrap(), all);
    assert!(matches!(data(&store, &[3, ROWS]), Err(Error::Integrity(_))));
}

#[test]
fn damage_shows_where_it_is_read_and_nowhere_else() {
    let store = medium();
    let manifest = open(&store)
        .journal(None)
        .unwrap()
        .segments()
        .next()
        .unwrap()
        .manifest
        .clone();
    let groups = &manifest.row_groups;
    let last = groups.last().unwrap();
    let first_of_last = ROWS - last.rows;

    // Data of the last row group: neither its metadata nor the others' data are touched by it.
    let at = last.offset + last.bytes - 100;
    flip(&store, at);
    assert_eq!(metadata(&store).unwrap(), 40);
    assert_eq!(data(&store, &[0, first_of_last - 1]).unwrap().len(), 2);
    refused(data(&store, &[0, first_of_last]), "BLAKE3 of the data differs");
    flip(&store, at);

    // Its metadata.
    flip(&store, last.offset + 30);
    refused(metadata(&store), "BLAKE3 of the metadata differs");
    assert_eq!(
        data(&store, &[first_of_last]).unwrap().len(),
        1,
        "not wanted for data"
    );
    flip(&store, last.offset + 30);

    // The footer.
    flip(&store, manifest.bytes - 20);
    refused(metadata(&store), "BLAKE3 of the footer differs");
    refused(data(&store, &[0]), "BLAKE3 of the footer differs");
    flip(&store, manifest.bytes - 20);

    let mut longer = store.get(&format!("{UUID}/0000000001.parquet")).unwrap();
    longer.push(0);
    store.tamper(&format!("{UUID}/0000000001.parquet"), Some(longer));
    refused(metadata(&store), "were sealed");
}

/// A manifest that somebody made to be believed: of a footer and a row group that memory should be found for.
#[test]
fn parts_that_no_memory_should_be_found_for_are_refused() {
    let store = medium();
    let name = format!("{UUID}/0000000001.manifest.json");
    let sound = String::from_utf8(store.get(&name).unwrap()).unwrap();
    let bytes = |text: &str| -> u64 {
        let from = text.find("\"bytes\": ").unwrap() + 9;
        let digits: String = text[from..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    let of_group = sound.find("\"row_groups\"").unwrap();
    let (segment, group) = (bytes(&sound), bytes(&sound[of_group..]));
    for (from, to, is_refused) in [
        (segment, segment + (1 << 20), false),
        (segment, segment + (16 << 20), true),
        (group, group + (128 << 20), true),
    ] {
        let field = |bytes: u64| format!("\"bytes\": {bytes},");
        let text = sound.replace(&field(from), &field(to));
        let end = text.find("\"check\": \"").unwrap() + 10;
        let head = &text[..end];
        let sealed = format!("{head}{}\"\n}}\n", blake3::hash(head.as_bytes()).to_hex());
        store.tamper(&name, Some(sealed.into_bytes()));
        let opened = Reader::open(vec![Arc::new(store.clone())]);
        let error = opened.err().map(|error| error.to_string());
        assert_eq!(
            error
                .as_ref()
                .is_some_and(|why| why.contains("larger than any of ours")),
            is_refused,
            "{from} to {to}: {error:?}"
        );
    }
}

#[test]
fn a_manifest_tells_what_reading_costs() {
    let store = medium();
    let reader = open(&store);
    let manifest = &reader.journal(None).unwrap().segments().next().unwrap().manifest;
    let data: Vec<u64> = manifest
        .row_groups
        .iter()
        .map(|group| group.bytes - group.parts.as_ref().unwrap().metadata_bytes)
        .collect();
    let all: u64 = data.iter().sum();
    assert_eq!(manifest.metadata_bytes() + all, manifest.bytes);
    assert!(manifest.metadata_bytes() < manifest.bytes / 100);
    assert_eq!(manifest.data_bytes([]), 0);
    assert_eq!(manifest.data_bytes([0, 1]), data[0]);
    assert_eq!(manifest.data_bytes([0, ROWS - 1]), data[0] + data[data.len() - 1]);
    assert_eq!(manifest.data_bytes(0..ROWS), all);
}
