//! Restore: from media to a tree. Owns the order of the steps; each step lives in its own module.
//!
//! Nothing is written before the journal has been folded and the plan has been found possible on the target.

mod attributes;
pub(crate) mod build;
pub(crate) mod device;
pub(crate) mod flags;
pub(crate) mod inspect;
pub(crate) mod materialise;
mod place;
pub(crate) mod plan;
pub(crate) mod problems;
mod stepwise;
pub(crate) mod target;

pub(crate) use place::empty_directory;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use journal::Projection;
use journal::record::Op;
use serde_json::{Value, json};
use tracing::info;

use self::materialise::Materialiser;
use self::place::{Needs, Place, Ready};
use self::plan::{Plan, RowRef};
use self::problems::Problems;
use self::stepwise::{Finished, Steps};
use self::target::Target;
use crate::cli::RestoreArgs;
use crate::exit::Exit;
use crate::media::{Folded, Media, Point, Volume};
use crate::output::{Format, human};
use crate::progress::{Progress, Unit};

/// Runs `replayer restore`.
pub(crate) fn run(args: &RestoreArgs, format: Format) -> Result<Exit> {
    crate::media::parse_at(args.at.as_deref())?;
    let place = Place::check(args)?;
    let media = Media::open(&args.media)?;
    let outcome = restore(args, &media, place)?;
    format.result(&outcome.text(), &outcome.json())?;
    Ok(outcome.exit())
}

/// Restores, or says what is in the way and what that costs.
fn restore<'a>(args: &RestoreArgs, media: &'a Media, place: Place) -> Result<Outcome<'a>> {
    let started = Instant::now();
    if !args.without_label {
        media.check_labels()?;
    }
    let journals = media.journals_of(args.volume.as_deref())?;
    crate::damage::check_end(&journals, args.durable)?;
    let work = || {
        let (volume, point) = media.resolve(args.volume.as_deref(), args.at.as_deref())?;
        info!(
            "volume {} ({}): restoring {}",
            volume.uuid,
            volume.fs_type,
            point.text()
        );
        if let Some(why) = &point.rounded {
            info!("rounded down: {why}");
        }
        let problems = Problems::default();
        let target = place.path().display().to_string();
        let (counts, problems) = if args.stepwise {
            stepwise(args, &volume, &point, place, problems)?
        } else {
            folded(args, &volume, &point, place, problems)?
        };
        Ok(Outcome {
            volume,
            point,
            target,
            counts,
            problems,
            seconds: started.elapsed().as_secs_f64(),
        })
    };
    work().map_err(|error| crate::damage::explain(error, journals))
}

/// Makes what is left of all records, each byte once.
fn folded(
    args: &RestoreArgs,
    volume: &Volume,
    point: &Point<'_>,
    place: Place,
    mut problems: Problems,
) -> Result<(Counts, Problems)> {
    let Folded { plan, .. } = point.fold(args.allow_holes, &mut problems)?;
    info!(
        "to make: {} names of {} inodes, {} of data from {} pieces",
        plan.entries(),
        plan.nodes.len(),
        human(plan.data_bytes()),
        plan.pieces.len()
    );
    point.check_media(&plan)?;
    let needs = Needs {
        inodes: plan.nodes.len() as u64,
        projects: plan
            .nodes
            .iter()
            .any(|node| node.project.is_some_and(|project| project != 0)),
        bytes: &|block_bytes| plan.needed_bytes(block_bytes),
    };
    let Ready { target, mount } = place.prepare(args, volume, &needs, &mut problems)?;
    let problems = execute(&plan, target, problems, |write| point.read_rows(&plan, write))?;
    if let Some(mount) = mount {
        mount.unmount()?;
    }
    let counts = Counts {
        entries: plan.entries(),
        inodes: plan.nodes.len() as u64,
        bytes: plan.data_bytes(),
    };
    Ok((counts, problems))
}

/// Applies every record to the target.
fn stepwise(
    args: &RestoreArgs,
    volume: &Volume,
    point: &Point<'_>,
    place: Place,
    mut problems: Problems,
) -> Result<(Counts, Problems)> {
    point.check_holes(args.allow_holes, &mut problems)?;
    let (mut living, mut inodes, mut projects) = (HashSet::new(), 0, false);
    point.each(Projection::State, |_, record| {
        match record.op {
            Op::Evict => _ = living.remove(&record.inode),
            _ => _ = living.insert(record.inode),
        }
        inodes = inodes.max(living.len() as u64);
        projects |= record.attributes.project.is_some_and(|project| project != 0);
        Ok(())
    })?;
    // How much room the steps take is not known before they are made: what is deleted later is written first.
    let needs = Needs {
        inodes,
        projects,
        bytes: &|_| 0,
    };
    let Ready { target, mount } = place.prepare(args, volume, &needs, &mut problems)?;
    let work = || {
        let mut steps = Steps::begin(&target, args.allow_holes, problems)?;
        point.each(Projection::All, |_, record| steps.apply(record))?;
        steps.finish()
    };
    let Finished {
        entries,
        inodes,
        bytes,
        problems,
    } = work().map_err(say_incomplete)?;
    drop(target);
    if let Some(mount) = mount {
        mount.unmount()?;
    }
    let counts = Counts {
        entries,
        inodes,
        bytes,
    };
    Ok((counts, problems))
}

