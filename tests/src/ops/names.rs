//! Names at their limits: length, bytes, depth, number.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{AtFlags, Mode, OFlags};

use super::declare::{Context, Operation, operation};
use super::util::content;

pub(super) const OPERATIONS: &[Operation] = &[
    operation("name-255", "names of 255 bytes of every kind of inode", longest),
    operation(
        "name-bytes",
        "names that are not UTF-8, of every byte there is",
        bytes,
    ),
    operation(
        "name-newline",
        "names with newlines, quotes, spaces, dots",
        newline,
    ),
    operation(
        "path-long",
        "paths longer than PATH_MAX, made by relative steps",
        long_path,
    ),
    operation(
        "entries-100000",
        "100,000 entries in one directory, some of them gone again",
        many,
    ),
];

fn longest(context: &Context) -> Result<()> {
    let name = |kind: &str| kind.to_owned() + &"n".repeat(255 - kind.len());
    fs::write(name("file"), content(context.seed, 500)).context("write")?;
    fs::create_dir(name("dir")).context("mkdir")?;
    fs::write(format!("{}/{}", name("dir"), name("file")), "deeper").context("write")?;
    fs::hard_link(name("file"), name("link")).context("link")?;
    std::os::unix::fs::symlink(name("file"), name("symlink")).context("symlink")?;
    fs::rename(name("link"), name("renamed")).context("rename")?;
    fs::write(name("gone"), "").context("write")?;
    fs::remove_file(name("gone")).context("unlink")
}

fn bytes(context: &Context) -> Result<()> {
    for byte in (1..=255u8).filter(|byte| *byte != b'/' && *byte != b'.') {
        fs::write(
            OsStr::from_bytes(&[byte]),
            content(context.seed, usize::from(byte)),
        )
        .context("write")?;
    }
    let all: Vec<u8> = (1..=255u8).filter(|byte| *byte != b'/').collect();
    fs::create_dir(OsStr::from_bytes(&all[..])).context("mkdir")?;
    fs::rename(OsStr::from_bytes(b"\xff"), OsStr::from_bytes(b"\xfe\xff\xfd")).context("rename")
}

fn newline(context: &Context) -> Result<()> {
    for name in [
        "\n",
        "a\nb",
        " ",
        "  lead",
        "trail ",
        "...",
        "\"quoted\"",
        "'",
        "\\",
        "\\x0a",
        "\t",
        "-rf",
        "*",
        "\u{202e}rtl",
        "e\u{301}",
        "\u{e9}",
    ] {
        fs::write(name, content(context.seed, 50)).with_context(|| format!("write {name:?}"))?;
    }
    Ok(())
}

fn long_path(context: &Context) -> Result<()> {
    let mut dir = File::open(".").context("open directory")?;
    // 30 times 201 bytes: beyond PATH_MAX (4096).
    for level in 0..30 {
        let name = format!("{level:03}{}", "d".repeat(197));
        rustix::fs::mkdirat(&dir, &name, Mode::from_raw_mode(0o755)).context("mkdirat")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        dir = rustix::fs::openat(&dir, &name, flags, Mode::empty())
            .context("openat")?
            .into();
    }
    let flags = OFlags::CREATE | OFlags::RDWR;
    for name in ["file", "gone"] {
        let file: File = rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o644))
            .context("openat")?
            .into();
        std::os::unix::fs::FileExt::write_all_at(&file, &content(context.seed, 9000), 0).context("write")?;
    }
    rustix::fs::linkat(&dir, "file", &dir, "link", AtFlags::empty()).context("linkat")?;
    rustix::fs::renameat(&dir, "link", &dir, "renamed").context("renameat")?;
    rustix::fs::symlinkat("file", &dir, "symlink").context("symlinkat")?;
    rustix::fs::unlinkat(&dir, "gone", AtFlags::empty()).context("unlinkat")
}

fn many(context: &Context) -> Result<()> {
    fs::create_dir("dir").context("mkdir")?;
    let dir = File::open("dir").context("open directory")?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::EXCL;
    for i in 0..100_000u64 {
        let name = format!("entry-{i}");
        let file = rustix::fs::openat(&dir, &name, flags, Mode::from_raw_mode(0o644)).context("create")?;
        if i % 1000 == 0 {
            rustix::io::write(&file, &content(context.seed ^ i, 100)).context("write")?;
        }
    }
    for i in (0..100_000).step_by(101) {
        rustix::fs::unlinkat(&dir, format!("entry-{i}"), AtFlags::empty()).context("unlink")?;
    }
    for i in (50..100_000).step_by(1010) {
        rustix::fs::renameat(&dir, format!("entry-{i}"), &dir, format!("renamed-{i}")).context("rename")?;
    }
    ensure!(fs::exists("dir/entry-1").context("look")?, "an entry is missing");
    Ok(())
}
