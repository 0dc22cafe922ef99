//! Rounds of copying: what is missing in each pool, one segment after the other, the same one to all pools before the next.
//!
//! Owns what becomes of a copy that fails. It waits for nobody: what cannot be copied now is said, and tried in the next round.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use journal::store::Copied;
use journal::{Error, Manifest, copy_carried, copy_segment, make_manifest_durable};

use super::super::shelf::Shelf;
use super::sealed::{Key, Sealed};
use super::targets::{Open, Target, Targets};
use crate::media;
use crate::pulse::{self, Place};
use crate::status::{CopiesStatus, PlaceStatus, PoolStatus, bytes as human};

/// Room that is to be left beside a segment: for its manifest, and for what a file system needs.
const ROOM_BYTES: u64 = 1 << 20;
/// So many copies to a pool that fail in a row, and it is left alone for a while: one may be for what is copied, more are for the medium.
const FAILURES_MAX: u32 = 3;
/// For how long: each try reads the medium that is written to.
const FAILED_RETRY: Duration = Duration::from_secs(30);
/// Time between two writes of the catalog.
const ENTER_INTERVAL: Duration = Duration::from_secs(10);
/// Time between two looks at the places.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Time between two reports while copies are made.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// How often it is asked, a tenth of a second apart, whether somebody else is done with a medium.
const HOLD_TRIES: u32 = 50;

/// What a copier asks while it works. It calls nobody else.
pub(super) trait Orders {
    /// Whether it is to go on with what it reads or writes at this place.
    fn go_on(&self, at: &Path) -> bool;
    /// Whether a place is to be let go, or all of it is to end: a round ends at once.
    fn is_called(&self) -> bool;
    /// Whether something new is sealed: a round ends after a copy.
    fn is_news(&self) -> bool;
    /// Whether somebody waits for the end of this round, and for what the catalog says then.
    fn is_awaited(&self) -> bool;
    /// Why no copy is to be made now.
    fn wait(&self) -> Option<String>;
    /// How far it is.
    fn report(&self, status: CopiesStatus);
}

/// A pool that copies are made to.
#[derive(Default)]
struct Pool {
    missing: BTreeSet<Key>,
    missing_bytes: u64,
    /// Why something is missing, in this round.
    waits: Option<String>,
    /// What was said of it last.
    said: Option<String>,
    /// No medium takes a copy in this round.
    is_given_up: bool,
    /// Copies that failed in a row, and the last of them.
    failures: u32,
    failed: Option<(Instant, String)>,
}

impl Pool {
    /// Why it is left alone for a while.
    fn is_paused(&self) -> Option<String> {
        let (since, why) = self.failed.as_ref()?;
        (self.failures >= FAILURES_MAX && since.elapsed() < FAILED_RETRY).then(|| why.clone())
    }
}

/// Copies what is sealed of a volume.
pub(super) struct Copier {
    uuid: String,
    shelf: Arc<Shelf>,
    sealed: Sealed,
    targets: Targets,
    pools: BTreeMap<String, Pool>,
    /// When the places were looked at.
    looked: Option<Instant>,
    /// When the catalog was written.
    entered: Instant,
    /// Since when there is no pool.
    without_pool: Option<Instant>,
    reported: Instant,
    /// What keeps the catalog from being read, and from being written.
    unread: Option<String>,
    unwritten: Option<String>,
}

impl Copier {
    /// For a volume whose journal goes on in this chain.
    pub(super) fn new(
        shelf: Arc<Shelf>,
        chain: &str,
        catalog: &Path,
        places: Vec<PathBuf>,
        open: Open,
    ) -> Self {
        let uuid = shelf.uuid().to_owned();
        Self {
            sealed: Sealed::new(&uuid, chain),
            targets: Targets::new(&uuid, catalog, places, open),
            uuid,
            shelf,
            pools: BTreeMap::new(),
            looked: None,
            entered: Instant::now(),
            without_pool: Some(Instant::now()),
            reported: Instant::now(),
            unread: None,
            unwritten: None,
        }
    }

