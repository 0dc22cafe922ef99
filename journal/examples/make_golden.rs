//! Makes the golden medium of the current format: `cargo run -p journal --example make_golden DIRECTORY`; an encrypted one with the file of an
//! age identity after it, which is copied there.
//!
//! Run once per format version, into a directory that does not exist. What it made is never made again: it is how later
//! programs prove that they still read what was written then.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use journal::record::{
    Actor, Attributes, Continued, DirTimes, Entry, InodeKey, Op, Record, SnapshotScope, Time,
};
use journal::store::{DirStore, Store};
use journal::{Identities, Label, Naming, Recipients, Signer, VolumeInfo, Writer};

fn main() -> Result<()> {
    let directory = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .context("name a directory to make")?;
    fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
    let recipients = match std::env::args_os().nth(2) {
        Some(identity) => {
            let text = fs::read_to_string(identity).context("read the identity")?;
            fs::write(directory.join("identity"), &text)?;
            Some(Recipients::parse(&Identities::parse(&text)?.recipients())?)
        }
        None => None,
    };
    let store: Arc<dyn Store> = Arc::new(DirStore::open(&directory)?);
    let signer = Signer::new(&[7; 32]);
    let naming = Naming {
        name: Some("golden-7".to_owned()),
        pool: "golden".to_owned(),
        copies: false,
        signer: Some(signer.clone()),
    };
    Label::ensure_as(
        &*store,
        b"no program: golden data",
        1_800_000_000_000_000_000,
        &naming,
    )?;
    let volume = VolumeInfo {
        uuid: "6f0cb0f4-0001-4000-8000-000000000001".to_owned(),
        fs_type: "ext4".to_owned(),
        label: "golden".to_owned(),
        block_size: 4096,
        size_bytes: 1 << 30,
        root: key(2),
        mount_path: "/origin".to_owned(),
        hostname: "host".to_owned(),
    };
    let mut expected = fs::File::create_new(directory.join("expected.jsonl"))?;
    // Two epochs, the first in two segments.
    for ops in [first_epoch(), second_epoch()] {
        let mut writer = Writer::open(Arc::clone(&store), volume.clone())?
            .signed_by(Some(signer.clone()))
            .encrypted_to(recipients.clone());
        let half = ops.len() / 2;
        for (position, (inode, attributes, op)) in ops.into_iter().enumerate() {
            let record = record(position as u64, inode, attributes, op);
            writer.push(&record)?;
            serde_json::to_writer(&mut expected, &record)?;
            writeln!(expected)?;
            if position == half && writer.epoch() == 1 {
                writer.seal()?;
            }
        }
        writer.seal()?;
    }
    Ok(())
}

type Change = (u64, Attributes, Op);

fn record(position: u64, ino: u64, attributes: Attributes, op: Op) -> Record {
    let seq = 100 + position * 10;
    // One merged record: a write.
    let last_seq = seq + if matches!(op, Op::Write { .. }) { 3 } else { 0 };
    let volume_wide = matches!(op, Op::Mark { .. } | Op::Barrier { .. });
    Record {
        seq,
        last_seq,
        time_ns: 1_800_000_000_000_000_000 + i64::try_from(position).unwrap_or(0) * 1_000_000_007,
        inode: if volume_wide {
            InodeKey::default()
        } else {
            key(ino)
        },
        attributes,
        from_snapshot: matches!(
            op,
            Op::Snapshot { .. } | Op::SnapshotEntry { .. } | Op::SnapshotEnd { .. }
        ),
        actor: Actor {
            pid: 4711,
            tgid: 4700,
            uid: 1000,
            gid: 100,
            cgroup: 77,
            comm: b"make".to_vec(),
        },
        op,
    }
}

fn key(ino: u64) -> InodeKey {
    InodeKey {
        ino,
        generation: 0xdead_0000 + u32::try_from(ino).unwrap_or(0),
    }
}

fn entry(parent: u64, name: &[u8]) -> Entry {
    Entry {
        parent: key(parent),
        name: name.to_vec(),
    }
}

fn dir(sec: i64) -> DirTimes {
    DirTimes {
        mtime: Time {
            sec,
            nsec: 999_999_999,
        },
        ctime: Time { sec, nsec: 1 },
    }
}

fn all(mode: u32, size: u64) -> Attributes {
    Attributes {
        mode: Some(mode),
        uid: Some(1000),
        gid: Some(u32::MAX - 1),
        rdev: Some(0x0801),
        size: Some(size),
        atime: Some(Time { sec: -1, nsec: 5 }),
        mtime: Some(Time {
            sec: 4_294_967_296,
            nsec: 0,
        }),
        ctime: Some(Time {
            sec: 1_800_000_000,
            nsec: 123,
        }),
        file_flags: Some(0x10),
        project: Some(4_000_000_000),
    }
}

