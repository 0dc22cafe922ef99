//! Reads ahead: records, and later the data that is left, are read, compared with what was sealed, unpacked and decoded on a thread of their own,
//! while those before are used. Owns how much waits between the two threads; knows nothing of what is made of it.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use anyhow::{Context, Result, anyhow};
use journal::record::{Op, Record};
use journal::{Data, Projection, Segment, Span};
use tracing::info;

use crate::media::Point;
use crate::progress::{Progress, Unit};
use crate::restore::plan::{Plan, RowRef};

/// Bytes of data that are handed over at once.
const LOT_BYTES: usize = 8 << 20;
/// Records that are handed over at once.
const LOT_RECORDS: usize = 1024;
/// Lots that are read and wait to be used; one more is being read, and one used.
const LOTS_AHEAD: usize = 4;

/// Rows with their data.
type Lot = Vec<(RowRef, Data)>;

/// What the reader of records hands over.
enum Step {
    Records(Vec<(journal::RowRef, Record)>),
    /// So many bytes more of the journal are read.
    Progress(u64),
}

/// The other end is gone: whoever used what was read has failed, and says why.
struct Gone;

impl Point<'_> {
    /// Reads the records up to the moment, in order. What is read is compared with what was sealed before anything of it is used.
    pub(crate) fn each(
        &self,
        projection: Projection,
        mut take: impl FnMut(journal::RowRef, &Record) -> Result<()>,
    ) -> Result<()> {
        let spans = self.spans()?;
        let segments = spans.iter().flat_map(|(_, segments)| segments);
        let total = segments.map(|segment| cost(segment, projection)).sum();
        let mut progress = Progress::start("reading the journal", Unit::Bytes, total);
        let (sender, receiver) = sync_channel(LOTS_AHEAD);
        thread::scope(|scope| {
            let reading = scope.spawn(move || send_records(&spans, projection, &sender));
            for step in receiver {
                match step {
                    Step::Records(lot) => {
                        for (row, record) in &lot {
                            take(*row, record)?;
                        }
                    }
                    Step::Progress(bytes) => progress.add(bytes),
                }
            }
            reading
                .join()
                .map_err(|_| anyhow!("reading the journal panicked"))?
        })
    }

    /// Hands over the rows that hold pieces of the plan, in the order of the journal, with their data. Row groups without any are not
    /// read. The next rows are read and unpacked while these are written.
    pub(crate) fn read_rows(
        &self,
        plan: &Plan,
        write: &mut dyn FnMut(RowRef, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let (sender, receiver) = sync_channel(LOTS_AHEAD);
        thread::scope(|scope| {
            let reading = scope.spawn(move || self.send_rows(plan, &sender));
            for lot in receiver {
                for (row, data) in lot {
                    write(row, &data)?;
                }
            }
            reading
                .join()
                .map_err(|_| anyhow!("reading the journal panicked"))?
        })?;
        info!("all data read");
        Ok(())
    }

    fn send_rows(&self, plan: &Plan, lots: &SyncSender<Lot>) -> Result<()> {
        for pieces in plan.pieces.chunk_by(|a, b| a.row.segment == b.row.segment) {
            let Some(segment) = pieces.first().map(|piece| piece.row.segment) else {
                continue;
            };
            let mut rows: Vec<u64> = pieces.iter().map(|piece| u64::from(piece.row.row)).collect();
            rows.dedup();
            let (mut lot, mut bytes) = (Lot::new(), 0);
            for item in self.data(segment, rows)? {
                let (row, data) = item?;
                let row = u32::try_from(row).context("too many rows in a segment")?;
                bytes += data.len();
                lot.push((RowRef { segment, row }, data));
                if bytes >= LOT_BYTES {
                    bytes = 0;
                    if lots.send(std::mem::take(&mut lot)).is_err() {
                        // Whoever writes has failed, and says why.
                        return Ok(());
                    }
                }
            }
            if lots.send(lot).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Bytes of a segment that are read.
fn cost(segment: &Segment, projection: Projection) -> u64 {
    match projection {
        Projection::State | Projection::Metadata => segment.manifest.metadata_bytes(),
        Projection::All => segment.manifest.bytes,
    }
}

/// Sends the records of all segments, in order, until the other end is gone.
fn send_records(
    spans: &[(Span, Vec<&Segment>)],
    projection: Projection,
    steps: &SyncSender<Step>,
) -> Result<()> {
    for (span, segments) in spans {
        for segment in segments {
            let mut lots = Lots {
                records: Vec::new(),
                bytes: 0,
                steps,
            };
            let sent = lots.fill(span, segment, projection);
            // Those before an error are used before it is told.
            let Ok(()) = lots.send() else { return Ok(()) };
            let Ok(()) = sent? else { return Ok(()) };
            if steps.send(Step::Progress(cost(segment, projection))).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Records that are gathered to be sent.
struct Lots<'a> {
    records: Vec<(journal::RowRef, Record)>,
    /// Of data in these.
    bytes: usize,
    steps: &'a SyncSender<Step>,
}

impl Lots<'_> {
    fn fill(&mut self, span: &Span, segment: &Segment, projection: Projection) -> Result<Result<(), Gone>> {
        for item in segment.records(projection)? {
            let (row, record) = item?;
            if record.seq < span.base_seq || record.seq > span.seq {
                continue;
            }
            if let Op::Write { data, .. } = &record.op {
                self.bytes += data.len();
            }
            self.records.push((row, record));
            if (self.bytes >= LOT_BYTES || self.records.len() >= LOT_RECORDS)
                && let Err(gone) = self.send()
            {
                return Ok(Err(gone));
            }
        }
        Ok(Ok(()))
    }

    fn send(&mut self) -> Result<(), Gone> {
        self.bytes = 0;
        let lot = std::mem::replace(&mut self.records, Vec::with_capacity(LOT_RECORDS));
        self.steps.send(Step::Records(lot)).map_err(|_| Gone)
    }
}
