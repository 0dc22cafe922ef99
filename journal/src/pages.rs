//! What a segment's pages say of themselves, looked at before anything is unpacked: a few bytes may claim to be gigabytes.
//!
//! Reads the headers of pages (Thrift's compact protocol) and, of a dictionary, the lengths of its values, since each may be asked for by
//! every row. What passes here takes [`ROW_GROUP_BYTES_MAX`] in memory at most, times a small factor.

use std::io::{self, Read};

use parquet::basic::Compression;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};

use crate::store::ReadAt;

/// Bytes that a row group may have when it is unpacked; ours end soon after 16 MiB of data and names.
pub(crate) const ROW_GROUP_BYTES_MAX: u64 = 128 << 20;
/// Rows that a row group may have: twice what ours have.
const ROW_GROUP_ROWS_MAX: i64 = 256 << 10;
/// Bytes of a dictionary; ours are given up at 1 MiB, once the last value is in.
const DICTIONARY_BYTES_MAX: u64 = 4 << 20;
/// Bytes of one value in a dictionary: many times what any column may hold that has one.
const DICTIONARY_VALUE_BYTES_MAX: u32 = 64 << 10;
/// Columns whose values are long: a dictionary could make any number of them from one.
const WITHOUT_DICTIONARY: [&str; 2] = [crate::schema::DATA, "xattr_value"];
/// Bytes of a page's header.
const HEADER_BYTES_MAX: usize = 1 << 20;
/// Bytes of it that are read at first.
const HEADER_BYTES_FIRST: usize = 512;
/// Structures in each other in a header; there are three.
const DEPTH_MAX: u32 = 8;

const PAGE_DATA: i64 = 0;
const PAGE_DICTIONARY: i64 = 2;
const PAGE_DATA_V2: i64 = 3;
/// PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY: with these the bytes unpacked bound what the values take. Ours have no others.
const ENCODINGS: [i64; 4] = [0, 2, 3, 8];

/// Refuses a row group that would not stay within its bounds; `is_read` tells of each column whether it will be.
///
/// # Errors
/// `InvalidData` and what is wrong, or what the medium says.
pub(crate) fn check(
    object: &dyn ReadAt,
    group: &RowGroupMetaData,
    is_read: impl Fn(&ColumnChunkMetaData) -> bool,
) -> io::Result<()> {
    if !(0..=ROW_GROUP_ROWS_MAX).contains(&group.num_rows()) {
        return Err(wrong(format!("a row group of {} rows", group.num_rows())));
    }
    let mut bytes = 0;
    for column in group.columns().iter().filter(|column| is_read(column)) {
        let name = column.column_path().string();
        check_column(object, column, &mut bytes)
            .map_err(|error| io::Error::new(error.kind(), format!("column {name}: {error}")))?;
    }
    Ok(())
}

