//! Attributes: mode, owner, times, what a write takes away from them, and the flags of chattr(1).

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown, lchown};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::declare::{Context, FileSystem, Limit, Operation, operation};
use super::sys::{self, Fsxattr, GET_FSXATTR, SET_FSXATTR};
use super::util::{content, create, filled, reopen, shell};

use FileSystem::{Btrfs, Ext4, Xfs};

const FLAG_SYNC: u64 = 0x8;
const FLAG_IMMUTABLE: u64 = 0x10;
const FLAG_APPEND: u64 = 0x20;
const FLAG_NODUMP: u64 = 0x40;
const FLAG_NOATIME: u64 = 0x80;
const FLAG_COMPRESS: u64 = 0x4;
const FLAG_JOURNAL: u64 = 0x4000;
const FLAG_DIRSYNC: u64 = 0x1_0000;
const FLAG_NOCOW: u64 = 0x80_0000;
const XFLAG_PROJECT_INHERIT: u32 = 0x200;

const PROJECT_LIMITS: &[Limit] = &[Limit::never(
    &[Btrfs],
    &[libc::EOPNOTSUPP, libc::EINVAL],
    "btrfs has no project ids",
)];

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "chmod",
        "every mode bit, of files, directories and nodes, by name and descriptor",
        chmod,
    ),
    operation(
        "chmod-acl",
        "chmod of files and directories that have an ACL: its mask changes",
        chmod_acl,
    ),
    operation("chown", "owner and group, of links too, with set-id bits", owner),
    operation(
        "utimensat",
        "nanoseconds, before 1970, far future, now, omitted, of links",
        times,
    ),
    operation(
        "setgid-cleared",
        "set-id bits taken away by a write and a truncation of another user",
        setgid_cleared,
    ),
    operation(
        "capability-dropped",
        "a file's capability taken away by a write, a truncation and a chown",
        capability,
    ),
    operation("chattr-append", "append only, and appends after it", append),
    operation("chattr-immutable", "immutable, and back", immutable),
    operation(
        "chattr-nodump",
        "no dump, of files and directories, inherited",
        |c| flag(c, FLAG_NODUMP),
    ),
    operation("chattr-noatime", "no access time", |c| flag(c, FLAG_NOATIME)),
    operation("chattr-sync", "synchronous files and directories", |c| {
        flag(c, FLAG_SYNC)
    }),
    operation("chattr-dirsync", "synchronous directories", dirsync).limited(&[Limit::never(
        &[Xfs],
        &[libc::EOPNOTSUPP],
        "XFS has no such flag",
    )]),
    operation(
        "chattr-journal",
        "data journaling of a file (+j), and writes to it",
        journal,
    )
    .limited(&[Limit::never(
        &[Xfs, Btrfs],
        &[libc::EOPNOTSUPP],
        "only ext4 journals data",
    )]),
    operation(
        "chattr-nocow",
        "no copy on write (+C), inherited, and writes",
        nocow,
    )
    .limited(&[Limit::never(
        &[Ext4, Xfs],
        &[libc::EOPNOTSUPP],
        "only btrfs has this flag",
    )]),
    operation(
        "chattr-compress",
        "compressed files (+c), written, mapped, directly",
        compress,
    )
    .limited(&[Limit::never(&[Xfs], &[libc::EOPNOTSUPP], "XFS has no such flag")]),
    operation("project-id", "project id of files and directories", project).limited(PROJECT_LIMITS),
    operation(
        "project-inherit",
        "project id that new files and directories inherit",
        project_inherit,
    )
    .limited(PROJECT_LIMITS),
];

fn mode(name: &str, mode: u32) -> Result<()> {
    fs::set_permissions(name, fs::Permissions::from_mode(mode)).with_context(|| format!("chmod {name}"))
}

fn chmod(context: &Context) -> Result<()> {
    for bits in [0, 0o1, 0o20, 0o400, 0o777, 0o1644, 0o2755, 0o4755, 0o7777] {
        let (file, dir) = (format!("file-{bits:o}"), format!("dir-{bits:o}"));
        filled(&file, context.seed, 10)?;
        fs::create_dir(&dir).context("mkdir")?;
        mode(&file, bits)?;
        mode(&dir, bits)?;
    }
    let file = create("by-descriptor")?;
    file.set_permissions(fs::Permissions::from_mode(0o421))
        .context("fchmod")?;
    sys::mknod("fifo", libc::S_IFIFO | 0o600, 0)?;
    mode("fifo", 0o246)
}

