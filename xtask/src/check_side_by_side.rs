//! The checks that take a machine each, several at once: a machine waits most of its time for disks, timers and its own other processor.
//!
//! Owns which checks these are, their order, and how many run at once; what compares times runs alone. Each runs in a process of its own, `cargo xtask test --check NAME`, and what
//! it says is shown when it has ended, in one piece.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Seek as _};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::setup::say;
use crate::vm::{power, unplug};
use crate::{bench, check_machines, check_scenarios, deploy_trial};

/// Most at once, however many processors there are: each machine takes some 2 GiB.
const AT_ONCE_MAX: usize = 4;

/// A check that takes a machine, or one that takes as long.
#[derive(Clone, Copy)]
pub(crate) enum Check {
    Bench,
    Deploy,
    Machine(&'static check_machines::Scenario),
    PowerCut,
    Unplug,
    RoundTrip(&'static check_scenarios::Scenario),
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bench => f.write_str("benchmarks, small"),
            Self::Deploy => f.write_str("deploy to a machine with systemd"),
            Self::Machine(scenario) => write!(f, "{scenario}"),
            Self::PowerCut => write!(f, "{}", power::CI),
            Self::Unplug => write!(f, "{}", unplug::CI),
            Self::RoundTrip(scenario) => write!(f, "{scenario}"),
        }
    }
}

/// All of them; those that take long first, so that none of these is left alone at the end.
fn all() -> impl Iterator<Item = Check> {
    check_machines::CI
        .iter()
        .map(Check::Machine)
        .chain([Check::PowerCut, Check::Unplug, Check::Deploy])
        .chain(check_scenarios::CI.iter().map(Check::RoundTrip))
        .chain([Check::Bench])
}

impl Check {
    /// What others beside it would change the outcome of.
    fn runs_alone(self) -> bool {
        matches!(self, Self::Machine(scenario) if scenario.compares_times())
    }

    fn pass(self) -> Result<()> {
        match self {
            Self::Bench => bench::pass(),
            Self::Deploy => deploy_trial::pass(),
            Self::Machine(scenario) => check_machines::pass(scenario),
            Self::PowerCut => power::pass(&power::CI).map(drop),
            Self::Unplug => unplug::pass(&unplug::CI).map(drop),
            Self::RoundTrip(scenario) => check_scenarios::pass(scenario),
        }
    }
}

/// Runs the one that is named so.
///
/// # Errors
/// When none is, or it fails.
pub(crate) fn pass(name: &str) -> Result<()> {
    let found = all().find(|check| check.to_string() == name);
    let found = found.with_context(|| {
        let names: Vec<_> = all().map(|check| format!("  {check}")).collect();
        format!("there is no check of that name; there are\n{}", names.join("\n"))
    })?;
    found.pass()
}

/// Runs all, and hands over each that has ended: its name and whether it passed.
pub(crate) fn run(ended: impl Fn(&str, bool) + Sync) {
    let (alone, others): (VecDeque<_>, VecDeque<_>) = all().partition(|check| check.runs_alone());
    let waiting = Mutex::new(others);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let one = |check: Check| {
        let name = check.to_string();
        ended(&name, in_a_process(&name));
    };
    let worker = || {
        while let Some(check) = next() {
            one(check);
        }
    };
    let at_once = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(AT_ONCE_MAX);
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(worker);
        }
    });
    alone.into_iter().for_each(one);
}

/// Whether it passed.
fn in_a_process(name: &str) -> bool {
    say(&format!("== {name}: begun"));
    let began = Instant::now();
    let passed = started(name);
    let verdict = match &passed {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("FAILED ({error:#})"),
    };
    say(&format!(
        "== {name}: {verdict}, {:.0} s",
        began.elapsed().as_secs_f64()
    ));
    passed.is_ok()
}

fn started(name: &str) -> Result<()> {
    let mut said = tempfile::tempfile().context("create a file for what it says")?;
    let to = |file: &File| file.try_clone().map(Stdio::from).context("share a file");
    // The file may have been built anew since this program was started.
    let status = Command::new("/proc/self/exe")
        .args(["test", "--check", name])
        .stdin(Stdio::null())
        .stdout(to(&said)?)
        .stderr(to(&said)?)
        .status()
        .context("start this program")?;
    said.rewind().context("read what it says")?;
    io::copy(&mut said, &mut io::stderr().lock()).context("show what it says")?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_names_one_check() {
        let mut names: Vec<String> = all().map(|check| check.to_string()).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
