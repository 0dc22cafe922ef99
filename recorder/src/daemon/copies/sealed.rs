//! What is sealed of the volume, and where: on the media that its journal was written to, as far as they are there.
//!
//! Each manifest is read once; after that a list of names shows what is new. Owns the order in which copies are made. Bounded by what lies on the
//! media that are there: some hundred bytes a segment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use journal::{Copyable, Error, Manifest, sealed_manifest};

use super::super::shelf::Held;
use crate::media;
use crate::media::catalog::Medium;

/// Time until what was found damaged is tried again.
const DAMAGED_RETRY: Duration = Duration::from_secs(600);

/// A segment in its chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) chain: String,
    pub(super) index: u64,
}

/// A sealed segment.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) epoch: u64,
    /// Its last number; `None` of a checkpoint, which has numbers of its own.
    pub(super) last_seq: Option<u64>,
    pub(super) bytes: u64,
    /// When it was found here.
    pub(super) found: Instant,
    /// Uuid of the medium that it lies on.
    pub(super) medium: String,
}

/// A medium that the journal was written to.
pub(super) struct Source {
    pub(super) held: Held,
    /// What of it was seen.
    pub(super) seen: Copyable,
    /// For the catalog, and whether that knows it.
    entry: Medium,
    is_changed: bool,
    /// Why nothing can be read there now.
    pub(super) away: Option<String>,
}

/// Everything that is sealed, as far as it was seen.
pub(super) struct Sealed {
    uuid: String,
    /// The chain that is being written.
    chain: String,
    pub(super) segments: BTreeMap<Key, Segment>,
    pub(super) sources: BTreeMap<String, Source>,
    /// What is not as it was sealed, since when and why.
    damaged: BTreeMap<Key, (Instant, String)>,
    /// Manifests that cannot be read, by medium and index: since when and why.
    unread: BTreeMap<(String, u64), (Instant, String)>,
    /// The newest segment of the chain at the first look: what comes after it goes first.
    first_looked: Option<u64>,
}

impl Sealed {
    pub(super) fn new(uuid: &str, chain: &str) -> Self {
        Self {
            uuid: uuid.to_owned(),
            chain: chain.to_owned(),
            segments: BTreeMap::new(),
            sources: BTreeMap::new(),
            damaged: BTreeMap::new(),
            unread: BTreeMap::new(),
            first_looked: None,
        }
    }

    /// The chain that is being written.
    pub(super) fn chain(&self) -> &str {
        &self.chain
    }

    /// Looks what these media have that was not seen yet, as long as it is to go on at their places. Those at a place for which `left` has a word
    /// are not touched.
    pub(super) fn look(
        &mut self,
        media: Vec<Held>,
        left: impl Fn(&Path) -> Option<String>,
        go_on: impl Fn(&Path) -> bool,
    ) {
        for held in media {
            let uuid = held.label.medium.clone();
            let away = match left(&held.path) {
                Some(why) => Some(why),
                None => {
                    let looked = self.look_at(&held, || go_on(&held.path));
                    looked.err().map(|error| format!("{error:#}"))
                }
            };
            if let Some(source) = self.sources.get_mut(&uuid) {
                source.away = away;
            }
        }
        let newest = self.segments.keys().rfind(|key| key.chain == self.chain);
        let newest = newest.map_or(0, |key| key.index);
        self.first_looked.get_or_insert(newest);
    }