fn chmod_acl(context: &Context) -> Result<()> {
    filled("file", context.seed, 100)?;
    filled("twice", context.seed, 100)?;
    fs::create_dir("dir").context("mkdir")?;
    shell("setfacl -m u:1000:rwx,g:1001:rx file twice dir; setfacl -d -m u:1002:rw dir")?;
    mode("file", 0o640)?;
    mode("twice", 0o600)?;
    mode("twice", 0o671)?;
    mode("dir", 0o2750)?;
    shell("getfacl file | grep -qx 'mask::r--'; getfacl dir | grep -qx 'mask::r-x'")
}

fn owner(context: &Context) -> Result<()> {
    for (name, uid, gid) in [
        ("both", Some(1000), Some(1001)),
        ("user", Some(4_000_000), None),
        ("group", None, Some(65_534)),
    ] {
        filled(name, context.seed, 20)?;
        chown(name, uid, gid).context("chown")?;
    }
    filled("set-id", context.seed, 20)?;
    mode("set-id", 0o6755)?;
    chown("set-id", Some(7), Some(8)).context("chown")?;
    // Of a file that is executable, the kernel takes both bits away.
    ensure!(
        fs::metadata("set-id").context("stat")?.mode() & 0o6000 == 0,
        "chown left the set-id bits"
    );
    fs::create_dir("dir").context("mkdir")?;
    chown("dir", Some(9), Some(10)).context("chown")?;
    std::os::unix::fs::symlink("nowhere", "link").context("symlink")?;
    lchown("link", Some(11), Some(12)).context("lchown")
}

fn times(context: &Context) -> Result<()> {
    let stamp = |sec, nsec| Timespec {
        tv_sec: sec,
        tv_nsec: nsec,
    };
    let all = [
        ("nanoseconds", stamp(1_700_000_000, 123_456_789)),
        ("last-nanosecond", stamp(1, 999_999_999)),
        ("zero", stamp(0, 0)),
        ("before-1970", stamp(-86_400, 500)),
        ("1902", stamp(-2_147_483_648, 0)),
        ("2038", stamp(2_147_483_648, 1)),
        ("2200", stamp(7_258_118_400, 7)),
        ("2446", stamp(15_032_385_535, 0)),
        ("omitted", stamp(0, libc::UTIME_OMIT)),
        ("now", stamp(0, libc::UTIME_NOW)),
    ];
    for (name, time) in all {
        for kind in ["file", "dir", "link"] {
            let path = format!("{kind}-{name}");
            match kind {
                "file" => drop(filled(&path, context.seed, 30)?),
                "dir" => fs::create_dir(&path).context("mkdir")?,
                _ => std::os::unix::fs::symlink("nowhere", &path).context("symlink")?,
            }
            let pair = Timestamps {
                last_access: stamp(1_000_000, 5),
                last_modification: time,
            };
            utimensat(CWD, &path, &pair, AtFlags::SYMLINK_NOFOLLOW).context("utimensat")?;
        }
    }
    let file = filled("then-written", context.seed, 30)?;
    let pair = Timestamps {
        last_access: stamp(5, 5),
        last_modification: stamp(6, 6),
    };
    rustix::fs::futimens(&file, &pair).context("futimens")?;
    file.write_all_at(b"newer again", 0).context("write")?;
    let file = filled("written-before", context.seed, 30)?;
    file.write_all_at(b"and", 3).context("write")?;
    rustix::fs::futimens(&file, &pair).context("futimens")
}

