//! Folds that need more memory than they may take: they go on on a disk, and make the same of the journal.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use journal::record::{Attributes, Op, Record};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::bench::{Bench, DIR, FILE, base, create, dir, entry, json, key, record, write};

/// Inodes without a name.
const GHOSTS: u64 = 20_000;
const SYMLINK: u32 = 0o120_777;
/// Private memory of a replayer that folds [`crowd`] is less than that if it spills, and more if it does not.
const DATA_BYTES_MAX: u64 = 48 << 20;
/// What makes it spill nearly everything, to a directory on a disk.
const SPILLING: [&str; 4] = ["--memory-max", "1M", "--spill-dir", "/var/tmp"];

/// A journal that is folded to much memory and restored to few names: symbolic links that were removed while somebody had them open, then some that
/// stay, hard links, and files that are written bit by bit.
fn crowd() -> Vec<Vec<Record>> {
    let mut records = base();
    let mut next = 5..;
    let mut seq = || next.next().expect("endless");
    let symlink = |seq, ino: u64, directory, name: &str| {
        let mut link = create(seq, ino, SYMLINK, directory, name.as_bytes());
        if let Op::Create { link_target, .. } = &mut link.op {
            *link_target = Some(format!("{ino:01800}").into_bytes());
        }
        link
    };
    for ino in 10_000..10_000 + GHOSTS {
        records.push(symlink(seq(), ino, 1, "ghost"));
        let op = Op::Unlink {
            entry: entry(1, b"ghost"),
            dir: dir(),
        };
        records.push(record(seq(), key(ino), Attributes::default(), op));
    }
    let directories = 100..110;
    for directory in directories.clone() {
        let name = format!("directory {directory}");
        records.push(create(seq(), directory, DIR, 1, name.as_bytes()));
    }
    for (ino, directory) in (1000..2000).zip(directories.clone().cycle()) {
        let name = format!("name {ino}");
        if ino % 2 > 0 {
            records.push(symlink(seq(), ino, directory, &name));
            continue;
        }
        records.push(create(seq(), ino, FILE, directory, name.as_bytes()));
        for offset in [0, 5, 100_000] {
            records.push(write(seq(), ino, offset, &ino.to_le_bytes()));
        }
        let op = Op::Link {
            entry: entry(1, format!("{ino:0200}").as_bytes()),
            dir: dir(),
        };
        records.push(record(seq(), key(ino), Attributes::default(), op));
    }
    vec![records]
}

/// Runs the replayer where it may not have as much private memory (mapped files do not count), nor write files as long.
fn run_within(bench: &Bench, data_bytes: Option<u64>, file_bytes: Option<u64>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replayer"));
    command.current_dir(bench.path("")).args(args);
    let limit = |resource, bytes: Option<u64>| match bytes {
        Some(bytes) => setrlimit(
            resource,
            Rlimit {
                current: Some(bytes),
                maximum: Some(bytes),
            },
        ),
        None => Ok(()),
    };
    let limits = move || {
        // A process that is aborted here is none to look at afterwards.
        limit(Resource::Core, Some(0))?;
        limit(Resource::Data, data_bytes)?;
        limit(Resource::Fsize, file_bytes)?;
        Ok(())
    };
    // SAFETY: between fork and exec there are system calls only.
    unsafe { command.pre_exec(limits) };
    command.output().expect("run")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What was restored: of each path its mode, links, size and time, and what is in it.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, u64, u64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let there = path.symlink_metadata().expect("there");
            let content = if there.is_dir() {
                waiting.push(path.clone());
                Vec::new()
            } else if there.is_symlink() {
                fs::read_link(&path)
                    .expect("a link")
                    .into_os_string()
                    .into_encoded_bytes()
            } else {
                fs::read(&path).expect("content")
            };
            let name = path.strip_prefix(root).expect("below").to_owned();
            found.insert(
                name,
                (there.mode(), there.nlink(), there.size(), there.mtime(), content),
            );
        }
    }
    found
}

#[test]
fn a_fold_without_memory_makes_the_same() {
    let bench = Bench::new(&crowd());
    let plan = ["plan", "--json", "--medium", "medium"];
    let find = ["find", "--json", "--medium", "medium"];
    let restore = |to| ["restore", "--json", "--medium", "medium", "--to", to];
    for command in [&plan[..], &find] {
        let free = bench.run(command);
        assert_eq!(free.status.code(), Some(0), "{}", said(&free));
        assert!(!said(&free).contains("--memory-max"), "{}", said(&free));
        let spilled = run_within(&bench, Some(DATA_BYTES_MAX), None, &[command, &SPILLING].concat());
        assert_eq!(spilled.status.code(), Some(0), "{}", said(&spilled));
        assert_eq!(spilled.stdout, free.stdout);
        assert_eq!(
            said(&spilled).matches("in an unnamed file in /var/tmp").count(),
            1
        );
    }
    assert_eq!(bench.run(&restore("free")).status.code(), Some(0));
    let spilled = run_within(
        &bench,
        Some(DATA_BYTES_MAX),
        None,
        &[&restore("spilled")[..], &SPILLING].concat(),
    );
    assert_eq!(spilled.status.code(), Some(0), "{}", said(&spilled));
    let made = tree(&bench.path("spilled"));
    assert_eq!(made.len(), 10 + 1000 + 500);
    assert!(made == tree(&bench.path("free")), "the trees differ");

    // It is the file that makes it possible: where all of it stays in memory, that is too little.
    let heap = [
        &restore("to")[..],
        &["--memory-max", "1T", "--spill-dir", "/dev/shm"],
    ]
    .concat();
    let failed = run_within(&bench, Some(DATA_BYTES_MAX), None, &heap);
    assert_eq!(failed.status.signal(), Some(6), "{}", said(&failed));
    assert!(bench.is_untouched());
}

