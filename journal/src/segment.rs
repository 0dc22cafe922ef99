//! A segment: records as one Parquet file, written in one pass and read by columns.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::ColumnPath;

use crate::convert::{from_row, to_row};
use crate::error::{Error, Result};
use crate::manifest::RowGroup;
use crate::pages;
use crate::record::{Op, Record};
use crate::schema::{self, Builders, Columns};
use crate::store::{Append, ReadAt};

/// A row group ends at this many bytes of data and names: it bounds the memory of writer and reader.
const ROW_GROUP_BYTES: usize = 16 << 20;
/// A row group ends at this many rows.
const ROW_GROUP_ROWS: usize = 128 << 10;
/// Rows decoded at once.
const BATCH_ROWS: usize = 1024;
/// Bytes of a footer; ours take some 10 KiB for each row group.
const FOOTER_BYTES_MAX: u32 = 16 << 20;
/// Bytes that hold the header of most pages.
const PAGE_HEADER_BYTES: usize = 256;
/// Bytes that a row takes besides its variable ones, for accounting.
const ROW_BYTES: usize = 256;

/// What goes to the medium, hashed as it passes.
struct HashingWriter {
    inner: Box<dyn Append>,
    hashes: Arc<Mutex<Hashes>>,
}

#[derive(Default)]
struct Hashes {
    whole: blake3::Hasher,
    group: blake3::Hasher,
    bytes: u64,
    group_start: u64,
    groups: Vec<RowGroup>,
    /// What the medium answered last: Parquet passes some errors on as text only, and a full medium must be told apart.
    failure: Option<io::Error>,
}

impl Hashes {
    fn end_group(&mut self, rows: u64) {
        let group = std::mem::take(&mut self.group);
        self.groups.push(RowGroup {
            offset: self.group_start,
            bytes: self.bytes - self.group_start,
            rows,
            blake3: group.finalize().to_hex().to_string(),
        });
        self.group_start = self.bytes;
    }
}

impl Write for HashingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.inner.write(bytes);
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match result {
            Ok(written) => written,
            Err(error) => {
                hashes.failure = Some(io::Error::new(error.kind(), error.to_string()));
                return Err(error);
            }
        };
        hashes.whole.update(&bytes[..written]);
        hashes.group.update(&bytes[..written]);
        hashes.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// What is known of a segment once it is sealed.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) bytes: u64,
    pub(crate) blake3: String,
    pub(crate) row_groups: Vec<RowGroup>,
    pub(crate) records: u64,
}

/// Writes one segment.
pub(crate) struct SegmentWriter {
    writer: ArrowWriter<HashingWriter>,
    hashes: Arc<Mutex<Hashes>>,
    builders: Builders,
    rows: usize,
    pending_bytes: usize,
    records: u64,
}

impl SegmentWriter {
    /// Begins a segment; `keys` become key-value metadata of the file.
    pub(crate) fn new(inner: Box<dyn Append>, keys: &[(&str, String)]) -> Result<Self> {
        let hashes = Arc::new(Mutex::new(Hashes::default()));
        let sink = HashingWriter {
            inner,
            hashes: Arc::clone(&hashes),
        };
        let data = ColumnPath::from(schema::DATA);
        let value = ColumnPath::from("xattr_value");
        let level = ZstdLevel::try_new(1)
            .map_err(|error| Error::Integrity(format!("choose compression: {error}")))?;
        let metadata = keys
            .iter()
            .map(|(key, value)| KeyValue::new(format!("tapeworm.{key}"), value.clone()))
            .collect();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_created_by(concat!("tapeworm ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(metadata))
            .set_column_dictionary_enabled(data.clone(), false)
            .set_column_statistics_enabled(data, EnabledStatistics::None)
            .set_column_dictionary_enabled(value.clone(), false)
            .set_column_statistics_enabled(value, EnabledStatistics::None)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS * 2))
            .build();
        let writer = ArrowWriter::try_new(sink, schema::schema(), Some(properties))
            .map_err(|error| write_error("begin segment", &hashes, error))?;
        Ok(Self {
            writer,
            hashes,
            builders: Builders::default(),
            rows: 0,
            pending_bytes: 0,
            records: 0,
        })
    }

