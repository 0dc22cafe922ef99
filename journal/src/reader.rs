//! Reads a journal from any number of media. Everything read here comes from outside and is doubted.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::label::Label;
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, Point, VolumeInfo, parse_name, segment_name};
use crate::record::Record;
use crate::segment::{Projection, SegmentReader};
use crate::store::{ObjectInfo, ReadAt, Store};

/// Where a record stands: segment index in the journal, and row in it. Ordered as the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowRef {
    /// Index of the segment.
    pub segment: u64,
    /// Row in the segment.
    pub row: u64,
}

/// A segment that a manifest vouches for.
#[derive(Clone)]
pub struct Segment {
    /// Its manifest.
    pub manifest: Manifest,
    manifest_hash: String,
    store: Arc<dyn Store>,
}

impl Segment {
    /// Name on its medium.
    pub fn name(&self) -> String {
        segment_name(&self.manifest.volume.uuid, self.manifest.index)
    }

    /// The medium it is on.
    pub fn medium(&self) -> String {
        self.store.describe()
    }

    fn damaged(&self, why: impl std::fmt::Display) -> Error {
        let Manifest {
            index,
            epoch,
            first_seq,
            last_seq,
            ..
        } = &self.manifest;
        Error::Integrity(format!(
            "segment {index} ({} on {}): {why}; it holds sequence numbers {first_seq} to {last_seq} of epoch {epoch}",
            self.name(),
            self.medium()
        ))
    }

    fn object(&self) -> Result<Arc<dyn ReadAt>> {
        let object = match self.store.open(&self.name()) {
            Ok(object) => object,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(self.damaged("the file is missing"));
            }
            Err(error) => return Err(Error::io(format!("open {}", self.name()), error)),
        };
        if object.bytes() != self.manifest.bytes {
            let (found, sealed) = (object.bytes(), self.manifest.bytes);
            return Err(self.damaged(format!("the file has {found} bytes, {sealed} were sealed")));
        }
        Ok(Arc::from(object))
    }

    /// Compares the segment's bytes with the hash that was sealed.
    ///
    /// # Errors
    /// [`Error::Integrity`], naming what the segment holds.
    pub fn check_hash(&self) -> Result<()> {
        let object = self.object()?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < object.bytes() {
            let length = usize::try_from(object.bytes() - offset)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            object
                .read_exact_at(&mut buffer[..length], offset)
                .map_err(|error| Error::io(format!("read {}", self.name()), error))?;
            hasher.update(&buffer[..length]);
            offset += length as u64;
        }
        if hasher.finalize().to_hex().as_str() == self.manifest.blake3 {
            Ok(())
        } else {
            Err(self.damaged("its content is not what was sealed (BLAKE3 differs)"))
        }
    }

    /// Reads its records. Does not check the hash: see [`Segment::check_hash`].
    ///
    /// # Errors
    /// [`Error::Integrity`], [`Error::Io`]; the iterator too.
    pub fn records(&self, projection: Projection) -> Result<impl Iterator<Item = Result<(RowRef, Record)>>> {
        let index = self.manifest.index;
        let reader = SegmentReader::new(self.object()?, &self.name(), projection)
            .map_err(|error| self.located(error))?;
        Ok(reader.map(move |item| {
            item.map(|(row, record)| (RowRef { segment: index, row }, record))
                .map_err(|error| self.located(error))
        }))
    }

    /// An error of its content, with what that costs.
    fn located(&self, error: Error) -> Error {
        match error {
            Error::Integrity(why) => self.damaged(why),
            other => other,
        }
    }
}

/// One chain of a volume's journal, as far as the media given hold it: each medium begins its own, with a base.
#[derive(Clone, Default)]
pub struct Journal {
    segments: BTreeMap<u64, Segment>,
    problems: Vec<String>,
}

