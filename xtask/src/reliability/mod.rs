//! `cargo xtask test --reliability`: every fault again and again, on machines of their own; what came of it is written to `docs/reliability.md`.
//!
//! Owns which faults there are, how often each is provoked by default, and with which seeds. What a fault is lies in `tests/scenarios`, in
//! `vm::power`, in the unit tests and in `fuzz`; how results are kept and shown in `page`.

mod lockdep;
mod page;

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use self::page::Results;
use crate::check::Cells;
use crate::check_machines;
use crate::setup::{self, say};
use crate::vm::figures::Figures;
use crate::vm::kernel::KernelLine;
use crate::vm::power::{self, PowerCuts};
use crate::vm::roundtrip::FileSystem;
use crate::vm::unplug::{self, Unplugs};
use crate::{Outcome, fuzz, toolchain};

/// Seconds for each target of the fuzzer.
const FUZZ_SECONDS: u64 = 600;
/// Turns with and without a recorder.
const PAIRS: u32 = 12;

/// Arguments of `cargo xtask test --reliability`.
#[derive(Args)]
pub(crate) struct ReliabilityArgs {
    /// Provoke only this fault
    #[arg(long, value_enum, requires = "reliability")]
    fault: Vec<Fault>,
    /// Runs of each fault, spread over the kernels and file systems; without it, as many as make fifty faults
    #[arg(long, value_name = "N", requires = "reliability")]
    runs: Option<u64>,
    /// Seed of the first run of each fault; the next ones follow
    #[arg(long, value_name = "SEED", default_value_t = 1, requires = "reliability")]
    run_seed: u64,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// The recorder is killed, restarted and stopped under load
    Kill,
    /// The machine loses its power, and disks lose what was not flushed
    PowerCut,
    /// The medium is unplugged while it is written to, and plugged in again
    Unplug,
    /// Attached, detached, killed and attached again under load
    Reattach,
    /// None: work on a file system that is not recorded, with and without a recorder of another one, in turns
    Unrecorded,
    /// A burst meets a small ring, with and without `--on-full=throttle`
    Throttle,
    /// A kernel that watches its own locking (lockdep, RCU, sleeping in atomic context) has nothing to say while recorders come, go, are killed and lose events
    Lockdep,
    /// Every byte of a small medium rots
    Rot,
    /// Label, manifests, segments and frames of the spool as nobody would write them
    Fuzz,
}

impl Fault {
    /// Its name, as in the results.
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Faults of one run, and runs when nothing else is said.
    fn default_size(self) -> (u64, u64) {
        match self {
            Self::Kill => (10, 6),
            Self::PowerCut => (power::CUTS, 10),
            Self::Unplug => (unplug::COUNT, 5),
            Self::Reattach => (100, 1),
            Self::Unrecorded | Self::Throttle => (1, KernelLine::SHIPPED.len() as u64),
            Self::Lockdep => (lockdep::FAULTS, 1),
            Self::Rot | Self::Fuzz => (1, 1),
        }
    }

    /// Where it can be provoked; `None` is this host.
    fn cells(self, chosen: &Cells) -> Vec<Option<(KernelLine, FileSystem)>> {
        let or_all = |fs: &[FileSystem]| {
            if chosen.fs.is_empty() {
                fs.to_vec()
            } else {
                chosen.fs.clone()
            }
        };
        let file_systems = match self {
            Self::Rot | Self::Fuzz => return vec![None],
            Self::Unrecorded | Self::Throttle => vec![FileSystem::Ext4],
            Self::Lockdep if chosen.fs.is_empty() => vec![FileSystem::Ext4],
            Self::Lockdep => chosen.fs.clone(),
            Self::Kill | Self::PowerCut | Self::Unplug | Self::Reattach => {
                or_all(FileSystem::value_variants())
            }
        };
        let kernels = match self {
            // Nothing but this one can tell.
            Self::Lockdep => &[KernelLine::K6_12Lockdep],
            _ if chosen.kernel.is_empty() => KernelLine::SHIPPED,
            _ => chosen.kernel.as_slice(),
        };
        let of = |fs: FileSystem| kernels.iter().map(move |kernel| Some((*kernel, fs)));
        file_systems.into_iter().flat_map(of).collect()
    }
}