    /// Appends a record.
    pub(crate) fn push(&mut self, record: &Record) -> Result<()> {
        self.builders.append(&to_row(record));
        self.rows += 1;
        self.records += 1;
        self.pending_bytes += ROW_BYTES + variable_bytes(record);
        if self.pending_bytes >= ROW_GROUP_BYTES || self.rows >= ROW_GROUP_ROWS {
            self.end_row_group()?;
        }
        Ok(())
    }

    /// Bytes that the segment has or will have, before compression for those still pending.
    pub(crate) fn bytes(&self) -> u64 {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner).bytes + self.pending_bytes as u64
    }

    fn end_row_group(&mut self) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let batch = RecordBatch::try_new(schema::schema(), self.builders.finish())
            .map_err(|error| Error::Integrity(format!("make a batch: {error}")))?;
        self.writer
            .write(&batch)
            .and_then(|()| self.writer.flush())
            // Parquet's own buffer too, so that the bytes counted and hashed so far are those of this row group.
            .and_then(|()| Ok(self.writer.sync()?))
            .map_err(|error| write_error("write segment", &self.hashes, error))?;
        self.hashes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .end_group(self.rows as u64);
        (self.rows, self.pending_bytes) = (0, 0);
        Ok(())
    }

    /// Ends and seals the segment.
    pub(crate) fn seal(mut self) -> Result<Summary> {
        self.end_row_group()?;
        let sink = self
            .writer
            .into_inner()
            .map_err(|error| write_error("end segment", &self.hashes, error))?;
        sink.inner
            .seal()
            .map_err(|error| Error::io("seal segment", error))?;
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Summary {
            bytes: hashes.bytes,
            blake3: hashes.whole.finalize().to_hex().to_string(),
            row_groups: std::mem::take(&mut hashes.groups),
            records: self.records,
        })
    }
}

fn variable_bytes(record: &Record) -> usize {
    match &record.op {
        Op::Write { data, .. } => data.len(),
        Op::SetXattr { name, value } => name.len() + value.len(),
        Op::Create {
            link_target: Some(target),
            ..
        }
        | Op::Snapshot {
            link_target: Some(target),
            ..
        } => target.len(),
        _ => 0,
    }
}

/// Why writing failed: what the medium answered, where it did.
fn write_error(what: &str, hashes: &Mutex<Hashes>, error: ParquetError) -> Error {
    let failure = hashes
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .failure
        .take();
    match failure {
        Some(source) => Error::io(what, source),
        None => Error::Integrity(format!("{what}: {error}")),
    }
}

/// Which columns are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// All but the data: `Op::Write` then has its length and no bytes.
    Metadata,
    /// Everything.
    All,
}

/// An object as Parquet's reader wants it.
#[derive(Clone)]
struct Chunks(Arc<dyn ReadAt>);

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.0.bytes()
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<ChunkRead>;

    /// For the headers of pages, which are read byte by byte; their content comes by `get_bytes`.
    fn get_read(&self, start: u64) -> parquet::errors::Result<BufReader<ChunkRead>> {
        let read = ChunkRead {
            object: Arc::clone(&self.0),
            offset: start,
        };
        Ok(BufReader::with_capacity(PAGE_HEADER_BYTES, read))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let within = start
            .checked_add(length as u64)
            .is_some_and(|end| end <= self.0.bytes());
        if !within {
            return Err(ParquetError::EOF(format!(
                "{length} bytes at {start} are beyond the end"
            )));
        }
        let mut buffer = vec![0; length];
        self.0.read_exact_at(&mut buffer, start)?;
        Ok(buffer.into())
    }
}

/// Sequential reading from a place in an object.
struct ChunkRead {
    object: Arc<dyn ReadAt>,
    offset: u64,
}

