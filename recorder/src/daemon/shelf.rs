//! The media of a volume: the one that is written to, those before it that are still there, and which one comes next.
//!
//! A journal goes on over any number of media; a segment lies on one. Owns when a medium takes nothing more, and what must be true of the next
//! one. To whoever reads or writes, the media are one store: objects begin on the current medium only, and are found on any.

#[cfg(test)]
pub(super) mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use journal::store::disk::{Disk as _, SystemDisk};
use journal::store::{Append, DirStore, ObjectInfo, ObjectKind, ReadAt, Store};
use journal::{Label, MediumName, Reader, copy_index, write_index};

use super::medium::Medium;
use super::places::{Places, check_room, volume_of};
use crate::pipeline::Changer;
use crate::pulse::{Place, Watched};

/// A medium that is there.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) store: Arc<dyn Store>,
    pub(super) label: Label,
    pub(super) path: PathBuf,
}

impl Held {
    pub(super) fn new(store: DirStore, label: Label, path: &Path) -> Self {
        Self {
            store: Arc::new(Watched(Medium::new(store, &label), Place::Medium)),
            label,
            path: path.to_owned(),
        }
    }
}

/// How far the current medium is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It takes what it is given.
    Writing,
    /// It is to be taken out as soon as a segment is sealed.
    Ejecting,
    /// It is full; what the next one is to carry is prepared.
    Full,
    /// It may be taken out, and takes nothing more.
    Ejected,
}

struct State {
    current: Held,
    /// Those that hold earlier segments of the volume.
    earlier: Vec<Held>,
    step: Step,
    /// Why no medium could be taken as the next one, at the last look.
    why_not: Option<String>,
}

/// The media of a volume.
pub(crate) struct Shelf {
    uuid: String,
    places: Places,
    /// Keeps what the next medium is to carry until it is there.
    host: DirStore,
    host_dir: PathBuf,
    state: Mutex<State>,
}

impl Shelf {
    /// With the medium to write to, and those that hold earlier segments.
    pub(super) fn new(
        uuid: &str,
        places: Places,
        host_dir: &Path,
        current: Held,
        earlier: Vec<Held>,
    ) -> Result<Self> {
        Ok(Self {
            uuid: uuid.to_owned(),
            places,
            host: DirStore::open(host_dir).with_context(|| format!("open {}", host_dir.display()))?,
            host_dir: host_dir.to_owned(),
            state: Mutex::new(State {
                current,
                earlier,
                step: Step::Writing,
                why_not: None,
            }),
        })
    }

    /// No call to a disk is made while this is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The medium that is written to.
    pub(super) fn current(&self) -> Held {
        self.state().current.clone()
    }

    /// The medium of this uuid is to be taken out: it takes nothing more once what was begun there is sealed. Where the journal has gone on on another
    /// one meanwhile, it takes nothing already.
    pub(super) fn eject(&self, uuid: &str) {
        let mut state = self.state();
        if state.current.label.medium == uuid && matches!(state.step, Step::Writing | Step::Full) {
            state.step = Step::Ejecting;
        }
    }

    /// The name of the medium that was ejected and has no successor yet; also, why none was found.
    pub(super) fn ejected(&self) -> Option<(MediumName, Option<String>)> {
        let state = self.state();
        (state.step == Step::Ejected).then(|| (state.current.label.named(), state.why_not.clone()))
    }

    /// The media that are there, each by itself.
    pub(super) fn stores(&self) -> Vec<Arc<dyn Store>> {
        let held = self.media().into_iter();
        held.filter(|held| {
            held.store.list().is_ok_and(|objects| {
                objects
                    .iter()
                    .any(|object| volume_of(&object.name) == Some(self.uuid.as_str()))
            })
        })
        .map(|held| held.store)
        .collect()
    }

    /// The volume that they hold.
    pub(super) fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The media that hold it, as far as they were there: the one that is written to first.
    pub(super) fn media(&self) -> Vec<Held> {
        let state = self.state();
        [state.current.clone()]
            .into_iter()
            .chain(state.earlier.iter().cloned())
            .collect()
    }

