//! Retention: which moments are promised, which media these need, and which may be used again.
//!
//! Owns the promises. What a moment needs is the journal's to say; order is by segment and number, and a clock that was wrong makes more be kept,
//! never less. Nothing is removed here: a medium that is not needed is retired in the catalog, and may then be labelled anew.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};
use journal::store::Store;
use journal::{Journal, MediumName, PointKind, Reader, Segment};
use serde_json::{Value, json};

use crate::cli::exit::{MEDIUM_NEEDED, NOTHING_THERE, USAGE, coded};
use crate::media;
use crate::media::catalog::{Catalog, add, show_runs};

/// What is promised. The newest moment always is. Times are counted back from the newest record, or from now where that is earlier.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promises {
    /// Every moment of this time.
    pub(crate) within: Option<SignedDuration>,
    /// The last moment of each day (UTC) of this time.
    pub(crate) within_daily: Option<SignedDuration>,
    /// Marks of these names.
    pub(crate) marks: Vec<String>,
    /// All marks.
    pub(crate) all_marks: bool,
}

/// What of a chain must be kept.
struct Needed {
    /// Segments.
    indexes: BTreeSet<u64>,
    /// The promises, for people.
    promised: Vec<String>,
}

/// Media that hold the journals of a volume, and what becomes of each.
struct Plan {
    volume: String,
    promised: Vec<String>,
    /// With the runs of segments that are needed there.
    kept: BTreeMap<MediumName, BTreeSet<u64>>,
    free: Vec<MediumName>,
}

/// A duration as people write it: `30d`, `12h`, `1y`, `6w`.
///
/// # Errors
/// Text that is none.
pub(crate) fn parse_duration(text: &str) -> Result<SignedDuration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let hours = match unit {
        "h" => 1,
        "d" => 24,
        "w" => 7 * 24,
        "y" => 365 * 24 + 6,
        _ => return Err(format!("{text:?}: a number and h, d, w or y, as in 30d")),
    };
    number
        .parse::<i64>()
        .ok()
        .filter(|number| (1..=100_000).contains(number))
        .map(|number| SignedDuration::from_hours(number * hours))
        .ok_or_else(|| format!("{text:?}: a number from 1 on, and h, d, w or y"))
}

/// Says which media are needed for what is promised, and which are not; with `apply`, retires those.
///
/// # Errors
/// Exit code 20 where a promised moment cannot be restored with the media known: nothing is free then.
pub(crate) fn run(paths: &[PathBuf], promises: &Promises, apply: bool) -> Result<Value> {
    let mut stores: Vec<Arc<dyn Store>> = Vec::new();
    for path in paths {
        stores.push(Arc::new(media::open(path)?));
    }
    let reader = Reader::open(stores)?;
    let plans = plan(&reader, promises, Timestamp::now())?;
    if apply {
        retire(&plans)?;
    }
    let volumes: Vec<Value> = plans.iter().map(|plan| plan.json(apply)).collect();
    Ok(json!({ "volumes": volumes }))
}

fn plan(reader: &Reader, promises: &Promises, now: Timestamp) -> Result<Vec<Plan>> {
    let mut volumes: BTreeMap<&str, Vec<&Journal>> = BTreeMap::new();
    for journal in reader.journals() {
        volumes
            .entry(journal.volume().uuid.as_str())
            .or_default()
            .push(journal);
    }
    volumes
        .into_iter()
        .map(|(volume, journals)| {
            let newest = journals
                .iter()
                .filter_map(|journal| journal.segments().next_back())
                .map(|segment| segment.manifest.last_time_ns)
                .max();
            // A host that was off, or whose clock is ahead, would promise nothing else of what was recorded before.
            let newest_time = newest.and_then(|ns| Timestamp::from_nanosecond(ns.into()).ok());
            let now = newest_time.map_or(now, |newest| newest.min(now));
            let (mut promised, mut kept, mut all) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
            for journal in journals {
                let is_newest = journal
                    .segments()
                    .next_back()
                    .is_some_and(|segment| Some(segment.manifest.last_time_ns) == newest);
                let needed =
                    needed(journal, promises, now, is_newest).with_context(|| format!("volume {volume}"))?;
                promised.extend(needed.promised);
                for segment in journal.all_segments() {
                    let medium = segment.lies_on().clone();
                    all.insert(medium.clone());
                    let index = segment.manifest.index;
                    if needed.indexes.contains(&index) {
                        kept.entry(medium).or_insert_with(BTreeSet::new).insert(index);
                    }
                }
            }
            let free = all
                .into_iter()
                .filter(|medium| !kept.contains_key(medium))
                .collect();
            Ok(Plan {
                volume: volume.to_owned(),
                promised,
                kept,
                free,
            })
        })
        .collect()
}

