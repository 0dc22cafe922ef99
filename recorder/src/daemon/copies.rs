//! Copies: the thread that brings what is sealed of a volume to media for copies, one copy to each pool of those that are there.
//!
//! Owns how it is told what is new, waited for, and ended: it is only ever told *that* something is, looks for what, and nobody who records waits for
//! it. What is copied, and in which order, is `copier` and `sealed`; to which medium, `targets`.

mod copier;
mod sealed;
mod targets;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use self::copier::{Copier, Orders};
use super::places::Places;
use super::volume::{STOP_INTERVAL, Session};
use crate::cli::exit::{MEDIUM_NEEDED, coded};
use crate::media::catalog;
use crate::pipeline::Handle;
use crate::pulse;
use crate::status::CopiesStatus;

/// Time between two rounds where something is missing that cannot be copied now.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Time between two rounds where nothing is.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// How long an eject waits for the copies of what was sealed last.
pub(super) const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the end waits for them.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How long whoever lets go of a medium waits for the call that is under way.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Default)]
struct State {
    status: CopiesStatus,
    /// Rounds that were asked for, and those of them that are done.
    asked: u64,
    done: u64,
    /// Places that are to be let go.
    leaving: BTreeSet<PathBuf>,
    /// When it is to end at the latest.
    ends: Option<Instant>,
    is_over: bool,
}

/// What the thread and those who ask it share. No call to a disk is made while it is locked.
pub(super) struct Copies {
    pub(super) places: Vec<PathBuf>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Copies {
    /// For these places; `None` where there are none.
    pub(super) fn to(places: &[PathBuf]) -> Option<Arc<Self>> {
        (!places.is_empty()).then(|| {
            Arc::new(Self {
                places: places.to_owned(),
                state: Mutex::default(),
                changed: Condvar::new(),
            })
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it is.
    pub(super) fn status(&self) -> CopiesStatus {
        self.lock().status.clone()
    }

    fn wait_until(&self, timeout: Duration, done: impl Fn(&State) -> bool) -> bool {
        let wait = |state: &mut State| !state.is_over && !done(state);
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, wait)
            .unwrap_or_else(PoisonError::into_inner);
        done(&state)
    }

    /// Waits until everything that is sealed now has its copies, as far as that is possible now, and the catalog says so; no longer than this.
    pub(super) fn settle(&self, timeout: Duration) {
        let asked = {
            let mut state = self.lock();
            state.asked += 1;
            state.asked
        };
        self.changed.notify_all();
        self.wait_until(timeout, |state| state.done >= asked);
    }

    /// Reads and writes nothing at a place any more, until something else is there.
    ///
    /// # Errors
    /// Where a call to a medium does not come back.
    pub(super) fn leave(&self, path: &Path) -> Result<()> {
        self.lock().leaving.insert(path.to_owned());
        self.changed.notify_all();
        let has_left = self.wait_until(LEAVE_TIMEOUT, |state| !state.leaving.contains(path));
        ensure!(
            has_left || self.lock().is_over,
            "the medium at {} is still in use for copies: see `recorder status`",
            path.display()
        );
        Ok(())
    }

    /// Ends the thread, once what is sealed has its copies, or so long after.
    pub(super) fn end(&self, patience: Duration) {
        self.lock().ends = Some(Instant::now() + patience);
        self.changed.notify_all();
    }

    /// Makes copies until it is told to end. `news` counts what is sealed; `wait` says why nothing is to be copied now.
    fn run(&self, mut copier: Copier, news: &dyn Fn() -> u64, wait: &dyn Fn() -> Option<String>) {
        let _over = Over(self);
        let mut next = Instant::now();
        let mut heard = 0;
        loop {
            pulse::beat();
            let (asked, done, leaving, ends) = {
                let state = self.lock();
                (state.asked, state.done, state.leaving.clone(), state.ends)
            };
            for path in leaving {
                copier.leave(&path);
                self.lock().leaving.remove(&path);
                self.changed.notify_all();
            }
            copier.look_at_left();
            let count = news();
            if Instant::now() >= next || count != heard || asked != done || ends.is_some() {
                heard = count;
                let orders = Told {
                    copies: self,
                    news,
                    wait,
                    heard,
                    is_awaited: asked != done || ends.is_some(),
                };
                let is_whole = copier.round(&orders);
                let interval = if copier.is_behind() {
                    RETRY_INTERVAL
                } else {
                    IDLE_INTERVAL
                };
                next = Instant::now() + interval;
                if is_whole {
                    self.lock().done = asked;
                    self.changed.notify_all();
                }
                if ends.is_some_and(|ends| is_whole || Instant::now() >= ends) {
                    return;
                }
            }
            let state = self.lock();
            // Whoever waits wakes it; what is sealed does not, and is looked for.
            let _woken = self.changed.wait_timeout_while(state, STOP_INTERVAL, |state| {
                state.asked == state.done && state.leaving.is_empty() && state.ends.is_none()
            });
        }
    }
}

/// Tells whoever waits that the thread is gone, however it went.
struct Over<'a>(&'a Copies);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_all();
    }
}

