//! `cargo xtask test`: every check, and one closing line with counts.
//!
//! Owns which checks there are, their order (quick ones first), and the verdict. How a round trip is made is the
//! business of `vm`; what the workloads are lies in `tests/scenarios`.

use std::io::{BufRead as _, BufReader};
use std::ops::AddAssign;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::check_scenarios::Scenario;
use crate::setup::{self, say};
use crate::vm::kernel::KernelLine;
use crate::vm::roundtrip::FileSystem;
use crate::{
    Outcome, build, check_scenarios, check_side_by_side, fuzz, matrix, queries, reliability, soak, tidy,
    toolchain,
};

/// Which checks to run.
#[derive(Args)]
pub(crate) struct TestArgs {
    /// Leave out everything that needs a virtual machine
    #[arg(long)]
    quick: bool,
    /// Only this one of those that take a virtual machine, by the name that is printed when it begins
    #[arg(long, group = "long-run", value_name = "NAME")]
    check: Option<String>,
    /// Every scenario on every kernel and file system that it is for instead
    #[arg(long, group = "long-run")]
    scenarios: bool,
    /// Every operation on every kernel with every file system instead; writes tests/MATRIX.md
    #[arg(long, group = "long-run")]
    matrix: bool,
    /// With --matrix: only this operation; with --scenarios: only this script
    #[arg(long, value_name = "NAME", requires = "long-run", conflicts_with = "soak")]
    only: Vec<String>,
    /// Long random runs instead: many seeds of the generator, results in tests/soak.log
    #[arg(long, group = "long-run")]
    soak: bool,
    /// Faults of every kind again and again instead; writes docs/reliability.md
    #[arg(long, group = "long-run")]
    reliability: bool,
    #[command(flatten)]
    reliability_args: reliability::ReliabilityArgs,
    /// Fuzz what reads media and the spool instead, each target for so many seconds [600]; finds are kept in the cache
    #[arg(long, group = "long-run", value_name = "SECONDS", num_args = 0..=1, default_missing_value = "600")]
    fuzz: Option<u64>,
    #[command(flatten)]
    soak_args: soak::SoakArgs,
    #[command(flatten)]
    cells: Cells,
}

/// Which machines a long run is for.
#[derive(Args)]
pub(crate) struct Cells {
    /// With --matrix, --scenarios, --reliability or --soak: only these kernels
    #[arg(long, value_enum, requires = "long-run")]
    pub(crate) kernel: Vec<KernelLine>,
    /// With --matrix, --scenarios, --reliability or --soak: only these file systems
    #[arg(long, value_enum, requires = "long-run")]
    pub(crate) fs: Vec<FileSystem>,
}

/// How many checks ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    const ONE_PASSED: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    const ONE_FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };

    /// The closing line, which other programs read: its form is fixed.
    fn closing_line(self) -> String {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        let skips = if skipped == 0 {
            String::new()
        } else {
            format!(", {skipped} skipped")
        };
        format!("{passed} passed, {failed} failed{skips}")
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        let Self {
            passed,
            failed,
            skipped,
        } = other;
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
    }
}

pub(crate) fn run(args: TestArgs) -> Outcome {
    let TestArgs {
        quick,
        check,
        scenarios,
        matrix,
        only,
        soak,
        reliability,
        reliability_args,
        fuzz,
        soak_args,
        cells,
    } = args;
    if let Some(name) = check {
        return check_side_by_side::pass(&name).map(|()| ExitCode::SUCCESS);
    }
    if let Some(seconds) = fuzz {
        return fuzz::run(seconds);
    }
    if matrix {
        return matrix::run(&cells, &only);
    }
    if reliability {
        return reliability::run(reliability_args, &cells);
    }
    if soak {
        return soak::run(soak_args, &cells);
    }
    let mut tally = Tally::default();
    if scenarios {
        tally.scenarios(&check_scenarios::chosen(&cells, &only)?);
        return Ok(tally.close());
    }
    tally.check("format", || cargo(&["fmt", "--all", "--", "--check"]));
    tally.check("format of the eBPF programs", || {
        cargo(&["fmt", "--manifest-path", "ebpf/Cargo.toml", "--", "--check"])
    });
    tally.check("tidy", tidy_check);
    tally.check("eBPF object", || build::build_ebpf().map(drop));
    tally.check("lints", || {
        cargo(&[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])
    });
    tally.check("lints of the eBPF programs", build::clippy_ebpf);
    tally.count("unit and property tests", unit_tests);
    tally.check("queries of docs/queries.md", || queries::pass(false));
    if !quick {
        tally.side_by_side();
    }
    Ok(tally.close())
}

