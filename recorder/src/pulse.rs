//! Pulses: by which it shows that a thread does not move any more.
//!
//! Owns the threads of a set, when each has last beaten, where it is when it does not, and that the end of none is quiet. A beat is one store
//! into the thread's own memory: loops beat wherever they come around. What is done about a stall is the daemon's.

mod store;

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};

pub(crate) use store::Watched;

/// A thread that has not beaten for so long does not move. What is said of it a few seconds later is said within half a minute.
pub(crate) const STALL: Duration = Duration::from_secs(20);
/// So many times as long may a sync of a whole file system take: minutes, on a busy disk.
const SYNC_PATIENCE: u32 = 15;

thread_local! {
    static OWN: RefCell<Option<Arc<Pulse>>> = const { RefCell::new(None) };
}

/// Where a thread is: in its own code, or in a call that only somebody else can end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    /// In its own code.
    #[default]
    Own,
    /// In a call to the disk of the spool.
    Spool,
    /// In a call to the medium.
    Medium,
    /// In a call to a medium for copies, or to the disk of the catalog.
    Copies,
    /// In a call to the recorded volume.
    Volume,
    /// In a sync of the recorded volume.
    Sync,
}

impl Place {
    const ALL: [Self; 6] = [
        Self::Own,
        Self::Spool,
        Self::Medium,
        Self::Copies,
        Self::Volume,
        Self::Sync,
    ];

    fn of(code: u8) -> Self {
        Self::ALL.get(usize::from(code)).copied().unwrap_or_default()
    }

    /// How many times as long as elsewhere a thread may be there without a beat.
    fn patience(self) -> u32 {
        match self {
            Self::Sync => SYNC_PATIENCE,
            Self::Own | Self::Spool | Self::Medium | Self::Copies | Self::Volume => 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "in its own code",
            Self::Spool => "in a call to the spool's disk",
            Self::Medium => "in a call to the medium",
            Self::Copies => "in a call to a medium for copies, or for the catalog",
            Self::Volume => "in a call to the recorded file system",
            Self::Sync => "in a sync of the recorded file system",
        })
    }
}

/// One thread's pulse.
struct Pulse {
    name: &'static str,
    beat_ms: AtomicU64,
    place: AtomicU8,
    #[cfg(test)]
    is_frozen: std::sync::atomic::AtomicBool,
}

impl Pulse {
    fn beat(&self) {
        self.beat_ms.store(now_ms(), Ordering::Relaxed);
        #[cfg(test)]
        while self.is_frozen.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A thread that does not move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stall {
    /// Name of the thread.
    pub(crate) thread: String,
    /// Where it is.
    pub(crate) place: Place,
    /// Since when, seconds.
    pub(crate) for_s: u64,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { thread, place, for_s } = self;
        write!(f, "the thread {thread} has not moved for {for_s} s ({place})")
    }
}

/// The threads of a volume, or of the daemon: as many as there are kinds of them.
#[derive(Clone)]
pub(crate) struct Pulses {
    threads: Arc<Mutex<Vec<Arc<Pulse>>>>,
    /// What is no stall yet.
    patience: Duration,
}

/// While it lives, the thread that made it beats in a set.
pub(crate) struct Beating {
    pulses: Pulses,
    own: Arc<Pulse>,
}

impl Pulses {
    /// No threads yet. One that does not beat for so long has stalled.
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            threads: Arc::default(),
            patience,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Pulse>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets this thread beat in this set.
    pub(crate) fn enter(&self, name: &'static str) -> Beating {
        let own = Arc::new(Pulse {
            name,
            beat_ms: AtomicU64::new(now_ms()),
            place: AtomicU8::new(0),
            #[cfg(test)]
            is_frozen: false.into(),
        });
        self.lock().push(Arc::clone(&own));
        OWN.set(Some(Arc::clone(&own)));
        Beating {
            pulses: self.clone(),
            own,
        }
    }

