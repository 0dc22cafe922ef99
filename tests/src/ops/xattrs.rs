//! Extended attributes and ACLs, to the limits of the file system.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::declare::{Context, Operation, operation};
use super::util::{content, create, filled, shell};

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "xattr-user",
        "user attributes: set, created, replaced, removed, empty, of directories",
        user,
    ),
    operation(
        "xattr-limit",
        "values up to the file system's limit, many names",
        limit,
    ),
    operation(
        "xattr-trusted",
        "trusted attributes, of every kind of inode",
        |c| namespace(c, "trusted"),
    ),
    operation(
        "xattr-security",
        "security attributes, of every kind of inode",
        |c| namespace(c, "security"),
    ),
    operation("acl", "ACLs set, changed, made minimal, removed", acl),
    operation(
        "acl-inherit",
        "default ACLs inherited by new files, directories, nodes",
        acl_inherit,
    ),
];

fn set(path: &str, name: &str, value: &[u8]) -> Result<()> {
    xattr::set(path, name, value).with_context(|| format!("set {name} of {path}"))
}

fn user(context: &Context) -> Result<()> {
    filled("file", context.seed, 100)?;
    fs::create_dir("dir").context("mkdir")?;
    for path in ["file", "dir"] {
        for bytes in [0, 1, 30, 300, 2000] {
            set(
                path,
                &format!("user.of-{bytes}"),
                &content(context.seed ^ bytes, usize::try_from(bytes)?),
            )?;
        }
        set(path, "user.of-300", b"replaced by a shorter one")?;
        set(path, "user.of-1", &content(context.seed, 500))?;
        xattr::remove(path, "user.of-30").context("remove")?;
        set(path, "user.again", b"first")?;
        xattr::remove(path, "user.again").context("remove")?;
        set(path, "user.again", b"second")?;
    }
    let name = "user.".to_owned() + &"n".repeat(250);
    create("long-name")?;
    set("long-name", &name, b"255 bytes of name")?;
    create("all-removed")?;
    set("all-removed", "user.a", b"a")?;
    xattr::remove("all-removed", "user.a").context("remove")?;
    // A file that gets its attributes before it gets its name.
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
    let unnamed =
        rustix::fs::open(".", flags, rustix::fs::Mode::from_raw_mode(0o600)).context("O_TMPFILE")?;
    rustix::fs::fsetxattr(
        &unnamed,
        "user.early",
        b"before the name",
        rustix::fs::XattrFlags::empty(),
    )
    .context("fsetxattr")?;
    rustix::fs::linkat(
        &unnamed,
        "",
        rustix::fs::CWD,
        "named-later",
        rustix::fs::AtFlags::EMPTY_PATH,
    )
    .context("linkat")
}

fn limit(context: &Context) -> Result<()> {
    // The largest value that this file system takes: 64 KiB, a block, a node.
    create("largest")?;
    let (mut fits, mut too_large) = (0usize, 65_537usize);
    while too_large - fits > 1 {
        let middle = (fits + too_large) / 2;
        match xattr::set("largest", "user.v", &content(context.seed, middle)) {
            Ok(()) => fits = middle,
            Err(_) => too_large = middle,
        }
    }
    ensure!(fits > 2000, "only {fits} bytes fit");
    set("largest", "user.v", &content(context.seed ^ 1, fits))?;
    create("many")?;
    let mut count = 0;
    while count < 400 && xattr::set("many", format!("user.n{count}"), &content(count, 40)).is_ok() {
        count += 1;
    }
    ensure!(count > 20, "only {count} names fit");
    for name in (0..count).step_by(3) {
        xattr::remove("many", format!("user.n{name}")).context("remove")?;
    }
    Ok(())
}

fn namespace(context: &Context, space: &str) -> Result<()> {
    filled("file", context.seed, 100)?;
    fs::create_dir("dir").context("mkdir")?;
    std::os::unix::fs::symlink("nowhere", "link").context("symlink")?;
    super::sys::mknod("fifo", libc::S_IFIFO | 0o600, 0)?;
    super::sys::mknod("null", libc::S_IFCHR | 0o600, libc::makedev(1, 3))?;
    for path in ["file", "dir", "link", "fifo", "null"] {
        for (name, bytes) in [("tapeworm", 20), ("longer", 1000), ("removed", 5)] {
            let value = content(context.seed, bytes);
            set(path, &format!("{space}.{name}"), &value)?;
        }
        xattr::remove(path, format!("{space}.removed")).context("remove")?;
        ensure!(
            xattr::get(path, format!("{space}.tapeworm"))
                .context("get")?
                .is_some(),
            "{path} has none"
        );
    }
    Ok(())
}

fn acl(context: &Context) -> Result<()> {
    for name in ["set", "changed", "minimal", "removed", "numbers"] {
        filled(name, context.seed, 100)?;
    }
    fs::create_dir("dir").context("mkdir")?;
    shell(
        "setfacl -m u:1000:rw,g:1001:r,m::rwx set changed minimal removed
         setfacl -m u:1000:-,u:1003:x changed; setfacl -x g:1001 changed
         setfacl -b removed
         setfacl --set u::rw,g::r,o::- minimal
         setfacl -m u:4294967294:r,g:4000000000:w numbers
         setfacl -m u:1000:rwx,d:u:1000:rx,d:g:7:w dir
         mkdir default-removed; setfacl -d -m u:5:rwx default-removed; setfacl -k default-removed
         for i in $(seq 2000 2012); do setfacl -m u:$i:r set; done
         getfacl -n set | grep -q user:2012:r--",
    )
}

fn acl_inherit(context: &Context) -> Result<()> {
    fs::create_dir("dir").context("mkdir")?;
    shell("setfacl -d -m u:1000:rwx,g:1001:rx,o::- dir")?;
    filled("dir/file", context.seed, 100)?;
    fs::create_dir("dir/sub").context("mkdir")?;
    fs::create_dir("dir/sub/deeper").context("mkdir")?;
    filled("dir/sub/deeper/file", context.seed, 100)?;
    super::sys::mknod("dir/fifo", libc::S_IFIFO | 0o666, 0)?;
    std::os::unix::fs::symlink("file", "dir/link").context("symlink")?;
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
    let unnamed =
        rustix::fs::open("dir", flags, rustix::fs::Mode::from_raw_mode(0o666)).context("O_TMPFILE")?;
    rustix::fs::linkat(
        &unnamed,
        "",
        rustix::fs::CWD,
        "dir/from-tmpfile",
        rustix::fs::AtFlags::EMPTY_PATH,
    )
    .context("linkat")?;
    // Without group and others in the mode, and with a mode that the ACL says completely.
    fs::write("dir/written", "x").context("write")?;
    fs::create_dir("minimal").context("mkdir")?;
    shell("setfacl -d --set u::rw,g::r,o::- minimal; touch minimal/file; mkdir minimal/dir; (umask 077; touch dir/umask)
           getfacl -n dir/sub/deeper/file | grep -q user:1000:rwx")?;
    ensure!(Path::new("minimal/file").exists(), "no file");
    // Moved in and moved out: an ACL stays as it is.
    filled("outside", context.seed, 10)?;
    fs::rename("outside", "dir/moved-in").context("rename")?;
    fs::rename("dir/file", "moved-out").context("rename")
}
