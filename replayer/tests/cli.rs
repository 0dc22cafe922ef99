//! The built binary against journals written by `journal::Writer`: results, exit codes, and what it leaves untouched.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use journal::record::{Actor, Attributes, DirTimes, Entry, InodeKey, Op, Record, SnapshotScope, Time};
use journal::store::DirStore;
use journal::{Label, VolumeInfo, Writer};
use serde_json::Value;

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn key(ino: u64) -> InodeKey {
    InodeKey { ino, generation: 1 }
}

fn attributes(mode: u32) -> Attributes {
    let time = Some(Time {
        sec: 1_700_000_000,
        nsec: 5,
    });
    Attributes {
        mode: Some(mode),
        uid: Some(0),
        gid: Some(0),
        mtime: time,
        ctime: time,
        ..Attributes::default()
    }
}

fn record(seq: u64, inode: InodeKey, attributes: Attributes, op: Op) -> Record {
    let time_ns = 1_790_000_000_000_000_000 + i64::try_from(seq).expect("small") * 1_000_000_000;
    Record {
        seq,
        last_seq: seq,
        time_ns,
        inode,
        attributes,
        from_snapshot: false,
        actor: Actor::default(),
        op,
    }
}

fn entry(parent: u64, name: &[u8]) -> Entry {
    Entry {
        parent: key(parent),
        name: name.to_vec(),
    }
}

fn dir() -> DirTimes {
    let time = Time {
        sec: 1_700_000_001,
        nsec: 6,
    };
    DirTimes {
        mtime: time,
        ctime: time,
    }
}

fn create(seq: u64, ino: u64, mode: u32, parent: u64, name: &[u8]) -> Record {
    let op = Op::Create {
        entry: entry(parent, name),
        dir: dir(),
        link_target: None,
    };
    record(seq, key(ino), attributes(mode), op)
}

fn write(seq: u64, ino: u64, offset: u64, data: &[u8]) -> Record {
    let op = Op::Write {
        offset,
        data: data.to_vec(),
        length: data.len() as u64,
    };
    record(seq, key(ino), Attributes::default(), op)
}

fn mark(seq: u64, name: &str) -> Record {
    record(
        seq,
        InodeKey::default(),
        Attributes::default(),
        Op::Mark {
            name: name.to_owned(),
        },
    )
}

const DIR: u32 = 0o040_755;
const FILE: u32 = 0o100_644;

/// An empty root, complete at seq 4.
fn base() -> Vec<Record> {
    let none = Attributes::default;
    let whole = Op::Snapshot {
        link_target: None,
        scope: SnapshotScope::Whole,
    };
    vec![
        record(1, key(1), none(), Op::BaseBegin),
        record(2, key(1), attributes(DIR), whole),
        record(3, key(1), none(), Op::SnapshotEnd { begin_seq: 2 }),
        record(4, InodeKey::default(), none(), Op::BaseEnd { begin_seq: 1 }),
    ]
}

