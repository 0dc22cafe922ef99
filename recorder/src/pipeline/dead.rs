//! What a recording that is over has left in its spool: not to go on with, but to know what it had seen that is not in its journal.
//!
//! Owns the file that says whose frames lie in a spool, and which end of a frame that was cut is no damage. The frames themselves are given up:
//! of what they name, the live state is read again.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use journal::Head;
use journal::store::Store;

use super::own;
use crate::decode;
use crate::reconcile::{Dead, Touched};
use crate::spool::{self, FrameKind, Position, SpoolReader};

/// Says of which epoch the frames are.
const FILE: &str = "epoch";
const FILE_NEW: &str = "epoch.new";

/// Says durably that from now on frames of this epoch lie in the spool: before any of an earlier one is removed.
///
/// # Errors
/// What the system says.
pub(super) fn begin(dir: &Path, head: &Head) -> Result<()> {
    let (path, new) = (dir.join(FILE), dir.join(FILE_NEW));
    let context = || format!("write {}", path.display());
    let bytes = serde_json::to_vec(head).with_context(context)?;
    let mut file = File::create(&new).with_context(context)?;
    file.write_all(&bytes).with_context(context)?;
    file.sync_all().with_context(context)?;
    fs::rename(&new, &path).with_context(context)?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .with_context(context)
}

/// Finds what is left of the newest epoch on the medium; `None` where that holds nothing of the volume.
///
/// # Errors
/// Why what it had seen cannot be known.
pub(crate) fn find(store: &dyn Store, uuid: &str, dir: &Path) -> Result<Option<Dead>> {
    let Some(head) = Head::of(store, uuid)? else {
        return Ok(None);
    };
    let path = dir.join(FILE);
    let bytes =
        fs::read(&path).with_context(|| format!("{} does not say whose frames lie there", path.display()))?;
    let Head {
        chain,
        epoch,
        last_seq: _,
    } = serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))?;
    ensure!(
        chain == head.chain && epoch == head.epoch,
        "what lies in {} is of epoch {epoch}, the newest on the medium is {}",
        dir.display(),
        head.epoch
    );
    let mut touched = Touched::default();
    let files = spool::left_files(dir)?;
    let newest = files.last().map_or(0, |(file, _)| *file);
    let mut frames = 0;
    for (file, length) in files {
        let mut reader = SpoolReader::new(dir, file);
        let end = Position { file, offset: length };
        loop {
            let at = reader.position();
            match reader.next(end) {
                Ok(None) => break,
                Ok(Some(frame)) => frames += u64::from(see(&frame, head.last_seq, &mut touched)?),
                // The tail of what was being written when the power went: what came before it is whole.
                Err(error) if file == newest => {
                    tracing::info!("the spool ends at {at:?}: {error:#}");
                    break;
                }
                Err(error) => return Err(error).context("the spool is damaged"),
            }
        }
    }
    tracing::info!(
        "{frames} frames after number {} were not on the medium: they name {} inodes",
        head.last_seq,
        touched.len()
    );
    Ok(Some(Dead { head, touched }))
}

/// Looks at a frame; whether it is one that the journal does not have.
fn see(frame: &spool::Frame, sealed_seq: u64, touched: &mut Touched) -> Result<bool> {
    match frame.kind {
        FrameKind::Own => {
            let record = own::decode(&frame.payload)?;
            if record.seq <= sealed_seq {
                return Ok(false);
            }
            touched.see_unsealed(&record)?;
        }
        FrameKind::Event => {
            if decode::seq_of(&frame.payload)? <= sealed_seq {
                return Ok(false);
            }
            touched.see_event(&decode::decode(&frame.payload, 0)?)?;
        }
        FrameKind::Lost => {
            if lost_seq(&frame.payload)? > sealed_seq {
                bail!(
                    "events found no room shortly before the end, and nobody could read again what they changed"
                );
            }
            return Ok(false);
        }
    }
    Ok(true)
}

/// The payload of a frame that says that events up to a number may be lost.
pub(super) fn lost(seq: u64) -> [u8; 8] {
    seq.to_le_bytes()
}

fn lost_seq(payload: &[u8]) -> Result<u64> {
    let bytes: [u8; 8] = payload
        .try_into()
        .context("a frame about lost events is cut short")?;
    Ok(u64::from_le_bytes(bytes))
}
