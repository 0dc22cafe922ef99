//! Changes that meet: the same ranges and the same names, by many threads at once.
//!
//! Which of two wins is left to the kernel, so the trees differ from run to run; what is restored must be what the
//! kernel decided. Where two stores to one byte race, or a store races with O_DIRECT, any outcome is right for the
//! file system, but what it has on the disk at the end is what counts here.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use rustix::fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with};

use super::declare::{Context, FileSystem, Limit, Operation, operation};
use super::sys::{Mapping, Pages, aio_write};
use super::util::{PAGE, content, create, filled, reopen};

const SIZE: usize = 64 * PAGE;
const ROUNDS: u64 = 300;

pub(super) const OPERATIONS: &[Operation] = &[
    operation("order-buffered", "overlapping writes by four threads", buffered),
    operation("order-append", "O_APPEND against writes and truncation", append),
    operation("order-mmap", "writes against stores", mapped),
    operation(
        "order-truncate",
        "writes against truncation, down and up",
        truncated,
    ),
    operation(
        "order-fallocate",
        "writes against holes and zeroed ranges",
        allocated,
    ),
    operation("order-shift", "writes against collapse and insert", shifted).limited(&[Limit::never(
        &[FileSystem::Btrfs],
        &[libc::EOPNOTSUPP],
        "btrfs has no such mode",
    )]),
    operation(
        "order-clone",
        "writes against clones, from and to the file",
        cloned,
    )
    .limited(&[Limit::never(
        &[FileSystem::Ext4],
        &[libc::EOPNOTSUPP],
        "ext4 cannot share extents",
    )]),
    operation(
        "order-direct",
        "O_DIRECT, also by libaio, against buffered writes",
        direct,
    ),
    operation("order-rename", "rename storms on the same names", renames),
    operation("order-links", "link and unlink races on the same names", links),
    operation(
        "order-dirs",
        "mkdir, rmdir and rename of the same directories",
        directories,
    ),
    operation(
        "order-attributes",
        "chmod, chown, times, attributes of the same files",
        attributes,
    ),
];

/// A random walk that is the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % bound.max(1)
    }
}

/// Runs all at once and waits for all; the first error counts.
fn together<'a>(tasks: Vec<Box<dyn FnOnce() -> Result<()> + Send + 'a>>) -> Result<()> {
    thread::scope(|scope| {
        let running: Vec<_> = tasks.into_iter().map(|task| scope.spawn(task)).collect();
        running
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .fold(Ok(()), Result::and)
    })
}

/// Writes of changing length at changing places.
fn writer(file: &File, seed: u64, rounds: u64) -> Result<()> {
    let mut dice = Dice(seed);
    for round in 0..rounds {
        let bytes = 1 + dice.below(3 * PAGE);
        let at = dice.below(SIZE - bytes);
        file.write_all_at(&content(seed ^ round, bytes), at as u64)
            .context("write")?;
    }
    Ok(())
}

fn buffered(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, SIZE)?;
    let page = create("one-page")?;
    let mut tasks: Vec<Box<dyn FnOnce() -> Result<()> + Send + '_>> = Vec::new();
    for who in 0..4u64 {
        let (file, page, seed) = (&file, &page, context.seed ^ who << 40);
        tasks.push(Box::new(move || {
            writer(file, seed, ROUNDS)?;
            (0..ROUNDS)
                .try_for_each(|i| page.write_all_at(&content(seed ^ i, 700), (i * 13 % 3000) + who))
                .context("write")
        }));
    }
    together(tasks)
}

fn append(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, SIZE)?;
    let appender = |seed: u64| {
        use std::io::Write as _;
        let mut file = fs::OpenOptions::new().append(true).open("file").context("open")?;
        (0..ROUNDS)
            .try_for_each(|i| file.write_all(&content(seed ^ i, 300)))
            .context("append")
    };
    together(vec![
        Box::new(move || appender(1)),
        Box::new(move || appender(2)),
        Box::new(|| writer(&file, context.seed, ROUNDS)),
        Box::new(|| {
            (0..40)
                .try_for_each(|i| file.set_len(SIZE as u64 - i * 1000))
                .context("truncate")
        }),
    ])
}

