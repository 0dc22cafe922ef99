//! Flat row to record. Rows come from media and are checked here: what this module returns is sound.

use super::{LINK_TARGET_BYTES_MAX, NAME_BYTES_MAX, OFFSET_MAX, WRITE_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use crate::record::{
    Actor, Attributes, Continued, DirTimes, Entry, InodeKey, Op, Record, SnapshotScope, Time,
};
use crate::schema::RowView;

/// The record of a row. `with_data` says whether the data column was read.
///
/// # Errors
/// What is wrong with the row, for a message that names segment and row.
pub(crate) fn from_row(row: RowView<'_>, with_data: bool) -> Result<Record, String> {
    let seq = need(row.seq(), "seq")?;
    let last_seq = need(row.last_seq(), "last_seq")?;
    if last_seq < seq {
        return Err(format!("last_seq {last_seq} is below seq {seq}"));
    }
    Ok(Record {
        seq,
        last_seq,
        time_ns: need(row.time_ns(), "time_ns")?,
        inode: InodeKey {
            ino: need(row.ino(), "ino")?,
            generation: need(row.generation(), "generation")?,
        },
        attributes: Attributes {
            mode: row.mode(),
            uid: row.uid(),
            gid: row.gid(),
            rdev: row.rdev(),
            size: row
                .size()
                .map(|size| bounded(size, OFFSET_MAX, "size"))
                .transpose()?,
            atime: time(row.atime_sec(), row.atime_nsec(), "atime")?,
            mtime: time(row.mtime_sec(), row.mtime_nsec(), "mtime")?,
            ctime: time(row.ctime_sec(), row.ctime_nsec(), "ctime")?,
            file_flags: row.file_flags(),
            project: row.project(),
        },
        from_snapshot: row.from_snapshot().unwrap_or(false),
        actor: Actor {
            pid: row.pid().unwrap_or(0),
            tgid: row.tgid().unwrap_or(0),
            uid: row.actor_uid().unwrap_or(0),
            gid: row.actor_gid().unwrap_or(0),
            cgroup: row.cgroup().unwrap_or(0),
            comm: row.comm().unwrap_or_default().to_vec(),
        },
        op: op(row, with_data)?,
    })
}

fn op(row: RowView<'_>, with_data: bool) -> Result<Op, String> {
    Ok(match need(row.op(), "op")? {
        "write" => write(row, with_data)?,
        "create" => Op::Create {
            entry: entry(row)?,
            dir: dir_times(row)?,
            link_target: link_target(row)?,
        },
        "create_unnamed" => Op::CreateUnnamed,
        "link" => Op::Link {
            entry: entry(row)?,
            dir: dir_times(row)?,
        },
        "unlink" => Op::Unlink {
            entry: entry(row)?,
            dir: dir_times(row)?,
        },
        "rmdir" => Op::Rmdir {
            entry: entry(row)?,
            dir: dir_times(row)?,
        },
        "rename" => {
            let (from, from_dir, to, to_dir) =
                (entry(row)?, dir_times(row)?, to_entry(row)?, to_dir_times(row)?);
            Op::Rename {
                from,
                from_dir,
                to,
                to_dir,
                victim: other(row)?,
            }
        }
        "exchange" => {
            let (from, from_dir, to, to_dir) =
                (entry(row)?, dir_times(row)?, to_entry(row)?, to_dir_times(row)?);
            Op::Exchange {
                from,
                from_dir,
                to,
                to_dir,
                other: need(other(row)?, "other_ino")?,
            }
        }
        "evict" => Op::Evict,
        "setattr" => Op::SetAttr,
        "setxattr" => {
            let value = need(row.xattr_value(), "xattr_value")?;
            bounded(
                value.len() as u64,
                XATTR_VALUE_BYTES_MAX as u64,
                "bytes of xattr_value",
            )?;
            Op::SetXattr {
                name: xattr_name(row)?,
                value: value.to_vec(),
            }
        }
        "removexattr" => Op::RemoveXattr {
            name: xattr_name(row)?,
        },
        "fallocate" => {
            let (offset, length) = range(row)?;
            Op::Fallocate {
                mode: need(row.fallocate_mode(), "fallocate_mode")?,
                offset,
                length,
            }
        }
        "clone" => {
            let (offset, length) = range(row)?;
            let source_offset = bounded(
                need(row.source_offset(), "source_offset")?,
                OFFSET_MAX - length,
                "source_offset",
            )?;
            Op::Clone {
                source: need(other(row)?, "other_ino")?,
                source_offset,
                offset,
                length,
            }
        }
        "snapshot" => Op::Snapshot {
            link_target: link_target(row)?,
            scope: match need(row.scope(), "scope")? {
                "whole" => SnapshotScope::Whole,
                "attributes" => SnapshotScope::Attributes,
                unknown => return Err(format!("unknown scope {unknown:?}")),
            },
        },
        "snapshot_entry" => Op::SnapshotEntry { entry: entry(row)? },
        "snapshot_end" => Op::SnapshotEnd {
            begin_seq: need(row.ref_seq(), "ref_seq")?,
        },
        "base_begin" => Op::BaseBegin {
            continues: continued(row)?,
        },
        "base_end" => Op::BaseEnd {
            begin_seq: need(row.ref_seq(), "ref_seq")?,
        },
        "mark" => Op::Mark {
            name: need(row.mark(), "mark")?.to_owned(),
        },
        "barrier" => Op::Barrier { up_to: row.ref_seq() },
        "hole" => Op::Hole {
            since_seq: row.since_seq(),
            last_seq: need(row.ref_seq(), "ref_seq")?,
            inode: other(row)?,
        },
        "hole_closed" => Op::HoleClosed {
            hole_seq: need(row.ref_seq(), "ref_seq")?,
        },
        unknown => return Err(format!("unknown operation {unknown:?}")),
    })
}

fn continued(row: RowView<'_>) -> Result<Option<Continued>, String> {
    match (row.ref_epoch(), row.ref_seq()) {
        (None, None) => Ok(None),
        (Some(epoch), Some(seq)) => Ok(Some(Continued { epoch, seq })),
        _ => Err("ref_epoch and ref_seq disagree".to_owned()),
    }
}

fn write(row: RowView<'_>, with_data: bool) -> Result<Op, String> {
    let (offset, length) = range(row)?;
    bounded(length, WRITE_BYTES_MAX, "length of a write")?;
    let data = if with_data {
        need(row.data(), "data")?.to_vec()
    } else {
        Vec::new()
    };
    if with_data && data.len() as u64 != length {
        return Err(format!("length says {length} bytes, data has {}", data.len()));
    }
    Ok(Op::Write { offset, data, length })
}

fn need<T>(value: Option<T>, column: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("column {column} is missing"))
}

