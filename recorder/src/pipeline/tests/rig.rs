//! What the tests of the pipeline are made of: a ring and a counter of their own, and the journal read back. The medium is in `medium`.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use abi::{DataBody, EventKind, Head, InodeRef, LostSlot};
use anyhow::Result;
use journal::record::{InodeKey, Op, Record};
use journal::store::disk::{Disk, SystemDisk};
use journal::{Label, Projection, Reader, VolumeInfo};

use super::super::{Events, Handle, Identity, Left, Limits, Numbers, Pipeline, PipelineOptions, Request};
pub(super) use super::medium::Medium;
use crate::pulse::{Place, Watched};
use crate::reconcile::Dead;
use crate::snapshot::own_record;

/// How long anything may take before a test says that it hangs.
pub(super) const TOO_LONG: Duration = Duration::from_secs(30);
pub(super) const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";
/// Name of the file of own numbers.
const NUMBERS: &str = "numbers";

/// The kernel's side: ring, counter, what was lost.
#[derive(Default)]
pub(super) struct Kernel {
    ring: Mutex<VecDeque<Vec<u8>>>,
    next: AtomicU64,
    lost: Mutex<Vec<LostSlot>>,
    /// The reader of the ring panics.
    pub(super) panics: AtomicBool,
    /// Readers of the ring that were killed: they get nothing more, and let go of nothing.
    killed: AtomicU64,
}

struct Ring {
    kernel: Arc<Kernel>,
    /// Events handed out and not let go: they are the first ones in the ring.
    handed_out: usize,
    /// How many were killed before this one began.
    number: u64,
}

impl Ring {
    fn of(kernel: &Arc<Kernel>) -> Self {
        Self {
            kernel: Arc::clone(kernel),
            handed_out: 0,
            number: kernel.killed.load(Ordering::SeqCst),
        }
    }

    fn is_killed(&self) -> bool {
        self.number != self.kernel.killed.load(Ordering::SeqCst)
    }
}

impl Events for Ring {
    fn drain(&mut self, bytes_max: usize, mut take: impl FnMut(&[u8])) -> usize {
        assert!(!self.kernel.panics.load(Ordering::SeqCst), "told to panic");
        let mut bytes = 0;
        while bytes < bytes_max {
            let ring = self.kernel.ring.lock().unwrap();
            let Some(event) = ring.get(self.handed_out).filter(|_| !self.is_killed()).cloned() else {
                break;
            };
            drop(ring);
            self.handed_out += 1;
            take(&event);
            bytes += event.len();
        }
        bytes
    }

    fn release(&mut self) {
        let mut ring = self.kernel.ring.lock().unwrap();
        if !self.is_killed() {
            ring.drain(..self.handed_out);
        }
        self.handed_out = 0;
    }

    fn fill_bytes(&self) -> u64 {
        let ring = self.kernel.ring.lock().unwrap();
        ring.iter().map(|event| event.len() as u64).sum()
    }

    fn wait(&self, timeout: Duration) -> Result<()> {
        std::thread::sleep(timeout.min(Duration::from_millis(1)));
        Ok(())
    }
}

impl Numbers for Kernel {
    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    fn peek(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    fn read_lost(&self, cursor: &mut u64) -> Option<Vec<LostSlot>> {
        let lost = self.lost.lock().unwrap();
        let new = lost[usize::try_from(*cursor).unwrap()..].to_vec();
        *cursor = lost.len() as u64;
        Some(new)
    }
}

/// A write of `bytes` bytes to inode `ino` as it stands in the ring.
pub(super) fn write_event(seq: u64, ino: u64, bytes: usize) -> Vec<u8> {
    let length = size_of::<Head>() + size_of::<DataBody>() + bytes;
    let mut head = Head {
        size: u32::try_from(length).unwrap(),
        kind: EventKind::Write as u16,
        seq,
        ..Head::default()
    };
    head.state.inode = InodeRef {
        ino,
        generation: 1,
        pad: 0,
    };
    let body = DataBody {
        // Apart from each other, so that nothing is merged.
        offset: seq * (1 << 20),
        length: u32::try_from(bytes).unwrap(),
        pad: 0,
    };
    let mut event = Vec::with_capacity(length);
    // SAFETY: plain structs of integers with explicit padding.
    unsafe {
        event.extend_from_slice(std::slice::from_raw_parts(
            std::ptr::from_ref(&head).cast::<u8>(),
            size_of::<Head>(),
        ));
        event.extend_from_slice(std::slice::from_raw_parts(
            std::ptr::from_ref(&body).cast::<u8>(),
            size_of::<DataBody>(),
        ));
    }
    event.resize(length, u8::try_from(seq % 251).unwrap());
    event
}

/// An event that says no more than its flags.
pub(super) fn bare_event(seq: u64, ino: u64, kind: EventKind, flags: u16) -> Vec<u8> {
    let mut head = Head {
        size: u32::try_from(size_of::<Head>()).unwrap(),
        kind: kind as u16,
        flags,
        seq,
        ..Head::default()
    };
    head.state.inode = InodeRef {
        ino,
        generation: 1,
        pad: 0,
    };
    // SAFETY: a plain struct of integers with explicit padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(&head).cast::<u8>(), size_of::<Head>()) }.to_vec()
}

/// Bounds that do not keep a test waiting.
pub(super) fn limits() -> Limits {
    Limits {
        grace: Duration::from_millis(200),
        window_bytes_max: 1 << 20,
        seal_after: Duration::from_millis(300),
        segment_bytes: 2 << 20,
        unsealed_bytes_max: 4 << 20,
        retry: Duration::from_millis(20),
        patience: Duration::from_secs(2),
        stuck: Duration::from_secs(3),
        stall: Duration::from_millis(400),
        spool_file_bytes: 12 << 20,
    }
}

/// A running pipeline and everything around it.
pub(super) struct Rig {
    pub(super) kernel: Arc<Kernel>,
    pub(super) medium: Medium,
    pub(super) pipeline: Pipeline,
    pub(super) handle: Handle,
    pub(super) requests: Receiver<Request>,
    disk: Arc<dyn Disk>,
    spool: tempfile::TempDir,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(limits())
    }

