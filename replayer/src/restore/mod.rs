//! Restore: from media to a tree. Owns the order of the steps; each step lives in its own module.
//!
//! Nothing is written before the journal has been folded and the plan has been found possible on the target.

pub(crate) mod build;
pub(crate) mod device;
mod inspect;
pub(crate) mod materialise;
pub(crate) mod plan;
pub(crate) mod problems;
pub(crate) mod target;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::fstatvfs;

use self::materialise::Materialiser;
use self::plan::{Plan, RowRef};
use self::problems::Problems;
use self::target::Target;
use crate::progress::{Progress, Unit};

/// Names shown of what lies in a target that should be empty.
const OCCUPANTS_SHOWN_MAX: usize = 5;

/// Opens a directory as the target; refuses one that is not empty, saying what is there.
fn open_directory(path: &Path) -> Result<Target> {
    if !Path::new("/proc/self/fd").is_dir() {
        bail!("/proc is not mounted: attributes cannot be set safely without it (mount -t proc proc /proc)");
    }
    let target = Target::open(path)?;
    let (occupants, _) = target.occupants(OCCUPANTS_SHOWN_MAX + 1)?;
    if !occupants.is_empty() {
        let more = if occupants.len() > OCCUPANTS_SHOWN_MAX {
            ", ..."
        } else {
            ""
        };
        let shown = occupants
            .iter()
            .take(OCCUPANTS_SHOWN_MAX)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        bail!(
            "target directory {} is not empty: it holds {shown}{more}; nothing was written",
            path.display()
        );
    }
    Ok(target)
}

/// Fails when the plan cannot fit into the file system of the target; nothing has been restored yet.
fn check_space(plan: &Plan, target: &Target, place: &Path) -> Result<()> {
    let space =
        fstatvfs(target.root()).with_context(|| format!("measure free space of {}", place.display()))?;
    let block_bytes = space.f_bsize.clamp(512, 65536);
    let needed_bytes = plan.needed_bytes(block_bytes);
    let free_bytes = space.f_bfree.saturating_mul(space.f_frsize);
    if needed_bytes > free_bytes {
        bail!(
            "{} is too small: the tree needs {needed_bytes} bytes, {free_bytes} are free; nothing was restored",
            place.display()
        );
    }
    let inodes = plan.nodes.len() as u64;
    // File systems that make inodes as they go (btrfs) state none.
    if space.f_files > 0 && inodes > space.f_ffree.saturating_add(2) {
        bail!(
            "{} has too few inodes: the tree needs {inodes}, {} are free; nothing was restored",
            place.display(),
            space.f_ffree
        );
    }
    Ok(())
}

/// Makes the tree. `read` hands over the rows that the plan wants, in order, with their data.
fn execute(
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
    work().map_err(explain_full)
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
        progress.add(piece.length);
        *next += 1;
    }
    Ok(())
}

/// A full target is said as such, by the kind of the error and not by its text.
fn explain_full(error: anyhow::Error) -> anyhow::Error {
    let full = error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|cause| matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
            || cause
                .downcast_ref::<rustix::io::Errno>()
                .is_some_and(|cause| matches!(*cause, rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT))
    });
    if full {
        error.context("the target is full: the tree there is not complete")
    } else {
        error
    }
}
