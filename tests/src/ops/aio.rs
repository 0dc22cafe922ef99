//! Writes that are submitted: io_uring, libaio; and those that go past the page cache.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};
use io_uring::{IoUring, opcode, squeue, types};

use super::declare::{Context, Operation, operation};
use super::sys::{Pages, aio_write};
use super::util::{PAGE, content, create, expect, filled, reopen};

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "io-uring",
        "io_uring write and writev, many in flight, buffered and O_DIRECT",
        uring,
    ),
    operation(
        "io-uring-fixed",
        "io_uring write from registered buffers to a registered file",
        uring_fixed,
    ),
    operation(
        "io-uring-names",
        "names, allocation and attributes by io_uring: its own entries to the VFS",
        uring_names,
    ),
    operation("libaio", "io_submit(2), buffered", libaio),
    operation(
        "direct",
        "O_DIRECT, aligned: new, over old blocks, extending, into holes",
        direct,
    ),
    operation(
        "direct-tail",
        "O_DIRECT with a tail that is no whole block",
        direct_tail,
    ),
    operation(
        "direct-aio",
        "O_DIRECT by io_submit(2), many in flight",
        direct_aio,
    ),
    operation(
        "direct-mixed",
        "O_DIRECT and buffered writes to one file in turn",
        direct_mixed,
    ),
];

/// Submits writes and waits for all of them; each must write as much as is told with it.
fn submit(ring: &mut IoUring, entries: &[(squeue::Entry, usize)]) -> Result<()> {
    for (index, (entry, _)) in entries.iter().enumerate() {
        let entry = entry.clone().user_data(index as u64);
        // SAFETY: the buffers are the caller's and live until all completions have been taken below.
        unsafe { ring.submission().push(&entry) }.context("push to the ring")?;
    }
    ring.submit_and_wait(entries.len())
        .context("submit to the ring")?;
    let done: Vec<_> = ring.completion().collect();
    ensure!(
        done.len() == entries.len(),
        "{} of {} ended",
        done.len(),
        entries.len()
    );
    for completion in done {
        if completion.result() < 0 {
            return Err(std::io::Error::from_raw_os_error(-completion.result())).context("write by the ring");
        }
        let want = entries[usize::try_from(completion.user_data()).context("user data")?].1;
        let got = usize::try_from(completion.result()).context("length")?;
        ensure!(got == want, "{got} of {want} bytes were written");
    }
    Ok(())
}

fn write_at(file: &File, data: &[u8], offset: u64) -> Result<(squeue::Entry, usize)> {
    let bytes = u32::try_from(data.len()).context("length")?;
    let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), data.as_ptr(), bytes).offset(offset);
    Ok((entry.build(), data.len()))
}

fn uring(context: &Context) -> Result<()> {
    let mut ring = IoUring::new(64).context("make a ring")?;
    let file = create("buffered")?;
    let parts: Vec<Vec<u8>> = (0..32).map(|i| content(context.seed ^ i, 5000)).collect();
    let entries: Vec<_> = parts
        .iter()
        .zip(0..)
        .map(|(part, i): (_, u64)| write_at(&file, part, i * 4900))
        .collect::<Result<_>>()?;
    // Neighbours overlap by 100 bytes, so one after the other.
    for entry in entries {
        submit(&mut ring, &[entry])?;
    }
    let apart = create("in-flight")?;
    let entries = parts
        .iter()
        .zip(0..)
        .map(|(part, i): (_, u64)| write_at(&apart, part, i * 6000))
        .collect::<Result<Vec<_>>>()?;
    submit(&mut ring, &entries)?;
    let vector = create("writev")?;
    let slices: Vec<libc::iovec> = parts
        .iter()
        .map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        })
        .collect();
    let entry = opcode::Writev::new(types::Fd(vector.as_raw_fd()), slices.as_ptr(), 32)
        .offset(77)
        .build();
    submit(&mut ring, &[(entry, 32 * 5000)])?;
    create("direct")?;
    let direct = reopen("direct", libc::O_DIRECT)?;
    let pages: Vec<Pages> = (0..16)
        .map(|i| Pages::holding(&content(context.seed ^ i, 4 * PAGE)))
        .collect();
    let entries = pages
        .iter()
        .zip(0..)
        .map(|(part, i): (_, u64)| write_at(&direct, part.bytes(), i * 5 * PAGE as u64))
        .collect::<Result<Vec<_>>>()?;
    submit(&mut ring, &entries)
}

