//! Media that are needed and were not given: they are asked for by name, one after the other, as one drive would take them.
//!
//! Owns the question, and the medium that was put in last. Where nobody can be asked, it says which media are needed, before anything is written.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use journal::store::{DirStore, Store};
use journal::{Identities, Journal, MediumName, Reader, Segment};
use tracing::{info, warn};

use crate::exit::{Exit, failure};
use crate::output::human;
use crate::restore::plan::Plan;

/// Answers that lead to no medium before it is given up.
const TRIES_MAX: u32 = 20;

/// Where a medium is put in that was not given.
pub(crate) struct Drive {
    /// Nobody is asked, whoever sits there.
    pub(crate) is_silent: bool,
    /// Who reads what is encrypted there.
    identities: Identities,
    last: Mutex<Option<Reader>>,
}

/// Where the data of a plan lies that is on none of the media given: by medium, with the number of segments and their bytes.
fn absent(journal: &Journal, plan: &Plan) -> Result<BTreeMap<MediumName, (u64, u64)>> {
    let mut media: BTreeMap<MediumName, (u64, u64)> = BTreeMap::new();
    for pieces in plan.pieces.chunk_by(|a, b| a.row.segment == b.row.segment) {
        let Some(piece) = pieces.first() else { continue };
        let segment = journal.segment(u64::from(piece.row.segment))?;
        if segment.is_carried() {
            let rows = pieces.iter().map(|piece| u64::from(piece.row.row));
            let (segments, bytes) = media.entry(segment.lies_on().clone()).or_default();
            *segments += 1;
            *bytes += segment.manifest.data_bytes(rows);
        }
    }
    Ok(media)
}

impl Drive {
    pub(crate) fn new(identities: Identities) -> Self {
        Self {
            is_silent: false,
            identities,
            last: Mutex::default(),
        }
    }

    /// Whether somebody sits there who can be asked.
    fn can_ask(&self) -> bool {
        !self.is_silent && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Says which media a plan needs that were not given.
    ///
    /// # Errors
    /// Exit code 20 where there are any and nobody can be asked for them: nothing is written then.
    pub(crate) fn check(&self, journal: &Journal, plan: &Plan) -> Result<()> {
        let absent = absent(journal, plan)?;
        if absent.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = absent
            .iter()
            .map(|(medium, (segments, bytes))| {
                format!(
                    "medium {medium}, or a copy of it: {} of {segments} segments",
                    human(*bytes)
                )
            })
            .collect();
        if self.can_ask() {
            info!("will be asked for: {}", list.join("; "));
            return Ok(());
        }
        Err(failure(
            Exit::MediumNeeded,
            format!(
                "needed, and not given: {}; mount them and name each with --medium",
                list.join("; ")
            ),
        ))
    }

    /// The segment with its data: as it was given, or from a medium that is asked for.
    ///
    /// # Errors
    /// Exit code 20 where it is not to be had.
    pub(crate) fn fetch(&self, segment: &Segment) -> Result<Segment> {
        if !segment.is_carried() {
            return Ok(segment.clone());
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = last.as_ref().and_then(|reader| find(reader, segment)) {
            return Ok(found);
        }
        let needed = || {
            failure(
                Exit::MediumNeeded,
                format!(
                    "segment {} lies on medium {}: mount it, and name it with --medium",
                    segment.manifest.index,
                    segment.lies_on()
                ),
            )
        };
        if !self.can_ask() {
            return Err(needed());
        }
        // Nothing keeps the one before busy: it may be unmounted now.
        *last = None;
        for _ in 0..TRIES_MAX {
            let Some(path) = ask(segment.lies_on()).context("ask for a medium")? else {
                break;
            };
            match open(Path::new(&path), &self.identities) {
                Ok(reader) => match find(&reader, segment) {
                    Some(found) => {
                        *last = Some(reader);
                        return Ok(found);
                    }
                    None => warn!(
                        "{path} does not hold segment {}: it is not medium {}",
                        segment.manifest.index,
                        segment.lies_on()
                    ),
                },
                Err(error) => warn!("{path}: {error:#}"),
            }
        }
        Err(needed())
    }
}

fn open(path: &Path, identities: &Identities) -> Result<Reader> {
    let store: Arc<dyn Store> = Arc::new(DirStore::open(path)?);
    Ok(Reader::open_with(vec![store], identities)?)
}

/// The very segment, with its data, where a medium has it.
fn find(reader: &Reader, wanted: &Segment) -> Option<Segment> {
    reader
        .journals()
        .flat_map(Journal::segments)
        .find(|segment| !segment.is_carried() && segment.is_copy_of(wanted))
        .cloned()
}

/// Asks where a medium is mounted; `None` where it is given up.
fn ask(medium: &MediumName) -> io::Result<Option<String>> {
    let mut stderr = io::stderr().lock();
    write!(
        stderr,
        "medium {medium} is needed. Mount it and name the directory (nothing: give up): "
    )?;
    stderr.flush()?;
    drop(stderr);
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let path = line.trim();
    Ok((!path.is_empty()).then(|| path.to_owned()))
}