fn none() -> Attributes {
    Attributes::default()
}

fn write(offset: u64, data: &[u8]) -> Op {
    Op::Write {
        offset,
        data: data.to_vec(),
        length: data.len() as u64,
    }
}

fn snapshot(scope: SnapshotScope, link_target: Option<&[u8]>) -> Op {
    Op::Snapshot {
        link_target: link_target.map(<[u8]>::to_vec),
        scope,
    }
}

/// Numbers begin at 100 and rise by 10.
fn base(continues: Option<Continued>) -> Vec<Change> {
    vec![
        (2, none(), Op::BaseBegin { continues }),
        (2, all(0o040_755, 4096), snapshot(SnapshotScope::Whole, None)),
        (
            11,
            none(),
            Op::SnapshotEntry {
                entry: entry(2, b"old \xff name"),
            },
        ),
        (2, none(), Op::SnapshotEnd { begin_seq: 110 }),
        (11, all(0o100_640, 5), snapshot(SnapshotScope::Whole, None)),
        (11, none(), write(0, b"hello")),
        (11, none(), Op::SnapshotEnd { begin_seq: 140 }),
        (2, none(), Op::BaseEnd { begin_seq: 100 }),
    ]
}

fn first_epoch() -> Vec<Change> {
    let mut changes = base(None);
    changes.extend(names());
    changes.extend(contents());
    changes
}

fn names() -> Vec<Change> {
    let create = |name: &[u8], link_target: Option<&[u8]>| Op::Create {
        entry: entry(2, name),
        dir: dir(7),
        link_target: link_target.map(<[u8]>::to_vec),
    };
    vec![
        (12, all(0o100_600, 0), create(b"new", None)),
        (13, all(0o120_777, 0), create(b"symlink", Some(b"../away"))),
        (14, all(0o100_600, 0), Op::CreateUnnamed),
        (
            14,
            none(),
            Op::Link {
                entry: entry(2, b"named"),
                dir: dir(8),
            },
        ),
        (
            14,
            none(),
            Op::Unlink {
                entry: entry(2, b"named"),
                dir: dir(9),
            },
        ),
        (14, none(), Op::Evict),
        (15, all(0o040_700, 0), create(b"directory", None)),
        (
            15,
            none(),
            Op::Rmdir {
                entry: entry(2, b"directory"),
                dir: dir(10),
            },
        ),
        (
            12,
            none(),
            Op::Rename {
                from: entry(2, b"new"),
                from_dir: dir(11),
                to: entry(2, b"newer"),
                to_dir: dir(11),
                victim: Some(key(99)),
            },
        ),
        (
            12,
            none(),
            Op::Exchange {
                from: entry(2, b"newer"),
                from_dir: dir(-12),
                to: entry(2, b"symlink"),
                to_dir: dir(-12),
                other: key(13),
            },
        ),
    ]
}

fn contents() -> Vec<Change> {
    let name = b"user.colour".to_vec();
    vec![
        (12, none(), write(4096, &[0x5a; 8192])),
        (
            12,
            Attributes {
                size: Some(10_000),
                ..none()
            },
            Op::SetAttr,
        ),
        (
            12,
            none(),
            Op::SetXattr {
                name: name.clone(),
                value: b"\0blue\xff".to_vec(),
            },
        ),
        (12, none(), Op::RemoveXattr { name }),
        (
            12,
            none(),
            Op::Fallocate {
                mode: 0x08,
                offset: 0,
                length: 4096,
            },
        ),
        (
            11,
            none(),
            Op::Clone {
                source: key(12),
                source_offset: 0,
                offset: 4096,
                length: 4096,
            },
        ),
        (
            11,
            all(0o100_644, 8192),
            snapshot(SnapshotScope::Attributes, None),
        ),
        (11, none(), Op::SnapshotEnd { begin_seq: 340 }),
        (0, none(), Op::Barrier { up_to: Some(340) }),
        (
            0,
            none(),
            Op::Mark {
                name: "gölden".to_owned(),
            },
        ),
        (
            12,
            none(),
            Op::Hole {
                last_seq: 385,
                inode: Some(key(12)),
                since_seq: None,
            },
        ),
        (12, none(), Op::HoleClosed { hole_seq: 380 }),
        (
            0,
            none(),
            Op::Hole {
                last_seq: 400,
                inode: None,
                since_seq: Some(375),
            },
        ),
    ]
}

/// Goes on from the mark of the first.
fn second_epoch() -> Vec<Change> {
    base(Some(Continued { epoch: 1, seq: 370 }))
}
