//! The base: snapshots of every inode of a volume, taken while capture already runs.
//!
//! Owns the walk, what it has met, its progress, and the proof that nothing is left out:
//! an inode that the walk never met and that had a name when it ended got that name, in a directory listed before, by a rename or link
//! that was captured since the base began, or lies in a directory that did. The pipeline asks for each such inode when it decodes the
//! operation, and a directory asked for is walked. So the walk is followed by rounds (everything captured so far decoded, its
//! requests served) until a round meets nothing new.
//!
//! Where a journal is gone on with, the walk is the same, but an inode that is as the journal says is not stated again; and what the journal
//! knows and the walk never met is looked for by its handle.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use journal::record::{InodeKey, Op, SnapshotScope};

use crate::pulse;
use crate::reconcile::{Found, Known, KnownChild};
use crate::snapshot::handle::{FileHandle, Root};
use crate::snapshot::look::{is_no_more, look};
use crate::snapshot::{Child, Counts, Sink, Snapshotter, own_record};
use crate::status::bytes as human;

/// Time between two lines of progress where no terminal is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Inodes met, by number alone: a number used again during the base belongs to an inode created meanwhile, which is captured whole.
///
/// A cluster of 64 inode numbers takes 16 bytes and the table's slack, so 20 to 37 bytes: half a byte per inode where numbers are dense (as ext4 and
/// xfs give them out), 37 bytes at worst.
#[derive(Default)]
pub(crate) struct Visited {
    clusters: HashMap<u64, u64>,
}

impl Visited {
    /// Adds a number; whether it is new.
    pub(crate) fn insert(&mut self, ino: u64) -> bool {
        let cluster = self.clusters.entry(ino / 64).or_default();
        let bit = 1 << (ino % 64);
        let is_new = *cluster & bit == 0;
        *cluster |= bit;
        is_new
    }
}

/// What somebody wants to be read from the live file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// An inode whose state is in doubt.
    Inode {
        /// Which.
        key: InodeKey,
        /// What of it.
        scope: SnapshotScope,
        /// Only if the base has not met it, and then with everything below it.
        only_if_unmet: bool,
        /// The hole that this repairs, closed afterwards.
        closes: Option<u64>,
    },
    /// Too much to name: the whole volume.
    Everything {
        /// The hole that this repairs, closed afterwards.
        closes: Option<u64>,
    },
}

/// Where requests come from and how to know that all are there.
pub(crate) trait Demand {
    /// The next request, if one waits.
    fn poll(&mut self) -> Option<Wanted>;
    /// Returns when everything captured up to `seq` is decoded and its requests wait.
    fn settle(&mut self, seq: u64) -> Result<()>;
}

/// Takes the base, or repairs by the same means afterwards.
pub(crate) struct Scan<'a> {
    root: &'a Root,
    sink: &'a dyn Sink,
    counts: &'a Counts,
    visited: Visited,
    progress: Option<Progress>,
    /// What the journal says already.
    known: Option<Known>,
}

impl<'a> Scan<'a> {
    /// For one base of the volume behind `root`.
    pub(crate) fn new(
        root: &'a Root,
        sink: &'a dyn Sink,
        counts: &'a Counts,
        progress: Option<Progress>,
    ) -> Self {
        Self {
            root,
            sink,
            counts,
            visited: Visited::default(),
            progress,
            known: None,
        }
    }

    /// The same, going on from what the journal says already.
    pub(crate) fn going_on(self, known: Option<Known>) -> Self {
        Self { known, ..self }
    }

    /// What was found different from the journal so far, where one is gone on with.
    pub(crate) fn found(&self) -> Option<Found> {
        self.known.as_ref().map(|known| known.found)
    }

    /// The whole base, from BaseBegin to BaseEnd. Returns the sequence number of its end, the first moment that can be restored.
    pub(crate) fn base(&mut self, root_key: InodeKey, demand: &mut dyn Demand) -> Result<u64> {
        self.sink.reserve()?;
        let begin_seq = self.sink.take_seq();
        let continues = self.known.as_ref().map(Known::continued);
        self.sink
            .submit(vec![own_record(
                begin_seq,
                root_key,
                true,
                Op::BaseBegin { continues },
            )])
            .context("begin the base")?;
        self.walk(root_key, demand)?;
        loop {
            let met = self.serve(demand)?;
            self.sink.reserve()?;
            let seq = self.sink.take_seq();
            self.sink
                .submit(vec![own_record(seq, InodeKey::default(), true, Op::SetAttr)])
                .context("end a round of the base")?;
            demand.settle(seq)?;
            if !met && !self.serve(demand)? {
                break;
            }
        }
        self.unmet(demand)?;
        self.sink.reserve()?;
        let end_seq = self.sink.take_seq();
        self.sink
            .submit(vec![own_record(
                end_seq,
                root_key,
                true,
                Op::BaseEnd { begin_seq },
            )])
            .context("end the base")?;
        if let Some(progress) = &self.progress {
            progress.finish(self.counts);
        }
        Ok(end_seq)
    }

