//! From what the operator says (`latest`, `seq:N`, `seq:EPOCH:N`, `mark:NAME`, a time) to a moment that can be restored.

mod reading;

use self::reading::Scan;
use crate::chain::Journal;
use crate::checkpoint::Complete;
use crate::error::{Error, Result};
use crate::manifest::{CheckpointOf, Manifest, Point, PointKind};
use crate::reader::Segment;
use crate::record::{Continued, Record};
use crate::segment::Projection;

/// A moment asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// The newest.
    Latest,
    /// A sequence number, of the newest epoch that has it.
    Seq(u64),
    /// A sequence number of an epoch; where several chains have it, of the newest one.
    SeqOf(u64, u64),
    /// The newest mark of this name.
    Mark(String),
    /// The last moment not after this time, nanoseconds since 1970.
    Time(i64),
}

impl std::str::FromStr for At {
    type Err = String;

    /// `latest`, `seq:N`, `seq:EPOCH:N`, `mark:NAME`, or an RFC 3339 time with an offset.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Some(numbers) = text.strip_prefix("seq:") {
            let number = |text: &str| {
                text.parse()
                    .map_err(|error| format!("{text:?} is no number: {error}"))
            };
            return match numbers.split_once(':') {
                None => number(numbers).map(Self::Seq),
                Some((epoch, seq)) => Ok(Self::SeqOf(number(epoch)?, number(seq)?)),
            };
        }
        if let Some(name) = text.strip_prefix("mark:") {
            return Ok(Self::Mark(name.to_owned()));
        }
        let time: jiff::Timestamp = text
            .parse()
            .map_err(|error| format!("{text:?} is none of latest, seq:N, seq:EPOCH:N, mark:NAME or an RFC 3339 time such as 2026-11-24T08:00:00Z: {error}"))?;
        i64::try_from(time.as_nanosecond())
            .map(Self::Time)
            .map_err(|_| format!("{text} is beyond what can be recorded"))
    }
}

/// An open hole at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenHole {
    /// First lost sequence number.
    pub first_seq: u64,
    /// Last lost sequence number.
    pub last_seq: u64,
    /// Inode touched, where known.
    pub ino: Option<u64>,
}

/// The part of an epoch that a restore reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Epoch.
    pub epoch: u64,
    /// Its first sequence number to apply: a base begins there.
    pub base_seq: u64,
    /// Its last sequence number to apply.
    pub seq: u64,
    /// Index of the first segment needed.
    pub first_segment: u64,
    /// Index of the last segment needed.
    pub last_segment: u64,
    /// Where it is a checkpoint, of which number; its records have numbers of their own.
    pub checkpoint: Option<u64>,
}

/// A moment that can be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedPoint {
    /// Epoch.
    pub epoch: u64,
    /// Last sequence number to apply.
    pub seq: u64,
    /// Time of that record, nanoseconds since 1970.
    pub time_ns: i64,
    /// Sequence number at which the base that the restore starts from begins.
    pub base_seq: u64,
    /// Index of the first segment needed.
    pub first_segment: u64,
    /// Index of the last segment needed.
    pub last_segment: u64,
    /// What of earlier epochs comes before: the oldest first, none where the base starts from nothing.
    pub earlier: Vec<Span>,
    /// Why the moment is earlier than the one asked for.
    pub rounded: Option<String>,
    /// Holes that are open at this moment.
    pub open_holes: Vec<OpenHole>,
}

impl ResolvedPoint {
    /// Everything that a restore reads, in the order of the journal.
    pub fn spans(&self) -> Vec<Span> {
        let own = Span {
            epoch: self.epoch,
            base_seq: self.base_seq,
            seq: self.seq,
            first_segment: self.first_segment,
            last_segment: self.last_segment,
            checkpoint: None,
        };
        // Nothing of it, where a checkpoint is of that very moment.
        let own = (own.seq >= own.base_seq).then_some(own);
        self.earlier.iter().copied().chain(own).collect()
    }
}