    pub(super) fn with(limits: Limits) -> Self {
        let medium = Medium::default();
        Label::ensure(&medium, b"replayer", 0).unwrap();
        let spool = tempfile::tempdir().unwrap();
        Self::on(Remains::before(medium, Arc::new(SystemDisk), spool), limits, None)
    }

    fn on(remains: Remains, limits: Limits, left: Option<Left>) -> Self {
        Self::start(remains, limits, left, None).ok().unwrap()
    }

    /// Begins, or leaves everything as it was.
    pub(super) fn start(
        remains: Remains,
        limits: Limits,
        left: Option<Left>,
        from: Option<&Dead>,
    ) -> Result<Self, (anyhow::Error, Remains)> {
        let Remains {
            kernel,
            medium,
            disk,
            spool,
        } = remains;
        let started = Pipeline::start(PipelineOptions {
            volume: VolumeInfo {
                uuid: UUID.to_owned(),
                fs_type: "ext4".to_owned(),
                label: String::new(),
                block_size: 4096,
                size_bytes: 1 << 30,
                root: InodeKey {
                    ino: 2,
                    generation: 0,
                },
                mount_path: "/origin".to_owned(),
                hostname: "test".to_owned(),
            },
            numbers_file: spool.path().join(NUMBERS),
            identity: Identity::default(),
            left,
            from,
            disk: Arc::clone(&disk),
            spool_dir: spool.path().to_owned(),
            spool_bytes_max: 4 * limits.spool_file_bytes,
            store: Arc::new(Watched(medium.clone(), Place::Medium)),
            changer: medium.changer.clone(),
            signer: None,
            recipients: None,
            events: Ring::of(&kernel),
            numbers: Arc::clone(&kernel) as Arc<dyn Numbers>,
            throttle: None,
            limits,
        });
        match started {
            Ok(mut pipeline) => Ok(Self {
                handle: pipeline.handle(),
                requests: pipeline.take_requests().unwrap(),
                kernel,
                medium,
                pipeline,
                disk,
                spool,
            }),
            Err(error) => Err((
                error,
                Remains {
                    kernel,
                    medium,
                    disk,
                    spool,
                },
            )),
        }
    }

    /// Ends the threads wherever they are, as far as a test can; what they had in memory is gone.
    pub(super) fn kill(self) -> Remains {
        let Self {
            kernel,
            medium,
            mut pipeline,
            disk,
            spool,
            ..
        } = self;
        {
            let _between_two_events = kernel.ring.lock().unwrap();
            kernel.killed.fetch_add(1, Ordering::SeqCst);
        }
        pipeline.shared.fail("all", &anyhow::anyhow!("killed by a test"));
        // It must not take this for an end, at which what is missing is given up.
        pipeline.cold.take().unwrap().join().unwrap();
        pipeline.stop().unwrap_err();
        Remains {
            kernel,
            medium,
            disk,
            spool,
        }
    }

    /// A number as the kernel takes it.
    pub(super) fn number(&self) -> u64 {
        self.kernel.next()
    }

    /// Puts an event into the ring.
    pub(super) fn arrive(&self, event: Vec<u8>) {
        self.kernel.ring.lock().unwrap().push_back(event);
    }

    /// One write, captured; returns its number.
    pub(super) fn captured(&self, ino: u64, bytes: usize) -> u64 {
        let seq = self.number();
        self.arrive(write_event(seq, ino, bytes));
        seq
    }

    /// What the kernel remembers of an event that found no room.
    pub(super) fn lost(&self, slot: LostSlot) {
        self.kernel.lost.lock().unwrap().push(slot);
    }

    /// A record of the recorder's own; returns its number.
    pub(super) fn own(&self, op: Op) -> u64 {
        let seq = self.handle.take_seq();
        self.submit(seq, op);
        seq
    }

