//! Plans made by hand, materialised in a temporary directory. Need root, as the tests of ownership and devices do.

mod swaps;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use journal::record::{Attributes, InodeKey, Time};
use rustix::fs::makedev;

use super::build::{Builder, RawInode};
use super::execute;
use super::place::open_directory;
use super::plan::{Piece, Plan, RowRef};
use super::problems::Problems;

fn key(ino: u64) -> InodeKey {
    InodeKey { ino, generation: 7 }
}

/// An inode of a mode, with times that are its own.
fn inode(mode: u32, seed: i64) -> RawInode {
    RawInode {
        attributes: Attributes {
            mode: Some(mode),
            uid: Some(1000),
            gid: Some(1001),
            mtime: Some(Time {
                sec: 1_600_000_000 + seed,
                nsec: 123_456_789,
            }),
            ..Attributes::default()
        },
        ..RawInode::default()
    }
}

fn directory(mode: u32, seed: i64, entries: &[(&[u8], u64)]) -> RawInode {
    let entries = entries
        .iter()
        .map(|(name, ino)| (name.to_vec(), key(*ino)))
        .collect();
    RawInode {
        entries,
        ..inode(libc::S_IFDIR | mode, seed)
    }
}

fn plan(inodes: impl IntoIterator<Item = (u64, RawInode)>) -> (Plan, HashMap<InodeKey, u32>) {
    let mut problems = Problems::default();
    let inodes = inodes
        .into_iter()
        .map(|(ino, raw)| (key(ino), Box::new(raw)))
        .collect();
    let built = Builder::new(inodes, false, &mut problems)
        .build(key(1))
        .expect("a tree");
    (built.plan, built.index)
}

fn make(plan: &Plan, to: &Path, rows: &[(RowRef, &[u8])]) -> anyhow::Result<Problems> {
    execute(plan, open_directory(to)?, Problems::default(), |write| {
        for (row, data) in rows {
            write(*row, data)?;
        }
        Ok(())
    })
}

#[test]
fn every_type_with_its_attributes() {
    let directory_ = tempfile::tempdir().expect("a temporary directory");
    let to = directory_.path();
    let file = RawInode {
        attributes: Attributes {
            size: Some(100_000),
            ..inode(libc::S_IFREG | 0o6755, 2).attributes
        },
        ..RawInode::default()
    };
    let (mut plan, index) = plan([
        (
            1,
            directory(
                0o1777,
                1,
                &[
                    (b"file", 2),
                    (b"dir", 3),
                    (b"link", 4),
                    (b"fifo", 5),
                    (b"sock", 6),
                    (b"null", 7),
                    (b"blk", 8),
                ],
            ),
        ),
        (2, file),
        (3, directory(0o500, 3, &[(b"second", 2), (b"\xff\xfe\n", 9)])),
        (
            4,
            RawInode {
                link_target: Some(b"/etc/passwd".to_vec()),
                ..inode(libc::S_IFLNK | 0o777, 4)
            },
        ),
        (5, inode(libc::S_IFIFO | 0o640, 5)),
        (6, inode(libc::S_IFSOCK | 0o600, 6)),
        (7, with_rdev(inode(libc::S_IFCHR | 0o666, 7), makedev(1, 3))),
        (8, with_rdev(inode(libc::S_IFBLK | 0o660, 8), makedev(259, 70000))),
        (9, inode(libc::S_IFREG, 9)),
    ]);
    let row = RowRef { segment: 0, row: 3 };
    plan.pieces = vec![Piece {
        row,
        data_offset: 1,
        node: index[&key(2)],
        offset: 50_000,
        length: 3,
    }];
    let problems = make(&plan, to, &[(row, b"xabcx")]).expect("restored");
    assert_eq!(problems.kept, Vec::<String>::new());

    let metadata = |name: &str| std::fs::symlink_metadata(to.join(name)).expect(name);
    let file = metadata("file");
    assert_eq!(
        (file.mode(), file.uid(), file.gid(), file.nlink()),
        (0o106_755, 1000, 1001, 2)
    );
    assert_eq!(
        (file.mtime(), file.mtime_nsec(), file.size()),
        (1_600_000_002, 123_456_789, 100_000)
    );
    assert_eq!(file.ino(), metadata("dir/second").ino());
    let content = std::fs::read(to.join("file")).expect("content");
    assert_eq!(&content[50_000..50_003], b"abc");
    assert_eq!(content.iter().filter(|byte| **byte != 0).count(), 3);
    assert_eq!(
        (metadata("dir").permissions().mode(), metadata("dir").mtime()),
        (0o040_500, 1_600_000_003)
    );
    assert_eq!(
        std::fs::read_link(to.join("link")).expect("link"),
        Path::new("/etc/passwd")
    );
    assert_eq!(
        (metadata("link").mtime(), metadata("link").uid()),
        (1_600_000_004, 1000)
    );
    assert!(metadata("fifo").file_type().is_fifo() && metadata("sock").file_type().is_socket());
    assert_eq!(metadata("null").rdev(), makedev(1, 3));
    assert!(metadata("null").file_type().is_char_device());
    assert_eq!(metadata("blk").rdev(), makedev(259, 70000));
    let root = std::fs::metadata(to).expect("root");
    assert_eq!(
        (root.mode(), root.uid(), root.mtime()),
        (0o041_777, 1000, 1_600_000_001)
    );
}

