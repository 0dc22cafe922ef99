//! Media beside the running recorder: labelled, looked at, copied, listed.
//!
//! Owns what `recorder media` does without the daemon. What is known of media that are not there stands in the `catalog`, which is a cache: it is
//! made anew by looking at the media, in any order.

pub(crate) mod catalog;
mod copy;
mod show;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use journal::store::{DirStore, Store};
use journal::{Label, Naming, PublicKey, Reader};
use serde_json::{Value, json};

use crate::cli::exit::{FAILED, INTEGRITY, MEDIUM_NEEDED, NOTHING_THERE, USAGE, coded};
use crate::snapshot::now_ns;
use catalog::{Catalog, Holding, Medium};
pub(crate) use copy::{copy, hold};
pub(crate) use show::{list, list_as_text};

/// Opens the directory of a medium.
pub(crate) fn open(path: &Path) -> Result<DirStore> {
    DirStore::open(path).map_err(|error| {
        coded(
            MEDIUM_NEEDED,
            format!("medium {}: {error}; mount it there", path.display()),
        )
    })
}

/// Opens a medium that has a label.
fn labelled(path: &Path) -> Result<(DirStore, Label)> {
    let store = open(path)?;
    let label = Label::read(&store)?.ok_or_else(|| {
        coded(
            NOTHING_THERE,
            format!(
                "{} has no label: it is no medium yet (recorder media label)",
                path.display()
            ),
        )
    })?;
    Ok((store, label))
}

/// Labels an empty medium and enters it into the catalog.
///
/// # Errors
/// Exit code 1 where something lies there already.
pub(crate) fn label(path: &Path, naming: &Naming, replayer: &[u8]) -> Result<Value> {
    let store = open(path)?;
    if let Some(label) = Label::read(&store)? {
        return Err(coded(
            FAILED,
            format!(
                "{} is labelled already: medium {}; a label is never changed",
                path.display(),
                label.named()
            ),
        ));
    }
    let foreign = store.list()?;
    if let Some(object) = foreign.iter().find(|object| object.name.contains('/')) {
        return Err(coded(
            FAILED,
            format!("{} holds {}: label an empty medium", path.display(), object.name),
        ));
    }
    if let Some(name) = &naming.name
        && let Some(other) = Catalog::read()?.named(name)
    {
        return Err(coded(
            USAGE,
            format!(
                "medium {} is called {name} already: take another name",
                other.uuid
            ),
        ));
    }
    let label = Label::ensure_as(&store, replayer, now_ns(), naming)
        .with_context(|| format!("label {}", path.display()))?;
    put(Medium::new(&label))?;
    Ok(json!({
        "path": path, "uuid": label.medium, "name": label.name, "pool": label.pool, "copies": label.copies,
    }))
}

/// Removes everything of ours from a medium that is retired, so that it can be labelled anew: the label first, so that it is none from then on.
///
/// # Errors
/// Exit code 1 for a medium that is not retired.
pub(crate) fn erase(path: &Path) -> Result<()> {
    let (store, label) = labelled(path)?;
    if Catalog::read()?
        .get(&label.medium)
        .is_none_or(|medium| medium.retired.is_none())
    {
        return Err(coded(
            FAILED,
            format!(
                "medium {} is not retired: `recorder retention apply` retires what is not needed any more",
                label.named()
            ),
        ));
    }
    store
        .erase()
        .with_context(|| format!("erase medium {} at {}", label.named(), path.display()))?;
    Catalog::change(|catalog| {
        catalog.media.retain(|medium| medium.uuid != label.medium);
        Ok(())
    })
}

/// Enters a medium into the catalog.
fn put(medium: Medium) -> Result<()> {
    Catalog::change(|catalog| {
        catalog.put(medium);
        Ok(())
    })
}

/// Looks at media and enters what they hold into the catalog.
///
/// # Errors
/// What keeps one from being read; those before it are entered.
pub(crate) fn scan(paths: &[PathBuf]) -> Result<Value> {
    let mut found = Vec::new();
    for path in paths {
        let (store, label) = labelled(path)?;
        let keys = keys(&store)?;
        let medium = look(Arc::new(store), &label)
            .with_context(|| format!("look at medium {} at {}", label.named(), path.display()))?;
        found.push(Catalog::change(|catalog| {
            for (volume, key) in keys {
                catalog
                    .trust(&volume, key)
                    .with_context(|| format!("medium {}", label.named()))?;
            }
            catalog.put(medium);
            serde_json::to_value(catalog.get(&label.medium)).context("encode what was found")
        })?);
    }
    Ok(json!({ "media": found }))
}