impl Journal {
    /// The chain: uuid of the medium on which it began; empty where format 1 did not say.
    pub fn chain(&self) -> &str {
        self.segments
            .values()
            .next()
            .map_or("", |segment| &segment.manifest.chain)
    }

    /// The media that hold it, each once.
    pub fn media(&self) -> Vec<String> {
        let mut media: Vec<String> = self.segments.values().map(Segment::medium).collect();
        media.sort_unstable();
        media.dedup();
        media
    }

    /// When its first record was made, nanoseconds since 1970.
    fn begin_time_ns(&self) -> i64 {
        self.segments
            .values()
            .next()
            .map_or(i64::MIN, |segment| segment.manifest.first_time_ns)
    }

    /// The volume, as its newest segment describes it.
    pub fn volume(&self) -> &VolumeInfo {
        // A journal is made with its first segment.
        self.segments
            .values()
            .next_back()
            .map_or(const { &EMPTY_VOLUME }, |segment| &segment.manifest.volume)
    }

    /// Segments in order.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.segments.values()
    }

    /// The segment with this index.
    ///
    /// # Errors
    /// [`Error::MediumNeeded`].
    pub fn segment(&self, index: u64) -> Result<&Segment> {
        self.segments.get(&index).ok_or_else(|| {
            Error::MediumNeeded(format!(
                "segment {index} of volume {} is on none of the media given",
                self.volume().uuid
            ))
        })
    }

    /// Segments whose index is in the range, which must all be there.
    ///
    /// # Errors
    /// [`Error::MediumNeeded`] naming the missing ones.
    pub fn segments_between(&self, first: u64, last: u64) -> Result<Vec<&Segment>> {
        let found: Vec<&Segment> = self
            .segments
            .range(first..=last)
            .map(|(_, segment)| segment)
            .collect();
        let void: Vec<u64> = found
            .iter()
            .flat_map(|segment| segment.manifest.void_indexes.iter().copied())
            .collect();
        let missing: Vec<String> = (first..=last)
            .filter(|index| !self.segments.contains_key(index) && !void.contains(index))
            .map(|index| index.to_string())
            .collect();
        if missing.is_empty() {
            Ok(found)
        } else {
            Err(Error::MediumNeeded(format!(
                "segment {} of volume {} on none of the media given",
                missing.join(", "),
                self.volume().uuid
            )))
        }
    }

    /// Marks, bases and holes of all epochs, in order, each with its epoch and segment index.
    pub fn points(&self) -> impl Iterator<Item = (u64, u64, &Point)> {
        self.segments.values().flat_map(|segment| {
            let Manifest {
                epoch, index, points, ..
            } = &segment.manifest;
            points.iter().map(move |point| (*epoch, *index, point))
        })
    }

    /// What is wrong with the chain, found without reading segments: altered, swapped or missing manifests.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Drops segments that a later one declares void: their seal failed, and what they hold was written again after them.
    fn drop_void(&mut self) -> Vec<String> {
        let void: Vec<u64> = self
            .segments
            .values()
            .flat_map(|segment| segment.manifest.void_indexes.iter().copied())
            .collect();
        void.iter()
            .filter_map(|index| self.segments.remove(index))
            .map(|segment| format!("{} was declared void by a later segment: ignored", segment.name()))
            .collect()
    }

    fn check_chain(&mut self) {
        let mut before: Option<&Segment> = None;
        for segment in self.segments.values() {
            let Manifest {
                index,
                previous,
                void_indexes,
                epoch,
                first_seq,
                ..
            } = &segment.manifest;
            let expected = before.map_or(0, |before| before.manifest.index) + 1;
            let missing: Vec<String> = (expected..*index)
                .filter(|index| !void_indexes.contains(index))
                .map(|index| index.to_string())
                .collect();
            if !missing.is_empty() {
                self.problems.push(format!(
                    "segment {} missing before segment {index}",
                    missing.join(", ")
                ));
            } else if previous.as_deref() != before.map(|before| before.manifest_hash.as_str()) {
                self.problems.push(format!("the chain is broken at segment {index}: the manifest before it is not the one it was chained to"));
            }
            if let Some(before) = before {
                let Manifest {
                    epoch: epoch_before,
                    last_seq,
                    ..
                } = &before.manifest;
                if epoch < epoch_before || (epoch == epoch_before && first_seq <= last_seq) {
                    self.problems
                        .push(format!("segment {index} goes back behind the segment before it"));
                }
            }
            before = Some(segment);
        }
    }
}

