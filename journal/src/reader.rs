//! One chain of a volume's journal, and its segments. Everything read here comes from outside and is doubted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};

use crate::checkpoint::Complete;
use crate::error::{Error, Result};
use crate::index::{Carried, Index};
use crate::label::MediumName;
use crate::manifest::{Manifest, Point, VolumeInfo, manifest_name};
use crate::points::Span;
use crate::record::Record;
use crate::segment::{Data, DataReader, Projection, Sealed, SegmentReader};
use crate::store::{ReadAt, Store};

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
    pub(crate) manifest_hash: String,
    store: Arc<dyn Store>,
    /// The medium that it lies on.
    lies_on: MediumName,
    /// Where that medium was not given, and another one carries its metadata: there.
    carried: Option<(Arc<Index>, Carried)>,
    /// What comparing its bytes with the manifest showed, once that is done: `None` if they are what was sealed.
    verdict: Arc<OnceLock<Option<String>>>,
}

impl Segment {
    pub(crate) fn new(
        manifest: Manifest,
        manifest_hash: String,
        store: Arc<dyn Store>,
        lies_on: MediumName,
    ) -> Self {
        Self {
            manifest,
            manifest_hash,
            store,
            lies_on,
            carried: None,
            verdict: Arc::default(),
        }
    }

    /// One that lies on a medium which was not given, and that an index tells of.
    ///
    /// # Errors
    /// [`Error::Integrity`] where the index has no manifest of ours, [`Error::Io`].
    pub(crate) fn carried(index: &Arc<Index>, carried: &Carried, store: Arc<dyn Store>) -> Result<Self> {
        let (manifest, manifest_hash) = index.manifest(carried)?;
        Ok(Self {
            carried: Some((Arc::clone(index), carried.clone())),
            ..Self::new(manifest, manifest_hash, store, carried.medium.clone())
        })
    }

    /// Whether only its metadata is there: its data lies on a medium that was not given.
    pub fn is_carried(&self) -> bool {
        self.carried.is_some()
    }

    /// Whether both are copies of one segment.
    pub fn is_copy_of(&self, other: &Self) -> bool {
        self.manifest_hash == other.manifest_hash
    }

    /// The medium that it lies on, given or not.
    pub fn lies_on(&self) -> &MediumName {
        &self.lies_on
    }

    fn needs_medium(&self) -> Error {
        Error::MediumNeeded(format!(
            "segment {} of volume {} lies on medium {}: mount it and name it with --medium",
            self.manifest.index, self.manifest.volume.uuid, self.lies_on
        ))
    }

    /// The bytes of its manifest.
    pub(crate) fn manifest_bytes(&self) -> Result<Vec<u8>> {
        let bytes = match &self.carried {
            Some((index, carried)) => index.manifest_bytes(carried)?,
            None => {
                let name = manifest_name(&self.manifest.volume.uuid, self.manifest.index);
                let context = |error| Error::io(format!("read {name} on {}", self.medium()), error);
                let object = self.store.open(&name).map_err(context)?;
                let mut bytes = vec![0; usize::try_from(object.bytes()).unwrap_or(0)];
                object.read_exact_at(&mut bytes, 0).map_err(context)?;
                bytes
            }
        };
        if *blake3::hash(&bytes).to_hex() == *self.manifest_hash {
            return Ok(bytes);
        }
        Err(Error::Integrity(
            self.damaged("its manifest is not what it was a moment ago"),
        ))
    }

    /// Hands over its metadata, part by part as [`Manifest::row_groups`] has them, then the footer: as sealed.
    pub(crate) fn each_metadata(&self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let object = self.open_sealed()?;
        let mut end = 0;
        let read = |offset: u64, length: u64| {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            object.read_bytes(offset, length).map_err(|error| {
                if error.kind() == io::ErrorKind::InvalidData {
                    Error::Integrity(self.damaged(error))
                } else {
                    Error::io(format!("read {}", self.name()), error)
                }
            })
        };
        for group in &self.manifest.row_groups {
            if let Some(parts) = &group.parts {
                take(&read(group.offset, parts.metadata_bytes)?)?;
            }
            end = group.offset + group.bytes;
        }
        take(&read(end, self.manifest.bytes.saturating_sub(end))?)
    }

    /// Name on its medium.
    pub fn name(&self) -> String {
        self.manifest.segment_name()
    }

    /// The medium it is on.
    pub fn medium(&self) -> String {
        self.store.describe()
    }