fn mapped(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, SIZE)?;
    let mapping = Mapping::shared(&file, SIZE)?;
    let storer = |seed: u64| {
        let mut dice = Dice(seed);
        for round in 0..ROUNDS * 3 {
            let bytes = 1 + dice.below(2000);
            mapping.store(dice.below(SIZE - bytes), &content(seed ^ round, bytes));
        }
        Ok(())
    };
    together(vec![
        Box::new(|| storer(3)),
        Box::new(|| storer(4)),
        Box::new(|| writer(&file, context.seed, ROUNDS)),
        Box::new(|| (0..10).try_for_each(|_| file.sync_data()).context("fdatasync")),
    ])
}

fn truncated(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, SIZE)?;
    let cutter = |seed: u64| {
        let mut dice = Dice(seed);
        (0..ROUNDS)
            .try_for_each(|_| file.set_len(dice.below(SIZE) as u64))
            .context("truncate")
    };
    together(vec![
        Box::new(|| writer(&file, context.seed, ROUNDS)),
        Box::new(|| writer(&file, context.seed ^ 1, ROUNDS)),
        Box::new(|| cutter(5)),
        Box::new(|| cutter(6)),
    ])
}

fn allocated(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, SIZE)?;
    let shaper = |seed: u64, mode: FallocateFlags| {
        let mut dice = Dice(seed);
        (0..ROUNDS)
            .try_for_each(|_| {
                let bytes = 1 + dice.below(4 * PAGE);
                fallocate(&file, mode, dice.below(SIZE - bytes) as u64, bytes as u64)
            })
            .context("fallocate")
    };
    together(vec![
        Box::new(|| writer(&file, context.seed, ROUNDS)),
        Box::new(|| writer(&file, context.seed ^ 1, ROUNDS)),
        Box::new(|| shaper(7, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)),
        Box::new(|| shaper(8, FallocateFlags::ZERO_RANGE)),
    ])
}

fn shifted(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, 2 * SIZE)?;
    together(vec![
        Box::new(|| writer(&file, context.seed, ROUNDS)),
        Box::new(|| writer(&file, context.seed ^ 1, ROUNDS)),
        Box::new(|| {
            let mut dice = Dice(9);
            for _ in 0..60 {
                let at = (dice.below(30) * PAGE) as u64;
                fallocate(&file, FallocateFlags::INSERT_RANGE, at, 2 * PAGE as u64).context("insert")?;
                let at = (dice.below(30) * PAGE) as u64;
                fallocate(&file, FallocateFlags::COLLAPSE_RANGE, at, 2 * PAGE as u64).context("collapse")?;
            }
            Ok(())
        }),
    ])
}

fn cloned(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, SIZE)?;
    let other = filled("other", context.seed ^ 1, SIZE)?;
    let cloner = |to: &str, from: &File| -> Result<()> {
        for i in 0..25 {
            let target = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(format!("{to}{}", i % 5))?;
            rustix::fs::ioctl_ficlone(&target, from).context("FICLONE")?;
            target.write_all_at(b"its own", 5000).context("write")?;
        }
        Ok(())
    };
    together(vec![
        Box::new(|| writer(&file, context.seed, ROUNDS)),
        Box::new(|| writer(&file, context.seed ^ 1, ROUNDS)),
        Box::new(|| cloner("clone", &file)),
        Box::new(|| {
            (0..25)
                .try_for_each(|_| rustix::fs::ioctl_ficlone(&file, &other))
                .context("FICLONE")
        }),
    ])
}

fn direct(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, SIZE)?;
    let direct = reopen("file", libc::O_DIRECT)?;
    let pages: Vec<Pages> = (0..16)
        .map(|i| Pages::holding(&content(context.seed ^ i, 2 * PAGE)))
        .collect();
    together(vec![
        Box::new(|| writer(&file, context.seed, ROUNDS)),
        Box::new(|| {
            let mut dice = Dice(10);
            (0..100)
                .try_for_each(|i| direct.write_all_at(pages[i % 16].bytes(), (dice.below(60) * PAGE) as u64))
                .context("write directly")
        }),
        Box::new(|| {
            let mut dice = Dice(11);
            for _ in 0..30 {
                let parts: Vec<(u64, &[u8])> = pages
                    .iter()
                    .map(|page| ((dice.below(60) * PAGE) as u64, page.bytes()))
                    .collect();
                aio_write(&direct, &parts[..4])?;
            }
            Ok(())
        }),
    ])
}

/// In a race a name is there or not: both are fine.
fn raced(result: std::io::Result<()>) -> Result<()> {
    use std::io::ErrorKind::{
        AlreadyExists, DirectoryNotEmpty, InvalidInput, IsADirectory, NotADirectory, NotFound,
    };
    match result {
        Err(error)
            if !matches!(
                error.kind(),
                AlreadyExists | DirectoryNotEmpty | InvalidInput | IsADirectory | NotADirectory | NotFound
            ) =>
        {
            Err(error).context("an operation that races")
        }
        _ => Ok(()),
    }
}

