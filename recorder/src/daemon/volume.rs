//! One recorded volume: attach, base, repair on request, marks, flushes, detach.
//!
//! Owns the order of these steps. Capture and pipeline do the work.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use abi::Counter;
use anyhow::{Context as _, Result, anyhow, bail};
use journal::VolumeInfo;
use journal::record::{InodeKey, Op, Record};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::checks::Prepared;
use crate::base::{Demand, Progress, Scan, Wanted};
use crate::canary;
use crate::capture::{self, Capture, CaptureOptions, Volume};
use crate::pipeline::{Handle, Pipeline, PipelineOptions, Request};
use crate::snapshot::handle::Root;
use crate::snapshot::{Counts, Sink, own_record};
use crate::status::VolumeStatus;

/// Longest time that a flush may take: a medium that is slow, or to be put in.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3600);
/// Longest time that a mark waits for repairs.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a waiting thread looks whether it is to end.
const STOP_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes of a segment before compression.
const SEGMENT_BYTES: u64 = 64 << 20;

/// What a volume tells the event loop.
pub(crate) enum Event {
    /// The base is complete.
    Recording(RecordingLine),
    /// The volume's own thread ended with an error.
    Failed(anyhow::Error),
}

/// The line that says that a volume is recorded from here on.
pub(crate) struct RecordingLine {
    path: PathBuf,
    uuid: String,
    epoch: u64,
    seq: u64,
}

impl fmt::Display for RecordingLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            uuid,
            epoch,
            seq,
        } = self;
        write!(
            f,
            "recording {} volume {uuid} epoch {epoch} seq {seq}",
            path.display()
        )
    }
}

impl RecordingLine {
    /// The same as JSON.
    pub(crate) fn to_json(&self) -> String {
        let Self {
            path,
            uuid,
            epoch,
            seq,
        } = self;
        json!({ "recording": path, "volume": uuid, "epoch": epoch, "seq": seq }).to_string()
    }
}

/// Numbers from the volume's counter, records into its pipeline.
#[derive(Clone)]
struct PipelineSink {
    handle: Handle,
    stop: Arc<AtomicBool>,
}

impl Sink for PipelineSink {
    fn reserve(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        self.handle.reserve()
    }

    fn take_seq(&self) -> u64 {
        self.handle.take_seq()
    }

    fn submit(&self, records: Vec<Record>) -> Result<()> {
        self.handle.submit(records)
    }
}

/// Requests of the pipeline's decoder.
struct Requests {
    receiver: Receiver<Request>,
    handle: Handle,
    /// The one handed out last is being answered.
    answering: bool,
}

impl Demand for Requests {
    fn poll(&mut self) -> Option<Wanted> {
        if std::mem::take(&mut self.answering) {
            self.handle.served();
        }
        let request = self.receiver.try_recv().ok();
        self.answering = request.is_some();
        request.map(wanted)
    }

    fn settle(&mut self, seq: u64) -> Result<()> {
        self.handle.flush(seq, FLUSH_TIMEOUT)
    }
}

const STATE_BASE: u8 = 0;
const STATE_RECORDING: u8 = 1;
const STATE_FAILED: u8 = 2;

/// One volume while it is recorded.
pub(crate) struct Session {
    path: PathBuf,
    medium: PathBuf,
    volume: Volume,
    root: Arc<Root>,
    sink: PipelineSink,
    state: Arc<AtomicU8>,
    parts: Mutex<Option<Parts>>,
    /// Misses that were journaled.
    misses_seen: AtomicU64,
}

/// What ends with the recording.
struct Parts {
    capture: Capture,
    pipeline: Pipeline,
    worker: Option<JoinHandle<()>>,
    _lock: File,
}