    /// Makes the copies that are missing; false where it was called away before it had tried all of them.
    pub(super) fn round(&mut self, orders: &dyn Orders) -> bool {
        self.look(orders);
        let mut plan: Vec<(Key, String)> = Vec::new();
        for (name, pool) in &self.pools {
            plan.extend(pool.missing.iter().map(|key| (key.clone(), name.clone())));
        }
        plan.sort_by(|(a, pool), (b, other)| {
            (self.sealed.order(a), pool).cmp(&(self.sealed.order(b), other))
        });
        let mut has_copied = false;
        for (key, name) in plan {
            pulse::beat();
            self.look_at_left();
            // Where something is sealed all the time, too, a round gets on.
            if orders.is_called() || (has_copied && orders.is_news()) {
                orders.report(self.status());
                return false;
            }
            match orders.wait() {
                Some(why) => self.wait(&name, why),
                None => has_copied |= self.one(&key, &name, orders),
            }
            if self.entered.elapsed() > ENTER_INTERVAL {
                self.enter();
            }
            if self.reported.elapsed() > REPORT_INTERVAL {
                self.reported = Instant::now();
                orders.report(self.status());
            }
        }
        if orders.is_awaited() || self.entered.elapsed() > ENTER_INTERVAL {
            self.enter();
        }
        self.say();
        orders.report(self.status());
        true
    }

    /// Whether something is missing.
    pub(super) fn is_behind(&self) -> bool {
        self.trouble().is_some() || self.pools.values().any(|pool| !pool.missing.is_empty())
    }

    /// What keeps all pools back.
    fn trouble(&self) -> Option<String> {
        let catalog = self.unread.as_ref().or(self.unwritten.as_ref());
        catalog.cloned().or_else(|| self.sealed.unread())
    }

    /// Lets go of a place until something else is there.
    pub(super) fn leave(&mut self, path: &Path) {
        self.enter();
        self.targets.leave(path);
    }

    /// Looks whether something else is at the places that were left.
    pub(super) fn look_at_left(&mut self) {
        self.targets.look_at_left();
    }

    /// What is sealed, what is at the places, and what is missing.
    fn look(&mut self, orders: &dyn Orders) {
        let is_due = |looked: Instant| looked.elapsed() > LOOK_INTERVAL;
        if orders.is_awaited() || self.looked.is_none_or(is_due) {
            let own_pool = self.shelf.current().label.pool;
            let looked = self.targets.look(&own_pool);
            self.unread = looked.err().map(|error| format!("{error:#}"));
            self.looked = Some(Instant::now());
        }
        let targets = &self.targets;
        let in_use = self.shelf.media().into_iter();
        let in_use = in_use.filter(|held| !targets.retired.contains(&held.label.medium));
        let left = |path: &Path| targets.is_left(path);
        self.sealed
            .look(in_use.collect(), left, |path| orders.go_on(path));
        let names = targets.pools();
        self.without_pool = names
            .is_empty()
            .then(|| self.without_pool.unwrap_or_else(Instant::now));
        self.pools.retain(|name, _| names.contains(name));
        for name in names {
            let pool = self.pools.entry(name.clone()).or_default();
            let keys = self.sealed.segments.iter();
            let missing = keys.filter(|(key, _)| !targets.has(&name, key));
            let missing = missing.filter(|(_, segment)| !targets.retired.contains(&segment.medium));
            (pool.missing, pool.missing_bytes) = (BTreeSet::new(), 0);
            for (key, segment) in missing {
                pool.missing.insert(key.clone());
                pool.missing_bytes += segment.bytes;
            }
            (pool.waits, pool.is_given_up) = (None, false);
        }
    }

    fn wait(&mut self, name: &str, why: String) {
        if let Some(pool) = self.pools.get_mut(name) {
            pool.waits.get_or_insert(why);
        }
    }

