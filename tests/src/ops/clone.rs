//! Extents that files share: reflink and dedupe.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate};

use super::declare::{Context, FileSystem, Limit, Operation, operation};
use super::sys::{Request, request_code};
use super::util::{content, create, expect, filled};

use FileSystem::Ext4;

const NO_SHARING: &[Limit] = &[Limit::never(
    &[Ext4],
    &[libc::EOPNOTSUPP],
    "ext4 cannot share extents",
)];

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "ficlone",
        "FICLONE: whole files, of dirty and of synced content, over old content",
        ficlone,
    )
    .limited(NO_SHARING),
    operation(
        "ficlonerange",
        "FICLONERANGE: parts, within a file, holes, at the end",
        clone_range,
    )
    .limited(NO_SHARING),
    operation(
        "clone-read-again",
        "a clone of which a part was written, and that must be read again",
        clone_read_again,
    )
    .limited(NO_SHARING),
    operation(
        "dedupe",
        "FIDEDUPERANGE: of the same and of other content",
        dedupe,
    )
    .limited(NO_SHARING),
];

/// `struct file_clone_range`.
#[repr(C)]
struct CloneRange {
    source: i64,
    source_offset: u64,
    bytes: u64,
    offset: u64,
}

/// `struct file_dedupe_range` with room for one target.
#[repr(C)]
struct DedupeRange {
    source_offset: u64,
    bytes: u64,
    targets: u16,
    reserved1: u16,
    reserved2: u32,
    target: i64,
    target_offset: u64,
    deduped: u64,
    status: i32,
    reserved3: u32,
}

// SAFETY: CloneRange has the layout of struct file_clone_range.
const FICLONERANGE: Request<CloneRange> = unsafe { Request::new(request_code(1, 0x94, 13, 32)) };
// SAFETY: DedupeRange begins with struct file_dedupe_range (24 bytes) and one struct file_dedupe_range_info follows.
const FIDEDUPERANGE: Request<DedupeRange> = unsafe { Request::new(request_code(3, 0x94, 54, 24)) };

fn clone_part(from: &File, source_offset: u64, bytes: u64, to: &File, offset: u64) -> Result<()> {
    let mut argument = CloneRange {
        source: from.as_raw_fd().into(),
        source_offset,
        bytes,
        offset,
    };
    FICLONERANGE
        .call(to, &mut argument)
        .context("FICLONERANGE")
        .map(drop)
}

fn ficlone(context: &Context) -> Result<()> {
    let source = filled("source", context.seed, 200_001)?;
    let dirty = create("of-dirty")?;
    rustix::fs::ioctl_ficlone(&dirty, &source).context("FICLONE")?;
    source.sync_all().context("fsync")?;
    let synced = create("of-synced")?;
    rustix::fs::ioctl_ficlone(&synced, &source).context("FICLONE")?;
    let over = filled("over-shorter", context.seed ^ 1, 100_000)?;
    rustix::fs::ioctl_ficlone(&over, &source).context("FICLONE")?;
    // The end of a file that is no whole block cannot come to lie inside a longer one.
    let (blocks, longer) = (
        filled("blocks", context.seed ^ 2, 196_608)?,
        filled("over-longer", context.seed ^ 3, 300_000)?,
    );
    rustix::fs::ioctl_ficlone(&longer, &blocks).context("FICLONE")?;
    // After this each goes its own way.
    source.write_all_at(b"only in the source", 100).context("write")?;
    dirty.write_all_at(b"only in the clone", 5000).context("write")?;
    synced.set_len(50_000).context("truncate")?;
    expect(&dirty, 0, &content(context.seed, 5000))
}

fn clone_range(context: &Context) -> Result<()> {
    let source = filled("source", context.seed, 128 << 10)?;
    source.set_len(1 << 20).context("extend")?;
    source
        .write_all_at(&content(context.seed ^ 1, 64 << 10), 512 << 10)
        .context("write")?;
    let target = filled("target", context.seed ^ 2, 256 << 10)?;
    clone_part(&source, 64 << 10, 64 << 10, &target, 16 << 10)?;
    clone_part(&source, 0, 32 << 10, &target, 512 << 10)?;
    let holes = filled("holes", context.seed ^ 3, 1 << 20)?;
    clone_part(&source, 96 << 10, 448 << 10, &holes, 128 << 10)?;
    clone_part(&source, 0, 64 << 10, &source, 768 << 10)?;
    let tail = filled("tail", context.seed ^ 4, 12_345)?;
    let end = filled("to-the-end", context.seed ^ 5, 4096)?;
    // A length of zero means to the end of the source, which is no whole block.
    clone_part(&tail, 8192, 0, &end, 8192)?;
    target
        .write_all_at(b"changed afterwards", 70_000)
        .context("write")?;
    expect(&target, 512 << 10, &content(context.seed, 32 << 10))
}

/// XFS before Linux 6.9 does not tell of all the data in such a file.
fn clone_read_again(context: &Context) -> Result<()> {
    let source = filled("source", context.seed, 256 << 10)?;
    source.sync_all().context("fsync")?;
    let target = create("target")?;
    target.set_len(300_000).context("extend")?;
    clone_part(&source, 64 << 10, 64 << 10, &target, 64 << 10)?;
    target
        .write_all_at(b"copied on write", 100_000)
        .context("write")?;
    // Refused with the operation's number taken, so that the recorder cannot know what was done.
    ensure!(
        fallocate(&target, FallocateFlags::COLLAPSE_RANGE, 0, 1 << 20).is_err(),
        "more than the file was taken out of it"
    );
    expect(
        &target,
        64 << 10,
        &content(context.seed, 128 << 10)[64 << 10..96 << 10],
    )
}

fn dedupe(context: &Context) -> Result<()> {
    let one = filled("one", context.seed, 128 << 10)?;
    let two = filled("two", context.seed, 128 << 10)?;
    let other = filled("other", context.seed ^ 1, 128 << 10)?;
    for (target, same) in [(&two, true), (&other, false)] {
        let mut argument = DedupeRange {
            source_offset: 0,
            bytes: 64 << 10,
            targets: 1,
            reserved1: 0,
            reserved2: 0,
            target: target.as_raw_fd().into(),
            target_offset: 0,
            deduped: 0,
            status: 0,
            reserved3: 0,
        };
        FIDEDUPERANGE.call(&one, &mut argument).context("FIDEDUPERANGE")?;
        if argument.status < 0 {
            return Err(std::io::Error::from_raw_os_error(-argument.status)).context("dedupe");
        }
        ensure!(
            (argument.status == 0) == same,
            "dedupe took {} for the same",
            argument.deduped
        );
    }
    two.write_all_at(b"goes its own way", 10_000).context("write")?;
    expect(&one, 10_000, &content(context.seed, 128 << 10)[10_000..10_100])
}
