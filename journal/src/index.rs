//! The index: what a medium carries of the segments that lie on the media before it, so that it alone tells what happened and where the
//! data lies.
//!
//! One object, written once and front to back before the first segment there: of each earlier segment the manifest and the metadata, then a
//! table, then where the table begins. What is read of it is compared with the chain as if the segment itself were there.

use std::io::{self, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::chain::Journal;
use crate::check;
use crate::error::{Error, Result};
use crate::label::MediumName;
use crate::manifest::{
    FORMAT_VERSION, MANIFEST_BYTES_MAX, Manifest, Version, check_format, index_name, manifest_name,
};
use crate::store::{self, ObjectKind, ReadAt, Store};

/// Ends an index.
const MAGIC: &[u8; 8] = b"TWINDEX1";
/// Length of the table and the magic.
const TAIL_BYTES: u64 = 16;
/// Largest table that is read, in bytes: some three hundred a segment.
const TABLE_BYTES_MAX: u64 = 256 << 20;

/// What stands before the tail.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    format: u32,
    volume: String,
    chain: String,
    segments: Vec<Carried>,
    #[serde(default)]
    check: String,
}

/// A segment that lies on another medium.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Carried {
    /// Index in the chain.
    pub(crate) index: u64,
    /// Where it lies.
    pub(crate) medium: MediumName,
    /// First byte of its manifest in the index; its metadata follows.
    offset: u64,
    manifest_bytes: u64,
    metadata_bytes: u64,
}

/// An index on a medium.
pub(crate) struct Index {
    object: Arc<dyn ReadAt>,
    name: String,
    uuid: String,
    /// By index, rising.
    pub(crate) segments: Vec<Carried>,
}

impl Index {
    /// Opens an index and reads its table.
    ///
    /// # Errors
    /// [`Error::Integrity`] where it is not what was sealed, [`Error::Unsupported`] for a later format, [`Error::Io`].
    pub(crate) fn open(store: &dyn Store, name: &str, uuid: &str) -> Result<Self> {
        let context = |error| Error::io(format!("read {name} on {}", store.describe()), error);
        let broken =
            |why: &str| Error::Integrity(format!("{name} on {} is no index: {why}", store.describe()));
        let object: Arc<dyn ReadAt> = Arc::from(store.open(name).map_err(context)?);
        let mut tail = [0; TAIL_BYTES as usize];
        let end = object
            .bytes()
            .checked_sub(TAIL_BYTES)
            .ok_or_else(|| broken("it is too short"))?;
        object.read_exact_at(&mut tail, end).map_err(context)?;
        let (length, magic) = tail.split_at(8);
        let length = u64::from_le_bytes(length.try_into().unwrap_or_default());
        if magic != MAGIC || length > end || length > TABLE_BYTES_MAX {
            return Err(broken("its end is not that of an index"));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        object.read_exact_at(&mut bytes, end - length).map_err(context)?;
        if !check::is_sound(&bytes) {
            return Err(broken("its table is not as it was sealed"));
        }
        let Version { format } =
            serde_json::from_slice(&bytes).map_err(|error| broken(&error.to_string()))?;
        check_format(format, name)?;
        let Table {
            format: _,
            volume,
            chain: _,
            segments,
            check: _,
        } = serde_json::from_slice(&bytes).map_err(|error| broken(&error.to_string()))?;
        let table_at = end - length;
        let within = |carried: &Carried| {
            let carried_bytes = carried.manifest_bytes.checked_add(carried.metadata_bytes)?;
            let last = carried.offset.checked_add(carried_bytes)?;
            (last <= table_at).then_some(())
        };
        if volume != uuid
            || !segments.is_sorted_by(|a, b| a.index < b.index)
            || !segments.iter().all(|carried| within(carried).is_some())
        {
            return Err(broken("its table makes no sense"));
        }
        Ok(Self {
            object,
            name: name.to_owned(),
            uuid: volume,
            segments,
        })
    }

    /// The manifest of a segment, and the hash of its bytes.
    ///
    /// # Errors
    /// [`Error::Integrity`], [`Error::Io`].
    pub(crate) fn manifest(&self, carried: &Carried) -> Result<(Manifest, String)> {
        let bytes = self.manifest_bytes(carried)?;
        let name = manifest_name(&self.uuid, carried.index);
        let manifest = Manifest::from_bytes(&bytes, &name)?;
        Ok((manifest, blake3::hash(&bytes).to_hex().to_string()))
    }

    pub(crate) fn manifest_bytes(&self, carried: &Carried) -> Result<Vec<u8>> {
        if carried.manifest_bytes > MANIFEST_BYTES_MAX {
            return Err(Error::Integrity(format!(
                "{}: the manifest of segment {} is larger than any of ours",
                self.name, carried.index
            )));
        }
        let mut bytes = vec![0; usize::try_from(carried.manifest_bytes).unwrap_or(0)];
        self.object
            .read_exact_at(&mut bytes, carried.offset)
            .map_err(|error| Error::io(format!("read {}", self.name), error))?;
        Ok(bytes)
    }

    /// The segment as far as it is carried: as if it were the object itself, but for the data, which is not there.
    pub(crate) fn metadata(&self, carried: &Carried, manifest: &Manifest) -> Box<dyn ReadAt> {
        let mut at = carried.offset + carried.manifest_bytes;
        let mut runs = Vec::with_capacity(manifest.row_groups.len() + 1);
        let mut end = 0;
        for group in &manifest.row_groups {
            let length = group.parts.as_ref().map_or(0, |parts| parts.metadata_bytes);
            runs.push(Run {
                start: group.offset,
                length,
                at,
            });
            at = at.saturating_add(length);
            end = group.offset.saturating_add(group.bytes);
        }
        runs.push(Run {
            start: end,
            length: manifest.bytes.saturating_sub(end),
            at,
        });
        Box::new(MetadataOnly {
            object: Arc::clone(&self.object),
            bytes: manifest.bytes,
            runs,
        })
    }
}

/// Bytes of a segment that are carried.
struct Run {
    /// First byte in the segment.
    start: u64,
    length: u64,
    /// First byte in the index.
    at: u64,
}

struct MetadataOnly {
    object: Arc<dyn ReadAt>,
    bytes: u64,
    runs: Vec<Run>,
}

impl ReadAt for MetadataOnly {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let after = self.runs.partition_point(|run| run.start <= offset);
        let run = after.checked_sub(1).and_then(|index| self.runs.get(index));
        let run = run.filter(|run| offset - run.start + buffer.len() as u64 <= run.length);
        let Some(Run { start, at, .. }) = run else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "an index carries no data",
            ));
        };
        self.object.read_exact_at(buffer, at + (offset - start))
    }
}