    fn damaged(&self, why: impl fmt::Display) -> String {
        let Manifest {
            index,
            epoch,
            first_seq,
            last_seq,
            ..
        } = &self.manifest;
        let named = format!("segment {index} ({} on {}): {why}", self.name(), self.medium());
        match self.manifest.checkpoint {
            None => format!("{named}; it holds sequence numbers {first_seq} to {last_seq} of epoch {epoch}"),
            Some(of) => format!(
                "{named}; it is of the checkpoint at sequence number {} of epoch {epoch}",
                of.seq
            ),
        }
    }

    /// Compares all of the segment's bytes with what was sealed: they are read once, however often this is asked.
    ///
    /// # Errors
    /// [`Error::Integrity`], naming what the segment holds; [`Error::Io`].
    pub fn check_hash(&self) -> Result<()> {
        if self.is_carried() {
            return Err(self.needs_medium());
        }
        let verdict = match self.verdict.get() {
            Some(verdict) => verdict,
            None => {
                let found = self.find_damage()?;
                self.verdict.get_or_init(|| found)
            }
        };
        match verdict {
            None => Ok(()),
            Some(why) => Err(Error::Integrity(why.clone())),
        }
    }

    /// Whether its bytes were compared, and are not what was sealed.
    pub(crate) fn is_damaged(&self) -> bool {
        self.verdict.get().is_some_and(Option::is_some)
    }

    fn find_damage(&self) -> Result<Option<String>> {
        let object = match self.open() {
            Err(Error::Integrity(why)) => return Ok(Some(why)),
            object => object?,
        };
        let (found, sealed) = (object.bytes(), self.manifest.bytes);
        if found != sealed {
            let why = format!("the file has {found} bytes, {sealed} were sealed");
            return Ok(Some(self.damaged(why)));
        }
        let hash = crate::store::hash(&*object)
            .map_err(|error| Error::io(format!("read {}", self.name()), error))?;
        let same = hash == self.manifest.blake3;
        Ok((!same).then(|| self.damaged("its content is not what was sealed (BLAKE3 differs)")))
    }

    fn open(&self) -> Result<Box<dyn ReadAt>> {
        if let Some((index, carried)) = &self.carried {
            return Ok(index.metadata(carried, &self.manifest));
        }
        self.store.open(&self.name()).map_err(|error| {
            if is_no_object(&error) {
                Error::Integrity(self.damaged(NO_FILE))
            } else {
                Error::io(format!("open {}", self.name()), error)
            }
        })
    }

    /// The object, of which nothing is given out that is not what was sealed: formats before 6 are compared as a whole for that.
    fn open_sealed(&self) -> Result<Arc<dyn ReadAt>> {
        if self.manifest.footer_blake3.is_none() {
            self.check_hash()?;
            return Ok(Arc::from(self.open()?));
        }
        match Sealed::new(self.open()?, &self.manifest) {
            Some(sealed) => Ok(Arc::new(sealed)),
            None => Err(Error::Integrity(
                self.damaged("its manifest has no hashes of its parts"),
            )),
        }
    }

    /// Reads its records. What is read is compared with what was sealed before anything of it is given out; what the projection leaves out
    /// is not touched.
    ///
    /// # Errors
    /// [`Error::Integrity`], [`Error::Io`]; the iterator too.
    pub fn records(&self, projection: Projection) -> Result<impl Iterator<Item = Result<(RowRef, Record)>>> {
        if projection == Projection::All && self.is_carried() {
            return Err(self.needs_medium());
        }
        let index = self.manifest.index;
        let reader = SegmentReader::new(self.open_sealed()?, &self.name(), projection)
            .map_err(|error| self.located(error))?;
        Ok(reader.map(move |item| {
            item.map(|(row, record)| (RowRef { segment: index, row }, record))
                .map_err(|error| self.located(error))
        }))
    }

    /// Reads the data of some rows, whose numbers rise. Only their row groups are touched, and compared with what was sealed.
    ///
    /// # Errors
    /// As for [`Segment::records`]; also where a row is none, or holds no data.
    pub fn data(&self, rows: Vec<u64>) -> Result<impl Iterator<Item = Result<(u64, Data)>> + use<>> {
        if self.is_carried() {
            return Err(self.needs_medium());
        }
        let reader =
            DataReader::new(self.open_sealed()?, &self.name(), rows).map_err(|error| self.located(error))?;
        let segment = self.clone();
        Ok(reader.map(move |item| item.map_err(|error| segment.located(error))))
    }

    /// An error of its content, with what that costs; it is remembered as damaged.
    fn located(&self, error: Error) -> Error {
        match error {
            Error::Integrity(why) => {
                let why = self.damaged(why);
                // What it costs is told of every segment that was found damaged.
                let _verdict_of_the_whole = self.verdict.set(Some(why.clone()));
                Error::Integrity(why)
            }
            other => other,
        }
    }

    pub(crate) fn is_on(&self, store: &Arc<dyn Store>) -> bool {
        !self.is_carried() && Arc::ptr_eq(&self.store, store)
    }