fn setgid_cleared(context: &Context) -> Result<()> {
    for (name, bits) in [
        ("both", 0o6777),
        ("group", 0o2777),
        ("user", 0o4666),
        ("truncated", 0o6777),
    ] {
        filled(name, context.seed, 5000)?;
        mode(name, bits)?;
    }
    mode(".", 0o777)?;
    sys::in_child(|| {
        sys::become_user(1000)?;
        for name in ["both", "group", "user"] {
            reopen(name, 0)?
                .write_all_at(b"by somebody else", 100)
                .context("write")?;
        }
        reopen("truncated", 0)?.set_len(100).context("truncate")
    })?;
    for name in ["both", "group", "user", "truncated"] {
        ensure!(
            fs::metadata(name).context("stat")?.mode() & 0o6000 == 0,
            "{name} kept its set-id bits"
        );
    }
    Ok(())
}

fn capability(context: &Context) -> Result<()> {
    for name in ["written", "truncated", "owned", "mapped", "kept", "removed"] {
        filled(name, context.seed, 9000)?;
        mode(name, 0o755)?;
    }
    shell("setcap cap_net_raw+ep written; setcap cap_net_raw+ep truncated; setcap cap_chown=ei owned
           setcap cap_kill+p mapped; setcap cap_net_raw+ep kept; setcap cap_net_raw+ep removed; setcap -r removed")?;
    reopen("written", 0)?
        .write_all_at(b"changed", 10)
        .context("write")?;
    reopen("truncated", 0)?.set_len(100).context("truncate")?;
    chown("owned", Some(1000), None).context("chown")?;
    shell(
        "for f in written truncated owned removed; do [ -z \"$(getcap $f)\" ]; done; [ -n \"$(getcap kept)\" ]",
    )
}

fn flag(context: &Context, flag: u64) -> Result<()> {
    let file = filled("file", context.seed, 3000)?;
    sys::add_flags(&file, flag)?;
    file.write_all_at(b"with the flag", 100).context("write")?;
    let cleared = filled("cleared", context.seed, 3000)?;
    sys::add_flags(&cleared, flag)?;
    sys::remove_flags(&cleared, flag)?;
    fs::create_dir("dir").context("mkdir")?;
    sys::add_flags(&fs::File::open("dir").context("open directory")?, flag)?;
    create("dir/inherits")?;
    fs::create_dir("dir/sub").context("mkdir")
}

fn append(context: &Context) -> Result<()> {
    use std::io::Write as _;
    let file = filled("file", context.seed, 3000)?;
    sys::add_flags(&file, FLAG_APPEND)?;
    let mut more = fs::OpenOptions::new()
        .append(true)
        .open("file")
        .context("open to append")?;
    more.write_all(&content(context.seed ^ 1, 5000))
        .context("append")?;
    ensure!(
        fs::OpenOptions::new().write(true).open("file").is_err(),
        "the flag forbids nothing"
    );
    fs::create_dir("dir").context("mkdir")?;
    create("dir/file")?;
    sys::add_flags(&fs::File::open("dir").context("open directory")?, FLAG_APPEND)?;
    create("dir/added")?;
    let back = filled("cleared", context.seed, 10)?;
    sys::add_flags(&back, FLAG_APPEND)?;
    sys::remove_flags(&back, FLAG_APPEND)
}

fn immutable(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, 3000)?;
    file.write_all_at(b"before", 10).context("write")?;
    sys::add_flags(&file, FLAG_IMMUTABLE)?;
    ensure!(fs::remove_file("file").is_err(), "the flag forbids nothing");
    let changed = filled("changed", context.seed, 3000)?;
    sys::add_flags(&changed, FLAG_IMMUTABLE)?;
    sys::remove_flags(&changed, FLAG_IMMUTABLE)?;
    changed.write_all_at(b"after", 20).context("write")?;
    fs::create_dir("dir").context("mkdir")?;
    filled("dir/inside", context.seed, 100)?;
    sys::add_flags(&fs::File::open("dir").context("open directory")?, FLAG_IMMUTABLE)?;
    reopen("dir/inside", 0)?
        .write_all_at(b"still writable", 5)
        .context("write")
}

fn dirsync(_: &Context) -> Result<()> {
    fs::create_dir("dir").context("mkdir")?;
    sys::add_flags(&fs::File::open("dir").context("open directory")?, FLAG_DIRSYNC)?;
    create("dir/file")?;
    fs::create_dir("dir/inherits").context("mkdir")
}

