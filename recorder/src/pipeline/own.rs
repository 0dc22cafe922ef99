//! The recorder's own records as spool frames: everything but the data of a write, and that data. Pure.

use anyhow::{Context, Result, ensure};
use journal::record::{Op, Record};

use crate::spool::PAYLOAD_BYTES_MAX;

/// An own record as the parts of a frame: the length of its head, the head, the data.
pub(super) fn encode(record: &Record) -> Result<([u8; 4], Vec<u8>, &[u8])> {
    let (head, data): (_, &[u8]) = if let Op::Write { offset, data, length } = &record.op {
        let op = Op::Write {
            offset: *offset,
            data: Vec::new(),
            length: *length,
        };
        let head = Record {
            op,
            actor: record.actor.clone(),
            attributes: record.attributes.clone(),
            ..*record
        };
        (postcard::to_stdvec(&head).context("encode a record")?, data)
    } else {
        (postcard::to_stdvec(record).context("encode a record")?, &[])
    };
    ensure!(
        head.len() + data.len() + 4 <= PAYLOAD_BYTES_MAX,
        "a record of {} bytes is too long",
        head.len() + data.len()
    );
    let length = u32::try_from(head.len()).context("length of a record's head")?;
    Ok((length.to_le_bytes(), head, data))
}

/// The record of an own frame.
pub(super) fn decode(payload: &[u8]) -> Result<Record> {
    let (length, rest) = payload
        .split_first_chunk::<4>()
        .context("an own record is cut short")?;
    let length = u32::from_le_bytes(*length) as usize;
    let (head, bytes) = rest
        .split_at_checked(length)
        .context("an own record is cut short")?;
    let mut record: Record = postcard::from_bytes(head).context("decode a record")?;
    if let Op::Write { data, .. } = &mut record.op {
        bytes.clone_into(data);
    }
    Ok(record)
}

/// The number of an own frame: the first field of its record.
pub(super) fn seq_of(payload: &[u8]) -> Result<u64> {
    let head = payload.get(4..).context("an own record is cut short")?;
    Ok(postcard::take_from_bytes(head)
        .context("decode a record's number")?
        .0)
}
