//! Copies what lies on media to another one: sealed objects only, each compared with what was sealed while it is copied, and read back after.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use journal::store::{Copied, DirStore, Store};
use journal::{Copyable, copy_carried, copy_segment};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use super::{labelled, look, put};
use crate::cli::exit::{FAILED, INTEGRITY, LOCKED, coded};

/// What was copied.
#[derive(Default)]
struct Done {
    objects: u64,
    bytes: u64,
    /// Objects that were there already.
    there: u64,
    /// What is not as it was sealed.
    damaged: Vec<String>,
}

/// Holds a medium for copies as the one who writes to it; `None` where somebody else does. Two who copy the same object there would name each other's
/// halves. Until it is dropped, the medium is in use.
///
/// # Errors
/// What the system says.
pub(crate) fn hold(path: &Path) -> Result<Option<File>> {
    let context = || format!("hold the medium at {}", path.display());
    let directory = File::open(path).with_context(context)?;
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(directory)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).with_context(context),
    }
}

/// Copies every segment of the media at `from` that the medium at `to` does not have, with its manifest, and what they carry of others.
///
/// # Errors
/// Exit code 1 where the medium is not one for copies, or holds another chain of a volume; 11 where somebody else copies to it; 30 where something is
/// not what was sealed: it is not copied, and the rest is; 21 where the medium is full: what is sealed there by then is good, another medium takes
/// the rest.
pub(crate) fn copy(from: &[PathBuf], to: &Path) -> Result<Value> {
    let (target, label) = labelled(to)?;
    if !label.copies {
        return Err(coded(
            FAILED,
            format!(
                "medium {} is not for copies: label one with `recorder media label --copies DIR`",
                label.named()
            ),
        ));
    }
    let _held = hold(to)?.ok_or_else(|| {
        let named = label.named();
        coded(
            LOCKED,
            format!("somebody else copies to medium {named} now: a recorder that was given its place with --copies does it by itself"),
        )
    })?;
    target.remove_unsealed().context("tidy the medium of copies")?;
    let mut done = Done::default();
    for path in from {
        let (source, of) = labelled(path)?;
        let source: Arc<dyn Store> = Arc::new(source);
        done.all(&source, &target)
            .with_context(|| format!("copy medium {} to {}", of.named(), label.named()))?;
        put(look(source, &of)?)?;
    }
    put(look(Arc::new(target), &label)?)?;
    let Done {
        objects,
        bytes,
        there,
        damaged,
    } = done;
    if !damaged.is_empty() {
        return Err(coded(INTEGRITY, damaged.join("; ")));
    }
    Ok(json!({ "to": label.medium, "name": label.name, "objects": objects, "bytes": bytes, "there": there }))
}

impl Done {
    fn all(&mut self, source: &Arc<dyn Store>, target: &DirStore) -> Result<()> {
        let objects = source.list()?;
        for uuid in Copyable::volumes(&objects) {
            let Copyable { segments, carried } = Copyable::of(&objects, uuid);
            for next_index in carried {
                self.note(copy_carried((uuid, next_index), source, target, &|| true))?;
            }
            for index in segments {
                let copied = copy_segment((uuid, index), &**source, target, &|| true);
                self.note(copied.map(|(_, copied)| copied))
                    .with_context(|| format!("segment {index} of volume {uuid}"))?;
            }
        }
        Ok(())
    }

    fn note(&mut self, copied: journal::Result<Copied>) -> Result<()> {
        match copied {
            Ok(Copied::Now(bytes)) => {
                self.objects += 1;
                self.bytes += bytes;
            }
            Ok(Copied::There) => self.there += 1,
            Ok(Copied::Another) => {
                return Err(coded(
                    FAILED,
                    "another one is there: of each volume, a medium holds one chain; label and name another medium for copies",
                ));
            }
            Err(journal::Error::Integrity(why)) => self.damaged.push(why),
            Err(error @ journal::Error::MediumFull(_)) => {
                return Err(anyhow::Error::new(error)
                    .context("label and name another medium for copies: it takes what is not copied yet"));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