/// The keys that what lies on a medium is signed with, by volume.
fn keys(store: &DirStore) -> Result<BTreeSet<(String, Option<PublicKey>)>> {
    let reader = match Reader::open(vec![Arc::new(store.clone()) as Arc<dyn Store>]) {
        Err(journal::Error::NoJournal(_)) => return Ok(BTreeSet::new()),
        reader => reader?,
    };
    let signed = reader.journals().flat_map(|journal| {
        let volume = &journal.volume().uuid;
        journal
            .all_segments()
            .map(move |segment| (volume.clone(), segment.manifest.signed_by()))
    });
    Ok(signed.collect())
}

/// What a medium holds.
pub(crate) fn look(store: Arc<dyn Store>, label: &Label) -> Result<Medium> {
    let mut medium = Medium::new(label);
    match Reader::open(vec![store]) {
        Ok(reader) => medium.holds = reader.journals().filter_map(Holding::of).collect(),
        // Labelled, and nothing on it yet.
        Err(journal::Error::NoJournal(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(medium)
}

/// Enters a medium that was just finished; gives what lies on no other one, as runs of segments by chain.
///
/// # Errors
/// What keeps it, or the catalog, from being read.
pub(crate) fn enter(path: &Path, label: &Label) -> Result<Vec<Vec<(u64, u64)>>> {
    let medium = look(Arc::new(open(path)?), label)?;
    Catalog::change(|catalog| {
        catalog.put(medium.clone());
        let single = catalog.single_copy(&medium).into_iter();
        Ok(single.map(|(_, runs)| runs).collect())
    })
}

/// Reads everything on media and compares it with what was sealed.
///
/// # Errors
/// Exit code 30 where something is not as it was sealed.
pub(crate) fn verify(paths: &[PathBuf]) -> Result<Value> {
    let (mut answers, mut bad) = (Vec::new(), Vec::new());
    for path in paths {
        let (store, label) = labelled(path)?;
        let problems = problems(store.clone())
            .with_context(|| format!("verify medium {} at {}", label.named(), path.display()))?;
        if problems.is_empty() {
            let mut medium = look(Arc::new(store), &label)?;
            medium.verified = Some(now_ns());
            put(medium)?;
        } else {
            bad.push(format!("medium {}: {}", label.named(), problems.join("; ")));
        }
        answers.push(json!({ "path": path, "uuid": label.medium, "name": label.name, "problems": problems }));
    }
    if bad.is_empty() {
        return Ok(json!({ "media": answers }));
    }
    Err(coded(INTEGRITY, bad.join("\n")))
}

/// What is wrong on a medium. That earlier segments are not on it is none of it.
fn problems(store: DirStore) -> Result<Vec<String>> {
    let reader = match Reader::open(vec![Arc::new(store) as Arc<dyn Store>]) {
        Ok(reader) => reader,
        Err(journal::Error::NoJournal(_)) => return Ok(Vec::new()),
        Err(journal::Error::Integrity(why)) => return Ok(vec![why]),
        Err(error) => return Err(error.into()),
    };
    let mut problems = reader.verify_media()?;
    for journal in reader.journals() {
        let report = journal.verify(|_| ())?;
        let missing: Vec<String> = journal
            .problems()
            .iter()
            .filter(|problem| problem.is_missing)
            .map(ToString::to_string)
            .collect();
        problems.extend(
            report
                .problems
                .into_iter()
                .filter(|problem| !missing.contains(problem)),
        );
    }
    Ok(problems)
}

/// Says that a medium is not needed any more: it is not asked for, and may be emptied and labelled anew.
///
/// # Errors
/// Exit code 10 for a medium that the catalog does not know.
pub(crate) fn retire(named: &str) -> Result<Value> {
    Catalog::change(|catalog| {
        let Some(medium) = catalog.named(named) else {
            return Err(coded(
                NOTHING_THERE,
                format!("the catalog knows no medium {named} (recorder media list; recorder media scan DIR)"),
            ));
        };
        let mut medium = medium.clone();
        catalog.check_retire(&medium)?;
        medium.retired = Some(now_ns());
        let answer = json!({ "uuid": medium.uuid, "name": medium.name, "retired": true });
        catalog.put(medium);
        Ok(answer)
    })
}
