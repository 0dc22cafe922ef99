//! Copies what lies on media to another one: sealed objects only, each compared with what was sealed before it is written, and read back after.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use journal::store::{self, DirStore, Store as _};
use serde_json::{Value, json};

use super::catalog::Catalog;
use super::{labelled, look};
use crate::cli::exit::{FAILED, INTEGRITY, coded};

/// What was copied.
#[derive(Default)]
struct Copied {
    objects: u64,
    bytes: u64,
    /// Objects that were there already.
    there: u64,
}

/// Copies every segment of the media at `from` that the medium at `to` does not have, with its manifest, and what they carry of others.
///
/// # Errors
/// Exit code 1 where the medium is not one for copies; 30 where something on a medium is not what was sealed: it is not copied; 21 where the
/// medium is full: what is sealed there by then is good, another medium takes the rest.
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
    target.remove_unsealed().context("tidy the medium of copies")?;
    let mut catalog = Catalog::read()?;
    let mut copied = Copied::default();
    for path in from {
        let (source, of) = labelled(path)?;
        let problems = super::problems(source.clone())?;
        if !problems.is_empty() {
            return Err(coded(
                INTEGRITY,
                format!("medium {} is not copied: {}", of.named(), problems.join("; ")),
            ));
        }
        copied
            .all(&source, &target)
            .with_context(|| format!("copy medium {} to {}", of.named(), label.named()))?;
        let medium = look(source, &of, catalog.get(&of.medium))?;
        catalog.put(medium);
    }
    let medium = look(target, &label, catalog.get(&label.medium))?;
    catalog.put(medium);
    catalog.write()?;
    let Copied {
        objects,
        bytes,
        there,
    } = copied;
    Ok(json!({ "to": label.medium, "name": label.name, "objects": objects, "bytes": bytes, "there": there }))
}

impl Copied {
    fn all(&mut self, source: &DirStore, target: &DirStore) -> Result<()> {
        let mut objects: Vec<_> = source
            .list()?
            .into_iter()
            .filter(|object| object.name.contains('/'))
            .collect();
        // A manifest after its segment: one that is there vouches for the other.
        objects.sort_by_key(|object| (object.name.ends_with(".manifest.json"), object.name.clone()));
        for object in objects {
            self.one(&object.name, source, target)?;
        }
        Ok(())
    }

    fn one(&mut self, name: &str, source: &DirStore, target: &DirStore) -> Result<()> {
        match store::copy(name, source, target) {
            Ok(Some(bytes)) => {
                self.objects += 1;
                self.bytes += bytes;
            }
            Ok(None) => self.there += 1,
            Err(error @ journal::Error::MediumFull(_)) => {
                return Err(anyhow::Error::new(error)
                    .context("label and name another medium for copies: it takes what is not copied yet"));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