impl Session {
    /// Attaches: hooks, proof of the hooks, sync, pipeline; the base and repairs then run on a thread of their own.
    pub(crate) fn start(prepared: Prepared, events: mpsc::Sender<Event>) -> Result<Arc<Self>> {
        let Prepared {
            config,
            volume,
            store,
            spool_dir,
            excluded_inodes,
            lock,
        } = prepared;
        if capture::has_pins(&volume.uuid) {
            eprintln!(
                "a recorder that ended without detaching left its programs on {}: removed; a new epoch begins with a new base",
                volume.mount_point.display()
            );
            capture::remove_stale_pins(&volume.uuid)?;
        }
        let root = Arc::new(Root::open(&volume.mount_point, excluded_inodes.first().copied())?);
        let options = CaptureOptions {
            ring_bytes: config.ring_bytes,
            excluded_inodes,
        };
        let mut capture = match Capture::attach(&volume, &options) {
            Ok(capture) => capture,
            Err(error) => {
                // Half attached is worse than not: what was pinned so far goes.
                if capture::has_pins(&volume.uuid)
                    && let Err(error) = capture::remove_stale_pins(&volume.uuid)
                {
                    tracing::error!("remove programs: {error:#}");
                }
                return Err(error);
            }
        };
        match Self::begin(
            &config.spool_bytes_max,
            &volume,
            &root,
            &mut capture,
            store,
            spool_dir,
        ) {
            Ok((pipeline, sink)) => {
                let session = Arc::new(Self {
                    path: config.path,
                    medium: config.medium,
                    volume,
                    root,
                    sink,
                    state: Arc::new(AtomicU8::new(STATE_BASE)),
                    parts: Mutex::new(None),
                    misses_seen: AtomicU64::new(0),
                });
                session.go_on(capture, pipeline, lock, events)?;
                Ok(session)
            }
            Err(error) => {
                if let Err(error) = capture.detach() {
                    tracing::error!("detach: {error:#}");
                }
                Err(error)
            }
        }
    }

    fn begin(
        spool_bytes_max: &u64,
        volume: &Volume,
        root: &Arc<Root>,
        capture: &mut Capture,
        store: Arc<dyn journal::store::Store>,
        spool_dir: PathBuf,
    ) -> Result<(Pipeline, PipelineSink)> {
        let mut ring = capture.take_ring()?;
        let proof = canary::prove(&volume.mount_point, &volume.fs_type, &mut ring)?;
        proof.require(capture.hooks())?;
        // Pages that were dirty before the hooks were there become write-protected, so that the next store is seen.
        rustix::fs::syncfs(root.fd()).context("sync the volume")?;
        let pipeline = Pipeline::start(PipelineOptions {
            volume: volume_info(volume, root)?,
            spool_dir,
            spool_bytes_max: *spool_bytes_max,
            segment_bytes_target: SEGMENT_BYTES,
            store,
            ring,
            sequence: capture.sequence(),
            counters: capture.counters(),
            lost: capture.lost(),
        })?;
        let sink = PipelineSink {
            handle: pipeline.handle(),
            stop: Arc::new(AtomicBool::new(false)),
        };
        Ok((pipeline, sink))
    }

    /// Starts the thread that takes the base and then serves requests.
    fn go_on(
        self: &Arc<Self>,
        capture: Capture,
        mut pipeline: Pipeline,
        lock: File,
        events: mpsc::Sender<Event>,
    ) -> Result<()> {
        let requests = Requests {
            receiver: pipeline.take_requests()?,
            handle: pipeline.handle(),
            answering: false,
        };
        let session = Arc::clone(self);
        let worker = std::thread::Builder::new()
            .name("snapshots".to_owned())
            .spawn(move || {
                if let Err(error) = session.base_and_repair(requests, &events)
                    && !session.sink.stop.load(Ordering::Relaxed)
                {
                    session.state.store(STATE_FAILED, Ordering::Relaxed);
                    let error = error.context(format!("snapshots of {}", session.path.display()));
                    // Without a receiver the process is ending already.
                    let _ending = events.blocking_send(Event::Failed(error));
                }
            })
            .context("start the snapshot thread")?;
        *self.parts() = Some(Parts {
            capture,
            pipeline,
            worker: Some(worker),
            _lock: lock,
        });
        Ok(())
    }

