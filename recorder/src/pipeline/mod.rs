//! The pipeline of one volume: ring -> spool (hot), spool -> order -> decode -> merge -> segments -> medium (cold).
//!
//! Owns the threads and what they share. The hot thread appends raw frames and does nothing else; the cold one may lag by the whole
//! spool. A thread that ends with an error says so in the status, and everything that waits for it ends too.

mod cold;
mod hot;
mod requests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use journal::VolumeInfo;
use journal::record::{Op, Record};
use journal::store::Store;

use crate::capture::{Counters, Lost, Ring, Sequence};
use crate::cli::exit::coded;
pub(crate) use crate::doubt::Request;
use crate::spool::{FrameKind, PAYLOAD_BYTES_MAX, Position, Spool};
use requests::Requests;

/// Requests that may wait; beyond, one for everything takes their place.
const REQUESTS_MAX: usize = 65536;
/// How often a waiting thread looks whether the pipeline still runs.
const WAIT: Duration = Duration::from_millis(100);
/// How long a medium may refuse before a flush gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// How to run a pipeline.
pub(crate) struct PipelineOptions {
    /// The volume, for the manifests.
    pub(crate) volume: VolumeInfo,
    /// Directory of the spool, which exists.
    pub(crate) spool_dir: PathBuf,
    /// Most bytes that the spool takes.
    pub(crate) spool_bytes_max: u64,
    /// Bytes at which a segment is cut.
    pub(crate) segment_bytes_target: u64,
    /// The medium.
    pub(crate) store: Arc<dyn Store>,
    /// The ring.
    pub(crate) ring: Ring,
    /// The counter of sequence numbers.
    pub(crate) sequence: Sequence,
    /// The programs' counters.
    pub(crate) counters: Counters,
    /// What found no place in the ring.
    pub(crate) lost: Lost,
}

/// What a pipeline has done so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct PipelineStatus {
    /// Newest number taken.
    pub(crate) captured_seq: u64,
    /// Newest number in the spool, synced.
    pub(crate) spooled_seq: u64,
    /// Everything up to here is on the medium, synced.
    pub(crate) durable_seq: u64,
    /// Bytes that wait in the ring.
    pub(crate) ring_fill_bytes: u64,
    /// Bytes of disk that the spool takes.
    pub(crate) spool_bytes: u64,
    /// Events from the kernel.
    pub(crate) events: u64,
    /// Their bytes.
    pub(crate) bytes_captured: u64,
    /// Bytes of sealed segments.
    pub(crate) bytes_written: u64,
    /// Sealed segments.
    pub(crate) segments: u64,
    /// Holes that are not repaired.
    pub(crate) holes_open: u64,
    /// Why it does not go on, or what it waits for.
    pub(crate) error: Option<String>,
}

/// The spool under its lock, with what goes along with it.
struct SpoolState {
    spool: Spool,
    /// Oldest file that is there.
    oldest: u64,
    /// How far the reader may read.
    written: Position,
    /// Newest number appended.
    appended_seq: u64,
}

/// What the threads share.
struct Shared {
    spool: Mutex<SpoolState>,
    /// Something was written, sealed or asked for.
    news: Condvar,
    /// Numbers that the recorder took and whose records have not passed the window.
    outstanding: Mutex<BTreeSet<u64>>,
    sequence: Sequence,
    epoch: AtomicU64,
    /// Everything up to here was looked at, and what that asked for is sent.
    passed_seq: AtomicU64,
    /// Requests sent, and answered.
    requests_sent: AtomicU64,
    requests_served: AtomicU64,
    /// Seal when everything up to here has passed.
    flush_seq: AtomicU64,
    spooled_seq: AtomicU64,
    durable_seq: AtomicU64,
    ring_fill_bytes: AtomicU64,
    events: AtomicU64,
    bytes_captured: AtomicU64,
    bytes_written: AtomicU64,
    segments: AtomicU64,
    holes_open: AtomicU64,
    /// The hot thread drains what is left and ends.
    stop_hot: AtomicBool,
    /// The cold thread ends when everything is sealed.
    stop_cold: AtomicBool,
    /// Why a thread ended.
    failed: Mutex<Option<String>>,
    /// What the cold thread waits for.
    waits: Mutex<Option<Waits>>,
}

/// What the cold thread waits for.
#[derive(Clone)]
struct Waits {
    since: Instant,
    why: String,
    /// For the command line.
    exit_code: u8,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Fails where a thread has.
    fn check(&self) -> Result<()> {
        match &*lock(&self.failed) {
            Some(why) => bail!("recording has stopped: {why}"),
            None => Ok(()),
        }
    }

    fn fail(&self, why: String) {
        tracing::error!("{why}");
        lock(&self.failed).get_or_insert(why);
        self.news.notify_all();
    }

    /// Waits for news, for a while, without the spool being held by others.
    fn wait<'a>(&self, spool: MutexGuard<'a, SpoolState>) -> MutexGuard<'a, SpoolState> {
        self.news
            .wait_timeout(spool, WAIT)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

