//! Record to flat row and back. Pure. Rows come from media and are checked here: what this module returns is sound.

use crate::record::{
    Actor, Attributes, Continued, DirTimes, Entry, InodeKey, Op, Record, SnapshotScope, Time,
};
use crate::schema::Row;

/// Longest directory entry name in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest symbolic link target in bytes.
pub const LINK_TARGET_BYTES_MAX: usize = 4095;
/// Longest extended attribute value in bytes.
pub const XATTR_VALUE_BYTES_MAX: usize = 65536;
/// Most data in one record: many times what a recorder puts there, so that no length is believed whose bytes cannot be there.
pub const WRITE_BYTES_MAX: u64 = 64 << 20;
/// Largest file offset that any kernel accepts.
pub const OFFSET_MAX: u64 = i64::MAX as u64;

/// Name of an operation in the column `op`.
pub fn op_name(op: &Op) -> &'static str {
    match op {
        Op::Write { .. } => "write",
        Op::Create { .. } => "create",
        Op::CreateUnnamed => "create_unnamed",
        Op::Link { .. } => "link",
        Op::Unlink { .. } => "unlink",
        Op::Rmdir { .. } => "rmdir",
        Op::Rename { .. } => "rename",
        Op::Exchange { .. } => "exchange",
        Op::Evict => "evict",
        Op::SetAttr => "setattr",
        Op::SetXattr { .. } => "setxattr",
        Op::RemoveXattr { .. } => "removexattr",
        Op::Fallocate { .. } => "fallocate",
        Op::Clone { .. } => "clone",
        Op::Snapshot { .. } => "snapshot",
        Op::SnapshotEntry { .. } => "snapshot_entry",
        Op::SnapshotEnd { .. } => "snapshot_end",
        Op::BaseBegin { .. } => "base_begin",
        Op::BaseEnd { .. } => "base_end",
        Op::Mark { .. } => "mark",
        Op::Barrier { .. } => "barrier",
        Op::Hole { .. } => "hole",
        Op::HoleClosed { .. } => "hole_closed",
    }
}

/// The row of a record.
pub(crate) fn to_row(record: &Record) -> Row<'_> {
    let Record {
        seq,
        last_seq,
        time_ns,
        inode,
        attributes,
        from_snapshot,
        actor,
        op,
    } = record;
    let Attributes {
        mode,
        uid,
        gid,
        rdev,
        size,
        atime,
        mtime,
        ctime,
        file_flags,
        project,
    } = attributes;
    let Actor {
        pid,
        tgid,
        uid: actor_uid,
        gid: actor_gid,
        cgroup,
        comm,
    } = actor;
    let mut row = Row {
        seq: Some(*seq),
        last_seq: Some(*last_seq),
        time_ns: Some(*time_ns),
        op: Some(op_name(op)),
        ino: Some(inode.ino),
        generation: Some(inode.generation),
        mode: *mode,
        uid: *uid,
        gid: *gid,
        rdev: *rdev,
        size: *size,
        atime_sec: atime.map(|time| time.sec),
        atime_nsec: atime.map(|time| time.nsec),
        mtime_sec: mtime.map(|time| time.sec),
        mtime_nsec: mtime.map(|time| time.nsec),
        ctime_sec: ctime.map(|time| time.sec),
        ctime_nsec: ctime.map(|time| time.nsec),
        file_flags: *file_flags,
        project: *project,
        from_snapshot: Some(*from_snapshot),
        pid: Some(*pid),
        tgid: Some(*tgid),
        actor_uid: Some(*actor_uid),
        actor_gid: Some(*actor_gid),
        cgroup: Some(*cgroup),
        comm: Some(comm),
        ..Row::default()
    };
    put_op(op, &mut row);
    row
}

