//! The oracle must see every kind of difference: one change at a time to one of two equal trees.

#![expect(clippy::unwrap_used, reason = "a test may end where its preparations fail")]

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use tests::oracle::{Comparison, Options, compare, digest};

fn tree(root: &Path) {
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/file"), b"content").unwrap();
    fs::write(root.join("d/empty"), b"").unwrap();
    fs::hard_link(root.join("d/file"), root.join("d/link")).unwrap();
    symlink("target", root.join("symlink")).unwrap();
    xattr::set(root.join("d/file"), "user.colour", b"red").unwrap();
    for path in ["d/file", "d/empty", "d", "."] {
        set_mtime(&root.join(path), 1_000_000_000);
    }
    lset_mtime(&root.join("symlink"));
}

fn set_mtime(path: &Path, sec: i64) {
    let time = rustix::fs::Timespec {
        tv_sec: sec,
        tv_nsec: 5,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
}

fn lset_mtime(path: &Path) {
    let time = rustix::fs::Timespec {
        tv_sec: 77,
        tv_nsec: 5,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(
        rustix::fs::CWD,
        path,
        &times,
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
}

fn compare_after(change: impl FnOnce(&Path)) -> Comparison {
    let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(left.path());
    tree(right.path());
    change(right.path());
    let digests = [left.path(), right.path()].map(|root| {
        let mut out = Vec::new();
        digest(root, &HashSet::new(), &mut out).unwrap();
        out
    });
    compare(&digests[0][..], &digests[1][..], Options::default()).unwrap()
}

#[track_caller]
fn expect_field(field: &str, change: impl FnOnce(&Path)) {
    let result = compare_after(change);
    assert!(
        result.differences.iter().any(|d| d.field == field),
        "{field} not among {:?}",
        result.differences
    );
}

#[test]
fn equal_trees_are_the_same() {
    let result = compare_after(|_| ());
    assert_eq!((result.differing, result.entries, result.bytes), (0, 6, 14));
}

#[test]
fn every_field_is_compared() {
    expect_field("content", |root| {
        fs::write(root.join("d/file"), b"Content").unwrap();
        set_mtime(&root.join("d/file"), 1_000_000_000);
    });
    expect_field("size", |root| fs::write(root.join("d/empty"), b"x").unwrap());
    expect_field("mtime", |root| set_mtime(&root.join("d/empty"), 1_000_000_001));
    expect_field("mode", |root| {
        fs::set_permissions(root.join("d/empty"), fs::Permissions::from_mode(0o4711)).unwrap();
    });
    expect_field("xattrs", |root| {
        xattr::set(root.join("d/file"), "user.colour", b"blue").unwrap();
    });
    expect_field("xattrs", |root| {
        xattr::set(root.join("d"), "user.more", b"").unwrap();
    });
    expect_field("uid", |root| {
        std::os::unix::fs::chown(root.join("d/empty"), Some(1), None).unwrap();
    });
    expect_field("gid", |root| {
        std::os::unix::fs::chown(root.join("d/empty"), None, Some(1)).unwrap();
    });
    expect_field("entry", |root| fs::remove_file(root.join("d/empty")).unwrap());
    expect_field("entry", |root| fs::write(root.join("more"), b"").unwrap());
    expect_field("link group", |root| {
        fs::remove_file(root.join("d/link")).unwrap();
        fs::write(root.join("d/link"), b"content").unwrap();
    });
    expect_field("target", |root| {
        fs::remove_file(root.join("symlink")).unwrap();
        symlink("elsewhere", root.join("symlink")).unwrap();
    });
    expect_field("type", |root| {
        fs::remove_file(root.join("d/empty")).unwrap();
        fs::create_dir(root.join("d/empty")).unwrap();
    });
}

#[test]
fn digests_without_entries_are_refused() {
    compare(&b""[..], &b""[..], Options::default()).unwrap_err();
}

#[test]
fn nanoseconds_are_compared() {
    expect_field("mtime", |root| {
        let time = rustix::fs::Timespec {
            tv_sec: 1_000_000_000,
            tv_nsec: 6,
        };
        let times = rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(
            rustix::fs::CWD,
            root.join("d/empty"),
            &times,
            rustix::fs::AtFlags::empty(),
        )
        .unwrap();
    });
}

#[test]
fn acls_and_device_numbers_are_compared() {
    // user::rw-,user:1000:r--,group::r--,mask::r--,other::r--
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 6, u32::MAX),
        (0x02, 4, 1000),
        (0x04, 4, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 4, u32::MAX),
    ];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&permissions.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    expect_field("ACLs", |root| {
        xattr::set(root.join("d/empty"), "system.posix_acl_access", &acl).unwrap();
    });
    let node = |root: &Path, name: &str, minor| {
        let (kind, mode) = (
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::from(0o600),
        );
        let device = rustix::fs::makedev(1, minor);
        rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, mode, device).unwrap();
    };
    let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    node(left.path(), "device", 3);
    node(right.path(), "device", 5);
    let digests = [left.path(), right.path()].map(|root| {
        let mut out = Vec::new();
        digest(root, &HashSet::new(), &mut out).unwrap();
        out
    });
    let result = compare(&digests[0][..], &digests[1][..], Options::default()).unwrap();
    assert!(
        result.differences.iter().any(|d| d.field == "rdev"),
        "{:?}",
        result.differences
    );
}

