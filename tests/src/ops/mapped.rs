//! Stores through shared mappings, which no system call tells of.

use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};

use super::declare::{Context, Operation, operation};
use super::sys::{Mapping, in_child, start_child, wait_for_or_bus_error};
use super::util::{PAGE, content, create, expect, filled, reopen};

pub(super) const OPERATIONS: &[Operation] = &[
    operation("mmap-msync", "stores, then msync", msync),
    operation("mmap", "stores without msync; the mapping ends", without_msync),
    operation(
        "mmap-after-close",
        "stores after the descriptor was closed",
        after_close,
    ),
    operation(
        "mmap-after-exit",
        "stores of a process that ends with the mapping in place",
        after_exit,
    ),
    operation(
        "mmap-again",
        "stores to pages that were written back before, twice",
        again,
    ),
    operation(
        "mmap-holes",
        "stores into a sparse and into an allocated file",
        holes,
    ),
    operation("mmap-truncate", "stores and truncation in turn", truncate),
    operation(
        "mmap-truncate-race",
        "stores of other processes while the file is cut and extended",
        truncate_race,
    ),
    operation(
        "mmap-write",
        "stores and write(2) to the same file and page",
        with_write,
    ),
    operation(
        "mmap-unlinked",
        "stores to a file without a name that gets one afterwards",
        unlinked,
    ),
];

fn store_all(mapping: &Mapping, seed: u64, bytes: usize) {
    for i in 0..40u64 {
        let at = usize::try_from(i * 7919).unwrap_or(0) * 13 % (bytes - 600);
        mapping.store(at, &content(seed ^ i, 1 + usize::try_from(i * 13).unwrap_or(0)));
    }
}

fn msync(context: &Context) -> Result<()> {
    for bytes in [3 * PAGE + 100, 2 << 20] {
        let file = filled(&format!("file-{bytes}"), context.seed, bytes)?;
        let mapping = Mapping::shared(&file, bytes)?;
        store_all(&mapping, context.seed, bytes);
        mapping.sync()?;
        mapping.store(0, b"after the first msync");
        mapping.sync()?;
        expect(&file, 0, b"after the first msync")?;
    }
    Ok(())
}

fn without_msync(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, 1 << 20)?;
    let mapping = Mapping::shared(&file, 1 << 20)?;
    store_all(&mapping, context.seed, 1 << 20);
    drop(mapping);
    let kept = filled("whole", context.seed, 300_000)?;
    Mapping::shared(&kept, 300_000)?.store(0, &content(context.seed ^ 1, 300_000));
    Ok(())
}

fn after_close(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, 200_000)?;
    let mapping = Mapping::shared(&file, 200_000)?;
    drop(file);
    store_all(&mapping, context.seed, 200_000);
    std::thread::sleep(std::time::Duration::from_millis(50));
    mapping.store(100_000, b"late");
    Ok(())
}

fn after_exit(context: &Context) -> Result<()> {
    in_child(|| {
        let file = filled("file", context.seed, 400_000)?;
        let mapping = Mapping::shared(&file, 400_000)?;
        store_all(&mapping, context.seed, 400_000);
        mapping.leave();
        Ok(())
    })
}

fn again(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, 600_000)?;
    file.sync_all().context("fsync")?;
    let mapping = Mapping::shared(&file, 600_000)?;
    for round in 0..3u64 {
        for page in 0..100 {
            mapping.store(
                page * 6000 + usize::try_from(round)? * 100,
                &content(context.seed ^ round, 50),
            );
        }
        file.sync_all().context("fsync")?;
    }
    mapping.store(3, b"not synced");
    Ok(())
}

fn holes(context: &Context) -> Result<()> {
    let sparse = create("sparse")?;
    sparse.set_len(4 << 20).context("extend")?;
    let allocated = create("allocated")?;
    rustix::fs::fallocate(&allocated, rustix::fs::FallocateFlags::empty(), 0, 4 << 20)
        .context("fallocate")?;
    for file in [&sparse, &allocated] {
        let mapping = Mapping::shared(file, 4 << 20)?;
        for i in [0, 5, 100, 101, 1000] {
            mapping.store(i * PAGE + 77, &content(context.seed ^ i as u64, 500));
        }
    }
    expect(&sparse, 5 * PAGE as u64 + 77, &content(context.seed ^ 5, 500))
}

fn truncate(context: &Context) -> Result<()> {
    let bytes = 64 * PAGE;
    let file = filled("file", context.seed, bytes)?;
    let mapping = Mapping::shared(&file, bytes)?;
    for i in 0..20u64 {
        // Inside a page: a store to a page that is all beyond the end would kill the process.
        let keep = (10 + i) * PAGE as u64 + 50 + i * 100;
        mapping.store(30 * PAGE, b"will be cut off");
        mapping.store(usize::try_from(keep)? - 50, &[7; 50]);
        file.set_len(keep).context("truncate")?;
        // The rest of the last page is there for stores, and must not come back when the file grows.
        mapping.store(usize::try_from(keep)?, b"beyond the end");
        file.set_len(bytes as u64).context("extend")?;
        mapping.store(usize::try_from(keep)? + 5000, &i.to_le_bytes());
    }
    file.set_len(50 * PAGE as u64 + 11).context("truncate")
}

fn truncate_race(context: &Context) -> Result<()> {
    let bytes = 64 * PAGE;
    let file = filled("file", context.seed, bytes)?;
    for round in 0..8u64 {
        // The kernel ends a process that stores to a page that has just been cut off: that is part of the race.
        let child = start_child(|| {
            let mapping = Mapping::shared(&file, bytes)?;
            for i in 0..4000u64 {
                let at = usize::try_from((i * 7919 + round * 31) % 60)? * PAGE + 100;
                mapping.store(at, &content(i, 40));
            }
            Ok(())
        })?;
        for i in 0..40u64 {
            file.set_len((i * 37 % 64) * 4096 + 1000).context("truncate")?;
            file.set_len(bytes as u64).context("extend")?;
        }
        wait_for_or_bus_error(child)?;
    }
    Ok(())
}

fn with_write(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, 32 * PAGE)?;
    let mapping = Mapping::shared(&file, 32 * PAGE)?;
    for i in 0..60usize {
        let at = i % 32 * PAGE;
        mapping.store(at + 10, &content(i as u64, 100));
        file.write_all_at(&content(context.seed ^ i as u64, 100), at as u64 + 60)
            .context("write")?;
        mapping.store(at + 150, b"stored last");
        if i % 20 == 19 {
            file.sync_data().context("fdatasync")?;
        }
    }
    expect(&file, 150, b"stored last")?;
    // From the mapping of one file into another: the source of a write is a mapped page.
    let copy = create("copy")?;
    std::io::copy(&mut reopen("file", 0)?, &mut &copy).context("copy")?;
    ensure!(copy.metadata().context("stat")?.len() > 0, "nothing was copied");
    Ok(())
}

fn unlinked(context: &Context) -> Result<()> {
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
    let file = rustix::fs::open(".", flags, rustix::fs::Mode::from_raw_mode(0o644)).context("O_TMPFILE")?;
    let file = std::fs::File::from(file);
    file.set_len(100_000).context("extend")?;
    let mapping = Mapping::shared(&file, 100_000)?;
    store_all(&mapping, context.seed, 100_000);
    rustix::fs::linkat(
        &file,
        "",
        rustix::fs::CWD,
        "file",
        rustix::fs::AtFlags::EMPTY_PATH,
    )
    .context("linkat")?;
    mapping.store(50_000, b"after it has a name");
    Ok(())
}