fn with_rdev(raw: RawInode, rdev: u64) -> RawInode {
    RawInode {
        attributes: Attributes {
            rdev: Some(rdev),
            ..raw.attributes
        },
        ..raw
    }
}

#[test]
fn xattrs_acls_and_capabilities_stay() {
    let directory_ = tempfile::tempdir().expect("a temporary directory");
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut acl = vec![2, 0, 0, 0];
    for (tag, permissions, id) in [
        (1_u16, 7_u16, u32::MAX),
        (2, 5, 1234),
        (4, 5, u32::MAX),
        (16, 7, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&permissions.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let xattrs: BTreeMap<Vec<u8>, Vec<u8>> = [
        (b"security.capability".to_vec(), capability.to_vec()),
        (b"system.posix_acl_access".to_vec(), acl.clone()),
        (b"user.\xe4".to_vec(), vec![0, 255]),
        (b"user.empty".to_vec(), vec![]),
    ]
    .into();
    let file = RawInode {
        xattrs,
        ..inode(libc::S_IFREG | 0o770, 2)
    };
    let mut root = directory(0o755, 1, &[(b"f", 2), (b"g", 3), (b"l", 4)]);
    root.xattrs = [(b"system.posix_acl_default".to_vec(), acl)].into();
    let link = RawInode {
        link_target: Some(b"f".to_vec()),
        xattrs: [(b"trusted.t".to_vec(), b"v".to_vec())].into(),
        ..inode(libc::S_IFLNK | 0o777, 4)
    };
    let (plan, _) = plan([
        (1, root),
        (2, file),
        (3, inode(libc::S_IFREG | 0o644, 3)),
        (4, link),
    ]);
    let problems = make(&plan, directory_.path(), &[]).expect("restored");
    assert_eq!(problems.kept, Vec::<String>::new());

    let list = |name: &str| {
        let mut buffer = vec![0_u8; 4096];
        let length = rustix::fs::llistxattr(directory_.path().join(name), &mut buffer).expect("list");
        buffer.truncate(length);
        let mut names: Vec<Vec<u8>> = buffer
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
        names.retain(|name| name != b"security.selinux");
        names.sort();
        names
    };
    assert_eq!(
        list("f"),
        [
            b"security.capability".to_vec(),
            b"system.posix_acl_access".to_vec(),
            b"user.empty".to_vec(),
            b"user.\xe4".to_vec()
        ]
    );
    assert_eq!(
        list("g"),
        Vec::<Vec<u8>>::new(),
        "nothing may be inherited from the root's default ACL"
    );
    assert_eq!(list("l"), [b"trusted.t".to_vec()]);
    let mut value = [0_u8; 64];
    let length = rustix::fs::getxattr(directory_.path().join("f"), "security.capability", &mut value)
        .expect("capability");
    assert_eq!(value[..length], capability);
}

#[test]
fn a_tree_deeper_than_path_max() {
    let directory_ = tempfile::tempdir().expect("a temporary directory");
    let depth = 60_u64;
    let name = [0xc3_u8; 255];
    let mut inodes: Vec<(u64, RawInode)> = (1..depth)
        .map(|ino| (ino, directory(0o755, 1, &[(&name, ino + 1)])))
        .collect();
    let file = RawInode {
        attributes: Attributes {
            size: Some(4),
            ..inode(libc::S_IFREG | 0o644, 5).attributes
        },
        ..RawInode::default()
    };
    inodes.push((depth, file));
    let (mut plan, index) = plan(inodes);
    let row = RowRef::default();
    plan.pieces = vec![Piece {
        row,
        data_offset: 0,
        node: index[&key(depth)],
        offset: 0,
        length: 4,
    }];
    let problems = make(&plan, directory_.path(), &[(row, b"deep")]).expect("restored");
    assert_eq!(problems.count, 0);

    let mut at = rustix::fs::open(
        directory_.path(),
        rustix::fs::OFlags::PATH,
        rustix::fs::Mode::empty(),
    )
    .expect("open");
    for _ in 1..depth - 1 {
        at = rustix::fs::openat(
            &at,
            name.as_slice(),
            rustix::fs::OFlags::PATH,
            rustix::fs::Mode::empty(),
        )
        .expect("open");
    }
    let file = rustix::fs::openat(
        &at,
        name.as_slice(),
        rustix::fs::OFlags::RDONLY,
        rustix::fs::Mode::empty(),
    )
    .expect("file");
    assert_eq!(
        std::io::read_to_string(std::fs::File::from(file)).expect("content"),
        "deep"
    );
}

#[test]
fn a_wide_and_nested_tree_needs_few_descriptors() {
    let directory_ = tempfile::tempdir().expect("a temporary directory");
    let mut inodes = Vec::new();
    let names: Vec<String> = (0..300).map(|number| format!("d{number:03}")).collect();
    let top: Vec<(&[u8], u64)> = names
        .iter()
        .zip(2..)
        .map(|(name, ino)| (name.as_bytes(), ino))
        .collect();
    inodes.push((1, directory(0o755, 1, &top)));
    for ino in 2..302 {
        inodes.push((ino, directory(0o755, 1, &[(b"file", ino + 1000)])));
        let attributes = Attributes {
            size: Some(8),
            ..inode(libc::S_IFREG | 0o644, 1).attributes
        };
        inodes.push((
            ino + 1000,
            RawInode {
                attributes,
                ..RawInode::default()
            },
        ));
    }
    let (mut plan, index) = plan(inodes);
    // Every file written twice, far apart: files are closed and opened again.
    let mut rows = Vec::new();
    for half in 0..2_u32 {
        for ino in 1002..1302_u64 {
            let row = RowRef {
                segment: half,
                row: u32::try_from(ino).expect("small"),
            };
            plan.pieces.push(Piece {
                row,
                data_offset: 0,
                node: index[&key(ino)],
                offset: u64::from(half) * 4,
                length: 4,
            });
            rows.push((row, if half == 0 { b"head".as_slice() } else { b"tail" }));
        }
    }
    let problems = make(&plan, directory_.path(), &rows).expect("restored");
    assert_eq!(problems.count, 0);
    for name in names {
        assert_eq!(
            std::fs::read(directory_.path().join(name).join("file")).expect("content"),
            b"headtail"
        );
    }
}

#[test]
fn a_target_that_is_not_empty_is_refused_by_name() {
    let directory_ = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory_.path().join("precious\n"), "x").expect("write");
    let error = open_directory(directory_.path())
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("precious\\x0a"), "{error}");
    assert_eq!(
        std::fs::read(directory_.path().join("precious\n")).expect("still there"),
        b"x"
    );
}