/// An epoch of one of the chains of a volume.
struct Epoch<'a> {
    journal: &'a Journal,
    number: u64,
    first_seq: u64,
    begin_time_ns: i64,
}

/// How far to read in an epoch.
#[derive(Clone, Copy)]
enum Limit {
    Seq(u64),
    Time(i64),
}

impl Limit {
    fn is_before(self, segment: &Manifest) -> bool {
        match self {
            Self::Seq(seq) => segment.first_seq > seq,
            Self::Time(time_ns) => segment.first_time_ns > time_ns,
        }
    }

    fn is_past(self, record: &Record) -> bool {
        match self {
            Self::Seq(seq) => record.seq > seq,
            Self::Time(time_ns) => record.time_ns > time_ns,
        }
    }
}

/// Finds the moment asked for, or the newest before it that lies in no open snapshot window, among the chains of one volume. Epochs
/// of several chains stand in the order of the times at which they begin: the newest that answers is taken.
///
/// Reads the metadata columns of the epoch up to the moment.
///
/// # Errors
/// [`Error::NoSuchPoint`], [`Error::MediumNeeded`], [`Error::Integrity`].
pub fn resolve<'a>(journals: &[&'a Journal], at: &At) -> Result<(&'a Journal, ResolvedPoint)> {
    let mut epochs = epochs(journals);
    let (position, mut limit) = target(&epochs, at)?;
    epochs.truncate(position + 1);
    let mut incomplete = None;
    while let Some(Epoch { journal, number, .. }) = epochs.pop() {
        if let Some(mut point) = journal.resolve_in(number, limit)? {
            if let Some(epoch) = incomplete {
                point.rounded = Some(format!(
                    "the base of epoch {epoch} was not complete at the moment asked for"
                ));
            }
            return Ok((journal, point));
        }
        incomplete = Some(if journals.len() > 1 {
            format!("{number} on {}", journal.media().join(", "))
        } else {
            number.to_string()
        });
        limit = Limit::Seq(u64::MAX);
    }
    Err(Error::NoSuchPoint(
        "no base is complete at or before the moment asked for".to_owned(),
    ))
}

/// All epochs, oldest first.
fn epochs<'a>(journals: &[&'a Journal]) -> Vec<Epoch<'a>> {
    let mut epochs: Vec<Epoch<'a>> = Vec::new();
    for &journal in journals {
        let from = epochs.len();
        for Segment { manifest, .. } in journal.segments() {
            if epochs[from..]
                .last()
                .is_none_or(|last| last.number != manifest.epoch)
            {
                epochs.push(Epoch {
                    journal,
                    number: manifest.epoch,
                    first_seq: manifest.first_seq,
                    begin_time_ns: manifest.first_time_ns,
                });
            }
        }
        // What came before a checkpoint may be gone, and nothing have come after it.
        for Complete { epoch, of, .. } in journal.complete_checkpoints() {
            match epochs[from..].iter_mut().find(|known| known.number == epoch) {
                Some(known) => {
                    known.first_seq = known.first_seq.min(of.seq);
                    known.begin_time_ns = known.begin_time_ns.min(of.time_ns);
                }
                None => epochs.push(Epoch {
                    journal,
                    number: epoch,
                    first_seq: of.seq,
                    begin_time_ns: of.time_ns,
                }),
            }
        }
        epochs[from..].sort_by_key(|epoch| epoch.number);
    }
    // Within one chain the numbers decide, whatever the clock said.
    if journals.len() > 1 {
        epochs.sort_by_key(|epoch| epoch.begin_time_ns);
    }
    epochs
}

