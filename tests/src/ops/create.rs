//! Names that begin: every kind of inode, links, files that get a name later.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, symlink};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::declare::{Context, FileSystem, Limit, Operation, operation};
use super::sys;
use super::util::{TICK, content, create, filled, reopen};

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "create-open",
        "open(2) with O_CREAT: modes, umask, O_EXCL, relative to a directory",
        open,
    ),
    operation("create-creat", "creat(2)", |_| {
        sys::creat("file")?;
        filled("before", 1, 100)?;
        sys::creat("before")
    }),
    operation("mknod-regular", "mknod(2) of a regular file", |_| {
        sys::mknod("file", libc::S_IFREG | 0o640, 0)
    }),
    operation("mknod-fifo", "named pipes", |_| {
        sys::mknod("fifo", libc::S_IFIFO | 0o640, 0)?;
        rustix::fs::mkfifoat(CWD, "mkfifo", Mode::from_raw_mode(0o600)).context("mkfifo")
    }),
    operation(
        "fifo-write",
        "bytes through a named pipe, which gets their time",
        |_| {
            sys::mknod("fifo", libc::S_IFIFO | 0o640, 0)?;
            let mut both = reopen("fifo", 0)?;
            std::thread::sleep(TICK);
            both.write_all(b"through the pipe").context("write")
        },
    ),
    operation("mknod-socket", "sockets, by mknod(2) and by bind(2)", |_| {
        sys::mknod("socket", libc::S_IFSOCK | 0o755, 0)?;
        std::os::unix::net::UnixListener::bind("bound")
            .context("bind")
            .map(drop)
    }),
    operation("mknod-char", "character devices, with large numbers too", |_| {
        sys::mknod("null", libc::S_IFCHR | 0o666, libc::makedev(1, 3))?;
        sys::mknod("large", libc::S_IFCHR | 0o600, libc::makedev(511, 200_000))
    }),
    operation("mknod-block", "block devices", |_| {
        sys::mknod("loop", libc::S_IFBLK | 0o660, libc::makedev(7, 0))?;
        sys::mknod("large", libc::S_IFBLK | 0o600, libc::makedev(259, 70_000))
    }),
    operation(
        "mkdir",
        "directories: modes, sticky, set-group-id inherited",
        mkdir,
    ),
    operation(
        "symlink",
        "symbolic links up to 1023 bytes, dangling, not UTF-8",
        symlinks,
    ),
    operation("symlink-4095", "symbolic links of more than 1023 bytes", |_| {
        [1024, 4000, 4095]
            .into_iter()
            .try_for_each(|bytes| symlink("x".repeat(bytes), format!("of-{bytes}")))
            .context("symlink")
    })
    .limited(&[Limit::never(
        &[FileSystem::Xfs],
        &[libc::ENAMETOOLONG],
        "at most 1023 bytes on XFS",
    )]),
    operation(
        "link",
        "hard links to files, symbolic links and nodes, across directories",
        link,
    ),
    operation("tmpfile", "O_TMPFILE that never gets a name", |context| {
        tmpfile(context).map(drop)
    }),
    operation(
        "tmpfile-link",
        "O_TMPFILE that gets a name, in both ways",
        tmpfile_link,
    ),
];

fn open(context: &Context) -> Result<()> {
    for mode in [0o000, 0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o600] {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(format!("mode-{mode:o}"))
            .context("create")?
            .write_all_at(&content(context.seed, 100), 0)
            .context("write")?;
    }
    DirBuilder::new().create("below").context("mkdir")?;
    let dir = File::open("below").context("open directory")?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::EXCL;
    for i in 0..50 {
        rustix::fs::openat(&dir, format!("n{i}"), flags, Mode::from_raw_mode(0o640)).context("openat")?;
    }
    let again = rustix::fs::openat(&dir, "n7", flags, Mode::from_raw_mode(0o640));
    ensure!(again.is_err(), "O_EXCL found nothing");
    Ok(())
}

fn mkdir(_: &Context) -> Result<()> {
    for mode in [0o755, 0o700, 0o1777, 0o2775, 0o000] {
        let name = format!("mode-{mode:o}");
        DirBuilder::new().mode(mode).create(&name).context("mkdir")?;
        rustix::fs::chmodat(CWD, &name, Mode::from_raw_mode(mode), AtFlags::empty()).context("chmod")?;
    }
    std::os::unix::fs::chown("mode-2775", None, Some(1234)).context("chown")?;
    DirBuilder::new().create("mode-2775/inherits").context("mkdir")?;
    create("mode-2775/file")?;
    fs::create_dir_all("a/b/c/d/e/f/g/h").context("mkdir")
}

fn symlinks(_: &Context) -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    for bytes in [1, 59, 60, 100, 400, 1023] {
        symlink("x".repeat(bytes), format!("of-{bytes}")).context("symlink")?;
    }
    symlink("/nowhere/at/all", "dangling").context("symlink")?;
    symlink(std::ffi::OsStr::from_bytes(b"\xff\xfe\n \\"), "not-utf8").context("symlink")?;
    std::os::unix::fs::lchown("dangling", Some(77), Some(88)).context("lchown")
}

fn link(context: &Context) -> Result<()> {
    fs::create_dir("other").context("mkdir")?;
    let file = filled("file", context.seed, 10_000)?;
    for to in ["second", "other/third"] {
        fs::hard_link("file", to).context("link")?;
    }
    file.write_all_at(b"through any of its names", 3)
        .context("write")?;
    symlink("file", "symlink").context("symlink")?;
    fs::hard_link("symlink", "symlink-too").context("link")?;
    sys::mknod("fifo", libc::S_IFIFO | 0o600, 0)?;
    fs::hard_link("fifo", "other/fifo").context("link")?;
    filled("first-name-goes", context.seed, 500)?;
    fs::hard_link("first-name-goes", "second-name-stays").context("link")?;
    fs::remove_file("first-name-goes").context("unlink")
}

fn tmpfile(context: &Context) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let file: File = rustix::fs::open(".", flags, Mode::from_raw_mode(0o640))
        .context("O_TMPFILE")?
        .into();
    file.write_all_at(&content(context.seed, 20_000), 0)
        .context("write")?;
    Ok(file)
}

fn tmpfile_link(context: &Context) -> Result<()> {
    use std::os::fd::AsRawFd as _;
    let file = tmpfile(context)?;
    rustix::fs::linkat(&file, "", CWD, "by-descriptor", AtFlags::EMPTY_PATH).context("linkat")?;
    file.write_all_at(b"after it has a name", 30_000)
        .context("write")?;
    let file = tmpfile(context)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, path, CWD, "by-proc", AtFlags::SYMLINK_FOLLOW).context("linkat")?;
    fs::hard_link("by-proc", "by-proc-too").context("link")
}
