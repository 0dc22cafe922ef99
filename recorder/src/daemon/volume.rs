//! One recorded volume: attach, base, repair on request, status.
//!
//! Owns the order of these steps. Capture and pipeline do the work; what is asked for while it is recorded is in `moments`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use journal::VolumeInfo;
use journal::store::Store;
use journal::store::disk::SystemDisk;
use tokio::sync::mpsc;

use super::checkpoints::{Policy, Restate};
use super::checks::Prepared;
use super::copies::Copies;
use super::event::{Event, RecordingLine};
use super::moments::{Detached, Misses};
use super::mounted;
use super::places::Places;
use super::resume::{self, Place};
use super::shelf::Shelf;
use super::sink::{PipelineSink, Requests, wanted};
use super::start::{self, Base, Start};
use super::watched::{Watched, now_ms, state_before};
use crate::base::{Progress, Scan};
use crate::canary;
use crate::capture::{self, Capture, CaptureOptions, Volume};
use crate::control::RUN_DIR;
use crate::key::Keys;
use crate::pipeline::{Left, Limits, OnFull, Pipeline, PipelineOptions, SharedArrays, Throttle};
use crate::pulse;
use crate::reconcile::{Dead, Known};
use crate::snapshot::Counts;
use crate::snapshot::handle::Root;

/// How often a waiting thread looks whether it is to end.
pub(super) const STOP_INTERVAL: Duration = Duration::from_millis(100);
pub(super) const STATE_BASE: u8 = 0;
pub(super) const STATE_RECORDING: u8 = 1;
const STATE_FAILED: u8 = 2;

/// One volume while it is recorded.
pub(crate) struct Session {
    pub(super) path: PathBuf,
    pub(super) shelf: Arc<Shelf>,
    /// Where copies are wanted.
    pub(super) copies: Option<Arc<Copies>>,
    pub(super) spool_dir: PathBuf,
    pub(super) volume: Volume,
    pub(super) keys: Keys,
    pub(super) root: Arc<Root>,
    pub(super) sink: PipelineSink,
    pub(super) state: AtomicU8,
    pub(super) ring_bytes: u64,
    pub(super) spool_bytes_max: u64,
    parts: Mutex<Option<Parts>>,
    /// Everything up to here is on the volume's own disk, as the newest barrier says.
    pub(super) barrier_seq: AtomicU64,
    /// How the base was taken.
    base: Mutex<Base>,
    /// Misses that were journaled.
    pub(super) misses_seen: Mutex<Misses>,
    /// Nothing more is put down. Held for reading while a record is on its way.
    pub(super) is_ending: RwLock<bool>,
    /// What was seen of it at the last look.
    pub(super) watched: Mutex<Watched>,
    /// Held while a checkpoint is made.
    pub(super) checkpointing: Mutex<()>,
    /// To whoever reads the live file system: what is to be stated again.
    pub(super) restates: SyncSender<Restate>,
    /// Held while it is detached; how that went.
    pub(super) detached: Mutex<Option<Detached>>,
}

/// What the thread needs that reads the live file system.
struct Reading {
    start: Start,
    /// Where the journal before is read.
    store: Arc<dyn Store>,
    to_restate: Receiver<Restate>,
}

/// What ends with the recording.
pub(super) struct Parts {
    pub(super) capture: Capture,
    pub(super) pipeline: Pipeline,
    pub(super) workers: Vec<JoinHandle<()>>,
    /// Makes copies; the end does not wait for it as long as for the others.
    pub(super) copier: Option<JoinHandle<()>>,
    pub(super) _lock: File,
}