    /// Copies one segment to one pool, if that takes it; whether that was tried.
    fn one(&mut self, key: &Key, name: &str, orders: &dyn Orders) -> bool {
        let pool = self.pools.get(name).filter(|pool| !pool.is_given_up);
        let Some(paused) = pool.map(Pool::is_paused) else {
            return false;
        };
        if let Some(why) = paused {
            self.wait(name, why);
            return false;
        }
        // What keeps all of them back is said rather than what keeps one.
        let target = match self.targets.next(name) {
            Ok(target) => target,
            Err(why) => {
                self.give_up(name);
                self.wait(name, why);
                return false;
            }
        };
        if let Some(why) = self.sealed.why_not(key) {
            self.wait(name, why);
            return false;
        }
        match self.copy(key, &target, orders) {
            Ok((manifest, Copied::Now(_) | Copied::There)) => self.took(key, name, &target, &manifest),
            Ok((_, Copied::Another)) => {
                let why = format!(
                    "medium {} holds another segment {} of this volume, of a chain of its own",
                    target.label.named(),
                    key.index
                );
                self.targets.fill(&target, why);
                return self.one(key, name, orders);
            }
            Err(Error::MediumFull(_)) => {
                self.targets
                    .fill(&target, format!("medium {} is full", target.label.named()));
                return self.one(key, name, orders);
            }
            Err(Error::Integrity(why)) => {
                tracing::error!("copies of pool {name}: {why}");
                self.sealed.damage(key, why.clone());
                self.wait(name, why);
            }
            Err(error) => self.failed(key, name, &target, &error),
        }
        true
    }

    fn took(&mut self, key: &Key, name: &str, target: &Target, manifest: &Manifest) {
        self.targets.take(target, manifest);
        if let Some(pool) = self.pools.get_mut(name) {
            (pool.failures, pool.failed) = (0, None);
            if pool.missing.remove(key) {
                let bytes = self.sealed.segments.get(key).map_or(0, |segment| segment.bytes);
                pool.missing_bytes = pool.missing_bytes.saturating_sub(bytes);
            }
        }
    }

    /// A medium failed, that for copies or the one that is read.
    fn failed(&mut self, key: &Key, name: &str, target: &Target, error: &Error) {
        let source = self.sealed.source(key).map(|(source, _)| &source.held);
        // One that is gone says so with every call; what cannot be read on one that is there is left for the next round.
        if target.store.list().is_err() {
            self.targets.drop(target, &error.to_string());
            self.forgive(name);
        } else if source.is_none_or(|source| source.store.list().is_ok())
            && let Some(pool) = self.pools.get_mut(name)
        {
            pool.failures += 1;
            pool.failed = Some((Instant::now(), error.to_string()));
        }
        self.wait(name, error.to_string());
    }

    fn give_up(&mut self, name: &str) {
        if let Some(pool) = self.pools.get_mut(name) {
            pool.is_given_up = true;
        }
        self.forgive(name);
    }

    /// The medium that failed is not there any more: what comes is tried at once.
    fn forgive(&mut self, name: &str) {
        if let Some(pool) = self.pools.get_mut(name) {
            (pool.failures, pool.failed) = (0, None);
        }
    }