    pub(super) fn submit(&self, seq: u64, op: Op) {
        self.try_submit(seq, op).unwrap();
    }

    pub(super) fn try_submit(&self, seq: u64, op: Op) -> Result<()> {
        self.handle
            .submit(vec![own_record(seq, InodeKey::default(), false, op)])
    }

    pub(super) fn flush(&self) {
        let seq = self.own(Op::Barrier { up_to: None });
        self.handle.flush_or_say(seq, TOO_LONG).unwrap();
    }

    /// The next request.
    pub(super) fn request(&self) -> Request {
        self.requests.recv_timeout(TOO_LONG).expect("a request")
    }

    /// Waits until something holds.
    pub(super) fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < TOO_LONG, "{what}: not so after {TOO_LONG:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The spool's files of frames.
    pub(super) fn spool_files(&self) -> Vec<PathBuf> {
        spool_files(&self.spool)
    }

    /// Stops; returns what came of it, the medium, and the spool, which is still there.
    pub(super) fn stop(self) -> (Result<()>, Medium, tempfile::TempDir) {
        let Self {
            medium,
            pipeline,
            spool,
            ..
        } = self;
        (pipeline.stop(), medium, spool)
    }
}

/// Files of frames in the directory of a spool.
pub(super) fn spool_files(spool: &tempfile::TempDir) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(spool.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("spool-"))
        .collect();
    files.sort();
    files
}

/// What is there after a kill: the kernel goes on.
pub(super) struct Remains {
    kernel: Arc<Kernel>,
    pub(super) medium: Medium,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) spool: tempfile::TempDir,
}

impl Remains {
    /// Nothing was recorded yet.
    pub(super) fn before(medium: Medium, disk: Arc<dyn Disk>, spool: tempfile::TempDir) -> Self {
        let kernel = Arc::new(Kernel {
            next: AtomicU64::new(1),
            ..Kernel::default()
        });
        Self {
            kernel,
            medium,
            disk,
            spool,
        }
    }

    /// As the kernel goes on: one write, captured; returns its number.
    pub(super) fn captured(&self, ino: u64, bytes: usize) -> u64 {
        let seq = self.kernel.next();
        let event = write_event(seq, ino, bytes);
        self.kernel.ring.lock().unwrap().push_back(event);
        seq
    }

    /// What can be gone on with.
    pub(super) fn find(&self) -> Result<Left> {
        let limits = limits();
        Left::find(
            &self.medium,
            UUID,
            &self.disk,
            self.spool.path(),
            (4 * limits.spool_file_bytes, limits.spool_file_bytes),
            &self.spool.path().join(NUMBERS),
            |_| Ok(()),
        )
    }

    /// Another recording of the same volume begins, which knows nothing of what was before.
    pub(super) fn anew(self, limits: Limits) -> Rig {
        Rig::on(self, limits, None)
    }

    /// Another recording of the same volume begins, whose base goes on from what was before.
    pub(super) fn from(self, limits: Limits, dead: &Dead) -> Rig {
        Rig::start(self, limits, None, Some(dead)).ok().unwrap()
    }

    /// Another recorder goes on.
    pub(super) fn resume(self) -> Rig {
        self.resume_with(limits())
    }

    /// The same, with other bounds.
    pub(super) fn resume_with(self, limits: Limits) -> Rig {
        let left = self.find().unwrap();
        Rig::on(self, limits, Some(left))
    }
}

/// The journal on the medium: chain, hashes and every record are verified.
pub(super) fn records(medium: &Medium) -> Vec<Record> {
    let reader = Reader::open(vec![Arc::new(medium.clone())]).unwrap();
    let journal = reader.journal(Some(UUID)).unwrap();
    assert!(journal.problems().is_empty(), "{:?}", journal.problems());
    let mut records = Vec::new();
    for segment in journal.segments() {
        segment.check_hash().unwrap();
        records.extend(
            segment
                .records(Projection::All)
                .unwrap()
                .map(|item| item.unwrap().1),
        );
    }
    records
}

/// The holes in the journal, first and last number of each, and that every number from 1 on is accounted for exactly once.
pub(super) fn holes(records: &[Record]) -> Vec<(u64, u64)> {
    let mut next = 1;
    for record in records {
        assert_eq!(record.seq, next, "after the records before it");
        next = match record.op {
            Op::Hole { last_seq, .. } => last_seq,
            _ => record.last_seq,
        } + 1;
    }
    records
        .iter()
        .filter_map(|record| match record.op {
            Op::Hole { last_seq, .. } => Some((record.seq, last_seq)),
            _ => None,
        })
        .collect()
}

/// The last number that the journal accounts for.
pub(super) fn last(records: &[Record]) -> u64 {
    records.last().map_or(0, |record| match record.op {
        Op::Hole { last_seq, .. } => last_seq,
        _ => record.last_seq,
    })
}
