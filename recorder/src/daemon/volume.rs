//! One recorded volume: attach, base, repair on request, status.
//!
//! Owns the order of these steps. Capture and pipeline do the work; what is asked for while it is recorded is in `moments`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use abi::Counter;
use anyhow::{Context as _, Result};
use journal::VolumeInfo;
use journal::store::Store;
use tokio::sync::mpsc;

use super::checks::Prepared;
use super::event::{Event, RecordingLine};
use super::moments::{Detached, Misses};
use super::mounted;
use super::resume::{self, Place};
use super::sink::{PipelineSink, Requests, wanted};
use super::start::{self, Base, Start};
use crate::base::{Progress, Scan};
use crate::canary;
use crate::capture::{self, Capture, CaptureOptions, Volume};
use crate::control::RUN_DIR;
use crate::pipeline::{Left, Limits, OnFull, Pipeline, PipelineOptions, SharedArrays, Throttle};
use crate::reconcile::{Dead, Known};
use crate::snapshot::Counts;
use crate::snapshot::handle::Root;
use crate::status::VolumeStatus;

/// How often a waiting thread looks whether it is to end.
pub(super) const STOP_INTERVAL: Duration = Duration::from_millis(100);
pub(super) const STATE_BASE: u8 = 0;
pub(super) const STATE_RECORDING: u8 = 1;
const STATE_FAILED: u8 = 2;

/// One volume while it is recorded.
pub(crate) struct Session {
    pub(super) path: PathBuf,
    medium: PathBuf,
    pub(super) spool_dir: PathBuf,
    pub(super) volume: Volume,
    pub(super) root: Arc<Root>,
    pub(super) sink: PipelineSink,
    pub(super) state: AtomicU8,
    parts: Mutex<Option<Parts>>,
    /// Everything up to here is on the volume's own disk, as the newest barrier says.
    pub(super) barrier_seq: AtomicU64,
    /// How the base was taken.
    base: Mutex<Base>,
    /// Misses that were journaled.
    pub(super) misses_seen: Mutex<Misses>,
    /// Nothing more is put down. Held for reading while a record is on its way.
    pub(super) is_ending: RwLock<bool>,
    /// Held while it is detached; how that went.
    pub(super) detached: Mutex<Option<Detached>>,
}

/// What ends with the recording.
pub(super) struct Parts {
    pub(super) capture: Capture,
    pub(super) pipeline: Pipeline,
    pub(super) workers: Vec<JoinHandle<()>>,
    pub(super) _lock: File,
}

impl Session {
    /// Attaches: hooks, proof of the hooks, sync, pipeline; the base and repairs then run on a thread of their own.
    pub(crate) fn start(prepared: Prepared, events: mpsc::Sender<Event>) -> Result<Arc<Self>> {
        let Prepared {
            config,
            volume,
            store,
            spool_dir,
            spool_inos,
            excluded_inodes,
            lock,
        } = prepared;
        let root = Arc::new(Root::open(&volume.mount_point, spool_inos.clone())?);
        let place = Place {
            spool_bytes_max: config.spool_bytes_max,
            on_full: config.on_full,
            numbers_file: Path::new(RUN_DIR).join(format!("{}.numbers", volume.uuid)),
            spool_dir: spool_dir.clone(),
            spool_inos,
            store,
        };
        let (mut capture, left, start) = match resume::find(&volume, &place, &root)? {
            Some((capture, left)) => {
                let start = Start::Resumed(left.sealed_seq());
                (capture, Some(left), start)
            }
            None => {
                let start = Start::anew(&volume, &*place.store, &place.spool_dir);
                (attach(&volume, config.ring_bytes, excluded_inodes)?, None, start)
            }
        };
        let misses = left.as_ref().map_or_else(Misses::default, Misses::left_by);
        let store = Arc::clone(&place.store);
        match Self::begin(place, &volume, &root, &mut capture, (left, start.from())) {
            Ok((pipeline, sink)) => {
                let session = Arc::new(Self {
                    path: config.path,
                    medium: config.medium,
                    spool_dir,
                    volume,
                    root,
                    sink,
                    state: AtomicU8::new(STATE_BASE),
                    parts: Mutex::new(None),
                    barrier_seq: AtomicU64::new(0),
                    base: Mutex::default(),
                    misses_seen: Mutex::new(misses),
                    is_ending: RwLock::new(false),
                    detached: Mutex::new(None),
                });
                session.go_on(capture, pipeline, lock, events, (start, store))?;
                session.start_barriers(config.barrier)?;
                Ok(session)
            }
            // What an earlier recorder left stays for the next try.
            Err(error) if start.resumed_seq().is_some() => Err(error),
            Err(error) => {
                if let Err(error) = capture.detach() {
                    tracing::error!("detach: {error:#}");
                }
                Err(error)
            }
        }
    }

