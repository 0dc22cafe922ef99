//! What is asked of a mounted moment, asked without a kernel: of a medium that is made for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{Errno, FileType, INodeNo};
use journal::Manifest;
use journal::record::{Attributes, DirTimes, Entry, Op, Record, Time};

use super::reading::Past;
use crate::cli::{MediaArgs, MemoryArgs, PastArgs};
use crate::media::Media;
use crate::past::tree::Tree;
use crate::restore::plan::{NodeIndex, Plan};
use crate::sweep::medium::{UUID, base, create, key, make_of, record, write};

const FILE: u32 = 0o100_644;
const MIB: usize = 1 << 20;

/// A medium in a directory of its own.
struct Medium {
    directory: tempfile::TempDir,
}

impl Medium {
    fn new(segments: &[Vec<Record>]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        make_of(&directory.path().join("medium"), segments);
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("medium")
    }

    fn object(&self, index: u64, suffix: &str) -> PathBuf {
        self.path().join(UUID).join(format!("{index:010}.{suffix}"))
    }

    /// Calls `ask` with the newest moment.
    fn past<T>(&self, cache_bytes_max: u64, ask: impl FnOnce(&Past<'_>) -> T) -> T {
        let args = PastArgs {
            media: MediaArgs {
                trust_key: None,
                identities: Vec::new(),
                media: vec![self.path()],
            },
            memory: MemoryArgs::default(),
            volume: None,
            allow_holes: false,
        };
        let media = Media::open(&args.media).expect("open");
        let tree = Tree::at(&media, &args, None).expect("fold");
        ask(&Past::new(&media, None, tree, cache_bytes_max))
    }

    /// Flips a bit in the middle of the data of a segment's first row group; done twice, it is sound again.
    fn flip(&self, index: u64) {
        let bytes = fs::read(self.object(index, "manifest.json")).expect("read");
        let name = format!("{UUID}/{index:010}.manifest.json");
        let manifest = Manifest::from_bytes(&bytes, &name).expect("sound");
        let group = &manifest.row_groups[0];
        let data = group.offset + group.parts.as_ref().expect("parts").metadata_bytes;
        let at = usize::try_from(data.midpoint(group.offset + group.bytes)).expect("small");
        let path = self.object(index, "parquet");
        let mut bytes = fs::read(&path).expect("read");
        bytes[at] ^= 4;
        put(&path, &bytes);
    }
}

/// Objects of a medium are read-only.
fn put(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).expect("remove");
    fs::write(path, bytes).expect("write");
}

fn find(past: &Past<'_>, path: &str) -> NodeIndex {
    let names = path.split('/').filter(|name| !name.is_empty());
    names.fold(Plan::ROOT, |node, name| {
        past.view.lookup(node, name.as_bytes()).expect("there")
    })
}

fn attributes(seq: u64, ino: u64, attributes: Attributes) -> Record {
    Record {
        attributes,
        ..record(seq, ino, None, Op::SetAttr)
    }
}

fn link(seq: u64, ino: u64, parent: u64, name: &str) -> Record {
    let entry = Entry {
        parent: key(parent),
        name: name.into(),
    };
    let dir = DirTimes::default();
    record(seq, ino, None, Op::Link { entry, dir })
}

fn xattr(seq: u64, ino: u64, name: &str, value: &[u8]) -> Record {
    let (name, value) = (name.into(), value.to_vec());
    record(seq, ino, None, Op::SetXattr { name, value })
}

fn symlink(seq: u64, ino: u64, parent: u64, name: &str, target: &str) -> Record {
    let mut record = create(seq, ino, 0o120_777, parent, name);
    if let Op::Create { link_target, .. } = &mut record.op {
        *link_target = Some(target.into());
    }
    record
}

