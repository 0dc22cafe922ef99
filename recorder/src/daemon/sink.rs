//! Between the snapshots and the pipeline: numbers and records one way, requests the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use anyhow::{Result, bail};
use journal::record::Record;

use crate::base::{Demand, Wanted};
use crate::pipeline::{Handle, Request};
use crate::pulse;
use crate::snapshot::Sink;

/// Numbers from the volume's counter, records into its pipeline.
#[derive(Clone)]
pub(super) struct PipelineSink {
    pub(super) handle: Handle,
    /// Snapshots are to end.
    pub(super) stop: Arc<AtomicBool>,
}

impl Sink for PipelineSink {
    fn reserve(&self) -> Result<()> {
        pulse::beat();
        if self.stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        self.handle.reserve(&self.stop)
    }

    fn take_seq(&self) -> u64 {
        self.handle.take_seq()
    }

    fn submit(&self, records: Vec<Record>) -> Result<()> {
        pulse::beat();
        self.handle.submit(records)
    }
}

/// Requests of the pipeline's decoder.
pub(super) struct Requests {
    pub(super) receiver: Receiver<Request>,
    pub(super) handle: Handle,
    /// Snapshots are to end.
    pub(super) stop: Arc<AtomicBool>,
    /// The one handed out last is being answered.
    pub(super) answering: bool,
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
        self.handle.flush(seq, &self.stop)
    }
}

/// A request in the words of the base.
pub(super) fn wanted(request: Request) -> Wanted {
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
