//! The pipeline of one volume: ring -> spool (hot), spool -> order -> decode -> merge -> segments -> medium (cold).
//!
//! Owns the threads, from start to stop. The hot thread appends raw frames and does nothing else; the cold one may lag by the whole
//! spool. A thread that ends with an error says so in the status, and everything that waits for it ends too.

mod cold;
mod dead;
mod handle;
mod hot;
mod ledger;
mod limits;
mod losses;
mod output;
mod own;
mod requests;
mod resume;
mod seam;
mod shared;
mod taken;
#[cfg(test)]
mod tests;
mod throttle;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use journal::store::Store;
use journal::store::disk::Disk;
use journal::{Recipients, Signer, VolumeInfo};

use crate::cli::exit::{MEDIUM_NEEDED, coded};
pub(crate) use crate::doubt::Request;
use crate::pulse::Pulses;
use crate::reconcile::Dead;
use crate::spool::Spool;
pub(crate) use dead::find as find_dead;
pub(crate) use handle::{Handle, PipelineStatus};
use ledger::Ledgers;
pub(crate) use limits::Limits;
use requests::Requests;
pub(crate) use resume::{Identity, Left};
use resume::{Keeper, Known, Place};
pub(crate) use seam::{Changer, Events, Numbers, SharedArrays};
use shared::{Shared, SpoolState};
use taken::Taken;
pub(crate) use throttle::{OnFull, Throttle};

/// Requests that may wait; beyond, one for everything takes their place.
const REQUESTS_MAX: usize = 65536;
/// How often an ending thread is looked at.
const END_INTERVAL: Duration = Duration::from_millis(20);

/// How to run a pipeline.
pub(crate) struct PipelineOptions<'a, E: Events> {
    /// The volume, for the manifests.
    pub(crate) volume: VolumeInfo,
    /// Where the spool lies, and what the recorder remembers beside it.
    pub(crate) disk: Arc<dyn Disk>,
    /// Directory of the spool, which exists.
    pub(crate) spool_dir: PathBuf,
    /// Most bytes that the spool takes.
    pub(crate) spool_bytes_max: u64,
    /// File of the numbers that the recorder takes, on a file system in memory.
    pub(crate) numbers_file: PathBuf,
    /// What recording this is, for whoever takes its place after a kill.
    pub(crate) identity: Identity,
    /// What is left of a recorder whose place this one takes.
    pub(crate) left: Option<Left>,
    /// What the base goes on from, where nothing is left to go on with and there is a journal.
    pub(crate) from: Option<&'a Dead>,
    /// The medium.
    pub(crate) store: Arc<dyn Store>,
    /// Puts another one in its place; without it, it stays the same.
    pub(crate) changer: Option<Arc<dyn Changer>>,
    /// Signs what is written there.
    pub(crate) signer: Option<Signer>,
    /// Whom it is encrypted to; without them it is not.
    pub(crate) recipients: Option<Recipients>,
    /// Where events come from.
    pub(crate) events: E,
    /// The numbers.
    pub(crate) numbers: Arc<dyn Numbers>,
    /// Slows writers down; without it they never are.
    pub(crate) throttle: Option<Throttle>,
    /// The bounds.
    pub(crate) limits: Limits,
}

/// The running pipeline of one volume.
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
    requests: Option<Receiver<Request>>,
    hot: Vec<JoinHandle<()>>,
    cold: Option<JoinHandle<()>>,
}

impl Pipeline {
    /// Starts the threads: with a new epoch, to which events whose numbers were taken before do not belong; or where a recorder that was
    /// killed has left off.
    ///
    /// # Errors
    /// A spool or medium that cannot be used.
    pub(crate) fn start<E: Events>(options: PipelineOptions<'_, E>) -> Result<Self> {
        let PipelineOptions {
            volume,
            disk,
            spool_dir,
            spool_bytes_max,
            numbers_file,
            identity,
            left,
            from,
            store,
            changer,
            signer,
            recipients,
            events,
            numbers,
            throttle,
            limits,
        } = options;
        let place = match left {
            Some(left) => left.place(store, volume)?,
            None => {
                let writer =
                    journal::Writer::open(store, volume).context("continue the journal on the medium")?;
                // Before anything of an earlier epoch is removed.
                dead::begin(&*disk, &spool_dir, writer.head_at(0), from)?;
                Place {
                    spool: Spool::create(&disk, &spool_dir, spool_bytes_max, limits.spool_file_bytes)?,
                    oldest: 1,
                    writer,
                    taken: Taken::create(&*disk, &numbers_file)?,
                    ledgers: Ledgers::create(&disk, &spool_dir)?,
                    sealed_seq: numbers.peek() - 1,
                    known: Known::default(),
                }
            }
        };
        let Place {
            spool,
            oldest,
            writer,
            taken,
            ledgers,
            sealed_seq,
            known,
        } = place;
        let (sender, receiver) = sync_channel(REQUESTS_MAX);
        let state = SpoolState {
            written: spool.position(),
            spool,
            oldest,
            appended_seq: sealed_seq,
        };
        let shared = Arc::new(new_shared(
            limits,
            state,
            numbers,
            taken,
            (writer.head_at(0).chain, writer.epoch()),
            sealed_seq,
        ));
        let handle = Handle {
            shared: Arc::clone(&shared),
        };
        let is_resumed = known.is_left;
        let cold = cold::Cold::new(
            &handle,
            (&disk, &spool_dir),
            (writer.signed_by(signer).encrypted_to(recipients), changer),
            Requests::new(sender),
            known,
            Keeper { ledgers, identity },
        )?;
        if is_resumed {
            tracing::info!("goes on after sequence number {sealed_seq}");
        }
        let drain = hot::Drain::new(Arc::clone(&shared), events, throttle);
        let sync = Arc::clone(&shared);
        let hot = vec![
            spawn("drain", &shared, move || drain.run())?,
            spawn("spool-sync", &shared, move || hot::sync_spool(&sync))?,
        ];
        let cold = Some(spawn("cold", &shared, move || cold.run())?);
        Ok(Self {
            shared,
            requests: Some(receiver),
            hot,
            cold,
        })
    }

