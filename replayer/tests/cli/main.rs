//! The built binary against journals written by `journal::Writer`: results, exit codes, and what it leaves untouched.

mod bench;
mod hostile;
mod media;
mod past;
mod spill;
mod stepwise;

use journal::record::{Attributes, Op};
use serde_json::Value;

use crate::bench::{
    Bench, DIR, FILE, UUID, base, create, dir, entry, file, json, key, mark, record, refused, story,
    story_with_a_hole,
};

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

    // A directory that is missing is made; not the whole way to it.
    let output = bench.run(&["restore", "--medium", "medium", "--to", "no/then"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!bench.path("no").exists());
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

/// Of the data of the first segment nothing is left at the end: its rot costs only the moments that need it.
#[test]
fn data_that_nothing_is_left_of_is_not_read() {
    let bench = Bench::new(&story());
    let planned = json(&bench.run(&["plan", "--medium", "medium", "--json"]));
    let manifest = std::fs::read(bench.segment(1, "manifest.json")).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let group = &manifest["row_groups"][0];
    let number = |value: &Value| usize::try_from(value.as_u64().expect("a number")).expect("small");
    let segment = bench.segment(1, "parquet");
    let mut bytes = std::fs::read(&segment).expect("read");
    let data = number(&group["offset"]) + number(&group["parts"]["metadata_bytes"]);
    bytes[data + 20] ^= 1;
    std::fs::remove_file(&segment).expect("remove");
    std::fs::write(&segment, bytes).expect("write");

    assert_eq!(
        bench.run(&["verify", "--medium", "medium"]).status.code(),
        Some(30)
    );
    assert_eq!(
        json(&bench.run(&["plan", "--medium", "medium", "--json"])),
        planned
    );
    assert_eq!(bench.restore(&[]).status.code(), Some(0));
    assert_eq!(std::fs::read(file(&bench.path("to"))).expect("content"), b"TWO");
    let args = [
        "restore",
        "--medium",
        "medium",
        "--to",
        "first",
        "--at",
        "mark:first",
    ];
    let output = bench.run(&args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(30), "{said}");
    assert!(
        said.contains("not complete") && said.contains("BLAKE3 of the data differs"),
        "{said}"
    );
}

/// What a plan says is what a restore then makes.
#[test]
fn a_plan_tells_what_a_restore_makes() {
    let bench = Bench::new(&story());
    let planned = json(&bench.run(&["plan", "--medium", "medium", "--json"]));
    let restored = json(&bench.restore(&[]));
    for what in ["entries", "inodes", "bytes", "complete"] {
        assert_eq!(planned[what], restored[what], "{what}");
    }
    assert_eq!(planned["point"]["seq"], 13);
    let number = |value: &Value| value.as_u64().expect("a number");
    let media = planned["media"].as_array().expect("a list");
    let all: u64 = media.iter().map(|medium| number(&medium["bytes"])).sum();
    assert_eq!(
        number(&planned["read_bytes"]) + number(&planned["not_read_bytes"]),
        all
    );
    assert!(number(&media[0]["data_bytes"]) > 0);

    let output = bench.run(&["plan", "--medium", "medium", "--at", "seq:4", "--rate", "1"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("0 (0 B) of data in 0 pieces"), "{text}");
    let output = bench.run(&["plan", "--medium", "medium", "--rate", "0"]);
    assert_eq!(output.status.code(), Some(2));
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
fn several_volumes_and_none_named_is_wrong_usage() {
    const OTHER: &str = "fedcba98-0123-4567-89ab-cdef01234567";
    let bench = Bench::new(&story());
    bench.add_volume("medium", OTHER, 0, &[base()]);
    for uuid in [UUID, OTHER] {
        refused(&bench, &[], 2, uuid);
        let output = bench.run(&["dump", "--medium", "medium"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(uuid));
    }
    refused(&bench, &["--volume", "11111111"], 10, OTHER);
    assert_eq!(bench.restore(&["--volume", UUID]).status.code(), Some(0));
    // What speaks of all volumes needs no name.
    assert_eq!(
        bench.run(&["points", "--medium", "medium"]).status.code(),
        Some(0)
    );
}

#[test]
fn a_flipped_byte_of_metadata_is_found_before_anything_is_written() {
    let bench = Bench::new(&story());
    let segment = bench.segment(2, "parquet");
    let mut bytes = std::fs::read(&segment).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&segment).expect("remove");
    std::fs::write(&segment, bytes).expect("write");
    let verified = bench.run(&["verify", "--medium", "medium"]);
    assert_eq!(verified.status.code(), Some(30));
    let text = String::from_utf8_lossy(&verified.stdout).into_owned();
    // What it costs: numbers, what is left, and what can still be told of the files.
    for words in [
        "segment 2",
        "sequence numbers 10 to 13 of epoch 1",
        "moments up to seq 9",
    ] {
        refused(&bench, &[], 30, words);
        assert!(text.contains(words), "{text}");
    }
    let verified = json(&bench.run(&["verify", "--json", "--medium", "medium"]));
    let damage = &verified["volumes"][0]["damage"][0];
    assert_eq!(
        (
            &damage["first_seq"],
            &damage["last_seq"],
            &damage["whole_until_seq"]
        ),
        (&10.into(), &13.into(), &9.into())
    );
    assert_eq!(bench.restore(&["--at", "seq:9"]).status.code(), Some(0));
}

#[test]
fn a_lost_manifest_costs_numbers_and_names_files() {
    let bench = Bench::new(&story());
    std::fs::remove_file(bench.segment(1, "manifest.json")).expect("remove");
    let verified = json(&bench.run(&["verify", "--json", "--medium", "medium"]));
    let damage = &verified["volumes"][0]["damage"][0];
    assert_eq!(
        (
            &damage["first_seq"],
            &damage["last_seq"],
            &damage["records_readable"]
        ),
        (&0.into(), &9.into(), &9.into())
    );
    let files = damage["files"].to_string();
    assert!(files.contains(r"/d\\xff\\x0a/f"), "{files}");
}

/// A label is no part of any journal: without one a restore is refused, and can be had all the same.
#[test]
fn a_lost_label_is_said_and_can_be_done_without() {
    let bench = Bench::new(&story());
    std::fs::remove_file(bench.path("medium/tapeworm.label.json")).expect("remove");
    refused(&bench, &[], 30, "label");
    assert_eq!(
        bench.run(&["verify", "--medium", "medium"]).status.code(),
        Some(30)
    );
    assert_eq!(bench.restore(&["--without-label"]).status.code(), Some(0));
}

#[test]
fn missing_newest_segments_are_found_by_what_the_recorder_said() {
    let bench = Bench::new(&story());
    let verify = |durable: &str| {
        let output = bench.run(&["verify", "--medium", "medium", "--durable", durable]);
        output.status.code()
    };
    assert_eq!(
        (verify("1:13"), verify("1:14"), verify("2:1")),
        (Some(0), Some(30), Some(30))
    );
    refused(
        &bench,
        &["--durable", "1:14"],
        30,
        "the journal ends at epoch 1 seq 13",
    );
    refused(&bench, &["--durable", "14"], 2, "two numbers");
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
fn an_altered_manifest_is_no_manifest() {
    let bench = Bench::new(&story());
    let path = bench.segment(1, "manifest.json");
    let text = std::fs::read_to_string(&path)
        .expect("read")
        .replace("\"ext4\"", "\"ext3\"");
    std::fs::remove_file(&path).expect("remove");
    std::fs::write(&path, text).expect("write");
    refused(&bench, &[], 30, "not as it was sealed");
}

#[test]
fn an_open_hole_is_refused_unless_allowed() {
    let bench = Bench::new(&story_with_a_hole());
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
        let media = [
            "restore", "--json", "--medium", "second", "--medium", "medium", "--to", to,
        ];
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

    let points = bench.run(&["points", "--medium", "medium", "--medium", "second"]);
    let text = String::from_utf8_lossy(&points.stdout).into_owned();
    let media: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("volume "))
        .filter_map(|line| line.rsplit(['/', ' ']).next())
        .collect();
    assert_eq!(media, ["medium", "second"], "{text}");
    let verified = bench.run(&["verify", "--medium", "medium", "--medium", "second"]);
    assert_eq!(verified.status.code(), Some(0));
}