    /// Everything below a directory, and itself, as far as not met yet. Between inodes requests are served, so that they do not pile up.
    fn walk(&mut self, from: InodeKey, demand: &mut dyn Demand) -> Result<()> {
        let Some(handle) = self.root.handle(from) else {
            return Ok(());
        };
        // Directories seen and not yet listed: 40 bytes each. Depth first keeps it to the siblings along one path.
        let mut waiting: Vec<(InodeKey, FileHandle)> = vec![(from, handle)];
        while let Some((key, handle)) = waiting.pop() {
            pulse::beat();
            if self.visited.insert(key.ino) {
                self.one(key, &handle, &mut waiting)?;
            }
            // Served only here: a request met during the walk may walk itself, and that is bounded by one level.
            while let Some(wanted) = demand.poll() {
                self.answer(wanted, &mut waiting)?;
            }
        }
        Ok(())
    }

    /// What the journal knows and the walk did not meet: it is no more, or has no name, or gets one again, which is captured.
    fn unmet(&mut self, demand: &mut dyn Demand) -> Result<()> {
        let unmet = self.known.as_ref().map(Known::unmet).unwrap_or_default();
        for key in unmet {
            let is_gone = self.tell_if_gone(key)?;
            match &mut self.known {
                Some(known) if is_gone => known.is_gone(key),
                _ => self.walk(key, demand)?,
            }
        }
        Ok(())
    }

    /// States everything that has a name again, while recording goes on; requests are answered meanwhile.
    ///
    /// # Errors
    /// Only where records cannot be handed over.
    pub(crate) fn restate(&mut self, demand: &mut dyn Demand) -> Result<()> {
        self.visited = Visited::default();
        self.walk(self.root.top().key().unwrap_or_default(), demand)
    }

    /// States these inodes again, or that they are no more.
    ///
    /// # Errors
    /// As [`Scan::restate`].
    pub(crate) fn restate_these(&mut self, keys: &[InodeKey], demand: &mut dyn Demand) -> Result<()> {
        for &key in keys {
            if !self.tell_if_gone(key)? {
                Snapshotter::new(self.root, self.sink, self.counts).inode(key, SnapshotScope::Whole)?;
            }
            self.serve(demand)?;
        }
        Ok(())
    }

    /// Whether an inode is no more; then the journal says so. A number is never given twice to an inode: one that is gone stays gone.
    fn tell_if_gone(&self, key: InodeKey) -> Result<bool> {
        pulse::beat();
        self.sink.reserve()?;
        let seq = self.sink.take_seq();
        let is_gone = is_no_more(self.root, key);
        let op = if is_gone { Op::Evict } else { Op::SetAttr };
        self.sink
            .submit(vec![own_record(seq, key, true, op)])
            .context("tell what is gone")?;
        Ok(is_gone)
    }

    fn one(
        &mut self,
        key: InodeKey,
        handle: &FileHandle,
        waiting: &mut Vec<(InodeKey, FileHandle)>,
    ) -> Result<()> {
        let Self {
            root,
            sink,
            counts,
            visited,
            progress,
            known,
        } = self;
        let snapshotter = Snapshotter::new(root, *sink, counts);
        let mut is_as_known = |key: InodeKey, handle: &FileHandle| {
            known
                .as_mut()
                .and_then(|known| known.meet(key, || look(root, handle)))
        };
        let as_known = is_as_known(key, handle);
        let mut met = |child: Child| {
            pulse::beat();
            if !child.is_leaf {
                waiting.push((child.key, child.handle));
            } else if visited.insert(child.key.ino) && is_as_known(child.key, &child.handle).is_none() {
                snapshotter.by_handle(child.key, &child.handle, SnapshotScope::Whole, &mut |_| Ok(()))?;
            }
            if let Some(progress) = progress {
                progress.tick(counts);
            }
            Ok(())
        };
        match as_known {
            Some(children) => children
                .into_iter()
                .filter_map(|KnownChild { key, is_leaf }| {
                    let handle = root.handle(key)?;
                    Some(Child { key, handle, is_leaf })
                })
                .try_for_each(met),
            None => snapshotter
                .by_handle(key, handle, SnapshotScope::Whole, &mut met)
                .map(drop),
        }
    }

