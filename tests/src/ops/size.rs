//! Sizes and allocation: truncation, every mode of fallocate(2), huge holes.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate};

use super::declare::{Context, FileSystem, Limit, Operation, operation};
use super::util::{content, create, expect, filled, reopen};

use FileSystem::{Btrfs, Ext4, Xfs};

const NOT_BTRFS: Limit = Limit::never(&[Btrfs], &[libc::EOPNOTSUPP], "btrfs has no such mode");

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "truncate-down",
        "to nothing, to a block, inside a block, by name and descriptor",
        truncate_down,
    ),
    operation("truncate-up", "beyond the end, and after a cut", truncate_up),
    operation("open-truncate", "O_TRUNC", open_truncate),
    operation(
        "truncate-unlinked",
        "ftruncate of an open file without a name, and of one that gets its name back",
        unlinked,
    ),
    operation("fallocate", "allocation that extends the file", allocate),
    operation("fallocate-keep-size", "allocation behind the end", keep_size),
    operation(
        "fallocate-punch",
        "holes: whole blocks, parts of blocks, over the end",
        punch,
    ),
    operation("fallocate-zero", "zeroed ranges that extend the file", |c| {
        zero(c, FallocateFlags::ZERO_RANGE)
    }),
    operation("fallocate-zero-keep", "zeroed ranges that do not", |c| {
        zero(c, FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE))
    }),
    operation("fallocate-collapse", "ranges taken out", collapse).limited(&[NOT_BTRFS]),
    operation("fallocate-insert", "ranges put in", insert).limited(&[NOT_BTRFS]),
    operation(
        "fallocate-unshare",
        "extents that are shared made private",
        unshare,
    )
    .limited(&[Limit::never(
        &[Ext4, Btrfs],
        &[libc::EOPNOTSUPP],
        "the file system has no such mode",
    )]),
    operation("fallocate-write-zeroes", "ranges of written zeros", write_zeroes).limited(&[
        Limit::below(&[Ext4, Xfs], (6, 17), &[libc::EOPNOTSUPP], "since Linux 6.17"),
        Limit::perhaps(
            &[Ext4, Xfs],
            &[libc::EOPNOTSUPP],
            "the disk cannot write zeros by itself",
        ),
        NOT_BTRFS,
    ]),
    operation(
        "hole-1tib",
        "1 TiB of hole with bytes before, inside and behind it",
        tebibyte,
    ),
];

fn truncate_down(context: &Context) -> Result<()> {
    for to in [0, 1, 4095, 4096, 4097, 50_000] {
        let file = filled(&format!("to-{to}"), context.seed, 100_000)?;
        if to % 2 == 0 {
            file.sync_all().context("fsync")?;
        }
        file.set_len(to).context("truncate")?;
    }
    filled("by-name", context.seed, 100_000)?;
    let name = c"by-name";
    // SAFETY: the path is valid for the call.
    let got = unsafe { libc::truncate(name.as_ptr(), 12_345) };
    ensure!(got == 0, "truncate: {}", std::io::Error::last_os_error());
    Ok(())
}

fn truncate_up(context: &Context) -> Result<()> {
    let file = filled("extended", context.seed, 5000)?;
    file.set_len(300_000).context("extend")?;
    let file = filled("cut-and-extended", context.seed, 100_000)?;
    file.set_len(7001).context("cut")?;
    file.set_len(100_000).context("extend")?;
    expect(&file, 7001, &[0; 1000])?;
    file.write_all_at(b"in the new part", 60_000).context("write")?;
    create("empty")?.set_len(1 << 30).context("extend")
}

fn open_truncate(context: &Context) -> Result<()> {
    filled("emptied", context.seed, 50_000)?;
    reopen("emptied", libc::O_TRUNC)?;
    filled("written-again", context.seed, 50_000)?;
    reopen("written-again", libc::O_TRUNC)?
        .write_all_at(&content(context.seed ^ 1, 3000), 0)
        .context("write")
}

fn unlinked(context: &Context) -> Result<()> {
    let file = filled("gone", context.seed, 100_000)?;
    std::fs::remove_file("gone").context("unlink")?;
    file.set_len(10_000).context("ftruncate")?;
    file.set_len(200_000).context("ftruncate")?;
    file.write_all_at(b"nobody will see this", 150_000)
        .context("write")?;
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
    let file: File = rustix::fs::open(".", flags, rustix::fs::Mode::from_raw_mode(0o600))
        .context("O_TMPFILE")?
        .into();
    file.write_all_at(&content(context.seed, 90_000), 0)
        .context("write")?;
    file.set_len(33_333).context("ftruncate")?;
    rustix::fs::linkat(
        &file,
        "",
        rustix::fs::CWD,
        "named-later",
        rustix::fs::AtFlags::EMPTY_PATH,
    )
    .context("linkat")
}

/// One file whose content is on the disk, and one whose content is not.
fn pair(context: &Context, bytes: usize) -> Result<[File; 2]> {
    let synced = filled("of-synced", context.seed, bytes)?;
    synced.sync_all().context("fsync")?;
    Ok([synced, filled("of-dirty", context.seed ^ 1, bytes)?])
}