/// `/d/f` (also `/again`) with two pieces and a hole, `/d/sub`, `/link`, `/device`.
fn kinds() -> Medium {
    let mut records = base();
    records.extend([
        create(5, 2, 0o040_751, 1, "d"),
        create(6, 3, 0o104_640, 2, "f"),
        link(7, 3, 1, "again"),
        create(8, 4, 0o040_755, 2, "sub"),
        symlink(9, 5, 1, "link", "d/f"),
        create(10, 6, 0o020_600, 1, "device"),
        attributes(
            11,
            6,
            Attributes {
                rdev: Some(libc::makedev(0x123, 0x4_5678)),
                ..Attributes::default()
            },
        ),
        xattr(12, 3, "user.note", b"hello"),
        xattr(13, 3, "trusted.note", b""),
        write(14, 3, 0, b"begin"),
        write(15, 3, 9000, &[7; 100]),
        attributes(
            16,
            3,
            Attributes {
                uid: Some(12),
                gid: Some(34),
                size: Some(10_000),
                atime: Some(Time { sec: 7, nsec: 8 }),
                mtime: Some(Time {
                    sec: -2,
                    nsec: 500_000_000,
                }),
                file_flags: Some(0x10),
                project: Some(77),
                ..Attributes::default()
            },
        ),
    ]);
    Medium::new(&[records])
}

#[test]
fn attributes_are_those_of_the_journal() {
    kinds().past(1 << 20, |past| {
        let view = &past.view;
        let file = view.attributes(find(past, "d/f"));
        assert_eq!((file.kind, file.perm), (FileType::RegularFile, 0o4640));
        assert_eq!((file.uid, file.gid, file.size), (12, 34, 10_000));
        assert_eq!(file.nlink, 2);
        assert_eq!(file.mtime, UNIX_EPOCH - Duration::from_millis(1500));
        assert_eq!(file.atime, UNIX_EPOCH + Duration::new(7, 8));
        assert_eq!(file.blocks, 1, "holes take none");
        assert_eq!(view.attributes(find(past, "again")), file, "one inode");
        assert_eq!(view.flags(find(past, "again")), (0x10, 77));
        let directory = view.attributes(find(past, "d"));
        assert_eq!((directory.kind, directory.perm), (FileType::Directory, 0o751));
        assert_eq!(directory.nlink, 3);
        let root = view.attributes(Plan::ROOT);
        assert_eq!((root.ino, root.nlink), (INodeNo(1), 3));
        let link = find(past, "link");
        assert_eq!(view.attributes(link).size, 3);
        assert_eq!(view.link_target(link).expect("a link"), b"d/f");
        assert_eq!(view.link_target(Plan::ROOT), Err(Errno::EINVAL));
        // As `new_encode_dev` of the kernel has it.
        let device = view.attributes(find(past, "device"));
        assert_eq!((device.kind, device.rdev), (FileType::CharDevice, 0x4561_2378));
        assert_eq!(view.space().inodes, 6);
    });
}

#[test]
fn names_are_found_and_listed_from_any_place() {
    kinds().past(1 << 20, |past| {
        let view = &past.view;
        assert_eq!(view.lookup(Plan::ROOT, b"f"), Err(Errno::ENOENT));
        assert_eq!(view.lookup(Plan::ROOT, b"."), Err(Errno::ENOENT));
        assert_eq!(view.lookup(Plan::ROOT, b"d/f"), Err(Errno::ENOENT));
        assert_eq!(view.lookup(Plan::ROOT, &[b'x'; 256]), Err(Errno::ENAMETOOLONG));
        let file = find(past, "d/f");
        assert_eq!(view.lookup(file, b"x"), Err(Errno::ENOTDIR));
        assert_eq!(view.entries(file, 0).err(), Some(Errno::ENOTDIR));
        let nodes = view.tree.plan().nodes.len() as u64;
        for none in [0, nodes + 1, u64::MAX] {
            assert_eq!(view.node_of(INodeNo(none)), Err(Errno::ESTALE));
        }
        assert!(view.node_of(INodeNo(nodes)).is_ok());
        let list = |node, from| {
            let entries = view.entries(node, from).expect("a directory");
            let one = |entry: super::view::DirEntry<'_>| {
                let name = String::from_utf8(entry.name.to_vec()).expect("text");
                (name, entry.node, entry.next)
            };
            entries.map(one).collect::<Vec<_>>()
        };
        let all = list(Plan::ROOT, 0);
        let names: Vec<&str> = all.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, [".", "..", "again", "d", "device", "link"]);
        assert_eq!((all[0].1, all[1].1), (Plan::ROOT, Plan::ROOT));
        for (index, (_, _, next)) in all.iter().enumerate() {
            assert_eq!(list(Plan::ROOT, *next), all[index + 1..], "from {next}");
        }
        assert!(list(Plan::ROOT, u64::MAX).is_empty());
        let directory = find(past, "d");
        let of_directory = list(directory, 0);
        assert_eq!((of_directory[0].1, of_directory[1].1), (directory, Plan::ROOT));
        assert_eq!(list(find(past, "d/sub"), 0)[1].1, directory);
    });
}