    fn begin(
        place: Place,
        volume: &Volume,
        root: &Arc<Root>,
        capture: &mut Capture,
        (left, from): (Option<Left>, Option<&Dead>),
    ) -> Result<(Pipeline, PipelineSink)> {
        let mut ring = capture.take_ring()?;
        let identity = match &left {
            // The programs are still the other's.
            Some(left) => left.identity().clone(),
            None => {
                let proof = canary::prove(&volume.mount_point, &volume.fs_type, &mut ring)?;
                proof.require(capture.hooks())?;
                // Pages that were dirty before the hooks were there become write-protected, so that the next store is seen.
                rustix::fs::syncfs(root.fd()).context("sync the volume")?;
                // Without it only going on after a kill is lost.
                if let Err(error) = mounted::sign(root.fd()) {
                    tracing::warn!("{}: {error:#}", volume.mount_point.display());
                }
                resume::identity(capture, &place)?
            }
        };
        let Place {
            spool_bytes_max,
            on_full,
            spool_dir,
            spool_inos: _,
            numbers_file,
            store,
        } = place;
        let brake = capture.take_throttle()?;
        let throttle = (on_full == OnFull::Throttle)
            .then(|| Throttle::new(Box::new(brake), ring.size_bytes(), spool_bytes_max));
        let pipeline = Pipeline::start(PipelineOptions {
            volume: volume_info(volume, root)?,
            spool_dir,
            spool_bytes_max,
            numbers_file,
            identity,
            left,
            from,
            store,
            events: ring,
            numbers: Arc::new(SharedArrays {
                sequence: capture.sequence(),
                counters: capture.counters(),
                lost: capture.lost(),
            }),
            throttle,
            limits: Limits::default(),
        })?;
        let sink = PipelineSink {
            handle: pipeline.handle(),
            stop: Arc::new(AtomicBool::new(false)),
        };
        Ok((pipeline, sink))
    }

    /// Starts the thread that takes the base, where none was left, and then serves requests.
    fn go_on(
        self: &Arc<Self>,
        capture: Capture,
        mut pipeline: Pipeline,
        lock: File,
        events: mpsc::Sender<Event>,
        from: (Start, Arc<dyn Store>),
    ) -> Result<()> {
        let requests = Requests {
            receiver: pipeline.take_requests()?,
            handle: pipeline.handle(),
            stop: Arc::clone(&self.sink.stop),
            answering: false,
        };
        let session = Arc::clone(self);
        let worker = std::thread::Builder::new()
            .name("snapshots".to_owned())
            .spawn(move || {
                if let Err(error) = session.base_and_repair(requests, &events, from)
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
            workers: vec![worker],
            _lock: lock,
        });
        Ok(())
    }

    fn start_barriers(self: &Arc<Self>, interval: Duration) -> Result<()> {
        let session = Arc::clone(self);
        let barriers = std::thread::Builder::new()
            .name("barriers".to_owned())
            .spawn(move || session.barriers(interval))
            .context("start the thread that sets barriers")?;
        if let Some(parts) = &mut *self.parts() {
            parts.workers.push(barriers);
        }
        Ok(())
    }