    /// Serves what waits; whether an inode was met that was not met before.
    fn serve(&mut self, demand: &mut dyn Demand) -> Result<bool> {
        let mut met = false;
        while let Some(wanted) = demand.poll() {
            let mut waiting = Vec::new();
            met |= self.answer(wanted, &mut waiting)?;
            for (key, _) in waiting {
                self.walk(key, demand)?;
            }
        }
        Ok(met)
    }

    /// Answers one request; directories to be walked for it are added to `waiting`.
    fn answer(&mut self, wanted: Wanted, waiting: &mut Vec<(InodeKey, FileHandle)>) -> Result<bool> {
        match wanted {
            Wanted::Inode {
                key,
                only_if_unmet: true,
                ..
            } => {
                let Some(handle) = self.root.handle(key) else {
                    return Ok(false);
                };
                let is_new = self.visited.insert(key.ino);
                if is_new {
                    self.one(key, &handle, waiting)?;
                }
                Ok(is_new)
            }
            Wanted::Inode {
                key,
                scope,
                only_if_unmet: false,
                closes,
            } => {
                Snapshotter::new(self.root, self.sink, self.counts).inode(key, scope)?;
                self.close(closes)?;
                Ok(false)
            }
            Wanted::Everything { closes } => {
                let everything = std::mem::take(&mut self.visited);
                // What is lost may be of any inode, whatever it looks like.
                let known = self.known.take();
                let result = self.walk(self.root.top().key().unwrap_or_default(), &mut Nothing);
                // Met before or now: a round of the base must not see them as new.
                for (cluster, bits) in everything.clusters {
                    *self.visited.clusters.entry(cluster).or_default() |= bits;
                }
                self.known = known;
                result?;
                self.close(closes)?;
                Ok(false)
            }
        }
    }

    /// Answers one request after the base.
    pub(crate) fn repair(&mut self, wanted: Wanted) -> Result<()> {
        // What was met in an earlier repair says nothing now.
        self.visited = Visited::default();
        let mut waiting = Vec::new();
        self.answer(wanted, &mut waiting)?;
        waiting
            .into_iter()
            .try_for_each(|(key, _)| self.walk(key, &mut Nothing))
    }

    fn close(&self, hole_seq: Option<u64>) -> Result<()> {
        let Some(hole_seq) = hole_seq else { return Ok(()) };
        self.sink.reserve()?;
        let seq = self.sink.take_seq();
        self.sink
            .submit(vec![own_record(
                seq,
                InodeKey::default(),
                false,
                Op::HoleClosed { hole_seq },
            )])
            .context("close a hole")
    }
}

/// A demand for nothing.
struct Nothing;

impl Demand for Nothing {
    fn poll(&mut self) -> Option<Wanted> {
        None
    }
    fn settle(&mut self, _seq: u64) -> Result<()> {
        Ok(())
    }
}

/// Shows how far the base is: a bar on a terminal, a line every ten seconds otherwise.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    path: String,
    used_bytes: u64,
    next_line: Instant,
}

impl Progress {
    /// `used_bytes`: what the volume holds, as far as it knows.
    pub(crate) fn new(path: String, used_bytes: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}");
            let bar = ProgressBar::new(used_bytes).with_prefix(format!("base of {path}"));
            style.map_or(bar.clone(), |style| bar.with_style(style))
        });
        Self {
            bar,
            path,
            used_bytes,
            next_line: Instant::now() + PROGRESS_INTERVAL,
        }
    }

    fn tick(&mut self, counts: &Counts) {
        let (inodes, bytes) = (
            counts.inodes.load(Ordering::Relaxed),
            counts.bytes.load(Ordering::Relaxed),
        );
        if let Some(bar) = &self.bar {
            bar.set_position(bytes.min(self.used_bytes));
            bar.set_message(format!("{inodes} files"));
        } else if Instant::now() >= self.next_line {
            self.next_line = Instant::now() + PROGRESS_INTERVAL;
            eprintln!(
                "base of {}: {inodes} files, {} of about {}",
                self.path,
                human(bytes),
                human(self.used_bytes)
            );
        }
    }

    fn finish(&self, counts: &Counts) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let (inodes, bytes) = (
            counts.inodes.load(Ordering::Relaxed),
            counts.bytes.load(Ordering::Relaxed),
        );
        eprintln!("base of {}: done, {inodes} files, {}", self.path, human(bytes));
        let failed = counts.failed.load(Ordering::Relaxed);
        if failed > 0 {
            eprintln!(
                "base of {}: {failed} files could not be read: they are holes in the journal",
                self.path
            );
        }
    }
}