fn renames(context: &Context) -> Result<()> {
    fs::create_dir("d").context("mkdir")?;
    for i in 0..6 {
        filled(&format!("n{i}"), context.seed ^ i, 500 + usize::try_from(i)?)?;
    }
    let storm = |seed: u64| {
        let mut dice = Dice(seed);
        let mut name = move || {
            let number = dice.below(8);
            if dice.below(3) == 0 {
                format!("d/n{number}")
            } else {
                format!("n{number}")
            }
        };
        for round in 0..ROUNDS {
            let (from, to) = (name(), name());
            let flags = [
                RenameFlags::empty(),
                RenameFlags::EXCHANGE,
                RenameFlags::NOREPLACE,
            ][usize::try_from(round % 3)?];
            raced(renameat_with(CWD, &from, CWD, &to, flags).map_err(Into::into))?;
            if round % 10 == 0 {
                raced(fs::write(name(), content(seed ^ round, 200)))?;
            }
        }
        Ok(())
    };
    together(
        (0..4)
            .map(|who| Box::new(move || storm(20 + who)) as Box<dyn FnOnce() -> Result<()> + Send>)
            .collect(),
    )
}

fn links(context: &Context) -> Result<()> {
    for i in 0..3 {
        filled(&format!("source{i}"), context.seed ^ i, 300)?;
    }
    let race = |seed: u64| {
        let mut dice = Dice(seed);
        for round in 0..ROUNDS {
            let (from, to) = (format!("source{}", dice.below(3)), format!("l{}", dice.below(5)));
            match dice.below(4) {
                0 | 1 => raced(fs::hard_link(&from, &to))?,
                2 => raced(fs::remove_file(&to))?,
                _ => raced(fs::write(&to, content(seed ^ round, 1 + dice.below(900))))?,
            }
        }
        Ok(())
    };
    together(
        (0..4)
            .map(|who| Box::new(move || race(30 + who)) as Box<dyn FnOnce() -> Result<()> + Send>)
            .collect(),
    )
}

fn directories(_: &Context) -> Result<()> {
    let race = |seed: u64| {
        let mut dice = Dice(seed);
        for _ in 0..ROUNDS {
            let (a, b) = (dice.below(4), dice.below(4));
            match dice.below(5) {
                0 | 1 => raced(fs::create_dir_all(format!("d{a}/s{b}")))?,
                2 => raced(fs::remove_dir(format!("d{a}/s{b}")))?,
                3 => raced(fs::rename(format!("d{a}/s{b}"), format!("d{b}/s{a}")))?,
                _ => raced(fs::rename(format!("d{a}"), format!("d{b}/moved{a}")))?,
            }
        }
        Ok(())
    };
    together(
        (0..4)
            .map(|who| Box::new(move || race(40 + who)) as Box<dyn FnOnce() -> Result<()> + Send>)
            .collect(),
    )
}

fn attributes(context: &Context) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    filled("file", context.seed, 5000)?;
    let stop = AtomicBool::new(false);
    let race = |seed: u64| {
        let file = reopen("file", 0)?;
        let mut dice = Dice(seed);
        for round in 0..ROUNDS {
            let value = u32::try_from(dice.below(512))?;
            match dice.below(5) {
                0 => file
                    .set_permissions(fs::Permissions::from_mode(value))
                    .context("chmod")?,
                1 => std::os::unix::fs::fchown(&file, Some(value), Some(value + 1)).context("chown")?,
                2 => xattr::set("file", format!("user.{}", value % 4), &content(seed ^ round, 50))
                    .context("xattr")?,
                3 => file
                    .write_all_at(&content(seed ^ round, 100), u64::from(value))
                    .context("write")?,
                _ => {
                    let at = rustix::fs::Timespec {
                        tv_sec: i64::from(value) * 1000,
                        tv_nsec: 5,
                    };
                    let pair = rustix::fs::Timestamps {
                        last_access: at,
                        last_modification: at,
                    };
                    rustix::fs::futimens(&file, &pair).context("futimens")?;
                }
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    };
    let result = together(
        (0..4)
            .map(|who| {
                let race = &race;
                Box::new(move || race(50 + who)) as Box<dyn FnOnce() -> Result<()> + Send>
            })
            .collect(),
    );
    stop.store(true, Ordering::Relaxed);
    result
}