/// Not as anything of ours.
fn wrong(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

fn check_column(object: &dyn ReadAt, column: &ColumnChunkMetaData, bytes: &mut u64) -> io::Result<()> {
    let number = |value: i64| u64::try_from(value).map_err(|_| wrong("a negative place"));
    let start = number(
        column
            .dictionary_page_offset()
            .unwrap_or_else(|| column.data_page_offset()),
    )?;
    let end = start
        .checked_add(number(column.compressed_size())?)
        .filter(|end| *end <= object.bytes())
        .ok_or_else(|| wrong("it lies beyond the end"))?;
    let mut at = start;
    while at < end {
        let (header, header_bytes) = read_header(object, at, end)?;
        let page = at + header_bytes;
        let next = page
            .checked_add(header.compressed)
            .filter(|next| *next <= end)
            .ok_or_else(|| wrong("a page ends beyond its column"))?;
        *bytes += header.uncompressed;
        if *bytes > ROW_GROUP_BYTES_MAX {
            return Err(wrong(format!(
                "a row group of more than {ROW_GROUP_BYTES_MAX} bytes"
            )));
        }
        if !ENCODINGS.contains(&header.encoding) {
            return Err(wrong(format!("encoding {}", header.encoding)));
        }
        match header.kind {
            PAGE_DICTIONARY if WITHOUT_DICTIONARY.contains(&column.column_path().string().as_str()) => {
                return Err(wrong("a dictionary"));
            }
            PAGE_DICTIONARY => check_dictionary(object, column, page, &header)?,
            PAGE_DATA | PAGE_DATA_V2 => {}
            kind => return Err(wrong(format!("a page of type {kind}"))),
        }
        at = next;
    }
    Ok(())
}

/// The part of a page's header that matters.
#[derive(Debug, Default, PartialEq, Eq)]
struct Header {
    kind: i64,
    uncompressed: u64,
    compressed: u64,
    encoding: i64,
}

fn read_header(object: &dyn ReadAt, at: u64, end: u64) -> io::Result<(Header, u64)> {
    let left = usize::try_from(end - at).unwrap_or(usize::MAX);
    for length in [HEADER_BYTES_FIRST, HEADER_BYTES_MAX] {
        let mut bytes = vec![0; length.min(left)];
        object.read_exact_at(&mut bytes, at)?;
        let mut thrift = Thrift { bytes: &bytes, at: 0 };
        match parse_header(&mut thrift) {
            Ok(header) => return Ok((header.map_err(wrong)?, thrift.at as u64)),
            Err(Short) if length < left && length < HEADER_BYTES_MAX => {}
            Err(Short) => break,
        }
    }
    Err(wrong("the header of a page has no end"))
}

fn parse_header(thrift: &mut Thrift<'_>) -> Result<Result<Header, String>, Short> {
    let mut header = Header::default();
    let mut impossible = None;
    let mut id = 0;
    while let Some(kind) = thrift.field(&mut id)? {
        match (id, kind) {
            (1, I32) => header.kind = thrift.integer()?,
            (2 | 3, I32) => {
                let value = thrift.integer()?;
                match u64::try_from(value) {
                    Ok(value) if id == 2 => header.uncompressed = value,
                    Ok(value) => header.compressed = value,
                    Err(_) => impossible = Some(format!("a page of {value} bytes")),
                }
            }
            // Of a data page, a dictionary, and a data page of version 2; the encoding is its second or fourth field.
            (5 | 7 | 8, STRUCT) => {
                let wanted = if id == 8 { 4 } else { 2 };
                let mut inner = 0;
                while let Some(kind) = thrift.field(&mut inner)? {
                    if (inner, kind) == (wanted, I32) {
                        header.encoding = thrift.integer()?;
                    } else {
                        thrift.skip(kind, DEPTH_MAX)?;
                    }
                }
            }
            (_, kind) => thrift.skip(kind, DEPTH_MAX)?,
        }
    }
    Ok(impossible.map_or(Ok(header), Err))
}

/// Any row may ask for any value of a dictionary: a long one would be copied as often as there are rows.
fn check_dictionary(
    object: &dyn ReadAt,
    column: &ColumnChunkMetaData,
    at: u64,
    header: &Header,
) -> io::Result<()> {
    if header.uncompressed > DICTIONARY_BYTES_MAX || header.compressed > DICTIONARY_BYTES_MAX {
        return Err(wrong(format!("a dictionary of {} bytes", header.uncompressed)));
    }
    if column.column_type() != parquet::basic::Type::BYTE_ARRAY {
        return Ok(());
    }
    let mut packed = vec![0; usize::try_from(header.compressed).unwrap_or(0)];
    object.read_exact_at(&mut packed, at)?;
    let values = match column.compression() {
        Compression::UNCOMPRESSED => packed,
        Compression::ZSTD(_) => {
            let mut values = Vec::new();
            zstd::Decoder::new(packed.as_slice())
                .and_then(|decoder| {
                    decoder
                        .take(header.uncompressed.saturating_add(1))
                        .read_to_end(&mut values)
                })
                .map_err(|error| wrong(format!("a dictionary: {error}")))?;
            values
        }
        other => return Err(wrong(format!("compression {other}"))),
    };
    let mut rest = values.as_slice();
    while let Some((length, more)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length);
        if length > DICTIONARY_VALUE_BYTES_MAX {
            return Err(wrong(format!("a value of {length} bytes in a dictionary")));
        }
        rest = usize::try_from(length)
            .ok()
            .and_then(|length| more.get(length..))
            .ok_or_else(|| wrong("a dictionary ends within a value"))?;
    }
    Ok(())
}

