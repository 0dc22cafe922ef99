//! `cargo xtask test --soak`: many seeds of the generator on every kernel and file system; `cargo xtask vm random`: one.
//!
//! Owns which seed runs where, and the log of the results. How a boot is made and judged is in `boot`, how a run that
//! differs is cut down in `shrink`.

mod boot;
mod shrink;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use self::boot::{Boot, Cell, Job, Size, Verdict};
use crate::check::Cells;
use crate::vm::kernel::KernelLine;
use crate::vm::roundtrip::FileSystem;
use crate::{Outcome, setup};

/// Results, a line for each seed; the run appends to it.
const LOG: &str = "tests/soak.log";
/// Runs of one boot, at most.
const PER_BOOT_MAX: usize = 30;
/// Differences that are shown of one run.
const DIFFERENCES_SHOWN: usize = 12;

/// Arguments of `cargo xtask test --soak`.
#[derive(Args)]
pub(crate) struct SoakArgs {
    /// Seeds in all, spread over the kernels and file systems
    #[arg(long, default_value_t = 207, requires = "soak")]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1, requires = "soak")]
    first_seed: u64,
    #[command(flatten)]
    size: Size,
    /// Cut a run that differs down to few operations
    #[arg(long, requires = "soak")]
    shrink: bool,
    /// Round trips that cutting down may take, for each run
    #[arg(long, default_value_t = 10, requires = "soak")]
    boots: usize,
}

/// Arguments of `cargo xtask vm random`.
#[derive(Args)]
pub(crate) struct RandomArgs {
    /// Kernel of both machines
    #[arg(long, value_enum)]
    kernel: KernelLine,
    /// File system to record
    #[arg(long, value_enum)]
    fs: FileSystem,
    /// What everything is drawn from
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    size: Size,
    /// Only the operations that this file names, `THREAD INDEX` on a line
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Times that the run is repeated, each in a directory of its own
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// Let all threads rest after so many operations of each, and set a mark
    #[arg(long, value_name = "M")]
    mark_every: Option<u32>,
    /// Cut the run down to few operations when it differs
    #[arg(long, conflicts_with = "plan")]
    shrink: bool,
    /// Round trips that cutting down may take
    #[arg(long, default_value_t = 10)]
    boots: usize,
}