fn uring_fixed(context: &Context) -> Result<()> {
    let mut ring = IoUring::new(16).context("make a ring")?;
    let pages = Pages::holding(&content(context.seed, 8 * PAGE));
    let buffer = libc::iovec {
        iov_base: pages.bytes().as_ptr().cast_mut().cast(),
        iov_len: pages.bytes().len(),
    };
    // SAFETY: the pages live until the end of this function, longer than the ring's last request.
    unsafe { ring.submitter().register_buffers(&[buffer]) }.context("register a buffer")?;
    create("direct")?;
    let files = [create("buffered")?, reopen("direct", libc::O_DIRECT)?];
    let raw: Vec<_> = files.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
    ring.submitter().register_files(&raw).context("register files")?;
    let mut entries = Vec::new();
    for file in 0..2 {
        for (page, to) in [(0, 0), (3, 1), (5, 7), (2, 3)] {
            let start = pages.bytes()[page * PAGE..].as_ptr();
            let entry = opcode::WriteFixed::new(types::Fixed(file), start, PAGE as u32, 0)
                .offset(to * PAGE as u64)
                .build();
            entries.push((entry, PAGE));
        }
    }
    submit(&mut ring, &entries)?;
    expect(&files[0], 7 * PAGE as u64, &pages.bytes()[5 * PAGE..6 * PAGE])
}

fn uring_names(context: &Context) -> Result<()> {
    use rustix::fs::{AtFlags, RenameFlags};
    let mut ring = IoUring::new(8).context("make a ring")?;
    let file = filled("file", context.seed, 20_000)?;
    filled("gone", context.seed, 100)?;
    filled("linked", context.seed, 300)?;
    let here = types::Fd(libc::AT_FDCWD);
    let fd = types::Fd(file.as_raw_fd());
    let no_replace = RenameFlags::NOREPLACE.bits();
    let value = b"by the ring";
    let value_bytes = u32::try_from(value.len()).context("length")?;
    let entries = [
        opcode::MkDirAt::new(here, c"dir".as_ptr()).mode(0o750).build(),
        opcode::RenameAt::new(here, c"file".as_ptr(), here, c"dir/renamed".as_ptr()).build(),
        opcode::UnlinkAt::new(here, c"gone".as_ptr()).build(),
        opcode::SymlinkAt::new(here, c"target".as_ptr(), c"dir/symlink".as_ptr()).build(),
        opcode::LinkAt::new(here, c"linked".as_ptr(), here, c"dir/link".as_ptr()).build(),
        opcode::MkDirAt::new(here, c"empty".as_ptr()).mode(0o700).build(),
        opcode::UnlinkAt::new(here, c"empty".as_ptr())
            .flags(AtFlags::REMOVEDIR.bits().cast_signed())
            .build(),
        opcode::RenameAt::new(here, c"linked".as_ptr(), here, c"other".as_ptr())
            .flags(no_replace)
            .build(),
        opcode::Fallocate::new(fd, 50_000).offset(10_000).build(),
        opcode::SetXattr::new(
            c"user.ring".as_ptr(),
            value.as_ptr().cast(),
            c"other".as_ptr(),
            value_bytes,
        )
        .build(),
        opcode::FSetXattr::new(fd, c"user.ring".as_ptr(), value.as_ptr().cast(), value_bytes).build(),
    ];
    // Each needs the one before.
    for entry in entries {
        submit(&mut ring, &[(entry, 0)])?;
    }
    ensure!(
        file.metadata().context("stat")?.len() == 60_000,
        "the ring did not allocate"
    );
    Ok(())
}

fn libaio(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, 10_000)?;
    let parts: Vec<Vec<u8>> = (0..10).map(|i| content(context.seed ^ i, 3333)).collect();
    let requests: Vec<(u64, &[u8])> = parts
        .iter()
        .zip(0..)
        .map(|(part, i): (_, u64)| (i * 5000, part.as_slice()))
        .collect();
    aio_write(&file, &requests)?;
    expect(&file, 45_000, &parts[9])
}