/// What the promises need of one chain. The newest moment is promised of the newest chain only.
fn needed(journal: &Journal, promises: &Promises, now: Timestamp, is_newest: bool) -> Result<Needed> {
    let Promises {
        within,
        within_daily,
        marks,
        all_marks,
    } = promises;
    let mut needed = Needed {
        indexes: BTreeSet::new(),
        promised: Vec::new(),
    };
    if is_newest && let Some(newest) = newest_moment(journal) {
        needed.add(journal, newest, "the newest moment")?;
    }
    if let Some(within) = within {
        needed.add_since(journal, nanoseconds(now - *within))?;
    }
    if let Some(within) = within_daily {
        let since = nanoseconds(now - *within);
        for (day, moment) in last_of_days(journal, since) {
            needed.add(journal, moment, &format!("the last moment of {day}"))?;
        }
    }
    for (epoch, _, point) in journal.points() {
        if point.kind == PointKind::Mark && (*all_marks || marks.contains(&point.name)) {
            needed.add(journal, (epoch, point.seq), &format!("mark {}", point.name))?;
        }
    }
    Ok(needed)
}

fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MIN)
}

fn newest_moment(journal: &Journal) -> Option<(u64, u64)> {
    let of_history = journal
        .segments()
        .next_back()
        .map(|segment| (segment.manifest.epoch, segment.manifest.last_seq));
    let of_checkpoint = journal
        .complete_checkpoints()
        .pop()
        .map(|checkpoint| (checkpoint.epoch, checkpoint.of.seq));
    of_history.max(of_checkpoint)
}

/// The last moment of each day from a time on, in the order of the journal: where a clock went back a day comes more than once, and each time counts.
/// One within a segment is none before the first base is complete.
fn last_of_days(journal: &Journal, since_ns: i64) -> Vec<(Date, (u64, u64))> {
    let mut days: Vec<(Date, (u64, u64))> = Vec::new();
    let manifests = journal
        .segments()
        .map(|segment| &segment.manifest)
        .skip_while(|manifest| manifest.last_time_ns < since_ns);
    let day = |ns: i64| {
        Some(
            Offset::UTC
                .to_datetime(Timestamp::from_nanosecond(ns.into()).ok()?)
                .date(),
        )
    };
    let mut add = |day: Option<Date>, moment| match (day, days.last_mut()) {
        (Some(day), Some((last, of_it))) if *last == day => *of_it = moment,
        (Some(day), _) => days.push((day, moment)),
        (None, _) => {}
    };
    for manifest in manifests {
        let (first, last) = (day(manifest.first_time_ns), day(manifest.last_time_ns));
        // Where a day ends within a segment, its last moment needs what the first of that segment does.
        if first != last && journal.needed_for(manifest.epoch, manifest.first_seq).is_some() {
            add(first, (manifest.epoch, manifest.first_seq));
        }
        add(last, (manifest.epoch, manifest.last_seq));
    }
    days
}

impl Needed {
    fn add(&mut self, journal: &Journal, (epoch, seq): (u64, u64), why: &str) -> Result<()> {
        let indexes = journal.needed_for(epoch, seq).ok_or_else(|| {
            coded(
                MEDIUM_NEEDED,
                format!(
                    "{why} (epoch {epoch} seq {seq}) cannot be restored with the media given: give all of them, or the newest, whose index tells \
                     of the others"
                ),
            )
        })?;
        self.indexes.extend(indexes);
        self.promised.push(format!("{why}: epoch {epoch} seq {seq}"));
        Ok(())
    }

