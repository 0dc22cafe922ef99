//! Plain writes: every system call that takes bytes from memory and copies them into the page cache.

use std::fs::OpenOptions;
use std::io::{self, IoSlice, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::ptr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::fstat;
use rustix::io::{Errno, ReadWriteFlags};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::declare::{Context, FileSystem, Limit, Operation, operation};
use super::sys;
use super::util::{PAGE, content, create, expect, filled, reopen};

use FileSystem::{Btrfs, Ext4, Xfs};

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "write",
        "write(2): sizes from a byte to MiBs, over old content, beyond the end",
        write,
    ),
    operation("pwrite", "pwrite(2) across blocks and pages", pwrite),
    operation("writev", "writev(2) and pwritev(2), many parts", writev),
    operation(
        "pwritev2-append",
        "pwritev2(2) with RWF_APPEND and RWF_DSYNC",
        pwritev2,
    ),
    operation("write-uncached", "pwritev2(2) with RWF_DONTCACHE", uncached).limited(&[
        Limit::below(
            &[Ext4, Xfs, Btrfs],
            (6, 14),
            &[libc::EOPNOTSUPP],
            "since Linux 6.14",
        ),
        Limit::perhaps(&[Btrfs], &[libc::EOPNOTSUPP], "the file system does not offer it"),
    ]),
    operation(
        "append-writers",
        "O_APPEND by threads and processes at once",
        append_writers,
    ),
    operation("o-sync", "O_SYNC and O_DSYNC", o_sync),
    operation(
        "write-fails",
        "write(2) from memory that is not there: sets the times, and writes nothing",
        write_fails,
    )
    .limited(&[Limit::never(
        &[Btrfs],
        &[libc::EOPNOTSUPP],
        "the times are set in memory only, and forgotten with the inode",
    )]),
];

fn write(context: &Context) -> Result<()> {
    for bytes in [1, 511, 4095, 4096, 4097, 65_537, 3 << 20] {
        filled(&format!("new-{bytes}"), context.seed ^ bytes as u64, bytes)?;
    }
    let mut bytewise = create("bytewise")?;
    for byte in content(context.seed, 300) {
        bytewise.write_all(&[byte]).context("write a byte")?;
    }
    let mut over = filled("over", context.seed, 100_000)?;
    for (at, bytes) in [(0, 10), (4090, 20), (50_001, 12_345), (99_990, 5000)] {
        over.seek(SeekFrom::Start(at)).context("seek")?;
        over.write_all(&content(context.seed ^ at, bytes))
            .context("write over")?;
    }
    let mut beyond = create("beyond-the-end")?;
    for at in [10_000, 300_000, 70_000] {
        beyond.seek(SeekFrom::Start(at)).context("seek")?;
        beyond
            .write_all(&content(at, 777))
            .context("write beyond the end")?;
    }
    // Written back in between, so that the next write meets clean pages and reads old blocks.
    let again = filled("again-after-sync", context.seed, 20_000)?;
    again.sync_all().context("fsync")?;
    again.write_all_at(b"short", 5000).context("write")?;
    again.sync_all().context("fsync")?;
    reopen("again-after-sync", libc::O_TRUNC)?
        .write_all(b"all new")
        .context("write")
}

fn pwrite(context: &Context) -> Result<()> {
    let file = create("file")?;
    for (at, bytes) in [
        (0, 1),
        (1, 4096),
        (8191, 2),
        (65_000, 70_000),
        (4_000, 200),
        (1 << 20, 4096),
    ] {
        let data = content(context.seed ^ at, bytes);
        file.write_all_at(&data, at).context("pwrite")?;
        expect(&file, at, &data)?;
    }
    Ok(())
}

fn writev(context: &Context) -> Result<()> {
    let parts: Vec<Vec<u8>> = (1..60)
        .map(|i| content(context.seed ^ i, (i * i * 7) as usize))
        .collect();
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let whole: usize = parts.iter().map(Vec::len).sum();
    let file = create("writev")?;
    ensure!(
        rustix::io::writev(&file, &slices).context("writev")? == whole,
        "writev was short"
    );
    let file = filled("pwritev", context.seed, 300_000)?;
    let got = rustix::io::pwritev(&file, &slices, 12_345).context("pwritev")?;
    ensure!(got == whole, "pwritev was short");
    Ok(())
}