    fn base_and_repair(&self, mut requests: Requests, events: &mpsc::Sender<Event>) -> Result<()> {
        let space = rustix::fs::fstatvfs(self.root.fd()).context("measure the volume")?;
        let used_bytes = (space.f_blocks - space.f_bfree).saturating_mul(space.f_frsize);
        let counts = Counts::default();
        let progress = Progress::new(self.path.display().to_string(), used_bytes);
        let root_key = self.root.top().key().unwrap_or_default();
        let mut scan = Scan::new(&self.root, &self.sink, &counts, Some(progress));
        let seq = scan.base(root_key, &mut requests)?;
        drop(scan);
        // The base is worth having on the medium before anything else.
        self.sink.handle.flush(seq, FLUSH_TIMEOUT)?;
        self.state.store(STATE_RECORDING, Ordering::Relaxed);
        let line = RecordingLine {
            path: self.path.clone(),
            uuid: self.volume.uuid.clone(),
            epoch: self.sink.handle.epoch(),
            seq,
        };
        let _ending = events.blocking_send(Event::Recording(line));
        let mut repairs = Scan::new(&self.root, &self.sink, &counts, None);
        while !self.sink.stop.load(Ordering::Relaxed) {
            match requests.receiver.recv_timeout(STOP_INTERVAL) {
                Ok(request) => {
                    repairs.repair(wanted(request))?;
                    self.sink.handle.served();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Ok(())
    }

    fn parts(&self) -> MutexGuard<'_, Option<Parts>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the volume is mounted.
    pub(crate) fn mount_point(&self) -> &Path {
        &self.volume.mount_point
    }

    /// Why the pipeline stopped, if it did.
    pub(crate) fn failure(&self) -> Option<anyhow::Error> {
        let error = self.sink.handle.failed()?;
        Some(anyhow!("recording of {} stopped: {error}", self.path.display()))
    }

    /// Numbers for `recorder status`.
    pub(crate) fn status(&self) -> VolumeStatus {
        let status = self.sink.handle.status();
        let misses = self.parts().as_ref().map_or(0, |parts| parts.capture.misses());
        VolumeStatus {
            path: self.path.display().to_string(),
            uuid: self.volume.uuid.clone(),
            state: match self.state.load(Ordering::Relaxed) {
                STATE_BASE => "base",
                STATE_RECORDING => "recording",
                _ => "failed",
            },
            epoch: self.sink.handle.epoch(),
            captured_seq: status.captured_seq,
            spooled_seq: status.spooled_seq,
            durable_seq: status.durable_seq,
            ring_fill_bytes: status.ring_fill_bytes,
            spool_bytes: status.spool_bytes,
            bytes_captured: status.bytes_captured,
            bytes_written: status.bytes_written,
            events: status.events,
            holes_open: status.holes_open,
            misses,
            segments: status.segments,
            medium: self.medium.display().to_string(),
            error: status.error,
        }
    }

    /// Syncs the volume, so that stores through mappings are in, then puts down a record of the volume as a whole.
    fn put_down(&self, op: Op) -> Result<(u64, i64)> {
        rustix::fs::syncfs(self.root.fd()).context("sync the volume")?;
        self.sink.reserve()?;
        let seq = self.sink.take_seq();
        let record = own_record(seq, InodeKey::default(), false, op);
        let time_ns = record.time_ns;
        self.sink.submit(vec![record])?;
        Ok((seq, time_ns))
    }

    /// Looks whether the kernel skipped a program, or a program found no room for what it must remember: nothing names what was
    /// missed then, so it is journaled as a hole, and the whole volume is read again to close it.
    pub(crate) fn check_misses(&self) -> Result<()> {
        let misses = match &*self.parts() {
            Some(parts) => parts.capture.misses() + parts.capture.counters().get(Counter::MapFull),
            None => return Ok(()),
        };
        let before = self.misses_seen.swap(misses, Ordering::Relaxed);
        if misses <= before {
            return Ok(());
        }
        let new = misses - before;
        tracing::warn!(
            "{}: {new} events were missed in the kernel: reading the volume again",
            self.path.display()
        );
        let seq = self.sink.take_seq();
        let op = Op::Hole {
            last_seq: seq,
            inode: None,
        };
        self.sink
            .submit(vec![own_record(seq, InodeKey::default(), false, op)])
            .context("journal missed events")
    }

    /// Waits until everything up to now that cannot be captured as it happens (inherited ACLs, failed operations, ...) is read from the
    /// live file system and stands in the journal. Gives up after [`SETTLE_TIMEOUT`], or where the medium is not there: what is not
    /// settled then is so later.
    fn settle(&self) -> Result<()> {
        if self.state.load(Ordering::Relaxed) != STATE_RECORDING {
            return Ok(());
        }
        let handle = &self.sink.handle;
        let end = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let before = handle.all_served();
            let (seq, _) = self.put_down(Op::Barrier)?;
            if !handle.settle(seq, end.saturating_duration_since(Instant::now()))? {
                tracing::warn!("{}: repairs are still under way", self.path.display());
                return Ok(());
            }
            // Nothing was asked for since before the number was taken: nothing is open at it.
            if before.is_some() && handle.all_served() == before {
                return Ok(());
            }
        }
    }

    /// Names this moment.
    pub(crate) fn mark(&self, name: &str) -> Result<Value> {
        self.settle()?;
        let (seq, time_ns) = self.put_down(Op::Mark {
            name: name.to_owned(),
        })?;
        let time = jiff::Timestamp::from_nanosecond(time_ns.into())
            .context("tell the time")?
            .to_string();
        Ok(json!({ "name": name, "uuid": self.volume.uuid, "path": self.path, "seq": seq, "time": time }))
    }

    /// Brings everything up to now onto the medium.
    pub(crate) fn flush(&self, wait: bool) -> Result<Value> {
        if wait {
            self.settle()?;
        }
        let (seq, _) = self.put_down(Op::Barrier)?;
        if wait {
            self.sink.handle.flush_or_say(seq, FLUSH_TIMEOUT)?;
        } else {
            let handle = self.sink.handle.clone();
            // Nobody waits for it: an error is in the status.
            std::thread::spawn(move || drop(handle.flush(seq, FLUSH_TIMEOUT)));
        }
        let status = self.sink.handle.status();
        Ok(json!({
            "uuid": self.volume.uuid, "path": self.path, "seq": seq, "waited": wait,
            "durable_seq": status.durable_seq, "segment": status.segments,
        }))
    }

    /// Syncs, takes the programs off, brings everything onto the medium, ends the threads.
    pub(crate) fn detach(&self) -> Result<Value> {
        let Some(mut parts) = self.parts().take() else {
            bail!("it is being detached already")
        };
        let synced = if self.sink.handle.failed().is_none() {
            self.settle().and_then(|()| self.put_down(Op::Barrier)).map(drop)
        } else {
            Ok(())
        };
        self.sink.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = parts.worker.take()
            && worker.join().is_err()
        {
            tracing::error!("the snapshot thread of {} panicked", self.path.display());
        }
        let detached = parts
            .capture
            .detach()
            .context("take the programs out of the kernel");
        let stopped = parts.pipeline.stop().context("bring the rest onto the medium");
        synced.and(detached).and(stopped)?;
        let durable_seq = self.sink.handle.status().durable_seq;
        Ok(json!({ "path": self.path, "uuid": self.volume.uuid, "durable_seq": durable_seq }))
    }
}

/// What stands about the volume in every manifest.
fn volume_info(volume: &Volume, root: &Root) -> Result<VolumeInfo> {
    let space = rustix::fs::fstatvfs(root.fd()).context("measure the volume")?;
    Ok(VolumeInfo {
        uuid: volume.uuid.clone(),
        fs_type: volume.fs_type.clone(),
        label: volume.label.clone(),
        block_size: u32::try_from(space.f_frsize).unwrap_or(4096),
        size_bytes: space.f_blocks.saturating_mul(space.f_frsize),
        root: root.top().key().context("name the root directory")?,
        mount_path: volume.mount_point.display().to_string(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
    })
}

fn wanted(request: Request) -> Wanted {
    match request {
        Request::Snapshot {
            inode,
            scope,
            only_if_unmet,
            closes,
        } => Wanted::Inode {
            key: inode,
            scope,
            only_if_unmet,
            closes,
        },
        Request::Everything { closes } => Wanted::Everything { closes },
    }
}
