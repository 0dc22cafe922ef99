//! Whether a recorder that died has left something to go on with.
//!
//! Owns the reasons why not, and that they are said. Then its programs are removed, and a new epoch begins.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use abi::ABI_VERSION;
use anyhow::{Context as _, Result, ensure};
use journal::store::disk::Disk;
use serde_json::{Value, json};

use super::shelf::Shelf;
use super::{checks, mounted};
use crate::capture::{self, Capture, Volume};
use crate::control;
use crate::key::Keys;
use crate::pipeline::{Identity, Left, Limits, OnFull};
use crate::snapshot::handle::Root;

/// What a volume is recorded with, beside the volume and its programs.
pub(super) struct Place {
    pub(super) spool_bytes_max: u64,
    pub(super) on_full: OnFull,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) spool_dir: PathBuf,
    /// Directories of spools on the volume.
    pub(super) spool_inos: Vec<u64>,
    pub(super) numbers_file: PathBuf,
    pub(super) shelf: Arc<Shelf>,
    pub(super) keys: Keys,
}

/// The programs that an earlier recorder left on the volume, and the rest of what it left, where both can be gone on with. Where they
/// cannot, the programs are removed.
///
/// # Errors
/// When programs cannot be removed.
pub(super) fn find(volume: &Volume, place: &Place, root: &Root) -> Result<Option<(Capture, Left)>> {
    if !capture::has_pins(&volume.uuid) {
        return Ok(None);
    }
    let named = volume.mount_point.display();
    match left(volume, place, root) {
        Ok((capture, left)) => {
            eprintln!(
                "{named}: an earlier recorder ended without detaching, its programs went on: going on after seq {}",
                left.sealed_seq()
            );
            if left.identity().programs != capture::object_hash() {
                eprintln!(
                    "{named}: the programs in the kernel are those of another build: detach and attach to use the ones of this build"
                );
            }
            Ok(Some((capture, left)))
        }
        Err(why) => {
            eprintln!(
                "{named}: an earlier recorder ended without detaching, and this one cannot go on from there: {why:#}; its programs are \
                 removed, and a new epoch begins: between the two nothing is journaled"
            );
            capture::remove_stale_pins(&volume.uuid)?;
            Ok(None)
        }
    }
}

/// Takes out the programs that recorders left which are not there any more; `nobody` is the error where there are none.
///
/// # Errors
/// Programs that cannot be removed, or that somebody reads from.
pub(crate) fn take_out(path: Option<&Path>, nobody: anyhow::Error) -> Result<Value> {
    let mut uuids = capture::pinned_volumes();
    if let Some(path) = path {
        let uuid = Volume::resolve(path)?.uuid;
        uuids.retain(|pinned| *pinned == uuid);
    }
    if uuids.is_empty() {
        return Err(nobody);
    }
    let mut answers = Vec::new();
    for uuid in uuids {
        let _lock = checks::lock(&uuid, Path::new(&uuid))?;
        capture::remove_stale_pins(&uuid)?;
        eprintln!(
            "volume {uuid}: no recorder was running: what it had not brought onto its medium is not journaled"
        );
        answers.push(json!({ "path": uuid, "uuid": uuid, "durable_seq": null }));
    }
    Ok(control::volumes_answer(answers))
}

fn left(volume: &Volume, place: &Place, root: &Root) -> Result<(Capture, Left)> {
    ensure!(
        mounted::is_signed(root.fd())?,
        "the file system was unmounted since then"
    );
    let capture = Capture::open(&volume.uuid)?;
    let now = identity(&capture, place)?;
    let Place {
        spool_bytes_max,
        on_full: _,
        disk,
        spool_dir,
        spool_inos: _,
        numbers_file,
        shelf,
        keys: _,
    } = place;
    let left = Left::find(
        &**shelf,
        &volume.uuid,
        disk,
        spool_dir,
        (*spool_bytes_max, Limits::default().spool_file_bytes),
        numbers_file,
        |then| fits(&now, then),
    )?;
    Ok((capture, left))
}

/// What recording this is.
///
/// # Errors
/// When the kernel does not say which run of it this is.
pub(super) fn identity(capture: &Capture, place: &Place) -> Result<Identity> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("read /proc/sys/kernel/random/boot_id")?;
    let mut excluded = place.spool_inos.clone();
    excluded.sort_unstable();
    Ok(Identity {
        boot_id: boot_id.trim().to_owned(),
        abi_version: ABI_VERSION,
        programs: capture::object_hash(),
        pins: capture.pins().clone(),
        excluded,
    })
}

/// Says why what was left then is none to go on with now.
fn fits(now: &Identity, then: &Identity) -> Result<()> {
    let Identity {
        boot_id,
        abi_version,
        programs: _,
        pins,
        excluded,
    } = then;
    ensure!(*boot_id == now.boot_id, "the machine was started anew since then");
    ensure!(
        *abi_version == now.abi_version,
        "its programs speak version {abi_version}, this recorder understands version {}",
        now.abi_version
    );
    ensure!(*pins == now.pins, "some of its programs are gone");
    ensure!(
        *excluded == now.excluded,
        "spools lie in other directories of the volume than then"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_said() {
        let now = Identity {
            boot_id: "now".to_owned(),
            abi_version: 7,
            ..Identity::default()
        };
        fits(&now, &now).expect("the same");
        let other_build = Identity {
            programs: "older".to_owned(),
            ..now.clone()
        };
        fits(&now, &other_build).expect("programs of another build speak the same language");
        for (then, word) in [
            (
                Identity {
                    boot_id: "then".to_owned(),
                    ..now.clone()
                },
                "started anew",
            ),
            (
                Identity {
                    abi_version: 6,
                    ..now.clone()
                },
                "version 6",
            ),
            (
                Identity {
                    excluded: vec![12],
                    ..now.clone()
                },
                "directories",
            ),
        ] {
            let why = fits(&now, &then).expect_err(word).to_string();
            assert!(why.contains(word), "{why}");
        }
    }
}
