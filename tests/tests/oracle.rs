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
