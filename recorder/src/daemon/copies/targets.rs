//! The media for copies: what is at each place, which pools there are, and which medium of a pool takes the next copy.
//!
//! Owns what must be true of a medium before it takes copies, and what each holds already: as it tells itself while it is there, else as the catalog
//! does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use journal::store::disk::SystemDisk;
use journal::store::{DirStore, Store};
use journal::{Copyable, Label, MediumName};

use super::super::medium::Medium as Checked;
use super::sealed::Key;
use crate::media;
use crate::media::catalog::{Catalog, Medium};
use crate::pulse::{self, Place, Watched};
use crate::status::MediumThere;

/// Opens what is at a place as a store that can be written to, or says why not.
pub(super) type Open = Box<dyn Fn(&Path) -> Result<DirStore> + Send>;

/// A medium for copies that is there.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) store: Arc<dyn Store>,
    pub(super) label: Label,
    pub(super) path: PathBuf,
    /// Indexes that it carries.
    pub(super) carried: BTreeSet<u64>,
}

/// A directory, by device, inode and file system: another one where something else is mounted there.
type Root = (u64, u64, u64);

/// The media for copies.
pub(super) struct Targets {
    uuid: String,
    catalog: PathBuf,
    places: Vec<PathBuf>,
    open: Open,
    there: BTreeMap<PathBuf, Target>,
    /// Why there is none, by place.
    pub(super) why_not: BTreeMap<PathBuf, String>,
    /// Media for copies in use, by uuid.
    known: BTreeMap<String, Medium>,
    /// Those of them of which the catalog does not know everything yet.
    changed: BTreeSet<String>,
    /// Where the journal itself is written to.
    own_pool: String,
    /// Media that are not needed any more.
    pub(super) retired: BTreeSet<String>,
    /// Those that take nothing more, by uuid, and why.
    full: BTreeMap<String, String>,
    /// Places that are let go until something else is there.
    left: BTreeMap<PathBuf, Option<Root>>,
}

impl Targets {
    pub(super) fn new(uuid: &str, catalog: &Path, places: Vec<PathBuf>, open: Open) -> Self {
        Self {
            uuid: uuid.to_owned(),
            catalog: catalog.to_owned(),
            places,
            open,
            there: BTreeMap::new(),
            why_not: BTreeMap::new(),
            known: BTreeMap::new(),
            changed: BTreeSet::new(),
            own_pool: String::new(),
            retired: BTreeSet::new(),
            full: BTreeMap::new(),
            left: BTreeMap::new(),
        }
    }

    /// Looks what the catalog knows, and what is at each place. Media of the pool that the journal itself is written to are none for copies.
    pub(super) fn look(&mut self, own_pool: &str) -> Result<()> {
        let _places = pulse::at(Place::Copies);
        own_pool.clone_into(&mut self.own_pool);
        let catalog = Catalog::read_from(&SystemDisk, &self.catalog)?;
        let (retired, in_use): (Vec<Medium>, Vec<Medium>) = catalog
            .media
            .into_iter()
            .partition(|medium| medium.retired.is_some());
        self.retired = retired.into_iter().map(|medium| medium.uuid).collect();
        let there: BTreeSet<String> = self.there.values().map(Target::uuid).collect();
        let changed = &self.changed;
        self.known
            .retain(|uuid, _| there.contains(uuid) || changed.contains(uuid));
        for medium in in_use.into_iter().filter(|medium| medium.copies) {
            self.known.entry(medium.uuid.clone()).or_insert(medium);
        }
        for path in self.places.clone() {
            match self.look_at(&path) {
                Ok(()) => _ = self.why_not.remove(&path),
                Err(error) => {
                    self.there.remove(&path);
                    self.why_not.insert(path, format!("{error:#}"));
                }
            }
        }
        Ok(())
    }

    fn look_at(&mut self, path: &Path) -> Result<()> {
        if let Some(why) = self.is_left(path) {
            anyhow::bail!(why);
        }
        let before = self.there.get(path);
        let store = (self.open)(path)?;
        let label = Label::read(&store)?.with_context(|| {
            format!("no label: `recorder media label {} --copies --pool NAME` makes an empty medium one for copies", path.display())
        })?;
        let named = label.named();
        ensure!(label.copies, "medium {named} is not for copies");
        ensure!(
            label.format == journal::FORMAT_VERSION,
            "medium {named} has format {}",
            label.format
        );
        ensure!(
            label.pool != self.own_pool,
            "medium {named} is of pool {:?}, which the journal itself is written to: label one with a --pool of its own",
            label.pool
        );
        ensure!(!self.retired.contains(&label.medium), "medium {named} is retired");
        if before.is_some_and(|target| target.label == label) {
            return Ok(());
        }
        let mut others = self.there.values().filter(|other| other.path != path);
        if let Some(other) = others.find(|other| other.label.medium == label.medium) {
            anyhow::bail!("medium {named} is at {} already", other.path.display());
        }
        let Some(_held) = media::hold(path)? else {
            anyhow::bail!("somebody else copies to medium {named}");
        };
        store
            .remove_unsealed()
            .with_context(|| format!("tidy medium {named}"))?;
        let carried = Copyable::of(&store.list()?, &self.uuid).carried;
        let store: Arc<dyn Store> = Arc::new(Watched(Checked::new(store, &label), Place::Copies));
        let entry = media::look(Arc::clone(&store), &label)?;
        tracing::warn!(
            "copies of pool {}: medium {named} is at {}",
            label.pool,
            path.display()
        );
        self.changed.insert(label.medium.clone());
        self.known.insert(label.medium.clone(), entry);
        let target = Target {
            store,
            label,
            path: path.to_owned(),
            carried,
        };
        self.there.insert(path.to_owned(), target);
        Ok(())
    }

