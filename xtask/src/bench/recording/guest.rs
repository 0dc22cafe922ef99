//! The machine in which recording is measured: what goes in, and what comes out, one object for each arm of each turn.
//!
//! `tests/bench/record.py` is the other side.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::super::{Setting, arms};
use super::work::{Arm, Work};
use crate::vm::kernel::KernelLine;
use crate::vm::machine::{Sink, Through};
use crate::vm::run::{self, Measuring};
use crate::{debian, setup};

/// The kernel that is measured: that of Debian's stable release.
pub(super) const KERNEL: KernelLine = KernelLine::K6_12;
const SUITE: &str = "trixie";
/// Memory of the machine: what is written in an arm fits into the page cache.
const MEM_MIB: u32 = 4096;
/// The work's disk, another one, those of spool, medium, and log of writes; sparse.
const DISKS_MIB: [u64; 5] = [4096, 1024, 4096, 12288, 8192];
/// Time that an arm may take with all that is prepared for it, seconds; and a boot.
const ARM_TIME_MAX_S: u64 = 300;
const BOOT_TIME_MAX_S: u64 = 600;
/// Begins a line of the guest that ends an arm.
const TURN: &[u8] = b"TURN ";

/// What the guest is to do.
#[derive(Serialize)]
struct Job<'a> {
    work: &'a str,
    arms: Vec<&'static str>,
    turns: u32,
    scale: f64,
    profile: bool,
}

/// What came of an arm in a turn.
#[derive(Debug, Deserialize)]
pub(super) struct Told {
    pub(super) arm: String,
    /// -1 where programs were counted.
    pub(super) turn: i64,
    pub(super) seconds: f64,
    /// Bytes that were written, where that is known.
    pub(super) bytes: Option<u64>,
    /// By kind of call.
    #[serde(default)]
    pub(super) p99_us: BTreeMap<String, f64>,
    pub(super) recorder: Option<Recorder>,
    /// Runs and nanoseconds of the programs in the kernel.
    #[serde(default)]
    pub(super) programs: BTreeMap<String, (u64, u64)>,
    /// Seconds of processor time of the recorder's threads.
    #[serde(default)]
    pub(super) threads: BTreeMap<String, f64>,
    /// By program: a backup after the work.
    #[serde(default)]
    pub(super) backups: BTreeMap<String, Backup>,
}

/// What a backup took.
#[derive(Debug, Deserialize)]
pub(super) struct Backup {
    pub(super) seconds: f64,
    pub(super) cpu_s: f64,
}

/// What a recorder did from the beginning of the work until all of it was on the medium.
#[derive(Debug, Deserialize)]
pub(super) struct Recorder {
    pub(super) cpu_s: f64,
    /// Of these, while the work was done.
    pub(super) cpu_at_end_s: f64,
    /// From the end of the work, and the sync after it, until all was on the medium.
    pub(super) caught_up_s: f64,
    pub(super) peak_kib: f64,
    pub(super) events: f64,
    pub(super) bytes_captured: f64,
    pub(super) bytes_written: f64,
    /// Missed hits, and holes, repaired or not.
    pub(super) misses: f64,
    pub(super) holes: f64,
}

/// Everything that a machine told.
pub(super) struct Turns {
    pub(super) told: Vec<Told>,
    /// Load of the host at the end of each turn.
    pub(super) loads: Vec<f64>,
}

impl Turns {
    /// What came of an arm, by turn.
    pub(super) fn of(&self, arm: Arm) -> impl Iterator<Item = &Told> {
        let all = self.told.iter();
        all.filter(move |told| told.turn >= 0 && told.arm == arm.name())
    }

    /// A value of each turn of an arm.
    pub(super) fn values(&self, arm: Arm, value: impl Fn(&Told) -> f64) -> Vec<f64> {
        self.of(arm).map(value).collect()
    }

    /// The turn in which programs were counted.
    pub(super) fn counted(&self) -> Option<&Told> {
        self.told.iter().find(|told| !told.programs.is_empty())
    }
}