/// A way into a pipeline, for any thread.
#[derive(Clone)]
pub(crate) struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// The epoch that is being written.
    pub(crate) fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::Relaxed)
    }

    /// Waits until the spool is below its high-water mark. To be called while no number is outstanding.
    ///
    /// # Errors
    /// When the pipeline has stopped.
    pub(crate) fn reserve(&self) -> Result<()> {
        let mut state = lock(&self.shared.spool);
        while state.spool.is_above_high_water() {
            self.shared.check()?;
            state = self.shared.wait(state);
        }
        drop(state);
        self.shared.check()
    }

    /// Takes a number for a record that will be submitted: until then nothing later passes.
    pub(crate) fn take_seq(&self) -> u64 {
        let mut outstanding = lock(&self.shared.outstanding);
        let seq = self.shared.sequence.next();
        outstanding.insert(seq);
        seq
    }

    /// Hands over records whose numbers were taken.
    ///
    /// # Errors
    /// When the pipeline has stopped, or the spool is full beyond all bounds.
    pub(crate) fn submit(&self, records: Vec<Record>) -> Result<()> {
        self.shared.check()?;
        let mut state = lock(&self.shared.spool);
        for record in &records {
            let (head, data) = encode_own(record)?;
            ensure!(
                head.len() + data.len() + 4 <= PAYLOAD_BYTES_MAX,
                "a record of {} bytes is too long",
                data.len()
            );
            let length = u32::try_from(head.len()).context("length of a record's head")?;
            state
                .spool
                .append(FrameKind::Own, &[&length.to_le_bytes(), &head, data])?;
            state.appended_seq = state.appended_seq.max(record.seq);
        }
        state.written = state.spool.write()?;
        self.shared.news.notify_all();
        Ok(())
    }

    /// Returns when everything up to `seq` is on the medium.
    ///
    /// # Errors
    /// When the pipeline has stopped, or the time is over.
    pub(crate) fn flush(&self, seq: u64, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        self.shared.flush_seq.fetch_max(seq, Ordering::SeqCst);
        self.shared.news.notify_all();
        let mut state = lock(&self.shared.spool);
        while self.shared.durable_seq.load(Ordering::SeqCst) < seq {
            self.shared.check()?;
            if Instant::now() >= end {
                let waits = lock(&self.shared.waits).clone();
                return Err(anyhow!(
                    "not on the medium yet: {}",
                    waits.map_or_else(|| "it is slow".to_owned(), |waits| waits.why)
                ));
            }
            state = self.shared.wait(state);
        }
        Ok(())
    }

    /// As [`Handle::flush`], but fails as soon as the medium has refused everything for [`PATIENCE`].
    ///
    /// # Errors
    /// Also with the exit code of the medium's trouble.
    pub(crate) fn flush_or_say(&self, seq: u64, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.flush(seq, left.min(PATIENCE)) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.shared.check()?;
                    let waits = lock(&self.shared.waits).clone();
                    if let Some(Waits { exit_code, why, .. }) =
                        waits.filter(|waits| waits.since.elapsed() >= PATIENCE)
                    {
                        return Err(coded(exit_code, format!("not on the medium yet: {why}")));
                    }
                    if Instant::now() >= end {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Requests that were sent so far, where all of them are answered.
    pub(crate) fn all_served(&self) -> Option<u64> {
        let served = self.shared.requests_served.load(Ordering::SeqCst);
        let sent = self.shared.requests_sent.load(Ordering::SeqCst);
        (served >= sent).then_some(sent)
    }

    /// To be called when the records that answer a request are submitted.
    pub(crate) fn served(&self) {
        self.shared.requests_served.fetch_add(1, Ordering::SeqCst);
        self.shared.news.notify_all();
    }

    /// Waits until everything up to `seq` was looked at and what it asked for is answered; false where that did not come in time, or
    /// cannot because the medium is not there.
    ///
    /// # Errors
    /// When the pipeline has stopped.
    pub(crate) fn settle(&self, seq: u64, timeout: Duration) -> Result<bool> {
        let end = Instant::now() + timeout;
        let mut state = lock(&self.shared.spool);
        while self.shared.passed_seq.load(Ordering::SeqCst) < seq || self.all_served().is_none() {
            self.shared.check()?;
            if Instant::now() >= end || lock(&self.shared.waits).is_some() {
                return Ok(false);
            }
            state = self.shared.wait(state);
        }
        Ok(true)
    }

    /// Why the pipeline has stopped, if it has. Waiting for a medium is no stop.
    pub(crate) fn failed(&self) -> Option<String> {
        lock(&self.shared.failed).clone()
    }

    /// What was done so far.
    pub(crate) fn status(&self) -> PipelineStatus {
        let shared = &self.shared;
        let number = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let error = lock(&shared.failed)
            .clone()
            .or_else(|| lock(&shared.waits).clone().map(|waits| waits.why));
        PipelineStatus {
            captured_seq: shared.sequence.peek().saturating_sub(1),
            spooled_seq: number(&shared.spooled_seq),
            durable_seq: number(&shared.durable_seq),
            ring_fill_bytes: number(&shared.ring_fill_bytes),
            spool_bytes: lock(&shared.spool).spool.bytes(),
            events: number(&shared.events),
            bytes_captured: number(&shared.bytes_captured),
            bytes_written: number(&shared.bytes_written),
            segments: number(&shared.segments),
            holes_open: number(&shared.holes_open),
            error,
        }
    }
}

/// An own record as bytes: everything but the data of a write, and that data.
fn encode_own(record: &Record) -> Result<(Vec<u8>, &[u8])> {
    if let Op::Write { offset, data, length } = &record.op {
        let op = Op::Write {
            offset: *offset,
            data: Vec::new(),
            length: *length,
        };
        let head = Record {
            op,
            actor: record.actor.clone(),
            attributes: record.attributes.clone(),
            ..*record
        };
        Ok((postcard::to_stdvec(&head).context("encode a record")?, data))
    } else {
        Ok((postcard::to_stdvec(record).context("encode a record")?, &[]))
    }
}

/// The record of an own frame.
fn decode_own(payload: &[u8]) -> Result<Record> {
    let (length, rest) = payload
        .split_first_chunk::<4>()
        .context("an own record is cut short")?;
    let length = u32::from_le_bytes(*length) as usize;
    let (head, bytes) = rest
        .split_at_checked(length)
        .context("an own record is cut short")?;
    let mut record: Record = postcard::from_bytes(head).context("decode a record")?;
    if let Op::Write { data, .. } = &mut record.op {
        bytes.clone_into(data);
    }
    Ok(record)
}

/// The number of an own frame: the first field of its record.
fn seq_of_own(payload: &[u8]) -> Result<u64> {
    let head = payload.get(4..).context("an own record is cut short")?;
    Ok(postcard::take_from_bytes(head)
        .context("decode a record's number")?
        .0)
}

/// The running pipeline of one volume.
pub(crate) struct Pipeline {
    shared: Arc<Shared>,
    requests: Option<Receiver<Request>>,
    hot: Vec<JoinHandle<()>>,
    cold: Option<JoinHandle<()>>,
}

impl Pipeline {
    /// Starts the threads. Events whose numbers were taken before are not of this epoch.
    ///
    /// # Errors
    /// A spool or medium that cannot be used.
    pub(crate) fn start(options: PipelineOptions) -> Result<Self> {
        let PipelineOptions {
            volume,
            spool_dir,
            spool_bytes_max,
            segment_bytes_target,
            store,
            ring,
            sequence,
            counters,
            lost,
        } = options;
        let spool = Spool::create(&spool_dir, spool_bytes_max)?;
        let writer = journal::Writer::open(store, volume).context("continue the journal on the medium")?;
        let written = Position { file: 1, offset: 0 };
        let shared = Arc::new(Shared {
            spool: Mutex::new(SpoolState {
                spool,
                oldest: 1,
                written,
                appended_seq: 0,
            }),
            news: Condvar::new(),
            outstanding: Mutex::default(),
            epoch: AtomicU64::new(writer.epoch()),
            passed_seq: AtomicU64::new(0),
            requests_sent: AtomicU64::new(0),
            requests_served: AtomicU64::new(0),
            flush_seq: AtomicU64::new(0),
            spooled_seq: AtomicU64::new(0),
            durable_seq: AtomicU64::new(0),
            ring_fill_bytes: AtomicU64::new(0),
            events: AtomicU64::new(0),
            bytes_captured: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            segments: AtomicU64::new(0),
            holes_open: AtomicU64::new(0),
            stop_hot: AtomicBool::new(false),
            stop_cold: AtomicBool::new(false),
            failed: Mutex::default(),
            waits: Mutex::default(),
            sequence,
        });
        let (sender, receiver) = sync_channel(REQUESTS_MAX);
        let requests = Requests::new(sender);
        let first_seq = shared.sequence.peek();
        let cold = cold::Cold::new(
            Arc::clone(&shared),
            cold::Options {
                spool_dir,
                segment_bytes_target,
                first_seq,
                counters,
                lost,
            },
            writer,
            requests,
        );
        let drain = hot::Drain {
            shared: Arc::clone(&shared),
            ring,
        };
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

    /// Drains the ring, brings everything onto the medium, ends the threads.
    ///
    /// # Errors
    /// Why something did not get there.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.shared.stop_hot.store(true, Ordering::SeqCst);
        self.shared.news.notify_all();
        for thread in self.hot.drain(..) {
            thread
                .join()
                .map_err(|_| anyhow!("a thread of the hot path panicked"))?;
        }
        self.shared.stop_cold.store(true, Ordering::SeqCst);
        self.shared.news.notify_all();
        if let Some(cold) = self.cold.take() {
            cold.join().map_err(|_| anyhow!("the cold path panicked"))?;
        }
        self.shared.check()
    }
}

/// Starts a thread whose end by error or panic is recorded.
fn spawn(
    name: &'static str,
    shared: &Arc<Shared>,
    run: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(
            move || match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => shared.fail(format!("{name}: {error:#}")),
                Err(_) => shared.fail(format!("{name} panicked")),
            },
        )
        .with_context(|| format!("start thread {name}"))
}