/// Runs `cargo xtask test --soak`.
pub(crate) fn run(args: SoakArgs, only: &Cells) -> Outcome {
    let SoakArgs {
        seeds,
        first_seed,
        size,
        shrink,
        boots,
    } = args;
    let cells = cells(&only.kernel, &only.fs);
    let (mut same, mut bad) = (0, 0);
    for (number, cell) in (0..).zip(&cells) {
        let own: Vec<u64> = (first_seed..first_seed.saturating_add(seeds))
            .filter(|seed| (seed - first_seed) % cells.len() as u64 == number)
            .collect();
        for part in own.chunks(PER_BOOT_MAX) {
            let differing = soak_boot(*cell, part, &size)?;
            bad += differing.len();
            same += part.len() - differing.len();
            for seed in differing.into_iter().filter(|_| shrink) {
                tell_smallest(*cell, seed, &size, boots)?;
            }
        }
    }
    println!("{same} seeds SAME, {bad} not");
    Ok(if bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs `cargo xtask vm random`.
pub(crate) fn random(args: RandomArgs) -> Outcome {
    let RandomArgs {
        kernel,
        fs,
        seed,
        size,
        plan,
        times,
        mark_every,
        shrink,
        boots,
    } = args;
    ensure!(
        (1..=PER_BOOT_MAX).contains(&times),
        "--times: 1 to {PER_BOOT_MAX}"
    );
    let cell = Cell { kernel, fs };
    if shrink {
        tell_smallest(cell, seed, &size, boots)?;
        return Ok(ExitCode::FAILURE);
    }
    let plan = plan
        .map(|path| std::fs::read_to_string(&path).with_context(|| format!("read plan {}", path.display())))
        .transpose()?
        .map(|text| parse_plan(&text))
        .transpose()?;
    let jobs: Vec<Job> = (1..=times)
        .map(|number| Job {
            name: format!("seed-{seed}-run-{number}"),
            seed,
            plan: plan.clone(),
            mark_every,
        })
        .collect();
    let keep = keep_dir(cell, &format!("seed-{seed}"))?;
    let Boot {
        report,
        verdicts,
        complaints,
    } = boot::boot(cell, &jobs, &size, &keep)?;
    let mut good = complaints.is_empty();
    for (job, verdict) in jobs.iter().zip(&verdicts) {
        good &= *verdict == Verdict::Same;
        println!("{}: {}", job.name, verdict_text(verdict));
    }
    complaints
        .iter()
        .for_each(|complaint| println!("{}", shown(complaint)));
    if good {
        let (entries, bytes) = report.size();
        println!("SAME {entries} {bytes}");
        return Ok(ExitCode::SUCCESS);
    }
    setup::say(&format!("digests and traces are in {}", keep.display()));
    Ok(ExitCode::FAILURE)
}

/// Every kernel with every file system, as far as they are wanted.
fn cells(kernels: &[KernelLine], systems: &[FileSystem]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for kernel in [KernelLine::K6_12, KernelLine::K6_1, KernelLine::K7_3] {
        for fs in [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs] {
            if (kernels.is_empty() || kernels.contains(&kernel))
                && (systems.is_empty() || systems.contains(&fs))
            {
                cells.push(Cell { kernel, fs });
            }
        }
    }
    cells
}

/// Where a boot leaves what is worth looking at.
fn keep_dir(cell: Cell, what: &str) -> Result<PathBuf> {
    let all = setup::workspace_root().join("target/soak");
    std::fs::create_dir_all(&all).with_context(|| format!("create {}", all.display()))?;
    Ok(all.join(format!("{}-{}-{what}", cell.kernel, cell.fs)))
}

/// Runs some seeds in one boot, logs each, and returns those that are not the same.
fn soak_boot(cell: Cell, seeds: &[u64], size: &Size) -> Result<Vec<u64>> {
    let jobs: Vec<Job> = seeds
        .iter()
        .enumerate()
        .map(|(number, seed)| Job {
            name: format!("seed-{seed}"),
            seed: *seed,
            plan: None,
            // One mark in the middle of a run, one at its end, in one run of a boot: every mark costs a restore.
            mark_every: (number == seeds.len() / 2).then_some(size.ops.div_ceil(2)),
        })
        .collect();
    let first = seeds.first().copied().unwrap_or(0);
    let keep = keep_dir(cell, &format!("from-{first}"))?;
    // Of what is built now, not of what lies there when the boot has ended.
    let commit = commit(&setup::workspace_root())?;
    let lines: Vec<(u64, String)> = match boot::boot(cell, &jobs, size, &keep) {
        Ok(boot) => jobs
            .iter()
            .zip(&boot.verdicts)
            .map(|(job, verdict)| (job.seed, result_text(verdict, &boot.complaints)))
            .collect(),
        Err(error) => seeds
            .iter()
            .map(|seed| (*seed, format!("FAILED {}", shown(&format!("{error:#}")))))
            .collect(),
    };
    append_to_log(cell, size, &commit, &lines)?;
    let bad = lines.into_iter().filter(|(_, result)| result != "SAME");
    Ok(bad.map(|(seed, _)| seed).collect())
}

/// A seed is the same only in a boot of which there is nothing to complain.
fn result_text(verdict: &Verdict, complaints: &[String]) -> String {
    match (verdict, complaints.first()) {
        (Verdict::Same, Some(complaint)) => format!("FAILED {}", shown(complaint)),
        _ => verdict_text(verdict),
    }
}

fn verdict_text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Same => "SAME".into(),
        Verdict::Different(differences) => format!(
            "DIFFERENT {} {}",
            differences.len(),
            shown(differences.first().map_or("", String::as_str))
        ),
    }
}