/// A temporary directory with a medium in it.
struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    /// Each list of records becomes a segment.
    fn new(segments: &[Vec<Record>]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let bench = Self { directory };
        std::fs::create_dir(bench.path("to")).expect("make");
        bench.add_medium("medium", 0, segments);
        bench
    }

    /// A new medium with its own chain of the volume, recorded so much later.
    fn add_medium(&self, name: &str, later_ns: i64, segments: &[Vec<Record>]) {
        std::fs::create_dir(self.path(name)).expect("make");
        let store = Arc::new(DirStore::open(&self.path(name)).expect("open"));
        Label::ensure(&*store, b"#!/bin/sh\n", 1).expect("label");
        let volume = VolumeInfo {
            uuid: UUID.to_owned(),
            fs_type: "ext4".to_owned(),
            root: key(1),
            ..VolumeInfo::default()
        };
        let mut writer = Writer::open(store, volume).expect("open");
        for segment in segments {
            for record in segment {
                let mut record = record.clone();
                record.time_ns += later_ns;
                writer.push(&record).expect("push");
            }
            writer.seal().expect("seal");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn segment(&self, index: u64, suffix: &str) -> PathBuf {
        self.path("medium")
            .join(UUID)
            .join(format!("{index:010}.{suffix}"))
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_replayer"))
            .current_dir(self.directory.path())
            .args(args)
            .output()
            .expect("run")
    }

    fn restore(&self, more: &[&str]) -> Output {
        self.run(&[&["restore", "--json", "--medium", "medium", "--to", "to"], more].concat())
    }

    fn is_untouched(&self) -> bool {
        std::fs::read_dir(self.path("to"))
            .expect("there")
            .next()
            .is_none()
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// Runs a restore that must fail with a code, say so in JSON, and touch nothing.
fn refused(bench: &Bench, more: &[&str], code: i32, words: &str) {
    let output = bench.restore(more);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(json(&output)["error"]["code"], code);
    assert!(stderr.contains(words), "{stderr} does not say {words:?}");
    assert!(bench.is_untouched(), "something was written");
}

/// Two segments: a file of two versions and a mark between them.
fn story() -> Vec<Vec<Record>> {
    let mut first = base();
    first.extend([
        create(5, 2, DIR, 1, b"d\xff\n"),
        create(6, 3, FILE, 2, b"f"),
        write(7, 3, 0, b"one, long"),
        write(8, 3, 100_000, b"far"),
        mark(9, "first"),
    ]);
    let truncated = Attributes {
        size: Some(3),
        ..Attributes::default()
    };
    let second = vec![
        record(10, key(3), truncated, Op::SetAttr),
        write(11, 3, 0, b"TWO"),
        record(
            12,
            key(3),
            Attributes::default(),
            Op::Link {
                entry: entry(1, b"again"),
                dir: dir(),
            },
        ),
        mark(13, "second"),
    ];
    vec![first, second]
}

fn file(to: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    to.join(std::ffi::OsStr::from_bytes(b"d\xff\n")).join("f")
}

#[test]
fn restores_the_newest_and_a_mark() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new(&story());
    let output = bench.restore(&[]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let document = json(&output);
    assert_eq!(
        (
            &document["complete"],
            &document["entries"],
            &document["point"]["seq"]
        ),
        (&true.into(), &3.into(), &13.into())
    );
    assert_eq!(std::fs::read(file(&bench.path("to"))).expect("content"), b"TWO");
    assert_eq!(
        std::fs::metadata(bench.path("to/again")).expect("there").nlink(),
        2
    );

    std::fs::create_dir(bench.path("then")).expect("make");
    let output = bench.run(&[
        "restore",
        "--medium",
        "medium",
        "--to",
        "then",
        "--at",
        "mark:first",
    ]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let content = std::fs::read(file(&bench.path("then"))).expect("content");
    assert_eq!(
        (&content[..9], content.len(), &content[100_000..]),
        (b"one, long".as_slice(), 100_003, b"far".as_slice())
    );
    assert!(!bench.path("then/again").exists());
    assert!(String::from_utf8_lossy(&output.stdout).contains("seq 9"));
}

#[test]
fn commands_that_only_read() {
    let bench = Bench::new(&story());
    let output = bench.run(&["verify", "--medium", "medium", "--json"]);
    assert_eq!(
        (output.status.code(), &json(&output)["volumes"][0]["good"]),
        (Some(0), &true.into())
    );
    let output = bench.run(&["points", "--medium", "medium", "--json"]);
    assert!(json(&output).to_string().contains("\"second\""));
    let output = bench.run(&[
        "dump",
        "--medium",
        "medium",
        "--json-lines",
        "--from",
        "5",
        "--to",
        "7",
        "--data",
    ]);
    let lines: Vec<Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["entry"]["name"], "d\\xff\\x0a");
    assert_eq!(lines[2]["data"], "6f6e652c206c6f6e67");
}

#[test]
fn a_wrong_command_line() {
    let bench = Bench::new(&story());
    for args in [
        &["restore", "--medium", "medium"][..],
        &["verify"],
        &["verify", "--medium", "medium", "--quick"],
    ] {
        let output = bench.run(args);
        assert_eq!(output.status.code(), Some(2));
        let output = bench.run(&[args, &["--json"]].concat());
        assert_eq!(
            (output.status.code(), &json(&output)["error"]["code"]),
            (Some(2), &2.into())
        );
    }
    refused(&bench, &["--at", "yesterday"], 2, "yesterday");
    refused(&bench, &["--at", "mark:none"], 1, "none");
}

#[test]
fn no_journal_there() {
    let bench = Bench::new(&story());
    for medium in ["to", "nowhere"] {
        let output = bench.run(&["verify", "--json", "--medium", medium]);
        assert_eq!(
            (output.status.code(), &json(&output)["error"]["code"]),
            (Some(10), &10.into())
        );
    }
}

#[test]
fn a_flipped_byte_is_found_before_anything_is_written() {
    let bench = Bench::new(&story());
    let segment = bench.segment(2, "parquet");
    let mut bytes = std::fs::read(&segment).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&segment).expect("remove");
    std::fs::write(&segment, bytes).expect("write");
    refused(&bench, &[], 30, "segment 2");
    let output = bench.run(&["verify", "--medium", "medium"]);
    assert_eq!(output.status.code(), Some(30));
    assert!(String::from_utf8_lossy(&output.stdout).contains("segment 2"));
}

#[test]
fn a_missing_segment_needs_a_medium() {
    let mut segments = story();
    segments.push(vec![mark(14, "third")]);
    let bench = Bench::new(&segments);
    std::fs::remove_file(bench.segment(2, "parquet")).expect("remove");
    std::fs::remove_file(bench.segment(2, "manifest.json")).expect("remove");
    refused(&bench, &[], 20, "segment 2");
    assert_eq!(
        bench.restore(&["--at", "mark:first"]).status.code(),
        Some(20),
        "the epoch is not whole"
    );
}

#[test]
fn torn_and_foreign_files_do_not_disturb() {
    let bench = Bench::new(&story());
    std::fs::write(bench.segment(3, "parquet"), b"PAR1 torn").expect("write");
    std::fs::write(bench.path("medium/holiday.jpg"), b"x").expect("write");
    std::fs::write(bench.path("medium").join(UUID).join("notes"), b"x").expect("write");
    assert_eq!(bench.restore(&[]).status.code(), Some(0));
}

#[test]
fn a_swapped_manifest_breaks_the_chain() {
    let bench = Bench::new(&story());
    let path = bench.segment(1, "manifest.json");
    let text = std::fs::read_to_string(&path)
        .expect("read")
        .replace("\"ext4\"", "\"ext3\"");
    std::fs::remove_file(&path).expect("remove");
    std::fs::write(&path, text).expect("write");
    refused(&bench, &[], 30, "chain");
}

#[test]
fn an_open_hole_is_refused_unless_allowed() {
    let mut segments = story();
    let hole = Op::Hole {
        last_seq: 16,
        inode: Some(key(3)),
    };
    segments.push(vec![
        Record {
            last_seq: 16,
            ..record(14, InodeKey::default(), Attributes::default(), hole)
        },
        mark(17, "after"),
    ]);
    let bench = Bench::new(&segments);
    refused(&bench, &[], 31, "14 to 16");
    let output = bench.restore(&["--allow-holes"]);
    assert_eq!(
        output.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(json(&output)["complete"], false);
    assert_eq!(std::fs::read(file(&bench.path("to"))).expect("content"), b"TWO");
}

#[test]
fn a_journal_that_is_no_tree_is_refused() {
    let link = |seq, ino, parent, name: &[u8]| {
        record(
            seq,
            key(ino),
            Attributes::default(),
            Op::Link {
                entry: entry(parent, name),
                dir: dir(),
            },
        )
    };
    for (more, words) in [
        (
            vec![create(5, 2, DIR, 1, b"a"), link(6, 1, 2, b"up")],
            "two places",
        ),
        (
            vec![create(5, 2, DIR, 1, b"a"), link(6, 2, 1, b"b")],
            "two places",
        ),
        (vec![link(5, 9, 1, b"ghost")], "ghost"),
        (
            vec![create(5, 2, FILE, 1, b"a"), create(6, 3, FILE, 2, b"b")],
            "no directory",
        ),
    ] {
        let bench = Bench::new(&[[base(), more].concat()]);
        refused(&bench, &[], 30, words);
    }
}

#[test]
fn a_target_that_is_not_empty_is_kept() {
    let bench = Bench::new(&story());
    std::fs::write(bench.path("to/precious"), "x").expect("write");
    let output = bench.restore(&[]);
    assert_eq!(
        (output.status.code(), &json(&output)["error"]["code"]),
        (Some(1), &1.into())
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("precious"));
    assert_eq!(std::fs::read(bench.path("to/precious")).expect("there"), b"x");
}

#[test]
fn a_device_that_is_none_is_refused() {
    let bench = Bench::new(&story());
    std::fs::write(bench.path("image"), "x").expect("write");
    let output = bench.run(&["restore", "--medium", "medium", "--device", "image"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a block device"));
}

#[test]
fn two_media_of_one_volume_are_read_together() {
    const HOUR_NS: i64 = 3_600_000_000_000;
    let bench = Bench::new(&story());
    let mut later = base();
    later.extend([create(5, 9, FILE, 1, b"only there"), mark(6, "third")]);
    bench.add_medium("second", HOUR_NS, &[later]);
    let restore = |to: &str, more: &[&str]| {
        let media = ["restore", "--json", "--medium", "second", "medium", "--to", to];
        std::fs::create_dir_all(bench.path(to)).expect("make");
        let output = bench.run(&[&media, more].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        json(&output)["point"]["media"][0]
            .as_str()
            .expect("a medium")
            .to_owned()
    };
    assert!(restore("newest", &[]).ends_with("second"));
    assert!(bench.path("newest/only there").is_file());
    assert!(restore("then", &["--at", "mark:second"]).ends_with("medium"));
    assert_eq!(std::fs::read(file(&bench.path("then"))).expect("content"), b"TWO");

    let points = bench.run(&["points", "--medium", "medium", "second"]);
    let text = String::from_utf8_lossy(&points.stdout).into_owned();
    let media: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("volume "))
        .filter_map(|line| line.rsplit(['/', ' ']).next())
        .collect();
    assert_eq!(media, ["medium", "second"], "{text}");
    let verified = bench.run(&["verify", "--medium", "medium", "second"]);
    assert_eq!(verified.status.code(), Some(0));
}