fn put_op<'a>(op: &'a Op, row: &mut Row<'a>) {
    match op {
        Op::Write { offset, data, length } => {
            (row.offset, row.length, row.data) = (Some(*offset), Some(*length), Some(data.as_slice()));
        }
        Op::Create {
            entry,
            dir,
            link_target,
        } => {
            put_entry(row, entry, Some(dir));
            row.link_target = link_target.as_deref();
        }
        Op::Link { entry, dir } | Op::Unlink { entry, dir } | Op::Rmdir { entry, dir } => {
            put_entry(row, entry, Some(dir));
        }
        Op::Rename {
            from,
            from_dir,
            to,
            to_dir,
            victim,
        } => {
            put_entry(row, from, Some(from_dir));
            put_to_entry(row, to, to_dir);
            put_other(row, *victim);
        }
        Op::Exchange {
            from,
            from_dir,
            to,
            to_dir,
            other,
        } => {
            put_entry(row, from, Some(from_dir));
            put_to_entry(row, to, to_dir);
            put_other(row, Some(*other));
        }
        Op::SetXattr { name, value } => {
            (row.xattr_name, row.xattr_value) = (Some(name.as_slice()), Some(value.as_slice()));
        }
        Op::RemoveXattr { name } => row.xattr_name = Some(name),
        Op::Fallocate { mode, offset, length } => {
            (row.fallocate_mode, row.offset, row.length) = (Some(*mode), Some(*offset), Some(*length));
        }
        Op::Clone {
            source,
            source_offset,
            offset,
            length,
        } => {
            put_other(row, Some(*source));
            (row.source_offset, row.offset, row.length) =
                (Some(*source_offset), Some(*offset), Some(*length));
        }
        Op::Snapshot { link_target, scope } => {
            row.link_target = link_target.as_deref();
            row.scope = Some(match scope {
                SnapshotScope::Whole => "whole",
                SnapshotScope::Attributes => "attributes",
            });
        }
        Op::SnapshotEntry { entry } => put_entry(row, entry, None),
        Op::SnapshotEnd { begin_seq } | Op::BaseEnd { begin_seq } => row.ref_seq = Some(*begin_seq),
        Op::Mark { name } => row.mark = Some(name),
        Op::Hole {
            last_seq,
            inode,
            since_seq,
        } => {
            row.since_seq = *since_seq;
            row.ref_seq = Some(*last_seq);
            put_other(row, *inode);
        }
        Op::HoleClosed { hole_seq } => row.ref_seq = Some(*hole_seq),
        Op::BaseBegin { continues } => {
            row.ref_epoch = continues.map(|continued| continued.epoch);
            row.ref_seq = continues.map(|continued| continued.seq);
        }
        Op::Barrier { up_to } => row.ref_seq = *up_to,
        Op::CreateUnnamed | Op::Evict | Op::SetAttr => {}
    }
}

fn put_entry<'a>(row: &mut Row<'a>, entry: &'a Entry, dir: Option<&DirTimes>) {
    row.parent_ino = Some(entry.parent.ino);
    row.parent_generation = Some(entry.parent.generation);
    row.name = Some(&entry.name);
    if let Some(DirTimes { mtime, ctime }) = dir {
        (row.parent_mtime_sec, row.parent_mtime_nsec) = (Some(mtime.sec), Some(mtime.nsec));
        (row.parent_ctime_sec, row.parent_ctime_nsec) = (Some(ctime.sec), Some(ctime.nsec));
    }
}

fn put_to_entry<'a>(row: &mut Row<'a>, entry: &'a Entry, dir: &DirTimes) {
    let DirTimes { mtime, ctime } = dir;
    row.to_parent_ino = Some(entry.parent.ino);
    row.to_parent_generation = Some(entry.parent.generation);
    row.to_name = Some(&entry.name);
    (row.to_parent_mtime_sec, row.to_parent_mtime_nsec) = (Some(mtime.sec), Some(mtime.nsec));
    (row.to_parent_ctime_sec, row.to_parent_ctime_nsec) = (Some(ctime.sec), Some(ctime.nsec));
}

fn put_other(row: &mut Row<'_>, inode: Option<InodeKey>) {
    row.other_ino = inode.map(|inode| inode.ino);
    row.other_generation = inode.map(|inode| inode.generation);
}

/// The record of a row. `with_data` says whether the data column was read.
///
/// # Errors
/// What is wrong with the row, for a message that names segment and row.
pub(crate) fn from_row(row: &Row<'_>, with_data: bool) -> Result<Record, String> {
    let seq = need(row.seq, "seq")?;
    let last_seq = need(row.last_seq, "last_seq")?;
    if last_seq < seq {
        return Err(format!("last_seq {last_seq} is below seq {seq}"));
    }
    Ok(Record {
        seq,
        last_seq,
        time_ns: need(row.time_ns, "time_ns")?,
        inode: InodeKey {
            ino: need(row.ino, "ino")?,
            generation: need(row.generation, "generation")?,
        },
        attributes: Attributes {
            mode: row.mode,
            uid: row.uid,
            gid: row.gid,
            rdev: row.rdev,
            size: row
                .size
                .map(|size| bounded(size, OFFSET_MAX, "size"))
                .transpose()?,
            atime: time(row.atime_sec, row.atime_nsec, "atime")?,
            mtime: time(row.mtime_sec, row.mtime_nsec, "mtime")?,
            ctime: time(row.ctime_sec, row.ctime_nsec, "ctime")?,
            file_flags: row.file_flags,
            project: row.project,
        },
        from_snapshot: row.from_snapshot.unwrap_or(false),
        actor: Actor {
            pid: row.pid.unwrap_or(0),
            tgid: row.tgid.unwrap_or(0),
            uid: row.actor_uid.unwrap_or(0),
            gid: row.actor_gid.unwrap_or(0),
            cgroup: row.cgroup.unwrap_or(0),
            comm: row.comm.unwrap_or_default().to_vec(),
        },
        op: op(row, with_data)?,
    })
}