/// Shortened to a part of a line.
fn shown(text: &str) -> String {
    let line = text.replace('\n', " ");
    match line.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// Appends a line for each seed to the log, and prints it.
fn append_to_log(cell: Cell, size: &Size, commit: &str, results: &[(u64, String)]) -> Result<()> {
    let path = setup::workspace_root().join(LOG);
    let date = setup::output(Command::new("date").args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"]))?;
    let mut skipped = size.skip_ops.join(",");
    if !skipped.is_empty() {
        skipped = format!(" without {skipped}");
    }
    if size.steps {
        skipped.push_str(" steps");
    }
    let mut text = String::new();
    for (seed, result) in results {
        text.push_str(&format!(
            "{} {commit} {} {} seed {seed} threads {} ops {}{skipped} {result}\n",
            date.trim(),
            cell.kernel,
            cell.fs,
            size.threads,
            size.ops
        ));
    }
    print!("{text}");
    let mut log = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    log.write_all(text.as_bytes())
        .with_context(|| format!("write {}", path.display()))
}

/// The commit that is tried, with a mark when the work tree holds anything else (besides the log itself).
fn commit(root: &Path) -> Result<String> {
    let git = |args: &[&str]| setup::output(Command::new("git").current_dir(root).args(args));
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--", ".", &format!(":!{LOG}")])?;
    Ok(format!(
        "{}{}",
        commit.trim(),
        if changed.trim().is_empty() { "" } else { "+" }
    ))
}

/// Cuts a run down and tells what is left, and how to see it again.
fn tell_smallest(cell: Cell, seed: u64, size: &Size, boots: usize) -> Result<()> {
    let keep = keep_dir(cell, &format!("shrink-{seed}"))?;
    let Some(smallest) = shrink::shrink(cell, seed, size, boots, &keep)? else {
        println!(
            "seed {seed} on {}, {}: does not differ again",
            cell.kernel, cell.fs
        );
        return Ok(());
    };
    let path = keep_dir(cell, &format!("{seed}.plan"))?;
    std::fs::write(&path, boot::plan_text(&smallest.plan))
        .with_context(|| format!("write {}", path.display()))?;
    println!(
        "seed {seed} on {}, {}: {} operations are left",
        cell.kernel,
        cell.fs,
        smallest.plan.len()
    );
    if smallest.plan.len() <= 40 {
        print!("{}", boot::plan_text(&smallest.plan));
    }
    for line in smallest.differences.iter().take(DIFFERENCES_SHOWN) {
        println!("  {line}");
    }
    let skip = if size.skip_ops.is_empty() {
        String::new()
    } else {
        format!(" --skip-ops {}", size.skip_ops.join(","))
    };
    println!(
        "see it again: cargo xtask vm random --seed {seed} --kernel {} --fs {} --threads {} --ops {}{skip} --plan {}",
        cell.kernel,
        cell.fs,
        size.threads,
        size.ops,
        path.display()
    );
    Ok(())
}

/// Reads a plan, `THREAD INDEX` on a line.
fn parse_plan(text: &str) -> Result<boot::Plan> {
    text.lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split_whitespace().map_while(|word| word.parse().ok());
            words
                .next()
                .zip(words.next())
                .with_context(|| format!("understand line {line:?} of the plan"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_nine_cells() {
        assert_eq!(cells(&[], &[]).len(), 9);
        assert_eq!(cells(&[KernelLine::K6_1], &[FileSystem::Xfs]).len(), 1);
    }

    #[test]
    fn a_boot_with_a_complaint_has_no_good_seed() {
        assert_eq!(result_text(&Verdict::Same, &[]), "SAME");
        let complaint = ["1 holes are open".to_owned()];
        assert_eq!(result_text(&Verdict::Same, &complaint), "FAILED 1 holes are open");
        let different = Verdict::Different(vec!["final: f: content".into()]);
        assert_eq!(result_text(&different, &[]), "DIFFERENT 1 final: f: content");
    }

    #[test]
    fn plans_are_read() {
        assert_eq!(parse_plan("0 1 open\n# no\n\n2 3\n").unwrap(), [(0, 1), (2, 3)]);
        assert!(parse_plan("0\n").is_err());
    }
}
