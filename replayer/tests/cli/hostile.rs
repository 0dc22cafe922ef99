//! Journals made to do harm, sealed as they should be: an error with its exit code, and nothing touched outside the target.

use std::os::unix::fs::{FileTypeExt, symlink};
use std::time::{Duration, Instant};

use journal::record::{Attributes, Op, Record};

use crate::bench::{
    Bench, DIR, FILE, attributes, base, create, dir, entry, key, mark, record, refused, write,
};

fn with(more: Vec<Record>) -> Bench {
    Bench::new(&[[base(), more].concat()])
}

fn node(seq: u64, ino: u64, mode: u32, rdev: u64, name: &[u8]) -> Record {
    let mut node = create(seq, ino, mode, 1, name);
    node.attributes.rdev = Some(rdev);
    node
}

#[test]
fn names_that_lead_elsewhere() {
    for name in [
        b"..".as_slice(),
        b".",
        b"",
        b"/abs",
        b"a/../../b",
        b"a\0b",
        &[b'x'; 256],
    ] {
        let bench = with(vec![create(5, 2, FILE, 1, name), write(6, 2, 0, b"evil")]);
        refused(&bench, &[], 30, "cannot be a name");
        refused(&bench, &["--stepwise"], 30, "cannot be a name");
        let moved = Op::Rename {
            from: entry(1, b"a"),
            from_dir: dir(),
            to: entry(1, name),
            to_dir: dir(),
            victim: None,
        };
        let bench = with(vec![
            create(5, 2, FILE, 1, b"a"),
            record(6, key(2), Attributes::default(), moved),
        ]);
        refused(&bench, &[], 30, "cannot be a name");
    }
}

/// Data goes to regular files only: written by its name into a device that the journal made, it would leave the target.
#[test]
fn content_of_devices_pipes_links_and_directories() {
    let device = rustix::fs::makedev(1, 5);
    for (mode, rdev) in [(0o020_666, device), (0o060_666, device), (0o010_666, 0), (DIR, 0)] {
        let bench = with(vec![node(5, 2, mode, rdev, b"n"), write(6, 2, 0, b"evil")]);
        refused(&bench, &[], 30, "no file and has content");
        let output = bench.restore(&["--stepwise"]);
        assert_eq!(output.status.code(), Some(30), "mode {mode:o}");
        // Past a hole it is left out, and the rest is made.
        std::fs::remove_dir_all(bench.path("to")).expect("remove");
        std::fs::create_dir(bench.path("to")).expect("make");
        assert_eq!(bench.restore(&["--allow-holes"]).status.code(), Some(3));
    }
    let mut link = create(5, 2, 0o120_777, 1, b"l");
    if let Op::Create { link_target, .. } = &mut link.op {
        *link_target = Some(b"../medium/replayer".to_vec());
    }
    let bench = with(vec![link, write(6, 2, 0, b"evil")]);
    refused(&bench, &[], 30, "no file and has content");
    assert_eq!(
        std::fs::read(bench.path("medium/replayer")).expect("there"),
        b"#!/bin/sh\n"
    );
}

#[test]
fn device_nodes_are_made_and_not_opened() {
    let bench = with(vec![
        node(5, 2, 0o020_600, rustix::fs::makedev(250, 77), b"n"),
        mark(6, "m"),
    ]);
    assert_eq!(bench.restore(&[]).status.code(), Some(0));
    let made = std::fs::symlink_metadata(bench.path("to/n")).expect("made");
    assert!(made.file_type().is_char_device());
}

