//! Writes a segment: row groups are encoded in memory, hashed, and handed to the medium one by one.

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::convert::to_row;
use crate::error::{Error, Result};
use crate::manifest::{Parts, RowGroup};
use crate::record::{Op, Record};
use crate::schema::{self, Builders};
use crate::store::Append;

/// A row group ends at this many bytes of data and names: it bounds the memory of writer and reader.
const ROW_GROUP_BYTES: usize = 16 << 20;
/// A row group ends at this many rows.
const ROW_GROUP_ROWS: usize = 128 << 10;
/// Bytes that a row takes besides its variable ones, for accounting.
const ROW_BYTES: usize = 256;

/// What is known of a segment once it is sealed.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) bytes: u64,
    pub(crate) blake3: String,
    pub(crate) row_groups: Vec<RowGroup>,
    pub(crate) footer_blake3: String,
    pub(crate) records: u64,
}

/// Writes one segment.
pub(crate) struct SegmentWriter {
    /// Into memory, at most a row group: what is a medium's error stays one.
    writer: ArrowWriter<Vec<u8>>,
    object: Box<dyn Append>,
    whole: blake3::Hasher,
    bytes: u64,
    row_groups: Vec<RowGroup>,
    builders: Builders,
    rows: usize,
    pending_bytes: usize,
    records: u64,
}

impl SegmentWriter {
    /// Begins a segment; `keys` become key-value metadata of the file.
    pub(crate) fn new(object: Box<dyn Append>, keys: &[(&str, String)]) -> Result<Self> {
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
        let writer = ArrowWriter::try_new(Vec::new(), schema::schema(), Some(properties)).map_err(encode)?;
        Ok(Self {
            writer,
            object,
            whole: blake3::Hasher::new(),
            bytes: 0,
            row_groups: Vec::new(),
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
        self.bytes + self.pending_bytes as u64
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
            .and_then(|()| Ok(self.writer.sync()?))
            .map_err(encode)?;
        drop(batch);
        // The data is the last column of a row group: what stands before it is metadata.
        let data_start = self
            .writer
            .flushed_row_groups()
            .last()
            .and_then(|group| group.columns().last())
            .map(|data| data.byte_range().0);
        let encoded = self.writer.inner_mut();
        let metadata_bytes = data_start
            .and_then(|start| start.checked_sub(self.bytes))
            .and_then(|bytes| usize::try_from(bytes).ok());
        let (metadata, data) = metadata_bytes
            .and_then(|bytes| encoded.split_at_checked(bytes))
            .ok_or_else(|| Error::Integrity("a row group was encoded without its data".to_owned()))?;
        self.row_groups.push(RowGroup {
            offset: self.bytes,
            bytes: encoded.len() as u64,
            rows: self.rows as u64,
            blake3: String::new(),
            parts: Some(Parts {
                metadata_bytes: metadata.len() as u64,
                metadata_blake3: blake3::hash(metadata).to_hex().to_string(),
                data_blake3: blake3::hash(data).to_hex().to_string(),
            }),
        });
        append(&mut *self.object, &mut self.whole, &mut self.bytes, encoded)?;
        encoded.clear();
        (self.rows, self.pending_bytes) = (0, 0);
        Ok(())
    }

    /// Ends and seals the segment.
    pub(crate) fn seal(mut self) -> Result<Summary> {
        self.end_row_group()?;
        let footer = self.writer.into_inner().map_err(encode)?;
        append(&mut *self.object, &mut self.whole, &mut self.bytes, &footer)?;
        self.object
            .seal()
            .map_err(|error| Error::io("seal segment", error))?;
        Ok(Summary {
            bytes: self.bytes,
            blake3: self.whole.finalize().to_hex().to_string(),
            row_groups: self.row_groups,
            footer_blake3: blake3::hash(&footer).to_hex().to_string(),
            records: self.records,
        })
    }
}

/// Hands bytes to the medium, and counts them among the segment's.
fn append(object: &mut dyn Append, whole: &mut blake3::Hasher, total: &mut u64, bytes: &[u8]) -> Result<()> {
    object
        .write_all(bytes)
        .map_err(|error| Error::io("write segment", error))?;
    whole.update(bytes);
    *total += bytes.len() as u64;
    Ok(())
}

/// Parquet's own failure: it writes to memory only.
fn encode(error: ParquetError) -> Error {
    Error::Integrity(format!("encode a segment: {error}"))
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