    /// Writes what the next medium is to carry, where it is kept until then.
    fn prepare(&self, next_index: u64) -> Result<()> {
        forget(&self.host, &self.host_dir)?;
        if next_index <= 1 {
            return Ok(());
        }
        let reader = Reader::open(self.stores())?;
        let journals = reader.volume(Some(&self.uuid))?;
        let ends_there = |journal: &&journal::Journal| {
            let last = journal.all_segments().last();
            last.is_some_and(|segment| segment.manifest.index + 1 == next_index)
        };
        let journal = journals
            .into_iter()
            .rfind(ends_there)
            .context("the journal does not end where it was written to")?;
        write_index(journal, next_index, &self.host)?;
        Ok(())
    }

    /// Looks for the next medium, and puts on it what it is to carry.
    fn take_next(&self, next_index: u64) -> Result<Held> {
        let current = self.current();
        let mut why = Vec::new();
        for path in &self.places.paths {
            match self.fit(path, &current, next_index) {
                Ok(held) => {
                    self.give_index(&held, next_index)
                        .with_context(|| format!("put the index on medium {}", held.label.named()))?;
                    return Ok(held);
                }
                Err(error) => why.push(format!("{}: {error:#}", path.display())),
            }
        }
        let of_pool = match current.label.pool.as_str() {
            "" => String::new(),
            pool => format!(" of pool {pool}"),
        };
        Err(anyhow::anyhow!(
            "the next medium{of_pool} is needed ({}): label an empty one with `recorder media label DIR`, and mount it there",
            why.join("; ")
        ))
    }

    /// Puts on a medium what it is to carry. Where that could not be written before, it is tried once more; without it, the journal can go on only
    /// while the medium before is there, and says so itself.
    fn give_index(&self, held: &Held, next_index: u64) -> Result<()> {
        if next_index <= 1 {
            return Ok(());
        }
        if !self.is_prepared(next_index)?
            && let Err(error) = self.prepare(next_index)
        {
            tracing::error!(
                "medium {} does not carry what is on those before: {error:#}",
                held.label.named()
            );
            return Ok(());
        }
        copy_index(&self.uuid, next_index, &self.host, &*held.store)?;
        Ok(())
    }

    /// Whether what the next medium is to carry is written, and of all that is sealed.
    fn is_prepared(&self, next_index: u64) -> Result<bool> {
        let name = format!("{}/{next_index:010}.index", self.uuid);
        Ok(self.host.list()?.iter().any(|object| object.name == name))
    }

    /// The medium at a place, if it can be the next one.
    fn fit(&self, path: &Path, current: &Held, next_index: u64) -> Result<Held> {
        let store = self.places.open(path)?;
        check_room(&store)?;
        let label = Label::read(&store)?.context("no label")?;
        let named = label.named();
        ensure!(
            label.medium != current.label.medium,
            "medium {named} takes nothing more"
        );
        ensure!(!label.copies, "medium {named} is for copies");
        ensure!(
            label.pool == current.label.pool,
            "medium {named} is of pool {:?}, not {:?}",
            label.pool,
            current.label.pool
        );
        ensure!(
            label.format == journal::FORMAT_VERSION,
            "medium {named} has format {}",
            label.format
        );
        let carried = format!("{}/{next_index:010}.index", self.uuid);
        let holds = store
            .list()?
            .iter()
            .any(|object| volume_of(&object.name) == Some(self.uuid.as_str()) && object.name != carried);
        ensure!(!holds, "medium {named} holds segments of this volume already");
        Ok(Held::new(store, label, path))
    }
}

impl Changer for Shelf {
    fn is_ejecting(&self) -> bool {
        self.state().step == Step::Ejecting
    }

    fn is_over(&self) -> bool {
        self.state().step == Step::Ejected
    }