/// Only root may set these; without it there is nothing to see, and the reason is said.
fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: needs root");
    }
    root
}

fn set_flags(path: &Path, flags: u32) {
    let file = fs::File::open(path).unwrap();
    rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::from_bits_retain(flags)).unwrap();
}

fn flags_of(path: &Path) -> u32 {
    rustix::fs::ioctl_getflags(fs::File::open(path).unwrap())
        .unwrap()
        .bits()
}

#[test]
fn flags_and_attributes_of_links_are_compared() {
    if !is_root("flags_and_attributes_of_links_are_compared") {
        return;
    }
    for flag in [0x10, 0x20, 0x40, 0x80] {
        let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        tree(left.path());
        tree(right.path());
        let path = right.path().join("d/file");
        let before = flags_of(&path);
        set_flags(&path, before | flag);
        let result = compare_trees(left.path(), right.path(), Options::default());
        set_flags(&path, before);
        let fields: Vec<&str> = result
            .differences
            .iter()
            .map(|difference| difference.field)
            .collect();
        assert_eq!(
            fields,
            ["file flags", "file flags"],
            "{flag:#x}: the file has two names"
        );
    }
    expect_field("file flags", |root| {
        set_flags(&root.join("d"), flags_of(&root.join("d")) | 0x80);
    });
    expect_field("xattrs", |root| {
        xattr::set(root.join("symlink"), "trusted.of_the_link", b"x").unwrap();
    });
}

/// One line of a digest, with flags and a project id.
fn line(flags: &str, project: u32) -> String {
    format!(
        r#"{{"path":"f","kind":"file","mode":420,"uid":0,"gid":0,"mtime":[1,2],"flags":"{flags}","project":{project}}}"#
    )
}

#[test]
fn only_what_both_file_systems_hold_is_compared_where_that_is_asked_for() {
    let differing = |left: &str, right: &str, options: Options| {
        compare(left.as_bytes(), right.as_bytes(), options)
            .unwrap()
            .differing
    };
    let all = Options::default();
    let both = |left, right| all.held_by_both(left, right).unwrap();
    assert_eq!(differing(&line("ij", 7), &line("i", 0), all), 2);
    assert_eq!(differing(&line("ij", 7), &line("i", 0), both("ext4", "btrfs")), 0);
    assert_eq!(
        differing(&line("ij", 7), &line("i", 0), both("ext4", "xfs")),
        1,
        "the project id"
    );
    assert_eq!(differing(&line("ij", 0), &line("j", 0), both("ext4", "xfs")), 1);
    assert!(all.held_by_both("ext4", "vfat").is_err());
}

