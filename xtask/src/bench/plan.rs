//! Planning: how fast records are folded, and how much memory the plan of many takes.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::Setting;
use super::arms::{Arm, Turns, timed};
use super::figure::{Figure, Limit};
use super::made::Past;
use super::page::Measured;
use crate::setup::{self, say};
use crate::{build, toolchain};

/// Records in one iteration of the benchmarks in `journal/benches/journal.rs`.
const FOLD_RECORDS: f64 = 400_000.0;
const RECORDS_PER_SECOND: f64 = 2_000_000.0;

/// What Criterion keeps of each sample.
#[derive(Deserialize)]
struct Samples {
    iters: Vec<f64>,
    /// Nanoseconds.
    times: Vec<f64>,
}

/// `cargo bench -p journal`, and what Criterion wrote down.
pub(super) fn measure_fold(bench: &Setting) -> Result<Measured> {
    let mut cmd = toolchain::cargo();
    cmd.current_dir(setup::workspace_root())
        .args(["bench", "--quiet", "--package", "journal", "--bench", "journal"])
        .args(["--", "fold/"]);
    if bench.small {
        cmd.args(["--warm-up-time", "1", "--measurement-time", "1"]);
    }
    setup::run(&mut cmd)?;
    let mut figures = Vec::new();
    for (name, limit) in [
        ("apply", Limit::AtLeast(RECORDS_PER_SECOND)),
        ("read and apply", Limit::AtLeast(RECORDS_PER_SECOND)),
    ] {
        let file = build::target_dir()
            .join("criterion/fold")
            .join(name)
            .join("new/sample.json");
        let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let Samples { iters, times } =
            serde_json::from_slice(&text).with_context(|| format!("parse {}", file.display()))?;
        let rates = iters
            .iter()
            .zip(&times)
            .map(|(iters, ns)| iters * FOLD_RECORDS / (ns / 1e9));
        figures.push(Figure::new(
            &format!("records a second on one core, {name}"),
            limit,
            rates.collect(),
        ));
    }
    let notes = vec![
        "`apply`: the fold itself, of records in memory. `read and apply`: read from segments in memory, hashed, unpacked and decoded, too"
            .to_owned(),
        "repeat with `cargo bench -p journal`".to_owned(),
    ];
    Measured::new(figures, None, notes)
}

/// `replayer plan` of a journal of many records.
pub(super) fn measure_plan(bench: &Setting) -> Result<Measured> {
    // So little data that the disk need not hold what ten million records usually write.
    let small = |overwrites, large_bytes| Past {
        small_bytes_max: 256,
        piece_bytes_max: 64,
        order: "mixed",
        ..Past::of(if bench.small { 1000 } else { 100_000 }, large_bytes, overwrites)
    };
    let (overwritten, kept) = if bench.small {
        (small(9, 1 << 20), small(0, 4 << 20))
    } else {
        (small(9, 56 << 20), small(0, 632 << 20))
    };
    let work = bench.work_dir()?;
    let (mut notes, mut media) = (Vec::new(), Vec::new());
    for (name, past) in [("overwritten", overwritten), ("kept", kept)] {
        let medium = work.path().join(name);
        let made = past.make(bench, &medium, None, false)?;
        say(&made.text());
        ensure!(
            bench.small || made.records >= 10_000_000,
            "only {} records were made",
            made.records
        );
        notes.push(format!("{name}: {}: `{}`", made.text(), past.command()));
        media.push((name, made.records, medium));
    }
    let mut arms: Vec<Arm<'_>> = media
        .iter()
        .map(|(name, _, medium)| Arm {
            name,
            run: Box::new(move |_| {
                let mut cmd = Command::new(bench.bin_dir.join("replayer"));
                cmd.arg("plan").arg("--medium").arg(medium);
                timed(&cmd, None)
            }),
        })
        .collect();
    let turns = Turns::run(&mut arms, bench.pairs)?;
    drop(arms);
    let mut figures = Vec::new();
    for ((name, taken), (_, records, _)) in turns.taken.iter().zip(&media) {
        let what = if *name == "overwritten" {
            "every byte written 10 times"
        } else {
            "nothing overwritten, so that every record stays"
        };
        figures.push(Figure::new(
            &format!("peak memory of `replayer plan`, MiB: {what}"),
            Limit::AtMost(1024.0),
            taken.iter().map(|taken| taken.peak_kib / 1024.0).collect(),
        ));
        figures.push(Figure::new(
            &format!("records a second of processor time, `replayer plan`: {what}"),
            Limit::None,
            taken
                .iter()
                .map(|taken| *records as f64 / taken.cpu_seconds)
                .collect(),
        ));
    }
    Measured::new(figures, Some(&turns), notes)
}
