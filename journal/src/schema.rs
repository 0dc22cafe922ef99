//! The columns of a segment: one flat row per record, in a schema that any reader of Parquet understands.
//!
//! Owns the Arrow schema and the passage between Arrow arrays and flat rows. What a row means is `convert`'s business.

use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Int64Builder, StringBuilder, UInt32Builder, UInt64Builder,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Int64Array, RecordBatch, StringArray, UInt32Array,
    UInt64Array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

/// The name of the only large column: it is last, and left out when planning.
pub(crate) const DATA: &str = "data";
/// The columns that say who made a change.
pub(crate) const ACTOR: [&str; 6] = ["pid", "tgid", "actor_uid", "actor_gid", "cgroup", "comm"];

/// Value type, array, builder and Arrow type of each kind of column.
macro_rules! kind {
    (value u64) => { u64 };
    (value u32) => { u32 };
    (value i64) => { i64 };
    (value bool) => { bool };
    (value text) => { &'a str };
    (value bytes) => { &'a [u8] };
    (array u64) => { UInt64Array };
    (array u32) => { UInt32Array };
    (array i64) => { Int64Array };
    (array bool) => { BooleanArray };
    (array text) => { StringArray };
    (array bytes) => { BinaryArray };
    (builder u64) => { UInt64Builder };
    (builder u32) => { UInt32Builder };
    (builder i64) => { Int64Builder };
    (builder bool) => { BooleanBuilder };
    (builder text) => { StringBuilder };
    (builder bytes) => { BinaryBuilder };
    (data_type u64) => { DataType::UInt64 };
    (data_type u32) => { DataType::UInt32 };
    (data_type i64) => { DataType::Int64 };
    (data_type bool) => { DataType::Boolean };
    (data_type text) => { DataType::Utf8 };
    (data_type bytes) => { DataType::Binary };
}

macro_rules! columns {
    ($($name:ident: $kind:ident,)*) => {
        /// One record to be written, flat; `None` is NULL.
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub(crate) struct Row<'a> {
            $(pub(crate) $name: Option<kind!(value $kind)>,)*
        }

        /// One record that is read: of its many columns only those that are asked for are looked at. `None` is NULL.
        #[derive(Clone, Copy)]
        pub(crate) struct RowView<'a> {
            columns: &'a Columns,
            index: usize,
        }

        #[expect(clippy::wrong_self_convention, reason = "one of the columns is called from_snapshot")]
        impl<'a> RowView<'a> {
            $(pub(crate) fn $name(self) -> Option<kind!(value $kind)> {
                let array = self.columns.$name.as_ref()?;
                array.is_valid(self.index).then(|| array.value(self.index))
            })*
        }

        /// Arrays under construction, one per column.
        #[derive(Default)]
        pub(crate) struct Builders {
            $($name: kind!(builder $kind),)*
        }

        impl Builders {
            /// Appends one row.
            pub(crate) fn append(&mut self, row: &Row<'_>) {
                $(self.$name.append_option(row.$name);)*
            }

            /// The rows so far as arrays in the order of [`schema`]; the builders are empty afterwards.
            pub(crate) fn finish(&mut self) -> Vec<ArrayRef> {
                vec![$(Arc::new(self.$name.finish()) as ArrayRef,)*]
            }
        }

        /// The arrays of a batch read back; a column that was left out of the projection is `None`.
        pub(crate) struct Columns {
            rows: usize,
            $($name: Option<kind!(array $kind)>,)*
        }

        impl Columns {
            /// Takes a batch apart.
            ///
            /// # Errors
            /// The name of a column whose type is not the one of this format.
            pub(crate) fn new(batch: &RecordBatch) -> Result<Self, String> {
                Ok(Self {
                    rows: batch.num_rows(),
                    $($name: match batch.column_by_name(stringify!($name)) {
                        None => None,
                        // Most columns have nothing to say of most rows.
                        Some(array) if array.null_count() == array.len() && array.data_type() == &kind!(data_type $kind) => None,
                        Some(array) => Some(
                            array
                                .as_any()
                                .downcast_ref::<kind!(array $kind)>()
                                .cloned()
                                .ok_or_else(|| format!("column {} has type {}", stringify!($name), array.data_type()))?,
                        ),
                    },)*
                })
            }

            /// Number of rows.
            pub(crate) fn rows(&self) -> usize {
                self.rows
            }

            /// Row `index`, which must be below [`Columns::rows`].
            pub(crate) fn row(&self, index: usize) -> RowView<'_> {
                RowView { columns: self, index }
            }
        }

        /// The schema; every column may be NULL.
        pub(crate) fn schema() -> SchemaRef {
            Arc::new(Schema::new(vec![$(Field::new(stringify!($name), kind!(data_type $kind), true),)*]))
        }
    };
}

columns! {
    seq: u64,
    last_seq: u64,
    time_ns: i64,
    op: text,
    ino: u64,
    generation: u32,
    parent_ino: u64,
    parent_generation: u32,
    name: bytes,
    to_parent_ino: u64,
    to_parent_generation: u32,
    to_name: bytes,
    other_ino: u64,
    other_generation: u32,
    offset: u64,
    length: u64,
    source_offset: u64,
    fallocate_mode: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    rdev: u64,
    size: u64,
    atime_sec: i64,
    atime_nsec: u32,
    mtime_sec: i64,
    mtime_nsec: u32,
    ctime_sec: i64,
    ctime_nsec: u32,
    file_flags: u32,
    project: u32,
    parent_mtime_sec: i64,
    parent_mtime_nsec: u32,
    parent_ctime_sec: i64,
    parent_ctime_nsec: u32,
    to_parent_mtime_sec: i64,
    to_parent_mtime_nsec: u32,
    to_parent_ctime_sec: i64,
    to_parent_ctime_nsec: u32,
    ref_seq: u64,
    ref_epoch: u64,
    since_seq: u64,
    scope: text,
    mark: text,
    from_snapshot: bool,
    pid: u32,
    tgid: u32,
    actor_uid: u32,
    actor_gid: u32,
    cgroup: u64,
    comm: bytes,
    link_target: bytes,
    xattr_name: bytes,
    xattr_value: bytes,
    data: bytes,
}