fn compare_trees(left: &Path, right: &Path, options: Options) -> Comparison {
    let digests = [left, right].map(|root| {
        let mut out = Vec::new();
        digest(root, &HashSet::new(), &mut out).unwrap();
        out
    });
    compare(&digests[0][..], &digests[1][..], options).unwrap()
}

/// Goes down so many directories from `root`, making them.
fn deep(root: &Path, name: &str, depth: usize) -> rustix::fd::OwnedFd {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut at = openat(CWD, root, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&at, name, Mode::from_raw_mode(0o755)).unwrap();
        at = openat(&at, name, flags, Mode::empty()).unwrap();
    }
    at
}

/// Deeper than descriptors, paths longer than PATH_MAX; a sibling at each end shows that the way back is found.
#[test]
fn deep_and_long_trees_are_read_to_the_end() {
    use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = Rlimit {
        current: Some(256),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    for (name, depth) in [("d".to_owned(), 5000), ("long".repeat(60), 60)] {
        let place = tempfile::tempdir().unwrap();
        let bottom = deep(place.path(), &name, depth);
        fs::write(place.path().join("~last"), "x").unwrap();
        let create = OFlags::CREATE | OFlags::WRONLY;
        drop(openat(&bottom, "bottom", create, Mode::from_raw_mode(0o600)).unwrap());
        let read = || {
            let mut out = Vec::new();
            let (entries, _) = digest(place.path(), &HashSet::new(), &mut out).unwrap();
            (entries, out)
        };
        let (entries, with) = read();
        assert_eq!(entries, depth as u64 + 3);
        unlinkat(&bottom, "bottom", AtFlags::empty()).unwrap();
        let (_, without) = read();
        let result = compare(&with[..], &without[..], Options::default()).unwrap();
        let fields: Vec<&str> = result
            .differences
            .iter()
            .map(|difference| difference.field)
            .collect();
        assert_eq!(
            fields,
            ["mtime", "entry"],
            "of the lowest directory, and the file in it"
        );
        remove(place.path(), &name, depth);
    }
}

/// What std removes by recursion or by descriptors for each level: one level at a time from the top.
fn remove(root: &Path, name: &str, depth: usize) {
    use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, renameat, unlinkat};
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let root = openat(CWD, root, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        let top = openat(&root, name, flags, Mode::empty()).unwrap();
        match renameat(&top, name, &root, "next") {
            Ok(()) => {}
            Err(rustix::io::Errno::NOENT) => return unlinkat(&root, name, AtFlags::REMOVEDIR).unwrap(),
            Err(error) => panic!("{error}"),
        }
        unlinkat(&root, name, AtFlags::REMOVEDIR).unwrap();
        renameat(&root, "next", &root, name).unwrap();
    }
}

#[test]
fn large_directories_are_read() {
    let place = tempfile::tempdir().unwrap();
    for index in 0..100_000 {
        fs::File::create_new(place.path().join(format!("f{index}"))).unwrap();
    }
    let counts = digest(place.path(), &HashSet::new(), &mut std::io::sink()).unwrap();
    assert_eq!(counts, (100_001, 0));
}

#[test]
fn large_holes_are_read() {
    use std::os::unix::fs::FileExt;
    let place = tempfile::tempdir().unwrap();
    let sparse = fs::File::create(place.path().join("sparse")).unwrap();
    sparse.write_all_at(b"end", 1 << 40).unwrap();
    let read = || {
        let mut out = Vec::new();
        let counts = digest(place.path(), &HashSet::new(), &mut out).unwrap();
        assert_eq!(counts, (2, (1 << 40) + 3));
        out
    };
    let before = read();
    sparse.write_all_at(b"END", 1 << 40).unwrap();
    let result = compare(&before[..], &read()[..], Options::default()).unwrap();
    assert!(
        result
            .differences
            .iter()
            .any(|difference| difference.field == "content")
    );
}