    /// A way in.
    pub(crate) fn handle(&self) -> Handle {
        Handle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Where requests come out; there is one receiver.
    ///
    /// # Errors
    /// When it was taken before.
    pub(crate) fn take_requests(&mut self) -> Result<Receiver<Request>> {
        self.requests
            .take()
            .context("the requests have their receiver already")
    }

    /// Drains the ring, brings everything onto the medium, ends the threads. A medium that is slow is waited for; one that refuses
    /// everything for [`Limits::patience`], or does not come back from a call for [`Limits::stuck`], is not.
    ///
    /// # Errors
    /// Why something did not get there. What had reached the spool stays in it.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.shared.ending_since.get_or_init(Instant::now);
        self.shared.stop_hot.store(true, Ordering::SeqCst);
        self.shared.news.notify_all();
        for thread in self.hot.drain(..) {
            join(
                thread,
                &self.shared,
                "the disk of the spool, or the medium where the spool is full,",
            )?;
        }
        self.shared.stop_cold.store(true, Ordering::SeqCst);
        self.shared.news.notify_all();
        if let Some(cold) = self.cold.take() {
            join(cold, &self.shared, "the medium")?;
        }
        self.shared.check()
    }
}

fn new_shared(
    limits: Limits,
    spool: SpoolState,
    numbers: Arc<dyn Numbers>,
    taken: Taken,
    (chain, epoch): (String, u64),
    sealed_seq: u64,
) -> Shared {
    Shared {
        limits,
        pulses: Pulses::new(limits.stall),
        spool_bytes: AtomicU64::new(spool.spool.bytes()),
        spool_used_bytes: AtomicU64::new(spool.spool.used_bytes()),
        spool: Mutex::new(spool),
        news: Condvar::new(),
        outstanding: Mutex::default(),
        numbers,
        taken: Mutex::new(taken),
        epoch,
        passed_seq: AtomicU64::new(sealed_seq),
        under_way_seq: AtomicU64::new(u64::MAX),
        requests_sent: AtomicU64::new(0),
        requests_served: AtomicU64::new(0),
        repairs_owed: AtomicU64::new(0),
        flush_seq: AtomicU64::new(0),
        spooled_seq: AtomicU64::new(0),
        durable_seq: AtomicU64::new(sealed_seq),
        safe_seq: AtomicU64::new(sealed_seq),
        said_seq: AtomicU64::new(sealed_seq),
        canary_ino: AtomicU64::new(0),
        canary_seq: AtomicU64::new(0),
        ring_fill_bytes: AtomicU64::new(0),
        window_bytes: AtomicU64::new(0),
        drained: AtomicU64::new(0),
        events: AtomicU64::new(0),
        bytes_captured: AtomicU64::new(0),
        bytes_written: AtomicU64::new(0),
        segments: AtomicU64::new(0),
        holes: Mutex::default(),
        holes_repaired: AtomicU64::new(0),
        steps: AtomicU64::new(0),
        ending_since: OnceLock::new(),
        stop_hot: AtomicBool::new(false),
        stop_cold: AtomicBool::new(false),
        failed: Mutex::default(),
        aside: Mutex::default(),
        chain,
        waits: Mutex::default(),
    }
}

/// Waits for a thread to end, as long as any thread makes a step now and then. One that hangs in a system call cannot be ended: it
/// is left behind, and the process ends without it.
fn join(thread: JoinHandle<()>, shared: &Shared, what: &str) -> Result<()> {
    let (mut steps, mut since) = (shared.steps.load(Ordering::Relaxed), Instant::now());
    while !thread.is_finished() {
        let now = shared.steps.load(Ordering::Relaxed);
        if now != steps {
            (steps, since) = (now, Instant::now());
        } else if since.elapsed() >= shared.limits.stuck {
            let stuck = shared.limits.stuck;
            return Err(coded(
                MEDIUM_NEEDED,
                format!("{what} has not answered for {stuck:?}"),
            ));
        }
        std::thread::sleep(END_INTERVAL);
    }
    thread
        .join()
        .map_err(|_| anyhow!("a thread of the pipeline panicked"))
}

/// Starts a thread whose end by error or panic is recorded.
fn spawn(
    name: &'static str,
    shared: &Arc<Shared>,
    run: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<JoinHandle<()>> {
    let told = Arc::clone(shared);
    shared
        .pulses
        .spawn(name, run, move |error| told.fail(name, &error))
}