    /// Starts a thread that beats in this set. Whoever is told of deaths hears of its error, or that it panicked.
    ///
    /// # Errors
    /// When the system starts no more threads.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        run: impl FnOnce() -> Result<()> + Send + 'static,
        died: impl FnOnce(anyhow::Error) + Send + 'static,
    ) -> Result<JoinHandle<()>> {
        let pulses = self.clone();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let ended = catch_unwind(AssertUnwindSafe(|| {
                    let _beating = pulses.enter(name);
                    run()
                }));
                match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => died(error),
                    Err(panic) => died(anyhow!("it panicked: {}", panic_text(&*panic))),
                }
            })
            .with_context(|| format!("start the thread {name}"))
    }

    /// The threads that do not move. `awake`: for how long this process runs since it was last held as a whole; what did not move while
    /// nothing did says nothing.
    pub(crate) fn stalls(&self, awake: Duration) -> Vec<Stall> {
        let now_ms = now_ms();
        let pulses = self.lock();
        let stalls = pulses.iter().filter_map(|pulse| {
            let age = Duration::from_millis(now_ms.saturating_sub(pulse.beat_ms.load(Ordering::Relaxed)));
            let place = Place::of(pulse.place.load(Ordering::Relaxed));
            (age.min(awake) >= self.patience * place.patience()).then(|| Stall {
                thread: pulse.name.to_owned(),
                place,
                for_s: age.as_secs(),
            })
        });
        stalls.collect()
    }

    /// Whether the thread of this name is in a call to this place.
    pub(crate) fn is_at(&self, name: &str, place: Place) -> bool {
        self.lock()
            .iter()
            .any(|pulse| pulse.name == name && Place::of(pulse.place.load(Ordering::Relaxed)) == place)
    }

    /// Whether no thread beats here.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Names of the threads.
    #[cfg(test)]
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.lock().iter().map(|pulse| pulse.name).collect()
    }

    /// Holds a thread at its next beat, or lets it go.
    #[cfg(test)]
    pub(crate) fn freeze(&self, name: &str, is_frozen: bool) {
        for pulse in self.lock().iter().filter(|pulse| pulse.name == name) {
            pulse.is_frozen.store(is_frozen, Ordering::Relaxed);
        }
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        OWN.set(None);
        self.pulses.lock().retain(|pulse| !Arc::ptr_eq(pulse, &self.own));
    }
}

/// This thread moves. Threads of no set may call it too.
pub(crate) fn beat() {
    OWN.with_borrow(|own| {
        if let Some(own) = own {
            own.beat();
        }
    });
}

/// Says where this thread is until it is dropped.
pub(crate) struct At {
    before: u8,
}

/// This thread goes into a call that only somebody else can end.
pub(crate) fn at(place: Place) -> At {
    OWN.with_borrow(|own| {
        let Some(own) = own else { return At { before: 0 } };
        own.beat();
        At {
            before: own.place.swap(place as u8, Ordering::Relaxed),
        }
    })
}

impl Drop for At {
    fn drop(&mut self) {
        OWN.with_borrow(|own| {
            if let Some(own) = own {
                own.place.store(self.before, Ordering::Relaxed);
                own.beat();
            }
        });
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it does not say why")
}

fn now_ms() -> u64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    u64::try_from(BEGIN.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);
    const AWAKE: Duration = Duration::from_secs(3600);

    #[test]
    fn a_stall_is_seen_and_is_over_with_the_next_beat() {
        let pulses = Pulses::new(PATIENCE);
        let _beating = pulses.enter("walker");
        assert_eq!(pulses.stalls(AWAKE), []);
        std::thread::sleep(PATIENCE * 2);
        let stalls = pulses.stalls(AWAKE);
        assert!(
            matches!(&*stalls, [Stall { thread, place: Place::Own, .. }] if thread == "walker"),
            "{stalls:?}"
        );
        assert_eq!(
            pulses.stalls(PATIENCE / 2),
            [],
            "nothing moved while the whole process was held"
        );
        beat();
        assert_eq!(pulses.stalls(AWAKE), []);
    }

    #[test]
    fn a_place_has_its_own_patience_and_is_left_again() {
        let pulses = Pulses::new(PATIENCE);
        let _beating = pulses.enter("walker");
        {
            let _medium = at(Place::Medium);
            assert!(pulses.is_at("walker", Place::Medium));
            {
                let _sync = at(Place::Sync);
                assert!(pulses.is_at("walker", Place::Sync) && !pulses.is_at("walker", Place::Medium));
                std::thread::sleep(PATIENCE * 2);
                assert_eq!(pulses.stalls(AWAKE), [], "a sync may take longer");
            }
            std::thread::sleep(PATIENCE * 2);
            let text = pulses.stalls(AWAKE)[0].to_string();
            assert!(text.contains("in a call to the medium"), "{text}");
        }
        assert!(!pulses.is_at("walker", Place::Medium));
        for (code, place) in Place::ALL.into_iter().enumerate() {
            assert_eq!(place as usize, code);
        }
    }

    #[test]
    fn no_thread_ends_in_quiet() {
        let pulses = Pulses::new(PATIENCE);
        let (told, deaths) = channel();
        let tell = |told: &std::sync::mpsc::Sender<String>| {
            let told = told.clone();
            move |error: anyhow::Error| told.send(format!("{error:#}")).unwrap()
        };
        let thread = pulses
            .spawn("panics", || panic!("told to {}", "panic"), tell(&told))
            .unwrap();
        thread.join().unwrap();
        let thread = pulses
            .spawn("fails", || Err(anyhow!("told to fail")), tell(&told))
            .unwrap();
        thread.join().unwrap();
        let thread = pulses.spawn("ends", || Ok(()), tell(&told)).unwrap();
        thread.join().unwrap();
        drop(told);
        assert_eq!(
            deaths.iter().collect::<Vec<_>>(),
            ["it panicked: told to panic", "told to fail"]
        );
        assert_eq!(pulses.names(), <[&str; 0]>::default(), "none is left behind");
    }
}
