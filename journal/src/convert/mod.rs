//! Record to flat row and back. Pure.

mod from_row;
mod to_row;

pub(crate) use from_row::from_row;
pub(crate) use to_row::to_row;

use crate::record::Op;

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
