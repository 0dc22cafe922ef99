//! Looking into the past: the tree of a moment without restoring it, and what happened to a path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Output;

use journal::record::{Attributes, Op};
use serde_json::Value;

use crate::bench::{
    Bench, DIR, FILE, base, create, dir, entry, json, key, mark, record, rename, story, story_with_a_hole,
    write,
};

fn text(output: &Output) -> String {
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command with a path as raw bytes.
fn look(bench: &Bench, command: &str, more: &[&str], path: &[u8]) -> Output {
    let mut args: Vec<&OsStr> = [command, "--medium", "medium"].map(OsStr::new).to_vec();
    args.extend(more.iter().map(OsStr::new));
    args.extend([OsStr::new("--"), OsStr::from_bytes(path)]);
    bench.run(&args)
}

fn failed(output: &Output, code: i32, word: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(word), "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_tree_is_listed_and_searched() {
    let bench = Bench::new(&story());
    let root = text(&look(&bench, "ls", &[], b"/"));
    let lines: Vec<&str> = root.lines().collect();
    assert_eq!(lines.len(), 2, "{root}");
    assert!(
        lines[0].starts_with("-rw-r--r--   2 ") && lines[0].ends_with(" again"),
        "{root}"
    );
    assert!(
        lines[1].starts_with("drwxr-xr-x   1 ") && lines[1].ends_with(" d\\xff\\x0a"),
        "{root}"
    );
    let before = text(&look(&bench, "ls", &["--at", "mark:first", "-R"], b""));
    assert_eq!(before.lines().count(), 3, "{before}");
    assert!(
        before.contains(" 100003 ") && !before.contains("again"),
        "{before}"
    );

    let listed = json(&look(&bench, "ls", &["--json"], b"d\xff\n/f"));
    assert_eq!(listed["entries"][0]["name"], "f");
    assert_eq!(
        (&listed["entries"][0]["size"], &listed["entries"][0]["links"]),
        (&3.into(), &2.into())
    );
    assert_eq!(listed["point"]["seq"], 13);

    let found = text(&look(&bench, "find", &["--type", "f"], b"/"));
    assert_eq!(found, "/again\n/d\\xff\\x0a/f\n");
    assert_eq!(text(&look(&bench, "find", &["--name", "a*n"], b"")), "/again\n");
    assert_eq!(text(&look(&bench, "find", &[], b"d\xff\n/f")), "/d\\xff\\x0a/f\n");

    failed(
        &look(&bench, "ls", &["--at", "seq:5"], b"/again"),
        1,
        "no such name",
    );
    failed(&look(&bench, "ls", &[], b"/again/x"), 1, "no directory");
    failed(&look(&bench, "ls", &[], b"/d/../x"), 2, "..");
    failed(&look(&bench, "find", &["--name", "["], b""), 2, "--name");
}

#[test]
fn content_comes_out_as_it_was() {
    let bench = Bench::new(&story());
    assert_eq!(look(&bench, "cat", &[], b"/again").stdout, b"TWO");
    let old = look(&bench, "cat", &["--at", "mark:first"], b"d\xff\n/f").stdout;
    assert_eq!(
        (old.len(), &old[..9], &old[100_000..]),
        (100_003, b"one, long".as_slice(), b"far".as_slice())
    );
    assert!(old[9..100_000].iter().all(|byte| *byte == 0));
    failed(&look(&bench, "cat", &[], b"/"), 1, "a directory");
    failed(
        &look(&bench, "cat", &["--at", "mark:first"], b"/again"),
        1,
        "no such name",
    );
}

fn lines(output: &Output) -> Vec<(u64, String, Value)> {
    text(output)
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).expect("JSON");
            let seq = row["seq"].as_u64().expect("a number");
            let names = row.get("names").cloned().unwrap_or_else(|| "-".into());
            (seq, row["op"].as_str().expect("text").to_owned(), names)
        })
        .collect()
}

