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
mod plot;
mod recording;
mod restore;
mod size;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};

use self::page::Results;
use self::recording::Work;
use crate::Outcome;
use crate::build::{self, Profile};
use crate::setup::{self, say};

/// Turns of each arm: the fewest of which a 95 % interval can be told without assuming a distribution.
const PAIRS: u32 = 6;
/// The same with `--small`, of which nothing is told.
const PAIRS_SMALL: u32 = 1;
/// Turns in a machine, where times spread more.
const PAIRS_IN_MACHINE: u32 = 10;
/// With `--small`, parts of a hundred of the size of a work.
const SCALE_SMALL: u32 = 2;

/// What the page says of programs that were not built for the run.
const GIVEN: &str = "the programs were built before and given by `--bin-dir`: the commit is that of the work tree, and need not be theirs";

/// Arguments of `cargo xtask bench`.
#[derive(Args, Default)]
pub(crate) struct BenchArgs {
    /// Only this one
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Bench>,
    /// Turns of each arm; below 6 nothing can be reached
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pairs: Option<u32>,
    /// Of `record` and `alternatives`, only this work
    #[arg(long, value_enum, value_name = "NAME")]
    work: Vec<Work>,
    /// Size of the work in a machine, against what it usually is
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: Option<u32>,
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
    /// Work while it is recorded, or another file system is, against the same work bare
    Record,
    /// More is written than a spool holds, until all is on the medium, against the same bare
    Sustained,
    /// Work while it is recorded, against strace, dm-log-writes, NILFS2 and backups
    Alternatives,
}

/// What is measured, kept and shown as one: a benchmark, or one work of it.
#[derive(Clone, Copy)]
struct Part {
    bench: Bench,
    work: Option<Work>,
}

impl Part {
    /// Its name, as in the results.
    fn name(self) -> String {
        let bench = self.bench.name();
        self.work
            .map_or(bench.clone(), |work| format!("{bench}/{}", work.name()))
    }

    /// For people.
    fn help(self) -> String {
        let value = self.bench.to_possible_value();
        let help = value.and_then(|value| value.get_help().map(ToString::to_string));
        let help = help.unwrap_or_default();
        self.work
            .map_or(help.clone(), |work| format!("{help}: {}", work.what()))
    }

    /// The command that measures it again.
    fn command(self) -> String {
        let only = format!("cargo xtask bench --only {}", self.bench.name());
        self.work
            .map_or(only.clone(), |work| format!("{only} --work {}", work.name()))
    }

    fn measure(self, setting: &Setting) -> Result<page::Measured> {
        match (self.bench, self.work) {
            (Bench::Record, Some(work)) => recording::measure(setting, work),
            (Bench::Alternatives, Some(work)) => recording::measure_alternatives(setting, work),
            (Bench::Sustained, _) => recording::measure_sustained(setting),
            (Bench::Restore, _) => restore::measure(setting),
            (Bench::Length, _) => length::measure(setting),
            (Bench::Fold, _) => plan::measure_fold(setting),
            (Bench::Plan, _) => plan::measure_plan(setting),
            (Bench::Size, _) => size::measure(setting),
            (Bench::Record | Bench::Alternatives, None) => bail!("no work was chosen"),
        }
    }
}

impl Bench {
    /// Its name, as in the results.
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Measures in machines, with a recorder.
    fn is_in_machine(self) -> bool {
        matches!(self, Self::Record | Self::Sustained | Self::Alternatives)
    }

    /// Measures one work after the other.
    fn has_works(self) -> bool {
        matches!(self, Self::Record | Self::Alternatives)
    }

    /// What is measured of it, of works only those that were chosen; all where none was.
    fn parts(self, works: &[Work]) -> Vec<Part> {
        if !self.has_works() {
            let work = None;
            return vec![Part { bench: self, work }];
        }
        let works = if works.is_empty() {
            Work::value_variants()
        } else {
            works
        };
        let part = |work: &Work| Part {
            bench: self,
            work: Some(*work),
        };
        works.iter().map(part).collect()
    }
}

/// With what, where and how often is measured.
struct Setting {
    /// The directory of the programs.
    bin_dir: PathBuf,
    pairs: u32,
    /// The same of what is measured in a machine.
    pairs_in_machine: u32,
    /// Size of a work in a machine, against what it usually is.
    scale: f64,
    small: bool,
}

impl Setting {
    fn new(args: &BenchArgs, benches: &[Bench]) -> Result<Self> {
        setup::ensure_packages(&["time"])?;
        let BenchArgs {
            pairs, scale, small, ..
        } = *args;
        let profile = if small { Profile::Dev } else { Profile::Release };
        let pairs = |usual| pairs.unwrap_or(if small { PAIRS_SMALL } else { usual });
        let scale = scale.unwrap_or(if small { SCALE_SMALL } else { 100 });
        Ok(Self {
            bin_dir: match &args.bin_dir {
                Some(dir) => std::path::absolute(dir).context("find the programs")?,
                None if benches.iter().any(|bench| bench.is_in_machine()) => {
                    build::build_all(profile)?.bin_dir
                }
                None => build::build_without_recorder(profile)?,
            },
            pairs: pairs(PAIRS),
            pairs_in_machine: pairs(PAIRS_IN_MACHINE),
            scale: f64::from(scale) / 100.0,
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
    let benches = if args.only.is_empty() {
        Bench::value_variants()
    } else {
        &args.only
    };
    let setting = Setting::new(&args, benches)?;
    let mut missed = 0;
    for part in benches.iter().flat_map(|bench| bench.parts(&args.work)) {
        let name = part.name();
        say(&format!("== {name}"));
        let mut measured = part
            .measure(&setting)
            .with_context(|| format!("measure {name}"))?;
        if args.bin_dir.is_some() {
            measured.notes.push(GIVEN.to_owned());
        }
        for figure in &measured.figures {
            println!("{name}: {figure}");
            missed += usize::from(!figure.is_reached());
        }
        if !args.small {
            Results::put(part, measured)?;
        }
    }
    Ok(if missed == 0 || args.small {
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
    let args = BenchArgs {
        small: true,
        work: vec![Work::SmallFiles],
        ..BenchArgs::default()
    };
    // The fold is measured by a program that is built for nothing else; a machine is tried once.
    let benches: Vec<_> = Bench::value_variants()
        .iter()
        .copied()
        .filter(|bench| !matches!(bench, Bench::Fold | Bench::Sustained | Bench::Alternatives))
        .collect();
    let setting = Setting::new(&args, &benches)?;
    for part in benches.iter().flat_map(|bench| bench.parts(&args.work)) {
        let name = part.name();
        let measured = part
            .measure(&setting)
            .with_context(|| format!("measure {name}"))?;
        ensure!(!measured.figures.is_empty(), "{name} has no figure");
    }
    Ok(())
}
