//! Opens a segment, and reads its records in order.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
    RowSelection,
};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::Statistics;

use super::FOOTER_BYTES_MAX;
use crate::convert::from_row;
use crate::error::{Error, Result};
use crate::pages;
use crate::record::Record;
use crate::schema::{self, Columns};
use crate::store::ReadAt;

/// Rows decoded at once.
const BATCH_ROWS: usize = 1024;
/// Bytes that hold the header of most pages.
const PAGE_HEADER_BYTES: usize = 256;

/// Which columns are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// What became of the volume, and not by whom: neither data nor actors, who read as nobody.
    State,
    /// All but the data: `Op::Write` then has its length and no bytes.
    Metadata,
    /// Everything.
    All,
}

impl Projection {
    fn has(self, column: &str) -> bool {
        match self {
            Self::State => column != schema::DATA && !schema::ACTOR.contains(&column),
            Self::Metadata => column != schema::DATA,
            Self::All => true,
        }
    }
}

/// An object as Parquet's reader wants it.
#[derive(Clone)]
struct Chunks {
    object: Arc<dyn ReadAt>,
    /// What the medium answered last: Parquet passes some errors on as text only, and a medium that fails must be told from a segment that is none.
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Chunks {
    fn note(&self, error: &io::Error) {
        if !is_content(error) {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            *failure = Some(io::Error::new(error.kind(), error.to_string()));
        }
    }

    /// Why reading failed: what the medium answered, or else what Parquet says.
    fn explain(&self, name: &str, why: impl std::fmt::Display) -> Error {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match failure.take() {
            Some(source) => Error::io(format!("read {name}"), source),
            None => Error::Integrity(format!("{name}{why}")),
        }
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.object.bytes()
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<ChunkRead>;

    /// For the headers of pages, which are read byte by byte; their content comes by `get_bytes`.
    fn get_read(&self, start: u64) -> parquet::errors::Result<BufReader<ChunkRead>> {
        let read = ChunkRead {
            chunks: self.clone(),
            offset: start,
        };
        Ok(BufReader::with_capacity(PAGE_HEADER_BYTES, read))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        Ok(self
            .object
            .read_bytes(start, length)
            .inspect_err(|error| self.note(error))?)
    }
}

/// Sequential reading from a place in an object.
struct ChunkRead {
    chunks: Chunks,
    offset: u64,
}

impl Read for ChunkRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Chunks { object, .. } = &self.chunks;
        let left = object.run(self.offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        object
            .read_exact_at(&mut buffer[..length], self.offset)
            .inspect_err(|error| self.chunks.note(error))?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// A segment whose footer was read: its row groups one by one.
pub(crate) struct Opened {
    pub(super) name: String,
    chunks: Chunks,
    metadata: ArrowReaderMetadata,
}

impl Opened {
    /// Opens a segment called `name` in messages.
    pub(crate) fn new(object: Arc<dyn ReadAt>, name: &str) -> Result<Self> {
        check_footer(&*object).map_err(|error| no_segment(name, error))?;
        // What Arrow left in the file of its own is not needed, and not looked at.
        let options = ArrowReaderOptions::default().with_skip_arrow_metadata(true);
        let chunks = Chunks {
            object,
            failure: Arc::default(),
        };
        let metadata = guarded(name, || ArrowReaderMetadata::load(&chunks, options))?
            .map_err(|error| chunks.explain(name, format_args!(" is no segment: {error}")))?;
        Ok(Self {
            name: name.to_owned(),
            chunks,
            metadata,
        })
    }

    /// Why reading failed: what the medium answered, or else what Parquet says.
    pub(super) fn explain(&self, why: impl std::fmt::Display) -> Error {
        self.chunks.explain(&self.name, why)
    }

    fn parquet(&self) -> &ParquetMetaData {
        self.metadata.metadata()
    }

    pub(super) fn row_groups(&self) -> usize {
        self.parquet().num_row_groups()
    }

    /// Rows of a row group.
    pub(super) fn rows(&self, group: usize) -> u64 {
        u64::try_from(self.parquet().row_group(group).num_rows()).unwrap_or(0)
    }

    /// Reads some columns of a row group, all rows or those selected.
    pub(super) fn read(
        &self,
        group: usize,
        is_read: impl Fn(&str) -> bool,
        rows: Option<RowSelection>,
    ) -> Result<ParquetRecordBatchReader> {
        let name = &self.name;
        let of_group = self.parquet().row_group(group);
        // Of most row groups most columns say nothing, and to read nothing costs as much as to read little.
        let silent = silent_columns(of_group);
        let is_read = |column: &str| is_read(column) && !silent.contains(column);
        pages::check(&*self.chunks.object, of_group, |column| {
            is_read(&column.column_path().string())
        })
        .map_err(|error| no_segment(name, error))?;
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.chunks.clone(), self.metadata.clone());
        let columns = builder.parquet_schema().columns();
        let wanted = columns
            .iter()
            .enumerate()
            .filter(|(_, column)| is_read(&column.path().string()));
        let mask = ProjectionMask::leaves(builder.parquet_schema(), wanted.map(|(leaf, _)| leaf));
        let mut builder = builder
            .with_projection(mask)
            .with_row_groups(vec![group])
            .with_batch_size(BATCH_ROWS);
        if let Some(rows) = rows {
            builder = builder.with_row_selection(rows);
        }
        guarded(name, || builder.build())?
            .map_err(|error| self.explain(format_args!(" is no segment: {error}")))
    }
}

/// Reads the records of one segment in order.
pub(crate) struct SegmentReader {
    segment: Opened,
    keys: HashMap<String, String>,
    /// Of the row group that is being read; `None` once anything failed: what comes then is nothing to go by.
    batches: Option<ParquetRecordBatchReader>,
    next_group: usize,
    projection: Projection,
    columns: Option<Columns>,
    next: usize,
    row: u32,
    last_seq: Option<u64>,
}

impl SegmentReader {
    /// Opens a segment called `name` in messages.
    pub(crate) fn new(object: Arc<dyn ReadAt>, name: &str, projection: Projection) -> Result<Self> {
        let segment = Opened::new(object, name)?;
        let keys = segment
            .parquet()
            .file_metadata()
            .key_value_metadata()
            .into_iter()
            .flatten()
            .filter_map(|pair| Some((pair.key.clone(), pair.value.clone()?)))
            .collect();
        let mut reader = Self {
            segment,
            keys,
            batches: None,
            next_group: 0,
            projection,
            columns: None,
            next: 0,
            row: 0,
            last_seq: None,
        };
        reader.begin_group()?;
        Ok(reader)
    }

    /// What the segment says of itself: a key without its prefix.
    pub(crate) fn key(&self, key: &str) -> Option<&str> {
        self.keys.get(&format!("tapeworm.{key}")).map(String::as_str)
    }

    fn broken(&self, why: impl std::fmt::Display) -> Error {
        Error::Integrity(format!("{}, row {}: {why}", self.segment.name, self.row))
    }

    /// Goes on to the next row group, if there is one.
    fn begin_group(&mut self) -> Result<()> {
        if self.next_group < self.segment.row_groups() {
            let known = schema::schema();
            let projection = self.projection;
            let is_read = |column: &str| known.field_with_name(column).is_ok() && projection.has(column);
            self.batches = Some(self.segment.read(self.next_group, is_read, None)?);
            self.next_group += 1;
        }
        Ok(())
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(mut batches) = self.batches.take() {
            match guarded(&self.segment.name, || batches.next())? {
                Some(Ok(batch)) => {
                    self.batches = Some(batches);
                    return Ok(Some(batch));
                }
                Some(Err(error)) => {
                    return Err(self.segment.explain(format_args!(", row {}: {error}", self.row)));
                }
                None => self.begin_group()?,
            }
        }
        Ok(None)
    }

    fn step(&mut self) -> Result<Option<(u32, Record)>> {
        let columns = loop {
            match &self.columns {
                Some(columns) if self.next < columns.rows() => break columns,
                _ => match self.next_batch()? {
                    None => return Ok(None),
                    Some(batch) => {
                        self.columns = Some(Columns::new(&batch).map_err(|why| self.broken(why))?);
                        self.next = 0;
                    }
                },
            }
        };
        let record = from_row(columns.row(self.next), self.projection == Projection::All)
            .map_err(|why| self.broken(why))?;
        if self.last_seq.is_some_and(|last| record.seq <= last) {
            return Err(self.broken(format!(
                "sequence number {} is not above the one before",
                record.seq
            )));
        }
        self.last_seq = Some(record.last_seq);
        let row = self.row;
        self.next += 1;
        self.row = row
            .checked_add(1)
            .ok_or_else(|| self.broken("more rows than any segment of ours has"))?;
        Ok(Some((row, record)))
    }
}

/// The columns of a row group that have no value in any of its rows, as the row group itself says. Where it lies, they read as NULL all the same:
/// what is needed is missed then.
fn silent_columns(group: &RowGroupMetaData) -> HashSet<String> {
    let rows = u64::try_from(group.num_rows()).ok();
    let columns = group.columns().iter();
    columns
        .filter(|column| {
            let nulls = column.statistics().and_then(Statistics::null_count_opt);
            nulls.is_some() && nulls == rows
        })
        .map(|column| column.column_path().string())
        .collect()
}

/// Whether bytes are not what they should be, rather than not to be had.
fn is_content(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

/// What was opened is no segment, or cannot be read.
fn no_segment(name: &str, error: io::Error) -> Error {
    if is_content(&error) {
        Error::Integrity(format!("{name} is no segment: {error}"))
    } else {
        Error::io(format!("read {name}"), error)
    }
}

/// Refuses a footer that is larger than any of ours: it is read and unpacked as one.
fn check_footer(object: &dyn ReadAt) -> io::Result<()> {
    let mut tail = [0; 8];
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let at = object
        .bytes()
        .checked_sub(8)
        .ok_or_else(|| wrong("it is too short".to_owned()))?;
    object.read_exact_at(&mut tail, at)?;
    let [a, b, c, d, ..] = tail;
    let bytes = u32::from_le_bytes([a, b, c, d]);
    if u64::from(bytes) > FOOTER_BYTES_MAX {
        return Err(wrong(format!("a footer of {bytes} bytes")));
    }
    Ok(())
}

/// Runs Parquet's own code: on bytes that are none of ours it may panic, which is one more way of saying so.
pub(super) fn guarded<T>(name: &str, read: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read))
        .map_err(|_| Error::Integrity(format!("{name} is no segment: its reader gave up")))
}

impl Iterator for SegmentReader {
    /// Row number in the segment, and the record.
    type Item = Result<(u32, Record)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