#[test]
fn what_lies_in_memory_is_no_place_to_spill_to() {
    let bench = Bench::new(&crowd());
    let plan = ["plan", "--medium", "medium"];
    let in_memory = bench.run(&[&plan[..], &["--memory-max", "1M", "--spill-dir", "/dev/shm"]].concat());
    assert_eq!(in_memory.status.code(), Some(0), "{}", said(&in_memory));
    assert_eq!(in_memory.stdout, bench.run(&plan).stdout);
    let warned = "cannot go on in /dev/shm: it lies in memory itself";
    assert_eq!(
        said(&in_memory).matches(warned).count(),
        1,
        "{}",
        said(&in_memory)
    );
    assert!(said(&in_memory).contains("--spill-dir names a directory on a disk"));
}

/// The first growth fails, or a later one, when something that cannot wait may be asked for.
#[test]
fn a_full_disk_is_an_error_and_nothing_is_written() {
    let bench = Bench::new(&crowd());
    for file_bytes in [1 << 20, 17 << 20, 33 << 20] {
        let args = [
            &["restore", "--json", "--medium", "medium", "--to", "to"][..],
            &SPILLING,
        ]
        .concat();
        let full = run_within(&bench, None, Some(file_bytes), &args);
        assert_eq!(full.status.code(), Some(1), "{:?} {}", full.status, said(&full));
        assert_eq!(json(&full)["error"]["code"], 1);
        let message = json(&full)["error"]["message"].as_str().expect("text").to_owned();
        for words in [
            "in /var/tmp cannot grow",
            "File too large",
            "--spill-dir",
            "--memory-max",
        ] {
            assert!(
                message.contains(words) && said(&full).contains(words),
                "{message}"
            );
        }
        assert!(bench.is_untouched(), "something was written");
    }
}

#[test]
fn options_that_are_wrong() {
    let bench = Bench::new(&[base()]);
    fs::write(bench.path("file"), "x").expect("write");
    let wrong = [
        (&["--spill-dir", "nowhere"][..], "--spill-dir nowhere"),
        (&["--spill-dir", "file"], "--spill-dir file"),
        (&["--memory-max", "much"], "--memory-max"),
    ];
    for (more, words) in wrong {
        crate::bench::refused(&bench, more, 2, words);
    }
    // What does not fold has no such option.
    let output = bench.run(&["verify", "--medium", "medium", "--memory-max", "1G"]);
    assert_eq!(output.status.code(), Some(2));
}

/// The spilled file of a process, once it has begun to write to its stdout.
fn spilled_file(process: u32) -> PathBuf {
    let open = fs::read_dir(format!("/proc/{process}/fd")).expect("its files");
    let paths = open.map(|entry| entry.expect("a file").path());
    let is_spilled = |path: &PathBuf| {
        let there = fs::read_link(path).expect("a link");
        there.starts_with("/var/tmp") && there.to_string_lossy().ends_with("(deleted)")
    };
    paths.into_iter().find(is_spilled).expect("a file without a name")
}

/// A disk that fails below what was folded, which the kernel says by a signal.
#[test]
fn what_cannot_be_read_back_is_an_error() {
    let bench = Bench::new(&crowd());
    let mut command = Command::new(env!("CARGO_BIN_EXE_replayer"));
    let args = ["ls", "-R", "--medium", "medium"];
    command.current_dir(bench.path("")).args(args).args(SPILLING);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    let mut stdout = child.stdout.take().expect("a pipe");
    // More than the pipe holds is to come: it waits, folded.
    stdout.read_exact(&mut [0]).expect("its first byte");
    let file = spilled_file(child.id());
    assert!(
        File::open(&file)
            .expect("open")
            .metadata()
            .expect("its size")
            .len()
            > 0
    );
    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&file)
        .expect("truncate");
    stdout.read_to_end(&mut Vec::new()).expect("the rest");
    let mut said = String::new();
    child
        .stderr
        .take()
        .expect("a pipe")
        .read_to_string(&mut said)
        .expect("what it says");
    assert_eq!(child.wait().expect("its end").code(), Some(1), "{said}");
    assert!(
        said.contains("cannot be read or written there any more"),
        "{said}"
    );
}