/// Position of the epoch that the moment lies in, and how far to read there.
fn target(epochs: &[Epoch<'_>], at: &At) -> Result<(usize, Limit)> {
    let newest = |wanted: &dyn Fn(&Epoch<'_>) -> bool, none: &str| {
        epochs
            .iter()
            .rposition(wanted)
            .ok_or_else(|| Error::NoSuchPoint(none.to_owned()))
    };
    Ok(match at {
        At::Latest => (newest(&|_| true, "the journal is empty")?, Limit::Seq(u64::MAX)),
        At::Seq(seq) => {
            let none = format!("the journal begins after sequence number {seq}");
            (newest(&|epoch| epoch.first_seq <= *seq, &none)?, Limit::Seq(*seq))
        }
        At::SeqOf(epoch, seq) => {
            let none = format!("epoch {epoch} is not there, or begins after sequence number {seq}");
            let has_it = |found: &Epoch<'_>| found.number == *epoch && found.first_seq <= *seq;
            (newest(&has_it, &none)?, Limit::Seq(*seq))
        }
        At::Mark(name) => {
            let position = newest(&|epoch| epoch.mark(name).is_some(), &format!("no mark {name:?}"))?;
            (position, Limit::Seq(epochs[position].mark(name).unwrap_or(0)))
        }
        At::Time(time_ns) => {
            let none = "the journal begins after that time";
            (
                newest(&|epoch| epoch.begin_time_ns <= *time_ns, none)?,
                Limit::Time(*time_ns),
            )
        }
    })
}

impl Epoch<'_> {
    /// Sequence number of the newest mark of this name.
    fn mark(&self, name: &str) -> Option<u64> {
        let is_it = |point: &Point| point.kind == PointKind::Mark && point.name == name;
        self.journal
            .points()
            .filter(|(epoch, _, point)| *epoch == self.number && is_it(point))
            .last()
            .map(|(_, _, point)| point.seq)
    }
}

impl Journal {
    /// As [`resolve`], in this chain alone and without comparing segments with what was sealed: a list of moments is to be had
    /// without reading a whole medium.
    ///
    /// # Errors
    /// [`Error::NoSuchPoint`], [`Error::MediumNeeded`], [`Error::Integrity`].
    pub fn resolve(&self, at: &At) -> Result<ResolvedPoint> {
        resolve(&[self], at).map(|(_, point)| point)
    }

    fn resolve_in(&self, epoch: u64, limit: Limit) -> Result<Option<ResolvedPoint>> {
        let of_epoch: Vec<&Segment> = self
            .segments()
            .filter(|segment| segment.manifest.epoch == epoch)
            .collect();
        let checkpoint = self.checkpoint_before(epoch, limit);
        let after = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.of.seq);
        let from = of_epoch
            .iter()
            .find(|segment| segment.manifest.last_seq > after)
            .map(|segment| segment.manifest.index);
        let mut scan = checkpoint.as_ref().map_or_else(Scan::default, |checkpoint| {
            Scan::after(checkpoint.of, from.unwrap_or(0))
        });
        // What comes after the moment is not read, but must be known: a hole that was found later may reach back before it.
        let last = of_epoch.last().map(|segment| segment.manifest.index);
        let to_read = match (from, last) {
            (Some(from), Some(last)) => self.segments_between(from, last)?,
            _ => Vec::new(),
        };
        'segments: for segment in to_read {
            // A segment that lies wholly after the moment may be damaged: its manifest tells as much.
            if limit.is_before(&segment.manifest) {
                break;
            }
            for item in segment.records(Projection::State)? {
                let (row, record) = item?;
                if limit.is_past(&record) {
                    break 'segments;
                }
                if record.last_seq <= scan.now.seq {
                    continue;
                }
                scan.step(&record, row.segment.into());
                if let Limit::Seq(seq) = limit
                    && record.last_seq > seq
                {
                    scan.cut_merged(&record);
                    break 'segments;
                }
            }
        }
        let continues = scan.continues;
        let mut found = scan.finish(epoch);
        if let Some(point) = &mut found {
            if let Some(checkpoint) = checkpoint {
                point.earlier = vec![checkpoint.span()];
            } else if let Some(continued) = continues {
                point.earlier = self.spans_of(epoch, continued)?;
            }
            let later = of_epoch.iter().flat_map(|segment| &segment.manifest.points);
            point
                .open_holes
                .extend(later.filter_map(|hole| reaches_back(hole, point.seq)));
        }
        if found.is_none()
            && let Some(first) = of_epoch.first().filter(|first| first.manifest.index > 1)
        {
            // An epoch without a base may only lack its first segments: an older one must not take its place in silence.
            let before = first.manifest.index - 1;
            if !first.manifest.void_indexes.contains(&before) {
                self.segment(before)?;
            }
        }
        Ok(found)
    }
}