impl Session {
    /// Attaches: hooks, proof of the hooks, sync, pipeline; the base and repairs then run on a thread of their own.
    pub(crate) fn start(prepared: Prepared, events: mpsc::Sender<Event>) -> Result<Arc<Self>> {
        let Prepared {
            config,
            volume,
            shelf,
            copies: places,
            keys,
            spool_dir,
            spool_inos,
            excluded_inodes,
            lock,
        } = prepared;
        let root = Arc::new(Root::open(&volume.mount_point, spool_inos.clone())?);
        let place = Place {
            disk: Arc::new(SystemDisk),
            spool_bytes_max: config.spool_bytes_max,
            on_full: config.on_full,
            numbers_file: Path::new(RUN_DIR).join(format!("{}.numbers", volume.uuid)),
            spool_dir: spool_dir.clone(),
            spool_inos,
            shelf: Arc::clone(&shelf),
            keys: keys.clone(),
        };
        let (mut capture, left, start) = match resume::find(&volume, &place, &root)? {
            Some((capture, left)) => {
                let start = Start::Resumed(left.sealed_seq());
                (capture, Some(left), start)
            }
            None => {
                let start = Start::anew(&volume, &place);
                (attach(&volume, config.ring_bytes, excluded_inodes)?, None, start)
            }
        };
        let misses = left.as_ref().map_or_else(Misses::default, Misses::left_by);
        let store: Arc<dyn Store> = shelf.clone();
        let before_ms = state_before(&volume.uuid);
        match Self::begin(place, &volume, &root, &mut capture, (left, start.from())) {
            Ok((pipeline, sink)) => {
                let captured_seq = sink.handle.captured_seq();
                let (restates, to_restate) = sync_channel(1);
                let resumed_ms = start.resumed_seq().and(before_ms).unwrap_or_else(now_ms);
                let session = Arc::new(Self {
                    path: config.path,
                    shelf,
                    copies: Copies::to(&places.paths),
                    spool_dir,
                    volume,
                    keys,
                    root,
                    sink,
                    state: AtomicU8::new(STATE_BASE),
                    ring_bytes: u64::from(config.ring_bytes),
                    spool_bytes_max: config.spool_bytes_max,
                    parts: Mutex::new(None),
                    barrier_seq: AtomicU64::new(0),
                    base: Mutex::default(),
                    misses_seen: Mutex::new(misses),
                    is_ending: RwLock::new(false),
                    watched: Mutex::new(Watched::new(captured_seq, resumed_ms)),
                    checkpointing: Mutex::new(()),
                    restates,
                    detached: Mutex::new(None),
                });
                let reading = Reading {
                    start,
                    store,
                    to_restate,
                };
                session.go_on(capture, pipeline, lock, events, reading)?;
                session.start_others(config.barrier, config.checkpoints)?;
                session.start_copies(places)?;
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
            disk,
            spool_dir,
            spool_inos: _,
            numbers_file,
            shelf,
            keys,
        } = place;
        let brake = capture.take_throttle()?;
        let throttle = (on_full == OnFull::Throttle)
            .then(|| Throttle::new(Box::new(brake), ring.size_bytes(), spool_bytes_max));
        let pipeline = Pipeline::start(PipelineOptions {
            volume: volume_info(volume, root)?,
            disk,
            spool_dir,
            spool_bytes_max,
            numbers_file,
            identity,
            left,
            from,
            store: shelf.clone(),
            changer: Some(shelf),
            signer: Some(keys.signer),
            recipients: keys.recipients,
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
        reading: Reading,
    ) -> Result<()> {
        let requests = Requests {
            receiver: pipeline.take_requests()?,
            handle: pipeline.handle(),
            stop: Arc::clone(&self.sink.stop),
            answering: false,
        };
        let session = Arc::clone(self);
        let told = (Arc::clone(self), events.clone());
        let worker = self.sink.handle.pulses().spawn(
            "snapshots",
            move || match session.base_and_repair(requests, &events, reading) {
                Err(_) if session.sink.stop.load(Ordering::Relaxed) => Ok(()),
                result => result,
            },
            move |error| {
                let (session, events) = told;
                session.state.store(STATE_FAILED, Ordering::Relaxed);
                let error = error.context(format!("snapshots of {}", session.path.display()));
                // Without a receiver the process is ending already.
                let _ending = events.blocking_send(Event::Failed(error));
            },
        )?;
        *self.parts() = Some(Parts {
            capture,
            pipeline,
            workers: vec![worker],
            copier: None,
            _lock: lock,
        });
        Ok(())
    }

    /// Starts the threads without which recording goes on, but not for ever.
    fn start_others(self: &Arc<Self>, interval: Duration, policy: Policy) -> Result<()> {
        self.start_other("barriers", move |session| {
            session.barriers(interval);
            Ok(())
        })?;
        if policy != Policy::default() {
            self.start_other("checkpoints", move |session| {
                session.checkpoints(policy);
                Ok(())
            })?;
        }
        self.start_other("canary", Self::canary)?;
        self.start_other("medium", move |session| {
            session.look_at_medium();
            Ok(())
        })
    }

    fn start_other(
        self: &Arc<Self>,
        name: &'static str,
        run: impl FnOnce(&Self) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let thread = self.spawn(name, run)?;
        if let Some(parts) = &mut *self.parts() {
            parts.workers.push(thread);
        }
        Ok(())
    }

    /// Starts the thread that makes copies, where any are wanted.
    fn start_copies(self: &Arc<Self>, places: Places) -> Result<()> {
        let Some(copies) = self.copies.clone() else {
            return Ok(());
        };
        let thread = self.spawn("copies", move |session| {
            session.make_copies(&copies, places);
            Ok(())
        })?;
        if let Some(parts) = &mut *self.parts() {
            parts.copier = Some(thread);
        }
        Ok(())
    }

    fn spawn(
        self: &Arc<Self>,
        name: &'static str,
        run: impl FnOnce(&Self) -> Result<()> + Send + 'static,
    ) -> Result<JoinHandle<()>> {
        let (session, told) = (Arc::clone(self), Arc::clone(self));
        let died = move |error: anyhow::Error| told.say_death(name, &error);
        let pulses = self.sink.handle.pulses();
        pulses.spawn(name, move || run(&session), died)
    }

    fn base_and_repair(
        &self,
        mut requests: Requests,
        events: &mpsc::Sender<Event>,
        reading: Reading,
    ) -> Result<()> {
        let Reading {
            start,
            store,
            to_restate,
        } = reading;
        let counts = Counts::default();
        let seq = match start {
            Start::Resumed(seq) => seq,
            Start::Anew(dead) => {
                let (known, base) =
                    start::known(dead, (store, &self.keys.identities), &self.volume, &self.root);
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
            pulse::beat();
            match requests.receiver.recv_timeout(STOP_INTERVAL) {
                Ok(request) => {
                    repairs.repair(wanted(request))?;
                    self.sink.handle.served();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if let Ok(Restate { only, done }) = to_restate.try_recv() {
                match only {
                    None => repairs.restate(&mut requests)?,
                    Some(keys) => repairs.restate_these(&keys, &mut requests)?,
                }
                // Whoever asked may have been told to stop.
                let _gone = done.try_send(());
            }
        }
        Ok(())
    }

    pub(super) fn base_taken(&self) -> MutexGuard<'_, Base> {
        self.base.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn base(&self, requests: &mut Requests, counts: &Counts, known: Option<Known>) -> Result<u64> {
        // What happened while the pipeline began is in no event. Now it is on the disk, or has one.
        self.sync()?;
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
