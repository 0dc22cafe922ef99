//! Copies what is sealed of a volume from one medium to another, object by object.
//!
//! Owns what there is to be copied, and that nothing gets a name there which is not what was sealed here: a manifest vouches for its segment, the chain
//! and its own check for the manifest, and the manifests that an index carries for the metadata beside them. What no manifest vouches for is left.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::crypt::Identities;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::manifest::{Manifest, index_name, manifest_name, parse_index_name, parse_name};
use crate::reader::{Segment, is_no_object};
use crate::scan::read_manifest;
use crate::store::{self, Copied, ObjectInfo, Store};

/// What a medium has of a volume that can be copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copyable {
    /// Indexes of the segments that have a manifest.
    pub segments: BTreeSet<u64>,
    /// Of each index that it carries of the media before: that of the first segment after it.
    pub carried: BTreeSet<u64>,
}

impl Copyable {
    /// As the names of its objects tell.
    pub fn of(objects: &[ObjectInfo], uuid: &str) -> Self {
        let mut copyable = Self::default();
        for ObjectInfo { name, bytes: _ } in objects {
            if let Some((volume, index, true)) = parse_name(name)
                && volume == uuid
            {
                copyable.segments.insert(index);
            }
            if let Some((volume, next_index)) = parse_index_name(name)
                && volume == uuid
            {
                copyable.carried.insert(next_index);
            }
        }
        copyable
    }

    /// The volumes that a medium has anything of.
    pub fn volumes(objects: &[ObjectInfo]) -> BTreeSet<&str> {
        let of_segment = objects
            .iter()
            .filter_map(|object| parse_name(&object.name))
            .map(|(volume, ..)| volume);
        let of_index = objects.iter().filter_map(|object| parse_index_name(&object.name));
        of_segment.chain(of_index.map(|(volume, _)| volume)).collect()
    }
}

/// Reads the manifest of a segment.
///
/// # Errors
/// [`Error::Integrity`] where it is not what was sealed, [`Error::Io`].
pub fn sealed_manifest(store: &dyn Store, uuid: &str, index: u64) -> Result<Manifest> {
    Ok(read_manifest(store, &manifest_name(uuid, index))?.0)
}

/// Makes the manifest of a segment durable before that is copied: whoever sealed it may have died, or still be, between its name and the sync of
/// that, and a copy must not outlive what it is one of.
///
/// # Errors
/// [`Error::Io`].
pub fn make_manifest_durable(store: &dyn Store, uuid: &str, index: u64) -> Result<()> {
    let name = manifest_name(uuid, index);
    let made = store.make_durable(&name);
    made.map_err(|error| Error::io(format!("make {name} durable on {}", store.describe()), error))
}

/// Copies a segment, then its manifest: one that is there vouches for the other. Gives the manifest, and [`Copied::Another`] where a different
/// object has one of the two names.
///
/// # Errors
/// As [`store::copy`]; [`Error::Integrity`] also where the segment is missing.
pub fn copy_segment(
    (uuid, index): (&str, u64),
    from: &dyn Store,
    to: &dyn Store,
    go_on: &dyn Fn() -> bool,
) -> Result<(Manifest, Copied)> {
    let name = manifest_name(uuid, index);
    let (manifest, hash) = read_manifest(from, &name)?;
    let segment = manifest.segment_name();
    let copied = store::copy(&segment, from, to, Some(&manifest.blake3), go_on);
    let bytes = match copied.map_err(|error| lost(error, (&segment, &name), from))? {
        Copied::Now(bytes) => bytes,
        Copied::There => 0,
        Copied::Another => return Ok((manifest, Copied::Another)),
    };
    let copied = match store::copy(&name, from, to, Some(&hash), go_on)? {
        Copied::Now(of_manifest) => Copied::Now(bytes + of_manifest),
        other => other,
    };
    Ok((manifest, copied))
}

/// Where the manifest is there, and its segment is not, trying again does not help; where both are gone, so is the medium.
fn lost(error: Error, (segment, manifest): (&str, &str), from: &dyn Store) -> Error {
    match error {
        Error::Io { source, what }
            if is_no_object(&source) && from.open(segment).is_err() && from.open(manifest).is_ok() =>
        {
            Error::Integrity(format!("{what}: {source}"))
        }
        other => other,
    }
}

/// Copies an index, once everything that it carries is found to be as it was sealed.
///
/// # Errors
/// As [`store::copy`].
pub fn copy_carried(
    (uuid, next_index): (&str, u64),
    from: &Arc<dyn Store>,
    to: &dyn Store,
    go_on: &dyn Fn() -> bool,
) -> Result<Copied> {
    let name = index_name(uuid, next_index);
    let index = Arc::new(Index::open(&**from, &name, uuid)?);
    for carried in &index.segments {
        let segment = Segment::carried(&index, carried, Arc::clone(from), &Identities::default())?;
        segment.each_metadata(|_| Ok(()))?;
    }
    let hash = from
        .open(&name)
        .and_then(|object| store::hash(&*object))
        .map_err(|error| Error::io(format!("read {name} on {}", from.describe()), error))?;
    store::copy(&name, &**from, to, Some(&hash), go_on)
}