/// What was run so far.
#[derive(Default)]
struct Tally {
    counts: Counts,
    failures: Vec<String>,
}

impl Tally {
    /// Runs a check that either passes or fails.
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        self.count(name, || check().map(|()| Counts::ONE_PASSED));
    }

    fn scenarios(&mut self, scenarios: &[Scenario]) {
        for scenario in scenarios {
            self.check(&format!("scenario {scenario}"), || {
                check_scenarios::pass(scenario)
            });
        }
    }

    /// Everything that takes a machine.
    fn side_by_side(&mut self) {
        let tally = Mutex::new(self);
        check_side_by_side::run(|name, passed| {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            if passed {
                tally.counts += Counts::ONE_PASSED;
            } else {
                tally.counts += Counts::ONE_FAILED;
                tally.failures.push(name.to_owned());
            }
        });
    }

    /// Names what failed, and prints the closing line.
    fn close(self) -> ExitCode {
        let Self { counts, failures } = self;
        for name in &failures {
            say(&format!("FAILED: {name}"));
        }
        println!("{}", counts.closing_line());
        if counts.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// Runs a check that counts by itself. A failure does not keep the checks after it from being run.
    fn count(&mut self, name: &str, check: impl FnOnce() -> Result<Counts>) {
        say(&format!("== {name}"));
        let started = Instant::now();
        let counts = check().unwrap_or_else(|error| {
            say(&format!("{name}: {error:#}"));
            Counts::ONE_FAILED
        });
        if counts.failed > 0 {
            self.failures.push(name.to_owned());
        }
        self.counts += counts;
        let verdict = if counts.failed == 0 { "ok" } else { "FAILED" };
        say(&format!(
            "== {name}: {verdict}, {:.0} s",
            started.elapsed().as_secs_f64()
        ));
    }
}

/// Runs cargo in the root of the work tree.
fn cargo(args: &[&str]) -> Result<()> {
    setup::run(toolchain::cargo().current_dir(setup::workspace_root()).args(args))
}

fn tidy_check() -> Result<()> {
    let findings = tidy::findings()?;
    for finding in &findings {
        say(finding);
    }
    anyhow::ensure!(findings.is_empty(), "{} finding(s)", findings.len());
    Ok(())
}

/// Runs the tests of all crates and counts them by what the test programs say.
fn unit_tests() -> Result<Counts> {
    let mut cmd: Command = toolchain::cargo();
    cmd.current_dir(setup::workspace_root())
        .args(["test", "--quiet", "--workspace", "--no-fail-fast"]);
    let mut child = cmd
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo test")?;
    let stdout = child.stdout.take().context("read output of cargo test")?;
    let mut counts = Counts::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("read output of cargo test")?;
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        counts += parse_result(&line).unwrap_or_default();
    }
    let status = child.wait().context("wait for cargo test")?;
    // A test program that does not compile, or that dies, reports no count of its own.
    if !status.success() && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(counts)
}

/// Reads `test result: ok. 8 passed; 0 failed; 1 ignored; ...`.
fn parse_result(line: &str) -> Option<Counts> {
    let rest = line.trim().strip_prefix("test result: ")?.split_once(". ")?.1;
    let number = |what: &str| -> Option<u64> {
        rest.split("; ")
            .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
    };
    Some(Counts {
        passed: number("passed")?,
        failed: number("failed")?,
        skipped: number("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_test_programs_are_read() {
        let line = "test result: FAILED. 8 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s";
        assert_eq!(
            parse_result(line),
            Some(Counts {
                passed: 8,
                failed: 2,
                skipped: 1
            })
        );
        assert_eq!(parse_result("running 8 tests"), None);
    }

    #[test]
    fn closing_line_has_the_fixed_form() {
        let mut counts = Counts {
            passed: 3,
            failed: 0,
            skipped: 0,
        };
        assert_eq!(counts.closing_line(), "3 passed, 0 failed");
        counts += Counts {
            passed: 0,
            failed: 1,
            skipped: 2,
        };
        assert_eq!(counts.closing_line(), "3 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn a_failed_check_is_counted_and_named() {
        let mut tally = Tally::default();
        tally.check("good", || Ok(()));
        tally.check("bad", || anyhow::bail!("no"));
        assert_eq!(
            tally.counts,
            Counts {
                passed: 1,
                failed: 1,
                skipped: 0
            }
        );
        assert_eq!(tally.failures, ["bad"]);
    }
}