/// One run of one fault.
#[derive(Clone, Copy, Debug)]
struct Run {
    fault: Fault,
    cell: Option<(KernelLine, FileSystem)>,
    seed: u64,
    faults: u64,
}

/// Runs what was chosen. One that fails does not keep the others from being run.
///
/// # Errors
/// When the results cannot be kept.
pub(crate) fn run(args: ReliabilityArgs, cells: &Cells) -> Outcome {
    let ReliabilityArgs {
        fault,
        runs,
        run_seed,
    } = args;
    let faults = if fault.is_empty() {
        Fault::value_variants()
    } else {
        &fault
    };
    let (mut passed, mut failed) = (0, 0);
    for fault in faults {
        let (faults, default_runs) = fault.default_size();
        let cells = fault.cells(cells);
        let seeds = run_seed..run_seed.saturating_add(runs.unwrap_or(default_runs));
        for (seed, cell) in seeds.zip(cells.into_iter().cycle()) {
            let run = Run {
                fault: *fault,
                cell,
                seed,
                faults,
            };
            let outcome = run.outcome();
            match &outcome {
                Ok(_) => passed += 1,
                Err(error) => {
                    failed += 1;
                    say(&format!("FAILED: {}, seed {seed}: {error:#}", fault.name()));
                }
            }
            Results::add(&run, outcome)?;
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Run {
    fn outcome(&self) -> Result<Figures> {
        let Self {
            fault,
            cell,
            seed,
            faults,
        } = *self;
        let place = cell.map_or_else(|| "this host".to_owned(), |(kernel, fs)| format!("{kernel} {fs}"));
        say(&format!("== {}, seed {seed}, on {place}", fault.name()));
        match (fault, cell) {
            (Fault::Rot, _) => rot(),
            (Fault::Fuzz, _) => fuzz::figures(FUZZ_SECONDS),
            (Fault::PowerCut, Some((kernel, fs))) => power::pass(&PowerCuts {
                kernel,
                fs,
                cuts: faults,
                seed,
            }),
            (Fault::Unplug, Some((kernel, fs))) => unplug::pass(&Unplugs {
                kernel,
                fs,
                count: faults,
                seed,
            }),
            (Fault::Kill, Some((kernel, fs))) => {
                let args = format!(
                    "tapeworm.kills={faults} tapeworm.fs={fs} tapeworm.seed={seed} tapeworm.stopped=60"
                );
                check_machines::pass_with("kill.sh", kernel, args)
            }
            (Fault::Reattach, Some((kernel, fs))) => {
                let args = format!("tapeworm.rounds={faults} tapeworm.fs={fs} tapeworm.seed={seed}");
                check_machines::pass_in_turns("reattach.sh", kernel, args)
            }
            (Fault::Unrecorded, Some((kernel, _))) => {
                check_machines::pass_with("unrecorded.sh", kernel, format!("tapeworm.pairs={PAIRS}"))
            }
            (Fault::Throttle, Some((kernel, _))) => {
                check_machines::pass_with("throttle.sh", kernel, String::new())
            }
            (Fault::Lockdep, Some((kernel, fs))) => lockdep::pass(kernel, fs, seed),
            (_, None) => bail!("needs a machine"),
        }
    }
}

/// The sweep is a unit test of the replayer, which says how much it tried. It is built with all others, as they are when everything is tested.
fn rot() -> Result<Figures> {
    let said = setup::output(toolchain::cargo().current_dir(setup::workspace_root()).args([
        "test",
        "--quiet",
        "--workspace",
        "sweep",
        "--",
        "--nocapture",
    ]))?;
    let tried: Vec<u64> = said
        .lines()
        .filter_map(|line| line.strip_prefix("sweep: ")?.split(' ').next()?.parse().ok())
        .collect();
    ensure!(!tried.is_empty(), "the sweep says nothing: {said}");
    Ok(Figures::from([(
        "kinds_of_rot_detected".to_owned(),
        tried.iter().sum::<u64>().to_string(),
    )]))
}