struct Told<'a> {
    copies: &'a Copies,
    news: &'a dyn Fn() -> u64,
    wait: &'a dyn Fn() -> Option<String>,
    heard: u64,
    is_awaited: bool,
}

impl Orders for Told<'_> {
    fn go_on(&self, at: &Path) -> bool {
        let state = self.copies.lock();
        !state.leaving.contains(at) && state.ends.is_none_or(|ends| Instant::now() < ends)
    }

    fn is_called(&self) -> bool {
        let state = self.copies.lock();
        !state.leaving.is_empty() || state.ends.is_some_and(|ends| Instant::now() >= ends)
    }

    fn is_news(&self) -> bool {
        (self.news)() != self.heard
    }

    fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    fn wait(&self) -> Option<String> {
        (self.wait)()
    }

    fn report(&self, status: CopiesStatus) {
        self.copies.lock().status = status;
    }
}

impl Session {
    /// Makes copies until the recording ends.
    pub(super) fn make_copies(&self, copies: &Copies, places: Places) {
        let open = Box::new(move |path: &Path| places.open(path));
        let copier = Copier::new(
            Arc::clone(&self.shelf),
            self.sink.handle.chain(),
            Path::new(catalog::PATH),
            copies.places.clone(),
            open,
        );
        let news = || self.sink.handle.segments();
        copies.run(copier, &news, &|| {
            recording_first(&self.sink.handle, self.spool_bytes_max)
        });
    }

    /// Ends the thread that makes copies. A medium for copies that does not come back from a call is not waited for.
    pub(super) fn end_copies(&self, copier: &JoinHandle<()>) {
        if let Some(copies) = &self.copies {
            copies.end(END_TIMEOUT);
        }
        let begin = Instant::now();
        while !copier.is_finished() && begin.elapsed() < 2 * END_TIMEOUT {
            std::thread::sleep(STOP_INTERVAL);
        }
        if !copier.is_finished() {
            tracing::error!(
                "{}: a medium for copies does not come back from a call: it is left alone",
                self.path.display()
            );
        }
    }

    /// Ends copying to the medium for copies at a place, once it has what is sealed now. `None` where the place is none for copies of this volume.
    pub(super) fn eject_copies(&self, at: &Path) -> Option<Result<Value>> {
        let copies = self.copies.as_ref()?;
        let same = |place: &&PathBuf| fs::canonicalize(place).is_ok_and(|place| place == at);
        let place = copies.places.iter().find(same)?;
        Some(self.eject_from(copies, place))
    }

    fn eject_from(&self, copies: &Copies, place: &Path) -> Result<Value> {
        copies.settle(SETTLE_TIMEOUT);
        let named = place.display().to_string();
        let CopiesStatus { pools, places, .. } = copies.status();
        let why_not = || {
            let why = places
                .into_iter()
                .find(|place| place.path == named)
                .map(|place| place.why);
            coded(
                MEDIUM_NEEDED,
                format!("no medium for copies is at {named}: {}", why.unwrap_or_default()),
            )
        };
        let (medium, pool) = pools
            .into_iter()
            .find_map(|pool| {
                let there = pool.there.iter().find(|there| there.path == named);
                there
                    .map(|there| there.medium.clone())
                    .map(|medium| (medium, pool))
            })
            .ok_or_else(why_not)?;
        copies.leave(place)?;
        Ok(json!({
            "uuid": self.volume.uuid, "path": self.path, "medium": medium, "at": place, "pool": pool.pool,
            "durable_seq": pool.seq, "segments_behind": pool.segments_behind,
        }))
    }
}

/// What a medium that is read and a processor that compresses are needed for most.
fn recording_first(handle: &Handle, spool_bytes_max: u64) -> Option<String> {
    (handle.spool_used_bytes() > spool_bytes_max / 2)
        .then(|| "recording goes first: the spool is more than half full".to_owned())
}