/// The bytes end before what is read does.
#[derive(Debug)]
struct Short;

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const STRUCT: u8 = 12;

/// Bytes in Thrift's compact protocol.
struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Thrift<'_> {
    fn byte(&mut self) -> Result<u8, Short> {
        let byte = *self.bytes.get(self.at).ok_or(Short)?;
        self.at += 1;
        Ok(byte)
    }

    fn pass(&mut self, bytes: u64) -> Result<(), Short> {
        let bytes = usize::try_from(bytes).map_err(|_| Short)?;
        self.at = self
            .at
            .checked_add(bytes)
            .filter(|at| *at <= self.bytes.len())
            .ok_or(Short)?;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Short> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Short)
    }

    fn integer(&mut self) -> Result<i64, Short> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// The type of the next field, and in `id` its number; `None` at the end of the structure.
    fn field(&mut self, id: &mut i64) -> Result<Option<u8>, Short> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        *id = match head >> 4 {
            0 => self.integer()?,
            delta => id.saturating_add(i64::from(delta)),
        };
        Ok(Some(head & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: u32) -> Result<(), Short> {
        let depth = depth.checked_sub(1).ok_or(Short)?;
        match kind {
            TRUE | FALSE => Ok(()),
            BYTE => self.pass(1),
            I16 | I32 | I64 => self.varint().map(drop),
            DOUBLE => self.pass(8),
            BINARY => {
                let length = self.varint()?;
                self.pass(length)
            }
            LIST | SET => {
                let head = self.byte()?;
                let length = match head >> 4 {
                    15 => self.varint()?,
                    length => u64::from(length),
                };
                for _ in 0..length {
                    // In a list a truth value takes a byte, as does everything else: so the bytes bound the work.
                    match head & 0x0f {
                        TRUE | FALSE => self.pass(1)?,
                        kind => self.skip(kind, depth)?,
                    }
                }
                Ok(())
            }
            STRUCT => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth)?;
                }
                Ok(())
            }
            _ => Err(Short),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Option<Result<Header, String>> {
        parse_header(&mut Thrift { bytes, at: 0 }).ok()
    }

    /// type 0, 1000 bytes, 500 packed, a crc, and a data page's header: 7 values, encoding 8, one statistic.
    const DATA_PAGE: [u8; 21] = [
        0x15, 0, 0x15, 0xd0, 0x0f, 0x15, 0xe8, 0x07, 0x15, 2, 0x1c, 0x15, 14, 0x15, 16, 0x3c, 0x18, 1, 7, 0,
        0,
    ];

    #[test]
    fn a_header_is_read() {
        let mut bytes = DATA_PAGE.to_vec();
        assert!(parse(&bytes).is_none(), "the last structure has no end");
        bytes.push(0);
        assert_eq!(
            parse(&bytes),
            Some(Ok(Header {
                kind: 0,
                uncompressed: 1000,
                compressed: 500,
                encoding: 8
            }))
        );
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length]).is_none(), "{length} bytes");
        }
        assert!(matches!(parse(&[0x25, 1, 0]), Some(Err(_))), "a negative length");
    }

    #[test]
    fn what_never_ends_is_not_followed() {
        assert!(parse(&[0x9c; 1000]).is_none(), "structures in each other");
        assert!(
            parse(&[0x99, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_none(),
            "a long list"
        );
        assert!(parse(&[0x98, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_none());
    }
}