    /// The pools that copies are made to: those of media that are there, or that hold something of the volume.
    pub(super) fn pools(&self) -> BTreeSet<String> {
        let there = self.there.values().map(|target| target.label.pool.clone());
        let holds_it = |medium: &&Medium| medium.holds.iter().any(|held| held.volume == self.uuid);
        let known = self.known.values().filter(holds_it);
        let pools = there.chain(known.map(|medium| medium.pool.clone()));
        pools.filter(|pool| *pool != self.own_pool).collect()
    }

    /// Whether a pool has a copy of a segment.
    pub(super) fn has(&self, pool: &str, Key { chain, index }: &Key) -> bool {
        let mut of_pool = self.known.values().filter(|medium| medium.pool == pool);
        of_pool.any(|medium| medium.has(&self.uuid, chain, *index))
    }

    /// The medium of a pool that takes the next copy: one that has some already is filled before another is begun.
    ///
    /// # Errors
    /// Why there is none, with what to do.
    pub(super) fn next(&self, pool: &str) -> Result<Target, String> {
        let fit: Vec<&Target> = self
            .there
            .values()
            .filter(|target| target.label.pool == pool && !self.full.contains_key(&target.label.medium))
            .collect();
        let is_begun = |target: &&&Target| {
            let entry = self.known.get(&target.label.medium);
            entry.is_some_and(|entry| entry.holds.iter().any(|held| held.volume == self.uuid))
        };
        if let Some(target) = fit.iter().find(is_begun).or(fit.first()) {
            return Ok((*target).clone());
        }
        let places: Vec<String> = self
            .places
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let places = places.join(" or ");
        let mut of_pool = self.known.values().filter(|medium| medium.pool == pool);
        match of_pool.find_map(|medium| self.full.get(&medium.uuid)) {
            Some(why) => Err(format!(
                "{why}: label another empty one with `recorder media label DIR --copies --pool {pool}`, and mount it at {places}"
            )),
            None => Err(format!(
                "no medium of pool {pool} that takes copies is at {places}: mount one there"
            )),
        }
    }

    /// A segment was copied to a medium.
    pub(super) fn take(&mut self, target: &Target, manifest: &journal::Manifest) {
        if let Some(entry) = self.known.get_mut(&target.label.medium) {
            entry.take(manifest);
            self.changed.insert(target.uuid());
        }
    }

    /// An index was copied to a medium.
    pub(super) fn carry(&mut self, target: &Target, next_index: u64) {
        if let Some(target) = self.there.get_mut(&target.path) {
            target.carried.insert(next_index);
        }
    }

    /// A medium takes nothing more.
    pub(super) fn fill(&mut self, target: &Target, why: String) {
        tracing::warn!("copies of pool {}: {why}", target.label.pool);
        self.full.insert(target.uuid(), why);
    }

    /// A medium is not as it was: it is looked at again.
    pub(super) fn drop(&mut self, target: &Target, why: &str) {
        self.there.remove(&target.path);
        self.why_not.insert(target.path.clone(), why.to_owned());
    }

    /// Does not touch a place any more until something else is there.
    pub(super) fn leave(&mut self, path: &Path) {
        self.there.remove(path);
        self.left.insert(path.to_owned(), root(path));
    }

    /// Why a place is not touched, if it is not.
    pub(super) fn is_left(&self, path: &Path) -> Option<String> {
        let is_left = self.left.contains_key(path);
        is_left.then(|| "its medium was ejected, and may be unmounted".to_owned())
    }

    /// Looks whether something else is at the places that were left. The same medium may come back to one, so that this is to be asked often.
    pub(super) fn look_at_left(&mut self) {
        self.left.retain(|path, before| *before == root(path));
    }

    /// The media of a pool that are there.
    pub(super) fn there(&self, pool: &str) -> Vec<MediumThere> {
        let of_pool = self.there.values().filter(|target| target.label.pool == pool);
        let there = |target: &Target| MediumThere {
            medium: target.label.named(),
            path: target.path.display().to_string(),
        };
        of_pool.map(there).collect()
    }

    /// The medium of a pool that a segment was copied to; where there is none, one that is there.
    pub(super) fn newest(&self, pool: &str, chain: &str, index: u64) -> MediumName {
        let mut of_pool = self.known.values().filter(|medium| medium.pool == pool);
        match of_pool.find(|medium| medium.has(&self.uuid, chain, index)) {
            Some(medium) => MediumName {
                uuid: medium.uuid.clone(),
                name: medium.name.clone(),
            },
            None => self.there(pool).into_iter().next().unwrap_or_default().medium,
        }
    }

    /// Whether the catalog does not know everything of them yet.
    pub(super) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Enters into the catalog what was put on media for copies, and these others.
    pub(super) fn enter(&mut self, others: Vec<Medium>) -> Result<()> {
        let _catalog = pulse::at(Place::Copies);
        let changed = self.changed.iter().filter_map(|uuid| self.known.get(uuid));
        let media: Vec<Medium> = changed.cloned().chain(others).collect();
        Catalog::change_at(&self.catalog, |catalog| {
            for medium in media {
                catalog.put_of(&self.uuid, medium);
            }
            Ok(())
        })?;
        self.changed.clear();
        Ok(())
    }
}

impl Target {
    pub(super) fn uuid(&self) -> String {
        self.label.medium.clone()
    }
}

fn root(path: &Path) -> Option<Root> {
    let _place = pulse::at(Place::Copies);
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), rustix::fs::statvfs(path).ok()?.f_fsid))
}
