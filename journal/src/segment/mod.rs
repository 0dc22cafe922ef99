//! A segment: records as one Parquet file, written in one pass and read by columns.

mod data;
mod read;
mod sealed;
mod write;

pub use data::Data;
pub(crate) use data::DataReader;
pub use read::Projection;
pub(crate) use read::SegmentReader;
pub(crate) use sealed::Sealed;
pub(crate) use write::SegmentWriter;

/// Bytes of a footer, all that follows the row groups; ours take some 20 KiB for each of these.
pub(crate) const FOOTER_BYTES_MAX: u64 = 16 << 20;
