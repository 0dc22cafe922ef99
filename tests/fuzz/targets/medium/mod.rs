//! A medium made of what the fuzzer gives, and everything a replayer does with one short of writing a tree.

use std::sync::Arc;

use journal::store::memory::MemoryStore;
use journal::{At, Identities, Label, Projection, Reader, fold};

/// The volume that the seeds of the corpus are of.
pub const UUID: &str = "6f0cb0f4-0001-4000-8000-000000000001";

/// A medium with a sound label and nothing else.
pub fn labelled() -> MemoryStore {
    let store = MemoryStore::new();
    Label::ensure(&store, b"", 0).expect("a store in memory");
    store
}

/// Name of an object of the volume's first segment.
pub fn name(suffix: &str) -> String {
    format!("{UUID}/0000000001.{suffix}")
}

/// What somebody who knows how labels and manifests are sealed would make of these bytes.
pub fn reseal(bytes: &[u8]) -> Vec<u8> {
    let before = b"\n  \"check\": \"";
    let at = bytes.windows(before.len()).rposition(|window| window == before);
    let mut sealed = match at {
        Some(at) => bytes[..at].to_vec(),
        None => bytes.to_vec(),
    };
    sealed.extend_from_slice(before);
    let hash = blake3::hash(&sealed).to_hex();
    sealed.extend_from_slice(hash.as_bytes());
    sealed.extend_from_slice(b"\"\n}\n");
    sealed
}

/// What the encrypted seed of the corpus is encrypted to.
const IDENTITY: &str = include_str!("../../../golden/v7-encrypted/identity");

/// Reads all there is, with an identity. What it says does not matter: that it ends, and says it, does.
pub fn read(store: &MemoryStore) {
    let identities = Identities::parse(IDENTITY).expect("an identity of ours");
    let Ok(reader) = Reader::open_with(vec![Arc::new(store.clone())], &identities) else {
        return;
    };
    let _ = reader.verify_media();
    for journal in reader.journals() {
        let _ = journal.verify(|_| ());
        for at in [At::Latest, At::Seq(5), At::Mark("g".to_owned()), At::Time(1)] {
            let _ = journal::resolve(&[journal], &at);
        }
        let mut state = fold::State::new();
        for segment in journal.segments() {
            let Ok(records) = segment.records(Projection::Metadata) else {
                continue;
            };
            for (row, record) in records.map_while(Result::ok) {
                state.apply(row, &record);
            }
        }
    }
}