fn bounded(value: u64, max: u64, what: &str) -> Result<u64, String> {
    if value > max {
        Err(format!("{what} is {value}, above {max}"))
    } else {
        Ok(value)
    }
}

fn range(row: RowView<'_>) -> Result<(u64, u64), String> {
    let length = bounded(need(row.length(), "length")?, OFFSET_MAX, "length")?;
    let offset = bounded(need(row.offset(), "offset")?, OFFSET_MAX - length, "offset")?;
    Ok((offset, length))
}

fn time(sec: Option<i64>, nsec: Option<u32>, what: &str) -> Result<Option<Time>, String> {
    match (sec, nsec) {
        (None, None) => Ok(None),
        (Some(sec), Some(nsec)) if nsec < 1_000_000_000 => Ok(Some(Time { sec, nsec })),
        _ => Err(format!("{what} is no time: {sec:?} s, {nsec:?} ns")),
    }
}

fn checked_name(name: &[u8]) -> Result<Vec<u8>, String> {
    let hostile = name.is_empty()
        || name.len() > NAME_BYTES_MAX
        || matches!(name, b"." | b"..")
        || name.iter().any(|byte| matches!(byte, b'/' | 0));
    if hostile {
        Err(format!("{:?} cannot be a name", String::from_utf8_lossy(name)))
    } else {
        Ok(name.to_vec())
    }
}

fn entry(row: RowView<'_>) -> Result<Entry, String> {
    let parent = InodeKey {
        ino: need(row.parent_ino(), "parent_ino")?,
        generation: need(row.parent_generation(), "parent_generation")?,
    };
    Ok(Entry {
        parent,
        name: checked_name(need(row.name(), "name")?)?,
    })
}

fn to_entry(row: RowView<'_>) -> Result<Entry, String> {
    let parent = InodeKey {
        ino: need(row.to_parent_ino(), "to_parent_ino")?,
        generation: need(row.to_parent_generation(), "to_parent_generation")?,
    };
    Ok(Entry {
        parent,
        name: checked_name(need(row.to_name(), "to_name")?)?,
    })
}

fn dir_times(row: RowView<'_>) -> Result<DirTimes, String> {
    Ok(DirTimes {
        mtime: need(
            time(row.parent_mtime_sec(), row.parent_mtime_nsec(), "parent_mtime")?,
            "parent_mtime_sec",
        )?,
        ctime: need(
            time(row.parent_ctime_sec(), row.parent_ctime_nsec(), "parent_ctime")?,
            "parent_ctime_sec",
        )?,
    })
}

fn to_dir_times(row: RowView<'_>) -> Result<DirTimes, String> {
    let mtime = time(
        row.to_parent_mtime_sec(),
        row.to_parent_mtime_nsec(),
        "to_parent_mtime",
    )?;
    let ctime = time(
        row.to_parent_ctime_sec(),
        row.to_parent_ctime_nsec(),
        "to_parent_ctime",
    )?;
    Ok(DirTimes {
        mtime: need(mtime, "to_parent_mtime_sec")?,
        ctime: need(ctime, "to_parent_ctime_sec")?,
    })
}

fn other(row: RowView<'_>) -> Result<Option<InodeKey>, String> {
    match (row.other_ino(), row.other_generation()) {
        (None, None) => Ok(None),
        (Some(ino), Some(generation)) => Ok(Some(InodeKey { ino, generation })),
        _ => Err("other_ino and other_generation disagree".to_owned()),
    }
}

fn link_target(row: RowView<'_>) -> Result<Option<Vec<u8>>, String> {
    match row.link_target() {
        Some(target) if target.len() > LINK_TARGET_BYTES_MAX || target.contains(&0) => {
            Err(format!("a link target of {} bytes or with a NUL", target.len()))
        }
        target => Ok(target.map(<[u8]>::to_vec)),
    }
}

fn xattr_name(row: RowView<'_>) -> Result<Vec<u8>, String> {
    let name = need(row.xattr_name(), "xattr_name")?;
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(&0) {
        return Err(format!(
            "{:?} cannot be an attribute's name",
            String::from_utf8_lossy(name)
        ));
    }
    Ok(name.to_vec())
}