    fn base_and_repair(
        &self,
        mut requests: Requests,
        events: &mpsc::Sender<Event>,
        (start, store): (Start, Arc<dyn Store>),
    ) -> Result<()> {
        let counts = Counts::default();
        let seq = match start {
            Start::Resumed(seq) => seq,
            Start::Anew(dead) => {
                let (known, base) = start::known(dead, store, &self.volume, &self.root);
                *self.base_taken() = base;
                self.base(&mut requests, &counts, known)?
            }
        };
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

    fn base_taken(&self) -> MutexGuard<'_, Base> {
        self.base.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn base(&self, requests: &mut Requests, counts: &Counts, known: Option<Known>) -> Result<u64> {
        // What happened while the pipeline began is in no event. Now it is on the disk, or has one.
        rustix::fs::syncfs(self.root.fd()).context("sync the volume")?;
        let space = rustix::fs::fstatvfs(self.root.fd()).context("measure the volume")?;
        let used_bytes = (space.f_blocks - space.f_bfree).saturating_mul(space.f_frsize);
        // Of what will be read again, nobody knows how much it is.
        let progress = known
            .is_none()
            .then(|| Progress::new(self.path.display().to_string(), used_bytes));
        let root_key = self.root.top().key().unwrap_or_default();
        let mut scan = Scan::new(&self.root, &self.sink, counts, progress).going_on(known);
        let seq = scan.base(root_key, requests)?;
        if let Some(found) = scan.found() {
            eprintln!("{}: {}", self.path.display(), start::as_text(&found));
            self.base_taken().found = found;
        }
        // The base is worth having on the medium before anything else.
        self.sink.handle.flush(seq, &self.sink.stop)?;
        Ok(seq)
    }

    pub(super) fn parts(&self) -> MutexGuard<'_, Option<Parts>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the volume is mounted.
    pub(crate) fn mount_point(&self) -> &Path {
        &self.volume.mount_point
    }

    /// Why the pipeline stopped, if it did and was not told to.
    pub(crate) fn failure(&self) -> Option<anyhow::Error> {
        if *self.is_ending.read().unwrap_or_else(PoisonError::into_inner) {
            return None;
        }
        let error = self.sink.handle.check().err()?;
        Some(error.context(format!("record {}", self.path.display())))
    }

    /// Numbers for `recorder status`.
    pub(crate) fn status(&self) -> VolumeStatus {
        let status = self.sink.handle.status();
        let held_ns = self
            .parts()
            .as_ref()
            .map(|parts| parts.capture.counters().get(Counter::HeldNs));
        let misses = self
            .misses_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .count;
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
            barrier_seq: self.barrier_seq.load(Ordering::Relaxed),
            spooled_seq: status.spooled_seq,
            durable_seq: status.durable_seq,
            ring_fill_bytes: status.ring_fill_bytes,
            window_bytes: status.window_bytes,
            spool_bytes: status.spool_bytes,
            bytes_captured: status.bytes_captured,
            bytes_written: status.bytes_written,
            throttled_ms: held_ns.map_or(0, |held_ns| held_ns / 1_000_000),
            events: status.events,
            holes_open: status.holes_open,
            misses,
            segments: status.segments,
            base: self.base_taken().clone(),
            medium: self.medium.display().to_string(),
            error: status.error,
        }
    }
}

/// Puts the programs under a volume; half attached is worse than not.
fn attach(volume: &Volume, ring_bytes: u32, excluded_inodes: Vec<u64>) -> Result<Capture> {
    let options = CaptureOptions {
        ring_bytes,
        excluded_inodes,
    };
    Capture::attach(volume, &options).inspect_err(|_| {
        if capture::has_pins(&volume.uuid)
            && let Err(error) = capture::remove_stale_pins(&volume.uuid)
        {
            tracing::error!("remove programs: {error:#}");
        }
    })
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