const EMPTY_VOLUME: VolumeInfo = VolumeInfo {
    uuid: String::new(),
    fs_type: String::new(),
    label: String::new(),
    block_size: 0,
    size_bytes: 0,
    root: crate::record::InodeKey {
        ino: 0,
        generation: 0,
    },
    mount_path: String::new(),
    hostname: String::new(),
};

/// All journals on the media given.
pub struct Reader {
    /// By volume and begin.
    journals: Vec<Journal>,
    notices: Vec<String>,
}

/// What a scan of media gathers.
#[derive(Default)]
struct Found {
    /// By volume and chain.
    journals: BTreeMap<(String, String), Journal>,
    /// Manifests that cannot be read, by volume: the medium, and what is wrong.
    damaged: BTreeMap<String, Vec<(String, String)>>,
    notices: Vec<String>,
}

impl Reader {
    /// Scans media: labels and manifests; no segment is read.
    ///
    /// # Errors
    /// [`Error::NoJournal`] where nothing is there, [`Error::Integrity`] for a damaged label.
    pub fn open(stores: Vec<Arc<dyn Store>>) -> Result<Self> {
        let mut found = Found::default();
        for store in &stores {
            if Label::read(&**store)?.is_none() {
                return Err(Error::NoJournal(format!(
                    "{} has no label ({})",
                    store.describe(),
                    crate::LABEL_NAME
                )));
            }
            let objects = store
                .list()
                .map_err(|error| Error::io(format!("list {}", store.describe()), error))?;
            for object in &objects {
                found.take(store, object, &objects)?;
            }
        }
        let reader = found.finish()?;
        if reader.journals.is_empty() {
            let names: Vec<String> = stores.iter().map(|store| store.describe()).collect();
            return Err(Error::NoJournal(format!(
                "{}: labelled, but nothing was sealed",
                names.join(", ")
            )));
        }
        Ok(reader)
    }

    /// Files that were ignored, and why.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// The journals found: by volume, the oldest first within one.
    pub fn journals(&self) -> impl Iterator<Item = &Journal> {
        self.journals.iter()
    }

    /// All journals of one volume, or of the only one, the oldest first; never none.
    ///
    /// # Errors
    /// [`Error::NoJournal`] naming the volumes that are there.
    pub fn volume(&self, uuid: Option<&str>) -> Result<Vec<&Journal>> {
        let mut uuids: Vec<&str> = self
            .journals
            .iter()
            .map(|journal| journal.volume().uuid.as_str())
            .collect();
        uuids.dedup();
        let names = uuids.join(", ");
        let uuid = match (uuid, uuids.as_slice()) {
            (Some(uuid), uuids) if uuids.contains(&uuid) => uuid,
            (Some(uuid), _) => return Err(Error::NoJournal(format!("volume {uuid}; there are: {names}"))),
            (None, [only]) => only,
            (None, _) => {
                return Err(Error::NoJournal(format!("several volumes, name one of: {names}")));
            }
        };
        Ok(self
            .journals
            .iter()
            .filter(|journal| journal.volume().uuid == uuid)
            .collect())
    }