#[test]
fn an_empty_lost_and_found_gives_way_or_is_reused() {
    for recorded in [false, true] {
        let directory_ = tempfile::tempdir().expect("a temporary directory");
        let made = directory_.path().join("lost+found");
        std::fs::create_dir(&made).expect("make");
        let before = std::fs::metadata(&made).expect("there").ino();
        let entries: &[(&[u8], u64)] = if recorded { &[(b"lost+found", 2)] } else { &[] };
        let (plan, _) = plan([(1, directory(0o755, 1, entries)), (2, directory(0o700, 2, &[]))]);
        assert_eq!(make(&plan, directory_.path(), &[]).expect("restored").count, 0);
        let after = std::fs::metadata(&made).ok().map(|metadata| metadata.ino());
        assert_eq!(after, recorded.then_some(before));
    }
}

#[test]
fn flags_come_last() {
    let directory_ = tempfile::tempdir().expect("a temporary directory");
    let file = RawInode {
        attributes: Attributes {
            size: Some(4),
            file_flags: Some(0x10 | 0x8_0000),
            ..inode(libc::S_IFREG | 0o644, 2).attributes
        },
        ..RawInode::default()
    };
    let mut root = directory(0o755, 1, &[(b"f", 2)]);
    root.attributes.file_flags = Some(0x40);
    let (mut plan, index) = plan([(1, root), (2, file)]);
    let row = RowRef::default();
    plan.pieces = vec![Piece {
        row,
        data_offset: 0,
        node: index[&key(2)],
        offset: 0,
        length: 4,
    }];
    let problems = make(&plan, directory_.path(), &[(row, b"data")]).expect("restored");
    let path = directory_.path().join("f");
    let file = std::fs::File::open(&path).expect("open");
    match rustix::fs::ioctl_getflags(&file) {
        Ok(flags) if problems.count == 0 => {
            assert_eq!(flags.bits() & 0x10, 0x10);
            assert!(std::fs::remove_file(&path).is_err(), "immutable");
            let cleared = rustix::fs::IFlags::from_bits_retain(flags.bits() & !0x10);
            rustix::fs::ioctl_setflags(&file, cleared).expect("clear");
        }
        // A temporary directory without file flags: said, not hidden.
        _ => assert!(
            problems.kept.iter().any(|problem| problem.contains("file flags")),
            "{:?}",
            problems.kept
        ),
    }
    assert_eq!(std::fs::read(&path).expect("content"), b"data");
}