#[test]
fn a_path_is_followed_through_everything_that_it_named() {
    let bench = Bench::new(&story());
    let said = lines(&look(&bench, "history", &["--json-lines"], b"d\xff\n/f"));
    let seqs: Vec<u64> = said.iter().map(|(seq, ..)| *seq).collect();
    assert_eq!(seqs, [6, 7, 8, 10, 11, 12], "{said:?}");
    assert_eq!((&said[0].1, &said[0].2), (&"create".to_owned(), &"3/1".into()));
    let people = text(&look(&bench, "history", &[], b"/again"));
    assert!(
        people.contains("link") && people.contains("names inode 3/1 from here"),
        "{people}"
    );
    failed(&look(&bench, "history", &[], b"/never"), 1, "no such name");

    // A file saved by another one in its place, below a directory that is renamed away and back, and deleted.
    let mut story = base();
    story.extend([
        create(5, 2, DIR, 1, b"d"),
        create(6, 3, FILE, 2, b"f"),
        create(7, 4, FILE, 2, b"new"),
        write(8, 4, 0, b"new"),
        rename(9, 4, (2, b"new"), (2, b"f")),
        write(10, 3, 0, b"unseen"),
        rename(11, 2, (1, b"d"), (1, b"e")),
        write(12, 4, 0, b"elsewhere"),
        rename(13, 2, (1, b"e"), (1, b"d")),
        record(
            14,
            key(4),
            Attributes::default(),
            Op::Unlink {
                entry: entry(2, b"f"),
                dir: dir(),
            },
        ),
        mark(15, "end"),
    ]);
    let bench = Bench::new(&[story]);
    let said = lines(&look(&bench, "history", &["--json-lines"], b"/d/f"));
    let told: Vec<(u64, Value)> = said.into_iter().map(|(seq, _, names)| (seq, names)).collect();
    assert_eq!(
        told,
        [
            (6, "3/1".into()),
            (9, "4/1".into()),
            (11, Value::Null),
            (13, "4/1".into()),
            (14, Value::Null)
        ]
    );
}

#[test]
fn two_moments_are_compared() {
    let bench = Bench::new(&story());
    let output = bench.run(&["diff", "--medium", "medium", "mark:first", "mark:second"]);
    assert_eq!(text(&output), "+ /again\n! /d\\xff\\x0a/f (content)\n");
    let output = bench.run(&[
        "diff",
        "--medium",
        "medium",
        "mark:second",
        "mark:second",
        "--json",
    ]);
    assert_eq!(json(&output)["differences"], Value::Array(Vec::new()));

    let mut story = base();
    story.extend([
        create(5, 2, DIR, 1, b"d"),
        create(6, 3, FILE, 2, b"same"),
        write(7, 3, 0, b"same"),
        create(8, 4, FILE, 2, b"old"),
        create(9, 5, FILE, 2, b"gone"),
        mark(10, "a"),
        write(11, 3, 0, b"same"),
        rename(12, 4, (2, b"old"), (1, b"new")),
        rename(13, 5, (2, b"gone"), (2, b"same")),
        mark(14, "b"),
    ]);
    let bench = Bench::new(&[story]);
    let said = text(&bench.run(&["diff", "--medium", "medium", "seq:7", "seq:11"]));
    assert!(
        !said.contains("/d/same"),
        "written over with the same bytes: {said}"
    );
    let said = text(&bench.run(&["diff", "--medium", "medium", "mark:a", "mark:b"]));
    assert!(said.contains("> /d/old -> /new\n"), "{said}");
    assert!(said.contains("! /d/same (replaced, content"), "{said}");
    assert!(said.contains("- /d/gone\n"), "{said}");
}

/// What is refused before the kernel is asked for anything; the rest needs one (`tests/scenarios/mount.sh`).
#[test]
fn a_mount_that_cannot_be_is_refused() {
    let bench = Bench::new(&story_with_a_hole());
    std::fs::create_dir(bench.path("empty")).expect("make");
    for (more, directory, code, word) in [
        ([].as_slice(), "none", 1, "is not there: make it"),
        (&[], "medium", 1, "is not empty"),
        (&["--at", "mark:none"], "empty", 1, "no mark"),
        (&["--at", "whenever"], "empty", 2, "--at"),
        (&["--cache-mib", "159"], "empty", 2, "--cache-mib"),
        (&["--volume", "none"], "empty", 10, "none"),
        (&[], "empty", 31, "14 to 16"),
    ] {
        let directory = bench.path(directory);
        failed(
            &look(&bench, "mount", more, directory.as_os_str().as_bytes()),
            code,
            word,
        );
    }
    let file = bench.path("file");
    std::fs::write(&file, b"").expect("write");
    failed(
        &look(&bench, "mount", &[], file.as_os_str().as_bytes()),
        1,
        "is no directory",
    );
}
