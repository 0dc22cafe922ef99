//! One chain of a volume's journal: its segments in order, and what is wrong with it. Everything in it comes from outside and is doubted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

use crate::checkpoint::Complete;
use crate::error::{Error, Result};
use crate::manifest::{Manifest, Point, VolumeInfo};
use crate::points::Span;
use crate::reader::{Remains, Segment};

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

/// One chain of a volume's journal, as far as the media given hold it, or carry it.
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
        in_order(&self.segments, &self.checkpoints).into_iter()
    }

    /// Checkpoints that are whole, by epoch and number.
    pub fn complete_checkpoints(&self) -> Vec<Complete> {
        crate::checkpoint::complete(self.checkpoints.values().map(|segment| &segment.manifest))
    }

    /// What is there of a checkpoint that was begun, whole or not.
    pub fn begun_checkpoint(&self, epoch: u64, seq: u64) -> Option<Span> {
        let mut of_it = self
            .checkpoints
            .values()
            .map(|segment| &segment.manifest)
            .filter(|manifest| {
                manifest.epoch == epoch && manifest.checkpoint.is_some_and(|of| of.seq == seq)
            });
        let last = of_it.next_back()?;
        // Of several tries, the newest.
        let first = [last]
            .into_iter()
            .chain(of_it.rev())
            .find(|manifest| manifest.first_seq == 1)?;
        Some(Span {
            epoch,
            base_seq: 1,
            seq: last.last_seq,
            first_segment: first.index,
            last_segment: last.index,
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
        for segment in in_order(&self.segments, &self.checkpoints) {
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

/// Segments of both kinds, in the order of the chain.
fn in_order<'s>(
    history: &'s BTreeMap<u64, Segment>,
    checkpoints: &'s BTreeMap<u64, Segment>,
) -> Vec<&'s Segment> {
    let mut all: Vec<&Segment> = history.values().chain(checkpoints.values()).collect();
    all.sort_unstable_by_key(|segment| segment.manifest.index);
    all
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
