//! Runs arms in turns: caches dropped before each, what it wrote synced within its time.
//!
//! Owns the clock, the caches, and what the machine was doing meanwhile.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::setup::{self, say};

/// What one run of an arm took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) seconds: f64,
    /// Seconds on all processors together, in the program and in the kernel for it.
    pub(super) cpu_seconds: f64,
    /// Most memory at once.
    pub(super) peak_kib: f64,
    /// Whether caches were dropped before it.
    pub(super) dropped: bool,
}

/// Drops caches, runs a command to its end, then syncs the file system that it wrote to, where there is one; the last two count.
///
/// # Errors
/// When it does not end with success: what it said is shown.
pub(super) fn timed(cmd: &Command, written: Option<&Path>) -> Result<Taken> {
    let file = tempfile::NamedTempFile::new().context("create file for the times")?;
    let mut timer = Command::new("/usr/bin/time");
    timer
        .arg("--output")
        .arg(file.path())
        .args(["--format", "%U %S %M"]);
    timer.arg(cmd.get_program()).args(cmd.get_args());
    for (key, value) in cmd.get_envs() {
        if let Some(value) = value {
            timer.env(key, value);
        }
    }
    if let Some(dir) = cmd.get_current_dir() {
        timer.current_dir(dir);
    }
    let dropped = drop_caches()?;
    let started = Instant::now();
    setup::run_quiet(timer.stdin(Stdio::null()))?;
    if let Some(written) = written {
        setup::run_quiet(Command::new("sync").arg("--file-system").arg(written))?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let text = fs::read_to_string(file.path()).context("read the times")?;
    let numbers: Vec<f64> = text
        .lines()
        .last()
        .unwrap_or_default()
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    let [user, system, peak_kib] = numbers[..] else {
        anyhow::bail!("the timer says {text:?}")
    };
    Ok(Taken {
        seconds,
        cpu_seconds: user + system,
        peak_kib,
        dropped,
    })
}

/// Syncs everything and drops what the kernel has cached. Says whether it could: that takes root.
fn drop_caches() -> Result<bool> {
    setup::run_quiet(&mut Command::new("sync"))?;
    Ok(fs::write("/proc/sys/vm/drop_caches", "3").is_ok())
}

/// Load of the last minute.
pub(super) fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("read the load")?;
    let first = text.split(' ').next().unwrap_or_default();
    first
        .parse()
        .with_context(|| format!("read the load in {text:?}"))
}

/// One way to do something.
pub(super) struct Arm<'a> {
    pub(super) name: &'static str,
    /// Does it, in the turn whose number is given.
    pub(super) run: Box<dyn FnMut(u32) -> Result<Taken> + 'a>,
}

/// What all arms took.
#[derive(Default)]
pub(super) struct Turns {
    /// By arm and turn.
    pub(super) taken: Vec<(&'static str, Vec<Taken>)>,
    /// Before each turn.
    pub(super) loads: Vec<f64>,
    pub(super) dropped: bool,
}

impl Turns {
    /// Runs every arm once in each turn; another one begins each time.
    pub(super) fn run(arms: &mut [Arm<'_>], turns: u32) -> Result<Self> {
        let mut all = Self {
            taken: arms.iter().map(|arm| (arm.name, Vec::new())).collect(),
            loads: Vec::new(),
            dropped: true,
        };
        for turn in 0..turns {
            all.loads.push(load()?);
            for step in 0..arms.len() {
                let which = (step + turn as usize) % arms.len();
                let arm = &mut arms[which];
                let taken = (arm.run)(turn).with_context(|| format!("run {}", arm.name))?;
                say(&format!(
                    "turn {}, {}: {:.2} s, {:.2} s of processors, {:.0} MiB",
                    turn + 1,
                    arm.name,
                    taken.seconds,
                    taken.cpu_seconds,
                    taken.peak_kib / 1024.0
                ));
                all.dropped &= taken.dropped;
                all.taken[which].1.push(taken);
            }
        }
        Ok(all)
    }

    /// Seconds of an arm, by turn.
    pub(super) fn seconds(&self, arm: &str) -> Vec<f64> {
        let of = self.taken.iter().find(|(name, _)| *name == arm);
        of.map_or_else(Vec::new, |(_, taken)| {
            taken.iter().map(|taken| taken.seconds).collect()
        })
    }
}

/// Fails where the file system of a directory has too little room.
pub(super) fn check_room(dir: &Path, bytes: u64) -> Result<()> {
    let mut df = Command::new("df");
    let said = setup::output(df.args(["--block-size=1", "--output=avail"]).arg(dir))?;
    let free: u64 = said
        .lines()
        .nth(1)
        .and_then(|line| line.trim().parse().ok())
        .with_context(|| format!("read what df says: {said:?}"))?;
    ensure!(
        free > bytes,
        "{} has {} MB free, this takes {} MB at once: make room there",
        dir.display(),
        free / 1_000_000,
        bytes / 1_000_000
    );
    Ok(())
}