fn allocate(context: &Context) -> Result<()> {
    for file in pair(context, 10_000)? {
        fallocate(&file, FallocateFlags::empty(), 5000, 100_000).context("fallocate")?;
        ensure!(
            file.metadata().context("stat")?.len() == 105_000,
            "the file was not extended"
        );
        file.write_all_at(b"into what is allocated", 50_000)
            .context("write")?;
    }
    Ok(())
}

fn keep_size(context: &Context) -> Result<()> {
    for file in pair(context, 10_000)? {
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 200_000).context("fallocate")?;
        ensure!(
            file.metadata().context("stat")?.len() == 10_000,
            "the file was extended"
        );
        file.write_all_at(b"behind the end", 20_000).context("write")?;
    }
    Ok(())
}

fn punch(context: &Context) -> Result<()> {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    for file in pair(context, 200_000)? {
        for (at, bytes) in [
            (8192, 65_536),
            (100_001, 10),
            (120_000, 20_000),
            (195_000, 50_000),
        ] {
            fallocate(&file, mode, at, bytes).context("punch")?;
        }
        expect(&file, 120_000, &[0; 20_000])?;
        file.write_all_at(b"into the hole", 20_000).context("write")?;
    }
    Ok(())
}

fn zero(context: &Context, mode: FallocateFlags) -> Result<()> {
    for file in pair(context, 200_000)? {
        for (at, bytes) in [
            (8192, 65_536),
            (100_001, 10),
            (120_000, 20_000),
            (190_000, 50_000),
        ] {
            fallocate(&file, mode, at, bytes).context("zero a range")?;
        }
        expect(&file, 100_001, &[0; 10])?;
        let size = if mode.contains(FallocateFlags::KEEP_SIZE) {
            200_000
        } else {
            240_000
        };
        ensure!(
            file.metadata().context("stat")?.len() == size,
            "another size than expected"
        );
    }
    Ok(())
}

fn collapse(context: &Context) -> Result<()> {
    for file in pair(context, 262_144)? {
        file.write_all_at(b"dirty before the collapse", 131_072)
            .context("write")?;
        fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 65_536, 32_768).context("collapse")?;
        expect(&file, 131_072 - 32_768, b"dirty before the collapse")?;
        file.write_all_at(b"after", 70_000).context("write")?;
        fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096).context("collapse")?;
    }
    // The end is inside a block: the file system makes zeros of the rest of it.
    let file = filled("end-in-a-block", context.seed, 265_001)?;
    file.sync_all().context("fsync")?;
    fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 8192, 8192).context("collapse")?;
    expect(&file, 8192, &content(context.seed, 265_001)[16_384..17_000])
}

fn insert(context: &Context) -> Result<()> {
    for file in pair(context, 131_072)? {
        file.write_all_at(b"dirty before the insertion", 100_000)
            .context("write")?;
        fallocate(&file, FallocateFlags::INSERT_RANGE, 65_536, 16_384).context("insert")?;
        expect(&file, 116_384, b"dirty before the insertion")?;
        file.write_all_at(b"inside", 70_000).context("write")?;
        fallocate(&file, FallocateFlags::INSERT_RANGE, 0, 4096).context("insert")?;
    }
    let file = filled("end-in-a-block", context.seed, 265_001)?;
    file.sync_all().context("fsync")?;
    fallocate(&file, FallocateFlags::INSERT_RANGE, 8192, 8192).context("insert")?;
    expect(&file, 16_384, &content(context.seed, 265_001)[8192..9000])
}

fn unshare(context: &Context) -> Result<()> {
    let source = filled("source", context.seed, 200_000)?;
    let clone = create("clone")?;
    // Where there is nothing to share, the mode must be refused all the same.
    match rustix::fs::ioctl_ficlone(&clone, &source) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error).context("FICLONE"),
    }
    fallocate(&clone, FallocateFlags::UNSHARE_RANGE, 0, 100_000).context("unshare")?;
    clone.write_all_at(b"private", 5000).context("write")?;
    expect(&source, 5000, &content(context.seed, 200_000)[5000..5007])
}

fn write_zeroes(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, 100_000)?;
    fallocate(&file, FallocateFlags::from_bits_retain(0x80), 8192, 200_000).context("write zeroes")?;
    expect(&file, 8192, &[0; 4096])
}

fn tebibyte(context: &Context) -> Result<()> {
    const TIB: u64 = 1 << 40;
    let file = filled("file", context.seed, 5000)?;
    file.set_len(TIB).context("extend")?;
    file.write_all_at(b"in the middle", TIB / 2 + 12_345)
        .context("write")?;
    file.write_all_at(b"behind the end", TIB + 4096)
        .context("write")?;
    let cut = create("cut-again")?;
    cut.write_all_at(b"far", TIB).context("write")?;
    cut.set_len(TIB / 4).context("cut")
}