/// What was made.
struct Counts {
    entries: u64,
    inodes: u64,
    bytes: u64,
}

/// What was done, for the summary.
struct Outcome<'a> {
    volume: Volume,
    point: Point<'a>,
    target: String,
    counts: Counts,
    problems: Problems,
    seconds: f64,
}

impl Outcome<'_> {
    fn exit(&self) -> Exit {
        if self.problems.count == 0 {
            Exit::Ok
        } else {
            Exit::Incomplete
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "restored volume {} to {}\n  point   {}\n",
            self.volume.uuid,
            self.target,
            self.point.text()
        );
        let Counts { entries, bytes, .. } = self.counts;
        let mut line = |line: String| {
            let _writing_to_a_string_cannot_fail = writeln!(text, "  {line}");
        };
        if let Some(why) = &self.point.rounded {
            line(format!("rounded {why}"));
        }
        line(format!("entries {entries}"));
        line(format!("bytes   {bytes} ({})", human(bytes)));
        line(format!("seconds {:.1}", self.seconds));
        if self.problems.count > 0 {
            line(format!(
                "NOT COMPLETE: {} things could not be restored as recorded:",
                self.problems.count
            ));
            for problem in &self.problems.kept {
                line(format!("  {problem}"));
            }
        }
        text
    }

    fn json(&self) -> Value {
        json!({
            "volume": self.volume.uuid,
            "target": self.target,
            "point": self.point.json(),
            "entries": self.counts.entries,
            "inodes": self.counts.inodes,
            "bytes": self.counts.bytes,
            "seconds": self.seconds,
            "complete": self.problems.count == 0,
            "problem_count": self.problems.count,
            "problems": self.problems.kept,
        })
    }
}

/// Refuses a target without room for what a plan makes.
pub(crate) fn check_space(plan: &Plan, target: &Target, named: &Path) -> Result<()> {
    let needs = Needs {
        inodes: plan.nodes.len() as u64,
        projects: false,
        bytes: &|block_bytes| plan.needed_bytes(block_bytes),
    };
    place::check_space(&needs, target, named)
}

/// Makes the tree. `read` hands over the rows that the plan wants, in order, with their data.
pub(crate) fn execute(
    plan: &Plan,
    target: Target,
    problems: Problems,
    read: impl FnOnce(&mut dyn FnMut(RowRef, &[u8]) -> Result<()>) -> Result<()>,
) -> Result<Problems> {
    let bytes = plan.data_bytes();
    let work = || -> Result<Problems> {
        let mut materialiser = Materialiser::new(plan, target, problems);
        let mut progress = Progress::start("making names", Unit::Count, plan.nodes.len() as u64);
        materialiser.make_tree(|| progress.add(1))?;
        let mut progress = Progress::start("writing data", Unit::Bytes, bytes);
        let mut next = 0;
        read(&mut |row, data| write_row(plan, &mut materialiser, &mut next, row, data, &mut progress))?;
        if next < plan.pieces.len() {
            bail!(
                "the journal ended before all data was read ({next} of {} pieces)",
                plan.pieces.len()
            );
        }
        let mut progress = Progress::start("setting attributes", Unit::Count, plan.nodes.len() as u64);
        materialiser.finish(|| progress.add(1))
    };
    work().map_err(say_incomplete)
}

/// Writes all pieces of one row. `next` is the first piece not yet written.
fn write_row(
    plan: &Plan,
    materialiser: &mut Materialiser<'_>,
    next: &mut usize,
    row: RowRef,
    data: &[u8],
    progress: &mut Progress,
) -> Result<()> {
    while let Some(piece) = plan.pieces.get(*next).filter(|piece| piece.row == row) {
        let end = piece.data_offset.checked_add(piece.length);
        let range = usize::try_from(piece.data_offset)
            .ok()
            .zip(end.and_then(|end| usize::try_from(end).ok()));
        let bytes = range
            .and_then(|(start, end)| data.get(start..end))
            .ok_or_else(|| {
                crate::exit::integrity(format!(
                    "row {} of segment {} holds {} bytes, fewer than it states",
                    row.row,
                    row.segment,
                    data.len()
                ))
            })?;
        materialiser.write(piece, bytes)?;
        progress.add(piece.length.into());
        *next += 1;
    }
    Ok(())
}

/// What failed after the first write leaves a part of the tree. A full target is said as such, by the kind of the error and not by its text.
fn say_incomplete(error: anyhow::Error) -> anyhow::Error {
    let full = error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|cause| matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
            || cause
                .downcast_ref::<rustix::io::Errno>()
                .is_some_and(|cause| matches!(*cause, rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT))
    });
    if full {
        error.context("the target is full, the tree there is not complete: take a larger one")
    } else {
        error.context("the tree in the target is not complete: empty it before another try")
    }
}