    /// The bytes that there are under its name, whatever they are.
    pub(crate) fn remains(&self) -> Remains {
        Remains {
            store: Arc::clone(&self.store),
            name: self.name(),
        }
    }
}

const NO_FILE: &str = "the file is missing, or is no file";

/// Whether there is nothing of the name that was ever sealed.
pub(crate) fn is_no_object(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
    )
}

/// A segment's object that no manifest vouches for.
#[derive(Clone)]
pub(crate) struct Remains {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) name: String,
}

impl Remains {
    pub(crate) fn open(&self) -> Result<SegmentReader> {
        let object: Arc<dyn ReadAt> = Arc::from(
            self.store
                .open(&self.name)
                .map_err(|error| Error::io(format!("open {}", self.name), error))?,
        );
        SegmentReader::new(object, &self.name, Projection::Metadata)
    }
}

/// Something that is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether something is only not there: another copy of the medium may have it.
    pub is_missing: bool,
    /// What, for people.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One chain of a volume's journal, as far as the media given hold it: each medium begins its own, with a base.
#[derive(Clone, Default)]
pub struct Journal {
    pub(crate) segments: BTreeMap<u64, Segment>,
    /// Segments of checkpoints: in the chain, and no part of the history.
    pub(crate) checkpoints: BTreeMap<u64, Segment>,
    pub(crate) problems: Vec<Problem>,
    /// Indexes of which nothing sound is there, and that nothing declares void; the last may reach beyond the newest segment.
    pub(crate) gaps: Vec<RangeInclusive<u64>>,
    /// Segments of the volume without a sound manifest, by index.
    pub(crate) loose: BTreeMap<u64, Remains>,
}

impl Journal {
    /// The chain: uuid of the medium on which it began; empty where format 1 did not say.
    pub fn chain(&self) -> &str {
        self.segments
            .values()
            .next()
            .or_else(|| self.checkpoints.values().next())
            .map_or("", |segment| &segment.manifest.chain)
    }

    /// The media that hold it, each once.
    pub fn media(&self) -> Vec<String> {
        let mut media: Vec<String> = self.all_segments().map(Segment::medium).collect();
        media.sort_unstable();
        media.dedup();
        media
    }

    /// When its first record was made, nanoseconds since 1970.
    pub(crate) fn begin_time_ns(&self) -> i64 {
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
            .or_else(|| self.checkpoints.values().next_back())
            .map_or(const { &EMPTY_VOLUME }, |segment| &segment.manifest.volume)
    }

    /// Segments of the history and of checkpoints, in the order of the chain.
    pub fn all_segments(&self) -> impl Iterator<Item = &Segment> {
        let mut all: Vec<&Segment> = self.segments.values().chain(self.checkpoints.values()).collect();
        all.sort_unstable_by_key(|segment| segment.manifest.index);
        all.into_iter()
    }

    /// Checkpoints that are whole, by epoch and number.
    pub fn complete_checkpoints(&self) -> Vec<Complete> {
        crate::checkpoint::complete(self.checkpoints.values().map(|segment| &segment.manifest))
    }

    /// The journal as it was when an epoch ended: without those after it.
    pub fn up_to_epoch(&self, epoch: u64) -> Self {
        let mut before = self.clone();
        before
            .segments
            .retain(|_, segment| segment.manifest.epoch <= epoch);
        before
            .checkpoints
            .retain(|_, segment| segment.manifest.epoch <= epoch);
        before
    }

    /// What is there of a checkpoint that was begun, whole or not.
    pub fn begun_checkpoint(&self, epoch: u64, seq: u64) -> Option<Span> {
        let mut manifests = self
            .checkpoints
            .values()
            .map(|segment| &segment.manifest)
            .filter(|manifest| {
                manifest.epoch == epoch && manifest.checkpoint.is_some_and(|of| of.seq == seq)
            });
        let first = manifests.rfind(|manifest| manifest.first_seq == 1)?.index;
        let last = self.checkpoints.values().rfind(|segment| {
            segment.manifest.epoch == epoch && segment.manifest.checkpoint.is_some_and(|of| of.seq == seq)
        })?;
        Some(Span {
            epoch,
            base_seq: 1,
            seq: last.manifest.last_seq,
            first_segment: first,
            last_segment: last.manifest.index,
            checkpoint: Some(seq),
        })
    }

