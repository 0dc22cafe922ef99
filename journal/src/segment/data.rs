//! Reads the data of some rows of a segment.

use std::sync::Arc;

use arrow_array::{Array, BinaryArray};
use arrow_buffer::Buffer;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, RowSelection};

use super::read::{Opened, guarded};
use crate::error::{Error, Result};
use crate::schema;
use crate::store::ReadAt;

/// The data of some rows of a segment, in order; of all columns no other is read, and no row group that has none of them.
pub(crate) struct DataReader {
    segment: Opened,
    /// Wanted and not yet met; rising.
    rows: std::vec::IntoIter<u64>,
    /// Of the row group that is being read.
    batches: Option<ParquetRecordBatchReader>,
    batch: Option<BinaryArray>,
    next: usize,
    next_group: usize,
    /// First row of the next row group.
    next_row: u64,
}

impl DataReader {
    /// Opens a segment called `name` in messages, to read rows that rise.
    pub(crate) fn new(object: Arc<dyn ReadAt>, name: &str, rows: Vec<u64>) -> Result<Self> {
        Ok(Self {
            segment: Opened::new(object, name)?,
            rows: rows.into_iter(),
            batches: None,
            batch: None,
            next: 0,
            next_group: 0,
            next_row: 0,
        })
    }

    fn broken(&self, why: impl std::fmt::Display) -> Error {
        Error::Integrity(format!("{}: {why}", self.segment.name))
    }

    /// Goes on to the row group that the next row wanted is in.
    fn begin_group(&mut self) -> Result<()> {
        let Some(&wanted) = self.rows.as_slice().first() else {
            return Ok(());
        };
        while self.next_group < self.segment.row_groups() {
            let (group, first) = (self.next_group, self.next_row);
            let end = first.saturating_add(self.segment.rows(group));
            (self.next_group, self.next_row) = (group + 1, end);
            if wanted < first {
                break;
            }
            if wanted < end {
                let rows = self.rows.as_slice();
                let of_group = &rows[..rows.partition_point(|row| *row < end)];
                let runs = of_group
                    .iter()
                    .map(|row| ((row - first) as usize)..((row - first) as usize + 1));
                let selection = RowSelection::from_consecutive_ranges(runs, (end - first) as usize);
                let is_data = |column: &str| column == schema::DATA;
                self.batches = Some(self.segment.read(group, is_data, Some(selection))?);
                return Ok(());
            }
        }
        Err(self.broken(format!("it has no row {wanted}")))
    }

    fn next_batch(&mut self) -> Result<bool> {
        loop {
            let Some(batches) = &mut self.batches else {
                self.begin_group()?;
                if self.batches.is_none() {
                    return Ok(false);
                }
                continue;
            };
            match guarded(&self.segment.name, || batches.next())? {
                Some(Ok(batch)) => {
                    let column = batch.column_by_name(schema::DATA);
                    let array = column.and_then(|column| column.as_any().downcast_ref::<BinaryArray>());
                    self.batch = Some(array.cloned().ok_or_else(|| self.broken("no data in it"))?);
                    self.next = 0;
                    return Ok(true);
                }
                Some(Err(error)) => {
                    return Err(self.segment.explain(format_args!(": {error}")));
                }
                None => self.batches = None,
            }
        }
    }

    fn step(&mut self) -> Result<Option<(u64, Data)>> {
        loop {
            if let Some(batch) = &self.batch
                && self.next < batch.len()
            {
                let index = self.next;
                self.next += 1;
                let row = self
                    .rows
                    .next()
                    .ok_or_else(|| self.broken("more rows than were asked for"))?;
                if batch.is_null(index) {
                    return Err(self.broken(format!("row {row} holds no data")));
                }
                let (start, end) = (batch.value_offsets()[index], batch.value_offsets()[index + 1]);
                // Arrow has checked that offsets rise within the values.
                let bytes = batch
                    .values()
                    .slice_with_length(start as usize, (end - start) as usize);
                return Ok(Some((row, Data(bytes))));
            }
            if !self.next_batch()? {
                return Ok(None);
            }
        }
    }
}

impl Iterator for DataReader {
    /// Row number in the segment, and its data.
    type Item = Result<(u64, Data)>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.step();
        if item.is_err() {
            // What would come after it is nothing to go by.
            (self.rows, self.batch, self.batches) = (Vec::new().into_iter(), None, None);
        }
        item.transpose()
    }
}

/// Data of a row, without a copy of its own.
pub struct Data(Buffer);

impl std::ops::Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