impl Read for ChunkRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.object.bytes().saturating_sub(self.offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        self.object.read_exact_at(&mut buffer[..length], self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// Reads the records of one segment in order.
pub(crate) struct SegmentReader {
    name: String,
    keys: HashMap<String, String>,
    /// `None` once it failed: what it would give then is nothing to go by.
    batches: Option<ParquetRecordBatchReader>,
    projection: Projection,
    columns: Option<Columns>,
    next: usize,
    row: u64,
    last_seq: Option<u64>,
}

impl SegmentReader {
    /// Opens a segment called `name` in messages.
    pub(crate) fn new(object: Arc<dyn ReadAt>, name: &str, projection: Projection) -> Result<Self> {
        let broken = |error: ParquetError| match error {
            ParquetError::External(source) => match source.downcast::<io::Error>() {
                Ok(source) => Error::io(format!("read {name}"), *source),
                Err(source) => Error::Integrity(format!("{name} is no segment: {source}")),
            },
            error => Error::Integrity(format!("{name} is no segment: {error}")),
        };
        check_footer(&*object).map_err(|why| Error::Integrity(format!("{name} is no segment: {why}")))?;
        let chunks = Chunks(Arc::clone(&object));
        // What Arrow left in the file of its own is not needed, and not looked at.
        let options = ArrowReaderOptions::default().with_skip_arrow_metadata(true);
        let metadata = guarded(name, || ArrowReaderMetadata::load(&chunks, options))?.map_err(broken)?;
        let keys = metadata
            .metadata()
            .file_metadata()
            .key_value_metadata()
            .into_iter()
            .flatten()
            .filter_map(|pair| Some((pair.key.clone(), pair.value.clone()?)))
            .collect();
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, metadata);
        let known = schema::schema();
        let is_read = |column: &str| {
            known.field_with_name(column).is_ok() && (projection == Projection::All || column != schema::DATA)
        };
        let columns = builder.parquet_schema().columns();
        let wanted = columns
            .iter()
            .enumerate()
            .filter(|(_, column)| is_read(&column.path().string()));
        let mask = ProjectionMask::leaves(builder.parquet_schema(), wanted.map(|(leaf, _)| leaf));
        for group in builder.metadata().row_groups() {
            pages::check(&*object, group, |column| is_read(&column.column_path().string()))
                .map_err(|why| Error::Integrity(format!("{name} is no segment: {why}")))?;
        }
        let builder = builder.with_projection(mask).with_batch_size(BATCH_ROWS);
        let batches = guarded(name, || builder.build())?.map_err(broken)?;
        Ok(Self {
            name: name.to_owned(),
            keys,
            batches: Some(batches),
            projection,
            columns: None,
            next: 0,
            row: 0,
            last_seq: None,
        })
    }

    /// What the segment says of itself: a key without its prefix.
    pub(crate) fn key(&self, key: &str) -> Option<&str> {
        self.keys.get(&format!("tapeworm.{key}")).map(String::as_str)
    }

    fn broken(&self, why: impl std::fmt::Display) -> Error {
        Error::Integrity(format!("{}, row {}: {why}", self.name, self.row))
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        let Some(mut batches) = self.batches.take() else {
            return Ok(None);
        };
        let Some(batch) = guarded(&self.name, || batches.next())? else {
            return Ok(None);
        };
        let batch = batch.map_err(|error| self.broken(error))?;
        self.batches = Some(batches);
        Ok(Some(batch))
    }

    fn step(&mut self) -> Result<Option<(u64, Record)>> {
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
        let record = from_row(&columns.row(self.next), self.projection == Projection::All)
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
        self.row += 1;
        Ok(Some((row, record)))
    }
}

/// Refuses a footer that is larger than any of ours: it is read and unpacked as one.
fn check_footer(object: &dyn ReadAt) -> std::result::Result<(), String> {
    let mut tail = [0; 8];
    let at = object.bytes().checked_sub(8).ok_or("it is too short")?;
    object
        .read_exact_at(&mut tail, at)
        .map_err(|error| error.to_string())?;
    let [a, b, c, d, ..] = tail;
    let bytes = u32::from_le_bytes([a, b, c, d]);
    if bytes > FOOTER_BYTES_MAX {
        return Err(format!("a footer of {bytes} bytes"));
    }
    Ok(())
}

/// Runs Parquet's own code: on bytes that are none of ours it may panic, which is one more way of saying so.
fn guarded<T>(name: &str, read: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read))
        .map_err(|_| Error::Integrity(format!("{name} is no segment: its reader gave up")))
}

impl Iterator for SegmentReader {
    /// Row number in the segment, and the record.
    type Item = Result<(u64, Record)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
