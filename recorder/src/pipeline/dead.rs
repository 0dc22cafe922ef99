//! What a recording that is over has left in its spool: not to go on with, but to know what it had seen that is not in its journal.
//!
//! Owns the file that says whose frames lie in a spool, and what that recording's base goes on from; and which end of a frame that was cut is no damage. The frames themselves are given up:
//! of what they name, the live state is read again.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use journal::Head;
use journal::record::InodeKey;
use journal::store::Store;
use journal::store::disk::{self, Disk};
use serde::{Deserialize, Serialize};

use super::own;
use crate::decode;
use crate::reconcile::{Dead, Touched};
use crate::spool::{self, FrameKind, Position, SpoolReader};

/// Says of which epoch the frames are.
const FILE: &str = "epoch";

/// What the file says.
#[derive(Serialize, Deserialize)]
struct Begun {
    /// The epoch.
    head: Head,
    /// What its base goes on from.
    from: Option<Box<Past>>,
}

/// A recording that is over, as the file knows it.
#[derive(Serialize, Deserialize)]
struct Past {
    head: Head,
    touched: Vec<InodeKey>,
    before: Option<Box<Self>>,
}

impl Past {
    fn of(dead: &Dead) -> Self {
        Self {
            head: dead.head.clone(),
            touched: dead.touched.inodes(),
            before: dead.before.as_deref().map(|before| Box::new(Self::of(before))),
        }
    }

    fn dead(&self) -> Dead {
        Dead {
            head: self.head.clone(),
            touched: Touched::of(&self.touched),
            before: self.before.as_deref().map(|before| Box::new(before.dead())),
        }
    }
}

/// Says durably that from now on frames of this epoch lie in the spool, and what it goes on from: before any frame of an earlier one is removed.
/// The volume was synced by then, so that what was changed before shows in the inodes, whatever happens.
///
/// # Errors
/// What the system says.
pub(super) fn begin(disk: &dyn Disk, dir: &Path, head: Head, from: Option<&Dead>) -> Result<()> {
    let path = dir.join(FILE);
    let context = || format!("write {}", path.display());
    let from = from.map(|dead| Box::new(Past::of(dead)));
    let bytes = serde_json::to_vec(&Begun { head, from }).with_context(context)?;
    disk::replace(disk, &path, &bytes).with_context(context)
}

/// Finds what is left of the newest epoch on the medium; `None` where that holds nothing of the volume.
///
/// # Errors
/// Why what it had seen cannot be known.
pub(crate) fn find(store: &dyn Store, uuid: &str, disk: &Arc<dyn Disk>, dir: &Path) -> Result<Option<Dead>> {
    let Some(head) = Head::of(store, uuid)? else {
        return Ok(None);
    };
    let path = dir.join(FILE);
    let bytes = disk
        .read(&path)
        .with_context(|| format!("{} does not say whose frames lie there", path.display()))?;
    let Begun { head: begun, from } =
        serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))?;
    let from = from.map(|from| from.dead());
    let is_newest = begun.chain == head.chain && begun.epoch == head.epoch;
    let mut dead = match from {
        from if is_newest => Dead {
            head,
            touched: Touched::default(),
            before: from.map(Box::new),
        },
        // It began after the newest epoch on the medium, and nothing of it got there.
        Some(from) if from.head == head => from,
        _ => bail!(
            "what lies in {} is of epoch {} of chain {}, the newest on the medium is {} of {}",
            dir.display(),
            begun.epoch,
            begun.chain,
            head.epoch,
            head.chain
        ),
    };
    let sealed_seq = if is_newest { dead.head.last_seq } else { 0 };
    dead.touched.add(frames(disk, dir, sealed_seq)?);
    Ok(Some(dead))
}

/// What the frames name that the journal does not have.
fn frames(disk: &Arc<dyn Disk>, dir: &Path, sealed_seq: u64) -> Result<Touched> {
    let mut touched = Touched::default();
    let files = spool::left_files(&**disk, dir)?;
    let (oldest, newest) = match files.as_slice() {
        [] => (1, 0),
        [(oldest, _), ..] => (*oldest, files.last().map_or(0, |(file, _)| *file)),
    };
    // A name can be lost with the power, too, while a later one is there.
    ensure!(
        newest + 1 - oldest == files.len() as u64,
        "files of the spool in {} are missing",
        dir.display()
    );
    let mut frames = 0;
    for (file, length) in files {
        let mut reader = SpoolReader::new(disk, dir, file);
        let end = Position { file, offset: length };
        loop {
            let at = reader.position();
            match reader.next(end) {
                Ok(None) => break,
                Ok(Some(frame)) => frames += u64::from(see(&frame, sealed_seq, &mut touched)?),
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
        "{frames} frames after number {sealed_seq} were not on the medium: they name {} inodes",
        touched.inodes().len()
    );
    Ok(touched)
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

#[cfg(test)]
mod tests {
    use journal::store::faults::{FaultDisk, On, What};

    use super::*;

    #[test]
    fn whichever_operation_the_power_goes_in_the_frames_have_an_epoch() {
        let dir = Path::new("/spool");
        let head = |epoch| Head {
            chain: "chain".to_owned(),
            epoch,
            last_seq: 0,
        };
        for seed in 0..16 {
            for after in 0.. {
                let disk = FaultDisk::new(dir, seed);
                begin(&disk, dir, head(1), None).unwrap();
                disk.plan(On::Change, after, What::Gone);
                let begun = begin(&disk, dir, head(2), None);
                disk.power_on();
                let bytes = disk.read(&dir.join(FILE)).unwrap();
                let found: Begun = serde_json::from_slice(&bytes).unwrap();
                let newest = found.head == head(2);
                assert!(
                    newest || found.head == head(1) && begun.is_err(),
                    "seed {seed}, {after}"
                );
                if begun.is_ok() {
                    assert!(
                        after > 4,
                        "it is created, written, synced, renamed, and its directory synced"
                    );
                    break;
                }
            }
        }
    }
}
