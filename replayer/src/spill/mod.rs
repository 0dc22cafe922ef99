//! Private swap for the fold: beyond a bound of memory, what is allocated while a journal is folded lies in an unnamed file on a disk. Owns the
//! bound, the options for it, and what is said when it is reached; knows nothing of journals and plans.
//!
//! A fold and the plan that is made of it are maps, trees and lists with millions of small parts (inodes, names, extents, nodes, pieces). One
//! mechanism below all of them takes the place of a second, external form of each: the allocator of this program ([`heap`]) takes memory from the
//! system up to `--memory-max`, and for allocations within [`within`] from a shared mapping of the file beyond it ([`arena`]). The kernel writes
//! such pages out where memory is short, so that the fold becomes as slow as that disk and is never killed.
//!
//! How it scales, measured with `replayer plan` on journals that `history` made (peak of all that is resident, in a heap without a bound): 1 GB for a
//! million files with one short name and a few bytes each; 80 MB for a million records that still show in the end; nothing for a record that was
//! overwritten. In the file it is up to a quarter more. Whatever the bound, some 25 MiB stay in the heap for what is read and decoded, and more where row groups are large: `--memory-max` counts them, and cannot move them.
//!
//! What else is as large as the tree goes the same way, as long as nothing was written: the lists that `ls`, `find` and `diff` make for their output, and
//! what a mount keeps for each inode. What a restore keeps of each inode while it writes (16 bytes), what `rehearse` compares, and the steps of
//! `restore --stepwise` stay in the heap.
//!
//! The file holds names, attributes and sizes as they are in the journal, unencrypted, as swap would; it has no name from its birth, and is gone
//! with the process. A directory in memory (tmpfs) is no place for it: then, or where there is none to be had, the heap goes on growing, and that is said.

mod arena;
mod bound;
mod fault;
mod file;
mod heap;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Result;
use tracing::{info, warn};

pub(crate) use self::bound::parse_size;
use self::heap::{News, SpillingHeap};
use crate::cli::MemoryArgs;
use crate::exit::{Exit, failure};
use crate::output::{Format, human};

/// Bytes that the file grows by at least: few enough that little is taken in vain, enough that growing is rare.
const CHUNK_BYTES: usize = 16 << 20;

/// All memory of this program.
#[global_allocator]
static HEAP: SpillingHeap = SpillingHeap::new();

/// What was chosen, for what is said later.
static CHOSEN: OnceLock<Chosen> = OnceLock::new();

struct Chosen {
    bound_bytes: u64,
    directory: PathBuf,
    /// Why nothing can be spilled there.
    unfit: Option<String>,
    format: Format,
}

thread_local! {
    /// Whether this thread allocates for a fold.
    static IS_FOLDING: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, the thread allocates for a fold, or does not; then as before.
struct Scope(bool);

impl Scope {
    fn enter(is_folding: bool) -> Self {
        Self(IS_FOLDING.replace(is_folding))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        IS_FOLDING.set(self.0);
    }
}

/// What this allocates goes to the file where the heap is beyond its bound. For what is as large as the tree and stays; a buffer is better off in the heap.
pub(crate) fn within<T>(work: impl FnOnce() -> T) -> T {
    let _scope = Scope::enter(true);
    work()
}

/// Sets the bound, and finds a place for the file.
///
/// # Errors
/// Wrong usage, where no file can be made in the directory that was named.
pub(crate) fn begin(args: &MemoryArgs, format: Format) -> Result<()> {
    let MemoryArgs {
        memory_max,
        spill_dir,
    } = args;
    let bound_bytes = memory_max.unwrap_or_else(|| bound::usable_bytes() / 2);
    let directory = spill_dir.clone().unwrap_or_else(default_directory);
    let place = match file::create(&directory) {
        Err(error) if spill_dir.is_some() => {
            let what = format!("--spill-dir {}: {error}", directory.display());
            return Err(failure(Exit::Usage, what));
        }
        made => made.map_err(|error| error.to_string()).and_then(fit),
    };
    let placed = place.and_then(|file| {
        HEAP.set_file(file, CHUNK_BYTES)
            .map_err(|error| error.to_string())
    });
    HEAP.set_bound(bound_bytes);
    fault::begin(&directory, format)?;
    // Set once: a process has one command.
    let _first = CHOSEN.set(Chosen {
        bound_bytes,
        directory,
        unfit: placed.err(),
        format,
    });
    Ok(())
}

fn default_directory() -> PathBuf {
    let named = std::env::var_os("TMPDIR").filter(|name| !name.is_empty());
    named.map_or_else(|| Path::new("/var/tmp").to_owned(), PathBuf::from)
}

/// A file, if memory is won by writing to it.
fn fit(file: File) -> Result<File, String> {
    match file::is_in_memory(&file) {
        Ok(true) => Err("it lies in memory itself".to_owned()),
        Ok(false) => Ok(file),
        Err(error) => Err(error.to_string()),
    }
}

/// Says, once, that the bound was reached.
///
/// # Errors
/// Exit code 1 where the file cannot grow: then little more can be allocated, so this is to be called wherever a little more was.
pub(crate) fn check() -> Result<()> {
    match HEAP.news() {
        None => Ok(()),
        Some(news) => tell(&news),
    }
}

#[cold]
fn tell(news: &News) -> Result<()> {
    // Whatever saying it allocates is no part of the fold.
    let _scope = Scope::enter(false);
    let Some(chosen) = CHOSEN.get() else {
        return Ok(());
    };
    let (bound, directory) = (human(chosen.bound_bytes), chosen.directory.display());
    if news.began {
        info!(
            "the fold needs more than {bound} (--memory-max): it goes on in an unnamed file in {directory} (--spill-dir)"
        );
    }
    if news.unable {
        let why = chosen.unfit.as_deref().unwrap_or("it has no address space left");
        warn!(
            "the fold needs more than {bound} (--memory-max), and cannot go on in {directory}: {why}; it goes on in memory. \
             --spill-dir names a directory on a disk"
        );
    }
    match &news.full {
        Some(error) => Err(failure(Exit::Failed, full(error))),
        None => Ok(()),
    }
}

/// What to say, and do, where the file cannot grow.
fn full(error: &io::Error) -> String {
    let (bound, directory) = CHOSEN.get().map_or_else(Default::default, |chosen| {
        (human(chosen.bound_bytes), chosen.directory.display().to_string())
    });
    format!(
        "the fold needs more than {bound} of memory, and its file in {directory} cannot grow: {error}; make room there, name another directory on a disk \
         with --spill-dir, or allow more memory with --memory-max"
    )
}

/// Ends the process where the file cannot grow and what is asked for cannot wait until somebody calls [`check`]: a collection cannot return an error.
/// Nothing is left behind, for the file has no name and the fold comes before anything is written.
#[cold]
fn give_up(error: &io::Error) -> ! {
    let _scope = Scope::enter(false);
    let format = CHOSEN.get().map_or(Format::Text, |chosen| chosen.format);
    format.error_message(Exit::Failed, &full(error));
    std::process::exit(Exit::Failed.code().into())
}
