//! Names that end or move: unlink, rmdir, every kind of rename.

use std::fs;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::declare::{Context, Operation, operation};
use super::util::{TICK, content, create, filled};

pub(super) const OPERATIONS: &[Operation] = &[
    operation("unlink", "unlink: some of many, one of several links", unlink),
    operation(
        "unlink-open",
        "unlink of files that are open and go on being written",
        unlink_open,
    ),
    operation("rmdir", "rmdir, and a directory of the same name again", rmdir),
    operation("rename", "rename in a directory, of every kind of inode", rename),
    operation(
        "rename-over-file",
        "rename over files: plain, open, with further links",
        over_file,
    ),
    operation("rename-over-dir", "rename over an empty directory", over_dir),
    operation(
        "rename-exchange",
        "RENAME_EXCHANGE: files, directories, one of each",
        exchange,
    ),
    operation("rename-whiteout", "RENAME_WHITEOUT, also over a file", whiteout),
    operation(
        "rename-noreplace",
        "RENAME_NOREPLACE, taken and refused",
        noreplace,
    ),
    operation("rename-across", "rename to other directories and back", across),
    operation(
        "rename-deep",
        "rename of directories with deep trees, while files in them are open",
        deep,
    ),
];

fn unlink(context: &Context) -> Result<()> {
    for i in 0..60u64 {
        filled(&format!("f{i}"), context.seed ^ i, 1000)?;
    }
    for i in (0..60).step_by(3) {
        fs::remove_file(format!("f{i}")).context("unlink")?;
    }
    filled("linked", context.seed, 3000)?;
    fs::hard_link("linked", "stays").context("link")?;
    fs::remove_file("linked").context("unlink")?;
    for i in (0..60u64).step_by(6) {
        filled(&format!("f{i}"), context.seed ^ i ^ 99, 700)?;
    }
    Ok(())
}

fn unlink_open(context: &Context) -> Result<()> {
    let file = filled("gone", context.seed, 100_000)?;
    fs::remove_file("gone").context("unlink")?;
    file.write_all_at(&content(context.seed ^ 1, 200_000), 50_000)
        .context("write")?;
    // The name again, for another file, while the first is still open and written.
    let second = filled("gone", context.seed ^ 2, 5000)?;
    file.write_all_at(b"into the first", 0).context("write")?;
    second.write_all_at(b"into the second", 100).context("write")?;
    file.sync_all().context("fsync")?;
    drop(file);
    filled("one-of-two", context.seed, 5000)?;
    let other = super::util::reopen("one-of-two", 0)?;
    fs::hard_link("one-of-two", "two-of-two").context("link")?;
    fs::remove_file("one-of-two").context("unlink")?;
    other
        .write_all_at(b"visible by the other name", 10)
        .context("write")
}

fn rmdir(_: &Context) -> Result<()> {
    for name in ["a", "a/b", "a/c", "again"] {
        fs::create_dir(name).context("mkdir")?;
    }
    fs::remove_dir("a/b").context("rmdir")?;
    fs::remove_dir("again").context("rmdir")?;
    fs::create_dir("again").context("mkdir")?;
    create("again/inside")?;
    fs::create_dir_all("tree/x/y").context("mkdir")?;
    create("tree/x/y/file")?;
    fs::remove_dir_all("tree").context("remove a tree")
}

fn rename(context: &Context) -> Result<()> {
    filled("file", context.seed, 5000)?;
    fs::create_dir("dir").context("mkdir")?;
    create("dir/inside")?;
    std::os::unix::fs::symlink("target", "link").context("symlink")?;
    super::sys::mknod("fifo", libc::S_IFIFO | 0o600, 0)?;
    for name in ["file", "dir", "link", "fifo"] {
        fs::rename(name, format!("{name}-renamed")).context("rename")?;
    }
    filled("same", context.seed, 10)?;
    fs::hard_link("same", "same-too").context("link")?;
    // Two names of one inode: rename does nothing.
    fs::rename("same", "same-too").context("rename")?;
    ensure!(
        fs::exists("same").context("look")?,
        "rename removed one of two names"
    );
    // The way editors and databases save: write another file, sync, rename over.
    for i in 0..10 {
        filled("saved.new", context.seed ^ i, 2000)?
            .sync_all()
            .context("fsync")?;
        fs::rename("saved.new", "saved").context("rename")?;
    }
    Ok(())
}

fn over_file(context: &Context) -> Result<()> {
    filled("old", context.seed, 9000)?;
    filled("new", context.seed ^ 1, 500)?;
    fs::rename("new", "old").context("rename")?;
    let open = filled("open", context.seed ^ 2, 9000)?;
    filled("over-open", context.seed ^ 3, 600)?;
    fs::rename("over-open", "open").context("rename")?;
    open.write_all_at(b"to the one without a name", 0)
        .context("write")?;
    filled("linked", context.seed ^ 4, 700)?;
    fs::hard_link("linked", "linked-stays").context("link")?;
    filled("over-linked", context.seed ^ 5, 800)?;
    fs::rename("over-linked", "linked").context("rename")
}