    fn copy(
        &mut self,
        key: &Key,
        target: &Target,
        orders: &dyn Orders,
    ) -> journal::Result<(Manifest, Copied)> {
        let gone = || Error::MediumNeeded("what it lies on is not there".to_owned());
        let (source, carried) = self.sealed.source(key).ok_or_else(gone)?;
        let bytes = self.sealed.segments.get(key).map_or(0, |segment| segment.bytes);
        let from = Arc::clone(&source.held.store);
        let source_path = source.held.path.clone();
        let _held = hold(target)?;
        let free = target.store.bytes_free().unwrap_or_default();
        if free.is_some_and(|free| free < bytes + ROOM_BYTES) {
            return Err(Error::MediumFull(human(bytes)));
        }
        let go_on = || orders.go_on(&target.path) && orders.go_on(&source_path);
        // What tells of the media before goes first, as on the medium that it is copied from.
        if let Some(next_index) = carried.filter(|next_index| !target.carried.contains(next_index)) {
            match copy_carried((&self.uuid, next_index), &from, &*target.store, &go_on) {
                Ok(_) => self.targets.carry(target, next_index),
                Err(Error::Integrity(why)) => {
                    // It costs what only it tells of, and no segment.
                    tracing::error!("copies of pool {}: {why}", target.label.pool);
                    self.targets.carry(target, next_index);
                }
                Err(error) => return Err(error),
            }
        }
        make_manifest_durable(&*from, &self.uuid, key.index)?;
        copy_segment((&self.uuid, key.index), &*from, &*target.store, &go_on)
    }

    /// Enters what was copied, and what it was copied from, into the catalog.
    fn enter(&mut self) {
        self.entered = Instant::now();
        let sources = self.sealed.changed();
        if sources.is_empty() && !self.targets.is_changed() {
            return;
        }
        let entered = self.targets.enter(sources);
        if entered.is_ok() {
            self.sealed.entered();
        }
        self.unwritten = entered.err().map(|error| format!("{error:#}"));
    }

    /// Says what is new of a pool: why it waits, or that it does not any more.
    fn say(&mut self) {
        for (name, pool) in &mut self.pools {
            if pool.said == pool.waits {
                continue;
            }
            match &pool.waits {
                Some(why) => tracing::warn!(
                    "copies of pool {name}: {} segments wait: {why}",
                    pool.missing.len()
                ),
                None => tracing::warn!("copies of pool {name} go on"),
            }
            pool.said.clone_from(&pool.waits);
        }
    }

    /// For `recorder status`.
    fn status(&self) -> CopiesStatus {
        let pools = self.pools.iter().map(|(name, pool)| self.pool_status(name, pool));
        let place = |(path, why): (&PathBuf, &String)| PlaceStatus {
            path: path.display().to_string(),
            why: why.clone(),
        };
        CopiesStatus {
            pools: pools.collect(),
            places: self.targets.why_not.iter().map(place).collect(),
            without_pool_s: self.without_pool.map_or(0, |since| since.elapsed().as_secs()),
            trouble: self.trouble(),
        }
    }

    fn pool_status(&self, name: &str, pool: &Pool) -> PoolStatus {
        let (segment, seq) = self.sealed.up_to(&pool.missing);
        let medium = self.targets.newest(name, self.sealed.chain(), segment);
        let found = pool
            .missing
            .iter()
            .filter_map(|key| self.sealed.segments.get(key));
        let oldest = found.map(|segment| segment.found).min();
        PoolStatus {
            pool: name.to_owned(),
            medium: medium.name,
            uuid: medium.uuid,
            there: self.targets.there(name),
            segment,
            seq,
            segments_behind: pool.missing.len() as u64,
            bytes_behind: pool.missing_bytes,
            behind_s: oldest.map_or(0, |oldest| oldest.elapsed().as_secs()),
            waits: pool.waits.clone().filter(|_| !pool.missing.is_empty()),
        }
    }
}

/// Holds a medium as the one who writes to it: several volumes may be copied to one.
fn hold(target: &Target) -> journal::Result<File> {
    let named = target.label.named();
    for _ in 0..HOLD_TRIES {
        let held = {
            let _medium = pulse::at(Place::Copies);
            media::hold(&target.path)
        };
        match held {
            Ok(Some(held)) => return Ok(held),
            Ok(None) => std::thread::sleep(Duration::from_millis(100)),
            Err(error) => return Err(Error::MediumNeeded(format!("{error:#}"))),
        }
        pulse::beat();
    }
    Err(Error::MediumNeeded(format!(
        "somebody else copies to medium {named}"
    )))
}