fn pwritev2(context: &Context) -> Result<()> {
    let file = filled("append", context.seed, 5000)?;
    for i in 0..20 {
        let data = content(context.seed ^ i, 300);
        // The offset does not count with RWF_APPEND.
        let parts = [IoSlice::new(&data), IoSlice::new(b"|")];
        let got = rustix::io::pwritev2(&file, &parts, 3, ReadWriteFlags::APPEND).context("pwritev2")?;
        ensure!(got == 301, "pwritev2 was short");
    }
    ensure!(
        file.metadata().context("stat")?.len() == 5000 + 20 * 301,
        "RWF_APPEND did not append"
    );
    let file = filled("dsync", context.seed, 9000)?;
    let data = content(context.seed ^ 99, 6000);
    let got = rustix::io::pwritev2(&file, &[IoSlice::new(&data)], 2000, ReadWriteFlags::DSYNC)
        .context("pwritev2 with RWF_DSYNC")?;
    ensure!(got == data.len(), "pwritev2 was short");
    Ok(())
}

fn uncached(context: &Context) -> Result<()> {
    const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
    let file = create("file")?;
    for (at, bytes) in [(0, 300_000), (100_001, 5000), (1 << 20, 8192)] {
        let data = content(context.seed ^ at, bytes);
        let got = rustix::io::pwritev2(&file, &[IoSlice::new(&data)], at, DONTCACHE)
            .context("pwritev2 with RWF_DONTCACHE")?;
        ensure!(got == bytes, "pwritev2 was short");
    }
    Ok(())
}

fn append_writers(context: &Context) -> Result<()> {
    let append = |name: &str, who: u64| -> Result<()> {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o644)
            .open(name)
            .with_context(|| format!("open {name}"))?;
        for i in 0..150 {
            let bytes = 50 + usize::try_from((i * 37 + who) % 500).context("length")?;
            file.write_all(&content(context.seed ^ (who << 32) ^ i, bytes))
                .context("append")?;
        }
        Ok(())
    };
    let children = (0..3)
        .map(|who| sys::start_child(|| append("processes", who)))
        .collect::<Result<Vec<_>>>()?;
    for child in children {
        sys::wait_for(child)?;
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|who| scope.spawn(move || append("threads", who)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?)
    })
}

fn o_sync(context: &Context) -> Result<()> {
    for (name, flag) in [("o-sync", libc::O_SYNC), ("o-dsync", libc::O_DSYNC)] {
        create(name)?;
        let mut file = reopen(name, flag)?;
        for i in 0..12 {
            file.write_all(&content(context.seed ^ i, PAGE - 3))
                .context("write")?;
        }
        file.write_all_at(b"in the middle", 7000).context("pwrite")?;
    }
    Ok(())
}

fn write_fails(context: &Context) -> Result<()> {
    if context.fs == Btrfs {
        return Err(Errno::OPNOTSUPP).context("keep the times of a write that fails");
    }
    let file = filled("file", context.seed, 10_000)?;
    file.sync_all().context("fsync")?;
    let before = fstat(&file).context("fstat")?;
    // The clock of file systems ticks every few milliseconds.
    sleep(Duration::from_millis(100));
    // SAFETY: new memory, which nothing else knows.
    let nowhere = unsafe { mmap_anonymous(ptr::null_mut(), PAGE, ProtFlags::empty(), MapFlags::PRIVATE) }
        .context("mmap")?;
    // SAFETY: the kernel reads from there, finds that it may not, and says so.
    let written = unsafe { libc::pwrite(file.as_raw_fd(), nowhere, PAGE, 0) };
    let error = io::Error::last_os_error().raw_os_error();
    // SAFETY: as it was mapped; nothing refers to it.
    unsafe { munmap(nowhere, PAGE) }.context("munmap")?;
    ensure!(
        written == -1 && error == Some(libc::EFAULT),
        "the write came to {written}, error {error:?}"
    );
    let after = fstat(&file).context("fstat")?;
    ensure!(
        (after.st_mtime, after.st_mtime_nsec) != (before.st_mtime, before.st_mtime_nsec),
        "the times are as before"
    );
    Ok(())
}