/// What is measured in one boot.
pub(super) struct Boot<'a> {
    /// Name of the work in `tests/bench/works.py`.
    pub(super) work: &'a str,
    pub(super) arms: &'a [Arm],
    /// Size of the work, against what stands there.
    pub(super) scale: f64,
    /// One more turn in which the kernel counts what its programs take.
    pub(super) profile: bool,
    /// Debian packages beyond what every guest has.
    pub(super) packages: Vec<&'a str>,
    /// Debian source package that is worked on.
    pub(super) source: Option<&'a str>,
}

impl<'a> Boot<'a> {
    /// For a work in these arms.
    pub(super) fn of(work: Work, name: &'a str, arms: &'a [Arm], scale: f64) -> Self {
        let packages = [work.packages()]
            .into_iter()
            .chain(arms.iter().map(|arm| arm.packages()));
        Self {
            work: name,
            arms,
            scale,
            profile: false,
            packages: packages.flatten().copied().collect(),
            source: work.source(),
        }
    }
}

/// Boots a machine in which a work is done in all arms, so many turns.
///
/// # Errors
/// When the machine fails, or something in it.
pub(super) fn run(bench: &Setting, boot: &Boot<'_>) -> Result<Turns> {
    let Boot {
        work,
        arms,
        scale,
        profile,
        packages,
        source,
    } = boot;
    let dir = bench.work_dir()?;
    let job = Job {
        work,
        arms: arms.iter().map(|arm| arm.name()).collect(),
        turns: bench.pairs_in_machine,
        scale: *scale,
        profile: *profile,
    };
    let job_file = dir.path().join("bench.json");
    fs::write(&job_file, serde_json::to_vec(&job).context("describe the work")?)
        .context("write down the work")?;
    let scripts = setup::workspace_root().join("tests/bench");
    let mut files = vec![
        (job_file, "/opt/job/bench.json".to_owned()),
        (scripts.join("works.py"), "/opt/job/works.py".to_owned()),
    ];
    for name in ["recorder", "replayer", "workload"] {
        files.push((bench.bin_dir.join(name), format!("/usr/local/bin/{name}")));
    }
    if let Some(package) = source {
        let tar = debian::download_source(SUITE, package)
            .with_context(|| format!("get the source of Debian's package {package}"))?;
        files.push((tar, "/opt/source.tar".to_owned()));
    }
    let runs = (u64::from(job.turns) + 2) * arms.len() as u64;
    let kept = dir.path().join("kept");
    let mut sink = Loads {
        line: Vec::new(),
        loads: Vec::new(),
    };
    let code = run::measuring(
        Measuring {
            kernel: KERNEL,
            script: scripts.join("record.py"),
            files,
            packages,
            disks: &DISKS_MIB,
            mem: MEM_MIB,
            timeout: BOOT_TIME_MAX_S + ARM_TIME_MAX_S * runs,
            keep: &kept,
        },
        &mut sink,
    )?;
    ensure!(
        code == 0,
        "{work} ended with {code} in the machine: what it says stands above"
    );
    let text = fs::read_to_string(kept.join("results/turns.jsonl")).context("read what was measured")?;
    let told: Result<Vec<Told>, _> = text.lines().map(serde_json::from_str).collect();
    Ok(Turns {
        told: told.context("parse what was measured")?,
        loads: sink.loads.chunks_exact(arms.len()).filter_map(last).collect(),
    })
}

fn last(loads: &[f64]) -> Option<f64> {
    loads.last().copied()
}

/// Passes everything on, and notes the load of the host at the end of each arm.
struct Loads {
    line: Vec<u8>,
    loads: Vec<f64>,
}

impl Sink for Loads {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            if self.line.starts_with(TURN) {
                self.loads.push(arms::load().map_err(io::Error::other)?);
            }
            self.line.clear();
        }
        Through.stdout(bytes)
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        Through.stderr(bytes)
    }
}