#[test]
fn extended_attributes_are_told_to_whom_they_may_be() {
    kinds().past(1 << 20, |past| {
        let (view, file) = (&past.view, find(past, "again"));
        assert_eq!(view.xattr(file, b"user.note").expect("there"), b"hello");
        assert_eq!(view.xattr(file, b"trusted.note").expect("there"), b"");
        assert_eq!(view.xattr(file, b"user.not"), Err(Errno::ENODATA));
        assert_eq!(view.xattr_names(file, true), b"trusted.note\0user.note\0");
        assert_eq!(view.xattr_names(file, false), b"user.note\0");
        assert!(view.xattr_names(Plan::ROOT, true).is_empty());
    });
}

#[test]
fn data_and_holes_are_found() {
    kinds().past(1 << 20, |past| {
        let file = find(past, "d/f");
        let seek = |offset, whence| past.view.seek(file, offset, whence);
        let (data, hole) = (libc::SEEK_DATA, libc::SEEK_HOLE);
        for (offset, next_data, next_hole) in [
            (0, Ok(0), 5),
            (4, Ok(4), 5),
            (5, Ok(9000), 5),
            (8999, Ok(9000), 8999),
            (9000, Ok(9000), 9100),
            (9099, Ok(9099), 9100),
            (9100, Err(Errno::ENXIO), 9100),
            (9999, Err(Errno::ENXIO), 9999),
        ] {
            assert_eq!(seek(offset, data), next_data, "data from {offset}");
            assert_eq!(seek(offset, hole), Ok(next_hole), "a hole from {offset}");
        }
        for offset in [10_000, i64::MAX, -1] {
            assert_eq!(seek(offset, data), Err(Errno::ENXIO));
            assert_eq!(seek(offset, hole), Err(Errno::ENXIO));
        }
        assert_eq!(seek(0, libc::SEEK_SET), Err(Errno::EINVAL));
        assert_eq!(past.view.seek(Plan::ROOT, 0, data), Err(Errno::EINVAL));
    });
}