fn op(row: &Row<'_>, with_data: bool) -> Result<Op, String> {
    Ok(match need(row.op, "op")? {
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
            let value = need(row.xattr_value, "xattr_value")?;
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
                mode: need(row.fallocate_mode, "fallocate_mode")?,
                offset,
                length,
            }
        }
        "clone" => {
            let (offset, length) = range(row)?;
            let source_offset = bounded(
                need(row.source_offset, "source_offset")?,
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
            scope: match need(row.scope, "scope")? {
                "whole" => SnapshotScope::Whole,
                "attributes" => SnapshotScope::Attributes,
                unknown => return Err(format!("unknown scope {unknown:?}")),
            },
        },
        "snapshot_entry" => Op::SnapshotEntry { entry: entry(row)? },
        "snapshot_end" => Op::SnapshotEnd {
            begin_seq: need(row.ref_seq, "ref_seq")?,
        },
        "base_begin" => Op::BaseBegin {
            continues: continued(row)?,
        },
        "base_end" => Op::BaseEnd {
            begin_seq: need(row.ref_seq, "ref_seq")?,
        },
        "mark" => Op::Mark {
            name: need(row.mark, "mark")?.to_owned(),
        },
        "barrier" => Op::Barrier { up_to: row.ref_seq },
        "hole" => Op::Hole {
            since_seq: row.since_seq,
            last_seq: need(row.ref_seq, "ref_seq")?,
            inode: other(row)?,
        },
        "hole_closed" => Op::HoleClosed {
            hole_seq: need(row.ref_seq, "ref_seq")?,
        },
        unknown => return Err(format!("unknown operation {unknown:?}")),
    })
}

fn continued(row: &Row<'_>) -> Result<Option<Continued>, String> {
    match (row.ref_epoch, row.ref_seq) {
        (None, None) => Ok(None),
        (Some(epoch), Some(seq)) => Ok(Some(Continued { epoch, seq })),
        _ => Err("ref_epoch and ref_seq disagree".to_owned()),
    }
}

fn write(row: &Row<'_>, with_data: bool) -> Result<Op, String> {
    let (offset, length) = range(row)?;
    bounded(length, WRITE_BYTES_MAX, "length of a write")?;
    let data = if with_data {
        need(row.data, "data")?.to_vec()
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

fn range(row: &Row<'_>) -> Result<(u64, u64), String> {
    let length = bounded(need(row.length, "length")?, OFFSET_MAX, "length")?;
    let offset = bounded(need(row.offset, "offset")?, OFFSET_MAX - length, "offset")?;
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

fn entry(row: &Row<'_>) -> Result<Entry, String> {
    let parent = InodeKey {
        ino: need(row.parent_ino, "parent_ino")?,
        generation: need(row.parent_generation, "parent_generation")?,
    };
    Ok(Entry {
        parent,
        name: checked_name(need(row.name, "name")?)?,
    })
}

fn to_entry(row: &Row<'_>) -> Result<Entry, String> {
    let parent = InodeKey {
        ino: need(row.to_parent_ino, "to_parent_ino")?,
        generation: need(row.to_parent_generation, "to_parent_generation")?,
    };
    Ok(Entry {
        parent,
        name: checked_name(need(row.to_name, "to_name")?)?,
    })
}

fn dir_times(row: &Row<'_>) -> Result<DirTimes, String> {
    Ok(DirTimes {
        mtime: need(
            time(row.parent_mtime_sec, row.parent_mtime_nsec, "parent_mtime")?,
            "parent_mtime_sec",
        )?,
        ctime: need(
            time(row.parent_ctime_sec, row.parent_ctime_nsec, "parent_ctime")?,
            "parent_ctime_sec",
        )?,
    })
}

fn to_dir_times(row: &Row<'_>) -> Result<DirTimes, String> {
    let mtime = time(
        row.to_parent_mtime_sec,
        row.to_parent_mtime_nsec,
        "to_parent_mtime",
    )?;
    let ctime = time(
        row.to_parent_ctime_sec,
        row.to_parent_ctime_nsec,
        "to_parent_ctime",
    )?;
    Ok(DirTimes {
        mtime: need(mtime, "to_parent_mtime_sec")?,
        ctime: need(ctime, "to_parent_ctime_sec")?,
    })
}

fn other(row: &Row<'_>) -> Result<Option<InodeKey>, String> {
    match (row.other_ino, row.other_generation) {
        (None, None) => Ok(None),
        (Some(ino), Some(generation)) => Ok(Some(InodeKey { ino, generation })),
        _ => Err("other_ino and other_generation disagree".to_owned()),
    }
}

fn link_target(row: &Row<'_>) -> Result<Option<Vec<u8>>, String> {
    match row.link_target {
        Some(target) if target.len() > LINK_TARGET_BYTES_MAX || target.contains(&0) => {
            Err(format!("a link target of {} bytes or with a NUL", target.len()))
        }
        target => Ok(target.map(<[u8]>::to_vec)),
    }
}

fn xattr_name(row: &Row<'_>) -> Result<Vec<u8>, String> {
    let name = need(row.xattr_name, "xattr_name")?;
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(&0) {
        return Err(format!(
            "{:?} cannot be an attribute's name",
            String::from_utf8_lossy(name)
        ));
    }
    Ok(name.to_vec())
}