    /// The only journal of one volume, or of the only one.
    ///
    /// # Errors
    /// [`Error::NoJournal`], also where media hold several chains of the volume.
    pub fn journal(&self, uuid: Option<&str>) -> Result<&Journal> {
        match self.volume(uuid)?.as_slice() {
            [only] => Ok(only),
            several => Err(Error::NoJournal(format!(
                "that is one: the media hold {} chains of volume {}",
                several.len(),
                several.first().map_or("", |journal| &journal.volume().uuid)
            ))),
        }
    }
}

impl Found {
    fn take(&mut self, store: &Arc<dyn Store>, object: &ObjectInfo, objects: &[ObjectInfo]) -> Result<()> {
        let ObjectInfo { name, bytes: _ } = object;
        let Some((uuid, index, is_manifest)) = parse_name(name) else {
            if name.contains('/') {
                self.notices
                    .push(format!("{name} on {} is none of ours: ignored", store.describe()));
            }
            return Ok(());
        };
        if !is_manifest {
            let manifest = crate::manifest::manifest_name(uuid, index);
            if objects
                .binary_search_by(|other| other.name.cmp(&manifest))
                .is_err()
            {
                self.notices
                    .push(format!("{name} has no manifest: it was never completed, ignored"));
            }
            return Ok(());
        }
        let (manifest, manifest_hash) = match read_manifest(&**store, name) {
            Ok(read) => read,
            Err(Error::Integrity(why)) => {
                self.damaged
                    .entry(uuid.to_owned())
                    .or_default()
                    .push((store.describe(), why));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let key = (uuid.to_owned(), manifest.chain.clone());
        let Journal { segments, problems } = self.journals.entry(key).or_default();
        match segments.get(&index) {
            Some(other) if other.manifest_hash != manifest_hash => problems.push(format!(
                "segment {index} is not the same on {} and {}",
                other.medium(),
                store.describe()
            )),
            Some(_) => {}
            None => {
                let segment = Segment {
                    manifest,
                    manifest_hash,
                    store: Arc::clone(store),
                };
                segments.insert(index, segment);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Reader> {
        let Self {
            journals,
            mut damaged,
            mut notices,
        } = self;
        // A volume all of whose manifests are damaged must not look like one that was never there.
        let is_known = |uuid: &String| journals.keys().any(|(known, _)| known == uuid);
        if let Some((_, problems)) = damaged.iter().find(|(uuid, _)| !is_known(uuid)) {
            let problems: Vec<&str> = problems.iter().map(|(_, why)| why.as_str()).collect();
            return Err(Error::Integrity(problems.join("; ")));
        }
        let mut journals: Vec<Journal> = journals.into_values().collect();
        for journal in &mut journals {
            notices.extend(journal.drop_void());
            // What cannot be read does not say of which chain it was: every chain of the volume is in doubt.
            let problems = damaged.get_mut(&journal.volume().uuid);
            journal.problems.extend(
                problems
                    .into_iter()
                    .flatten()
                    .map(|(medium, why)| format!("{why} ({medium})")),
            );
            journal.check_chain();
        }
        journals.sort_by(|a, b| {
            let key = |journal: &Journal| (journal.volume().uuid.clone(), journal.begin_time_ns());
            key(a).cmp(&key(b))
        });
        Ok(Reader { journals, notices })
    }
}

/// Reads a manifest and the hash of its bytes.
pub(crate) fn read_manifest(store: &dyn Store, name: &str) -> Result<(Manifest, String)> {
    let context = |error| Error::io(format!("read {name} on {}", store.describe()), error);
    let object = store.open(name).map_err(context)?;
    if object.bytes() > MANIFEST_BYTES_MAX {
        return Err(Error::Integrity(format!(
            "{name} has {} bytes: no manifest is so large",
            object.bytes()
        )));
    }
    let mut bytes = vec![0; usize::try_from(object.bytes()).unwrap_or(0)];
    object.read_exact_at(&mut bytes, 0).map_err(context)?;
    Ok((
        Manifest::from_bytes(&bytes, name)?,
        blake3::hash(&bytes).to_hex().to_string(),
    ))
}
