//! Journal to tree without a kernel: random operations are applied to a real directory and told to the journal at once;
//! what `replayer` restores, at every mark and at the end, by the fold and step by step, must be what the directory held.
//!
//! A failure prints its seed; `TAPEWORM_SEED=N` replays that one. Capture is not tested here: that needs a machine.

#![expect(clippy::unwrap_used, reason = "a test may end where its preparations fail")]

mod live;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use journal::record::{Continued, Op, Record};
use journal::store::{DirStore, Store};
use journal::{Label, VolumeInfo, Writer};
use tests::oracle::{Options, compare, digest};
use tests::random::Random;

use crate::live::Live;

/// Seeds of an ordinary run.
const SEEDS: std::ops::Range<u64> = 1..5;
/// Operations of one run.
const OPERATIONS: u32 = 400;
/// A mark each so many operations.
const MARK_EVERY: u32 = 80;
/// A new epoch each so many operations.
const EPOCH_EVERY: u32 = 130;

#[test]
fn restored_tree_is_the_live_tree() {
    match std::env::var("TAPEWORM_SEED") {
        Ok(seed) => round(seed.parse().unwrap()),
        // At once: most of the time is waiting for syncs.
        Err(_) => std::thread::scope(|scope| {
            for seed in SEEDS {
                scope.spawn(move || round(seed));
            }
        }),
    }
}

fn round(seed: u64) {
    let place = tempfile::tempdir().unwrap();
    let [tree, medium] = ["tree", "medium"].map(|name| {
        let path = place.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    });
    let mut live = Live::new(&tree, Random::new(seed));
    live.base();
    let mut digests = Vec::new();
    for number in 1..=OPERATIONS {
        live.step();
        if number % MARK_EVERY == 0 {
            let name = format!("m{number}");
            live.mark(&name);
            digests.push((format!("mark:{name}"), digest_of(&tree)));
        }
        if number % EPOCH_EVERY == 0 {
            live.epoch();
        }
    }
    digests.push(("latest".to_owned(), digest_of(&tree)));
    write_journal(&medium, &mut live);
    for (point, expected) in &digests {
        // What is left of all records, every record one by one, and the first again: the same tree each time.
        for more in [&[][..], &["--stepwise"], &[]] {
            let target = place.path().join("restored");
            std::fs::create_dir(&target).unwrap();
            restore(&medium, &target, point, more, seed);
            let result = compare(&expected[..], &digest_of(&target)[..], Options::default()).unwrap();
            assert!(
                result.entries > 5,
                "seed {seed}: the tree is too small to tell anything"
            );
            assert!(
                result.differing == 0,
                "TAPEWORM_SEED={seed}, {point} {more:?}: {} differences (live, restored): {:#?}",
                result.differing,
                result.differences
            );
            std::fs::remove_dir_all(&target).unwrap();
        }
    }
}

fn digest_of(tree: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    digest(tree, &HashSet::new(), &mut out).unwrap();
    out
}

/// Writes what was told in the order of its sequence numbers, cut into segments anywhere.
fn write_journal(medium: &Path, live: &mut Live) {
    let store: Arc<dyn Store> = Arc::new(DirStore::open(medium).unwrap());
    Label::ensure(&*store, b"no replayer", 0).unwrap();
    let volume = VolumeInfo {
        uuid: "00000000-0000-4000-8000-000000000001".to_owned(),
        fs_type: "ext4".to_owned(),
        block_size: 4096,
        size_bytes: 1 << 30,
        root: live.root_key(),
        mount_path: "/origin".to_owned(),
        hostname: "model".to_owned(),
        ..VolumeInfo::default()
    };
    let mut writer = Writer::open(Arc::clone(&store), volume.clone()).unwrap();
    let mut records: Vec<Record> = std::mem::take(&mut live.records);
    records.sort_by_key(|record| record.seq);
    let mut last_seq = 0;
    for record in &mut records {
        if let Op::BaseBegin {
            continues: Some(continued),
        } = &mut record.op
        {
            writer.seal().unwrap();
            *continued = Continued {
                epoch: writer.epoch(),
                seq: last_seq,
            };
            writer = Writer::open(Arc::clone(&store), volume.clone()).unwrap();
        }
        writer.push(record).unwrap();
        last_seq = record.last_seq;
        if live.random.below(100) == 0 {
            writer.seal().unwrap();
        }
    }
    writer.seal().unwrap();
}

fn restore(medium: &Path, target: &Path, point: &str, more: &[&str], seed: u64) {
    let mut command = Command::new(replayer());
    command
        .arg("restore")
        .arg("--medium")
        .arg(medium)
        .arg("--to")
        .arg(target)
        .args(more);
    if point != "latest" {
        command.args(["--at", point]);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "TAPEWORM_SEED={seed}, {point} {more:?}: replayer ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The binary beside this test's own.
fn replayer() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().and_then(Path::parent).unwrap().join("replayer");
    assert!(
        path.is_file(),
        "{} is missing: run `cargo xtask test`, which builds it",
        path.display()
    );
    path
}
