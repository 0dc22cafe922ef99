//! `cargo xtask bench`: measures what is promised of speed and size, on this host, and writes it to `docs/benchmarks.md`.
//!
//! Owns which benchmarks there are, how large each is, and how often it is repeated. What each measures lies in a module of its own, how
//! arms are run and caches dropped in `arms`, how figures are judged in `figure`, how results are kept and shown in `page`.

mod arms;
mod blank;
mod figure;
mod length;
mod made;
mod others;
mod page;
mod plan;
mod restore;
mod size;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};

use self::page::Results;
use crate::Outcome;
use crate::build::{self, Profile};
use crate::setup::{self, say};

/// Turns of each arm: the fewest of which a 95 % interval can be told without assuming a distribution.
const PAIRS: u32 = 6;
/// The same with `--small`, of which nothing is told.
const PAIRS_SMALL: u32 = 1;

/// What the page says of programs that were not built for the run.
const GIVEN: &str = "the programs were built before and given by `--bin-dir`: the commit is that of the work tree, and need not be theirs";

/// Arguments of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Only this one
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Bench>,
    /// Turns of each arm; below 6 nothing can be reached
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pairs: Option<u32>,
    /// Small and quick, with programs that are not optimised: shows that all of it works, and writes no page
    #[arg(long)]
    small: bool,
    /// Measure the programs in this directory, and build none: which commit they are of is not known, and the page says so
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bench {
    /// A restore from a journal in which every byte was overwritten five times, against `cp -a`, restic and borg
    Restore,
    /// A restore from twenty times the history, against one from a history without overwriting
    Length,
    /// Records that are folded in a second on one core
    Fold,
    /// Memory that planning ten million records takes
    Plan,
    /// Bytes of a journal, against the written data compressed with `zstd -1`
    Size,
}

impl Bench {
    /// Its name, as in the results.
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn measure(self, bench: &Setting) -> Result<page::Measured> {
        match self {
            Self::Restore => restore::measure(bench),
            Self::Length => length::measure(bench),
            Self::Fold => plan::measure_fold(bench),
            Self::Plan => plan::measure_plan(bench),
            Self::Size => size::measure(bench),
        }
    }
}

/// With what, where and how often is measured.
struct Setting {
    /// The directory of the programs.
    bin_dir: PathBuf,
    pairs: u32,
    small: bool,
}

impl Setting {
    fn new(pairs: Option<u32>, small: bool, bin_dir: Option<PathBuf>) -> Result<Self> {
        setup::ensure_packages(&["time"])?;
        let profile = if small { Profile::Dev } else { Profile::Release };
        let default = if small { PAIRS_SMALL } else { PAIRS };
        Ok(Self {
            bin_dir: match bin_dir {
                Some(dir) => std::path::absolute(dir).context("find the programs")?,
                None => build::build_without_recorder(profile)?,
            },
            pairs: pairs.unwrap_or(default),
            small,
        })
    }

    /// A directory for what is made, removed at the end.
    fn work_dir(&self) -> Result<tempfile::TempDir> {
        let dir = build::target_dir().join("bench");
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        tempfile::tempdir_in(&dir).with_context(|| format!("create a directory in {}", dir.display()))
    }
}

/// Measures what was chosen.
///
/// # Errors
/// When something cannot be measured, or a restored tree is not what it should be.
pub(crate) fn run(args: BenchArgs) -> Outcome {
    let BenchArgs {
        only,
        pairs,
        small,
        bin_dir,
    } = args;
    let benches = if only.is_empty() {
        Bench::value_variants()
    } else {
        &only
    };
    let is_given = bin_dir.is_some();
    let setting = Setting::new(pairs, small, bin_dir)?;
    let mut missed = 0;
    for bench in benches {
        say(&format!("== {}", bench.name()));
        let mut measured = bench
            .measure(&setting)
            .with_context(|| format!("measure {}", bench.name()))?;
        if is_given {
            measured.notes.push(GIVEN.to_owned());
        }
        for figure in &measured.figures {
            println!("{}: {figure}", bench.name());
            missed += usize::from(!figure.is_reached());
        }
        if !small {
            Results::put(*bench, measured)?;
        }
    }
    Ok(if missed == 0 || small {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs all of it once, small: passes when every restored tree is right and every figure comes out.
///
/// # Errors
/// As for [`run`].
pub(crate) fn pass() -> Result<()> {
    let setting = Setting::new(None, true, None)?;
    // The fold is measured by a program that is built for nothing else.
    for bench in Bench::value_variants()
        .iter()
        .filter(|bench| **bench != Bench::Fold)
    {
        let measured = bench
            .measure(&setting)
            .with_context(|| format!("measure {}", bench.name()))?;
        ensure!(!measured.figures.is_empty(), "{} has no figure", bench.name());
    }
    Ok(())
}
