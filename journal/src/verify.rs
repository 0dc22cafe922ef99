//! Verification: every hash, the chain, and that every record can be decoded.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::chain::Journal;
use crate::damage::Damage;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::reader::Segment;
use crate::segment::Projection;

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifyReport {
    /// Segments read.
    pub segments: u64,
    /// Segments of which only the metadata was read: their data lies on media that were not given.
    pub carried: u64,
    /// Segments that were compared with what was sealed, and not decoded: no identity was given that reads them.
    pub encrypted: u64,
    /// Records decoded.
    pub records: u64,
    /// Bytes of segments hashed.
    pub bytes: u64,
    /// What each epoch holds, in order.
    pub epochs: Vec<EpochRange>,
    /// Everything that is wrong; empty is good.
    pub problems: Vec<String>,
    /// What that costs.
    #[serde(skip)]
    pub damage: Vec<Damage>,
}

/// The sequence numbers of an epoch that the segments given hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EpochRange {
    /// The epoch.
    pub epoch: u64,
    /// First sequence number.
    pub first_seq: u64,
    /// Last sequence number.
    pub last_seq: u64,
    /// Records, as the manifests tell.
    pub records: u64,
}

impl Journal {
    /// Reads everything. `progress` is told the bytes done so far.
    ///
    /// # Errors
    /// Only where reading itself fails: what is damaged stands in the report.
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Result<VerifyReport> {
        let mut report = VerifyReport {
            problems: self.problems().iter().map(ToString::to_string).collect(),
            ..VerifyReport::default()
        };
        let mut unreadable = BTreeSet::new();
        for segment in self.all_segments() {
            report.carried += u64::from(segment.is_carried());
            match verified(segment) {
                Ok(Some(records)) => report.records += records,
                Ok(None) => report.encrypted += 1,
                Err(Error::Integrity(problem)) => {
                    report.problems.push(problem);
                    unreadable.insert(segment.manifest.index);
                }
                Err(error) => return Err(error),
            }
            report.segments += 1;
            if segment.manifest.checkpoint.is_none() {
                report.note_epoch(&segment.manifest);
            }
            report.bytes += segment.manifest.bytes;
            progress(report.bytes);
        }
        report.damage = self.damage(&unreadable);
        Ok(report)
    }
}

impl VerifyReport {
    fn note_epoch(&mut self, manifest: &Manifest) {
        match self.epochs.last_mut() {
            Some(range) if range.epoch == manifest.epoch => {
                range.last_seq = manifest.last_seq;
                range.records += manifest.records;
            }
            _ => self.epochs.push(EpochRange {
                epoch: manifest.epoch,
                first_seq: manifest.first_seq,
                last_seq: manifest.last_seq,
                records: manifest.records,
            }),
        }
    }
}

/// Compares a segment with what was sealed, and decodes it: how many records it has, nothing where no identity that was given reads it.
fn verified(segment: &Segment) -> Result<Option<u64>> {
    let projection = if segment.is_carried() {
        Projection::Metadata
    } else {
        segment.check_hash()?;
        Projection::All
    };
    match records_of(segment, projection) {
        Err(Error::KeyNeeded(_)) => {
            if segment.is_carried() {
                segment.each_metadata(|_| Ok(()))?;
            }
            Ok(None)
        }
        records => records.map(Some),
    }
}

fn records_of(segment: &Segment, projection: Projection) -> Result<u64> {
    let (mut records, mut first, mut last) = (0, None, 0);
    for item in segment.records(projection)? {
        let (_, record) = item?;
        first.get_or_insert(record.seq);
        last = record.last_seq;
        records += 1;
    }
    let manifest = &segment.manifest;
    if (records, first, last) != (manifest.records, Some(manifest.first_seq), manifest.last_seq) {
        return Err(Error::Integrity(format!(
            "segment {}: holds {records} records from {first:?} to {last}, its manifest says otherwise",
            manifest.index
        )));
    }
    Ok(records)
}
