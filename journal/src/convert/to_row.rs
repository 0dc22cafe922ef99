//! Record to flat row.

use super::op_name;
use crate::record::{Actor, Attributes, DirTimes, Entry, InodeKey, Op, Record, SnapshotScope};
use crate::schema::Row;

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