/// Writes what the next medium of a chain is to carry: of every segment that the media given hold, or carry themselves. `next_index` is that of
/// the first segment that will lie on it.
///
/// # Errors
/// [`Error::Integrity`] where something is not what was sealed: what is damaged is not carried on. [`Error::Io`], [`Error::MediumFull`].
pub fn write_index(journal: &Journal, next_index: u64, store: &dyn Store) -> Result<()> {
    let uuid = &journal.volume().uuid;
    let name = index_name(uuid, next_index);
    let context = |error| Error::io(format!("write {name} on {}", store.describe()), error);
    let mut object = store.create(&name, ObjectKind::Plain).map_err(context)?;
    let mut offset = 0;
    let mut segments = Vec::new();
    for segment in journal
        .all_segments()
        .filter(|segment| segment.manifest.index < next_index)
    {
        let manifest = segment.manifest_bytes()?;
        object.write_all(&manifest).map_err(context)?;
        let mut metadata_bytes = 0;
        segment.each_metadata(|bytes| {
            metadata_bytes += bytes.len() as u64;
            object.write_all(bytes).map_err(context)
        })?;
        segments.push(Carried {
            index: segment.manifest.index,
            medium: segment.lies_on().clone(),
            offset,
            manifest_bytes: manifest.len() as u64,
            metadata_bytes,
        });
        offset += manifest.len() as u64 + metadata_bytes;
    }
    let table = Table {
        format: FORMAT_VERSION,
        volume: uuid.clone(),
        chain: journal.chain().to_owned(),
        segments,
        check: String::new(),
    };
    let table = check::to_bytes(&table).map_err(Error::Integrity)?;
    object.write_all(&table).map_err(context)?;
    object
        .write_all(&(table.len() as u64).to_le_bytes())
        .map_err(context)?;
    object.write_all(MAGIC).map_err(context)?;
    object.seal().map_err(context)
}

/// Puts an index that was written elsewhere onto a medium, as it is. One that lies there already is left.
///
/// # Errors
/// [`Error::Io`], [`Error::MediumFull`].
pub fn copy_index(uuid: &str, next_index: u64, from: &dyn Store, to: &dyn Store) -> Result<()> {
    store::copy(&index_name(uuid, next_index), from, to, None, &|| true).map(drop)
}

/// The newest manifest that an index carries, and the hash of its bytes.
///
/// # Errors
/// [`Error::Integrity`], [`Error::Io`].
pub(crate) fn newest_carried(
    store: &dyn Store,
    uuid: &str,
    index_of: u64,
) -> Result<Option<(Manifest, String)>> {
    let index = Index::open(store, &index_name(uuid, index_of), uuid)?;
    index
        .segments
        .last()
        .map(|carried| index.manifest(carried))
        .transpose()
}