    /// The segments that a span is in.
    ///
    /// # Errors
    /// [`Error::MediumNeeded`] naming the missing ones.
    pub fn segments_of(&self, span: &Span) -> Result<Vec<&Segment>> {
        let Some(seq) = span.checkpoint else {
            return self.segments_between(span.first_segment, span.last_segment);
        };
        let of_checkpoint = self
            .checkpoints
            .range(span.first_segment..=span.last_segment)
            .map(|(_, segment)| segment)
            .filter(|segment| {
                segment.manifest.epoch == span.epoch
                    && segment.manifest.checkpoint.is_some_and(|of| of.seq == seq)
            });
        Ok(of_checkpoint.collect())
    }

    /// Segments of the history in order.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.segments.values()
    }

    /// The segment with this index.
    ///
    /// # Errors
    /// [`Error::MediumNeeded`].
    pub fn segment(&self, index: u64) -> Result<&Segment> {
        let of_checkpoint = || self.checkpoints.get(&index);
        self.segments.get(&index).or_else(of_checkpoint).ok_or_else(|| {
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
        if first > last {
            return Ok(Vec::new());
        }
        let found: Vec<&Segment> = self
            .segments
            .range(first..=last)
            .map(|(_, segment)| segment)
            .collect();
        let known =
            found
                .iter()
                .flat_map(|segment| {
                    segment
                        .manifest
                        .void_indexes
                        .iter()
                        .chain([&segment.manifest.index])
                })
                .copied()
                .chain(self.checkpoints.iter().flat_map(|(index, segment)| {
                    segment.manifest.void_indexes.iter().chain([index]).copied()
                }))
                .collect();
        let missing = gaps(first..=last, &known);
        if missing.is_empty() {
            Ok(found)
        } else {
            Err(Error::MediumNeeded(format!(
                "segment {} of volume {} on none of the media given",
                show(&missing),
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
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Drops segments that a later one declares void: their seal failed, and what they hold was written again after them.
    pub(crate) fn drop_void(&mut self) -> Vec<String> {
        let void: Vec<u64> = self
            .all_segments()
            .flat_map(|segment| segment.manifest.void_indexes.iter().copied())
            .collect();
        void.iter()
            .filter_map(|index| {
                let of_checkpoint = self.checkpoints.remove(index);
                self.segments.remove(index).or(of_checkpoint)
            })
            .map(|segment| format!("{} was declared void by a later segment: ignored", segment.name()))
            .collect()
    }

    pub(crate) fn check_chain(&mut self) {
        let mut before: Option<&Segment> = None;
        let mut history: Option<&Segment> = None;
        let mut chain: Vec<&Segment> = self.segments.values().chain(self.checkpoints.values()).collect();
        chain.sort_unstable_by_key(|segment| segment.manifest.index);
        for segment in chain {
            let Manifest {
                index,
                previous,
                void_indexes,
                epoch,
                first_seq,
                ..
            } = &segment.manifest;
            let mut altered = |text| {
                self.problems.push(Problem {
                    is_missing: false,
                    text,
                });
            };
            let expected = before.map_or(0, |before| before.manifest.index) + 1;
            let missing = gaps(expected..=index - 1, &void_indexes.iter().copied().collect());
            if missing.is_empty() && previous.as_deref() != before.map(|before| before.manifest_hash.as_str())
            {
                altered(format!(
                    "the chain is broken at segment {index}: the manifest before it is not the one it was chained to"
                ));
            }
            if let Some(before) = history.filter(|_| segment.manifest.checkpoint.is_none()) {
                let Manifest {
                    epoch: epoch_before,
                    last_seq,
                    ..
                } = &before.manifest;
                if epoch < epoch_before || (epoch == epoch_before && first_seq <= last_seq) {
                    altered(format!("segment {index} goes back behind the segment before it"));
                }
            }
            if !missing.is_empty() {
                self.problems.push(Problem {
                    is_missing: true,
                    text: format!("segment {} missing before segment {index}", show(&missing)),
                });
                self.gaps.extend(missing);
            }
            before = Some(segment);
            if segment.manifest.checkpoint.is_none() {
                history = Some(segment);
            }
        }
    }
}

/// The runs of numbers in a range that are not among those known. However far the range reaches, there is no more work than there
/// are known ones: an index may come from a forged name.
pub(crate) fn gaps(range: RangeInclusive<u64>, known: &BTreeSet<u64>) -> Vec<RangeInclusive<u64>> {
    let (mut from, last) = (*range.start(), *range.end());
    let mut gaps = Vec::new();
    if from > last {
        return gaps;
    }
    for &index in known.range(range) {
        if from < index {
            gaps.push(from..=index - 1);
        }
        from = index + 1;
    }
    if from <= last {
        gaps.push(from..=last);
    }
    gaps
}

fn show(ranges: &[RangeInclusive<u64>]) -> String {
    let shown: Vec<String> = ranges
        .iter()
        .map(|range| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first} to {last}"),
        })
        .collect();
    shown.join(", ")
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