fn journal(context: &Context) -> Result<()> {
    let file = filled("file", context.seed, 50_000)?;
    sys::add_flags(&file, FLAG_JOURNAL)?;
    file.write_all_at(&content(context.seed ^ 1, 30_000), 40_000)
        .context("write")?;
    file.set_len(60_000).context("truncate")?;
    let mapping = sys::Mapping::shared(&file, 60_000)?;
    mapping.store(10_000, b"stored");
    drop(mapping);
    file.sync_all().context("fsync")?;
    let off = filled("off-again", context.seed ^ 2, 50_000)?;
    sys::add_flags(&off, FLAG_JOURNAL)?;
    off.write_all_at(b"journaled", 5000).context("write")?;
    sys::remove_flags(&off, FLAG_JOURNAL)?;
    off.write_all_at(b"not journaled", 6000).context("write")
}

fn nocow(context: &Context) -> Result<()> {
    let file = create("file")?;
    sys::add_flags(&file, FLAG_NOCOW)?;
    file.write_all_at(&content(context.seed, 100_000), 0)
        .context("write")?;
    file.sync_all().context("fsync")?;
    file.write_all_at(b"in place", 50_000).context("write")?;
    let pages = sys::Pages::holding(&content(context.seed ^ 1, 8192));
    reopen("file", libc::O_DIRECT)?
        .write_all_at(pages.bytes(), 16_384)
        .context("write directly")?;
    fs::create_dir("dir").context("mkdir")?;
    sys::add_flags(&fs::File::open("dir").context("open directory")?, FLAG_NOCOW)?;
    filled("dir/inherits", context.seed, 5000).map(drop)
}

fn compress(context: &Context) -> Result<()> {
    let file = create("file")?;
    sys::add_flags(&file, FLAG_COMPRESS)?;
    file.write_all_at(&b"compressible ".repeat(50_000), 0)
        .context("write")?;
    file.sync_all().context("fsync")?;
    file.write_all_at(&content(context.seed, 5000), 100_000)
        .context("write")?;
    let mapping = sys::Mapping::shared(&file, 200_000)?;
    mapping.store(150_000, b"stored");
    drop(mapping);
    file.sync_all().context("fsync")?;
    let pages = sys::Pages::holding(&content(context.seed ^ 1, 8192));
    reopen("file", libc::O_DIRECT)?
        .write_all_at(pages.bytes(), 16_384)
        .context("write directly")
}

fn set_project(path: &str, project: u32, inherit: bool) -> Result<()> {
    let file = fs::File::open(path).context("open")?;
    let mut about = Fsxattr::default();
    GET_FSXATTR.call(&file, &mut about).context("FS_IOC_FSGETXATTR")?;
    about.project = project;
    if inherit {
        about.xflags |= XFLAG_PROJECT_INHERIT;
    }
    SET_FSXATTR.call(&file, &mut about).context("FS_IOC_FSSETXATTR")?;
    let mut now = Fsxattr::default();
    GET_FSXATTR.call(&file, &mut now).context("FS_IOC_FSGETXATTR")?;
    if now.project != project {
        return Err(std::io::Error::from_raw_os_error(libc::EOPNOTSUPP)).context("the project id is not set");
    }
    Ok(())
}

fn project(context: &Context) -> Result<()> {
    filled("file", context.seed, 100)?;
    set_project("file", 4242, false)?;
    filled("changed", context.seed, 100)?;
    set_project("changed", 1, false)?;
    set_project("changed", 4_000_000_000, false)?;
    fs::create_dir("dir").context("mkdir")?;
    set_project("dir", 77, false)
}

fn project_inherit(context: &Context) -> Result<()> {
    fs::create_dir("dir").context("mkdir")?;
    set_project("dir", 1234, true)?;
    filled("dir/file", context.seed, 100)?;
    fs::create_dir("dir/sub").context("mkdir")?;
    filled("dir/sub/file", context.seed, 100)?;
    std::os::unix::fs::symlink("nowhere", "dir/link").context("symlink")?;
    let mut about = Fsxattr::default();
    GET_FSXATTR
        .call(fs::File::open("dir/sub/file").context("open")?, &mut about)
        .context("FS_IOC_FSGETXATTR")?;
    ensure!(about.project == 1234, "the project id was not inherited");
    Ok(())
}