fn over_dir(_: &Context) -> Result<()> {
    for name in ["full", "empty", "elsewhere", "elsewhere/empty"] {
        fs::create_dir(name).context("mkdir")?;
    }
    create("full/file")?;
    fs::rename("full", "empty").context("rename")?;
    fs::rename("empty", "elsewhere/empty").context("rename")?;
    ensure!(
        fs::exists("elsewhere/empty/file").context("look")?,
        "the file did not come along"
    );
    Ok(())
}

fn renameat2(from: &str, to: &str, flags: RenameFlags) -> Result<()> {
    renameat_with(CWD, from, CWD, to, flags).with_context(|| format!("rename {from} to {to}, {flags:?}"))
}

fn exchange(context: &Context) -> Result<()> {
    fs::create_dir_all("d1/deep").context("mkdir")?;
    fs::create_dir("d2").context("mkdir")?;
    for (i, name) in (0..).zip(["a", "b", "d1/deep/x", "d2/y", "c"]) {
        filled(name, context.seed ^ i, 1000 + usize::try_from(i)? * 100)?;
    }
    for (from, to) in [
        ("a", "b"),
        ("d1/deep/x", "d2/y"),
        ("d1", "d2"),
        ("c", "d1"),
        ("d2/deep", "b"),
    ] {
        renameat2(from, to, RenameFlags::EXCHANGE)?;
    }
    // Directories that change their parent; some file systems touch their times, too.
    fs::create_dir_all("one/x").context("mkdir")?;
    fs::create_dir_all("two/y").context("mkdir")?;
    std::thread::sleep(TICK);
    renameat2("one/x", "two/y", RenameFlags::EXCHANGE)
}

fn whiteout(context: &Context) -> Result<()> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    fs::create_dir("dir").context("mkdir")?;
    for (i, name) in (0..).zip(["a", "b", "over", "dir/c"]) {
        filled(name, context.seed ^ i, 500)?;
    }
    for (from, to) in [
        ("a", "moved"),
        ("b", "over"),
        ("dir/c", "from-dir"),
        ("dir", "dir-moved"),
    ] {
        renameat2(from, to, RenameFlags::WHITEOUT)?;
        let left = fs::symlink_metadata(from).context("look at the whiteout")?;
        ensure!(
            left.file_type().is_char_device() && left.rdev() == 0,
            "{from} is no whiteout"
        );
    }
    Ok(())
}

fn noreplace(context: &Context) -> Result<()> {
    filled("a", context.seed, 500)?;
    filled("b", context.seed ^ 1, 600)?;
    ensure!(
        renameat2("a", "b", RenameFlags::NOREPLACE).is_err(),
        "RENAME_NOREPLACE replaced"
    );
    renameat2("a", "c", RenameFlags::NOREPLACE)
}

fn across(context: &Context) -> Result<()> {
    for name in ["x", "y", "y/z"] {
        fs::create_dir(name).context("mkdir")?;
    }
    let file = filled("x/file", context.seed, 3000)?;
    for (from, to) in [
        ("x/file", "y/file"),
        ("y/file", "y/z/other"),
        ("y/z/other", "x/back"),
        ("y/z", "x/z"),
    ] {
        fs::rename(from, to).context("rename")?;
        file.write_all_at(to.as_bytes(), to.len() as u64 * 100)
            .context("write")?;
    }
    create("x/z/new")?;
    fs::rename("x/z", "z").context("rename")?;
    fs::rename("x", "z/x").context("rename")
}

fn deep(context: &Context) -> Result<()> {
    let path: Vec<String> = (0..40).map(|i| format!("level{i}")).collect();
    let path = path.join("/");
    fs::create_dir_all(format!("top/{path}")).context("mkdir")?;
    fs::create_dir("other").context("mkdir")?;
    for i in 0..30u64 {
        filled(&format!("top/level0/level1/f{i}"), context.seed ^ i, 300)?;
    }
    let open = filled(&format!("top/{path}/open"), context.seed, 5000)?;
    fs::rename("top", "other/top").context("rename")?;
    open.write_all_at(b"after the rename above it", 77)
        .context("write")?;
    fs::rename("other/top/level0/level1", "level1").context("rename")?;
    open.write_all_at(b"after another", 1077).context("write")?;
    let rest = path.strip_prefix("level0/level1/").context("path")?;
    filled(&format!("level1/{rest}/new"), context.seed ^ 9, 100)?;
    fs::rename("level1", "other/top/level0/level1-again").context("rename")
}