/// A file of which three segments have something, written over each other, with a hole, and what it holds.
fn patched() -> (Medium, Vec<u8>) {
    let mut content = vec![0; 300];
    let mut first = base();
    first.push(create(5, 2, FILE, 1, "f"));
    let mut segments = vec![first, Vec::new(), Vec::new()];
    for (number, (segment, offset, length)) in [
        (0, 0, 100),
        (0, 150, 60),
        (1, 40, 80),
        (1, 280, 20),
        (2, 10, 5),
        (2, 200, 30),
        (2, 60, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let data: Vec<u8> = (0..length).map(|at| (number * 37 + at) as u8 | 1).collect();
        content[offset..offset + length].copy_from_slice(&data);
        segments[segment].push(write(6 + number as u64, 2, offset as u64, &data));
    }
    (Medium::new(&segments), content)
}

#[test]
fn any_run_of_a_file_is_what_it_was() {
    let (medium, content) = patched();
    // With a cache that holds everything, and with one that holds nothing.
    for cache_bytes_max in [1 << 20, 0] {
        medium.past(cache_bytes_max, |past| {
            let file = find(past, "f");
            for offset in (0..content.len()).step_by(7) {
                for length in [0, 1, 9, 64, 300, usize::MAX] {
                    let end = offset.saturating_add(length).min(content.len());
                    let asked = u32::try_from(length).unwrap_or(u32::MAX);
                    let read = past.read(file, offset as u64, asked).expect("read");
                    assert_eq!(read, content[offset..end], "{length} bytes at {offset}");
                }
            }
            for behind in [300, 301, u64::MAX] {
                assert!(past.read(file, behind, 4096).expect("read").is_empty());
            }
            assert_eq!(past.read(Plan::ROOT, 0, 1), Err(Errno::EINVAL));
        });
    }
}

/// Files `f0`, `f1`, .. of a MiB each, one in each segment, and behind each one of a few bytes.
fn large(files: u64) -> Medium {
    let segments: Vec<Vec<Record>> = (0..files)
        .map(|number| {
            let (seq, ino) = (10 + number * 10, 10 + number * 2);
            let mut records = if number == 0 { base() } else { Vec::new() };
            records.extend([
                create(seq, ino, FILE, 1, &format!("f{number}")),
                write(seq + 1, ino, 0, &large_content(number)),
                create(seq + 2, ino + 1, FILE, 1, &format!("small{number}")),
                write(seq + 3, ino + 1, 0, b"small"),
            ]);
            records
        })
        .collect();
    Medium::new(&segments)
}

fn large_content(number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    (0..MIB).map(|_| random.u8(..)).collect()
}

fn read_all(past: &Past<'_>, path: &str) -> Vec<u8> {
    let (file, mut content) = (find(past, path), Vec::new());
    loop {
        let run = past.read(file, content.len() as u64, 64 << 10).expect("read");
        if run.is_empty() {
            return content;
        }
        content.extend(run);
    }
}

#[test]
fn a_row_group_is_unpacked_once_while_it_is_kept() {
    let cache_bytes_max = 2 * MIB as u64 + 100_000;
    large(4).past(cache_bytes_max, |past| {
        let unpacked = || past.cache.unpacked();
        for number in 0..2 {
            assert_eq!(read_all(past, &format!("f{number}")), large_content(number));
            assert_eq!(read_all(past, &format!("small{number}")), b"small");
            assert_eq!(unpacked(), number + 1, "in one piece, with its neighbour");
        }
        // The bound has room for two: the first of them was used last, so the second goes.
        read_all(past, "small0");
        read_all(past, "f2");
        assert_eq!(unpacked(), 3);
        assert!(past.cache.bytes() <= cache_bytes_max);
        assert!(past.cache.bytes() > 2 * MIB as u64, "and uses it");
        read_all(past, "f0");
        assert_eq!(unpacked(), 3, "still there");
        assert_eq!(read_all(past, "f1"), large_content(1));
        assert_eq!(unpacked(), 4, "was gone");
        for number in 0..4 {
            assert_eq!(read_all(past, &format!("f{number}")), large_content(number));
            assert!(past.cache.bytes() <= cache_bytes_max);
        }
    });
    // What does not fit at all is read, and not kept.
    large(1).past(1000, |past| {
        assert_eq!(read_all(past, "f0"), large_content(0));
        assert_eq!(past.cache.bytes(), 0);
    });
}

#[test]
fn many_readers_unpack_a_row_group_once() {
    large(1).past(8 * MIB as u64, |past| {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(read_all(past, "f0"), large_content(0)));
            }
        });
        assert_eq!(past.cache.unpacked(), 1);
    });
}

#[test]
fn rot_is_an_error_and_nothing_else() {
    let medium = large(2);
    medium.flip(1);
    medium.past(8 * MIB as u64, |past| {
        let rotten = find(past, "f0");
        for offset in [0, 4096, MIB as u64 - 1] {
            assert_eq!(past.read(rotten, offset, 4096), Err(Errno::EIO));
        }
        // Its neighbour lies in the same row group, of which nothing can be trusted.
        assert_eq!(past.read(find(past, "small0"), 0, 10), Err(Errno::EIO));
        assert!(past.read(rotten, MIB as u64, 10).expect("nothing").is_empty());
        assert_eq!(read_all(past, "f1"), large_content(1));
        // Another copy of the medium is put there.
        medium.flip(1);
        assert_eq!(read_all(past, "f0"), large_content(0));
    });
}

#[test]
fn rot_is_told_once_with_what_it_costs() {
    let medium = large(3);
    medium.flip(1);
    medium.past(0, |past| {
        let tell = |path| past.complaint_of(find(past, path));
        let text = tell("f0").expect("told");
        for part in [
            "/f0: bytes 0 to 1048576 cannot be read",
            "segment 1",
            "BLAKE3 of the data differs",
            "segment 1 costs sequence numbers 1 to 13 of epoch 1",
            "/small0",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert_eq!(tell("f0"), None, "told already");
        assert_eq!(tell("small0"), None, "of the same row group");
        medium.flip(1);
        read_all(past, "f0");
        medium.flip(1);
        assert!(
            tell("small0").is_some(),
            "once more, since it was sound meanwhile"
        );
    });
    // It goes while it is mounted.
    medium.past(0, |past| {
        fs::remove_file(medium.object(2, "parquet")).expect("remove");
        let text = past.complaint_of(find(past, "f1")).expect("told");
        assert!(text.contains("segment 2"), "{text}");
    });
}