    fn finish(&self, next_index: u64, is_full: bool) {
        let step = {
            let state = self.state();
            match (state.step, is_full) {
                (Step::Ejecting, _) => Step::Ejected,
                (Step::Writing, true) => Step::Full,
                _ => return,
            }
        };
        if let Err(error) = self.prepare(next_index) {
            tracing::error!(
                "what the next medium is to carry of those before cannot be written: {error:#}; it is tried again when that is there"
            );
        }
        let mut state = self.state();
        state.step = step;
        tracing::warn!(
            "medium {} at {} takes nothing more",
            state.current.label.named(),
            state.current.path.display()
        );
    }

    fn change(&self, next_index: u64) -> bool {
        if !matches!(self.state().step, Step::Full | Step::Ejected) {
            return false;
        }
        match self.take_next(next_index) {
            Ok(held) => {
                let mut state = self.state();
                tracing::warn!(
                    "goes on on medium {} at {}",
                    held.label.named(),
                    held.path.display()
                );
                let before = std::mem::replace(&mut state.current, held);
                state.earlier.push(before);
                (state.step, state.why_not) = (Step::Writing, None);
                drop(state);
                if let Err(error) = forget(&self.host, &self.host_dir) {
                    tracing::error!("{error:#}");
                }
                true
            }
            Err(error) => {
                self.state().why_not = Some(format!("{error:#}"));
                false
            }
        }
    }

    fn why_not(&self) -> Option<String> {
        self.state().why_not.clone()
    }
}

impl Store for Shelf {
    fn create(&self, name: &str, kind: ObjectKind) -> io::Result<Box<dyn Append>> {
        let (current, earlier) = {
            let state = self.state();
            if state.step == Step::Ejected {
                let named = state.current.label.named();
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("medium {named} was ejected: the next one is needed"),
                ));
            }
            (state.current.clone(), state.earlier.clone())
        };
        // A segment that never got its manifest may lie on an earlier medium: its number is void.
        if earlier.iter().any(|held| held.store.open(name).is_ok()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        current.store.create(name, kind)
    }

    fn list(&self) -> io::Result<Vec<ObjectInfo>> {
        let mut media = self.media().into_iter();
        let mut objects = media
            .next()
            .map_or_else(|| Ok(Vec::new()), |current| current.store.list())?;
        for earlier in media {
            // One that is away is not needed: the current medium carries what is to be known of it.
            let there = earlier.store.list().unwrap_or_default();
            objects.extend(there.into_iter().filter(|object| object.name.contains('/')));
        }
        objects.sort_unstable();
        objects.dedup_by(|a, b| a.name == b.name);
        Ok(objects)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        let mut media = self.media().into_iter();
        let first = media.next().map(|current| current.store.open(name));
        let of_medium = !name.contains('/');
        match first {
            Some(Err(error)) if !of_medium && error.kind() == io::ErrorKind::NotFound => {
                media.find_map(|held| held.store.open(name).ok()).ok_or(error)
            }
            Some(opened) => opened,
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn make_durable(&self, name: &str) -> io::Result<()> {
        let mut result = Err(io::ErrorKind::NotFound.into());
        for held in self.media() {
            result = held.store.make_durable(name);
            match &result {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
        result
    }

    fn bytes_free(&self) -> io::Result<Option<u64>> {
        self.current().store.bytes_free()
    }

    fn describe(&self) -> String {
        self.current().store.describe()
    }
}

/// Removes what was kept for the next medium: once that has it, or the journal has gone on on another one, it would lead to a second end.
pub(super) fn forget(host: &DirStore, host_dir: &Path) -> Result<()> {
    for stale in host.list()? {
        let path = host_dir.join(&stale.name);
        SystemDisk
            .remove(&path)
            .with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// A directory that keeps what the next medium is to carry.
pub(super) fn host_directory(spool_dir: &Path) -> Result<PathBuf> {
    let path = spool_dir.join("carried");
    fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    Ok(path)
}