#[test]
fn lengths_beyond_everything() {
    let max = i64::MAX as u64;
    let lies = |offset, length| {
        let op = Op::Write {
            offset,
            data: b"abc".to_vec(),
            length,
        };
        record(6, key(2), Attributes::default(), op)
    };
    let fallocate = |mode, offset, length| {
        let op = Op::Fallocate { mode, offset, length };
        record(6, key(2), Attributes::default(), op)
    };
    let size = |size| {
        let stated = Attributes {
            size: Some(size),
            ..Attributes::default()
        };
        record(6, key(2), stated, Op::SetAttr)
    };
    for hostile in [
        lies(u64::MAX, 3),
        lies(max - 1, 3),
        lies(0, max),
        lies(0, u64::MAX),
        lies(0, 1 << 40),
        fallocate(0, u64::MAX, u64::MAX),
        fallocate(0x20, max, max),
        size(u64::MAX),
        size(max + 1),
    ] {
        let shown = format!("{hostile:?}");
        let bench = with(vec![create(5, 2, FILE, 1, b"f"), hostile, mark(7, "m")]);
        for more in [&[][..], &["--stepwise"]] {
            let output = bench.restore(more);
            assert_eq!(output.status.code(), Some(30), "{shown} {more:?}");
            assert!(bench.is_untouched(), "{shown}");
        }
        let verified = bench.run(&["verify", "--medium", "medium"]);
        assert_eq!(verified.status.code(), Some(30), "{shown}");
    }
    // As large as a file may be: whether the target can hold it is for the target to say.
    for fine in [
        lies(max - 3, 3),
        size(max),
        fallocate(0, 0, max),
        fallocate(0x20, 0, max),
    ] {
        let shown = format!("{fine:?}");
        let bench = with(vec![create(5, 2, FILE, 1, b"f"), fine, mark(7, "m")]);
        let output = bench.restore(&[]);
        assert!(
            matches!(output.status.code(), Some(0 | 1 | 3)),
            "{shown}: {output:?}"
        );
    }
}

#[test]
fn many_links_to_one_file() {
    const LINKS: u64 = 200_000;
    let mut rows = vec![create(5, 2, DIR, 1, b"d"), create(6, 3, FILE, 2, b"f")];
    for number in 0..LINKS {
        let op = Op::Link {
            entry: entry(2, format!("link {number}").as_bytes()),
            dir: dir(),
        };
        rows.push(record(7 + number, key(3), Attributes::default(), op));
    }
    let bench = with(rows);
    let started = Instant::now();
    let output = bench.restore(&[]);
    // A target that refuses so many (ext4: 65000) is incomplete, and says so once for each that it does not list.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{:?}", output.status);
    assert!(started.elapsed() < Duration::from_secs(120));
    assert!(output.stderr.len() < 1 << 20, "what is said is bounded");
}

/// The medium itself leads nowhere.
#[test]
fn links_on_the_medium() {
    let bench = with(vec![mark(5, "m")]);
    std::fs::write(bench.path("outside"), b"safe").expect("write");
    for name in ["0000000001.parquet", "0000000001.manifest.json"] {
        let path = bench.path("medium").join(crate::bench::UUID).join(name);
        let bytes = std::fs::read(&path).expect("read");
        std::fs::write(bench.path("outside"), &bytes).expect("write");
        std::fs::remove_file(&path).expect("remove");
        symlink(bench.path("outside"), &path).expect("link");
        let output = bench.restore(&[]);
        assert!(matches!(output.status.code(), Some(10 | 30)), "{output:?}");
        assert!(bench.is_untouched());
        std::fs::remove_file(&path).expect("remove");
        std::fs::write(&path, bytes).expect("write");
    }
    assert_eq!(bench.restore(&[]).status.code(), Some(0));
}

/// What the journal says of an inode may contradict itself in any order; nothing of it may end in a panic.
#[test]
fn contradictions() {
    let none = Attributes::default;
    let state = |seq, mode| record(seq, key(2), attributes(mode), Op::SetAttr);
    for rows in [
        vec![state(5, 0o060_600), write(6, 2, 0, b"x")],
        vec![create(5, 2, FILE, 1, b"f"), write(6, 2, 0, b"x"), state(7, DIR)],
        vec![create(5, 2, FILE, 1, b"f"), record(6, key(1), none(), Op::Evict)],
        vec![create(5, 2, DIR, 1, b"d"), create(6, 1, DIR, 2, b"up")],
        vec![record(5, key(1), attributes(FILE), Op::SetAttr)],
        vec![record(5, key(9), none(), Op::BaseBegin { continues: None })],
        vec![record(5, key(1), none(), Op::SnapshotEnd { begin_seq: u64::MAX })],
    ] {
        let bench = with(rows.clone());
        for more in [&[][..], &["--stepwise"], &["--allow-holes"]] {
            let output = bench.restore(more);
            assert!(
                matches!(output.status.code(), Some(0 | 1 | 3 | 30)),
                "{rows:?} {more:?}: {output:?}"
            );
            std::fs::remove_dir_all(bench.path("to")).expect("remove");
            std::fs::create_dir(bench.path("to")).expect("make");
        }
    }
}