impl Journal {
    /// The newest checkpoint of an epoch that is not after a moment.
    fn checkpoint_before(&self, epoch: u64, limit: Limit) -> Option<Complete> {
        let is_before = |of: &CheckpointOf| match limit {
            Limit::Seq(seq) => of.seq <= seq,
            Limit::Time(time_ns) => of.time_ns <= time_ns,
        };
        let mut found = self.complete_checkpoints();
        found.retain(|checkpoint| checkpoint.epoch == epoch && is_before(&checkpoint.of));
        found.pop()
    }

    /// What is to be read of the epochs before one that goes on from the end of another: the oldest first.
    ///
    /// # Errors
    /// [`Error::MediumNeeded`] where the epoch or the begin of its base is not there, [`Error::Integrity`] where that makes no sense.
    pub fn spans_of(&self, of_epoch: u64, continued: Continued) -> Result<Vec<Span>> {
        let mut spans = Vec::new();
        let (mut of_epoch, mut next) = (of_epoch, Some(continued));
        while let Some(Continued { epoch, seq }) = next {
            if epoch >= of_epoch {
                return Err(Error::Integrity(format!(
                    "epoch {of_epoch} goes on from epoch {epoch}, which is not before it"
                )));
            }
            if let Some(checkpoint) = self.checkpoint_before(epoch, Limit::Seq(seq)) {
                spans.extend(self.span_after(&checkpoint, seq));
                spans.push(checkpoint.span());
                break;
            }
            let base = self.points().filter(|(of, _, point)| {
                *of == epoch && point.kind == PointKind::BaseBegin && point.seq <= seq
            });
            let last_segment = self
                .segments()
                .filter(|segment| segment.manifest.epoch == epoch && segment.manifest.first_seq <= seq)
                .map(|segment| segment.manifest.index)
                .next_back();
            let (Some((_, first_segment, begin)), Some(last_segment)) = (base.last(), last_segment) else {
                return Err(Error::MediumNeeded(format!(
                    "epoch {of_epoch} goes on from epoch {epoch}, whose base is on none of the media given"
                )));
            };
            spans.push(Span {
                epoch,
                base_seq: begin.seq,
                seq,
                first_segment,
                last_segment,
                checkpoint: None,
            });
            (of_epoch, next) = (epoch, begin.continues);
        }
        spans.reverse();
        Ok(spans)
    }

    /// What comes after a checkpoint up to a number; `None` where that is nothing.
    fn span_after(&self, checkpoint: &Complete, seq: u64) -> Option<Span> {
        let after = checkpoint.of.seq;
        let mut needed = self
            .segments()
            .map(|segment| &segment.manifest)
            .filter(|manifest| {
                manifest.epoch == checkpoint.epoch && manifest.last_seq > after && manifest.first_seq <= seq
            });
        let first_segment = needed.next()?.index;
        let last_segment = needed
            .next_back()
            .map_or(first_segment, |manifest| manifest.index);
        Some(Span {
            epoch: checkpoint.epoch,
            base_seq: after + 1,
            seq,
            first_segment,
            last_segment,
            checkpoint: None,
        })
    }
}

/// A hole that was found after a moment, and tells of a loss that may have come before it.
fn reaches_back(hole: &Point, moment_seq: u64) -> Option<OpenHole> {
    let since_seq = hole.since_seq?;
    (since_seq < moment_seq && moment_seq < hole.seq).then_some(OpenHole {
        first_seq: since_seq + 1,
        last_seq: hole.seq,
        ino: None,
    })
}