fn direct_file(name: &str) -> Result<File> {
    create(name)?;
    reopen(name, libc::O_DIRECT)
}

fn direct(context: &Context) -> Result<()> {
    let page = PAGE as u64;
    let pages = |seed: u64, count: usize| Pages::holding(&content(context.seed ^ seed, count * PAGE));
    let file = direct_file("new")?;
    file.write_all_at(pages(1, 64).bytes(), 0).context("write")?;
    file.write_all_at(pages(2, 3).bytes(), 5 * page)
        .context("write over")?;
    file.write_all_at(pages(3, 80).bytes(), 60 * page)
        .context("write over and extend")?;
    let holes = direct_file("holes")?;
    for i in [9, 1, 30, 2, 31] {
        holes
            .write_all_at(pages(i, 1).bytes(), i * page)
            .context("write into a hole")?;
    }
    let over = filled("over-allocated", context.seed, 200_000)?;
    over.sync_all().context("fsync")?;
    rustix::fs::fallocate(&over, rustix::fs::FallocateFlags::KEEP_SIZE, 200_000, 400_000)
        .context("fallocate")?;
    let over = reopen("over-allocated", libc::O_DIRECT)?;
    over.write_all_at(pages(4, 20).bytes(), 40 * page)
        .context("write over what is allocated")?;
    over.write_all_at(pages(5, 2).bytes(), 100 * page)
        .context("write over what is allocated")
}

fn direct_tail(context: &Context) -> Result<()> {
    // The last write ends inside a block: sectors of 512 bytes where the file system takes them, else whole pages and a cut.
    let file = direct_file("sectors")?;
    let pages = Pages::holding(&content(context.seed, 4 * PAGE));
    let mut end = 4 * PAGE as u64;
    file.write_all_at(pages.bytes(), 0).context("write")?;
    match file.write_all_at(&pages.bytes()[..1536], end) {
        Ok(()) => end += 1536,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        Err(error) => return Err(error).context("write sectors"),
    }
    ensure!(
        file.metadata().context("stat")?.len() == end,
        "another size than was written"
    );
    let cut = direct_file("cut")?;
    cut.write_all_at(pages.bytes(), 0).context("write")?;
    cut.set_len(3 * PAGE as u64 + 1001).context("cut")?;
    cut.write_all_at(&pages.bytes()[..PAGE], 2 * PAGE as u64)
        .context("write")?;
    // A tail that is not aligned at all: through the page cache, as programs do it.
    let tail = direct_file("buffered-tail")?;
    tail.write_all_at(pages.bytes(), 0).context("write")?;
    reopen("buffered-tail", 0)?
        .write_all_at(&content(7, 777), 4 * PAGE as u64)
        .context("write the tail")?;
    tail.sync_all().context("fsync")
}

fn direct_aio(context: &Context) -> Result<()> {
    let page = PAGE as u64;
    let pages: Vec<Pages> = (0..24)
        .map(|i| Pages::holding(&content(context.seed ^ i, 2 * PAGE)))
        .collect();
    for (name, apart) in [("side-by-side", 2), ("with-holes", 3)] {
        let file = direct_file(name)?;
        let requests: Vec<(u64, &[u8])> = pages
            .iter()
            .zip(0..)
            .map(|(part, i): (_, u64)| (i * apart * page, part.bytes()))
            .collect();
        aio_write(&file, &requests)?;
        // Over what is there, without extending: the other way through the file system.
        aio_write(&file, &requests[3..9])?;
    }
    Ok(())
}

fn direct_mixed(context: &Context) -> Result<()> {
    let page = PAGE as u64;
    let buffered = filled("file", context.seed, 40 * PAGE)?;
    let direct = reopen("file", libc::O_DIRECT)?;
    for i in 0..12 {
        buffered
            .write_all_at(&content(i, 3000), i * 3 * page + 100)
            .context("write")?;
        let pages = Pages::holding(&content(i ^ context.seed, PAGE));
        direct
            .write_all_at(pages.bytes(), i * 2 * page)
            .context("write directly")?;
        buffered
            .write_all_at(b"over both", i * 2 * page + 4000)
            .context("write")?;
    }
    direct.sync_all().context("fsync")
}
