//! Taking the place of a recorder that was killed: what it left, whether that can be gone on with, and what it knew.
//!
//! Owns the passage from files to the state of a pipeline. Whether the programs in the kernel are the right ones is for the caller.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use journal::store::Store;
use journal::store::disk::Disk;
use journal::{Head, VolumeInfo, Writer};
use serde::{Deserialize, Serialize};

use super::ledger::{self, Ledger, Ledgers, Windows};
use super::taken::{self, Taken};
use super::{Handle, own};
use crate::capture::Pins;
use crate::doubt::{Doubt, Request};
use crate::spool::{FrameKind, Spool};

/// What recording this is: by this a recorder knows whether it can go on with what another one left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The run of the kernel.
    pub(crate) boot_id: String,
    /// Version of the events.
    pub(crate) abi_version: u32,
    /// Hash of the programs that were loaded.
    pub(crate) programs: String,
    /// Their pins.
    pub(crate) pins: Pins,
    /// Directories that are not recorded.
    pub(crate) excluded: Vec<u64>,
}

/// What a recorder that was killed has left, made ready to go on.
pub(crate) struct Left {
    ledger: Ledger,
    ledger_file: usize,
    disk: Arc<dyn Disk>,
    spool_dir: PathBuf,
    spool: Spool,
    oldest: u64,
    taken: Taken,
    /// Numbers that it took and whose records it never handed over.
    void: BTreeSet<u64>,
    misses: (u64, u64),
}

impl Left {
    /// Finds what is left, for the volume with this uuid: `fits` says why the recording is none to go on with.
    ///
    /// # Errors
    /// Why it cannot go on. Nothing but a torn tail is changed.
    pub(crate) fn find(
        store: &dyn Store,
        uuid: &str,
        disk: &Arc<dyn Disk>,
        spool_dir: &Path,
        spool_bytes: (u64, u64),
        numbers_file: &Path,
        fits: impl FnOnce(&Identity) -> Result<()>,
    ) -> Result<Self> {
        let head = Head::of(store, uuid)?.context("the medium holds nothing of the volume")?;
        let Some(ledger::Found { ledger, file }) = ledger::find(&**disk, spool_dir, &head) else {
            bail!(
                "what lies in {} does not belong to this medium",
                spool_dir.display()
            );
        };
        fits(&ledger.identity)?;
        ensure!(ledger.has_base, "its base was not complete");
        let (taken, taken::Left { numbers, misses }) = Taken::recover(&**disk, numbers_file)?;
        let mut void: BTreeSet<u64> = numbers.into_iter().filter(|seq| *seq > head.last_seq).collect();
        let (bytes_max, file_bytes) = spool_bytes;
        let mut unknown = None;
        let (spool, oldest) = Spool::recover(disk, spool_dir, bytes_max, file_bytes, |frame| {
            if frame.kind == FrameKind::Own {
                match own::seq_of(&frame.payload) {
                    Ok(seq) => _ = void.remove(&seq),
                    Err(error) => unknown = Some(error),
                }
            }
        })?;
        if let Some(error) = unknown {
            return Err(error).context("read the spool");
        }
        Ok(Self {
            ledger,
            ledger_file: file,
            disk: Arc::clone(disk),
            spool_dir: spool_dir.to_owned(),
            spool,
            oldest,
            taken,
            void,
            misses,
        })
    }

    /// Last number that is sealed.
    pub(crate) fn sealed_seq(&self) -> u64 {
        self.ledger.head.last_seq
    }

    /// Missed events that were journaled, and up to which number they were looked for.
    pub(crate) fn misses(&self) -> (u64, u64) {
        self.misses
    }

    /// The recording that was left.
    pub(crate) fn identity(&self) -> &Identity {
        &self.ledger.identity
    }

    /// Everything that a pipeline needs to go on.
    pub(super) fn place(self, store: Arc<dyn Store>, volume: VolumeInfo) -> Result<Place> {
        let Self {
            ledger,
            ledger_file,
            disk,
            spool_dir,
            spool,
            oldest,
            taken,
            void,
            misses: _,
        } = self;
        let Ledger {
            head,
            identity: _,
            has_base,
            doubt,
            requests,
            holes,
            windows,
        } = ledger;
        let writer = Writer::resume(store, volume, &head)
            .context("continue the journal on the medium")?
            .context("the medium is not the one that was there a moment ago")?;
        Ok(Place {
            spool,
            oldest,
            writer,
            taken,
            ledgers: Ledgers::recover(&disk, &spool_dir, ledger_file),
            sealed_seq: head.last_seq,
            known: Known {
                is_left: true,
                has_base,
                doubt,
                requests,
                holes,
                windows,
                void,
            },
        })
    }
}

/// Where a pipeline begins.
pub(super) struct Place {
    pub(super) spool: Spool,
    pub(super) oldest: u64,
    pub(super) writer: Writer,
    pub(super) taken: Taken,
    pub(super) ledgers: Ledgers,
    /// Nothing up to here is to be written.
    pub(super) sealed_seq: u64,
    pub(super) known: Known,
}

/// What is known at that place.
#[derive(Default)]
pub(super) struct Known {
    /// Somebody has left it.
    pub(super) is_left: bool,
    pub(super) has_base: bool,
    pub(super) doubt: Doubt,
    pub(super) requests: Vec<Request>,
    pub(super) holes: BTreeSet<u64>,
    pub(super) windows: Windows,
    pub(super) void: BTreeSet<u64>,
}

/// Writes the ledger at each seal, and knows what else that takes beside the state of the cold thread.
pub(super) struct Keeper {
    pub(super) ledgers: Ledgers,
    pub(super) identity: Identity,
}

/// What a killed recorder left undone, until the first own number of the one that follows has passed.
#[derive(Default)]
pub(super) struct Unfinished {
    /// That number; 0 where nothing was left.
    pub(super) resume_seq: u64,
    /// What was asked for and not answered.
    pub(super) requests: Vec<Request>,
    /// Numbers whose records never came to be.
    pub(super) void: BTreeSet<u64>,
}

impl Unfinished {
    /// Takes the number up to which everything is the other's.
    pub(super) fn new(handle: &Handle, requests: Vec<Request>, void: BTreeSet<u64>) -> Result<Self> {
        Ok(Self {
            resume_seq: handle.nothing()?,
            requests,
            void,
        })
    }

    /// The end of the row of void numbers that begins with `first_seq`, if one does.
    pub(super) fn void_up_to(&mut self, first_seq: u64, last_seq: u64) -> Option<u64> {
        (first_seq..=last_seq)
            .take_while(|seq| self.void.remove(seq))
            .last()
    }
}
