//! Writes a segment: row groups are encoded in memory, hashed, and handed to the medium one by one.

use arrow_array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::convert::to_row;
use crate::crypt::SegmentKey;
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
    /// What was handed over, and how much of it is for being encrypted only.
    bytes: u64,
    tag_bytes: u64,
    key: Option<SegmentKey>,
    row_groups: Vec<RowGroup>,
    builders: Builders,
    rows: usize,
    pending_bytes: usize,
    records: u64,
}

impl SegmentWriter {
    /// Begins a segment; `keys` become key-value metadata of the file. With a key it is encrypted.
    pub(crate) fn new(
        object: Box<dyn Append>,
        keys: &[(&str, String)],
        key: Option<SegmentKey>,
    ) -> Result<Self> {
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
            tag_bytes: 0,
            key,
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
        let mut encoded = std::mem::take(self.writer.inner_mut());
        let metadata_bytes = data_start
            .and_then(|start| start.checked_sub(self.bytes - self.tag_bytes))
            .and_then(|bytes| usize::try_from(bytes).ok());
        let (metadata, data) = metadata_bytes
            .and_then(|bytes| encoded.split_at_mut_checked(bytes))
            .ok_or_else(|| Error::Integrity("a row group was encoded without its data".to_owned()))?;
        let offset = self.bytes;
        let first_part = self.row_groups.len() * 2;
        let (metadata_bytes, metadata_blake3) = self.append(first_part, metadata)?;
        let (data_bytes, data_blake3) = self.append(first_part + 1, data)?;
        self.row_groups.push(RowGroup {
            offset,
            bytes: metadata_bytes + data_bytes,
            rows: self.rows as u64,
            blake3: String::new(),
            parts: Some(Parts {
                metadata_bytes,
                metadata_blake3,
                data_blake3,
            }),
        });
        encoded.clear();
        *self.writer.inner_mut() = encoded;
        (self.rows, self.pending_bytes) = (0, 0);
        Ok(())
    }

    /// Hands a part to the medium, encrypted if it is to be, and counts it among the segment's bytes. Returns how long it is there, and its hash.
    fn append(&mut self, part: usize, bytes: &mut [u8]) -> Result<(u64, String)> {
        let tag = match &self.key {
            Some(key) => Some(key.encrypt(part, bytes)?),
            None => None,
        };
        let tag = tag.as_ref().map_or(&[][..], |tag| &tag[..]);
        let (mut hasher, mut length) = (blake3::Hasher::new(), 0);
        for bytes in [&*bytes, tag] {
            self.object
                .write_all(bytes)
                .map_err(|error| Error::io("write segment", error))?;
            self.whole.update(bytes);
            hasher.update(bytes);
            length += bytes.len() as u64;
        }
        self.bytes += length;
        self.tag_bytes += tag.len() as u64;
        Ok((length, hasher.finalize().to_hex().to_string()))
    }

    /// Ends and seals the segment.
    pub(crate) fn seal(mut self) -> Result<Summary> {
        self.end_row_group()?;
        // What is written is on the medium: the last of it is taken out of the writer, which ends with it.
        self.writer.finish().map_err(encode)?;
        let mut footer = std::mem::take(self.writer.inner_mut());
        let (_, footer_blake3) = self.append(self.row_groups.len() * 2, &mut footer)?;
        self.object
            .seal()
            .map_err(|error| Error::io("seal segment", error))?;
        Ok(Summary {
            bytes: self.bytes,
            blake3: self.whole.finalize().to_hex().to_string(),
            row_groups: self.row_groups,
            footer_blake3,
            records: self.records,
        })
    }
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
