//! Copies: what is sealed goes over object by object, and nothing else does.

use std::sync::Arc;

use journal::store::memory::MemoryStore;
use journal::store::{Copied, Store};
use journal::{Copyable, Error, Label, Naming, copy_carried, copy_segment, sealed_manifest};

use super::spans::spanned;
use super::{UUID, medium, name, problems, seqs};

fn copies() -> MemoryStore {
    let store = MemoryStore::new();
    let naming = Naming {
        copies: true,
        ..Naming::default()
    };
    Label::ensure_as(&store, b"program", 0, &naming).unwrap();
    store
}

fn copy(index: u64, from: &MemoryStore, to: &MemoryStore) -> journal::Result<Copied> {
    copy_segment((UUID, index), from, to, &|| true).map(|(_, copied)| copied)
}

#[test]
fn what_a_manifest_vouches_for_is_copied_and_what_is_there_is_compared() {
    let (from, to) = (medium(), copies());
    from.tamper(&name(4, "parquet"), Some(b"begun".to_vec()));
    let objects = from.list().unwrap();
    let copyable = Copyable::of(&objects, UUID);
    assert_eq!(copyable.segments.iter().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(
        Copyable::volumes(&objects).into_iter().collect::<Vec<_>>(),
        [UUID]
    );
    assert_eq!(Copyable::of(&objects, "another"), Copyable::default());
    for index in copyable.segments {
        assert_eq!(sealed_manifest(&from, UUID, index).unwrap().index, index);
        assert!(matches!(copy(index, &from, &to).unwrap(), Copied::Now(bytes) if bytes > 0));
        assert_eq!(copy(index, &from, &to).unwrap(), Copied::There);
    }
    assert_eq!(seqs(&to), (1..=9).collect::<Vec<_>>());
    assert_eq!(problems(&to), Vec::<String>::new());
    // Interrupted between the two: the manifest follows.
    to.tamper(&name(3, "manifest.json"), None);
    assert!(matches!(copy(3, &from, &to).unwrap(), Copied::Now(_)));
    assert_eq!(
        from.get(&name(3, "manifest.json")),
        to.get(&name(3, "manifest.json"))
    );
    // Another chain of the volume, whose segments are called the same.
    let other = medium();
    assert_eq!(copy(1, &other, &to).unwrap(), Copied::Another);
    assert_eq!(from.get(&name(1, "parquet")), to.get(&name(1, "parquet")));
}

#[test]
fn what_is_not_what_was_sealed_gets_no_name() {
    for object in ["parquet", "manifest.json"] {
        let (from, to) = (medium(), copies());
        let mut bytes = from.get(&name(2, object)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        from.tamper(&name(2, object), Some(bytes));
        let error = copy(2, &from, &to).unwrap_err();
        assert!(matches!(error, Error::Integrity(_)), "{object}: {error}");
        assert_eq!(Copyable::of(&to.list().unwrap(), UUID), Copyable::default());
        assert_eq!(to.get(&name(2, object)), None, "{object}");
    }
    let (from, to) = (medium(), copies());
    from.tamper(&name(2, "parquet"), None);
    let error = copy(2, &from, &to).unwrap_err();
    assert!(matches!(error, Error::Integrity(_)), "a lost segment: {error}");
    from.tamper(&name(2, "manifest.json"), None);
    let error = copy(2, &from, &to).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "the medium is gone: {error}");
}

#[test]
fn whoever_is_told_to_stop_leaves_nothing_begun() {
    let (from, to) = (medium(), copies());
    let error = copy_segment((UUID, 1), &from, &to, &|| false).unwrap_err();
    assert!(
        matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::Interrupted),
        "{error}"
    );
    assert_eq!(to.get(&name(1, "parquet")), None);
}

#[test]
fn what_a_medium_carries_is_compared_too() {
    let ([_, from, _], _) = spanned();
    let next_index = *Copyable::of(&from.list().unwrap(), UUID).carried.first().unwrap();
    let carried = name(next_index, "index");
    let copy = |from: &MemoryStore, to: &MemoryStore| {
        let from: Arc<dyn Store> = Arc::new(from.clone());
        copy_carried((UUID, next_index), &from, to, &|| true)
    };
    let to = copies();
    assert!(matches!(copy(&from, &to).unwrap(), Copied::Now(_)));
    assert_eq!(to.get(&carried), from.get(&carried));
    assert_eq!(copy(&from, &to).unwrap(), Copied::There);
    // A byte of each part: a manifest, metadata, the table.
    let sealed = from.get(&carried).unwrap();
    for at in (0..sealed.len()).step_by(sealed.len() / 40) {
        let mut bytes = sealed.clone();
        bytes[at] ^= 1;
        from.tamper(&carried, Some(bytes));
        let to = copies();
        let error = copy(&from, &to).unwrap_err();
        assert!(matches!(error, Error::Integrity(_)), "byte {at}: {error}");
        assert_eq!(to.get(&carried), None);
    }
}