    fn look_at(&mut self, held: &Held, go_on: impl Fn() -> bool) -> anyhow::Result<()> {
        let objects = held.store.list()?;
        let there = Copyable::of(&objects, &self.uuid);
        let medium = held.label.medium.as_str();
        if !self.sources.contains_key(medium) {
            let source = Source {
                held: held.clone(),
                seen: Copyable::default(),
                entry: media::look(Arc::clone(&held.store), &held.label)?,
                is_changed: true,
                away: None,
            };
            self.sources.insert(medium.to_owned(), source);
        }
        let seen = |sealed: &Self| sealed.sources.get(medium).map(|source| source.seen.clone());
        let before = seen(self).unwrap_or_default().segments;
        for &index in there.segments.difference(&before) {
            if self.is_put_off(medium, index) {
                continue;
            }
            if !go_on() {
                break;
            }
            match sealed_manifest(&*held.store, &self.uuid, index) {
                Ok(manifest) => self.take(medium, &manifest),
                Err(Error::Integrity(why)) => {
                    self.unread
                        .insert((medium.to_owned(), index), (Instant::now(), why));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(source) = self.sources.get_mut(medium) {
            source.seen.carried = there.carried;
        }
        Ok(())
    }

    fn is_put_off(&self, medium: &str, index: u64) -> bool {
        self.unread
            .get(&(medium.to_owned(), index))
            .is_some_and(|(since, _)| since.elapsed() < DAMAGED_RETRY)
    }

    fn take(&mut self, medium: &str, manifest: &Manifest) {
        let chain = &manifest.chain;
        let key = |index| Key {
            chain: chain.clone(),
            index,
        };
        // What they hold was written again: a reader ignores them.
        for &void in &manifest.void_indexes {
            self.segments.remove(&key(void));
        }
        self.unread.remove(&(medium.to_owned(), manifest.index));
        let segment = Segment {
            epoch: manifest.epoch,
            last_seq: manifest.checkpoint.is_none().then_some(manifest.last_seq),
            bytes: manifest.bytes,
            found: Instant::now(),
            medium: medium.to_owned(),
        };
        self.segments.entry(key(manifest.index)).or_insert(segment);
        if let Some(source) = self.sources.get_mut(medium) {
            source.seen.segments.insert(manifest.index);
            source.entry.take(manifest);
            source.is_changed = true;
        }
    }

    /// What the catalog does not know yet of the media.
    pub(super) fn changed(&self) -> Vec<Medium> {
        let changed = self.sources.values().filter(|source| source.is_changed);
        changed.map(|source| source.entry.clone()).collect()
    }

    /// The catalog knows everything that was seen.
    pub(super) fn entered(&mut self) {
        for source in self.sources.values_mut() {
            source.is_changed = false;
        }
    }

    /// The medium that a segment lies on, and the newest index on it that tells of what came before the segment.
    pub(super) fn source(&self, key: &Key) -> Option<(&Source, Option<u64>)> {
        let segment = self.segments.get(key)?;
        let source = self.sources.get(&segment.medium)?;
        let carried = source.seen.carried.range(..=key.index).next_back();
        Some((source, carried.copied()))
    }

    /// In which order copies are made: what is sealed now is not to wait for all that was sealed before this recorder came.
    pub(super) fn order<'k>(&self, key: &'k Key) -> (bool, bool, &'k Key) {
        let is_other = key.chain != self.chain;
        let is_from_before = is_other || key.index <= self.first_looked.unwrap_or(u64::MAX);
        (is_from_before, is_other, key)
    }

    /// A segment is not what was sealed.
    pub(super) fn damage(&mut self, key: &Key, why: String) {
        self.damaged.insert(key.clone(), (Instant::now(), why));
    }

    /// Why a segment cannot be copied now.
    pub(super) fn why_not(&self, key: &Key) -> Option<String> {
        if let Some((since, why)) = self.damaged.get(key)
            && since.elapsed() < DAMAGED_RETRY
        {
            return Some(why.clone());
        }
        let segment = self.segments.get(key)?;
        let source = self.sources.get(&segment.medium)?;
        let why = source.away.as_ref()?;
        let named = source.held.label.named();
        Some(format!(
            "segments lie on medium {named}, which cannot be read: {why}"
        ))
    }

    /// What cannot be told of at all: manifests that are not what was sealed.
    pub(super) fn unread(&self) -> Option<String> {
        self.unread.values().next().map(|(_, why)| why.clone())
    }

    /// Everything of the chain that is being written, up to a segment: its last segment, and the last number of its newest epoch.
    pub(super) fn up_to(&self, missing: &BTreeSet<Key>) -> (u64, u64) {
        let of_chain = |key: &&Key| key.chain == self.chain;
        let first_missing = missing.iter().find(of_chain).map_or(u64::MAX, |key| key.index);
        let newest_epoch = self.segments.iter().rfind(|(key, _)| of_chain(key));
        let newest_epoch = newest_epoch.map_or(0, |(_, segment)| segment.epoch);
        let mut copied = self
            .segments
            .iter()
            .filter(|(key, _)| of_chain(key) && key.index < first_missing);
        let index = copied.clone().next_back().map_or(0, |(key, _)| key.index);
        let seq = copied
            .rfind(|(_, segment)| segment.last_seq.is_some())
            .filter(|(_, segment)| segment.epoch == newest_epoch);
        (index, seq.and_then(|(_, segment)| segment.last_seq).unwrap_or(0))
    }
}
