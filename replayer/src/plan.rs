//! `replayer plan`: what a restore would read, in which order, and what it would make. Reads manifests and metadata; no data.

use std::fmt::Write as _;

use anyhow::Result;
use journal::Segment;
use serde_json::{Value, json};

use crate::cli::{MomentArgs, PlanArgs};
use crate::exit::Exit;
use crate::media::{Media, Moment, Point};
use crate::output::{Format, human};
use crate::restore::plan::Piece;

/// Runs `replayer plan`.
pub(crate) fn run(args: &PlanArgs, format: Format) -> Result<Exit> {
    let MomentArgs { past, at } = &args.moment;
    crate::media::parse_at(at.as_deref())?;
    let media = Media::open(&past.media)?;
    media.check_labels()?;
    let moment = media.moment(past, at.as_deref())?;
    let outline = Outline::new(&moment, args.rate)?;
    format.result(&outline.text(), &outline.json())?;
    Ok(moment.exit())
}

/// What is read of one medium, before another one is.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    medium: String,
    is_given: bool,
    first_segment: u64,
    last_segment: u64,
    segments: u64,
    /// Bytes of all these segments.
    bytes: u64,
    /// Of these, bytes that tell what happened: all are read.
    metadata_bytes: u64,
    /// Of these, bytes of row groups that something is left of: these are read.
    data_bytes: u64,
}

/// What would be done.
struct Outline {
    volume: String,
    point_text: String,
    point: Value,
    rounded: Option<String>,
    readings: Vec<Reading>,
    entries: u64,
    inodes: u64,
    bytes: u64,
    pieces: u64,
    problem_count: u64,
    problems: Vec<String>,
    rate: u64,
}

impl Outline {
    fn new(moment: &Moment<'_>, rate: u64) -> Result<Self> {
        let (point, plan) = (&moment.point, &moment.folded.plan);
        Ok(Self {
            volume: point.volume().uuid.clone(),
            point_text: point.text(),
            point: point.json(),
            rounded: point.rounded.clone(),
            readings: readings(point, &plan.pieces)?,
            entries: plan.entries(),
            inodes: plan.nodes.len() as u64,
            bytes: plan.data_bytes(),
            pieces: plan.pieces.len() as u64,
            problem_count: moment.problems.count,
            problems: moment.problems.kept.clone(),
            rate,
        })
    }

    fn to_read(&self) -> u64 {
        let of = |reading: &Reading| reading.metadata_bytes + reading.data_bytes;
        self.readings.iter().map(of).sum()
    }

    fn not_read(&self) -> u64 {
        let all: u64 = self.readings.iter().map(|reading| reading.bytes).sum();
        all.saturating_sub(self.to_read())
    }

    /// Reading and writing go on side by side; metadata is read before anything is written.
    fn seconds(&self) -> u64 {
        let sum = |of: fn(&Reading) -> u64| self.readings.iter().map(of).sum::<u64>();
        let metadata = sum(|reading| reading.metadata_bytes);
        let data = sum(|reading| reading.data_bytes).max(self.bytes);
        (metadata + data).div_ceil(self.rate * 1_000_000)
    }

    fn text(&self) -> String {
        let mut text = format!("volume {}\n  point     {}\n", self.volume, self.point_text);
        let mut line = |line: String| {
            let _writing_to_a_string_cannot_fail = writeln!(text, "  {line}");
        };
        if let Some(why) = &self.rounded {
            line(format!("rounded   {why}"));
        }
        for (number, reading) in self.readings.iter().enumerate() {
            let Reading {
                medium,
                first_segment,
                last_segment,
                bytes,
                metadata_bytes,
                data_bytes,
                ..
            } = reading;
            line(format!(
                "medium {:<2} {medium}: segments {first_segment} to {last_segment}, {} of metadata and {} of data of {}",
                number + 1,
                human(*metadata_bytes),
                human(*data_bytes),
                human(*bytes)
            ));
        }
        line(format!(
            "read      {} ({})",
            self.to_read(),
            human(self.to_read())
        ));
        line(format!(
            "not read  {} ({}) of data that nothing is left of",
            self.not_read(),
            human(self.not_read())
        ));
        line(format!(
            "make      {} names of {} inodes, {} ({}) of data in {} pieces",
            self.entries,
            self.inodes,
            self.bytes,
            human(self.bytes),
            self.pieces
        ));
        line(format!(
            "estimate  {} s, where media and target do {} MB/s",
            self.seconds(),
            self.rate
        ));
        for problem in &self.problems {
            line(format!("NOT EXACT {problem}"));
        }
        text
    }

    fn json(&self) -> Value {
        let media: Vec<Value> = self
            .readings
            .iter()
            .map(|reading| {
                json!({
                    "medium": reading.medium, "is_given": reading.is_given, "first_segment": reading.first_segment, "last_segment": reading.last_segment,
                    "segments": reading.segments, "bytes": reading.bytes, "metadata_bytes": reading.metadata_bytes,
                    "data_bytes": reading.data_bytes,
                })
            })
            .collect();
        json!({
            "volume": self.volume, "point": self.point, "media": media, "read_bytes": self.to_read(),
            "not_read_bytes": self.not_read(), "entries": self.entries, "inodes": self.inodes, "bytes": self.bytes,
            "pieces": self.pieces, "estimate_seconds": self.seconds(), "complete": self.problem_count == 0,
            "problem_count": self.problem_count, "problems": self.problems,
        })
    }
}

/// What is read of each medium, in order: the segments that lead to the moment, and of these the data that pieces come from.
fn readings(point: &Point<'_>, pieces: &[Piece]) -> Result<Vec<Reading>> {
    let mut readings: Vec<Reading> = Vec::new();
    for segment in point.spans()?.into_iter().flat_map(|(_, segments)| segments) {
        let of = Reading::of(segment, pieces);
        match readings.last_mut() {
            Some(reading) if reading.medium == of.medium => reading.add(&of),
            _ => readings.push(of),
        }
    }
    Ok(readings)
}

impl Reading {
    fn of(segment: &Segment, pieces: &[Piece]) -> Self {
        let manifest = &segment.manifest;
        let index = |piece: &Piece| u64::from(piece.row.segment);
        let from = pieces.partition_point(|piece| index(piece) < manifest.index);
        let of_segment = pieces.iter().skip(from);
        let rows = of_segment
            .take_while(|piece| index(piece) == manifest.index)
            .map(|piece| u64::from(piece.row.row));
        Self {
            medium: if segment.is_carried() {
                format!("{}, NOT GIVEN", segment.lies_on())
            } else {
                format!("{} at {}", segment.lies_on(), segment.medium())
            },
            is_given: !segment.is_carried(),
            first_segment: manifest.index,
            last_segment: manifest.index,
            segments: 1,
            bytes: manifest.bytes,
            metadata_bytes: manifest.metadata_bytes(),
            data_bytes: manifest.data_bytes(rows),
        }
    }

    fn add(&mut self, next: &Self) {
        self.last_segment = next.last_segment;
        self.segments += next.segments;
        self.bytes += next.bytes;
        self.metadata_bytes += next.metadata_bytes;
        self.data_bytes += next.data_bytes;
    }
}
