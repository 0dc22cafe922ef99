//! One chain of a volume's journal, and its segments. Everything read here comes from outside and is doubted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::manifest::{Manifest, Point, VolumeInfo, segment_name};
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
    /// What comparing its bytes with the manifest showed, once that is done: `None` if they are what was sealed.
    verdict: Arc<OnceLock<Option<String>>>,
}

impl Segment {
    pub(crate) fn new(manifest: Manifest, manifest_hash: String, store: Arc<dyn Store>) -> Self {
        Self {
            manifest,
            manifest_hash,
            store,
            verdict: Arc::default(),
        }
    }

    /// Name on its medium.
    pub fn name(&self) -> String {
        segment_name(&self.manifest.volume.uuid, self.manifest.index)
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
        format!(
            "segment {index} ({} on {}): {why}; it holds sequence numbers {first_seq} to {last_seq} of epoch {epoch}",
            self.name(),
            self.medium()
        )
    }

    /// Compares all of the segment's bytes with what was sealed: they are read once, however often this is asked.
    ///
    /// # Errors
    /// [`Error::Integrity`], naming what the segment holds; [`Error::Io`].
    pub fn check_hash(&self) -> Result<()> {
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
    pub fn data(&self, rows: Vec<u64>) -> Result<impl Iterator<Item = Result<(u64, Data)>>> {
        let reader =
            DataReader::new(self.open_sealed()?, &self.name(), rows).map_err(|error| self.located(error))?;
        Ok(reader.map(|item| item.map_err(|error| self.located(error))))
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
        Arc::ptr_eq(&self.store, store)
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
        let known = found
            .iter()
            .flat_map(|segment| {
                segment
                    .manifest
                    .void_indexes
                    .iter()
                    .chain([&segment.manifest.index])
            })
            .copied()
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
            .segments
            .values()
            .flat_map(|segment| segment.manifest.void_indexes.iter().copied())
            .collect();
        void.iter()
            .filter_map(|index| self.segments.remove(index))
            .map(|segment| format!("{} was declared void by a later segment: ignored", segment.name()))
            .collect()
    }

    pub(crate) fn check_chain(&mut self) {
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
            if let Some(before) = before {
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