    /// Every moment from the first segment on that holds anything as new as this.
    fn add_since(&mut self, journal: &Journal, since_ns: i64) -> Result<()> {
        let first = journal
            .segments()
            .find(|segment| segment.manifest.last_time_ns >= since_ns);
        let Some(Segment { manifest, .. }) = first else {
            return Ok(());
        };
        let (epoch, seq) = (manifest.epoch, manifest.first_seq);
        // What was before the first base was never there to be restored.
        if let Some(indexes) = journal.needed_for(epoch, seq) {
            self.indexes.extend(indexes);
        }
        let from = manifest.index;
        self.indexes.extend(
            journal
                .all_segments()
                .map(|segment| segment.manifest.index)
                .filter(|index| *index >= from),
        );
        let epochs: BTreeSet<u64> = journal
            .segments()
            .filter(|segment| segment.manifest.index >= from)
            .map(|segment| segment.manifest.epoch)
            .collect();
        for epoch in epochs {
            if let Some(indexes) = journal.needed_for(epoch, u64::MAX) {
                self.indexes.extend(indexes);
            }
        }
        self.promised
            .push(format!("every moment from epoch {epoch} seq {seq} on"));
        Ok(())
    }
}

/// Enters into the catalog that media are not needed any more. One that holds something of another volume that is needed stays.
fn retire(plans: &[Plan]) -> Result<()> {
    let kept: BTreeSet<&MediumName> = plans.iter().flat_map(|plan| plan.kept.keys()).collect();
    let free: BTreeSet<&MediumName> = plans.iter().flat_map(|plan| &plan.free).collect();
    Catalog::change(|catalog| {
        free.difference(&kept)
            .try_for_each(|name| retire_one(catalog, name, plans))
    })
}

fn retire_one(catalog: &mut Catalog, name: &MediumName, plans: &[Plan]) -> Result<()> {
    let Some(medium) = catalog.get(&name.uuid) else {
        return Err(coded(
            NOTHING_THERE,
            format!("the catalog does not know medium {name}: `recorder media scan` it first"),
        ));
    };
    let known: BTreeSet<&str> = plans.iter().map(|plan| plan.volume.as_str()).collect();
    let other = medium
        .holds
        .iter()
        .find(|holding| !known.contains(holding.volume.as_str()));
    ensure!(
        other.is_none(),
        "medium {name} also holds volume {}: give its newest medium, too",
        other.map_or("", |holding| holding.volume.as_str())
    );
    let mut medium = medium.clone();
    medium.retired.get_or_insert_with(crate::snapshot::now_ns);
    catalog.put(medium);
    Ok(())
}

impl Plan {
    fn json(&self, applied: bool) -> Value {
        let kept: Vec<Value> = self
            .kept
            .iter()
            .map(|(medium, indexes)| json!({ "medium": medium, "segments": runs(indexes) }))
            .collect();
        json!({
            "volume": self.volume, "promised": self.promised, "kept": kept, "free": self.free, "applied": applied,
        })
    }
}

fn runs(indexes: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    for index in indexes {
        add(&mut runs, *index);
    }
    runs
}

/// The plan as text.
pub(crate) fn as_text(value: &Value) -> String {
    let mut lines = Vec::new();
    let name = |medium: &Value| {
        serde_json::from_value::<MediumName>(medium.clone())
            .map_or_else(|_| "?".to_owned(), |name| name.to_string())
    };
    for volume in value["volumes"].as_array().into_iter().flatten() {
        lines.push(format!("volume {}", volume["volume"].as_str().unwrap_or("?")));
        for promise in volume["promised"].as_array().into_iter().flatten() {
            lines.push(format!("  promised  {}", promise.as_str().unwrap_or("?")));
        }
        for kept in volume["kept"].as_array().into_iter().flatten() {
            let indexes: Vec<(u64, u64)> =
                serde_json::from_value(kept["segments"].clone()).unwrap_or_default();
            lines.push(format!(
                "  keep      medium {}: segments {}",
                name(&kept["medium"]),
                show_runs(&indexes)
            ));
        }
        let word = match volume["applied"] == true {
            true => "retired ",
            false => "not needed",
        };
        for medium in volume["free"].as_array().into_iter().flatten() {
            lines.push(format!("  {word}  medium {}", name(medium)));
        }
    }
    lines.join("\n")
}

/// Refuses promises that promise nothing: then everything but the newest moment would be free.
pub(crate) fn check(promises: &Promises) -> Result<()> {
    let Promises {
        within,
        within_daily,
        marks,
        all_marks,
    } = promises;
    if within.is_none() && within_daily.is_none() && marks.is_empty() && !all_marks {
        return Err(coded(
            USAGE,
            "promise something: --keep-within 30d, --keep-within-daily 1y, --keep-mark NAME, --keep-marks",
        ));
    }
    Ok(())
}
