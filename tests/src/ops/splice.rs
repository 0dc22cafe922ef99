//! Data that is moved inside the kernel: from another file or a pipe.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use rustix::pipe::{SpliceFlags, pipe, splice};

use super::declare::{Context, Operation, operation};
use super::sys::{Pages, gift_pages};
use super::util::{PAGE, content, create, expect, filled, reopen};

pub(super) const OPERATIONS: &[Operation] = &[
    operation("sendfile", "sendfile(2) to a file", sendfile),
    operation(
        "splice",
        "splice(2) from a pipe, and from a file through a pipe",
        splices,
    ),
    operation(
        "vmsplice",
        "memory given to a pipe by vmsplice(2), then spliced to a file",
        vmsplice,
    ),
    operation(
        "copy-file-range",
        "copy_file_range(2): whole, parts, unaligned, within a file",
        copy_file_range,
    ),
];

fn sendfile(context: &Context) -> Result<()> {
    let data = content(context.seed, 300_000);
    filled("source", context.seed, data.len())?;
    let (source, target) = (reopen("source", 0)?, create("target")?);
    let mut offset = 0;
    while offset < data.len() as u64 {
        let got = rustix::fs::sendfile(&target, &source, Some(&mut offset), 70_001).context("sendfile")?;
        ensure!(got > 0, "sendfile moved nothing");
    }
    expect(&target, 0, &data)
}

fn splices(context: &Context) -> Result<()> {
    let data = content(context.seed, 30_000);
    let (out, into) = pipe().context("make a pipe")?;
    File::from(into.try_clone().context("clone the pipe")?)
        .write_all(&data)
        .context("fill the pipe")?;
    let target = filled("from-a-pipe", context.seed ^ 1, 50_000)?;
    let mut at = 12_345;
    while at < 12_345 + 30_000 {
        let left = 12_345 + 30_000 - at;
        let got = splice(
            &out,
            None,
            &target,
            Some(&mut at),
            usize::try_from(left)?,
            SpliceFlags::MOVE,
        )
        .context("splice")?;
        ensure!(got > 0, "splice moved nothing");
    }
    expect(&target, 12_345, &data)?;
    filled("source", context.seed ^ 2, 200_000)?;
    let (source, target) = (reopen("source", 0)?, create("through-a-pipe")?);
    let (mut from, mut to) = (1000, 0);
    loop {
        let got =
            splice(&source, Some(&mut from), &into, None, 16_000, SpliceFlags::MOVE).context("splice")?;
        if got == 0 {
            break;
        }
        let mut left = got;
        while left > 0 {
            left -= splice(&out, None, &target, Some(&mut to), left, SpliceFlags::MOVE).context("splice")?;
        }
    }
    expect(&target, 0, &content(context.seed ^ 2, 200_000)[1000..])
}

fn vmsplice(context: &Context) -> Result<()> {
    let pages = Pages::holding(&content(context.seed, 8 * PAGE));
    let (out, into) = pipe().context("make a pipe")?;
    let target = create("file")?;
    let mut left = gift_pages(into.as_fd(), &pages)?;
    let mut at = 500;
    while left > 0 {
        let got = splice(&out, None, &target, Some(&mut at), left, SpliceFlags::MOVE).context("splice")?;
        ensure!(got > 0, "splice moved nothing");
        left -= got;
    }
    expect(&target, 500, pages.bytes())
}

fn copy_file_range(context: &Context) -> Result<()> {
    filled("source", context.seed, 300_000)?;
    let source = reopen("source", 0)?;
    source.sync_all().context("fsync")?;
    let parts = [
        ("whole", 0, 0, 300_000),
        ("aligned-part", 8192, 4096, 65_536),
        ("unaligned", 1001, 77, 50_000),
        ("tail", 290_000, 20_000, 10_000),
    ];
    for (name, mut from, mut to, bytes) in parts {
        let target = filled(name, context.seed ^ 3, 30_000)?;
        let (start, at) = (from, to);
        let mut left = bytes;
        while left > 0 {
            let got = rustix::fs::copy_file_range(&source, Some(&mut from), &target, Some(&mut to), left)
                .context("copy_file_range")?;
            ensure!(got > 0, "copy_file_range moved nothing");
            left -= got;
        }
        let start = usize::try_from(start)?;
        expect(&target, at, &content(context.seed, 300_000)[start..start + bytes])?;
    }
    let within = filled("within", context.seed ^ 4, 100_000)?;
    let (mut from, mut to) = (0, 120_000);
    let got = rustix::fs::copy_file_range(&within, Some(&mut from), &within, Some(&mut to), 40_000)
        .context("copy_file_range within a file")?;
    ensure!(got > 0, "copy_file_range moved nothing");
    Ok(())
}
